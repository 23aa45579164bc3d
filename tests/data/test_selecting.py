"""Selectors over many files choose what they choose in memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.data import cutoff
from ray_app.data.arrow import concat, objects, to_table
from ray_app.data.build import build
from ray_app.data.dataset import open_dataset
from ray_app.data.learned import build_selector
from ray_app.data.selected import Each, Here, Part, view_of
from ray_app.data.selecting import select
from ray_app.errors import DataError, SpecError
from ray_app.spec import Method
from ray_app.storage import Place
from tests.data.rows import ENCODER, digits, spec, table

WORDS = list("abcdefgh")
STEPS: list[dict[str, Any]] = [
    {"name": "top_fraction", "by": "score_x", "fraction": 0.3},
    {"name": "top_fraction", "by": "score_x", "fraction": 0.2, "weight": "chars", "order": "ascending"},
    {"name": "top_fraction", "by": "score_x", "budget": 0},
    {"name": "stratified", "fraction": 0.25, "shares": "equal", "by": "score_x"},
    {"name": "stratified", "fraction": 0.25},
    {"name": "threshold", "by": "score_x", "at_least": 0.5},
    {"name": "exact_duplicates", "by": "score_x"},
    {"name": "exact_duplicates", "column": None},
    {"name": "near_duplicates", "threshold": 0.9, "ngram": 1, "permutations": 32},
    {"name": "semantic_duplicates", "threshold": 0.9999, "clusters": 7},
    {"name": "k_center", "budget": 20},
    {"name": "query_margin", "budget": 30},
]


def pool(folder: Path, sizes: list[int], seed: int) -> tuple[list[Part], dict[str, np.ndarray]]:
    """Files of random rows, many of them equal, and all rows at once."""
    rng = np.random.default_rng(seed)
    parts, batches = [], []
    for unit, n in enumerate(sizes):
        batch = {
            "row_id": objects([f"f#{unit}/{i}" for i in range(n)]),
            "label": rng.integers(0, 3, n),
            "score_x": np.where(rng.random(n) < 0.05, np.nan, np.round(rng.normal(size=n), 1)),
            "text": objects([" ".join(rng.choice(WORDS, 4)) for _ in range(n)]),
            "embedding": rng.normal(size=(n, 2)).astype(np.float32),
            "logits": rng.normal(size=(n, 3)).astype(np.float32),
        }
        pq.write_table(to_table(batch), folder / f"{unit:03}.parquet")
        batches.append(batch)
        parts.append(Part.whole(f"{unit:03}", Place.of(folder / f"{unit:03}.parquet"), n))
    return parts, concat(batches)


def in_memory(batch: dict[str, np.ndarray], step: dict[str, Any]) -> set[str]:
    selector, rng = build_selector(Method.model_validate(step)), np.random.default_rng(0)
    view = view_of(batch, selector)
    if hasattr(selector, "fit"):
        selector.fit(view, rng)
    budget = selector.budget(len(view), float(view.spending().sum()))
    return set(batch["row_id"][selector.select(view, budget, rng).indices].tolist())


def chosen(parts: list[Part]) -> list[str]:
    return [row for part in parts for row in part.read([])["row_id"].tolist()]


def ran(parts: list[Part], step: dict[str, Any], each: Each, **more: Any) -> list[str]:
    given = {"seed": 0, "pool_rows": 10**6, **more}
    kept, told = select(parts, Method.model_validate(step), each=each, where="pool", **given)
    rows = chosen(kept)
    assert told.rows_after == len(rows) == len(set(rows))
    return rows


@pytest.mark.parametrize("step", STEPS, ids=lambda step: "-".join(str(value) for value in step.values()))
@pytest.mark.parametrize("few", [cutoff._SORTED, 3], ids=["sorted", "digits"])
def test_files_and_memory_choose_alike(
    tmp_path: Path, step: dict[str, Any], few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutoff, "_SORTED", few)
    parts, whole = pool(
        tmp_path, [40, 1, 70, 25, 33, 60, 2, 90, 11, 44, 50, 7, 8, 9, 10, 31, 3, 20, 21], seed=1
    )
    assert set(ran(parts, step, Here())) == in_memory(whole, step)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=20),
    seed=st.integers(0, 1000),
    fraction=st.floats(0, 1),
    order=st.sampled_from(["ascending", "descending"]),
    weight=st.sampled_from([None, "chars", "label"]),
)
def test_any_pool_and_budget_choose_alike(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    seed: int,
    fraction: float,
    order: str,
    weight: str | None,
) -> None:
    parts, whole = pool(tmp_path_factory.mktemp("pool"), sizes, seed)
    step = {"name": "top_fraction", "by": "score_x", "fraction": fraction, "order": order, "weight": weight}
    assert set(ran(parts, step, Here())) == in_memory(whole, step)


def test_one_selector_sees_what_the_one_before_it_left(tmp_path: Path) -> None:
    parts, whole = pool(tmp_path, [50, 60, 70], seed=2)
    first, _ = select(
        parts, Method.model_validate(STEPS[6]), seed=0, pool_rows=1000, each=Here(), where="pool"
    )
    left = np.isin(whole["row_id"], chosen(first))
    rest = {name: column[left] for name, column in whole.items()}
    assert set(ran(first, STEPS[0], Here())) == in_memory(rest, STEPS[0])


def test_a_pool_that_is_too_large_is_sampled_by_hash(tmp_path: Path) -> None:
    parts, _ = pool(tmp_path, [50] * 10, seed=3)
    few = ran(parts, {"name": "k_center", "fraction": 1.0}, Here(), pool_rows=40)
    assert len(few) == 40
    assert set(few) < set(ran(parts, {"name": "k_center", "fraction": 1.0}, Here(), pool_rows=200))


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("step", [STEPS[3], STEPS[8], STEPS[10]], ids=lambda step: str(step["name"]))
def test_tasks_on_ray_choose_as_this_process_does(tmp_path: Path, step: dict[str, Any]) -> None:
    from ray_app.data.on_ray import cluster

    parts, _ = pool(tmp_path, [40, 1, 70, 25, 33] * 5, seed=4)
    with cluster(None) as each:
        assert ran(parts, step, each) == ran(parts, step, Here())


def test_a_build_writes_only_what_was_chosen_and_says_so(tmp_path: Path) -> None:
    wanted = digits(
        scorers=["sharpness"],
        selectors=[
            {"name": "top_fraction", "by": "score_sharpness", "fraction": 0.5},
            {"name": "stratified", "column": "label", "budget": 50, "shares": "equal"},
        ],
        unit_rows=300,
        compute={"executor": "local"},
    )
    result = build(wanted, tmp_path / "out")
    assert [(one.rows_before, one.rows_after) for one in result.chosen] == [(1797, 898), (898, 50)]
    built, everything = open_dataset(tmp_path / "out").read(), build_all(tmp_path)
    first = in_memory(everything, {"name": "top_fraction", "by": "score_sharpness", "fraction": 0.5})
    left = np.isin(everything["row_id"], list(first))
    rest = {name: column[left] for name, column in everything.items()}
    second = in_memory(rest, {"name": "stratified", "column": "label", "budget": 50, "shares": "equal"})
    assert set(built["row_id"]) == second
    assert not (tmp_path / "out" / "scored").exists()
    assert build(wanted, tmp_path / "out").rows == 50


def build_all(tmp_path: Path) -> dict[str, np.ndarray]:
    build(digits(scorers=["sharpness"], compute={"executor": "local"}), tmp_path / "all")
    return open_dataset(tmp_path / "all").read()


def test_a_build_killed_while_it_chose_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray_app.data import ledger

    wanted = digits(
        scorers=["sharpness"],
        selectors=[{"name": "top_fraction", "by": "score_sharpness", "fraction": 0.1}],
        keep=["image"],
        unit_rows=100,
        compute={"executor": "local"},
    )
    written = []
    original = ledger.Ledger.rewrite

    def stops(self: Any, unit: str, *rest: Any) -> None:
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(unit)
        original(self, unit, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ledger.Ledger, "rewrite", stops)
        with pytest.raises(KeyboardInterrupt):
            build(wanted, tmp_path / "out")
    result = build(wanted, tmp_path / "out")
    assert (result.rows, result.resumed) == (179, 18)
    build(wanted, tmp_path / "again")
    for one, other in zip(*(sorted_rows(tmp_path / name) for name in ("out", "again")), strict=True):
        assert one == other


def sorted_rows(folder: Path) -> list[str]:
    return sorted(open_dataset(folder).read()["row_id"].tolist())


def test_embeddings_are_there_for_selectors_also_when_nobody_keeps_their_inputs(tmp_path: Path) -> None:
    wanted = digits(
        encoder=ENCODER,
        classes=[0, 1],
        selectors=[{"name": "k_center", "budget": 12}],
        keep=[],
        compute={"executor": "local"},
    )
    assert build(wanted, tmp_path / "out").rows == 12
    assert set(open_dataset(tmp_path / "out").read()) == {"row_id", "label", "embedding"}


@pytest.mark.parametrize(
    ("selectors", "message"),
    [
        ([{"name": "top_fraction", "by": "score_none", "fraction": 0.5}], "no column 'score_none'"),
        ([{"name": "k_center", "budget": 3}], "'embedding'.*made by `encoder`"),
        ([{"name": "query_margin", "budget": 3}], "'logits'.*made by `logits: true`"),
        ([{"name": "query_bald", "budget": 3}], "needs proba_mc of the rows, which no build has"),
        ([{"name": "preprocessing_window"}], "chooses among sources"),
        ([{"name": "lasso_sources", "target": "a", "budget": 3}], "no column 'source'"),
    ],
)
def test_a_selector_that_cannot_work_is_refused_before_anything_starts(
    tmp_path: Path, selectors: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises((SpecError, DataError), match=message) as caught:
        build(digits(selectors=selectors, compute={"executor": "local"}), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_selectors_that_leave_nothing_say_so(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", rows=12)
    wanted = spec(
        source={"name": "parquet", "path": str(path)},
        selectors=[{"name": "threshold", "by": "value", "at_least": 99}],
        compute={"executor": "local"},
    )
    with pytest.raises(DataError, match="selectors/threshold left no row"):
        build(wanted, tmp_path / "out")


def test_sources_share_a_budget_by_what_they_have_in_common_with_a_target(tmp_path: Path) -> None:
    """Through files and passes, as in memory: digits, of which a class is a source."""
    wanted = digits(
        encoder=ENCODER,
        classes=[0, 1, 2, 3],
        unit_rows=100,
        selectors=[
            {"name": "lasso_sources", "column": "label", "target": "2", "budget": 260, "floor": 10, "rank": 2}
        ],
        keep=[],
        compute={"executor": "local"},
    )
    built = build(wanted, tmp_path / "out")
    rows = open_dataset(tmp_path / "out").read()
    assert built.rows == 260
    counts = dict(zip(*map(np.ndarray.tolist, np.unique(rows["label"], return_counts=True)), strict=True))
    assert counts[2] == 177
    assert min(counts.values()) >= 10
