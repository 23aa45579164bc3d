"""What the endpoints answer, for the OpenAPI page and for clients."""

from typing import Any, Literal

from pydantic import BaseModel


class BundleName(BaseModel):
    """Which model answered."""

    name: str
    version: str
    """Equal bundles have equal versions."""


class HeadAnswer(BaseModel):
    """What one head says."""

    label: str
    probabilities: dict[str, float]


class DetectorAnswer(BaseModel):
    """What one detector says."""

    score: float | None
    """Higher is more abnormal; null: not available."""
    threshold: float | None
    """Scores above it are abnormal; null: never calibrated."""
    percentile: float | None
    """Share of in-distribution scores below it, in percent."""
    abnormal: bool | None


class Judged(BaseModel):
    """What the policy did with an input."""

    detectors: dict[str, DetectorAnswer]
    abnormal: bool | None
    """null: nothing could tell."""
    decision: Literal["answered", "flagged", "abstained", "rejected"]
    reason: str | None


class Prediction(Judged):
    """The answer for one instance; no label where the policy abstained or rejected."""

    label: str | None
    class_index: int | None
    probabilities: dict[str, float] | None
    heads: dict[str, HeadAnswer] | None


class Answered(BaseModel):
    """What every answer has."""

    bundle: BundleName
    degraded: bool
    """Members were missing: the answer is the mean of the others, without heads and detectors."""
    missing_members: list[str]


class Predictions(Answered):
    """Answer of /v1/predict, in the order of the instances."""

    predictions: list[Prediction]
    error: str | None = None
    """Why all were rejected, with status 422."""


class Detections(Answered):
    """Answer of /v1/detect, in the order of the instances."""

    detections: list[Judged]


class Embeddings(Answered):
    """Answer of /v1/embed, in the order of the instances."""

    dim: int
    embeddings: list[list[float]]


class Drift(BaseModel):
    """How a detector's latest scores compare with those that its threshold was calibrated on."""

    rows: int
    psi: float | None
    """Population stability index; None: too few scores yet."""
    ks: float | None
    """Kolmogorov-Smirnov distance."""
    p_value: float | None
    drifted: bool | None


class Drifts(BaseModel):
    """Answer of /v1/drift, of the ingress replica that gives it."""

    bundle: BundleName
    detectors: dict[str, Drift]


class Health(BaseModel):
    """Answer of /healthz."""

    status: Literal["ok"]
    milliseconds: float
    """A forward pass just now took."""


class Ready(BaseModel):
    """Answer of /readyz."""

    status: Literal["ready"]


class Error(BaseModel):
    """Every error, in one line."""

    error: str


_STATUS = {
    400: "Malformed JSON or form.",
    401: "No token.",
    403: "Wrong token, or without one not from this machine.",
    413: "Body, image or number of instances too large.",
    415: "A content type that is not read.",
    422: "Not what the model takes, or all of it rejected as abnormal.",
    429: "The quota of the key is spent; see Retry-After.",
    503: "Too many requests wait, or nobody can answer now; see Retry-After.",
    504: "No answer in time.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": text} for status, text in _STATUS.items()
}


def body_of(modality: str) -> dict[str, Any]:
    """Return OpenAPI's description of a request's body, with examples that work."""
    instance: dict[str, Any] = {"type": "string"}
    examples: dict[str, Any] = {"texts": {"value": {"instances": ["a text", "another one"]}}}
    if modality == "image":
        instance = {
            "oneOf": [
                {"type": "array", "items": {}, "description": "h x w, or h x w x 1 or 3; 0..255 or 0.0..1.0"},
                {"type": "object", "required": ["b64"], "properties": {"b64": {"type": "string"}}},
            ]
        }
        dot = [[255 if 2 <= x <= 5 and 1 <= y <= 6 else 0 for x in range(8)] for y in range(8)]
        examples = {
            "pixels": {"summary": "One grey image as nested lists", "value": {"instances": [dot]}},
            "png": {"summary": "One encoded image", "value": {"instances": [{"b64": _PNG}]}},
        }
    schema = {
        "type": "object",
        "required": ["instances"],
        "additionalProperties": False,
        "properties": {"instances": {"type": "array", "minItems": 1, "items": instance}},
    }
    content: dict[str, Any] = {"application/json": {"schema": schema, "examples": examples}}
    if modality == "image":
        files = {"type": "array", "items": {"type": "string", "format": "binary"}}
        form = {"type": "object", "required": ["image"], "properties": {"image": files}}
        content["multipart/form-data"] = {"schema": form}
        content |= {f"image/{kind}": {"schema": {"type": "string"}} for kind in ("png", "jpeg", "webp")}
    return {"requestBody": {"required": True, "content": content}}


_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAG0lEQVR42mNggAJGBob/DAwMjAxMMBFiGHAAAD3rAQ"
    "ypUiTRAAAAAElFTkSuQmCC"
)
