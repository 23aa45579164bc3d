"""A text encoder's network in 8 bits, as OpenVINO runs it on a CPU (the `int8` extra).

Weights and activations of linear layers are rounded to 8 bits; the ranges of the activations are learned from
a few rows, so the network is made once and read by all processes of a build: each row then gets the same
numbers whoever encodes it.
"""

import io
import logging
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ray_app.errors import DataError, SpecError

if TYPE_CHECKING:
    from ray_app.methods.encoders import Encoder, Inputs

FILE = "int8.zip"
_XML, _BIN = "network.xml", "network.bin"
# Rows that the ranges of activations are learned from, which is most of what it takes to begin.
EXAMPLES = 24


class Int8(nn.Module):
    """Stands where the network stood, and is called like it.

    Args:
        content: What `quantized` returned.
        threads: That it may use.
    """

    def __init__(self, content: bytes, threads: int) -> None:
        super().__init__()
        # An encoder says where its parameters are.
        self.anchor = nn.Parameter(torch.zeros(0), requires_grad=False)
        openvino = _openvino()
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            model = openvino.Core().read_model(file.read(_XML), file.read(_BIN))
        self._compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads})

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> SimpleNamespace:
        """Return an object with `last_hidden_state`, float32 [n, t, d]."""
        if options.pop("output_hidden_states", False):
            raise DataError("dtype: int8 gives no layers; leave out `layers`, and detectors that read them")
        found = self._compiled({"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()})[0]
        # The next call writes into the same memory.
        return SimpleNamespace(last_hidden_state=torch.from_numpy(found.copy()))


def check(encoder: str) -> None:
    """Refuse what cannot be had in 8 bits.

    Args:
        encoder: Its method's name.

    Raises:
        SpecError: It is none of the transformers library's, or the extra is not installed.
    """
    if encoder != "transformers":
        raise SpecError(f"dtype: int8 is for encoders/transformers, not for encoders/{encoder}; use bfloat16")
    for package in ("openvino", "nncf"):
        if find_spec(package) is None:
            raise SpecError(
                f"dtype: int8 needs the `int8` extra ({package} is not installed);"
                " pip install 'ray-app[int8]', or use bfloat16"
            )


def quantized(encoder: "Encoder", examples: "Sequence[Inputs]") -> bytes:
    """Return the encoder's network in 8 bits.

    Args:
        encoder: In float32; it stays as it is.
        examples: Collated rows, from which the ranges of activations are learned.
    """
    openvino = _openvino()
    import nncf

    # Of a text in windows, each.
    given = [
        {name: one[name].flatten(0, -2).numpy() for name in ("input_ids", "attention_mask")}
        for one in examples
        if isinstance(one, dict)
    ]
    shape = {name: torch.from_numpy(values) for name, values in given[0].items()}
    with warnings.catch_warnings(), _silent(), tempfile.TemporaryDirectory() as folder:
        # The tracer warns of each branch that depends on a shape.
        warnings.simplefilter("ignore")
        model = openvino.convert_model(_Hidden(encoder.net), example_input=shape)
        rounded = nncf.quantize(
            model, nncf.Dataset(given), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(given)
        )
        openvino.save_model(rounded, Path(folder) / _XML)
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w") as file:
            for name in (_XML, _BIN):
                file.write(Path(folder) / name, name)
    return sink.getvalue()


class _Hidden(nn.Module):
    """A network that returns the last hidden state alone."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden: Tensor = self.net(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return hidden


def _openvino() -> Any:
    # It would report every use to its makers; without this module it does not.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@contextmanager
def _silent() -> Iterator[None]:
    """Keep bars and advice of the quantizer from the terminal."""
    import nncf

    level = logging.getLogger("nncf").level
    nncf.set_log_level(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        nncf.set_log_level(level)


__all__ = ["EXAMPLES", "FILE", "Int8", "check", "quantized"]
