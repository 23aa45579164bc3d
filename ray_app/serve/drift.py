"""Whether what is served still looks like what thresholds were calibrated on: the latest scores, compared."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ray_app.bundle import Manifest
from ray_app.metrics.drift import drift
from ray_app.spec.serve import DriftWatch


@dataclass(frozen=True)
class Seen:
    """How one detector's latest scores compare."""

    rows: int
    """Scores in the window; fewer than the spec's `least` are not compared."""
    psi: float | None = None
    ks: float | None = None
    p_value: float | None = None
    drifted: bool | None = None


class Monitor:
    """The latest scores of each calibrated detector.

    Args:
        manifest: Has the calibrated scores' quantiles.
        watch: How many scores, and how much is too much.
        tell: Gets each detector's comparison now and then, for metrics.
    """

    def __init__(
        self,
        manifest: Manifest,
        watch: DriftWatch,
        tell: Callable[[str, Seen], None] = lambda name, seen: None,
    ) -> None:
        self._watch, self._tell = watch, tell
        self._known = {
            name: part.threshold for name, part in manifest.detectors.items() if part.threshold is not None
        }
        self._scores = {name: deque[float](maxlen=watch.window) for name in self._known}
        self._since = dict.fromkeys(self._known, 0)

    def add(self, scores: Mapping[str, np.ndarray]) -> None:
        """Take note of a request's scores [n]; what is no finite number is left out."""
        for name, window in self._scores.items():
            if name not in scores:
                continue
            finite = [float(score) for score in scores[name] if np.isfinite(score)]
            window.extend(finite)
            self._since[name] += len(finite)
            # Sorting a window takes a while; a tenth of it changes little.
            if self._since[name] >= max(1, self._watch.window // 10):
                self._since[name] = 0
                self._tell(name, self._seen(name))

    def report(self) -> dict[str, Seen]:
        """Return each detector's comparison."""
        return {name: self._seen(name) for name in self._known}

    def _seen(self, name: str) -> Seen:
        window, known = self._scores[name], self._known[name]
        if len(window) < self._watch.least:
            return Seen(len(window))
        found = drift(np.array(window), known.quantiles, known.rows)
        # Both: in a long window any difference is beyond chance, and in a short one a large index is chance.
        drifted = found.psi >= self._watch.psi and found.p_value < self._watch.p_value
        return Seen(len(window), found.psi, found.ks, found.p_value, drifted)
