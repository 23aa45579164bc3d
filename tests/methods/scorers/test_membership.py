"""Membership against its formulas, and on a model that has seen half of the rows."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from ray_app.errors import NotFittedError
from ray_app.methods.scorers._membership import Sketch
from ray_app.methods.scorers.membership import Membership
from ray_app.testing.scorers import check_scorer
from tests.causal import tiny_model

RNG = np.random.default_rng(0)
WORDS = ["red", "green", "old", "new", "small", "large", "cat", "dog", "bird", "house", "sat", "ran", "slept"]
TEXTS = [" ".join(RNG.choice(WORDS, size=8)) for _ in range(24)]
SEEN = TEXTS[:12]
TRUTH = np.repeat([1, 0], 12)
WHITE_BOX = ("gradnorm", "alora", "supervised")


def batch(*values: object, label: np.ndarray | None = None) -> dict[str, np.ndarray]:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return {"text": column} | ({} if label is None else {"label": label})


ROWS = batch(*TEXTS, label=TRUTH)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A model that was trained on the texts seen, and one that was not; one tokenizer."""
    folder = tmp_path_factory.mktemp("membership")
    base = tiny_model(folder, TEXTS)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ray_app.papers._language_models import save, sequences_of, train

    tokenizer = AutoTokenizer.from_pretrained(base)
    net = AutoModelForCausalLM.from_pretrained(base)
    train(net, sequences_of(tokenizer, SEEN, 32), steps=60, batch_size=6, lr=1e-2, seed=0)
    return save(net, tokenizer, folder / "tuned"), str(base)


def make(models: tuple[str, str], kind: str, **options: object) -> Membership:
    base = {"base": models[1]} if kind == "flora" else {}
    return Membership(model=models[0], kind=kind, **base, **options)  # type: ignore[arg-type]


def by_hand(folder: str) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    net = AutoModelForCausalLM.from_pretrained(folder).eval()
    return net, [torch.tensor([[tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]]) for text in TEXTS]


def costs(net: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return cross_entropy(net(ids).logits[0, :-1], ids[0, 1:], reduction="none")


def test_black_box_kinds_are_their_formulas(models: tuple[str, str]) -> None:
    (net, rows), (base, _) = by_hand(models[0]), by_hand(models[1])
    with torch.no_grad():
        found = [costs(net, ids).double().numpy() for ids in rows]
        before = np.array([costs(base, ids).double().mean() for ids in rows])
    loss = np.array([each.mean() for each in found])
    expected = {
        "loss": -loss,
        "zlib": -loss / [len(zlib.compress(text.encode())) for text in TEXTS],
        "flora": before - loss,
        "mink": -np.array([np.sort(each)[-int(0.4 * len(each)) :].mean() for each in found]),
    }
    for kind, scores in expected.items():
        np.testing.assert_allclose(make(models, kind, k=0.4).score(ROWS), scores, rtol=1e-4, atol=1e-6)
    ratio = make(models, "flora", compare="ratio").score(ROWS)
    np.testing.assert_allclose(ratio, before / loss, rtol=1e-4)


@pytest.mark.parametrize("p", [1, 2, "inf"])
def test_gradient_norms_are_those_of_one_long_vector(models: tuple[str, str], p: float) -> None:
    net, rows = by_hand(models[0])
    expected = []
    for ids in rows[:4]:
        net.zero_grad()
        costs(net, ids).mean().backward()
        whole = torch.cat(
            [parameter.grad.flatten() for parameter in net.parameters() if parameter.grad is not None]
        )
        expected.append(-float(torch.linalg.vector_norm(whole, ord=float(p))))
    got = make(models, "gradnorm", p=p).score(batch(*TEXTS[:4]))
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_one_step_and_back(models: tuple[str, str]) -> None:
    lr = 0.05
    expected = []
    for row in range(4):
        net, rows = by_hand(models[0])
        optimiser = torch.optim.SGD(net.parameters(), lr=lr)
        before = costs(net, rows[row]).mean()
        before.backward()
        optimiser.step()
        with torch.no_grad():
            expected.append(float(costs(net, rows[row]).mean() - before))
    scorer = make(models, "alora", lr=lr)
    kept = {name: p.clone() for name, p in scorer._signals.model.net.named_parameters()}
    np.testing.assert_allclose(scorer.score(batch(*TEXTS[:4])), expected, rtol=1e-3, atol=1e-6)
    for name, parameter in scorer._signals.model.net.named_parameters():
        assert torch.equal(parameter, kept[name])


def test_weights_come_back_exactly_in_low_precision_and_after_a_fault(
    models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = make(models, "alora", dtype="bfloat16", lr=1.0)
    model = scorer._signals.model
    kept = {name: p.clone() for name, p in model.net.named_parameters()}
    scorer.score(batch(*TEXTS[:2]))
    real, calls = model._loss, []

    def fails(sequence: list[int]) -> torch.Tensor:
        calls.append(sequence)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return real(sequence)

    monkeypatch.setattr(model, "_loss", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        scorer.score(batch(TEXTS[0]))
    assert all(torch.equal(p, kept[name]) for name, p in model.net.named_parameters())
    assert not any(p.requires_grad for p in model.net.parameters())


@pytest.mark.parametrize("kind", ["loss", "mink", "flora", "gradnorm", "alora"])
def test_members_of_an_overfitted_model_score_higher(models: tuple[str, str], kind: str) -> None:
    from sklearn.metrics import roc_auc_score

    assert roc_auc_score(TRUTH, make(models, kind).score(ROWS)) > 0.9


def test_supervised_tells_rows_that_it_did_not_learn_from(models: tuple[str, str]) -> None:
    from sklearn.metrics import roc_auc_score

    known = np.arange(24) % 2 == 0
    scorer = make(models, "supervised", dim=8).fit(batch(*np.array(TEXTS)[known]), TRUTH[known])
    assert roc_auc_score(TRUTH[~known], scorer.score(batch(*np.array(TEXTS)[~known]))) > 0.9
    with pytest.raises(ValueError, match="was the state made with another model"):
        make(models, "supervised", dim=4).load_state(scorer.state()).score(ROWS)
    with pytest.raises(ValueError, match="row 1 has no gradient"):
        scorer.fit(
            batch("a", "") if not scorer._signals.model.begin else _without_begin(scorer), np.array([0, 1])
        )


def _without_begin(scorer: Membership) -> dict[str, np.ndarray]:
    scorer._signals.model.begin = []
    return batch("red green", "")


def test_projections_keep_lengths_and_angles_on_average() -> None:
    a, b = torch.randn(2, 30, 7, generator=torch.Generator().manual_seed(0))
    sums = [(Sketch(8, seed).projected("w", a), Sketch(8, seed).projected("w", b)) for seed in range(400)]
    assert np.mean([float(x @ x) for x, _ in sums]) == pytest.approx(float(a.square().sum()), rel=0.1)
    assert np.mean([float(x @ y) for x, y in sums]) == pytest.approx(float((a * b).sum()), abs=5)
    again = Sketch(8, 3)
    assert torch.equal(again.projected("w", a), sums[3][0])
    assert not torch.equal(again.projected("v", a), sums[3][0])


@pytest.mark.parametrize("kind", ["loss", "mink", "zlib", "flora", *WHITE_BOX])
def test_contract(models: tuple[str, str], kind: str) -> None:
    rows = batch(*TEXTS[:3], *TEXTS[-3:], label=np.repeat([1, 0], 3))
    check_scorer(lambda: make(models, kind), rows, batch(None, label=np.array([0])))
    scorer = make(models, kind)
    assert scorer.heavy
    assert scorer.learns == (kind == "supervised")


def test_rows_without_tokens_are_nan(models: tuple[str, str]) -> None:
    for kind in ("loss", "flora", "gradnorm", "alora"):
        score = make(models, kind).score(batch("", TEXTS[0]))
        assert np.isnan(score[0])
        assert np.isfinite(score[1])
    taught = make(models, "supervised").fit(ROWS, TRUTH)
    assert np.isnan(taught.score(batch(""))).all()
    with pytest.raises(NotFittedError, match="known members"):
        make(models, "supervised").score(ROWS)


def test_only_the_first_tokens_are_looked_at(models: tuple[str, str]) -> None:
    for kind in ("loss", "gradnorm"):
        short, long = (
            make(models, kind, max_tokens=4).score(batch(text))[0]
            for text in (TEXTS[0], TEXTS[0] + " and more of it")
        )
        assert short == pytest.approx(long)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "lora"}, "kind must be one of"),
        ({"kind": "flora"}, "flora needs the base"),
        ({"base": "b"}, "no other kind has one"),
        ({"compare": "sum"}, "difference or ratio"),
        ({"k": 0}, r"k must be in 0\.\.1"),
        ({"p": 3}, "p must be 1, 2 or inf, got 3"),
        ({"lr": 0}, "lr must be > 0"),
        ({"dim": 0}, "dim must be >= 1"),
        ({"max_tokens": 0}, "max_tokens must be >= 1"),
        ({"dtype": "int4"}, "dtype must be"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Membership(**{"model": "m", **options})  # type: ignore[arg-type]


def test_a_base_with_another_tokenizer_is_refused(models: tuple[str, str], tmp_path: Path) -> None:
    other = tiny_model(tmp_path, ["quite another language"])
    with pytest.raises(ValueError, match="different tokenizers"):
        Membership(model=models[0], kind="flora", base=str(other)).score(ROWS)
