"""A trial of several processes: Ray Train begins them and minds them, and all run the same training."""

from typing import Any

import torch

from ray_app.tune.ledger import Ledger, Trial
from ray_app.tune.team import Team
from ray_app.tune.trial import Shared, fail, train_trial


def train_together(
    name: str, config: dict[str, Any], shared: Shared, until: int | None = None, tries: int = 3
) -> None:
    """Train a trial in as many processes as the sweep's resources say; see train_trial.

    A process that dies ends the others, and all are begun again from the latest state.

    Args:
        name: The trial's.
        config: Its settings, over the defaults.
        shared: What it reads.
        until: Stop after this epoch, to go on later.
        tries: How often the processes are begun, at most.
    """
    # Heavy, and few sweeps need it.
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    ledger, resources = Ledger(shared.folder), shared.sweep.resources
    before = ledger.read(name)
    held = {"CPU": resources.cpu} | ({"GPU": resources.gpu} if resources.gpu else {})
    trainer = TorchTrainer(
        _work,
        train_loop_config={"name": name, "config": config, "shared": shared, "until": until},
        scaling_config=ScalingConfig(
            num_workers=resources.workers, use_gpu=bool(resources.gpu), resources_per_worker=held
        ),
        torch_config=TorchConfig(backend="nccl" if resources.gpu else "gloo"),
        run_config=RunConfig(
            # Train would take a name that it knows for a run to be restored.
            name=f"{name}-{before.tries if before else 0}-{until or 'end'}",
            storage_path=str(shared.folder.parent / "ray" / "train"),
            failure_config=FailureConfig(max_failures=tries - 1),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # noqa: BLE001  # whatever it is, it ends this trial only, and is kept
        fail(ledger, ledger.read(name) or Trial(name, config), error)


def _work(asked: dict[str, Any]) -> None:
    """One of the processes."""
    shared: Shared = asked["shared"]
    if shared.sweep.resources.gpu:
        from ray.train.torch import get_device

        torch.cuda.set_device(get_device())
    team = Team(shared.sweep.resources.parallel)
    train_trial(asked["name"], asked["config"], shared, None, asked["until"], team)
