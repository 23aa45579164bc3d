"""A row's own density, by hand."""

import numpy as np
import pytest

from ray_app.errors import SpecError
from ray_app.methods.scorers.feature_density import FeatureDensity
from ray_app.registry import build
from ray_app.testing.scorers import check_scorer


def rows(*texts: object) -> dict[str, np.ndarray]:
    column = np.empty(len(texts), dtype=object)
    column[:] = texts
    return {"text": column, "row_id": np.array([str(i) for i in range(len(texts))], dtype=object)}


def test_repetition_lowers_it() -> None:
    got = FeatureDensity().score(rows("a b c d", "a a a a", "A b a B", ""))
    assert got == pytest.approx([1, 0.25, 0.5, np.nan], nan_ok=True)


def test_only_the_first_features_count() -> None:
    text = "a b c a b c"
    assert FeatureDensity(first=3).score(rows(text))[0] == 1
    assert FeatureDensity(first=None).score(rows(text))[0] == 0.5
    assert FeatureDensity(n=2).score(rows(text))[0] == pytest.approx(3 / 5)
    with pytest.raises(SpecError, match="first must be >= 1 features, got 0"):
        build("scorers", "feature_density", {"first": 0})


def test_contract() -> None:
    check_scorer(FeatureDensity, rows("a b", "a a", "x y z x", "one"), rows(None))
