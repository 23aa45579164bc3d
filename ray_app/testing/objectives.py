"""The contract of objectives."""

import copy
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ray_app.methods.encoders import Encoder, Features, Inputs, Want
from ray_app.methods.objectives import Objective, TrainBatch
from ray_app.testing._expect import expect, expect_close, through_safetensors, untouched

if TYPE_CHECKING:
    from ray_app.methods import Batch

CLASSES = 3
DIM = 8
ROWS = 24


class TinyModel(Encoder):
    """A patch network without dropout or batch statistics on pixels [n, 1, 4, 4]: 4 tokens, classes 0..2."""

    modality = "image"
    dim = DIM
    num_classes = CLASSES

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.patches = nn.utils.skip_init(nn.Conv2d, 1, DIM, 2, stride=2)
        self.head = nn.utils.skip_init(nn.Linear, DIM, CLASSES)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)

    @property
    def classifier(self) -> nn.Linear:
        """The last layer."""
        return self.head

    def preprocess(self, batch: "Batch") -> Tensor:
        """Return the column `image` as it is."""
        return torch.from_numpy(batch[self.column])

    def forward(self, inputs: Inputs, want: Collection[Want] = ()) -> Features:
        """Return all that objectives may ask for."""
        if not isinstance(inputs, Tensor):
            raise TypeError("tiny: expected pixels")
        tokens = torch.tanh(self.patches(inputs.float())).flatten(2).transpose(1, 2)
        pooled = tokens.mean(1)
        return Features(
            pooled,
            tokens=tokens if "tokens" in want else None,
            lengths=torch.full((len(inputs),), 4, device=pooled.device) if "tokens" in want else None,
            logits=self.head(pooled) if "logits" in want else None,
        )

    def portable(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return what constructs it anew."""
        return {}, {}


def check_objective(make: Callable[[], Objective], *, weighted: bool = True) -> None:
    """Check everything that objectives promise.

    Args:
        make: Returns a fresh objective for a `TinyModel`; a teacher, if it takes one, is another of its kind.
        weighted: Whether a row of sample_weight 0 must count for nothing, as it must unless rows are
            compared with each other.

    Raises:
        AssertionError: With a sentence about what does not hold.
    """
    check_steps(make)
    check_chance(make)
    check_state(make)
    if make().minimises and weighted:
        check_weights(make)
    for device in ["cuda"] if torch.cuda.is_available() else []:
        check_device(make, device)


def check_steps(make: Callable[[], Objective]) -> None:
    """Check losses and gradients, of many rows and of one."""
    for n in (ROWS, 1):
        model, objective, batch = _begun(make, n)
        with untouched(batch.inputs, batch.labels, batch.row):
            losses = objective.loss(model, batch, 0, _generator())
        if not objective.minimises:
            expect(not losses, "one that minimises nothing must return nothing")
            continue
        expect("loss" in losses, "loss() must return the key `loss`")
        for name, value in losses.items():
            expect(value.ndim == 0, f"{name} must be a scalar, got {list(value.shape)}")
            expect(torch.isfinite(value), f"{name} must be finite for {n} rows, got {value.item()}")
        expect(losses["loss"].requires_grad, "`loss` must have a gradient")
        losses["loss"].backward()
        reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.patches.parameters()]
        # One row has no other rows to be told from, so a gradient of zero may be right.
        expect(n == 1 or any(reached), "gradients must reach the model")
        trained = [p for group in objective.parameter_groups(model) for p in group["params"]]
        expect(len({id(p) for p in trained}) == len(trained), "a parameter must be in one group only")
        mine = {id(p) for p in (*model.parameters(), *objective.parameters()) if p.requires_grad}
        expect(
            {id(p) for p in trained} <= mine, "only parameters of the model and of the objective may train"
        )
        _step(objective, model, 0)


def check_chance(make: Callable[[], Objective]) -> None:
    """Check that the generator is the only source of chance, of losses and of what is done around a step."""
    before = torch.random.get_rng_state()
    found = []
    for attempt in range(2):
        torch.rand(attempt)  # the global generator is elsewhere each time
        moved = torch.random.get_rng_state()
        model, objective, batch = _begun(make)
        losses = _follow(objective, model, batch, range(3))
        expect(torch.equal(moved, torch.random.get_rng_state()), "torch's global generator must not be used")
        found.append((losses, _bytes(model), _bytes(objective)))
    torch.random.set_rng_state(before)
    (losses, weights, own), (again, weights_again, own_again) = found
    expect(losses == again, "the same generator must give the same losses")
    expect(_same(weights, weights_again), "the same generator must give the same weights, to the bit")
    expect(_same(own, own_again), "the same generator must leave the same state, to the bit")


def check_state(make: Callable[[], Objective]) -> None:
    """Check that a training that was killed after two steps goes on as if it had not been."""
    model, objective, batch = _begun(make)
    _follow(objective, model, batch, range(2))
    rescued_model = copy.deepcopy(model)
    fresh = make()
    fresh.begin(rescued_model, batch)
    through_safetensors(objective, fresh)
    objective.train()
    fresh.train()
    losses = _follow(objective, model, batch, range(2, 4))
    resumed = _follow(fresh, rescued_model, batch, range(2, 4))
    expect(losses == resumed, "a state through safetensors must give equal losses")
    expect(_same(_bytes(model), _bytes(rescued_model)), "a state through safetensors must give equal steps")


def check_weights(make: Callable[[], Objective]) -> None:
    """Check that sample_weight counts rows: equal weights are none, and a row of weight 0 is not there."""
    kept = torch.arange(ROWS) % 3 != 0
    weights = [None, torch.full((ROWS,), 2.5), kept.float(), kept.float() * 3]
    plain, equal, some, thrice = (_weighted(make, weight) for weight in weights)
    expect_close(equal, plain, "equal weights must be as good as none")
    expect_close(thrice, some, "only the ratio of weights must count")
    model, objective, batch = _begun(make)
    spoiled = torch.where(kept[:, None, None, None], _pixels(batch), 1 - _pixels(batch))
    changed = replace(batch, inputs=spoiled, sample_weight=kept.float())
    loss = objective.loss(model, changed, 0, _generator())["loss"].detach()
    expect_close(loss, some, "a row of weight 0 must not matter")
    nothing = objective.loss(model, replace(batch, sample_weight=torch.zeros(ROWS)), 0, _generator())
    expect(torch.isfinite(nothing["loss"]), "no weight at all must give a finite loss")


def check_device(make: Callable[[], Objective], device: str) -> None:
    """Check that an objective follows the model to a device."""
    model, objective, batch = _begun(make)
    here = _follow(objective, model, batch, range(2))
    moved, elsewhere, _ = _begun(make, device=device)
    there = replace(
        batch,
        inputs=_pixels(batch).to(device),
        labels=batch.labels.to(device) if batch.labels is not None else None,
        row=batch.row.to(device) if batch.row is not None else None,
    )
    losses = _follow(elsewhere, moved, there, range(2))
    for a, b in zip(here, losses, strict=True):
        expect(abs(a - b) <= 1e-4 * (1 + abs(a)), f"on {device} the loss must be that of the CPU: {b}, {a}")


def _pixels(batch: TrainBatch) -> Tensor:
    return cast(Tensor, batch.inputs)


def _weighted(make: Callable[[], Objective], weight: Tensor | None) -> Tensor:
    model, objective, batch = _begun(make)
    losses = objective.loss(model, replace(batch, sample_weight=weight), 0, _generator())
    return losses["loss"].detach()


def _begun(
    make: Callable[[], Objective], n: int = ROWS, device: str = "cpu"
) -> tuple[TinyModel, Objective, TrainBatch]:
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(n) % CLASSES
    pixels = torch.rand(n, 1, 4, 4, generator=generator) * 0.5 + labels[:, None, None, None] * 0.2
    batch = TrainBatch(pixels, labels, row=torch.arange(n))
    model = TinyModel(seed=1).to(device)
    objective = make()
    objective.to(device)
    objective.begin(model, batch)
    model.train()
    objective.train()
    return model, objective, batch


def _follow(objective: Objective, model: TinyModel, batch: TrainBatch, steps: range) -> list[float]:
    """Some steps of plain descent; each step's chance is its own, so that any of them can be the first."""
    losses = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        model.zero_grad()
        found = objective.loss(model, batch, step, generator)
        if objective.minimises:
            found["loss"].backward()
            losses.append(found["loss"].item())
        else:
            model(batch.inputs, {"logits"}).logits.square().mean().backward()
        _step(objective, model, step, generator)
    return losses


def _step(
    objective: Objective, model: TinyModel, step: int, generator: torch.Generator | None = None
) -> None:
    generator = generator or _generator()
    objective.before_step(model, step, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=0.1)
    objective.after_step(model, step, generator)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def _bytes(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
