"""Every request gets the right answer or one clear line, and the server lives on."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from ray_app.bundle import Bundle
from ray_app.errors import SpecError
from ray_app.predictor import Predictor
from ray_app.serve import schema
from ray_app.serve.answers import Answer, Refusal, Wish
from tests.bundles import digits
from tests.serve.local import TOKEN, Local, b64, encoded, local

PIXELS, _ = digits(6)
GOOD = PIXELS[0, ..., 0].tolist()
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def app(one: Bundle) -> Iterator[Local]:
    limits = {"body_bytes": 20_000, "instances": 8, "image_pixels": 10_000}
    with local(one, limits=limits) as served:
        yield served


def check_alive(app: Local) -> None:
    assert app.predict([GOOD]).status_code == 200


def test_predict_tells_what_the_bundle_tells(app: Local, one: Bundle) -> None:
    answer = app.predict([pixels[..., 0].tolist() for pixels in PIXELS])
    assert answer.status_code == 200
    content = schema.Predictions.model_validate(answer.json())
    predictor = Predictor(one)
    with torch.no_grad():
        told = predictor(predictor.preprocess({"image": PIXELS}))
    assert content.bundle == schema.BundleName(name="tiny", version=one.version)
    assert content.degraded is False
    for row, prediction in enumerate(content.predictions):
        assert prediction.class_index == told.predictions[row]
        assert prediction.label == one.manifest.labels[told.predictions[row]]
        assert list(prediction.probabilities) == one.manifest.labels
        np.testing.assert_allclose(list(prediction.probabilities.values()), told.proba[row], rtol=1e-5)
        head = prediction.heads["nearest_mean"]
        np.testing.assert_allclose(
            list(head.probabilities.values()), told.heads["nearest_mean"][row], rtol=1e-3, atol=1e-6
        )
        assert set(prediction.detectors) == {"max_softmax", "mahalanobis"}
        for name, detector in prediction.detectors.items():
            assert detector.score == pytest.approx(float(told.scores[name][row]), rel=1e-4)
            assert detector.threshold == one.manifest.detectors[name].threshold.value
            assert detector.abnormal is (detector.score > detector.threshold)


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_images_are_taken_in_every_form(app: Local, kind: str) -> None:
    image = encoded(PIXELS[0], kind.upper(), **({"lossless": True} if kind == "webp" else {}))
    expected = app.predict([GOOD]).json()["predictions"][0]["probabilities"]
    answers = [
        app.predict([b64(image)]),
        app.post("/v1/predict", files={"image": ("digit", image, f"image/{kind}")}),
        app.post("/v1/predict", content=image, headers={"content-type": f"image/{kind}"}),
        app.predict([(PIXELS[0] / 255).tolist()]),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert answer.json()["predictions"][0]["probabilities"] == pytest.approx(expected, rel=2e-2)


def test_a_jpeg_in_colour_and_several_files(app: Local) -> None:
    image = encoded(np.repeat(PIXELS[0], 3, axis=2), "JPEG")
    answer = app.post("/v1/predict", files=[("image", ("a", image)), ("image", ("b", encoded(PIXELS[1])))])
    assert len(answer.json()["predictions"]) == 2


def test_top_keeps_the_likeliest(app: Local) -> None:
    whole = app.predict([GOOD]).json()["predictions"][0]["probabilities"]
    short = app.predict([GOOD], "/v1/predict?top=3").json()["predictions"][0]["probabilities"]
    assert list(short) == sorted(whole, key=lambda label: -whole[label])[:3]
    refused = app.predict([GOOD], "/v1/predict?top=0")
    assert refused.status_code == 422
    assert refused.json()["error"].startswith("top: ")


def test_embed_gives_the_pooled_features(app: Local, one: Bundle) -> None:
    content = schema.Embeddings.model_validate(app.predict([GOOD, GOOD], "/v1/embed").json())
    predictor = Predictor(one)
    with torch.no_grad():
        pooled = predictor.encoder(predictor.preprocess({"image": PIXELS[:1]})).pooled
    assert content.dim == pooled.shape[1]
    np.testing.assert_allclose(content.embeddings, pooled.expand(2, -1), rtol=1e-5)


def test_detect_gives_the_scores_alone(app: Local) -> None:
    content = app.predict([GOOD], "/v1/detect").json()
    schema.Detections.model_validate(content)
    whole = app.predict([GOOD]).json()["predictions"][0]
    assert content["detections"][0]["detectors"]["max_softmax"] == whole["detectors"]["max_softmax"]
    assert "label" not in content["detections"][0]


BAD: list[tuple[int, str, dict[str, Any]]] = [
    (400, "malformed JSON at line 1, column 15", {"content": '{"instances": ', "headers": JSON}),
    (400, "malformed JSON", {"content": b"\xff\xfe\x00", "headers": JSON}),
    (400, "malformed JSON", {"content": "", "headers": JSON}),
    (400, "nested too deeply", {"content": "[" * 15_000, "headers": JSON}),
    (400, "NaN is no JSON number", {"content": '{"instances": [[[NaN]]]}', "headers": JSON}),
    (400, "malformed JSON", {"content": '{"instances": [[[%s]]]}' % ("9" * 5000), "headers": JSON}),
    (422, "expected {'instances': [...]}, got a list", {"json": [1]}),
    (422, "instances: expected a list, got nothing", {"json": {}}),
    (422, "the list is empty", {"json": {"instances": []}}),
    (422, "unknown key 'instance'; did you mean 'instances'?", {"json": {"instance": [GOOD]}}),
    (413, "9 instances; the limit is 8", {"json": {"instances": [[[1]]] * 9}}),
    (422, "instances[1]: expected nested lists", {"json": {"instances": [GOOD, 7]}}),
    (422, "instances[1]: rows of different lengths", {"json": {"instances": [GOOD, [[1, 2], [3]]]}}),
    (422, "instances[0]: shape 3; expected h x w", {"json": {"instances": [[1, 2, 3]]}}),
    (422, "instances[0]: shape 1 x 1 x 2", {"json": {"instances": [[[[1, 2]]]]}}),
    (422, "instances[0]: shape 1 x 0", {"json": {"instances": [[[]]]}}),
    (422, "pixels from 0 to 256; whole numbers must be 0..255", {"json": {"instances": [[[0, 256]]]}}),
    (422, "pixels from -0.1 to 1", {"json": {"instances": [[[-0.1, 1.0]]]}}),
    (422, "pixels must be numbers", {"json": {"instances": [[["a"]]]}}),
    (422, "pixels must be numbers", {"json": {"instances": [[[True]]]}}),
    (422, "pixels must be numbers", {"json": {"instances": [[[2**70]]]}}),
    (
        413,
        "200 x 100 pixels; the limit is 10,000",
        {"json": {"instances": [b64(encoded(np.zeros((100, 200), np.uint8)))]}},
    ),
    (422, "b64 is not valid base64", {"json": {"instances": [{"b64": "*"}]}}),
    (422, "not a readable image; send PNG", {"json": {"instances": [{"b64": ""}]}}),
    (422, "expected {'b64': '...'}", {"json": {"instances": [{"b64": "", "x": 1}]}}),
    (422, "not a readable image", {"json": {"instances": [b64(encoded(PIXELS[0], "GIF"))]}}),
    (422, "row 1: not a readable image", {"json": {"instances": [GOOD, b64(encoded(PIXELS[0])[:60])]}}),
    (422, "image 0: not a readable image", {"files": {"image": ("a.png", b"no image")}}),
    (
        422,
        "no file in the form's field 'image' (fields: photo)",
        {"files": {"photo": ("a", encoded(PIXELS[0]))}},
    ),
    (
        422,
        "no file in the form's field 'image' (fields: image)",
        {"data": {"image": "x"}, "files": {"image2": b""}},
    ),
    (400, "boundary", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}),
    (415, "content-type 'missing' is not read", {"content": b"x"}),
    (415, "content-type 'text/csv' is not read", {"content": b"x", "headers": {"content-type": "text/csv"}}),
    (415, "content-encoding 'gzip'", {"content": b"x", "headers": {**JSON, "content-encoding": "gzip"}}),
    (413, "body of more than 20,000 bytes", {"content": b" " * 20_001, "headers": JSON}),
]


@pytest.mark.parametrize(("status", "said", "request_"), BAD, ids=[f"{s} {said[:40]}" for s, said, _ in BAD])
@pytest.mark.parametrize("path", ["/v1/predict"])
def test_a_bad_request_costs_one_line(
    app: Local, path: str, status: int, said: str, request_: dict[str, Any]
) -> None:
    answer = app.post(path, **request_)
    assert answer.status_code == status, answer.text
    (error,) = answer.json().values()
    assert said in error or said in error.replace("fields: image, image2", "fields: image")
    assert "\n" not in error
    check_alive(app)


def test_a_huge_body_is_refused_while_it_comes(app: Local) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while True:
            sent += 1000
            yield b" " * 1000

    answer = app.post("/v1/predict", content=endless(), headers=JSON)
    assert answer.status_code == 413
    assert "20,000 bytes" in answer.json()["error"]
    assert sent <= 22_000
    form = app.post(
        "/v1/predict", content=endless(), headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert form.status_code in (400, 413)
    check_alive(app)


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("POST", "/predict", 404, "no such path '/predict'; did you mean '/v1/predict'"),
        ("POST", "/v1/predict/x", 404, "no such path"),
        ("GET", "/v1/predict", 405, "GET is not for '/v1/predict'"),
        ("DELETE", "/healthz", 405, "DELETE is not for '/healthz'"),
    ],
)
def test_paths_and_methods(app: Local, method: str, path: str, status: int, said: str) -> None:
    answer = app.request(method, path)
    assert answer.status_code == status
    assert said in answer.json()["error"]


def test_the_description_has_examples_that_work(app: Local) -> None:
    described = app.get("/openapi.json").json()
    examples = described["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"][
        "examples"
    ]
    assert examples
    for example in examples.values():
        assert app.post("/v1/predict", json=example["value"]).status_code == 200
    assert {"200", "401", "403", "413", "422", "503"} <= set(
        described["paths"]["/v1/predict"]["post"]["responses"]
    )
    assert app.get("/docs").status_code == 200
    assert app.get("/").headers["location"] == "/docs"


def test_health_is_a_forward_pass_and_discloses_nothing(app: Local) -> None:
    answer = app.get("/healthz")
    assert set(answer.json()) == {"status", "milliseconds"}
    assert answer.json()["milliseconds"] > 0
    assert app.get("/readyz").json() == {"status": "ready"}


class Fake:
    """Answers as it is told."""

    def __init__(self, answer: Answer | Refusal, healthy: bool = True) -> None:  # noqa: FBT001, FBT002
        self.told = answer
        self.healthy = healthy
        self.probes = 0

    async def answer(self, instances: Sequence[Any], wishes: frozenset[Wish]) -> Answer | Refusal:  # noqa: ARG002, RUF100
        return self.told

    async def probe(self) -> float:
        self.probes += 1
        await asyncio.sleep(0)
        if not self.healthy:
            raise RuntimeError("secret path")
        return 1.5


def test_a_burst_of_health_checks_is_one_pass(one: Bundle) -> None:
    fake = Fake(Answer())
    with local(one, fake) as app:

        async def burst() -> list[int]:
            answers = await asyncio.gather(*(app.http.get("/healthz") for _ in range(20)))
            return [answer.status_code for answer in answers]

        assert app.runner.run(burst()) == [200] * 20
    assert fake.probes == 1


def test_a_failing_probe_is_not_healthy(one: Bundle) -> None:
    with local(one, Fake(Answer(), healthy=False)) as app:
        for path in ("/healthz", "/readyz"):
            answer = app.get(path)
            assert answer.status_code == 503
            assert answer.json() == {"error": "not healthy"}


def test_a_refusal_has_its_status_and_says_when_to_return(one: Bundle) -> None:
    with local(one, Fake(Refusal(503, "busy")), limits={"retry_after_s": 7}) as app:
        answer = app.predict([GOOD])
    assert (answer.status_code, answer.json(), answer.headers["retry-after"]) == (503, {"error": "busy"}, "7")


def scored(value: float, **more: Any) -> Answer:
    proba = np.full((1, 10), 0.1, dtype=np.float32)
    scores = {name: np.array([value], dtype=np.float32) for name in ("max_softmax", "mahalanobis")}
    return Answer(proba=proba, heads={"nearest_mean": proba}, scores=scores, **more)


@pytest.mark.parametrize(
    ("action", "status", "done"),
    [("flag", 200, "flagged"), ("abstain", 200, "abstained"), ("reject", 422, "rejected")],
)
def test_the_policy_decides(one: Bundle, action: str, status: int, done: str) -> None:
    with local(one, Fake(scored(1e9)), policy={"action": action}) as app:
        answer = app.predict([GOOD])
        detection = app.predict([GOOD], "/v1/detect").json()["detections"][0]
    prediction = answer.json()["predictions"][0]
    assert answer.status_code == status
    assert (prediction["abnormal"], prediction["decision"]) == (True, done)
    assert "mahalanobis 1e+09 (threshold" in prediction["reason"]
    assert (prediction["label"] is None) is (action != "flag")
    assert (prediction["probabilities"] is None) is (action != "flag")
    assert ("error" in answer.json()) is (action == "reject")
    assert (detection["abnormal"], detection["decision"]) == (True, done)
    with local(one, Fake(scored(-1e9)), policy={"action": action}) as app:
        assert app.predict([GOOD]).json()["predictions"][0]["decision"] == "answered"


def test_a_degraded_answer_says_so_and_has_no_heads(one: Bundle) -> None:
    proba = np.full((1, 10), 0.1, dtype=np.float32)
    with local(one, Fake(Answer(proba=proba, missing=("m1",)))) as app:
        content = app.predict([GOOD]).json()
    assert (content["degraded"], content["missing_members"]) == (True, ["m1"])
    prediction = schema.Prediction.model_validate(content["predictions"][0])
    assert prediction.heads is None
    assert prediction.abnormal is None
    assert {detector.score for detector in prediction.detectors.values()} == {None}


def test_numbers_that_are_none_never_leave(one: Bundle) -> None:
    broken = scored(0.0)
    broken.proba[0, 3] = np.nan
    with local(one, Fake(broken)) as app:
        answer = app.predict([GOOD])
    assert answer.status_code == 500
    assert "no finite numbers" in answer.json()["error"]


def test_a_failure_of_ours_discloses_nothing(one: Bundle) -> None:
    class Broken(Fake):
        async def answer(self, *_: Any) -> Answer | Refusal:
            raise RuntimeError("secret path")

    with local(one, Broken(Answer())) as app:
        answer = app.predict([GOOD])
    assert answer.status_code == 500
    assert answer.json() == {"error": "the server failed on this request; its log says why"}


def test_bad_requests_fail_alone_among_good_ones(app: Local) -> None:
    bad = b64(encoded(PIXELS[0])[:60])
    bodies = [{"instances": [bad if row % 3 == 1 else GOOD]} for row in range(12)]
    answers = app.together(bodies)
    assert [answer.status_code for answer in answers] == [422 if row % 3 == 1 else 200 for row in range(12)]
    good = [answer.json()["predictions"][0]["label"] for answer in answers if answer.status_code == 200]
    assert len(set(good)) == 1


def test_a_policy_that_cannot_hold_is_refused_before_anything_starts(one: Bundle) -> None:
    with (
        pytest.raises(SpecError, match="no detector 'knn'"),
        local(one, Fake(Answer()), policy={"detectors": ["knn"]}),
    ):
        pass


def test_text_is_taken_as_text(one: Bundle) -> None:
    text = Bundle(one.path, one.manifest.model_copy(update={"modality": "text"}))
    with local(text, Fake(scored(0.0))) as app:
        assert app.predict(["a text"]).status_code == 200
        assert "instances[0]: expected text, got a number" in app.predict([1]).json()["error"]
        assert app.post("/v1/predict", files={"image": b"x"}).status_code == 415


def test_a_token_is_not_needed_here(app: Local) -> None:
    assert app.predict([GOOD], headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
