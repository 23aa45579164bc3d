"""Small BERTs that a single core trains in seconds, and their tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_app import registry
from ray_app.methods.encoders import Encoder

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Words:
    """A tokenizer, and where it is kept for models to be made with it."""

    tokenizer: Any
    folder: Path

    def masked_lm(self) -> dict[str, Any]:
        """Return the objective that pre-trains a model of these words, as a spec has it."""
        return {
            "name": "masked_lm",
            "vocabulary": len(self.tokenizer),
            "mask": self.tokenizer.mask_token_id,
            "special": list(self.tokenizer.all_special_ids),
        }

    def bert(self, *, layers: int, dim: int, num_classes: int, max_length: int, seed: int) -> Encoder:
        """Return an untrained BERT with a classifier on the mean of its tokens.

        Args:
            layers: How many.
            dim: Width of its hidden states; a head for each 16 of it, four times as wide in between.
            num_classes: Width of the classifier.
            max_length: Tokens of a text that it reads.
            seed: Of its weights.
        """
        from transformers import BertConfig

        config = BertConfig(
            vocab_size=len(self.tokenizer),
            hidden_size=dim,
            num_hidden_layers=layers,
            num_attention_heads=dim // 16,
            intermediate_size=4 * dim,
            max_position_embeddings=max_length,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        place = self.folder / f"bert-{layers}-{dim}-{max_length}"
        config.save_pretrained(place)
        self.tokenizer.save_pretrained(place)
        options = {
            "model": str(place),
            "pretrained": False,
            "num_classes": num_classes,
            "max_length": max_length,
            "seed": seed,
        }
        made: Encoder = registry.build("encoders", "transformers", options)
        return made


def words_of(texts: Sequence[str], folder: Path, vocabulary: int) -> Words:
    """Return a tokenizer of word pieces in lower case, learned from texts.

    Args:
        texts: To learn from.
        folder: Where it and its models' configurations are kept.
        vocabulary: Most pieces.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    pad, unknown, begin, end, mask = _SPECIAL
    tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=list(_SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    places = [(name, tokenizer.token_to_id(name)) for name in (begin, end)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=places
    )
    wrap: Any = PreTrainedTokenizerFast
    made = wrap(
        tokenizer_object=tokenizer,
        pad_token=pad,
        unk_token=unknown,
        cls_token=begin,
        sep_token=end,
        mask_token=mask,
    )
    return Words(made, folder)
