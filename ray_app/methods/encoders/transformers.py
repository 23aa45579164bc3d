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
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ray_app.methods.encoders import Encoder, Features, Inputs, Want, check_want

if TYPE_CHECKING:
    from ray_app.methods import Batch

# Where neither the model nor its tokenizer names a limit.
_USUAL_LENGTH = 512


class Transformers(Encoder):
    """Use it for BERT and its kin, from a folder or by name on the hub; reads the column `text`.

    Args:
        model: A folder that holds a model and its tokenizer, or a name on the hub. Not needed with assets.
        pretrained: Load the weights (safetensors); otherwise they are drawn from `seed`.
        pooling: What stands for a text.
        normalize: Scale pooled features to length 1, as sentence encoders do.
        max_length: Most tokens of a text, the rest is cut off; None: what the model can take.
        num_classes: Width of a fresh linear classifier on the pooled features; 0: none.
        revision: Which version on the hub.
        seed: Of weights that are not loaded.
        assets: Folder with a bundle's configuration and tokenizer; weights come from the bundle then.
    """

    modality = "text"

    def __init__(
        self,
        *,
        model: str | None = None,
        pretrained: bool = True,
        pooling: Literal["mean", "cls"] = "mean",
        normalize: bool = False,
        max_length: int | None = None,
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
        source = str(assets) if assets is not None else model
        if source is None:
            raise ValueError("transformers: no model; name a folder or a model on the hub")
        self.pooling = pooling
        self.normalize = normalize
        self.num_classes = num_classes
        self.tokenizer = _tokenizer(source, revision)
        # transformers and torch draw initial weights from the global generator: lend it a seeded one.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # noqa: TID251
            self.net = _network(source, revision, load=pretrained and assets is None)
            self.dim = int(self.net.config.hidden_size)
            self.head = nn.Linear(self.dim, num_classes) if num_classes else None
        self.max_length = _checked_length(max_length, self.net.config, self.tokenizer)

    @property
    def classifier(self) -> nn.Linear | None:
        """The linear layer from pooled features to logits, where it has one."""
        return self.head

    def preprocess(self, batch: "Batch") -> Inputs:
        """Return token ids and mask, int64 [n, t] each, from the strings of the column `text`."""
        if self.column not in batch:
            raise ValueError(
                f"no column {self.column!r} to encode (columns: {', '.join(batch)}); map it with `columns:`"
            )
        texts = batch[self.column].tolist()
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(
                    f"row {row}: {type(text).__name__} in the column {self.column!r}; expected text"
                )
        # A tokenizer refuses no texts at all.
        encoded = self.tokenizer(
            texts or [""],
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        return {name: values[: len(texts)] for name, values in encoded.items()}

    def forward(self, inputs: Inputs, want: Collection[Want] = ()) -> Features:
        """Return features of what `preprocess` made of n texts."""
        if isinstance(inputs, Tensor):
            raise TypeError(
                "transformers: expected a dict with input_ids, got a tensor; call preprocess first"
            )
        check_want(want, {"layers", "tokens", "inputs", *(["logits"] if self.head else [])}, "transformers")
        if not len(inputs["input_ids"]):
            blank = {name: values.new_ones(1, max(1, values.shape[1])) for name, values in inputs.items()}
            return self(blank, want)[:0]
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
            logits=self.head(pooled).float() if self.head is not None and "logits" in want else None,
            inputs=inputs if "inputs" in want else None,
        )

    def portable(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return options, and the configuration's and tokenizer's files."""
        options = {
            "pooling": self.pooling,
            "normalize": self.normalize,
            "max_length": self.max_length,
            "num_classes": self.num_classes,
        }
        with tempfile.TemporaryDirectory() as folder:
            self.net.config.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            files = {
                file.name: file.read_bytes() for file in sorted(Path(folder).iterdir()) if file.is_file()
            }
        return options, files

    def _pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Float32 [n, d] from hidden states [n, t, d]."""
        if self.pooling == "cls":
            return hidden[:, 0].float()
        weight = mask[:, :, None].float()
        return (hidden.float() * weight).sum(1) / weight.sum(1).clamp(min=1)


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
    from transformers import AutoConfig, AutoModel

    try:
        if load:
            # Nothing here unpickles, so the older .bin files are refused.
            net = AutoModel.from_pretrained(
                source, revision=revision, use_safetensors=True, dtype=torch.float32
            )
        else:
            config = AutoConfig.from_pretrained(source, revision=revision)
            net = AutoModel.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
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
