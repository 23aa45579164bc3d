"""A tiny BERT on disk, for tests of what reads texts."""

from pathlib import Path

import torch

UNKNOWN = "[UNK]"


def tiny_bert(path: Path) -> Path:
    """Write a BERT with two layers, its weights and its tokenizer into a folder, and return it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "a", "cat", "dog", "sat", "on", "mat", "##s"]
    tokenizer = Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(words)}, **{"unk_token": UNKNOWN})
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": UNKNOWN, "cls_token": "[CLS]", "sep_token": "[SEP]"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    wrapped.save_pretrained(path)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)  # noqa: TID251
        BertModel(config).save_pretrained(path)
    return path
