"""Normalisation of text: one way of writing for what means the same.

In this order: Unicode form, control characters, masks, case, white space. Doing it twice changes no more.

Reference: Unicode Standard Annex 15, "Unicode Normalization Forms".
Cost: O(characters).
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from ray_app.methods.transforms._text import TextTransform

_MASKS = {
    "url": re.compile(r"\b(?:https?://|www\.)[^\s<>\"]*[^\s<>\".,;:!?)\]}']", re.IGNORECASE),
    "email": re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"),
    "user": re.compile(r"(?<![\w@])@\w+"),
    "number": re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*(?!\w)"),
}
# Invisible marks that carry no meaning of their own; joiners stay, since scripts and emoji need them.
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
)
_BREAKS = re.compile(r"\r\n?|[\u0085\u2028\u2029]")
_BLANKS = re.compile(r"[^\S\n]+")
_AROUND = re.compile(r" ?\n ?")
_EMPTY_LINES = re.compile(r"\n{3,}")


class Normalise(TextTransform):
    """Before deduplication, counting of words, and models that were trained on clean text.

    Args:
        form: `NFC` composes letters and accents; `NFKC` also unfolds ligatures, full-width letters and the
            like; None: leave as it is.
        control: Remove control characters and invisible marks.
        mask: Which of `url`, `email`, `user` (`@name`) and `number` become `<url>`, and so on.
        case: `keep`; `lower`; or `fold`, which also makes ß and ss equal.
        whitespace: Reduce runs of blanks to one and of empty lines to one; trim the ends.
        column: The column with the texts.
    """

    def __init__(
        self,
        *,
        form: Literal["NFC", "NFKC"] | None = "NFC",
        control: bool = True,
        mask: Sequence[str] = (),
        case: Literal["keep", "lower", "fold"] = "keep",
        whitespace: bool = True,
        column: str = "text",
    ) -> None:
        super().__init__(column=column)
        if form not in ("NFC", "NFKC", None):
            raise ValueError(f"normalise: form must be NFC, NFKC or nothing, got {form!r}")
        if case not in ("keep", "lower", "fold"):
            raise ValueError(f"normalise: case must be keep, lower or fold, got {case!r}")
        if isinstance(mask, str) or (unknown := [name for name in mask if name not in _MASKS]):
            wrong = mask if isinstance(mask, str) else unknown[0]
            raise ValueError(f"normalise: mask takes a list of {', '.join(_MASKS)}; got {wrong!r}")
        self.form = form
        self.control = control
        # An address holds what looks like a user's name, so it goes first.
        self.mask = [name for name in _MASKS if name in mask]
        self.case = case
        self.whitespace = whitespace

    def _change(self, text: str, row_id: str) -> str:
        text = self._composed(text)
        if self.control:
            text = _INVISIBLE.sub("", _BREAKS.sub("\n", text))
        for name in self.mask:
            text = _MASKS[name].sub(f"<{name}>", text)
        if self.case != "keep":
            text = text.lower() if self.case == "lower" else text.casefold()
        # Removed marks and another case may leave letters that compose.
        text = self._composed(text)
        if self.whitespace:
            text = _AROUND.sub("\n", _BLANKS.sub(" ", text))
            text = _EMPTY_LINES.sub("\n\n", text).strip()
        return text

    def _composed(self, text: str) -> str:
        return unicodedata.normalize(self.form, text) if self.form is not None else text
