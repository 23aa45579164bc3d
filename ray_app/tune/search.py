"""What the next trial is: Optuna draws, Ray Tune asks, and what an earlier run did is told first."""

import time
import warnings
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from ray_app.spec.space import combinations, draw, encoded
from ray_app.spec.tune import Sweep
from ray_app.tune.ledger import Trial

if TYPE_CHECKING:
    import optuna


class Proposals:
    """The sequence of a sweep's configurations.

    Trial 0 is the spec's defaults. With several seeds, each configuration is repeated with the next ones, one
    trial after the other. Random draws depend on the seed and their place alone, so a resumed sweep draws the
    same; TPE draws depend on what is finished, so it is told the finished trials first.

    Args:
        sweep: The space, the kind of search, the seed.
        known: Trials of an earlier run, in any state.
    """

    def __init__(self, sweep: Sweep, known: list[Trial]) -> None:
        self.sweep = sweep
        self._known = {trial.name: trial for trial in known}
        self._study = _study(sweep)
        self._drawn: dict[int, dict[str, Any]] = {0: {}}
        self._asked: dict[str, optuna.Trial] = {}
        if sweep.search == "grid":
            self._drawn.update(enumerate(islice(combinations(sweep.space), sweep.configurations - 1), 1))
        for trial in known:
            if sweep.search == "optuna" and trial.status in ("finished", "stopped") and trial.curve:
                self.tell(trial.name, trial.config, trial.last(sweep.metric))

    def config(self, index: int) -> dict[str, Any]:
        """Return the settings of trial `index`, over the defaults. Random search must be asked in order."""
        place, turn = divmod(index, self.sweep.seeds)
        name = trial_name(index)
        if self.sweep.search == "optuna" and name in self._known:
            known = self._known[name].config
            self._drawn.setdefault(place, _without_turn(known, self.sweep))
            return known
        if place not in self._drawn:
            if self.sweep.space:
                asked = self._study.ask()
                self._drawn[place] = draw(self.sweep.space, asked)
                self._asked[name] = asked
            else:
                self._drawn[place] = {}
        drawn = self._drawn[place]
        return {**drawn, "seed": self.sweep.train.seed + turn} if self.sweep.seeds > 1 else drawn

    def tell(self, name: str, config: dict[str, Any], value: float) -> None:
        """Let the search learn from a trial's result."""
        import optuna

        drawn = _without_turn(config, self.sweep)
        if name in self._asked:
            self._study.tell(self._asked.pop(name), value)
        elif drawn:
            params, made = encoded(self.sweep.space, drawn)
            self._study.add_trial(optuna.create_trial(params=params, distributions=made, value=value))


class LedgerSearch(Searcher):
    """Hands Ray Tune the configurations that are still to be run, and results back to the search.

    Args:
        proposals: The sequence.
        left: Indices of the trials that are still to be run.
        metric: The metric's name in reports.
        mode: `max` or `min`.
        spent: Tells the epochs that all trials together have been trained for so far, for a budget of them.
        begun: When the sweep began by `time.monotonic`, for a budget of hours; None: now.
    """

    def __init__(
        self,
        proposals: Proposals,
        left: list[int],
        metric: str,
        mode: str,
        spent: Callable[[], int] = lambda: 0,
        begun: float | None = None,
    ) -> None:
        super().__init__(metric=metric, mode=mode)
        self._proposals = proposals
        self._left = list(left)
        self._next = 0
        self._running: dict[str, dict[str, Any]] = {}
        self._spent = spent
        self._begun = time.monotonic() if begun is None else begun

    def suggest(self, trial_id: str) -> Any:
        """Return the next configuration, or that there is none."""
        sweep = self._proposals.sweep
        while self._next < sweep.runs and not self._budget_is_spent():
            index, self._next = self._next, self._next + 1
            skip = index not in self._left
            # A random sequence is drawn in order; what is skipped is drawn all the same.
            if skip and sweep.search == "optuna" and index % sweep.seeds:
                continue
            config = self._proposals.config(index)
            if not skip:
                self._running[trial_id] = {"name": trial_name(index), "config": config}
                return self._running[trial_id]
        finished: str = Searcher.FINISHED
        return finished

    def _budget_is_spent(self) -> bool:
        budget = self._proposals.sweep.budget
        # The defaults are run in any case, or there may be nothing to show.
        if self._next == 0:
            return False
        hours = (time.monotonic() - self._begun) / 3600
        return (budget.hours is not None and hours >= budget.hours) or (
            budget.epochs is not None and self._spent() >= budget.epochs
        )

    def on_trial_complete(
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,
        error: bool = False,  # noqa: FBT001, FBT002  # Ray's signature
    ) -> None:
        """Tell the search what came of it."""
        trial = self._running.pop(trial_id, None)
        if trial and result and not error and self.metric in result:
            self._proposals.tell(trial["name"], trial["config"], result[self.metric])

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""


def trial_name(index: int) -> str:
    """Return a name whose alphabetical order is the numerical one."""
    return f"{index:05d}"


def _without_turn(config: dict[str, Any], sweep: Sweep) -> dict[str, Any]:
    """A configuration without the seed that tells its repetitions apart."""
    return {key: value for key, value in config.items() if key in sweep.space}


def _study(sweep: Sweep) -> "optuna.Study":
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    sampler = (
        optuna.samplers.TPESampler(seed=sweep.seed)
        if sweep.search == "optuna"
        else optuna.samplers.RandomSampler(seed=sweep.seed)
    )
    return optuna.create_study(sampler=sampler, direction="minimize" if sweep.metric == "nll" else "maximize")
