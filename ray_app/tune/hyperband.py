"""HyperBand: brackets of successive halving, from many short trials to few long ones.

    rung i: n_i = max(1, floor(n / reduction^i)) trials reach r_i epochs, and the best n_{i+1} of them go on

Rungs and the n of the whole schedule are in spec/rounds.py. With another number of trials each bracket has
its share of them, by largest remainders. Trial 0, the defaults, is in the bracket without early stopping.

Reference: L. Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization", JMLR 2018,
https://arxiv.org/abs/1603.06560
Departure: one pass over the brackets. They run at the same time, as none asks what another found; with
Optuna, each is proposed from what those before it found, so they run one after the other. A trial that failed
before a rung is not replaced.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ray_app.spec.rounds import Rung
from ray_app.spec.tune import Sweep
from ray_app.tune.ledger import Trial
from ray_app.tune.plan import Part, Step, ranked
from ray_app.tune.search import Proposals, trial_name


@dataclass(frozen=True)
class Bracket:
    """Trials that are compared with one another."""

    indices: range
    rungs: Sequence[Rung]

    @property
    def names(self) -> list[str]:
        """Of its trials, in order."""
        return [trial_name(index) for index in self.indices]

    @property
    def epochs(self) -> int:
        """Of all its trials together, if none fails."""
        reached = [0, *(rung.epochs for rung in self.rungs)]
        return sum(rung.trials * (rung.epochs - reached[i]) for i, rung in enumerate(self.rungs))


class HyperBand:
    """The plan of a sweep.

    Args:
        sweep: With `scheduler: hyperband`.
        sign: -1 where the metric is better lower.
    """

    def __init__(self, sweep: Sweep, sign: float) -> None:
        self._sweep, self._sign = sweep, sign
        self._brackets = brackets(sweep)
        self.epochs = sum(bracket.epochs for bracket in self._brackets)
        self._drawn: list[Trial] = []

    def step(self, trials: Mapping[str, Trial]) -> Step:
        """Return what is due in each bracket that has begun, or can."""
        begin: list[Trial] = []
        stop: list[str] = []
        train: list[Part] = []
        for place, bracket in enumerate(self._brackets):
            names = bracket.names
            if all(name in trials for name in names):
                ends, parts = halve(bracket, trials, self._sweep.metric, self._sign)
                stop += ends
                train += parts
            else:
                before = [name for earlier in self._brackets[:place] for name in earlier.names]
                if self._sweep.search == "optuna" and any(
                    name not in trials or trials[name].status == "running" for name in before
                ):
                    break
                begin += [
                    trial
                    for trial in self._propose(place, [trials[name] for name in before if name in trials])
                    if trial.name not in trials
                ]
        return Step(begin=begin, stop=stop, train=train)

    def _propose(self, place: int, before: list[Trial]) -> Iterator[Trial]:
        """Yield a bracket's trials; Optuna knows what those before it found, and nothing else."""
        sweep, indices = self._sweep, self._brackets[place].indices
        if sweep.search == "optuna":
            # A sampler of its own, or two brackets that know nothing yet would be the same.
            seed = int(np.random.SeedSequence([sweep.seed, place]).generate_state(1)[0])
            known = [trial for trial in before if math.isfinite(trial.last(sweep.metric))]
            proposals = Proposals(sweep.model_copy(update={"seed": seed}), known)
            yield from (Trial(trial_name(index), proposals.config(index)) for index in indices)
            return
        if not self._drawn:
            proposals = Proposals(sweep, [])
            self._drawn = [Trial(trial_name(index), proposals.config(index)) for index in range(sweep.runs)]
        yield from (self._drawn[index] for index in indices)


def brackets(sweep: Sweep) -> list[Bracket]:
    """Return a sweep's brackets: trial 0 by itself, then from the one that stops earliest."""
    whole = sweep.brackets()
    sizes = spread(sweep.runs, [rungs[0].trials for rungs in whole])
    # Without early stopping nobody is compared, so trial 0 needs not wait for others.
    made = [Bracket(range(1), [Rung(1, sweep.train.epochs)])]
    sizes[-1] -= 1
    first = 1
    for size, rungs in zip(sizes, whole, strict=True):
        if size:
            left = [max(1, size // sweep.scheduler.reduction**i) for i in range(len(rungs))]
            if len(rungs) == 1:
                left = [size]
            made.append(
                Bracket(
                    range(first, first + size),
                    [Rung(n, rung.epochs) for n, rung in zip(left, rungs, strict=True)],
                )
            )
        first += size
    return made


def spread(trials: int, sizes: Sequence[int]) -> list[int]:
    """Return so many trials shared out in proportion to sizes; the last has one at least."""
    shares = [trials * size // sum(sizes) for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(trials * sizes[i] % sum(sizes)), i))
    for i in by_remainder[: trials - sum(shares)]:
        shares[i] += 1
    if not shares[-1]:
        shares[shares.index(max(shares))] -= 1
        shares[-1] = 1
    return shares


def halve(
    bracket: Bracket, trials: Mapping[str, Trial], metric: str, sign: float
) -> tuple[list[str], list[Part]]:
    """Return who is to end, and who is to be trained up to where.

    Each rung is decided anew from the values at its epoch, which later epochs do not change.
    """
    alive = bracket.names
    parts: list[Part] = []
    for place, rung in enumerate(bracket.rungs):
        last = place == len(bracket.rungs) - 1
        parts = [
            Part(name, None if last else rung.epochs)
            for name in alive
            if trials[name].status == "running" and (last or len(trials[name].curve) < rung.epochs)
        ]
        if parts or last:
            break
        alive = ranked(trials, alive, metric, sign, rung.epochs)[: bracket.rungs[place + 1].trials]
    stop = [name for name in bracket.names if name not in alive and trials[name].status == "running"]
    return stop, parts
