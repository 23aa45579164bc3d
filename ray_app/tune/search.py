"""What the next trial is: Optuna draws, Ray Tune asks, and what an earlier run did is told first."""

import warnings
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from ray_app.spec.space import decoded, distributions, encoded
from ray_app.spec.tune import Sweep
from ray_app.tune.ledger import Trial

if TYPE_CHECKING:
    import optuna


class Proposals:
    """The sequence of a sweep's configurations.

    Trial 0 is the spec's defaults. Random draws depend on the seed and their place alone, so a resumed sweep
    draws the same; TPE draws depend on what is finished, so it is told the finished trials first.

    Args:
        sweep: The space, the kind of search, the seed.
        known: Trials of an earlier run, in any state.
    """

    def __init__(self, sweep: Sweep, known: list[Trial]) -> None:
        self.sweep = sweep
        self._known = {trial.name: trial for trial in known}
        self._study = _study(sweep)
        self._space = distributions(sweep.space)
        self._asked: dict[str, optuna.Trial] = {}
        for trial in known:
            if sweep.search == "optuna" and trial.status in ("finished", "stopped") and trial.curve:
                self.tell(trial.name, trial.config, trial.last(sweep.metric))

    def config(self, index: int) -> dict[str, Any]:
        """Return the settings of trial `index`, over the defaults. Random search must be asked in order."""
        name = trial_name(index)
        if index == 0 or not self.sweep.space:
            return {}
        if self.sweep.search == "optuna" and name in self._known:
            return self._known[name].config
        asked = self._asked[name] = self._study.ask(self._space)
        return decoded(self.sweep.space, asked.params)

    def tell(self, name: str, config: dict[str, Any], value: float) -> None:
        """Let the search learn from a trial's result."""
        import optuna

        if name in self._asked:
            self._study.tell(self._asked.pop(name), value)
        elif config.keys() == self._space.keys():
            params = encoded(self.sweep.space, config)
            self._study.add_trial(optuna.create_trial(params=params, distributions=self._space, value=value))


class LedgerSearch(Searcher):
    """Hands Ray Tune the configurations that are still to be run, and results back to the search.

    Args:
        proposals: The sequence.
        left: Indices of the trials that are still to be run.
        metric: The metric's name in reports.
        mode: `max` or `min`.
    """

    def __init__(self, proposals: Proposals, left: list[int], metric: str, mode: str) -> None:
        super().__init__(metric=metric, mode=mode)
        self._proposals = proposals
        self._left = list(left)
        self._next = 0
        self._running: dict[str, dict[str, Any]] = {}

    def suggest(self, trial_id: str) -> Any:
        """Return the next configuration, or that there is none."""
        while self._next < self._proposals.sweep.trials:
            index, self._next = self._next, self._next + 1
            skip = index not in self._left
            # A random sequence is drawn in order; what is skipped is drawn all the same.
            if skip and self._proposals.sweep.search == "optuna":
                continue
            config = self._proposals.config(index)
            if not skip:
                self._running[trial_id] = {"name": trial_name(index), "config": config}
                return self._running[trial_id]
        finished: str = Searcher.FINISHED
        return finished

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


def _study(sweep: Sweep) -> "optuna.Study":
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    random = sweep.search == "random"
    sampler = (
        optuna.samplers.RandomSampler(seed=sweep.seed)
        if random
        else optuna.samplers.TPESampler(seed=sweep.seed)
    )
    return optuna.create_study(sampler=sampler, direction="minimize" if sweep.metric == "nll" else "maximize")
