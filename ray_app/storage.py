"""A path, wherever it lies: on this machine's disk, or in a store (`s3://`, `gs://`, any scheme of fsspec).

pyarrow's file systems do the work; a scheme that pyarrow lacks is looked for in fsspec. Whatever goes wrong
is one line that names the path.
"""

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Self

import pyarrow as pa
import pyarrow.fs as pafs

from ray_app.errors import DataError

HIDDEN = ".writing-"
"""What the names of files that are being written begin with."""
_COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}


@dataclass(frozen=True)
class Stat:
    """What a store says of a file without reading it."""

    place: "Place"
    name: str
    """Relative to the folder that was walked, with forward slashes; of a lone file its plain name."""
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Place:
    """A file or a folder.

    Args:
        uri: An absolute path, or `scheme://…`; see `of`.
    """

    uri: str

    @classmethod
    def of(cls, text: "str | Path | Place") -> Self:
        """Return what a user's text means: `~` and environment variables are replaced, paths made absolute.

        Raises:
            DataError: A variable is not set, or nothing here knows the scheme.
        """
        if isinstance(text, Place):
            return cls(text.uri)
        said = str(text)
        for name in re.findall(r"\$\{?(\w+)\}?", said):
            if name not in os.environ:
                raise DataError(
                    f"{said}: the environment variable {name} is not set; set it to the folder it stands for"
                )
        said = os.path.expandvars(said)
        scheme, url, rest = said.partition("://")
        if not url:
            # Not resolve(): a link that is pointed elsewhere between two runs is a change to be noticed.
            return cls(str(Path(said).expanduser().absolute()))
        if scheme == "file":
            return cls(str(Path(rest).absolute()))
        place = cls(said.rstrip("/"))
        _system(scheme, rest.partition("/")[0])
        return place

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str) -> "Place":
        return Place(f"{self.uri.rstrip('/')}/{name}")

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine's disk."""
        return "://" not in self.uri

    @property
    def name(self) -> str:
        """Its last part."""
        return PurePosixPath(self._path).name

    @property
    def suffix(self) -> str:
        """What its name ends with, in lower case, from the last dot on."""
        return PurePosixPath(self._path).suffix.lower()

    @property
    def parent(self) -> "Place":
        """The folder it lies in."""
        return Place(self.uri.rpartition("/")[0] or "/")

    @property
    def path(self) -> Path:
        """The local path.

        Raises:
            DataError: It is not on this machine's disk.
        """
        if not self.is_local:
            raise DataError(f"{self.uri}: must be on a disk of this machine; give a path without a scheme")
        return Path(self.uri)

    def exists(self) -> bool:
        """Tell whether there is a file or a folder."""
        return self._info().type != pafs.FileType.NotFound

    def is_file(self) -> bool:
        """Tell whether it is a file; a link counts as what it leads to."""
        return bool(self._info().type == pafs.FileType.File)

    def is_dir(self) -> bool:
        """Tell whether it is a folder; in an object store, whether anything lies below it."""
        return bool(self._info().type == pafs.FileType.Directory)

    def stat(self) -> Stat:
        """Return a file's size and time.

        Raises:
            DataError: There is no such file, or it may not be looked at.
        """
        info = self._info()
        if info.type != pafs.FileType.File:
            kind = "is a folder, not a file" if info.type == pafs.FileType.Directory else "no such file"
            raise DataError(f"{self.uri}: {kind}; check the path")
        return Stat(self, self.name, info.size, info.mtime_ns or 0)

    def walk(self) -> Iterator[Stat]:
        """Return every file below, in no particular order; none where there is no such folder.

        Raises:
            DataError: The folder cannot be read.
        """
        with _in_one_line(self.uri, "read"):
            root = self._path.rstrip("/")
            selector = pafs.FileSelector(self._path, allow_not_found=True, recursive=True)
            for info in self._fs.get_file_info(selector):
                if info.type == pafs.FileType.File:
                    name = info.path[len(root) + 1 :]
                    yield Stat(self / name, name, info.size, info.mtime_ns or 0)

    def open(self) -> Any:
        """Return a file to read from at any position (a pyarrow file).

        Raises:
            DataError: It cannot be read.
        """
        with _in_one_line(self.uri, "read"):
            return self._fs.open_input_file(self._path)

    def stream(self) -> Any:
        """Return a file to read from once, unpacked where its suffix says gzip, zstd or bzip2.

        Raises:
            DataError: It cannot be read.
        """
        with _in_one_line(self.uri, "read"):
            return self._fs.open_input_stream(self._path, compression=_COMPRESSED.get(self.suffix))

    def read_bytes(self, limit: int | None = None) -> bytes:
        """Return the content, or its first `limit` bytes.

        Raises:
            DataError: It cannot be read.
        """
        with _in_one_line(self.uri, "read"), self._fs.open_input_file(self._path) as file:
            return bytes(file.read(limit) if limit is not None else file.read())

    def write_bytes(self, content: Any) -> None:
        """Write a file whole, or not at all: a name that exists is a whole file.

        Raises:
            DataError: The disk is full, or the place may not be written to.
        """
        temporary = self.parent / f"{HIDDEN}{uuid.uuid4().hex}"
        with _in_one_line(self.uri, "written"):
            try:
                if self.is_local:
                    _write_synced(temporary.path, content)
                    temporary.path.rename(self.path)
                else:
                    # An upload that breaks off may leave what was sent; under this name nobody reads it.
                    with self._fs.open_output_stream(temporary._path) as sink:
                        sink.write(content)
                    self._fs.move(temporary._path, self._path)
            except BaseException:
                with suppress(OSError, DataError):
                    temporary.remove()
                raise

    def write_first(self, content: bytes) -> bytes:
        """Write a file unless it is there, and return what is there now: of several writers, the first wins.

        In an object store two that write within the same moment may each believe to be the first.

        Raises:
            DataError: It cannot be written.
        """
        if self.is_local:
            temporary = self.parent / f"{HIDDEN}{uuid.uuid4().hex}"
            with _in_one_line(self.uri, "written"):
                _write_synced(temporary.path, content)
                try:
                    os.link(temporary.path, self.path)
                except FileExistsError:
                    pass
                finally:
                    temporary.remove()
        elif not self.exists():
            self.write_bytes(content)
        return self.read_bytes()

    def remove(self) -> None:
        """Delete a file; nothing happens where there is none.

        Raises:
            DataError: It cannot be deleted.
        """
        with _in_one_line(self.uri, "deleted"), suppress(FileNotFoundError):
            self._fs.delete_file(self._path)

    def remove_tree(self) -> None:
        """Delete a folder and all in it; nothing happens where there is none.

        Raises:
            DataError: It cannot be deleted.
        """
        with _in_one_line(self.uri, "deleted"), suppress(FileNotFoundError):
            self._fs.delete_dir(self._path)

    @property
    def _fs(self) -> Any:
        if self.is_local:
            return _LOCAL
        scheme, _, rest = self.uri.partition("://")
        return _system(scheme, rest.partition("/")[0])[0]

    @property
    def _path(self) -> str:
        """As the file system calls it."""
        if self.is_local:
            return self.uri
        scheme, _, rest = self.uri.partition("://")
        host = rest.partition("/")[0]
        return f"{_system(scheme, host)[1]}{rest[len(host) :]}"

    def _info(self) -> Any:
        with _in_one_line(self.uri, "read"):
            return self._fs.get_file_info(self._path)


_LOCAL = pafs.LocalFileSystem()


@lru_cache(maxsize=64)
def _system(scheme: str, host: str) -> tuple[Any, str]:
    """Return a file system, and what it calls the host (or bucket)."""
    root = f"{scheme}://{host}"
    try:
        return pafs.FileSystem.from_uri(root) if host else pafs.FileSystem.from_uri(f"{root}/")
    except (pa.ArrowException, OSError, ValueError):
        pass  # pyarrow lacks the scheme
    try:
        import fsspec

        system, path = fsspec.core.url_to_fs(root)
    except (ImportError, ValueError, OSError) as error:
        said = str(error).partition("\n")[0]
        raise DataError(
            f"{root}: cannot be opened ({said}); give a path, s3://, gs://, or install the store's package"
        ) from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(system)), path


def _write_synced(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _in_one_line(uri: str, done: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        said = (
            os.strerror(error.errno)
            if isinstance(error, OSError) and error.errno
            else str(error).partition("\n")[0]
        )
        mend = "make room or give another --out" if done == "written" else "check that it exists and may be"
        raise DataError(
            f"{uri}: cannot be {done} ({said}); {mend}{'' if done == 'written' else f' {done}'}"
        ) from error


__all__ = ["HIDDEN", "Place", "Stat"]
