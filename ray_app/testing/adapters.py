"""The contract of adapters."""

import copy
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from ray_app.methods.adapters import Adapter
from ray_app.methods.encoders import Encoder, Features, Inputs, Want
from ray_app.testing._expect import expect, expect_close, expect_raises, untouched

Model = Callable[[], Encoder]
"""Returns a model with a classifier, of the same weights each time, in eval mode."""


def check_adapter(
    make: Callable[[], Adapter],
    model: Model | None = None,
    inputs: Inputs | None = None,
    *,
    same_start: bool = True,
) -> None:
    """Check everything that adapters promise.

    Args:
        make: Returns a fresh adapter.
        model: What to try it on; None: a small network with much that adapters trip over.
        inputs: What that model reads, 8 rows or more; None: what the small network reads.
        same_start: Whether attaching leaves the network's answers as they were, as it should unless a change
            is what the method is about (a mask, fresh weights before the classifier).

    Raises:
        AssertionError: With a sentence about what does not hold.
    """
    model = model or traps
    inputs = pixels() if inputs is None else inputs
    check_refusals(make, model)
    check_attach(make, model, inputs, same_start=same_start)
    check_training(make, model, inputs)
    check_merge(make, model, inputs, same_start=same_start)
    check_copies(make, model, inputs)
    check_types(make, model, same_start=same_start)


def check_refusals(make: Callable[[], Adapter], model: Model) -> None:
    """Check what an adapter must not accept, and that nothing is changed by asking."""
    plain = model()
    before = _snapshot(plain)
    expect_raises(ValueError, lambda: make().merge(plain), "merge without attach must raise ValueError")
    _expect_plain(plain, before, "a refused merge must leave the model alone")
    attached = make().attach(plain)
    names = list(attached.state_dict())
    expect_raises(ValueError, lambda: make().attach(attached), "attaching twice must raise ValueError")
    expect(names == list(attached.state_dict()), "a refused attach must leave the model alone")
    other = _Other()
    expect_raises(
        ValueError, lambda: other.merge(attached), "another adapter's model must not be merged: ValueError"
    )


def check_attach(make: Callable[[], Adapter], model: Model, inputs: Inputs, *, same_start: bool) -> None:
    """Check that attaching marks what trains, is the same each time, and leaves answers as they were."""
    plain = model()
    expected = _answers(plain, inputs)
    with untouched(inputs):
        attached = make().attach(plain)
    expect(attached is plain, "attach must return the model that it was given")
    trained = [name for name, parameter in attached.named_parameters() if parameter.requires_grad]
    expect(trained, "something must train")
    if same_start:
        got = _answers(attached, inputs)
        expect_close(got, expected, "before training the answers must be those of the start")
    again = make().attach(model())
    expect(
        trained == [name for name, parameter in again.named_parameters() if parameter.requires_grad]
        and _equal(attached.state_dict(), again.state_dict()),
        "the same options and model must give the same bytes",
    )


def check_training(make: Callable[[], Adapter], model: Model, inputs: Inputs) -> None:
    """Check that a step moves what trains, the classifier's answers among it, and nothing else."""
    adapter = make()
    attached = adapter.attach(model())
    marked = {name for name, parameter in attached.named_parameters() if parameter.requires_grad}
    before = {name: value.clone() for name, value in attached.state_dict().items()}
    weight = _classifier(attached).clone()
    with untouched():
        _train(adapter, attached, inputs, steps=3)
    after = attached.state_dict()
    parameters = dict(attached.named_parameters(remove_duplicate=False))
    still = {parameter for name, parameter in parameters.items() if name not in marked}
    still -= {parameters[name] for name in marked}
    for name, value in after.items():
        expect(bool(torch.isfinite(value.float()).all()), f"{name} must stay finite")
        if name in parameters and parameters[name] in still:
            expect(torch.equal(value, before[name]), f"{name} does not train and must not change")
    expect(not torch.equal(_classifier(attached), weight), "the classifier must train")
    moved = [name for name in marked if not torch.equal(after[name], before[name])]
    expect(moved, "what is marked must move")
    plain = model().state_dict()
    for name in (name for name in before if "running_" in name):
        same = torch.equal(after[name], before[name])
        if name not in plain:
            expect(not same, f"{name} came with the adapter and must learn its statistics")
        elif adapter.holds_statistics:
            expect(same, f"{name} must not drift, also in train mode")


def check_merge(make: Callable[[], Adapter], model: Model, inputs: Inputs, *, same_start: bool) -> None:
    """Check that merging gives back the plain architecture with the attached model's answers."""
    adapter = make()
    attached = adapter.attach(model())
    if not adapter.merges:
        names = list(attached.state_dict())
        expect_raises(
            ValueError, lambda: adapter.merge(attached), "what cannot be merged must raise ValueError"
        )
        expect(names == list(attached.state_dict()), "a refused merge must leave the model attached")
        return
    untrained = model()
    before = _snapshot(untrained)
    merged = make().merge(make().attach(untrained))
    expect(merged is untrained, "merge must return the model that it was given")
    if same_start:
        _expect_plain(merged, before, "if nothing was trained, merge must give back the start to the bit")
    expect(
        not any(name.startswith("_adapter") for name in vars(merged)),
        "merge must leave no trace on the model",
    )
    make().merge(make().attach(merged))
    _train(adapter, attached, inputs, steps=3)
    answers = _answers(attached, inputs)
    ties = _ties(model())
    merged = adapter.merge(attached)
    expect_close(_answers(merged, inputs), answers, "merged answers must be the attached ones")
    _expect_like(merged, before, "a merged model")
    expect(_ties(merged) == ties, "what was tied must be tied again")
    loaded = model()
    loaded.load_state_dict(merged.state_dict())
    expect_close(
        _answers(loaded, inputs), answers, "a fresh model with the merged state must answer the same"
    )
    merged.train()
    expect(
        all(module.training for module in _pass(merged, inputs).modules()),
        "a merged model must obey train(): what held statistics must be gone",
    )


def check_copies(make: Callable[[], Adapter], model: Model, inputs: Inputs) -> None:
    """Check that the state is in the model: copies and loaded states are as good as the original."""
    from safetensors.torch import load, save

    adapter = make()
    attached = adapter.attach(model())
    _train(adapter, attached, inputs, steps=2)
    answers = _answers(attached, inputs)
    twin = copy.deepcopy(attached)
    expect(torch.equal(_answers(twin, inputs), answers), "a copy of an attached model must answer the same")
    # From another start: what is frozen must come with the state.
    other = model()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.linspace(0.1, 0.2, parameter.numel()).to(parameter).view_as(parameter).sin())
    loaded = make().attach(other)
    if _shapes(loaded) != _shapes(attached):
        # How much trains may depend on the start (a share of a matrix' energy); then it takes the same one.
        loaded = make().attach(model())
    loaded.load_state_dict(load(save({k: v.clone().contiguous() for k, v in attached.state_dict().items()})))
    expect_close(
        _answers(loaded, inputs), answers, "an attached state through safetensors must answer the same"
    )
    if adapter.merges:
        merged = _answers(make().merge(twin), inputs)
        expect_close(merged, answers, "a copy must merge, by any adapter of its kind")
        sentence = "merging a copy must leave the original attached and as it was"
        try:
            left = _answers(attached, inputs)
        except Exception as error:
            raise AssertionError(f"{sentence}: {error}") from error
        expect(torch.equal(left, answers), sentence)
        expect_close(
            _answers(adapter.merge(attached), inputs), answers, "the original must merge after its copy"
        )


def check_types(make: Callable[[], Adapter], model: Model, *, same_start: bool) -> None:
    """Check that weights of two bytes keep their type, and their bits if nothing was trained."""
    for dtype in (torch.float16, torch.bfloat16):
        plain = model().to(dtype)
        before = _snapshot(plain)
        attached = make().attach(plain)
        trained = [parameter for parameter in attached.parameters() if parameter.requires_grad]
        expect(trained, f"something must train in {dtype}")
        if not make().merges:
            continue
        merged = make().merge(attached)
        if same_start:
            _expect_plain(merged, before, f"untrained {dtype} weights must be restored to the bit")
        else:
            _expect_like(merged, before, f"a merged {dtype} model")


class _Traps(Encoder):
    """What adapters trip over.

    Grouped and 1x1 convolutions, batch norm, a layer called twice and registered twice, tied weights, a layer
    without a bias, a parameter of no layer, and a transformer block by timm's names.
    """

    modality = "image"
    num_classes = 3
    dim = 8

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 8, 1)
        self.twice = nn.Linear(8, 8)
        self.tied = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8, bias=False)])
        self.tied[1].weight = self.tied[0].weight
        self.shared = nn.ModuleList([self.twice])
        self.position = nn.Parameter(torch.zeros(1, 16, 8))
        self.attn = nn.Module()
        self.attn.proj = nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.last = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    @property
    def classifier(self) -> nn.Linear:
        return self.head

    def forward(self, inputs: Inputs, want: Collection[Want] = ()) -> Features:
        assert isinstance(inputs, Tensor)  # noqa: S101 # its own inputs
        x = torch.relu(self.norm(self.stem(inputs.to(self.position.dtype))))
        x = x + self.depthwise(torch.relu(self.grouped(x)))
        x = self.point(x).flatten(2).transpose(1, 2) + self.position
        x = torch.tanh(self.twice(torch.tanh(self.twice(x)))) + torch.tanh(self.shared[0](x))
        x = x + torch.tanh(self.tied[1](torch.tanh(self.tied[0](x))))
        x = x + self.get_submodule("attn.proj")(torch.softmax(x @ x.transpose(1, 2), 2) @ x)
        x = x + self.mlp(x)
        pooled = self.last(x).mean(1)
        return Features(pooled.float(), logits=self.head(pooled).float() if "logits" in want else None)

    def portable(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        return {}, {}


class _Other(Adapter):
    """An adapter of another name."""

    @property
    def name(self) -> str:
        return "another"

    def _insert(self, model: Encoder) -> None:
        """Change nothing."""


def traps() -> Encoder:
    """Return a small network with much that adapters trip over, the same each time, in eval mode."""
    model = _Traps()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else len(parameter)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / max(fan, 1) ** 0.5)
        model.get_buffer("norm.running_var").uniform_(0.5, 2, generator=generator)
        model.get_buffer("norm.running_mean").normal_(generator=generator)
    return model.eval()


def pixels(n: int = 12) -> Tensor:
    """Return float32 [n, 3, 4, 4]: what `traps` reads."""
    return torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def _train(adapter: Adapter, model: Encoder, inputs: Inputs, steps: int) -> None:
    """Some steps of training, as the engine does them."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    with torch.random.fork_rng(devices=[]):  # dropout may draw
        for _ in range(steps):
            model.train()
            logits = model(inputs, {"logits"}).logits
            labels = torch.arange(len(logits), device=logits.device) % logits.shape[1]
            loss = nn.functional.cross_entropy(logits, labels)
            penalty = adapter.penalty(model)
            if penalty is not None:
                expect(
                    penalty.ndim == 0 and bool(torch.isfinite(penalty)), "a penalty must be a finite scalar"
                )
                loss = loss + penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()


def _pass(model: Encoder, inputs: Inputs) -> Encoder:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        model(inputs, {"logits"})
    return model


@torch.no_grad()
def _answers(model: Encoder, inputs: Inputs) -> Tensor:
    logits: Tensor = model(inputs, {"logits"}).logits
    return logits


def _classifier(model: Encoder) -> Tensor:
    layer = model.classifier
    if layer is None:
        raise AssertionError("an attached model must still know its classifier")
    # Read as the forward pass reads it: a computed weight is no parameter.
    return torch.cat([layer.weight.detach().flatten(), layer.bias.detach()])


_Plain = dict[str, tuple[Tensor, bool]]


def _snapshot(model: Encoder) -> _Plain:
    """Name → value and requires_grad, in the order of the state."""
    marked = {name: p.requires_grad for name, p in model.named_parameters(remove_duplicate=False)}
    return {
        name: (value.detach().clone(), marked.get(name, False)) for name, value in model.state_dict().items()
    }


def _expect_like(model: Encoder, before: _Plain, what: str) -> None:
    now = _snapshot(model)
    expect(list(now) == list(before), f"{what} must have the plain state's names, in their order")
    for name, (value, marked) in now.items():
        old, was = before[name]
        expect(
            value.shape == old.shape and value.dtype == old.dtype, f"{what}: {name} must keep shape and type"
        )
        expect(marked == was, f"{what}: requires_grad of {name} must be as attach found it")
    expect(
        list(dict(model.named_parameters()))
        == [name for name in before if name in dict(model.named_parameters())],
        f"{what} must have its parameters in their order",
    )


def _expect_plain(model: Encoder, before: _Plain, sentence: str) -> None:
    _expect_like(model, before, sentence)
    for name, (value, _) in _snapshot(model).items():
        expect(torch.equal(value, before[name][0]), f"{sentence}: {name} changed")


def _ties(model: Encoder) -> set[frozenset[str]]:
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return {frozenset(group) for group in names.values() if len(group) > 1}


def _shapes(model: Encoder) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)
