"""Augmentation of training images: torchvision's RandAugment, our views, torchvision's mixup and cutmix."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ray_app.methods._views import Views
from ray_app.spec.train import Augment


class Augmentation:
    """Changes a batch of images as a spec says; the same generator changes it in the same way.

    Args:
        how: The spec.
        num_classes: Width of blended labels.
    """

    def __init__(self, how: Augment, num_classes: int) -> None:
        self._views = Views(noise=how.noise, shift=how.shift, rotate=how.rotate, erase=how.erase)
        self._moves = bool({"noise", "shift", "rotate", "erase"} & set(how.used))
        self._rand: Any = None
        self._mixers: list[Any] = []
        if how.randaugment or how.mixes:
            # Only who asks for them waits for torchvision.
            from torchvision.transforms import v2

            if how.randaugment:
                self._rand = v2.RandAugment(how.randaugment, how.magnitude)
            mixers = {"mixup": v2.MixUp, "cutmix": v2.CutMix}
            self._mixers = [
                mixers[name](alpha=getattr(how, name), num_classes=num_classes) for name in how.mixes
            ]

    def __call__(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return images [n, c, h, w] and labels, which are float32 [n, num_classes] where they are blended.

        Args:
            images: uint8 0..255 or float 0..1 [n, c, h, w].
            labels: int64 [n].
            generator: On the CPU.
        """
        if self._rand is not None:
            with lent(generator):
                # Image by image: on a batch it would draw one change for all.
                images = torch.stack([self._rand(image) for image in images])
        if self._moves:
            images = self._views(images, generator)
        if self._mixers:
            which = int(torch.randint(len(self._mixers), (1,), generator=generator))
            if images.dtype == torch.uint8:
                images = images.float() / 255
            with lent(generator):
                images, labels = self._mixers[which](images, labels)
        return images, labels


@contextmanager
def lent(source: torch.Generator | int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators for a block, then give their old state back.

    Dropout and torchvision can draw from nothing else.

    Args:
        source: A seed, or the generator to draw one from.
        device: Whose generator is lent besides the CPU's.
    """
    seed = source if isinstance(source, int) else int(torch.randint(2**62, (1,), generator=source))
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)  # noqa: TID251
        yield
