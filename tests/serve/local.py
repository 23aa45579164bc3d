"""The HTTP application in this process: no Ray, no socket."""

import asyncio
import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
from PIL import Image

from ray_app.bundle import Bundle
from ray_app.serve.answers import Backend
from ray_app.serve.http import create_app
from ray_app.serve.keys import Ring, digest
from ray_app.serve.model import Model
from ray_app.spec.serve import Batching, ServeSpec

TOKEN = "a-token-for-these-tests"  # noqa: S105 - of these tests


class Local:
    """A client of an application, on an event loop of its own."""

    def __init__(
        self, app: Any, client: tuple[str, int] = ("127.0.0.1", 50000), host: str = "127.0.0.1"
    ) -> None:
        self.runner = asyncio.Runner()
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False, client=client)
        self.http = httpx.AsyncClient(transport=transport, base_url=f"http://{host}")

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.runner.run(self.http.get(path, **options))

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.runner.run(self.http.post(path, **options))

    def request(self, method: str, path: str) -> httpx.Response:
        return self.runner.run(self.http.request(method, path))

    def predict(self, instances: Sequence[Any], path: str = "/v1/predict", **options: Any) -> httpx.Response:
        return self.post(path, json={"instances": list(instances)}, **options)

    def together(self, bodies: Sequence[Any]) -> list[httpx.Response]:
        async def run() -> list[httpx.Response]:
            return await asyncio.gather(*(self.http.post("/v1/predict", json=body) for body in bodies))

        return self.runner.run(run())

    def close(self) -> None:
        self.runner.run(self.http.aclose())
        self.runner.close()


@contextmanager
def local(
    bundle: Bundle,
    backend: Backend | None = None,
    *,
    token: str | None = None,
    ring: Ring | None = None,
    client: tuple[str, int] = ("127.0.0.1", 50000),
    host: str = "127.0.0.1",
    **settings: Any,
) -> Iterator[Local]:
    """Serve a bundle in this process for the length of a block."""
    spec = ServeSpec(bundle=str(bundle.path), **settings)
    backend = backend or Model(str(bundle.path), bundle.version, Batching())
    served = Local(
        create_app(backend, bundle, spec, ring or Ring(digest(token) if token else None)), client, host
    )
    try:
        yield served
    finally:
        served.close()


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """Return an image file: uint8 [h, w] or [h, w, 1] or [h, w, 3]."""
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels).save(
        stream, kind, **options
    )
    return stream.getvalue()


def b64(content: bytes) -> dict[str, str]:
    """Return an instance that holds an encoded image."""
    return {"b64": base64.b64encode(content).decode()}
