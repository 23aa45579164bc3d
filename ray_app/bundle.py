"""The artifact that one engine hands to the next: `bundle.json` beside safetensors, nothing pickled.

    bundle.json            the manifest: what is in it, how it was made, sha256 of every other file
    members/<name>.safetensors      one encoder with its classifier
    heads/<name>.safetensors        what a head learned
    detectors/<name>.safetensors    what a detector learned
    tables/<name>.parquet           side tables (prototypes with their rows, distance matrices)
    assets/…                        further files (tokenizers)

A bundle is written under a temporary name and renamed, so one that exists is whole. Loading checks every name
and hash before any of it is used.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ray_app import __version__
from ray_app.errors import BundleError
from ray_app.spec import Method

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

SCHEMA_VERSION = 1
MANIFEST = "bundle.json"
_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]*$")  # no dot: torch takes none in a module's name
_RECORDED = ("ray", "torch", "timm", "transformers", "numpy", "scikit-learn", "safetensors", "pyarrow")


class _Part(BaseModel):
    # JSON has no NaN; as null, a metric that is nan would make a bundle that cannot be read again.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Component(_Part):
    """A member, head or detector: how to construct it, and the file with what it learned."""

    method: Method
    file: str
    metrics: dict[str, float] = {}


class Threshold(_Part):
    """Where abnormal begins, and what in-distribution scores look like."""

    # Nothing is above nan or inf: such a threshold would let everything through without a word.
    value: float = Field(allow_inf_nan=False)
    """Scores above it are abnormal."""
    tpr: float = Field(gt=0, lt=1)
    """Share of in-distribution rows that it lets through, on the rows it was calibrated on."""
    rows: int = Field(ge=1)
    quantiles: list[Annotated[float, Field(allow_inf_nan=False)]] = Field(min_length=2)
    """In-distribution scores at equally spaced probabilities from 0 to 1: a percentile is a look-up."""


class CalibratedDetector(Component):
    """A detector with its threshold."""

    threshold: Threshold | None = None


class Manifest(_Part):
    """What `bundle.json` says."""

    schema_version: int = SCHEMA_VERSION
    name: str
    created: datetime
    modality: Literal["image", "text", "audio", "tensor"]
    labels: list[str]
    """Class names in the order of the logits."""
    members: dict[str, Component] = Field(min_length=1)
    heads: dict[str, Component] = {}
    detectors: dict[str, CalibratedDetector] = {}
    answer: str = "logits"
    """What predicts: `logits`, or a head's name."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits before softmax."""
    rule: Literal["logits", "probabilities", "votes"] = "logits"
    """What several members' common logits are made from."""
    preprocessing: dict[str, Any] = {}
    """What the encoder does to a raw input, for readers; the encoder itself does it."""
    metrics: dict[str, float] = {}
    spec: dict[str, Any] = {}
    """The spec that made it."""
    lineage: dict[str, Any] = {}
    """Dataset fingerprints, run folder, ingredients."""
    versions: dict[str, str] = {}
    files: dict[str, str] = {}
    """Path → sha256 of every file but the manifest."""

    @field_validator("members", "heads", "detectors")
    @classmethod
    def _plain_names(cls, parts: dict[str, Any]) -> dict[str, Any]:
        for name in parts:
            if not _NAME.match(name):
                raise ValueError(f"{name!r} is no plain name; use a-z, 0-9, _ -")
        return parts

    @property
    def version(self) -> str:
        """The first 12 digits of a hash over all that decides an answer: equal bundles, equal versions."""
        decides = {
            "name",
            "modality",
            "labels",
            "members",
            "heads",
            "detectors",
            "answer",
            "temperature",
            "files",
        }
        # The usual rule is left out: bundles that were made before there was another keep their version.
        if self.rule != "logits":
            decides.add("rule")
        content = json.dumps(self.model_dump(mode="json", include=decides), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: the manifest, and tensors on demand."""

    path: Path
    manifest: Manifest

    @property
    def version(self) -> str:
        """See Manifest.version."""
        return self.manifest.version

    def tensors(self, file: str) -> "dict[str, Tensor]":
        """Return the tensors of one of its safetensors files.

        Raises:
            BundleError: Not one of its files, or not readable as safetensors.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if file not in self.manifest.files:
            raise BundleError(f"{self.path}: names no file {file!r} in its list; was it edited by hand?")
        try:
            return load_file(self.path / file)
        except (SafetensorError, OSError) as error:
            raise BundleError(
                f"{self.path / file}: not readable as safetensors ({error}); export it again"
            ) from error

    def table(self, name: str) -> "pa.Table":
        """Return a side table.

        Raises:
            BundleError: It has no such table.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = f"tables/{name}.parquet"
        if file not in self.manifest.files:
            raise BundleError(f"{self.path}: has no table {name!r}")
        try:
            return pq.read_table(self.path / file)
        except (pa.ArrowException, OSError) as error:
            raise BundleError(
                f"{self.path / file}: not readable as Parquet ({error}); export it again"
            ) from error


@dataclass
class Contents:
    """What goes into a bundle beside the manifest: file → its content, in its own form."""

    tensors: "dict[str, dict[str, Tensor]]" = field(default_factory=dict)
    tables: "dict[str, pa.Table]" = field(default_factory=dict)
    assets: dict[str, bytes] = field(default_factory=dict)


def save(path: str | Path, manifest: Manifest, contents: Contents) -> Bundle:
    """Write a bundle: whole, or not at all. An older one at the same path is replaced.

    The manifest's files, versions and date are filled in.

    Raises:
        BundleError: The manifest names a file that the contents lack, or the path holds something else.
    """
    import pyarrow.parquet as pq
    from safetensors.torch import save as to_bytes

    path = Path(path)
    if path.exists() and not (path / MANIFEST).is_file():
        raise BundleError(f"{path}: exists and is no bundle; nothing was written, give another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        for file, tensors in contents.tensors.items():
            # Cloned: safetensors refuses tensors that share memory, as tied weights do.
            plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
            _write(temporary / _safe(file, path), to_bytes(plain))
        for name, table in contents.tables.items():
            target = temporary / _safe(f"tables/{name}.parquet", path)
            target.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, target, compression="zstd")
        for file, content in contents.assets.items():
            _write(temporary / _safe(f"assets/{file}", path), content)
        files = {
            str(PurePosixPath(found.relative_to(temporary))): _sha256(found)
            for found in sorted(temporary.rglob("*"))
            if found.is_file()
        }
        manifest = manifest.model_copy(update={"files": files, "versions": _versions()})
        _check_named(path, manifest)
        _write(temporary / MANIFEST, manifest.model_dump_json(indent=2).encode())
        temporary.chmod(0o755)  # mkdtemp's 0700 would hide it from a server that runs as somebody else
        _swap(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Bundle(path, manifest)


def load(path: str | Path, *, verify: bool = True) -> Bundle:
    """Read a bundle and check it.

    Args:
        path: Its folder.
        verify: Hash every file; switch it off only where the same process just did.

    Raises:
        BundleError: One line: what is wrong with it and how to mend it.
    """
    path = Path(path)
    if not path.is_dir():
        raise BundleError(f"{path}: no such bundle in {Path.cwd()}; `ray-app tune` makes one")
    manifest = _read_manifest(path)
    for name, digest in manifest.files.items():
        target = path / _safe(name, path)
        if not target.resolve().is_relative_to(path.resolve()):
            raise BundleError(f"{path}: {name!r} leads outside of the bundle; do not trust it")
        if not target.is_file():
            raise BundleError(f"{path}: {name} is missing; copy the whole folder, or export it again")
        if verify and _sha256(target) != digest:
            raise BundleError(
                f"{path}: {name} is damaged (its sha256 is not the manifest's); copy or export it again"
            )
    _check_named(path, manifest)
    _check_assets(path, manifest)
    return Bundle(path, manifest)


def now() -> datetime:
    """Return the time for a manifest."""
    return datetime.now(UTC).replace(microsecond=0)


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    if not file.resolve().is_relative_to(path.resolve()):
        raise BundleError(f"{path}: {MANIFEST!r} leads outside of the bundle; do not trust it")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(
            f"{path}: holds no {MANIFEST}, so it is no bundle; `ray-app tune` makes one"
        ) from error
    except (ValueError, OSError, RecursionError) as error:
        raise BundleError(f"{file}: damaged, not readable as JSON ({error}); export it again") from error
    schema = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(schema, int) or schema < 1:
        raise BundleError(f"{file}: has no schema_version of 1 or more; is it a bundle's manifest?")
    if schema > SCHEMA_VERSION:
        raise BundleError(
            f"{path}: has schema {schema}, this ray-app reads up to {SCHEMA_VERSION}; upgrade ray-app"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(f"{file}: {where}: {first['msg']}; export it again") from error


def _check_named(path: Path, manifest: Manifest) -> None:
    # Chained, not merged: a head and a detector may have the same name.
    for name, part in chain(manifest.members.items(), manifest.heads.items(), manifest.detectors.items()):
        if part.file not in manifest.files:
            raise BundleError(
                f"{path}: {name} refers to {part.file!r}, which the bundle does not hold; export it again"
            )
    if manifest.answer != "logits" and manifest.answer not in manifest.heads:
        raise BundleError(
            f"{path}: answers with {manifest.answer!r}, which is none of its heads; export it again"
        )


def _check_assets(path: Path, manifest: Manifest) -> None:
    # An encoder gets its assets as a folder and may read whatever lies there, so what has no hash must not.
    for found in (path / "assets").rglob("*"):
        name = found.relative_to(path).as_posix()
        if (found.is_symlink() or not found.is_dir()) and name not in manifest.files:
            raise BundleError(
                f"{path}: holds {name!r}, which its manifest does not list; remove it or export again"
            )


def _safe(name: str, bundle: Path) -> str:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or not name.isprintable() or not name:
        raise BundleError(f"{bundle}: {name!r} leads outside of the bundle; do not trust it")
    return name


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _swap(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
        return
    # A folder cannot be renamed over a full one: the old one steps aside first.
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent))
    old = aside / "old"
    path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        with suppress(OSError):
            old.rename(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read ({error.strerror}); mend its permissions or copy it again"
        ) from error


def _versions() -> Mapping[str, str]:
    found = {"ray-app": __version__, "python": platform.python_version()}
    for package in _RECORDED:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
