"""Masked autoencoding: which pixels are hidden, which count, and against the formula written as a loop."""

import pytest
import torch

from ray_app import registry
from ray_app.methods.objectives import TrainBatch
from ray_app.methods.objectives.masked_autoencoding import MaskedAutoencoding
from ray_app.testing.objectives import TinyModel

PIXELS = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class Watched(TinyModel):
    """Keeps what it saw."""

    def forward(self, inputs, want=()):
        self.seen = inputs.detach().clone()
        return super().forward(inputs, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize(("ratio", "masked"), [(0.5, 2), (0.75, 3), (0.99, 3), (0.01, 1)])
def test_the_loss_is_the_error_on_the_patches_that_are_painted_over(
    ratio: float, masked: int, dtype: torch.dtype
) -> None:
    model, objective = Watched(), MaskedAutoencoding(mask_ratio=ratio)
    inputs = (PIXELS * 255).to(torch.uint8) if dtype == torch.uint8 else PIXELS
    pixels = inputs / 255 if dtype == torch.uint8 else PIXELS
    objective.begin(model, TrainBatch(inputs))
    with torch.no_grad():
        objective.colour.fill_(7.0)  # a colour that no pixel has
    got = objective.loss(model, TrainBatch(inputs), 0, torch.Generator().manual_seed(1))["loss"]
    seen = model.seen
    told = objective.decode(model(seen, {"tokens"}).tokens)
    total = 0.0
    for row in range(5):
        hidden = 0
        for token, (y, x) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
            patch = pixels[row, 0, y : y + 2, x : x + 2]
            if (seen[row, 0, y : y + 2, x : x + 2] == 7).all():
                total += (told[row, token] - patch.flatten()).square().mean().item() / masked
                hidden += 1
            else:
                assert torch.equal(seen[row, 0, y : y + 2, x : x + 2], patch)
        assert hidden == masked
    assert got.item() == pytest.approx(total / 5, rel=1e-5)


def test_masks_differ_between_images_and_steps() -> None:
    model, objective = Watched(), MaskedAutoencoding(mask_ratio=0.5)
    objective.begin(model, TrainBatch(PIXELS))
    generator, seen = torch.Generator().manual_seed(0), []
    for _ in range(8):
        objective.loss(model, TrainBatch(PIXELS), 0, generator)
        seen += [tuple((model.seen[row] != PIXELS[row]).flatten().tolist()) for row in range(5)]
    assert len(set(seen)) == 6  # all ways to hide two of four


@pytest.mark.parametrize(("name", "size"), [("test_vit", 160), ("test_resnet", 96), ("test_convnext", 96)])
def test_any_image_network_learns_by_it(name: str, size: int) -> None:
    net = registry.build("encoders", "timm", {"model": name, "image_size": size, "channels": 1})
    objective = MaskedAutoencoding(mask_ratio=0.5)
    # A smooth picture, which can be told from its rest.
    light = torch.tensor([1, 0.8, 0.6, 0.4])[:, None, None, None]
    pixels = torch.linspace(0, 1, size).expand(4, 1, size, size) * light
    objective.begin(net, TrainBatch(pixels))
    net.train()
    optimizer = torch.optim.Adam([*net.parameters(), *objective.parameters()], lr=1e-2)
    generator, losses = torch.Generator().manual_seed(0), []
    for step in range(15):
        loss = objective.loss(net, TrainBatch(pixels), step, generator)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])


@pytest.mark.parametrize(("name", "size", "patch"), [("test_vit", 160, 16), ("test_resnet", 128, 32)])
def test_tokens_are_in_the_order_of_their_places(name: str, size: int, patch: int) -> None:
    # Where pixels change, tokens change most: the decoder's geometry rests on it.
    net = registry.build("encoders", "timm", {"model": name, "image_size": size, "channels": 1}).eval()
    pixels = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0))
    changed, side = pixels.clone(), size // patch
    changed[..., -patch:, :patch] = 0  # the last row's first place
    with torch.no_grad():
        before, after = (net(one, {"tokens"}).tokens for one in (pixels, changed))
    assert before.shape == (1, side * side, net.net.num_features)
    assert (before - after).norm(dim=2).argmax().item() == (side - 1) * side


class Squashed(TinyModel):
    """Four tokens of whatever pixels."""

    def forward(self, inputs, want=()):
        return super().forward(torch.nn.functional.adaptive_avg_pool2d(inputs, 4), want)


def test_what_it_refuses() -> None:
    model = TinyModel()
    with pytest.raises(ValueError, match="call begin"):
        MaskedAutoencoding().loss(model, TrainBatch(PIXELS), 0, torch.Generator())
    with pytest.raises(ValueError, match=r"pixels \[n, c, h, w\]; the inputs are none"):
        MaskedAutoencoding().begin(model, TrainBatch({"input_ids": torch.zeros(2, 3)}))
    with pytest.raises(ValueError, match="mask_ratio must lie between 0 and 1, got 1"):
        MaskedAutoencoding(mask_ratio=1)
    with pytest.raises(ValueError, match="4 tokens do not divide 6 x 4 pixels"):
        MaskedAutoencoding().begin(Squashed(), TrainBatch(torch.rand(2, 1, 6, 4)))
    net = registry.build("encoders", "timm", {"model": "test_resnet", "image_size": 32, "channels": 1})
    with pytest.raises(ValueError, match="all of 32 x 32 pixels is one token"):
        MaskedAutoencoding().begin(net, TrainBatch(torch.rand(2, 1, 32, 32)))
