"""Sound files in folders; the folder directly above a file, counted from the root, is its class.

`audio` holds the file's bytes, which the engine decodes into float32 [t], mono, and `sample_rate`; what is no
sound, is empty or holds NaN is rejected. `label` is the class' number in the sorted names.
"""

from collections.abc import Sequence

import numpy as np

from ray_app.data.sources import Read, Unit
from ray_app.data.sources._folders import Folders


class Audio(Folders):
    """Reads `root/class/file.wav`, or `root/file.wav` without labels; WAV, FLAC, Ogg and MP3.

    Args:
        path: The root folder, here or in a store (`s3://…`).
        classes: Folder names in the order of their numbers; None: all, sorted.
        sample_rate: To which rate all are brought, in Hz; None: each keeps its own.
    """

    kind = "audio"
    column = "audio"
    suffixes = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff")

    def __init__(
        self, *, path: str, classes: Sequence[str] | None = None, sample_rate: int | None = None
    ) -> None:
        super().__init__(path=path, classes=classes)
        if sample_rate is not None and not (isinstance(sample_rate, int) and sample_rate > 0):
            raise ValueError(f"audio: sample_rate must be a number of Hz, got {sample_rate!r}")
        self.sample_rate = sample_rate

    @property
    def columns(self) -> Sequence[str]:
        """`audio`, `sample_rate`, and `label` where there are class folders."""
        return [*super().columns, "sample_rate"]

    def fingerprint(self) -> str:
        """Return a hash of the files' names, sizes and times, and of the rate."""
        return f"{super().fingerprint()}{self.sample_rate or ''}"

    def read(self, unit: Unit) -> Read:
        """Return a unit's files as bytes, and the rate to which they are to be brought; 0: their own."""
        read = super().read(unit)
        rates = np.full(len(read.batch["row_id"]), self.sample_rate or 0, dtype=np.int64)
        return Read({**read.batch, "sample_rate": rates}, read.rejected)
