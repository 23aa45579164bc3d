"""What a replica answers: the same whether requests come alone or together, members together or apart."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from ray_app.bundle import Bundle
from ray_app.errors import BundleError
from ray_app.methods.encoders import Features, Inputs, Want
from ray_app.predictor import Predictor
from ray_app.serve.answers import Answer, Refusal, Wish
from ray_app.serve.model import Member, Model, SpreadModel, opened
from ray_app.spec.serve import Batching, Spread
from tests.bundles import digits
from tests.serve.local import encoded

ALL = frozenset[Wish](["proba", "heads", "scores"])
PIXELS, _ = digits(7)
ROWS = [pixels[..., 0] for pixels in PIXELS]


def model(bundle: Bundle, max_rows: int = 32) -> Model:
    return Model(str(bundle.path), bundle.version, Batching(max_rows=max_rows))


def told(bundle: Bundle) -> Any:
    predictor = Predictor(bundle)
    with torch.no_grad():
        return predictor(predictor.preprocess({"image": PIXELS}))


def check(answer: Answer | Refusal, expected: Any, rows: slice = slice(None)) -> None:
    assert isinstance(answer, Answer), answer
    np.testing.assert_allclose(answer.proba, expected.proba[rows], rtol=1e-4)
    assert answer.scores.keys() == expected.scores.keys()
    for name, scores in expected.scores.items():
        np.testing.assert_allclose(answer.scores[name], scores[rows], rtol=1e-3)
    for name, proba in expected.heads.items():
        np.testing.assert_allclose(answer.heads[name], proba[rows], rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("max_rows", [1, 3, 32])
def test_a_request_may_be_larger_than_a_batch(one: Bundle, max_rows: int) -> None:
    check(asyncio.run(model(one, max_rows).answer(ROWS, ALL)), told(one))


def test_requests_that_come_together_get_their_own_rows(one: Bundle) -> None:
    served = model(one)
    parts = [slice(0, 1), slice(1, 4), slice(4, 7)]

    async def go() -> list[Answer | Refusal]:
        return await asyncio.gather(*(served.answer(ROWS[rows], ALL) for rows in parts))

    expected = told(one)
    for rows, answer in zip(parts, asyncio.run(go()), strict=True):
        check(answer, expected, rows)


def test_bytes_and_floats_share_a_batch(one: Bundle) -> None:
    served = model(one)
    values: list[Any] = [ROWS[0], encoded(ROWS[0]), (ROWS[0] / 255).astype(np.float32)]

    async def go() -> list[Answer | Refusal]:
        return await asyncio.gather(*(served.answer([value], ALL) for value in values))

    first, second, third = asyncio.run(go())
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert isinstance(third, Answer)
    np.testing.assert_array_equal(first.proba, second.proba)
    # Resizing rounds bytes to whole numbers, and floats not.
    np.testing.assert_allclose(first.proba, third.proba, rtol=2e-2)


def test_only_what_is_wished_for_is_computed(one: Bundle) -> None:
    served = model(one)
    both = (["features"], ["scores"])

    async def go() -> list[Answer | Refusal]:
        return [await served.answer(ROWS, frozenset[Wish](wishes)) for wishes in both]

    features, scores = asyncio.run(go())
    assert isinstance(features, Answer)
    assert (features.proba, features.heads, features.scores) == (None, {}, {})
    assert features.features.shape == (7, Predictor(one).encoder.dim)
    assert isinstance(scores, Answer)
    assert scores.heads == {}
    assert set(scores.scores) == {"max_softmax", "mahalanobis"}


def test_a_wrong_instance_refuses_its_request_alone(one: Bundle) -> None:
    served = model(one)

    async def go() -> list[Answer | Refusal]:
        bad: list[Any] = [ROWS[0], b"no image"]
        return await asyncio.gather(*(served.answer(values, ALL) for values in (ROWS[:1], bad, ROWS[1:2])))

    good, refused, other = asyncio.run(go())
    assert isinstance(good, Answer)
    assert isinstance(other, Answer)
    assert isinstance(refused, Refusal)
    assert refused.status == 422
    assert "row 1: not a readable image" in refused.reason


def test_a_bundle_that_was_replaced_is_refused(one: Bundle) -> None:
    with pytest.raises(
        BundleError, match=rf"is now version {one.version}, deployed was 000000000000; deploy it again"
    ):
        opened(str(one.path), "000000000000")


def test_a_probe_is_timed(one: Bundle, three: Bundle) -> None:
    served = model(one)
    assert asyncio.run(served.probe()) > 0
    asyncio.run(served.check_health())
    with pytest.raises(RuntimeError, match="no member of the ensemble answers"):
        asyncio.run(apart(three, dict.fromkeys(("m0", "m1", "m2"), dead)).probe())


Ask = Callable[[Inputs, Collection[Want]], Awaitable[Features]]


async def dead(inputs: Inputs, want: Collection[Want]) -> Features:
    raise RuntimeError("gone")


async def late(inputs: Inputs, want: Collection[Want]) -> Features:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def apart(bundle: Bundle, wrong: dict[str, Ask], rest_s: float = 0, deadline_s: float = 60) -> SpreadModel:
    asks: dict[str, Ask] = {
        name: wrong.get(name) or Member(str(bundle.path), bundle.version, name).features
        for name in bundle.manifest.members
    }
    spread = Spread(deadline_s=deadline_s, rest_s=rest_s)
    return SpreadModel(str(bundle.path), bundle.version, Batching(), spread, asks)


def test_members_apart_answer_as_together(three: Bundle) -> None:
    answer = asyncio.run(apart(three, {}).answer(ROWS, ALL))
    check(answer, told(three))
    assert isinstance(answer, Answer)
    assert not answer.missing
    features = asyncio.run(apart(three, {}).answer(ROWS, frozenset[Wish](["features"])))
    assert isinstance(features, Answer)
    np.testing.assert_allclose(features.features, told(three).features.pooled, rtol=1e-4)


@pytest.mark.parametrize(("broken", "deadline_s"), [(dead, 60), (late, 0.5)], ids=["dead", "late"])
def test_a_missing_member_degrades_the_answer(three: Bundle, broken: Ask, deadline_s: float) -> None:
    served = apart(three, {"m1": broken}, deadline_s=deadline_s)
    answer = asyncio.run(served.answer(ROWS, ALL))
    assert isinstance(answer, Answer)
    assert list(answer.missing) == ["m1"]
    assert (answer.heads, answer.scores) == ({}, {})
    predictor = Predictor(three)
    with torch.no_grad():
        inputs = predictor.preprocess({"image": PIXELS})
        logits = [predictor.encoder.members[name](inputs, {"logits"}).logits for name in ("m0", "m2")]
    np.testing.assert_allclose(answer.proba, torch.softmax(torch.stack(logits).mean(0), 1), rtol=1e-4)


def test_embeddings_need_all_members(three: Bundle) -> None:
    answer = asyncio.run(apart(three, {"m1": dead}).answer(ROWS, frozenset[Wish](["features"])))
    assert answer == Refusal(503, "members that are needed do not answer (m1); try again later")


def test_without_any_member_nobody_answers(three: Bundle) -> None:
    answer = asyncio.run(apart(three, dict.fromkeys(("m0", "m1", "m2"), dead)).answer(ROWS, ALL))
    assert answer == Refusal(503, "no member of the ensemble answers; try again later")


def test_a_member_that_was_missing_rests_and_comes_back(three: Bundle) -> None:
    asked: list[str] = []
    member = Member(str(three.path), three.version, "m1")

    async def first_fails(inputs: Inputs, want: Collection[Want]) -> Features:
        asked.append("m1")
        if len(asked) == 1:
            raise RuntimeError("gone")
        return await member.features(inputs, want)

    async def go(served: SpreadModel) -> list[Sequence[str]]:
        answers = [await served.answer(ROWS[:1], ALL) for _ in range(3)]
        return [list(answer.missing) for answer in answers if isinstance(answer, Answer)]

    assert asyncio.run(go(apart(three, {"m1": first_fails}, rest_s=3600))) == [["m1"]] * 3
    assert len(asked) == 1
    asked.clear()
    assert asyncio.run(go(apart(three, {"m1": first_fails}, rest_s=0))) == [["m1"], [], []]


def test_all_resting_are_asked_nevertheless(three: Bundle) -> None:
    calls = 0

    async def recovers(inputs: Inputs, want: Collection[Want]) -> Features:
        nonlocal calls
        calls += 1
        if calls <= 3:
            raise RuntimeError("gone")
        return await Member(str(three.path), three.version, "m0").features(inputs, want)

    served = apart(three, dict.fromkeys(("m0", "m1", "m2"), recovers), rest_s=3600)

    async def go() -> list[Answer | Refusal]:
        return [await served.answer(ROWS[:1], ALL) for _ in range(2)]

    first, second = asyncio.run(go())
    assert isinstance(first, Refusal)
    assert isinstance(second, Answer)
    assert not second.missing
