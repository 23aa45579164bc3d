"""The monitor of served scores: what is normal does not drift, what is not does, and the page says so."""

import numpy as np
import pytest

from ray_app.bundle import Bundle
from ray_app.errors import SpecError
from ray_app.serve.drift import Monitor, Seen
from ray_app.spec import parse
from ray_app.spec.serve import DriftWatch, ServeSpec
from tests.bundles import digits
from tests.serve.local import local


def calibrated(bundle: Bundle) -> dict[str, np.ndarray]:
    """Scores as they were when thresholds were set, drawn anew from their quantiles."""
    rng = np.random.default_rng(0)
    found = {}
    for name, part in bundle.manifest.detectors.items():
        if part.threshold is not None:
            known = part.threshold.quantiles
            found[name] = np.interp(rng.random(200), np.linspace(0, 1, len(known)), known)
    assert found
    return found


def test_scores_like_the_calibrated_ones_do_not_drift_and_others_do(one: Bundle) -> None:
    monitor = Monitor(one.manifest, DriftWatch(window=200, least=50))
    normal = calibrated(one)
    assert monitor.report() == dict.fromkeys(normal, Seen(0))
    monitor.add(normal)
    for name, seen in monitor.report().items():
        assert seen.rows == 200, name
        assert seen.drifted is False
    highest = {name: part.threshold.quantiles[-1] for name, part in one.manifest.detectors.items()}
    monitor.add({name: np.full(150, value + 1) for name, value in highest.items()})
    for seen in monitor.report().values():
        # The window holds the latest alone.
        assert seen.rows == 200
        assert seen.drifted is True
        assert seen.psi > 1
        assert seen.p_value < 1e-6


def test_few_scores_are_not_compared_and_what_is_no_number_is_left_out(one: Bundle) -> None:
    monitor = Monitor(one.manifest, DriftWatch(window=100, least=20))
    name, scores = next(iter(calibrated(one).items()))
    monitor.add({name: np.concatenate([scores[:19], [np.nan, np.inf]]), "of nobody": scores})
    assert monitor.report()[name] == Seen(19)
    monitor.add({name: scores[19:20]})
    assert monitor.report()[name].psi is not None


def test_it_tells_now_and_then(one: Bundle) -> None:
    told: list[tuple[str, int]] = []
    monitor = Monitor(
        one.manifest,
        DriftWatch(window=100, least=10),
        lambda name, seen: told.append((name, seen.rows)),
    )
    name, scores = next(iter(calibrated(one).items()))
    for score in scores[:25]:
        monitor.add({name: np.array([score])})
    assert told == [(name, 10), (name, 20)]


def test_over_http_answers_are_counted_and_compared(one: Bundle) -> None:
    images, _ = digits(40)
    inverted = [(255 - image[..., 0].astype(int)).tolist() for image in images]
    with local(one, drift={"window": 40, "least": 20}) as app:
        assert app.predict(inverted[:10]).status_code == 200
        before = app.get("/v1/drift").json()
        assert {seen["rows"] for seen in before["detectors"].values()} == {10}
        assert {seen["drifted"] for seen in before["detectors"].values()} == {None}
        assert app.predict(inverted, path="/v1/detect").status_code == 200
        after = app.get("/v1/drift").json()
        assert {seen["rows"] for seen in after["detectors"].values()} == {40}
        assert any(seen["drifted"] for seen in after["detectors"].values())
        assert after["bundle"]["version"] == one.version
        assert "/v1/drift" in app.get("/openapi.json").json()["paths"]


def test_a_window_that_nothing_fills_is_refused() -> None:
    with pytest.raises(SpecError, match="least 200 exceeds window 100"):
        parse({"bundle": "b", "drift": {"window": 100, "least": 200}}, ServeSpec, "args")
