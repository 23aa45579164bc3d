"""Sweeps, soups and merges against what one would write instead: `python -m benchmarks.tune [--quick]`.

    sweep_efficiency         the trials' seconds of training over cores times the seconds of the sweep, from
                             reading rows to the last trial's end; 1 is the most possible
    trial_overhead_s         seconds between short trials one after the other, beside their training

    greedy_soup_time_ratio   seconds of a greedy soup of the most candidates over those of as many bare
                             evaluations (load, run); 1 is the least possible
    greedy_soup_peak_models  its peak memory, in models: the network is one, and what evaluation itself takes
                             is not counted
    naive_peak_models        the same of the recipe that holds every state dict
    max_merge_error          the largest deviation of any merge from a naive reference in float64
    <merge>_vs_mergekit      mergekit's seconds over ours, both with all candidates in memory
    mergekit_max_difference  between its merges and ours

Each role runs in a process of its own; bare and soup alternate, and medians count.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks._merges import MERGEKIT, errors, ours, states
from benchmarks._pairs import Pair, Timing, arguments, measure, report
from benchmarks._tune_roles import make_candidates

ROOT = Path(__file__).parent.parent
# Short trials, one after the other, of which the first pays for the process.
_SHORT = 8


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    counts: Sequence[int] = (4, 16, 64)
    rows: int = 512
    rounds: int = 3
    shapes: Sequence[tuple[int, ...]] = ((512, 512),) * 12
    merged: int = 8
    """Candidates of a merge."""
    trial_s: float = 10.0
    """Of training, each trial of the sweep."""
    trials: int = 16


QUICK = Plan(counts=(4, 16), rows=256, rounds=1, trial_s=5.0, trials=4)


@dataclass(frozen=True)
class Took:
    """What one role took."""

    seconds: float
    peak: int
    done: int


def role(name: str, folder: Path, n: int, rows: int) -> Took:
    """Play a role in a process of its own."""
    command = [sys.executable, "-m", "benchmarks._tune_roles", name]
    for key, value in (("folder", folder), ("n", n), ("rows", rows)):
        command += [f"--{key}", str(value)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    return Took(**json.loads(done.stdout.splitlines()[-1]))


def sweeps(plan: Plan) -> dict[str, float]:
    """Measure sweeps, in a process of their own, and print a line."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    with tempfile.TemporaryDirectory() as name:
        given = [name, str(plan.trial_s), str(plan.trials), str(_SHORT)]
        command = [sys.executable, "-m", "benchmarks._sweeps", *given]
        done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    found = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{plan.trials} trials of {found['trial_s']:.1f} s: {found['efficiency']:.2f} of the cores' time is"
        f" training; {found['overhead']:.2f} s beside each short trial"
    )
    return {
        "sweep_efficiency": round(found["efficiency"], 4),
        "trial_overhead_s": round(found["overhead"], 4),
    }


def soups(plan: Plan) -> dict[str, float]:
    """Measure greedy soups of several sizes, and print a table."""
    print("candidates  bare       soup       ratio  models in memory: soup  naive")
    ratio = peak = naive_peak = float("nan")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for n in plan.counts:
            model = make_candidates(folder, n)
            rest = role("still", folder, n, plan.rows).peak
            pairs = []
            for turn in range(plan.rounds):
                order = ("bare", "greedy") if turn % 2 == 0 else ("greedy", "bare")
                took = {side: role(side, folder, n, plan.rows) for side in order}
                pairs.append((took["bare"], took["greedy"]))
            naive = role("naive", folder, n, plan.rows)
            for soup in (naive, *(greedy for _, greedy in pairs)):
                if soup.done != n:
                    raise SystemExit(
                        f"benchmarks.tune: {soup.done} of {n} candidates in the soup; expected all"
                    )
            ratio = statistics.median(greedy.seconds / bare.seconds for bare, greedy in pairs)
            peak = 1 + (max(greedy.peak for _, greedy in pairs) - rest) / model
            naive_peak = 1 + (naive.peak - rest) / model
            bare_s, soup_s = (statistics.median(pair[i].seconds for pair in pairs) for i in (0, 1))
            print(f"{n:10}  {bare_s:8.2f}s  {soup_s:8.2f}s  {ratio:5.3f}  {peak:22.2f}  {naive_peak:5.1f}")
    return {
        "greedy_soup_time_ratio": round(ratio, 4),
        "greedy_soup_peak_models": round(peak, 3),
        "naive_peak_models": round(naive_peak, 2),
    }


def against_mergekit(plan: Plan) -> tuple[list[Timing], float]:
    """Time the merges that mergekit has, and return how far its results are from ours."""
    from mergekit.merge_methods import merge_state_dicts

    start, made = states(0, plan.merged, plan.shapes)
    timings, difference = [], 0.0
    for name, (method, parameters, options) in MERGEKIT.items():
        base = {} if method == "linear" else {"start": start}
        models = {**base, **{str(i): state for i, state in enumerate(made)}}
        theirs = partial(
            merge_state_dicts, models, method, parameters=parameters, base="start" if base else None
        )
        mine = partial(ours, name, options, start, made)
        found, expected = mine(), theirs()
        difference = max(difference, *(float((found[k] - expected[k]).abs().max()) for k in found))
        what = f"{plan.merged} candidates of {len(plan.shapes)} tensors"
        timings.append(measure(Pair(f"{name}_vs_mergekit", mine, theirs, what), plan.rounds))
    return timings, difference


def main(argv: Sequence[str] | None = None, plan: Plan | None = None) -> None:
    """Measure and print."""
    quick = arguments(__doc__, argv)
    plan = plan or (QUICK if quick else Plan())
    torch.set_num_threads(1)
    found = {**sweeps(plan), **soups(plan)}
    deviations = [errors(seed, k) for seed, k in ((0, 2), (1, 8), (2, 64))]
    worst = {name: max(one[name] for one in deviations) for name in deviations[0]}
    print("\nlargest deviation from a naive reference in float64, of 2, 8 and 64 candidates")
    for name, error in worst.items():
        print(f"{name:16}  {error:.1e}")
    timings, difference = against_mergekit(plan)
    print()
    report(
        timings,
        {**found, "max_merge_error": max(worst.values()), "mergekit_max_difference": difference},
    )


if __name__ == "__main__":
    main()
