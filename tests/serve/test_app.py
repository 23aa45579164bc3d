"""From settings to an application, refused before anything starts where it cannot work."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from ray import serve
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from ray_app.bundle import Bundle
from ray_app.errors import BundleError, SpecError
from ray_app.serve.answers import Answer, Refusal, Wish
from ray_app.serve.app import Remote, build, check, demand
from ray_app.spec.serve import Limits, ServeSpec
from tests.bundles import digits

ROWS = [pixels[..., 0] for pixels in digits(2)[0]]


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_APP_TOKEN", raising=False)
    # Whether Serve runs in this process' Ray must not matter here.
    monkeypatch.setattr("ray_app.serve.app.listening_host", lambda: None)


def names(application: Any) -> set[str]:
    found, todo = set(), [application]
    while todo:
        deployment = todo.pop()._bound_deployment
        found.add(deployment.name)
        for value in (*deployment.init_args, *deployment.init_kwargs.values()):
            values = value.values() if isinstance(value, dict) else [value]
            todo += [one for one in values if isinstance(one, serve.Application)]
    return found


def test_together_is_one_deployment_for_all_members(three: Bundle) -> None:
    assert names(build({"bundle": str(three.path)})) == {"ingress", "model"}


def test_spread_is_one_for_each(three: Bundle) -> None:
    application = build({"bundle": str(three.path), "placement": "spread"})
    assert names(application) == {"ingress", "model", "member-m0", "member-m1", "member-m2"}


def test_a_relative_bundle_means_the_working_directory(
    three: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(three.path.parent)
    ingress = build({"bundle": three.path.name})._bound_deployment
    assert ingress.init_args[0] == str(three.path.resolve())


def test_the_token_itself_does_not_travel(three: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_APP_TOKEN", "a-long-secret-token")
    ingress = build({"bundle": str(three.path)})._bound_deployment
    assert "a-long-secret-token" not in repr((ingress.init_args, ingress.init_kwargs))
    assert len(ingress.init_args[3]) == 64


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"polcy": {}}, r"args: polcy: unknown key; did you mean 'policy'\?"),
        ({"policy": {"detectors": ["nobody"]}}, r"the bundle has no detector 'nobody'"),
        ({"spread": {"members": {"m9": {}}}}, r"the bundle has no member 'm9' \(has: m0, m1, m2\)"),
    ],
)
def test_wrong_settings_are_refused(three: Bundle, args: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        build({"bundle": str(three.path), **args})


def test_gradients_cannot_be_spread(one: Bundle) -> None:
    with pytest.raises(
        SpecError, match=r"placement: spread cannot serve this bundle, place it together \(.*noise"
    ):
        build({"bundle": str(one.path), "placement": "spread"})


def test_a_modality_without_a_form_is_refused(one: Bundle) -> None:
    tensors = Bundle(one.path, one.manifest.model_copy(update={"modality": "audio"}))
    with pytest.raises(SpecError, match="takes audio; only image and text can be served"):
        check(ServeSpec(bundle="b"), tensors)


def test_a_bundle_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        build({"bundle": str(tmp_path / "none")})


def test_an_open_host_without_a_token_is_refused(one: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_app.serve.app.listening_host", lambda: "10.1.2.3")
    with pytest.raises(SpecError, match=r"host 10.1.2.3 can be reached by others"):
        build({"bundle": str(one.path)})


def test_the_demand_is_what_all_replicas_ask_for(three: Bundle) -> None:
    settings: dict[str, Any] = {
        "bundle": str(three.path),
        "resources": {"num_cpus": 0.5, "num_gpus": 0.25},
        "ingress": {"num_cpus": 0.1, "replicas": 2},
        "autoscaling": {"min_replicas": 2},
    }
    assert demand(ServeSpec(**settings), three) == pytest.approx((0.2 + 1, 0.5))
    settings |= {"placement": "spread", "spread": {"members": {"m1": {"num_cpus": 2}}}}
    assert demand(ServeSpec(**settings), three) == pytest.approx((0.2 + 2 * (0.1 + 0.5 + 2 + 0.5), 2 * 0.5))


class Handle:
    """A deployment handle whose calls go as told, one after the other."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.answer = self

    async def remote(self, instances: Any, wishes: Any) -> Any:
        outcome = self.outcomes.pop(0)
        if outcome is TimeoutError:
            await asyncio.Event().wait()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


DIED = ActorDiedError()


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([Answer()], Answer()),
        ([DIED, Answer()], Answer()),
        ([DIED, DIED, Answer()], Refusal(503, "the model is not available; try again later")),
        (
            [BackPressureError(num_queued_requests=5, max_queued_requests=5), Answer()],
            Refusal(503, "5 requests wait already; try again later"),
        ),
        ([TimeoutError], Refusal(504, "no answer within 0.05 s; send less, or try again later")),
        ([DIED, TimeoutError], Refusal(504, "no answer within 0.05 s; send less, or try again later")),
    ],
)
def test_a_prediction_is_tried_once_more_and_never_for_ever(
    outcomes: list[Any], expected: Answer | Refusal
) -> None:
    handle = Handle(*outcomes)
    remote = Remote(handle, Limits(timeout_s=0.05, queued_requests=5))  # type: ignore[arg-type]
    assert asyncio.run(remote.answer(ROWS, frozenset[Wish](["proba"]))) == expected


def test_another_error_is_not_tried_again() -> None:
    handle = Handle(ValueError("ours"), Answer())
    with pytest.raises(ValueError, match="ours"):
        asyncio.run(Remote(handle, Limits()).answer(ROWS, frozenset[Wish](["proba"])))  # type: ignore[arg-type]
    assert len(handle.outcomes) == 1
