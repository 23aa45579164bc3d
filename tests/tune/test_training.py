"""The training loop: it learns, repeats itself to the bit, and says what is wrong."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.methods import _optimizers
from ray_app.methods.encoders import Encoder, Features
from ray_app.methods.objectives.cross_entropy import CrossEntropy
from ray_app.papers._probe import Probe
from ray_app.spec import parse
from ray_app.spec.train import Augment, Train
from ray_app.tune.start import fine_tune, objective_for
from ray_app.tune.training import Epoch, Rows, _schedule, logits_of, recalibrate, train


class Small(Encoder):
    """Two layers with batch normalisation and dropout, on 2 x 2 pixels."""

    modality = "image"
    dim = 8
    num_classes = 2

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # noqa: TID251
            self.body = nn.Sequential(
                nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2)
            )
            self.head = nn.Linear(8, 2)

    def preprocess(self, batch):
        raise AssertionError("not used")

    def forward(self, inputs, want=()):
        pooled = self.body(inputs.float())
        return Features(pooled=pooled, logits=self.head(pooled))

    def portable(self):
        raise AssertionError("not used")


def rows(n: int = 200, seed: int = 0) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (n,), generator=generator)
    pixels = torch.rand(n, 1, 2, 2, generator=generator) * 0.5 + labels[:, None, None, None] * 0.4
    return Rows(pixels, labels)


def trained(how: Train, seed: int = 0) -> Small:
    model = Small()
    train(model, objective_for(how, model), rows(seed=seed), how)
    return model


def test_it_learns() -> None:
    model = trained(Train(epochs=15, lr=0.02, batch_size=20))
    test = rows(seed=1)
    assert (logits_of(model, test).argmax(1) == test.labels).float().mean() > 0.95


def test_the_same_settings_give_the_same_weights_to_the_bit() -> None:
    how = Train(epochs=3, augment=Augment(noise=0.1, shift=0.2))
    first, second, other = trained(how), trained(how), trained(how.model_copy(update={"seed": 1}))
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert not torch.equal(first.head.weight, other.head.weight)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    trained(Train(epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_each_epoch_is_told_and_the_model_is_in_eval_mode_then() -> None:
    model, seen = Small(), []
    how = Train(epochs=3)
    train(
        model,
        objective_for(how, model),
        rows(),
        how,
        lambda epoch: seen.append((epoch.number, model.training, epoch.logged["loss"])),
    )
    assert [(epoch, training) for epoch, training, _ in seen] == [(1, False), (2, False), (3, False)]
    assert seen[-1][2] < seen[0][2]


def test_a_loss_that_is_not_finite_ends_it_with_a_mend() -> None:
    broken = rows()
    broken.inputs[0] = float("nan")
    model = Small()
    with pytest.raises(FloatingPointError, match=r"loss is nan at step \d+; lower lr"):
        train(model, objective_for(Train(), model), broken, Train(epochs=1))


@pytest.mark.parametrize("how", [{"batch_size": 40}, {"batch_size": 20, "accumulate": 3}])
def test_a_row_that_would_be_alone_goes_with_the_batch_before(how: dict[str, int]) -> None:
    # Batch normalisation refuses a batch of one row with one value a channel.
    model, sizes = Small(), []
    model.body.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    train(model, objective_for(Train(), model), rows(81), Train(epochs=1, **how))
    assert sum(sizes) == 81
    assert min(sizes) > 1


def test_no_rows_are_refused() -> None:
    model = Small()
    with pytest.raises(ValueError, match="no rows to train on"):
        train(model, objective_for(Train(), model), rows(0), Train())


def test_recalibration_gives_the_rows_own_statistics() -> None:
    model, data = trained(Train(epochs=1)), rows(60)
    norm = model.body[2]
    norm.running_mean.fill_(100.0)
    momentum = norm.momentum
    recalibrate(model, data, batch_size=20)
    hidden = model.body[1](data.inputs.flatten(1)).detach()
    torch.testing.assert_close(norm.running_mean, hidden.mean(0), rtol=1e-4, atol=1e-5)
    # A mean of the batches' variances, hence near the whole's but not equal.
    batches = torch.stack([part.var(0) for part in hidden.split(20)]).mean(0)
    torch.testing.assert_close(norm.running_var, batches, rtol=1e-4, atol=1e-5)
    assert norm.momentum == momentum
    assert not model.training


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def plain(**changes: object) -> Small:
    """Trained without batch normalisation and dropout: a batch's parts then are as good as the whole."""
    model = Small()
    model.body[2], model.body[4] = nn.Identity(), nn.Identity()
    how = Train.model_validate({"epochs": 2, "batch_size": 20, "lr": 0.01, **changes})
    fine_tune(model, rows(150), how)
    return model


def test_accumulated_batches_make_the_step_of_one_large_batch() -> None:
    # 150 rows in steps of 40: the last one has 30, in parts of 20 and 10.
    whole, parts = plain(batch_size=40), plain(batch_size=20, accumulate=2)
    assert not torch.equal(whole.head.weight, plain(batch_size=20).head.weight)
    for name, tensor in state(whole).items():
        torch.testing.assert_close(state(parts)[name], tensor, rtol=1e-5, atol=1e-6)


def test_without_momentum_sgd_is_what_one_writes_by_hand() -> None:
    how = {"optimizer": "sgd", "schedule": "constant", "warmup": 0, "lr": 0.1, "weight_decay": 0.0}
    got = plain(**how, clip=0.05, batch_size=150, epochs=3)
    model = Small()
    model.body[2], model.body[4] = nn.Identity(), nn.Identity()
    data = rows(150)
    for _ in range(3):
        model.zero_grad()
        nn.functional.cross_entropy(model(data.inputs).logits, data.labels).backward()
        norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
        assert norm > 0.05  # clipping has something to do
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(0.1 * parameter.grad * 0.05 / norm)
    for name, tensor in state(model).items():
        torch.testing.assert_close(state(got)[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "how",
    [
        {"ema": 0.9},
        {"accumulate": 3, "amp": "bfloat16"},
        {"augment": {"mixup": 0.4, "cutmix": 1.0, "randaugment": 2}},
        {"optimizer": {"name": "lion", "betas": [0.9, 0.95]}, "ema": 0.99},
        {"objective": ["cross_entropy", {"name": "gradient_noise", "eta": 0.1}]},
    ],
    ids="+".join,
)
def test_everything_repeats_itself_to_the_bit_and_leaks_nothing(how: dict[str, object]) -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    made = []
    for _ in range(2):
        model = Small()
        fine_tune(model, rows(90), Train.model_validate({"epochs": 2, "batch_size": 30, **how}))
        made.append(state(model))
        torch.rand(3)
        torch.set_rng_state(before)
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    model = Small()
    fine_tune(model, rows(90), Train(epochs=2, batch_size=30))
    assert not torch.equal(model.head.weight, made[0]["head.weight"])  # the setting does something
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_the_average_is_the_recursion_written_out_and_is_what_is_judged_and_kept() -> None:
    model = Small()
    seen: list[dict[str, torch.Tensor]] = []
    raw: list[dict[str, torch.Tensor]] = []

    class Watched(CrossEntropy):
        def after_step(self, model, step, generator):
            raw.append(state(model))

    train(
        model,
        Watched(),
        rows(90),
        Train(epochs=2, batch_size=30, ema=0.6, lr=0.02),
        lambda epoch: seen.append(state(model)),
    )
    average = raw[0]
    for step, now in enumerate(raw[1:], start=1):
        decay = min(0.6, (1 + step) / (10 + step))
        average = {
            name: decay * average[name] + (1 - decay) * now[name]
            if now[name].is_floating_point()
            else now[name]
            for name in now
        }
    for name, tensor in average.items():
        torch.testing.assert_close(state(model)[name], tensor, rtol=1e-5, atol=1e-6)
    assert torch.equal(seen[-1]["head.weight"], model.head.weight)
    # Between epochs training goes on from its own weights, not from the average.
    assert not torch.equal(seen[0]["head.weight"], raw[2]["head.weight"])


def patient(scores: list[float], **how: object) -> tuple[Small, list[Epoch], list[dict[str, torch.Tensor]]]:
    model, given, epochs, states = Small(), iter(scores), [], []

    def judge() -> tuple[float, dict[str, float]]:
        states.append(state(model))
        return (score := next(given)), {"score": score}

    train(
        model,
        CrossEntropy(),
        rows(60),
        Train.model_validate({"epochs": len(scores), "patience": 2, **how}),
        epochs.append,
        judge=judge,
    )
    return model, epochs, states


@pytest.mark.parametrize("ema", [None, 0.5])
def test_patience_ends_training_and_keeps_the_best_epoch(ema: float | None) -> None:
    model, epochs, states = patient([0.1, 0.5, 0.4, float("nan"), 0.9], ema=ema)
    assert [(epoch.number, epoch.last) for epoch in epochs] == [(1, False), (2, False), (3, False), (4, True)]
    assert epochs[-1].logged["score"] == 0.5
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in state(model).items())


def test_with_patience_a_training_that_runs_to_its_end_keeps_the_best_epoch_too() -> None:
    model, epochs, states = patient([0.1, 0.5, 0.4])
    assert [epoch.last for epoch in epochs] == [False, False, True]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in state(model).items())


def test_patience_without_a_judge_is_refused() -> None:
    with pytest.raises(ValueError, match="patience needs validation rows to judge by"):
        train(Small(), CrossEntropy(), rows(), Train(patience=1))


@pytest.mark.parametrize("adapter", ["linear_probe", "bitfit"])
def test_an_adapter_trains_its_part_and_leaves_the_plain_architecture(adapter: str) -> None:
    model, seen = Small(), []
    model.__class__ = WithClassifier
    before = state(model)
    fine_tune(
        model,
        rows(),
        Train.model_validate({"epochs": 2, "lr": 0.02, "ema": 0.8, "adapter": adapter}),
        lambda epoch: seen.append((list(model.state_dict()), "_adapter" in model.__dict__)),
    )
    moved = {name for name, tensor in state(model).items() if not torch.equal(tensor, before[name])}
    biases = {"body.1.bias", "body.2.bias"} if adapter == "bitfit" else set()
    assert moved == {"head.weight", "head.bias"} | biases
    # What on_epoch writes on the last epoch is plain already.
    assert seen == [(list(before), True), (list(before), False)]
    assert all(parameter.requires_grad for parameter in model.parameters())


class WithClassifier(Small):
    @property
    def classifier(self) -> nn.Linear:
        return self.head


def test_an_adapters_penalty_is_part_of_the_loss() -> None:
    class Shrinks(registry.load("adapters", "full")):
        def penalty(self, model):
            return 100 * model.head.weight.square().sum()

    model, logged = Small(), []
    size = model.head.weight.norm().item()
    adapter = Shrinks()
    adapter.attach(model)
    train(
        model,
        CrossEntropy(),
        rows(),
        Train(epochs=12, lr=0.02),
        lambda epoch: logged.append(epoch.logged),
        adapter=adapter,
    )
    assert logged[0]["penalty"] > logged[-1]["penalty"]
    assert model.head.weight.norm().item() < 0.3 * size


def test_layers_learn_at_rates_of_their_own() -> None:
    net = registry.build(
        "encoders", "timm", {"model": "test_vit", "num_classes": 2, "image_size": 160, "channels": 3}
    )
    groups = _optimizers.layered([{"params": list(net.parameters())}], net, 0.1, 0.5)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rate) == len(list(net.parameters()))
    of = {name: rate[id(parameter)] for name, parameter in net.net.named_parameters()}
    blocks = len(net.net.blocks)
    assert of["head.weight"] == 0.1
    ratios = [
        of[f"blocks.{i}.attn.qkv.weight"] / of[f"blocks.{i + 1}.attn.qkv.weight"] for i in range(blocks - 1)
    ]
    assert ratios == [0.5] * (blocks - 1)
    assert of["patch_embed.proj.weight"] == 0.5 * of["blocks.0.attn.qkv.weight"]
    with pytest.raises(ValueError, match="name no layers; set it to 1"):
        _optimizers.layered([], Probe(dim=2, num_classes=2), 0.1, 0.5)


def test_layers_of_other_models_are_told_by_their_numbers() -> None:
    model = Small()
    groups = _optimizers.layered([{"params": list(model.parameters())}], model, 1.0, 0.5)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert {name: rate[id(p)] for name, p in model.named_parameters()} == {
        "body.1.weight": 0.25,
        "body.1.bias": 0.25,
        "body.2.weight": 0.5,
        "body.2.bias": 0.5,
        "head.weight": 1.0,
        "head.bias": 1.0,
    }


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("adamv", {}, "unknown optimizer 'adamv'; did you mean 'adam"),
        ("sgd", {"momentun": 0.9}, "optimizer/sgd has no option 'momentun'; did you mean 'momentum'"),
        ("adamw", {"lr": 1}, "optimizer/adamw: lr has a setting of its own"),
        ("adahessian", {}, "needs second derivatives"),
    ],
)
def test_optimisers_that_there_are_not(name: str, options: dict[str, float], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        parse({"optimizer": {"name": name, **options}}, Train, where="x")


def test_an_optimiser_that_refuses_its_options_says_so() -> None:
    model = Small()
    how = Train.model_validate({"optimizer": {"name": "sgd", "nesterov": True}})
    with pytest.raises(ValueError, match="optimizer/sgd: Nesterov momentum requires"):
        train(model, CrossEntropy(), rows(), how)


def test_what_does_not_fit_is_refused_before_anything_trains() -> None:
    model = Small()
    before = state(model)
    wrong = Rows(rows().inputs, rows().labels * 2)
    with pytest.raises(ValueError, match=r"labels run from 0 to 2, the model has 2 classes \(0\.\.1\)"):
        train(model, CrossEntropy(), wrong, Train())
    with pytest.raises(ValueError, match="float16 needs a GPU; use bfloat16"):
        train(model, CrossEntropy(), rows(), Train(amp="float16"))
    text = Small()
    text.modality = "text"
    with pytest.raises(
        ValueError, match=r"augment\.mixup changes images, and small reads text; leave it out"
    ):
        train(text, CrossEntropy(), rows(), Train.model_validate({"augment": {"mixup": 0.2}}))
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(model).items())


def test_a_gradient_or_weight_that_is_not_finite_ends_it() -> None:
    class Steep(CrossEntropy):
        def loss(self, model, batch, step, generator):
            losses = super().loss(model, batch, step, generator)
            # sqrt(0) is finite, its derivative is not.
            return {**losses, "loss": losses["loss"] + (model.head.weight.sum() * 0).sqrt()}

    class Breaks(CrossEntropy):
        def after_step(self, model, step, generator):
            model.head.weight.data[0, 0] = float("inf")

    with pytest.raises(FloatingPointError, match=r"the gradient is nan at step 0; lower lr \(0\.001\)"):
        train(Small(), Steep(), rows(), Train(epochs=1))
    with pytest.raises(FloatingPointError, match="a weight is nan at step 1; lower lr"):
        train(Small(), Breaks(), rows(), Train(epochs=1, batch_size=200))


def test_low_precision_forward_passes_keep_the_weights_in_full() -> None:
    how = {"epochs": 20, "lr": 0.03}
    low = plain(amp="bfloat16", **how)
    assert all(parameter.dtype == torch.float32 for parameter in low.parameters())
    assert not torch.equal(low.head.weight, plain(**how).head.weight)
    test = rows(seed=1)
    assert (logits_of(low, test).argmax(1) == test.labels).float().mean() > 0.9


def test_several_objectives_are_logged_each_and_summed() -> None:
    logged: list[Mapping[str, float]] = []
    model = Small()
    how = Train.model_validate(
        {
            "epochs": 1,
            "objective": [{"name": "cross_entropy", "weight": 2}, {"name": "early_learning", "weight": 0.5}],
        }
    )
    fine_tune(model, rows(), how, lambda epoch: logged.append(epoch.logged))
    total = 2 * logged[0]["cross_entropy.loss"] + 0.5 * logged[0]["early_learning.loss"]
    assert logged[0]["loss"] == pytest.approx(total, rel=1e-5)


def test_the_cosine_falls_once_a_cycle() -> None:
    how = Train(epochs=4, cycles=2, warmup=0.1)
    factor = _schedule(how, 40)
    rates = [factor(step) for step in range(40)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[19] < 0.02
    assert rates[20] == 1.0
    assert rates[30] == pytest.approx(0.5)
    assert rates[39] < 0.01
    once = _schedule(Train(epochs=4, warmup=0.1), 40)
    assert [once(step) for step in range(4, 40)] == sorted((once(s) for s in range(4, 40)), reverse=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 5, "cycles": 2}, "2 need schedule: cosine and epochs that they divide, got cosine and 5"),
        ({"epochs": 4, "cycles": 2, "schedule": "constant"}, "got constant and 4"),
        ({"epochs": 4, "cycles": 2, "patience": 1}, "leave out adapter and patience"),
    ],
)
def test_cycles_that_end_nowhere_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Train(**settings)
