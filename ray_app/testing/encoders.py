"""The contract of encoders."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ray_app.methods.encoders import Encoder, Features, Inputs, Want
from ray_app.testing._expect import expect, expect_close, expect_raises, through_safetensors, untouched

if TYPE_CHECKING:
    from ray_app.methods import Batch

_ALL: tuple[Want, ...] = ("layers", "maps", "tokens", "logits", "inputs")


def check_encoder(make: Callable[[], Encoder], batch: "Batch") -> None:
    """Check everything that encoders promise.

    Args:
        make: Returns a fresh encoder; the same weights each time.
        batch: Rows that it can read, at least four.

    Raises:
        AssertionError: With a sentence about what does not hold.
    """
    with untouched(batch):
        encoder = make().eval()
        inputs = encoder.preprocess(batch)
    n = len(batch[encoder.column])
    can = _able(encoder, inputs)
    features = check_shapes(encoder, inputs, n, can)
    check_rows(encoder, batch, features)
    check_portable(encoder, inputs, can)
    expect_raises(ValueError, lambda: encoder.preprocess({}), "a missing column must raise ValueError")
    if isinstance(inputs, Tensor):
        check_differentiable(encoder, inputs)


def check_shapes(encoder: Encoder, inputs: Inputs, n: int, can: set[Want]) -> Features:
    """Check what comes out, and that nothing comes that nobody asked for; return all of it."""
    with torch.no_grad(), untouched(inputs):
        bare = encoder(inputs)
        full = encoder(inputs, can)
    expect(
        bare.pooled.shape == (n, encoder.dim),
        f"pooled must be [{n}, {encoder.dim}], got {list(bare.pooled.shape)}",
    )
    expect(bare.pooled.dtype == torch.float32, f"pooled must be float32, got {bare.pooled.dtype}")
    extras = [bare.logits, bare.tokens, bare.lengths, bare.inputs]
    expect(
        not bare.layers and not bare.maps and all(extra is None for extra in extras),
        "what nobody asked for must not be there",
    )
    expect_close(full.pooled, bare.pooled, "wishes must not change the pooled features")
    if encoder.num_classes:
        expect(full.logits is not None, "an encoder with num_classes must give logits")
        logits = cast(Tensor, full.logits)
        expect(logits.shape == (n, encoder.num_classes), f"logits must be [{n}, {encoder.num_classes}]")
    for name, layer in full.layers.items():
        expect(layer.ndim == 2 and len(layer) == n, f"layer {name} must be [n, d], got {list(layer.shape)}")
        expect(layer.dtype == torch.float32, f"layer {name} must be float32, got {layer.dtype}")
    for name, maps in full.maps.items():
        expect(maps.ndim == 4 and len(maps) == n, f"map {name} must be [n, c, h, w], got {list(maps.shape)}")
    if full.tokens is not None:
        expect(full.tokens.ndim == 3 and full.lengths is not None, "tokens must be [n, t, d], with lengths")
    return cast(Features, full)


def check_rows(encoder: Encoder, batch: "Batch", features: Features) -> None:
    """Check that a row's features do not depend on the other rows, and that no rows give no features."""
    n = len(features)
    with torch.inference_mode():
        parts = [
            encoder(encoder.preprocess({name: values[row : row + 1] for name, values in batch.items()}))
            for row in range(n)
        ]
        nothing = encoder.preprocess({name: values[:0] for name, values in batch.items()})
        expect(len(encoder(nothing)) == 0, "no rows must give [0, d]")
    joined = torch.cat([part.pooled for part in parts])
    expect_close(joined, features.pooled, "a row's features must not depend on the other rows", 1e-4, 1e-5)


def check_portable(encoder: Encoder, inputs: Inputs, can: set[Want]) -> None:
    """Check that options, files and weights make the same encoder again, from nothing else."""
    options, files = encoder.portable()
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            expect(Path(name).name == name, f"file {name!r} must have a plain name")
            (Path(folder) / name).write_bytes(content)
        supplied = {"assets": Path(folder)} if files else {}
        twin = type(encoder)(**options, **supplied).eval()
    through_safetensors(encoder, twin)
    with torch.no_grad():
        before, after = encoder(inputs, can), twin(inputs, can)
    expect(
        torch.equal(before.pooled, after.pooled),
        "options, files and weights must make the same encoder again",
    )
    expect(list(before.layers) == list(after.layers), "its layers must have the same names")


def check_differentiable(encoder: Encoder, inputs: Tensor) -> None:
    """Check gradients with respect to inputs, and that bytes and floats mean the same."""
    pixels = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs.clone()
    with torch.no_grad():
        expect_close(
            encoder(pixels).pooled, encoder(inputs).pooled, "bytes and floats must mean the same", 1e-4
        )
    pixels.requires_grad_()
    (gradient,) = torch.autograd.grad(encoder(pixels).pooled.square().sum(), pixels)
    expect(bool(gradient.abs().sum() > 0), "features must be differentiable with respect to the inputs")


def _able(encoder: Encoder, inputs: Inputs) -> set[Want]:
    can: set[Want] = set()
    for wish in _ALL:
        try:
            with torch.no_grad():
                encoder(inputs, {wish})
        except ValueError as error:
            expect(wish in str(error), f"a wish that cannot be fulfilled must be named; {wish}: {error}")
            continue
        can.add(wish)
    expect("inputs" in can, "inputs must be given back where wanted")
    return can
