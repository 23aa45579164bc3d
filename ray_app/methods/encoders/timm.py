"""Features of any image network in timm: pooled, per stage, and logits.

Tokens are the patch tokens of a transformer, or the places of the last map, row by row.
Layers are the stages that timm itself names for feature extraction (`feature_info`), or any modules by dotted
name; each is averaged over space or over its patch tokens.

Reference: R. Wightman, "PyTorch Image Models", https://github.com/huggingface/pytorch-image-models
Cost: one forward pass; asking for layers adds one mean a layer.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ray_app.methods.encoders import Encoder, Features, Inputs, Want, check_want
from ray_app.methods.encoders._pixels import Pixels
from ray_app.methods.encoders._tap import channels_first, pooled, tapped


class Timm(Encoder):
    """Use it for any convolutional or transformer image model by its timm name.

    Args:
        model: timm's name, `resnet50` or `hf-hub:owner/name`.
        pretrained: Download the published weights; otherwise they are drawn from `seed`.
        num_classes: Width of a fresh classifier; 0: none. None: as pretrained.
        channels: 1 (grey) or 3.
        image_size: Height and width that inputs are resized to; None: the model's own.
        mean: Subtracted from pixels in 0..1, a channel each; None: the model's own.
        std: Divides them; None: the model's own.
        layers: Modules to read as layers, by dotted name; None: the stages.
        model_args: Further arguments of timm.create_model (depths, widths, drop_path_rate).
        seed: Of the initial weights.
    """

    modality = "image"
    low_precision = True
    mean: Tensor  # float32 [1, channels, 1, 1], not part of the state
    std: Tensor  # likewise

    def __init__(
        self,
        *,
        model: str,
        pretrained: bool = False,
        num_classes: int | None = 0,
        channels: int = 3,
        image_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        layers: Sequence[str] | None = None,
        model_args: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"timm: channels must be 1 or 3, got {channels!r}")
        if image_size is not None and not 1 <= image_size <= 4096:
            raise ValueError(f"timm: image_size must be 1..4096 pixels, got {image_size!r}")
        self.model_name = model
        self.net = _create(model, num_classes, channels, dict(model_args or {}), seed, pretrained=pretrained)
        config = self.net.pretrained_cfg
        self.preparation = Pixels(_size(image_size, config), channels)
        self.register_buffer(
            "mean", _per_channel(mean, config.get("mean"), channels, "mean"), persistent=False
        )
        self.register_buffer("std", _per_channel(std, config.get("std"), channels, "std"), persistent=False)
        self.dim = int(getattr(self.net, "head_hidden_size", None) or self.net.num_features)
        self.num_classes = int(self.net.num_classes)
        self._stages, self._widths = _stages(self.net, layers)
        self._options = {
            "model": model,
            "channels": channels,
            "image_size": image_size,
            "mean": list(mean) if mean is not None else None,
            "std": list(std) if std is not None else None,
            "layers": list(layers) if layers is not None else None,
            "model_args": dict(model_args or {}),
        }

    @classmethod
    def light(cls, **options: Any) -> Pixels | None:
        """Return how it reads images; None for a model that timm alone cannot describe (one on a hub)."""
        import timm

        config = timm.models.get_pretrained_cfg(options["model"])
        if config is None and options.get("image_size") is None:
            return None
        own = {"input_size": config.input_size} if config is not None else {}
        return Pixels(_size(options.get("image_size"), own), options.get("channels", 3))

    def forward(self, inputs: Inputs, want: Collection[Want] = ()) -> Features:
        """Return features of pixels [n, channels, h, w]."""
        if not isinstance(inputs, Tensor):
            raise TypeError(f"timm: expected a tensor of pixels, got {type(inputs).__name__}")
        can = {
            "inputs",
            "tokens",
            *(["logits"] if self.num_classes else []),
            *(["layers", "maps"] if self._stages else []),
        }
        check_want(want, can, f"timm/{self.model_name}")
        if not len(inputs):
            # Some networks cannot reshape nothing.
            return self(inputs.new_zeros(1, *inputs.shape[1:]), want)[:0]
        layers: dict[str, Tensor] = {}
        maps: dict[str, Tensor] = {}

        def take(layer: str, output: Tensor) -> None:
            width = self._widths.get(layer)
            if "layers" in want:
                layers[layer] = pooled(output, width, getattr(self.net, "num_prefix_tokens", 0))
            if "maps" in want and output.ndim == 4:
                maps[layer] = channels_first(output, width).float().clone()

        scale = 1 / 255 if inputs.dtype == torch.uint8 else 1.0
        pixels = (inputs.to(self.mean.dtype) * scale - self.mean) / self.std
        with tapped(self.net, self._stages if {"layers", "maps"} & set(want) else {}, take):
            last = self.net.forward_features(pixels)
        return Features(
            pooled=self.net.forward_head(last, pre_logits=True).float(),
            layers=layers,
            maps=maps,
            logits=self.net.forward_head(last).float() if "logits" in want else None,
            **(self._tokens(last) if "tokens" in want else {}),
            inputs=inputs if "inputs" in want else None,
        )

    def _tokens(self, last: Tensor) -> dict[str, Tensor]:
        # A transformer's patch tokens, or the places of the last map; all rows have as many.
        if last.ndim == 4:
            found = channels_first(last, self.net.num_features).flatten(2).transpose(1, 2)
        else:
            found = last[:, getattr(self.net, "num_prefix_tokens", 0) :]
        lengths = torch.full((len(found),), found.shape[1], device=found.device)
        return {"tokens": found.float(), "lengths": lengths}

    @property
    def classifier(self) -> nn.Linear | None:
        """The last layer, where it is a plain linear one on the pooled features."""
        last = self.net.get_classifier()
        return last if isinstance(last, nn.Linear) and last.in_features == self.dim else None

    def portable(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return options that construct it anew offline; it needs no files."""
        return {**self._options, "num_classes": self.num_classes}, {}


def _create(
    model: str,
    num_classes: int | None,
    channels: int,
    arguments: dict[str, Any],
    seed: int,
    *,
    pretrained: bool,
) -> Any:
    import timm

    if num_classes is not None:
        arguments["num_classes"] = num_classes
    # timm draws initial weights from torch's global generator: lend it a seeded one, then give the old one
    # back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251
        try:
            return timm.create_model(model, pretrained=pretrained, in_chans=channels, **arguments)
        except (RuntimeError, TypeError, AssertionError, OSError) as error:
            from difflib import get_close_matches

            near = get_close_matches(model, timm.list_models(), n=3)
            hint = f"; near: {', '.join(near)}" if near and model not in near else ""
            raise ValueError(f"timm: cannot make {model!r}: {error}{hint}") from error


def _size(asked: int | None, config: Mapping[str, Any]) -> tuple[int, int]:
    if asked is not None:
        return asked, asked
    _, height, width = config.get("input_size", (3, 224, 224))
    return int(height), int(width)


def _per_channel(
    given: Sequence[float] | None, own: Sequence[float] | None, channels: int, what: str
) -> Tensor:
    values = list(given if given is not None else own or [0.5])
    if len(values) != channels:
        if given is not None and len(values) != 1:
            raise ValueError(
                f"timm: {what} has {len(values)} values for {channels} channels; give one, or one each"
            )
        values = [sum(values) / len(values)] * channels
    if what == "std" and min(values) <= 0:
        raise ValueError(f"timm: std must be > 0, got {values}")
    return torch.tensor(values, dtype=torch.float32).view(1, channels, 1, 1)


def _stages(net: Any, chosen: Sequence[str] | None) -> tuple[dict[str, str], dict[str, int]]:
    """Layer name → module, and layer name → width, in the order of the forward pass."""
    info = list(net.feature_info) if hasattr(net, "feature_info") else []
    widths = {str(stage["module"]): int(stage["num_chs"]) for stage in info}
    modules = dict(net.named_modules())
    if chosen is not None:
        for name in chosen:
            if name not in modules:
                raise ValueError(f"timm: no layer {name!r} in this model (stages: {', '.join(widths)})")
        return {name: name for name in chosen}, widths
    return {name: name for name in widths if name in modules}, widths
