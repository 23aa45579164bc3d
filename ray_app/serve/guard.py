"""Who may ask, and how much they may send: checked before a request reaches the application."""

from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ray_app.serve.keys import Ring
from ray_app.spec.serve import is_loopback

OPEN = frozenset({"/healthz", "/readyz"})
"""Paths that answer anybody; they tell nothing but whether it works."""


class Guard:
    """ASGI middleware: bearer token, quota and size of the body.

    Without any key only this machine is answered, whatever address the server was bound to: the client's
    address must be a loopback one, and so must the host that it asked for (a web page that a browser here
    shows could otherwise reach us under its own name).

    Args:
        app: What comes after.
        ring: The keys that open.
        body_bytes: Most bytes of a body.
    """

    def __init__(self, app: ASGIApp, *, ring: Ring, body_bytes: int) -> None:
        self._app = app
        self._ring = ring
        self._limit = body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            refused = self._refused(scope)
            if refused is not None:
                await refused(scope, receive, send)
                return
            receive = self._counted(receive)
        await self._app(scope, receive, send)

    def _refused(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        if scope["path"].removeprefix(scope.get("root_path", "")) not in OPEN:
            refused = self._unknown(scope, headers) if self._ring.is_empty else self._unauthorised(headers)
            if refused is not None:
                return refused
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._limit:
            return error(413, self._too_large())
        return None

    def _unauthorised(self, headers: Headers) -> JSONResponse | None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            reason = "no token; send the header `Authorization: Bearer <token>`"
            return error(401, reason, {"WWW-Authenticate": "Bearer"})
        refused = self._ring.refused(given.strip())
        if refused is None:
            return None
        wait = {} if refused.retry_after_s is None else {"Retry-After": str(refused.retry_after_s)}
        return error(refused.status, refused.reason, wait)

    def _unknown(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        client = scope.get("client")
        name = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if client is not None and is_loopback(client[0]) and is_loopback(name):
            return None
        return error(
            403, "without a token only the machine itself is answered; start the server with a token"
        )

    def _counted(self, receive: Receive) -> Receive:
        total = 0

        async def counting() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self._limit:
                raise HTTPException(413, self._too_large())
            return message

        return counting

    def _too_large(self) -> str:
        return f"body of more than {self._limit:,} bytes; send less, or in parts"


def error(status: int, reason: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error as all our errors look."""
    return JSONResponse({"error": reason}, status_code=status, headers=headers)
