"""Features of any text encoder of the transformers library: pooled, per layer, tokens, and logits.

    pooled = mean over real tokens of the last hidden state (pooling: mean), or its first token (cls)

Layers are `embeddings` and `layer.1` … `layer.L`, each pooled in the same way.

Reference: T. Wolf et al., "Transformers: State-of-the-Art Natural Language Processing", EMNLP 2020
    (demonstrations), https://arxiv.org/abs/1910.03771
Departure: of an encoder-decoder model, the encoder alone is used.
Cost: one forward pass over rows padded to the longest of their batch; asking for layers keeps all hidden
    states.
"""

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ray_app.methods.encoders import Encoder, Features, Inputs, Want, check_want
from ray_app.methods.encoders._tokens import Tokens

# Where neither the model nor its tokenizer names a limit.
_USUAL_LENGTH = 512


class Transformers(Encoder):
    """Use it for BERT and its kin, from a folder or by name on the hub; reads the column `text`.

    Args:
        model: A folder that holds a model and its tokenizer, or a name on the hub. Not needed with assets.
        pretrained: Load the weights (safetensors); otherwise they are drawn from `seed`.
        pooling: What stands for a text.
        normalize: Scale pooled features to length 1, as sentence encoders do.
        max_length: Most tokens of a text that are read at once; None: what the model can take.
        long: What becomes of a longer text: it is cut off, or divided into windows whose features are
            averaged, each with the weight of its tokens.
        overlap: Tokens that neighbouring windows share.
        num_classes: Width of a fresh linear classifier on the pooled features; 0: none.
        revision: Which version on the hub.
        seed: Of weights that are not loaded.
        assets: Folder with a bundle's configuration and tokenizer; weights come from the bundle then.
    """

    modality = "text"
    low_precision = True

    def __init__(
        self,
        *,
        model: str | None = None,
        pretrained: bool = True,
        pooling: Literal["mean", "cls"] = "mean",
        normalize: bool = False,
        max_length: int | None = None,
        long: Literal["cut", "chunk"] = "cut",
        overlap: int = 0,
        num_classes: int = 0,
        revision: str | None = None,
        seed: int = 0,
        assets: Path | str | None = None,
    ) -> None:
        super().__init__()
        if pooling not in ("mean", "cls"):
            raise ValueError(f"transformers: pooling must be mean or cls, got {pooling!r}")
        if num_classes < 0:
            raise ValueError(
                f"transformers: num_classes must be >= 0, got {num_classes!r}; 0 is no classifier"
            )
        source = _named(model, assets)
        self.pooling = pooling
        self.normalize = normalize
        self.num_classes = num_classes
        self.preparation: Tokens = _tokens(source, revision, max_length, long, overlap)
        # transformers and torch draw initial weights from the global generator: lend it a seeded one.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # noqa: TID251
            self.net = _network(source, revision, load=pretrained and assets is None)
            self.dim = int(self.net.config.hidden_size)
            self.head = nn.Linear(self.dim, num_classes) if num_classes else None

    @classmethod
    def light(cls, **options: Any) -> Tokens:
        """Return the tokenizer's part; of the model, its configuration alone is read."""
        return _tokens(
            _named(options.get("model"), options.get("assets")),
            options.get("revision"),
            options.get("max_length"),
            options.get("long", "cut"),
            options.get("overlap", 0),
        )

    @property
    def classifier(self) -> nn.Linear | None:
        """The linear layer from pooled features to logits, where it has one."""
        return self.head

    def forward(self, inputs: Inputs, want: Collection[Want] = ()) -> Features:
        """Return features of what `preprocess` made of n texts."""
        if isinstance(inputs, Tensor):
            raise TypeError(
                "transformers: expected a dict with input_ids, got a tensor; call preprocess first"
            )
        check_want(want, {"layers", "tokens", "inputs", *(["logits"] if self.head else [])}, "transformers")
        if not len(inputs["input_ids"]):
            blank = {name: values.new_ones(1, max(1, values.shape[-1])) for name, values in inputs.items()}
            return self(blank, want)[:0]
        if inputs["input_ids"].ndim == 3:
            return self._of_windows(inputs, want)
        mask = inputs["attention_mask"]
        output = self.net(**inputs, output_hidden_states="layers" in want)
        pooled = self._pooled(output.last_hidden_state, mask)
        layers: dict[str, Tensor] = {}
        if "layers" in want:
            names = ["embeddings", *(f"layer.{i}" for i in range(1, len(output.hidden_states)))]
            layers = {
                name: self._pooled(hidden, mask)
                for name, hidden in zip(names, output.hidden_states, strict=True)
            }
        if self.normalize:
            pooled = nn.functional.normalize(pooled, dim=1)
        return Features(
            pooled=pooled,
            layers=layers,
            tokens=output.last_hidden_state.float() if "tokens" in want else None,
            lengths=mask.sum(1) if "tokens" in want else None,
            logits=self._logits(pooled) if "logits" in want else None,
            inputs=inputs if "inputs" in want else None,
        )

    def portable(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return options, and the configuration's and tokenizer's files."""
        options = {
            "pooling": self.pooling,
            "normalize": self.normalize,
            "max_length": self.preparation.max_length,
            "long": self.preparation.long,
            "overlap": self.preparation.overlap,
            "num_classes": self.num_classes,
        }
        with tempfile.TemporaryDirectory() as folder:
            self.net.config.save_pretrained(folder)
            self.preparation.tokenizer.save_pretrained(folder)
            files = {
                file.name: file.read_bytes() for file in sorted(Path(folder).iterdir()) if file.is_file()
            }
        return options, files

    def _of_windows(self, inputs: dict[str, Tensor], want: Collection[Want]) -> Features:
        """Features of texts in windows [n, w, t]: those of the windows, averaged."""
        if "tokens" in want:
            raise ValueError("transformers: has no tokens of texts in windows; use long: cut")
        filled = inputs["attention_mask"].any(2)
        parts = self(
            {name: values[filled] for name, values in inputs.items()}, set(want) - {"inputs", "logits"}
        )
        weight = inputs["attention_mask"].sum(2)[filled].float()
        row = filled.nonzero()[:, 0]
        total = weight.new_zeros(len(filled)).index_add_(0, row, weight)

        def averaged(values: Tensor) -> Tensor:
            sums = values.new_zeros(len(filled), values.shape[1])
            return sums.index_add(0, row, values * weight[:, None]) / total[:, None]

        pooled = averaged(parts.pooled)
        if self.normalize:
            pooled = nn.functional.normalize(pooled, dim=1)
        return Features(
            pooled=pooled,
            layers={name: averaged(values) for name, values in parts.layers.items()},
            logits=self._logits(pooled) if "logits" in want else None,
            inputs=inputs if "inputs" in want else None,
        )

    def _logits(self, pooled: Tensor) -> Tensor | None:
        return self.head(pooled.to(self.head.weight.dtype)).float() if self.head is not None else None

    def _pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Float32 [n, d] from hidden states [n, t, d]."""
        if self.pooling == "cls":
            return hidden[:, 0].float()
        weight = mask[:, :, None].float()
        return (hidden.float() * weight).sum(1) / weight.sum(1).clamp(min=1)


def _named(model: str | None, assets: Path | str | None) -> str:
    if assets is None and model is None:
        raise ValueError("transformers: no model; name a folder or a model on the hub")
    return str(assets) if assets is not None else str(model)


def _tokens(
    source: str,
    revision: str | None,
    max_length: int | None,
    long: Literal["cut", "chunk"],
    overlap: int,
) -> Tokens:
    if long not in ("cut", "chunk"):
        raise ValueError(f"transformers: long must be cut or chunk, got {long!r}")
    tokenizer = _tokenizer(source, revision)
    length = _checked_length(max_length, _config(source, revision), tokenizer)
    return Tokens(tokenizer, length, long, overlap)


def _config(source: str, revision: str | None) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"transformers: no model at {source!r} ({_first_line(error)}); give its folder or name"
        ) from error


def _tokenizer(source: str, revision: str | None) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"transformers: no tokenizer at {source!r} ({_first_line(error)}); is it a model's folder?"
        ) from error
    # Positions count from the left: real tokens first.
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _network(source: str, revision: str | None, *, load: bool) -> Any:
    from transformers import AutoModel

    try:
        if load:
            # Nothing here unpickles, so the older .bin files are refused.
            net = AutoModel.from_pretrained(
                source, revision=revision, use_safetensors=True, dtype=torch.float32
            )
        else:
            net = AutoModel.from_config(  # type: ignore[no-untyped-call]
                _config(source, revision), dtype=torch.float32
            )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"transformers: no model at {source!r} ({_first_line(error)}); give its folder or name"
        ) from error
    return net.get_encoder() if net.config.is_encoder_decoder else net


def _checked_length(asked: int | None, config: Any, tokenizer: Any) -> int:
    limits = [getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
    # A tokenizer without a limit says 10^30.
    able = min([limit for limit in limits if isinstance(limit, int) and 0 < limit < 10**9], default=None)
    if asked is not None and not 1 <= asked <= (able or asked):
        raise ValueError(f"transformers: max_length must be 1..{able} for this model, got {asked!r}")
    return asked or able or _USUAL_LENGTH


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
