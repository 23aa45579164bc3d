"""The training loop: it learns, repeats itself to the bit, and says what is wrong."""

import pytest
import torch
from torch import nn

from ray_app.methods.encoders import Encoder, Features
from ray_app.spec.train import Augment, Train
from ray_app.tune.start import objective_for
from ray_app.tune.training import Rows, logits_of, recalibrate, train


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
