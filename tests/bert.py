"""A tiny BERT for tests: random weights and a tokenizer of a few words, in a folder."""

from pathlib import Path

import torch

UNKNOWN = "[UNK]"
WORDS = ["[PAD]", UNKNOWN, "[CLS]", "[SEP]", "the", "a", "cat", "dog", "sat", "on", "mat", "##s"]


def tiny_bert(path: Path) -> Path:
    """Make a BERT with two layers of width 16, its weights and its tokenizer, and return the folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(WORDS)}, **{"unk_token": UNKNOWN})
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": UNKNOWN, "cls_token": "[CLS]", "sep_token": "[SEP]"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    wrapped.save_pretrained(path)
    config = BertConfig(
        vocab_size=len(WORDS),
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
