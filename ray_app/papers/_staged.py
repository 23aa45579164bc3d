"""Staged search: one factor after the other, the best value of each kept; trials are a sum, no product."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class StagedSearch:
    """A search that can stop after any trial and go on from what it found."""

    stages: Sequence[Mapping[str, Sequence[Any]]]
    """Factors in the order in which they are tuned, each with its values; the first value is the start."""
    done: dict[tuple[Any, ...], float] = field(default_factory=dict)
    """Setting → score, in the order of `factors`; given: a search that goes on."""

    @property
    def factors(self) -> list[str]:
        """The factors' names."""
        return [name for stage in self.stages for name in stage]

    def run(self, evaluate: Callable[[Mapping[str, Any]], float]) -> tuple[dict[str, Any], float]:
        """Return the best setting and its score, higher being better.

        Args:
            evaluate: A setting to its score; not called for settings that are done.
        """
        best = {name: values[0] for stage in self.stages for name, values in stage.items()}
        for trials in self._stages(best):
            scores = [self._score(trial, evaluate) for trial in trials]
            best.update(trials[max(range(len(trials)), key=scores.__getitem__)])
        return best, self._score(best, evaluate)

    def _stages(self, best: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
        """Each factor's trials; `best` is what was found by the time they are asked for."""
        for stage in self.stages:
            for name, values in stage.items():
                yield [{**best, name: value} for value in values]

    def _score(self, setting: Mapping[str, Any], evaluate: Callable[[Mapping[str, Any]], float]) -> float:
        key = tuple(setting[name] for name in self.factors)
        if key not in self.done:
            self.done[key] = evaluate(setting)
        return self.done[key]
