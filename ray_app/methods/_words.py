"""Words and model tokens of a text, for every family that counts them."""

import re
from pathlib import Path

# Words, with apostrophes inside them, and single marks.
TOKEN = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")


def english_stopwords() -> frozenset[str]:
    """Return scikit-learn's list of 318 English words that say little by themselves; some negate."""
    # Heavy, and only this list is needed of it.
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)


class ModelTokens:
    """A model's tokens in a text, from its `tokenizer.json`.

    Args:
        path: The file, or the folder that holds it.
        who: The method's name, for errors.
    """

    def __init__(self, path: str, who: str) -> None:
        # Rust, without torch; only who counts model tokens needs it.
        from tokenizers import Tokenizer

        file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        try:
            self._tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
        # The library raises plain Exception where the content is wrong.
        except Exception as error:
            raise ValueError(
                f"{who}: tokenizer {path!r} cannot be read ({error}); give a tokenizer.json or its folder"
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return where each token begins and ends, in characters; special tokens are left out."""
        offsets: list[tuple[int, int]] = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return offsets
