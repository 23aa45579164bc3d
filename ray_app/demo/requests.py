"""Real HTTP requests of each kind to a served bundle, good ones and bad ones, and what came back."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from PIL import Image

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Exchange:
    """A request and its answer, in short."""

    request: str
    status: int
    milliseconds: float
    answer: str


def exchanges(url: str, digit: np.ndarray, truth: str, photo: np.ndarray) -> Iterator[Exchange]:
    """Send a request of each kind.

    Args:
        url: The server.
        digit: uint8 [h, w, 1], an image of the kind that the bundle knows.
        truth: Its label.
        photo: uint8 [h, w, 1], one of another kind.
    """
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        upload = {"image": ("digit.png", _png(digit), "image/png")}
        yield _sent(client, f"POST /v1/predict, a PNG of a {truth}", _label, "/v1/predict", files=upload)
        several = {"instances": [digit[..., 0].tolist(), {"b64": base64.b64encode(_png(photo)).decode()}]}
        yield _sent(
            client,
            "POST /v1/predict, JSON: that digit as pixels, a photograph",
            _label,
            "/v1/predict",
            json=several,
        )
        yield _sent(
            client,
            "POST /v1/detect, a photograph",
            _verdict,
            "/v1/detect",
            files={"image": ("p.png", _png(photo))},
        )
        yield _sent(client, "POST /v1/embed, the digit", _width, "/v1/embed", files=upload)
        yield _sent(client, "GET /healthz", _health, "/healthz")
        yield _sent(client, "GET /readyz", lambda body: str(body["status"]), "/readyz")
        yield _sent(
            client,
            "POST /v1/predict, malformed JSON",
            _error,
            "/v1/predict",
            content=b'{"instances": [',
            json=None,
        )
        yield _sent(
            client, "POST /v1/predict, a wrong shape", _error, "/v1/predict", json={"instances": [[1, 2, 3]]}
        )
        yield _sent(client, "GET /nothing", _error, "/nothing")
        yield _sent(client, "POST /v1/predict, the digit again", _label, "/v1/predict", files=upload)


def _sent(client: httpx.Client, what: str, read: Any, path: str, **request: Any) -> Exchange:
    if request:
        if "content" in request:
            request = {"content": request["content"], "headers": {"content-type": "application/json"}}
        response = client.post(path, **request)
    else:
        response = client.get(path)
    body = response.json()
    answer = read(body) if response.is_success else _error(body)
    return Exchange(what, response.status_code, response.elapsed.total_seconds() * 1000, answer)


def _label(body: dict[str, Any]) -> str:
    return "; ".join(
        f"{one['label']} ({max(one['probabilities'].values()):.2f}), {_abnormal(one)}"
        for one in body["predictions"]
    )


def _verdict(body: dict[str, Any]) -> str:
    return "; ".join(_abnormal(one) for one in body["detections"])


def _abnormal(one: dict[str, Any]) -> str:
    against = [name for name, finding in one["detectors"].items() if finding["abnormal"]]
    return f"abnormal to {', '.join(against)}" if against else "normal"


def _width(body: dict[str, Any]) -> str:
    return f"{len(body['embeddings'])} x {body['dim']} numbers"


def _health(body: dict[str, Any]) -> str:
    return f"{body['status']}, a forward pass took {body['milliseconds']:.1f} ms"


def _error(body: dict[str, Any]) -> str:
    return str(body["error"])


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(buffer, "PNG")
    return buffer.getvalue()
