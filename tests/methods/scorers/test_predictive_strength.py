"""Predictive strength against counting pairs, and on texts whose order is known."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ray_app.methods.scorers import Scorer
from ray_app.methods.scorers.perplexity import Perplexity
from ray_app.methods.scorers.predictive_strength import PredictiveStrength
from ray_app.testing.scorers import check_scorer
from tests.causal import tiny_model

RNG = np.random.default_rng(0)
GOOD = [f"the proof of lemma {i} follows from convexity" for i in range(8)]
BAD = [f"cheap offer {i}, buy it now" for i in range(8)]


def batch(*values: object) -> dict[str, np.ndarray]:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return {"text": column}


def counted(*texts: str) -> Perplexity:
    return Perplexity(order=3).fit(batch(*texts))


def models() -> list[Scorer]:
    # The second knows more of what is good and less of what is bad, the third still more and less.
    return [counted(*GOOD[:g], *BAD[:b]) for g, b in ((1, 8), (3, 3), (8, 1))]


def make(**options: object) -> PredictiveStrength:
    return PredictiveStrength(abilities=[0.1, 0.2, 0.4], models=models(), **options)  # type: ignore[arg-type]


def test_strength_counts_pairs() -> None:
    abilities = [0.3, 0.1, 0.5, 0.1, 0.9]
    losses = RNG.integers(4, size=(50, 5)).astype(float)
    expected = []
    for row in losses:
        pairs = [(i, j) for i, j in combinations(range(5), 2) if abilities[i] != abilities[j]]
        right = [
            (abilities[i] > abilities[j] and row[i] < row[j])
            or (abilities[i] < abilities[j] and row[i] > row[j])
            for i, j in pairs
        ]
        expected.append(sum(right) / len(pairs))
    scorer = PredictiveStrength(abilities=abilities)
    np.testing.assert_allclose(scorer.score_losses(losses), expected)
    # Only orders count: nothing changes where one text is harder for all, or the unit is another.
    np.testing.assert_allclose(scorer.score_losses(np.exp(losses) * 3 + 1), expected)
    losses[3, 1] = np.nan
    assert np.isnan(scorer.score_losses(losses)[3])


def test_texts_of_the_ability_are_predictive_and_the_distilled_scorer_agrees() -> None:
    scorer = make()
    strength = scorer.strength(batch(*GOOD, *BAD))
    assert strength[:8].mean() > 0.9
    assert strength[8:].mean() < 0.1
    score = scorer.fit(batch(*GOOD, *BAD)).score(batch("a proof of convexity", "buy now"))
    assert score[0] > 0.5 > score[1]


def test_equally_many_of_both_kinds_are_chosen_whatever_the_order() -> None:
    strength = np.array([1, 1, 0.5, 0, 0.2, 1, np.nan, 0.0])
    texts = [f"text {i}" for i in range(8)]
    wanted, unwanted = make().chosen(strength, texts)
    assert set(wanted) == {0, 1, 5}
    assert set(unwanted) == {3, 4, 7}
    order = RNG.permutation(8)
    again = make().chosen(strength[order], [texts[i] for i in order])
    assert {int(order[row]) for row in again[0]} == {0, 1, 5}
    few = make(examples=2).chosen(strength, texts)
    turned = make(examples=2).chosen(strength[order], [texts[i] for i in order])
    assert [set(rows) for rows in few] == [{int(order[row]) for row in rows} for rows in turned]
    assert [len(rows) for rows in few] == [2, 2]
    with pytest.raises(ValueError, match="0 of 2 rows order all models rightly"):
        make().chosen(np.array([0.9, 0.1]), ["a", "b"])


def test_models_may_be_files(tmp_path: Path) -> None:
    paths = []
    for number, model in enumerate(models()):
        assert isinstance(model, Perplexity)
        paths.append(str(tmp_path / f"{number}.safetensors"))
        save_file(model.state(), paths[-1])
    rows = batch(*GOOD, *BAD)
    read = PredictiveStrength(abilities=[0.1, 0.2, 0.4], models=paths)
    np.testing.assert_array_equal(read.strength(rows), make().strength(rows))
    for trained in (0, 60):
        paths[trained // 60] = str(tiny_model(tmp_path, GOOD, steps=trained))
    networks = PredictiveStrength(abilities=[0.1, 0.2], models=paths[:2]).strength(rows)
    assert networks[:8].mean() > 0.9
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="cannot be read"):
        PredictiveStrength(abilities=[0, 1], models=[str(broken), paths[0]]).strength(rows)


def test_contract() -> None:
    check_scorer(make, batch(*GOOD[:4], *BAD[:4]), batch(3.5))
    assert not make().heavy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"abilities": [1, 1]}, "two of them different"),
        ({"abilities": [1]}, "two of them different"),
        ({"abilities": [0, np.inf]}, "must be finite"),
        ({"abilities": [0, 1], "models": ["a"]}, "1 models, 2 abilities"),
        ({"abilities": [0, 1], "examples": 0}, "examples must be >= 1"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PredictiveStrength(**options)  # type: ignore[arg-type]


def test_what_it_cannot_do_is_one_line() -> None:
    with pytest.raises(ValueError, match="no models to fit with"):
        PredictiveStrength(abilities=[0, 1]).fit(batch("a", "b"))
    with pytest.raises(ValueError, match=r"losses are \[4\]; expected \[n, 2\]"):
        PredictiveStrength(abilities=[0, 1]).score_losses(np.zeros(4))
