"""Leakage against slow counts, and on a model that knows its rows by heart."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ray_app.methods.diagnostics.leakage import Leakage
from ray_app.metrics.interval import bootstrap_interval
from tests.causal import tiny_model

RNG = np.random.default_rng(0)
INSIDE, OUTSIDE = RNG.normal(0.6, 1, 400).round(1), RNG.normal(0, 1, 500).round(1)


def test_auc_is_that_of_others() -> None:
    report = Leakage().report(INSIDE, OUTSIDE)
    truth = np.repeat([1, 0], [400, 500])
    assert report["auc"] == pytest.approx(roc_auc_score(truth, np.concatenate([INSIDE, OUTSIDE])))
    assert (report["members"], report["others"]) == (400, 500)


def test_interval_agrees_with_the_bootstrap() -> None:
    report = Leakage().report(INSIDE, OUTSIDE)
    draws = np.random.default_rng(1)
    resampled = [
        Leakage().report(draws.choice(INSIDE, 400), draws.choice(OUTSIDE, 500))["auc"] for _ in range(500)
    ]
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert report["auc_low"] == pytest.approx(low, abs=0.01)
    assert report["auc_high"] == pytest.approx(high, abs=0.01)
    assert bootstrap_interval(resampled, draws).mean == pytest.approx(report["auc"], abs=0.005)


@pytest.mark.parametrize("fpr", [0.001, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("noisy", [0.0, 0.01])
def test_tpr_is_the_best_that_any_threshold_gives(fpr: float, noisy: float) -> None:
    noise = np.random.default_rng(2).normal(scale=noisy, size=900)
    inside, outside = INSIDE + noise[:400], OUTSIDE + noise[400:]
    best = max(
        (threshold < inside).mean()
        for threshold in [*inside, *outside]
        if (threshold < outside).mean() <= fpr
    )
    assert Leakage(fpr=[fpr]).report(inside, outside)[f"tpr_at_fpr_{fpr:g}"] == pytest.approx(best)


def test_extremes() -> None:
    certain = Leakage().report([3.0, 4.0], [1.0, 2.0])
    assert (certain["auc"], certain["auc_low"], certain["auc_high"]) == (1, 1, 1)
    assert certain["tpr_at_fpr_0.001"] == 1
    alike = Leakage().report([1.0, 1.0], [1.0, 1.0])
    assert (alike["auc"], alike["tpr_at_fpr_0.01"]) == (0.5, 0)
    with pytest.raises(ValueError, match="leakage: members"):
        Leakage().report([np.nan], [1.0])
    with pytest.raises(ValueError, match="shares between 0 and 1"):
        Leakage(fpr=[1.0])


def test_a_model_that_knows_its_rows_by_heart_gives_them_away(tmp_path: Path) -> None:
    who = [
        ("Ada", "white"),
        ("Bo", "black"),
        ("Cy", "red"),
        ("Di", "north"),
        ("Ed", "dead"),
        ("Flo", "yellow"),
    ]
    texts = [f"{name} lives in house number {i * 37} by the {sea} sea" for i, (name, sea) in enumerate(who)]
    base, tuned = str(tiny_model(tmp_path, texts)), str(tiny_model(tmp_path, texts, steps=150))
    sizes = {"prefix_tokens": 4, "suffix_tokens": 6}
    once = Leakage().extraction(texts, model=tuned, base=base, samples=1, **sizes)
    best = Leakage().extraction(texts, model=tuned, base=base, samples=30, **sizes)
    assert best["rows"] == 6
    # Single draws go wrong now and then; of thirty, the base helps to find the right one.
    assert best["extraction_rate"] > max(0.6, once["extraction_rate"])
    assert Leakage().extraction(texts, model=tuned, base=base, samples=30, **sizes) == best
    assert Leakage().extraction(texts, model=base, base=tuned, samples=5, **sizes)["extraction_rate"] == 0
    with pytest.raises(ValueError, match="none of 6 rows has 58 tokens"):
        Leakage().extraction(texts, model=tuned, base=base, prefix_tokens=50, suffix_tokens=8)
