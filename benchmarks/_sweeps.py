"""What a sweep takes beside training: `python -m benchmarks._sweeps FOLDER SECONDS TRIALS SHORT`.

Its last line is JSON: `efficiency`, the trials' seconds of training over cores times those of the sweep, its
start among them; `overhead`, seconds from the end of one short trial to the end of the next on one core,
less those of training.
"""

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

from ray_app.progress import Silent
from ray_app.session import session
from ray_app.spec import parse
from ray_app.spec.tune import TuneSpec
from ray_app.tune.ledger import Ledger
from ray_app.tune.run import run


def spec(trials: int, concurrent: int, epochs: int, rows: int) -> TuneSpec:
    """Return a sweep on digits."""
    content: dict[str, Any] = {
        "name": "bench",
        "dataset": "datasets/digits.yaml",
        "model": {"name": "timm", "model": "test_resnet", "channels": 1, "image_size": 24},
        "sweep": {
            "trials": trials,
            "concurrent": concurrent,
            "rows": rows,
            "train": {"epochs": epochs, "batch_size": 32},
            "space": {"lr": {"loguniform": [1e-3, 8e-3]}},
        },
    }
    return parse(content, TuneSpec, "benchmark")


def main() -> None:
    """Measure and print."""
    folder, seconds, trials, short = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    cores = len(os.sched_getaffinity(0))
    with session():
        run(spec(short, 1, 1, 128), folder / "short", Silent())
        epochs = 2
        run(spec(1, 1, epochs, 600), folder / "one", Silent())
        (one,) = Ledger(folder / "one" / "trials").trials()
        # Side by side on all cores, trials take longer than one alone; a little is no matter.
        long = spec(trials, cores, max(1, math.ceil(seconds / (one.seconds / epochs))), 600)
        begun = time.time()
        run(long, folder / "long", Silent())
    ended = _ended(folder / "long")
    # Up to the last trial: what combines them afterwards is not the sweep.
    efficiency = sum(took for _, took in ended) / (cores * (ended[-1][0] - begun))
    first, *others = _ended(folder / "short")
    overhead = (others[-1][0] - first[0] - sum(took for _, took in others)) / len(others)
    print(json.dumps({"efficiency": efficiency, "overhead": overhead, "trial_s": ended[0][1]}))


def _ended(folder: Path) -> list[tuple[float, float]]:
    """When each trial ended, and its seconds of training, in the order of their ends."""
    ledger = Ledger(folder / "trials")
    return sorted((ledger.weights(t.name).stat().st_mtime, t.seconds) for t in ledger.trials())


if __name__ == "__main__":
    main()
