"""Several processes that train one model: plain torch.distributed, whoever began them.

    ddp    every process holds the model; gradients are averaged (torch's DistributedDataParallel)
    fsdp   each holds a share of every weight, gathered block by block as it is needed (torch's fully_shard)

Each process computes a share of every batch. Which rows a batch has, and how they are augmented, is drawn in
all of them alike, so that k processes make the steps of one: sums are in another order, and dropout, and what
an objective draws, are drawn by each for its own rows.
"""

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ray_app.methods.adapters import Adapter
from ray_app.methods.encoders import Encoder
from ray_app.methods.objectives import Objective
from ray_app.spec.train import Train

Parallel: TypeAlias = Literal["ddp", "fsdp"]


class Team:
    """This process among those that train one model; the process group is there already.

    Args:
        parallel: How the model is held.
    """

    def __init__(self, parallel: Parallel) -> None:
        self.parallel = parallel
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def wrap(self, model: Encoder) -> Encoder:
        """Return what is called in training in the model's place; before an optimiser is made of it."""
        if self.parallel == "ddp":
            return cast(Encoder, _Replica(model))
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(model.device.type, (self.size,))
        for block in _blocks(model):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model

    def share(self, n: int) -> tuple[Tensor, float]:
        """Return which of a batch's n rows this process has, and how large a share of it they are.

        Where there are fewer rows than processes, some compute with a row that counts for nothing.
        """
        own = torch.arange(n).tensor_split(self.size)[self.rank]
        return (own, len(own) / n) if len(own) else (torch.zeros(1, dtype=torch.int64), 0.0)

    def summed(self, values: dict[str, Tensor], weight: float) -> dict[str, float]:
        """Return the sum over processes of their values, each times its weight."""
        total = torch.stack([value.detach().double() * weight for value in values.values()])
        dist.all_reduce(total)
        return dict(zip(values, total.tolist(), strict=True))

    def agree(self, *, sound: bool, device: torch.device) -> bool:
        """Return whether all processes say so."""
        said = torch.tensor(float(sound), device=device)
        dist.all_reduce(said, op=dist.ReduceOp.MIN)
        return bool(said)

    def gathered(self, own: Any) -> list[Any]:
        """Return what each process gives, in the order of ranks."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, own)
        return found

    def joined(self, own: Tensor) -> Tensor:
        """Return the processes' equally large tensors on the CPU, one after the other."""
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own.contiguous())
        return torch.cat(found).cpu()

    def whole(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> tuple[Any, Any]:
        """Return the states of a model and of its optimiser as one process would have them.

        All processes call it; where weights are shared out, the first one has the result.
        """
        if self.parallel == "ddp":
            return model.state_dict(), optimizer.state_dict() if optimizer is not None else None
        from torch.distributed.checkpoint import state_dict as states

        options = states.StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = states.get_model_state_dict(model, options=options)
        if optimizer is None:
            return weights, None
        return weights, states.get_optimizer_state_dict(model, optimizer, options=options)

    def load(self, model: nn.Module, weights: Any, optimizer: torch.optim.Optimizer, optimized: Any) -> None:
        """Go on from what `whole` returned, which all processes have read."""
        if self.parallel == "ddp":
            model.load_state_dict(weights)
            optimizer.load_state_dict(optimized)
            return
        from torch.distributed.checkpoint import state_dict as states

        options = states.StateDictOptions(full_state_dict=True)
        states.set_model_state_dict(model, weights, options=options)
        states.set_optimizer_state_dict(model, optimizer, optimized, options=options)


def local(tensor: Tensor) -> Tensor:
    """Return the share of a tensor that this process holds: all of it, where nothing is shared out."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def plain(tensor: Tensor) -> Tensor:
    """Return a tensor whole."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


class _Replica:
    """An encoder whose calls go through DistributedDataParallel, and all else to itself."""

    def __init__(self, model: Encoder) -> None:
        from torch.nn.parallel import DistributedDataParallel

        # Statistics are held or there are none; sending them around at each step would be for nothing.
        self._parallel = DistributedDataParallel(model, broadcast_buffers=False)
        self._model = model

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._parallel(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def check(
    parallel: Parallel, model: Encoder, objective: Objective, adapter: Adapter | None, how: Train
) -> None:
    """Refuse what several processes cannot train, or not as one would.

    Raises:
        ValueError: Says what, why and what to use.
    """
    names = " and ".join(part.name for part in how.objective)
    learns = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if learns and (adapter is None or not adapter.holds_statistics):
        raise ValueError(
            "resources.workers: each process would normalise by its own share of a batch; use a model with "
            "layer or group norm, or an adapter that holds the statistics (lora, bitfit)"
        )
    if not objective.rows_apart:
        raise ValueError(
            f"resources.workers: {names} looks at all rows of a batch together, or keeps something of each "
            "row; train with it in one process"
        )
    if parallel == "ddp":
        return
    if adapter is not None:
        raise ValueError(
            f"resources.parallel: fsdp shares out plain weights, and {adapter.name} alters them; use ddp"
        )
    if how.ema is not None or how.amp == "float16" or how.patience is not None:
        given = next(key for key in ("ema", "patience", "amp") if getattr(how, key) not in (None, "off"))
        raise ValueError(
            f"resources.parallel: fsdp holds no second copy of the weights, for {given}; use ddp"
        )
    if (
        next(objective.parameters(), None) is not None
        or type(objective).before_step is not Objective.before_step
    ):
        raise ValueError(
            f"resources.parallel: {names} has weights of its own, or changes gradients, which fsdp "
            "shares out; use ddp"
        )


def _blocks(module: nn.Module) -> Iterable[nn.Module]:
    """The entries of a model's outermost lists of layers: what is gathered at a time."""
    for child in module.children():
        several = isinstance(child, (nn.ModuleList, nn.Sequential)) and len(child) > 1
        if several:
            yield from (one for one in child.children() if next(one.parameters(), None) is not None)
        else:
            yield from _blocks(child)
