"""What is measured of a finished run's weights: against the network itself, and only once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ray_app.data.dataset import open_dataset
from ray_app.methods.combiners import Candidate
from ray_app.spec.tune import Report, TuneSpec
from ray_app.tune import geometry, landscape
from ray_app.tune.combine import Result
from ray_app.tune.geometry import CHECK, DISTANCES, PLANE, Asked, drawn, measured, sampled, soup_of
from ray_app.tune.ledger import Ledger
from ray_app.tune.run import TuneRun, read_rows
from ray_app.tune.start import build_model
from ray_app.tune.store import read_state
from ray_app.tune.training import Rows, logits_of, recalibrate


@pytest.fixture(scope="module")
def rows(made: TuneRun) -> tuple[Rows, Rows]:
    data = open_dataset(made.spec.dataset)
    training, validation = (
        read_rows(made.spec.model, data, split, None, 120) for split in ("train", "validation")
    )
    return training, validation


@pytest.fixture(scope="module")
def few(rows: tuple[Rows, Rows], made: TuneRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of the shared run, in this process, on a grid of nine."""
    folder = tmp_path_factory.mktemp("few")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(landscape.grid, "__defaults__", (3, 0.3))
        measured(asked(made, folder), *rows)
    return folder


def asked(made: TuneRun, folder: Path, spec: TuneSpec | None = None) -> Asked:
    if not (folder / "trials").exists():
        (folder / "trials").symlink_to(made.folder / "trials")
    spec = spec or made.spec.model_copy(update={"report": Report(plane=True)})
    soups = [(one.name, one.files[0]) for one in made.results if one.name == "greedy_soup"]
    return Asked(spec, 10, folder, made.start, soups, "greedy_soup")


def loss_of(made: TuneRun, path: Path, rows: Rows, fitting: Rows | None = None) -> float:
    encoder = build_model(made.spec.model, 10)
    encoder.load_state_dict(read_state(path))
    if fitting is not None:
        recalibrate(encoder, fitting)
    return torch.nn.functional.cross_entropy(logits_of(encoder, rows).double(), rows.labels).item()


def test_the_points_have_the_losses_of_start_candidates_and_soup(
    made: TuneRun, few: Path, rows: tuple[Rows, Rows]
) -> None:
    training, validation = rows
    points = {row["name"]: row for row in pq.read_table(few / PLANE).to_pylist() if row["kind"] != "grid"}
    best = [one.name for one in Ledger(made.folder / "trials").candidates("accuracy", 1.0)][:2]
    assert list(points) == ["start", *best, "greedy_soup"]
    weights = {name: Ledger(made.folder / "trials").weights(name) for name in best}
    for name, path in {"start": made.start.path, **weights}.items():
        # With its own statistics, and with those that fit the rows, as all over the plane.
        assert points[name]["own_loss"] == pytest.approx(loss_of(made, path, validation), rel=1e-6, abs=1e-5)
        fitted = loss_of(made, path, validation, training)
        assert points[name]["loss"] == pytest.approx(fitted, rel=1e-4, abs=1e-5)
        assert points[name]["off"] == pytest.approx(0, abs=1e-3)
    soup = made.folder / "combined" / "greedy_soup" / "member-0.safetensors"
    assert points["greedy_soup"]["own_loss"] == pytest.approx(loss_of(made, soup, validation), rel=1e-5)
    cells = [row for row in pq.read_table(few / PLANE).to_pylist() if row["kind"] == "grid"]
    assert len(cells) == 9
    assert all(np.isfinite(row["loss"]) for row in cells)


def test_distances_are_those_of_a_naive_loop(made: TuneRun, few: Path) -> None:
    table = pq.read_table(few / DISTANCES).to_pylist()
    found = {(row["first"], row["second"]): row["distance"] for row in table}
    encoder = build_model(made.spec.model, 10)
    paths = {
        "start": made.start.path,
        **{t: Ledger(made.folder / "trials").weights(t) for t in ("00000", "00002")},
    }
    states = {name: read_state(path) for name, path in paths.items()}
    for (first, a), (second, b) in [(x, y) for x in states.items() for y in states.items()]:
        expected = sum(
            float((a[n].double() - b[n].double()).square().sum()) for n, _ in encoder.named_parameters()
        )
        assert found[first, second] == pytest.approx(expected**0.5, rel=1e-6, abs=1e-6)
    assert len(table) == 5**2


def test_soups_are_checked_against_ensembles_by_pairs(
    made: TuneRun, few: Path, rows: tuple[Rows, Rows]
) -> None:
    table = pq.read_table(few / CHECK).to_pylist()
    names = [one.name for one in Ledger(made.folder / "trials").candidates("accuracy", 1.0)]
    assert [(row["first"], row["second"]) for row in table] == [
        (names[0], names[1]),
        (names[0], names[2]),
        (names[1], names[2]),
    ]
    training, validation = rows
    pair = [read_state(Ledger(made.folder / "trials").weights(name)) for name in names[:2]]
    encoder, logits = build_model(made.spec.model, 10), []
    for state in pair:
        encoder.load_state_dict(state)
        logits.append(logits_of(encoder, validation))
    encoder.load_state_dict(
        {n: (pair[0][n] + pair[1][n]) / 2 if pair[0][n].is_floating_point() else t for n, t in state.items()}
    )
    recalibrate(encoder, training)
    loss = torch.nn.functional.cross_entropy
    gap = loss(logits_of(encoder, validation), validation.labels) - loss(
        (logits[0] + logits[1]) / 2, validation.labels
    )
    assert table[0]["measured"] == pytest.approx(gap.item(), rel=1e-3, abs=1e-4)
    assert table[0]["predicted"] == pytest.approx(table[0]["curvature"] + table[0]["variance"])


def test_what_is_there_is_not_measured_again_and_other_rows_are(
    made: TuneRun, few: Path, rows: tuple[Rows, Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    before = {name: (few / name).read_bytes() for name in (DISTANCES, PLANE, CHECK)}
    for function in ("products", "loss_at"):
        monkeypatch.setattr(landscape, function, never)
    measured(asked(made, few), *rows)
    assert {name: (few / name).read_bytes() for name in before} == before
    monkeypatch.setattr(geometry, "CHECKED", 0)
    with pytest.raises(AssertionError, match="measured again"):
        measured(asked(made, few), rows[0], rows[1][:50])
    # What was measured of other rows is gone: nobody takes it for the new.
    assert not (few / PLANE).exists()
    for name, content in before.items():
        (few / name).write_bytes(content)


def test_the_plane_can_be_switched_off(
    made: TuneRun, rows: tuple[Rows, Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geometry, "CHECKED", 1)
    measured(asked(made, tmp_path, made.spec.model_copy(update={"report": Report(plane=False)})), *rows)
    assert (tmp_path / DISTANCES).exists()
    assert not (tmp_path / PLANE).exists()


def test_one_candidate_has_no_plane_and_no_pairs(
    made: TuneRun, rows: tuple[Rows, Rows], tmp_path: Path
) -> None:
    trial = tmp_path / "trials" / "00000"
    trial.parent.mkdir()
    trial.symlink_to(made.folder / "trials" / "00000")
    measured(replace(asked(made, tmp_path), combined=[], soup=None), *rows)
    for name, note in ((PLANE, "no two candidates"), (CHECK, "one candidate")):
        table = pq.read_table(tmp_path / name)
        assert table.num_rows == 0
        assert note in table.schema.metadata[b"note"].decode()
    assert pq.read_table(tmp_path / DISTANCES).num_rows == 4


def test_many_candidates_are_sampled_from_the_best_to_the_worst() -> None:
    candidates = [Candidate(f"{i}", -i, dict) for i in range(100)]
    found = [int(one.name) for one in sampled(candidates, 16)]
    assert len(set(found)) == 16
    assert (found[0], found[-1]) == (0, 99)
    assert set(np.diff(found)) <= {6, 7}
    assert sampled(candidates[:16], 16) == candidates[:16]


def test_rows_are_drawn_by_chance_and_always_the_same() -> None:
    rows = Rows(torch.arange(1000)[:, None], torch.arange(1000) // 500)
    first, again = drawn(rows, 100), drawn(rows, 100)
    assert torch.equal(first.inputs, again.inputs)  # type: ignore[arg-type]
    assert len(first) == len(set(first.inputs.flatten().tolist())) == 100  # type: ignore[union-attr]
    assert 0.3 < first.labels.float().mean() < 0.7
    assert drawn(rows, 1000) is rows


def test_the_plane_shows_the_exported_soup_else_the_best() -> None:
    def result(name: str, value: float, ingredients: int, files: int = 1) -> Result:
        return Result(name, [Path()] * files, ["x"] * ingredients, value, 0.0, 0.0, [])

    every = [
        result("single", 0.9, 1),
        result("a", 0.7, 2),
        result("b", 0.8, 3),
        result("ensemble", 0.95, 4, 4),
    ]
    assert soup_of(every, every[3]) is every[2]
    assert soup_of(every, every[1]) is every[1]
    assert soup_of(every[:1], every[0]) is None
