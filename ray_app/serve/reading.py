"""From an HTTP request to instances. Whatever is wrong costs one clear line, before any model sees it."""

import asyncio
import base64
import binascii
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from fastapi import HTTPException, Request
from PIL import Image, UnidentifiedImageError
from starlette.datastructures import UploadFile

from ray_app.registry import nearest
from ray_app.spec.serve import Limits

if TYPE_CHECKING:
    from ray_app.serve.answers import Instance

FORMATS = ("PNG", "JPEG", "WEBP")
"""Images that are read; Pillow knows many more, less tested ones."""
FIELD = "image"
"""The multipart field that holds images."""
# Parsing more than this would hold up other requests, so it leaves the event loop.
_LARGE = 64 * 1024
# A form needs no other fields than its files; a few are let through unread.
_OTHER_FIELDS = 8


class Reader:
    """Reads the instances of a request.

    Args:
        modality: What the bundle takes: `image` or `text`.
        limits: What is refused.
    """

    def __init__(self, modality: str, limits: Limits) -> None:
        self._modality = modality
        self._limits = limits

    async def read(self, request: Request) -> "list[Instance]":
        """Return at least one instance.

        Raises:
            HTTPException: 400 not readable, 413 too large, 415 unknown type, 422 not what the model takes.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if (coding := request.headers.get("content-encoding", "identity").lower()) != "identity":
            raise HTTPException(415, f"content-encoding {coding!r} is not read; send the body uncompressed")
        if kind == "multipart/form-data":
            return await self._form(request)
        body = await request.body()
        if kind == "application/json":
            call = asyncio.to_thread(self._json, body) if len(body) > _LARGE else None
            return await call if call is not None else self._json(body)
        if kind.startswith("image/") and self._modality == "image":
            return [await asyncio.to_thread(self._image, body, "body")]
        raise HTTPException(
            415,
            f"content-type {kind or 'missing'!r} is not read; send application/json or multipart/form-data",
        )

    async def _form(self, request: Request) -> "list[Instance]":
        if self._modality != "image":
            raise HTTPException(415, f"this bundle takes {self._modality}; send application/json")
        async with request.form(max_files=self._limits.instances, max_fields=_OTHER_FIELDS) as form:
            files = [part for part in form.getlist(FIELD) if isinstance(part, UploadFile)]
            if not files:
                there = ", ".join(sorted(form)) or "none"
                raise HTTPException(422, f"no file in the form's field {FIELD!r} (fields: {there}); add one")
            contents = [await part.read() for part in files]
        return [
            await asyncio.to_thread(self._image, content, f"{FIELD} {row}")
            for row, content in enumerate(contents)
        ]

    def _json(self, body: bytes) -> "list[Instance]":
        content = _parsed(body)
        if not isinstance(content, Mapping):
            raise HTTPException(422, f"expected {{'instances': [...]}}, got {_kind(content)}")
        for key in content:
            if key != "instances":
                raise HTTPException(
                    422, f"unknown key {key!r}{nearest(str(key), ['instances'])} (keys: instances)"
                )
        instances = content.get("instances")
        if not isinstance(instances, list):
            raise HTTPException(422, f"instances: expected a list, got {_kind(instances)}")
        if not instances:
            raise HTTPException(422, "instances: the list is empty; send at least one")
        if len(instances) > self._limits.instances:
            raise HTTPException(
                413,
                f"{len(instances)} instances; the limit is {self._limits.instances}, send them in parts",
            )
        return [self._instance(value, f"instances[{row}]") for row, value in enumerate(instances)]

    def _instance(self, value: Any, where: str) -> "Instance":
        if self._modality == "text":
            if not isinstance(value, str):
                raise HTTPException(422, f"{where}: expected text, got {_kind(value)}")
            return value
        if isinstance(value, Mapping):
            if list(value) != ["b64"] or not isinstance(value["b64"], str):
                raise HTTPException(422, f"{where}: expected {{'b64': '...'}} or nested lists of pixels")
            return self._image(_decoded(value["b64"], where), where)
        if isinstance(value, list):
            return self._pixels(value, where)
        raise HTTPException(
            422, f"{where}: expected nested lists of pixels or {{'b64': '...'}}, got {_kind(value)}"
        )

    def _pixels(self, value: list[Any], where: str) -> np.ndarray:
        try:
            pixels = np.asarray(value)
        except (ValueError, OverflowError) as error:
            raise HTTPException(
                422, f"{where}: rows of different lengths; expected h x w or h x w x c"
            ) from error
        if (
            pixels.ndim not in (2, 3)
            or 0 in pixels.shape
            or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3))
        ):
            raise HTTPException(
                422,
                f"{where}: shape {_shape(pixels.shape)}; expected h x w, h x w x 1 or h x w x 3",
            )
        self._check_size(pixels.shape[1], pixels.shape[0], where)
        if np.issubdtype(pixels.dtype, np.integer):
            _check_range(pixels, 255, "whole numbers", where)
            return pixels.astype(np.uint8)
        if np.issubdtype(pixels.dtype, np.floating):
            _check_range(pixels, 1, "numbers with a decimal point", where)
            return pixels.astype(np.float32)
        raise HTTPException(422, f"{where}: pixels must be numbers, got {pixels.dtype}")

    def _image(self, content: bytes, where: str) -> bytes:
        """Check what the header says; decoding is the model's, in its own threads."""
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise HTTPException(
                413, f"{where}: too many pixels; the limit is {self._limits.image_pixels:,}"
            ) from error
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise HTTPException(422, f"{where}: not a readable image; send {', '.join(FORMATS)}") from error
        self._check_size(width, height, where)
        return content

    def _check_size(self, width: int, height: int, where: str) -> None:
        if width * height > self._limits.image_pixels:
            raise HTTPException(
                413,
                f"{where}: {width} x {height} pixels; the limit is {self._limits.image_pixels:,}",
            )


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise HTTPException(
            400, f"malformed JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except RecursionError as error:
        raise HTTPException(400, "malformed JSON: nested too deeply") from error
    except ValueError as error:
        raise HTTPException(400, f"malformed JSON: {' '.join(str(error).split())[:120]}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _decoded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise HTTPException(422, f"{where}: b64 is not valid base64 ({error})") from error


def _check_range(pixels: np.ndarray, most: int, kind: str, where: str) -> None:
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= most):
        raise HTTPException(422, f"{where}: pixels from {low:g} to {high:g}; {kind} must be 0..{most}")


def _kind(value: Any) -> str:
    names = {type(None): "nothing", bool: "a truth value", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "of a single number"
