"""The endpoints, over anything that answers (see answers.Backend), in a replica or in a test."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import JSONResponse, RedirectResponse

from ray_app.bundle import Bundle
from ray_app.registry import nearest
from ray_app.serve import schema
from ray_app.serve.answers import Answer, Backend, Wish
from ray_app.serve.drift import Monitor
from ray_app.serve.guard import Guard, error
from ray_app.serve.keys import Ring
from ray_app.serve.policy import Decision, Finding, decide, deciders, find
from ray_app.serve.reading import Reader
from ray_app.spec.serve import ServeSpec

# A burst of health checks costs one forward pass.
_PROBE_AGE_S = 1.0
_logger = logging.getLogger(__name__)


def create_app(
    backend: Backend, bundle: Bundle, spec: ServeSpec, ring: Ring, monitor: Monitor | None = None
) -> FastAPI:
    """Return the application.

    Args:
        backend: Answers.
        bundle: Its manifest has labels and thresholds; no tensor is read.
        spec: Limits and policy.
        ring: The keys that open it; an empty one: only this machine is answered.
        monitor: Compares served scores with calibrated ones; None: one that tells nobody else.

    Raises:
        SpecError: The policy asks for detectors that the bundle lacks.
    """
    manifest = bundle.manifest
    app = FastAPI(
        title=f"ray-app: {manifest.name}",
        version=bundle.version,
        description=f"Labels: {', '.join(manifest.labels[:20])}{', …' if len(manifest.labels) > 20 else ''}.",
    )
    app.add_middleware(Guard, ring=ring, body_bytes=spec.limits.body_bytes)
    app.add_exception_handler(StarletteHTTPException, _told)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)
    endpoints = _Endpoints(backend, bundle, spec, monitor or Monitor(manifest, spec.drift))
    app.add_api_route("/", endpoints.home, include_in_schema=False)
    app.add_api_route("/healthz", endpoints.healthz, responses={200: {"model": schema.Health}})
    app.add_api_route("/readyz", endpoints.readyz, responses={200: {"model": schema.Ready}})
    app.add_api_route("/v1/drift", endpoints.drift, responses={200: {"model": schema.Drifts}})
    for path, call, model in (
        ("/v1/predict", endpoints.predict, schema.Predictions),
        ("/v1/detect", endpoints.detect, schema.Detections),
        ("/v1/embed", endpoints.embed, schema.Embeddings),
    ):
        app.add_api_route(
            path,
            call,
            methods=["POST"],
            responses={200: {"model": model}, **schema.ERRORS},
            openapi_extra=schema.body_of(manifest.modality),
        )
    return app


class _Endpoints:
    def __init__(self, backend: Backend, bundle: Bundle, spec: ServeSpec, monitor: Monitor) -> None:
        self._backend = backend
        self._monitor = monitor
        self._manifest = bundle.manifest
        self._policy = spec.policy
        self._deciders = deciders(spec.policy, bundle.manifest)
        self._limits = spec.limits
        self._reader = Reader(bundle.manifest.modality, spec.limits)
        self._health = _Health(backend, spec.limits.timeout_s)
        self._name = {"name": bundle.manifest.name, "version": bundle.version}

    async def home(self, request: Request) -> RedirectResponse:
        return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")

    async def healthz(self) -> JSONResponse:
        """Run a forward pass now and say how long it took."""
        taken = await self._health.check(age_s=0)
        return JSONResponse({"status": "ok", "milliseconds": round(taken, 3)})

    async def readyz(self) -> JSONResponse:
        """Say whether requests can be answered."""
        await self._health.check(age_s=_PROBE_AGE_S)
        return JSONResponse({"status": "ready"})

    async def drift(self) -> JSONResponse:
        """Compare the latest scores with those that thresholds were calibrated on."""
        found = {name: asdict(seen) for name, seen in self._monitor.report().items()}
        return JSONResponse({"bundle": self._name, "detectors": found})

    async def predict(
        self,
        request: Request,
        top: Annotated[int | None, Query(ge=1, description="Only the likeliest classes.")] = None,
    ) -> JSONResponse:
        """Label each instance; the policy decides what an abnormal one gets."""
        answer = await self._ask(request, frozenset[Wish](["proba", "heads", "scores"]))
        rows = len(_required(answer.proba))
        predictions = [self._prediction(answer, row, top) for row in range(rows)]
        content = self._told(answer, predictions=predictions)
        if all(prediction["decision"] == "rejected" for prediction in predictions):
            content["error"] = f"rejected: {predictions[0]['reason']}"
            return JSONResponse(content, status_code=422)
        return JSONResponse(content)

    async def detect(self, request: Request) -> JSONResponse:
        """Score each instance's abnormality."""
        answer = await self._ask(request, frozenset[Wish](["proba", "scores"]))
        rows = range(0 if answer.proba is None else len(answer.proba))
        return JSONResponse(self._told(answer, detections=[self._judged(answer, row)[0] for row in rows]))

    async def embed(self, request: Request) -> JSONResponse:
        """Return the encoder's pooled features of each instance."""
        features = _required((answer := await self._ask(request, frozenset[Wish](["features"]))).features)
        return JSONResponse(self._told(answer, dim=features.shape[1], embeddings=features.tolist()))

    async def _ask(self, request: Request, wishes: frozenset[Wish]) -> Answer:
        instances = await self._reader.read(request)
        answer = await self._backend.answer(instances, wishes)
        if isinstance(answer, Answer):
            self._monitor.add(answer.scores)
            return answer
        headers = {"Retry-After": str(self._limits.retry_after_s)} if answer.status == 503 else None
        raise HTTPException(answer.status, answer.reason, headers)

    def _told(self, answer: Answer, **more: Any) -> dict[str, Any]:
        return {
            "bundle": self._name,
            "degraded": bool(answer.missing),
            "missing_members": list(answer.missing),
            **more,
        }

    def _judged(self, answer: Answer, row: int) -> tuple[dict[str, Any], Decision]:
        findings = {
            name: find(float(answer.scores[name][row]) if name in answer.scores else None, part.threshold)
            for name, part in self._manifest.detectors.items()
        }
        decision = decide(findings, self._deciders, self._policy)
        told = {
            "detectors": {name: _finding(finding) for name, finding in findings.items()},
            "abnormal": decision.abnormal,
            "decision": decision.action,
            "reason": decision.reason,
        }
        return told, decision

    def _prediction(self, answer: Answer, row: int, top: int | None) -> dict[str, Any]:
        judged, decision = self._judged(answer, row)
        if not decision.has_answer:
            return {"label": None, "class_index": None, "probabilities": None, "heads": None, **judged}
        proba = _required(answer.proba)[row]
        best = int(proba.argmax())
        heads = {
            name: {
                "label": self._manifest.labels[int(answer.heads[name][row].argmax())],
                "probabilities": self._probabilities(answer.heads[name][row], top),
            }
            for name in self._manifest.heads
            if name in answer.heads
        }
        return {
            "label": self._manifest.labels[best],
            "class_index": best,
            "probabilities": self._probabilities(proba, top),
            "heads": None if answer.missing else heads,
            **judged,
        }

    def _probabilities(self, proba: np.ndarray, top: int | None) -> dict[str, float]:
        order: Sequence[int] = range(len(proba))
        if top is not None:
            order = np.argsort(-proba, kind="stable")[:top].tolist()
        values = proba.tolist()
        return {self._manifest.labels[index]: values[index] for index in order}


class _Health:
    """Timed forward passes, shared by all who ask at the same time."""

    def __init__(self, backend: Backend, timeout_s: float) -> None:
        self._backend = backend
        self._timeout_s = timeout_s
        self._running: asyncio.Task[float] | None = None
        self._last: tuple[float, float] | None = None

    async def check(self, age_s: float) -> float:
        """Return the milliseconds of a pass that is at most so old.

        Raises:
            HTTPException: 503: there is none.
        """
        if self._last is not None and time.monotonic() - self._last[0] < age_s:
            return self._last[1]
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._backend.probe())
        try:
            async with asyncio.timeout(self._timeout_s):
                taken = await asyncio.shield(self._running)
        except Exception as failure:  # whatever went wrong: it is not healthy, and nothing more is disclosed
            _logger.warning("health check failed", exc_info=failure)
            raise HTTPException(503, "not healthy", {"Retry-After": "1"}) from failure
        self._last = (time.monotonic(), taken)
        return taken


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "score": finding.score,
        "threshold": finding.threshold,
        "percentile": finding.percentile,
        "abnormal": finding.abnormal,
    }


def _required(values: np.ndarray | None) -> np.ndarray:
    if values is None or not np.isfinite(values).all():
        raise HTTPException(500, "the model gave no finite numbers for this input; is the bundle sound?")
    return values


async def _told(request: Request, failure: Exception) -> JSONResponse:
    assert isinstance(failure, StarletteHTTPException)  # noqa: S101 - as it was registered
    reason = str(failure.detail)
    if failure.status_code == 404:
        known = list(request.app.openapi()["paths"])
        reason = f"no such path {request.url.path!r}{nearest(request.url.path, known)}; see /docs"
    if failure.status_code == 405:
        reason = f"{request.method} is not for {request.url.path!r}; see /docs"
    return error(failure.status_code, reason, _headers(failure.headers))


async def _invalid(request: Request, failure: Exception) -> JSONResponse:
    assert isinstance(failure, RequestValidationError)  # noqa: S101 - as it was registered
    first = failure.errors()[0]
    return error(422, f"{'.'.join(str(part) for part in first['loc'][1:])}: {first['msg']}")


async def _failed(request: Request, failure: Exception) -> JSONResponse:
    _logger.error("%s %s failed", request.method, request.url.path, exc_info=failure)
    return error(500, "the server failed on this request; its log says why")


def _headers(headers: Mapping[str, str] | None) -> dict[str, str] | None:
    return dict(headers) if headers else None
