"""Text files as rows: one a file, one a line, or one a paragraph.

The column `text` holds the text. By file, a row is called as its file, and the folder directly above, counted
from the root, is its class (`label`). By line or paragraph it is called `<file>@<byte>`, where it begins, and
files may be packed (gzip, zstd, bzip2); blank lines are no rows.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from ray_app.data.arrow import objects
from ray_app.data.rows import reject
from ray_app.data.sources import Read, Unit
from ray_app.data.sources._folders import Folders
from ray_app.data.sources._lines import MAX_BYTES, Lines, decoded_text
from ray_app.data.sources._records import Joiner, paragraphs

_SUFFIXES = (".txt", ".text", ".md", ".rst")


class Text(Lines):
    """Reads .txt, .text, .md and .rst in UTF-8; what is no UTF-8 is rejected.

    Args:
        path: A file, a folder (searched in depth) or a glob, here or in a store (`s3://…`); `~` and
            environment variables are expanded.
        by: What becomes a row.
        max_bytes: Longer ones are rejected; nothing of them is held in memory.
    """

    kind = "text"
    suffixes = _SUFFIXES

    def __init__(
        self, *, path: str, by: Literal["file", "line", "paragraph"] = "file", max_bytes: int = MAX_BYTES
    ) -> None:
        super().__init__(path=path, max_bytes=max_bytes)
        if by not in ("file", "line", "paragraph"):
            raise ValueError(f"text: by must be file, line or paragraph, got {by!r}")
        self.by = by
        self._whole = _Files(path=path, max_bytes=max_bytes) if by == "file" else None

    @property
    def columns(self) -> Sequence[str]:
        """`text`, and `label` where there are class folders."""
        return self._whole.columns if self._whole is not None else ["text"]

    @property
    def labels(self) -> Sequence[str]:
        """The class folders' names, by file."""
        return self._whole.labels if self._whole is not None else []

    def fingerprint(self) -> str:
        """Return a hash of the files' names and fingerprints (by file: of their sizes and times)."""
        return self._whole.fingerprint() if self._whole is not None else super().fingerprint()

    @property
    def options(self) -> dict[str, Any]:
        """What changes the rows beside the files."""
        return {**super().options, "by": self.by}

    def units(self, rows_per_unit: int) -> list[Unit]:
        """Divide the files, or what is in them."""
        return self._whole.units(rows_per_unit) if self._whole is not None else super().units(rows_per_unit)

    def stream(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Read]]:
        """Read units; those of one file that follow each other cost one reading of it."""
        if self._whole is not None:
            return self._whole.stream(units)
        return super().stream(units)

    def _row(self, content: bytes) -> Sequence[Any] | None:
        text = decoded_text(content)
        return [text] if text and not text.isspace() else None

    def _column(self, name: str, values: list[Any]) -> Any:
        return objects(values)

    def _joiner(self) -> Joiner | None:
        return paragraphs(self.max_bytes) if self.by == "paragraph" else None


class _Files(Folders):
    kind = "text"
    column = "text"
    suffixes = _SUFFIXES

    def __init__(self, *, path: str, max_bytes: int) -> None:
        super().__init__(path=path)
        self.max_bytes = max_bytes

    def read(self, unit: Unit) -> Read:
        read = super().read(unit)
        texts: list[Any] = []
        reasons: dict[int, str] = {}
        for row, content in enumerate(read.batch["text"]):
            try:
                texts.append(decoded_text(content.removeprefix(b"\xef\xbb\xbf")))
            except ValueError as error:
                texts.append(None)
                reasons[row] = str(error)
        return reject(Read({**read.batch, "text": objects(texts)}, read.rejected), reasons)
