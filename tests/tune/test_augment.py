"""Augmentation: what is mixed, with which labels, and that chance is the generator's alone."""

import numpy as np
import pytest
import torch

from ray_app.spec.train import Augment
from ray_app.tune.augment import Augmentation, lent

LABELS = torch.arange(8) % 3
# Each image has one grey of its own, so that a pixel says which image it is of.
GREYS = torch.arange(8, dtype=torch.float32) / 10
IMAGES = GREYS[:, None, None, None].expand(8, 1, 12, 12).contiguous()


def augmented(
    seed: int = 0, images: torch.Tensor = IMAGES, **how: float
) -> tuple[torch.Tensor, torch.Tensor]:
    change = Augmentation(Augment.model_validate(how), num_classes=3)
    return change(images, LABELS, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(4))
def test_mixup_blends_labels_as_it_blends_images(seed: int) -> None:
    images, labels = augmented(seed, mixup=1.0)
    for row in range(8):
        one, other = row, row - 1
        grey = images[row].unique()
        assert len(grey) == 1
        share = ((grey - GREYS[other]) / (GREYS[one] - GREYS[other])).item()
        assert 0 <= share <= 1
        expected = torch.zeros(3)
        expected[LABELS[one]] += share
        expected[LABELS[other]] += 1 - share
        torch.testing.assert_close(labels[row], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_cutmix_gives_labels_the_share_of_pixels(seed: int) -> None:
    images, labels = augmented(seed, cutmix=1.0)
    for row in range(8):
        own = (images[row] == GREYS[row]).float().mean().item()
        assert (images[row] == GREYS[row - 1]).float().mean().item() == pytest.approx(1 - own)
        expected = torch.zeros(3)
        expected[LABELS[row]] += own
        expected[LABELS[row - 1]] += 1 - own
        torch.testing.assert_close(labels[row], expected, rtol=0, atol=1e-5)


def test_with_both_each_batch_has_one_of_them() -> None:
    kinds = {len(augmented(seed, mixup=1.0, cutmix=1.0)[0][3].unique()) for seed in range(12)}
    assert kinds >= {1, 2}  # one blended grey, or two


def test_randaugment_changes_each_image_by_itself_and_keeps_its_type() -> None:
    picture = torch.randint(0, 256, (1, 1, 12, 12), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )
    images, labels = augmented(images=picture.expand(8, 1, 12, 12).contiguous(), randaugment=2, magnitude=20)
    assert images.dtype == torch.uint8
    assert labels is LABELS
    assert len({image.numpy().tobytes() for image in images}) > 3


@pytest.mark.parametrize(
    "how", [{"mixup": 0.4}, {"cutmix": 1.0}, {"randaugment": 2}, {"noise": 0.1, "shift": 0.1}]
)
def test_chance_is_the_generators_alone(how: dict[str, float]) -> None:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = augmented(0, **how)
    with lent(99):
        torch.rand(5)
        again = augmented(0, **how)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], augmented(1, **how)[0]) or not torch.equal(
        first[0], augmented(2, **how)[0]
    )
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_one_row_is_mixed_with_itself() -> None:
    change = Augmentation(Augment(mixup=0.4), num_classes=3)
    images, labels = change(IMAGES[:1], LABELS[:1], torch.Generator().manual_seed(0))
    torch.testing.assert_close(images, IMAGES[:1])
    torch.testing.assert_close(labels, torch.tensor([[1.0, 0, 0]]))
