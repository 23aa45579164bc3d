"""Paper 2: what a fine-tuned language model gives away about the rows that it was fine-tuned on."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.papers import Claim, Outcome, Paper, Scale, lead, reaches
from ray_app.papers._language_models import save, sequences_of, small_model, tokenizer_of, train
from ray_app.papers._rows import choose, drawn
from ray_app.papers._texts import MODULES, docstrings, reference, without_near_duplicates

if TYPE_CHECKING:
    from ray_app.methods import Batch

PAPER = Paper(
    title="Pandora's White-Box: Precise Training Data Detection and Extraction in Large Language Models",
    year=2024,
    url="https://arxiv.org/abs/2402.17012",
    methods=["scorers/membership", "diagnostics/leakage"],
    claims=[
        Claim("flora_finds", "With the base known, the fine-tuning set is found: AUC at least 0.90."),
        Claim("flora_over_loss", "The base's loss minus the model's leads the loss by at least 0.20 in AUC."),
        Claim("flora_is_certain", "At 1 % false positives it finds at least 0.30 of the members."),
        Claim(
            "flora_more_certain_than_loss",
            "At 1 % false positives it finds at least three times as many members as the loss (the baseline "
            "is three times the loss's share).",
        ),
        Claim(
            "grows_with_epochs",
            "Leakage grows strictly from one epoch to three and to five: the smaller gain in AUC is above 0.",
        ),
        Claim("gradient_norm_finds", "Without the base, small gradients tell members: AUC at least 0.60."),
        Claim("one_step_finds", "Without the base, what one step changes tells them: AUC at least 0.60."),
        Claim("white_box_over_loss", "The lower of both white-box signals is not below the loss in AUC."),
        Claim(
            "supervised_over_single",
            "Taught by known rows, gradients tell other rows at least as well as the best signal without the "
            "base: AUC.",
        ),
        Claim("difference_or_ratio", "Subtracting losses is at most 0.01 below dividing them in AUC."),
    ],
)

EPOCHS = (1, 3, 5)
TOKENS = 32
BATCH = 16


@dataclass(frozen=True)
class _Recipe:
    """Texts, and how much of everything."""

    texts: "Callable[[], Batch]"
    """Distinct ones, in random order."""
    pretraining: int
    """Texts that the base learns from; of the rest, some are members."""
    steps: int
    """Of the base's training."""
    size: Mapping[str, int]
    """Of the models."""
    members: int
    """As many others are judged beside them."""
    known: int
    """Of both kinds, rows that the supervised signal learns from."""
    judged: int
    """Of both kinds, rows that white-box signals are judged by, none of them known."""


RECIPES: Mapping[Scale, _Recipe] = {
    "quick": _Recipe(
        texts=lambda: without_near_duplicates(docstrings(["sklearn"], modules=MODULES)),
        pretraining=590,
        steps=120,
        size={"dim": 64, "layers": 2},
        members=200,
        known=100,
        judged=50,
    ),
    "reference": _Recipe(
        texts=lambda: without_near_duplicates(reference("hate_speech/train.parquet", limit=9000)),
        pretraining=6000,
        steps=300,
        size={"dim": 256, "layers": 4},
        members=700,
        known=500,
        judged=200,
    ),
}


@dataclass(frozen=True)
class _Base:
    """A model that has not seen the pool."""

    net: Any
    tokenizer: Any
    folder: str
    pool: "Batch"


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims on documentation strings (quick) or tweets (reference).

    One base is trained; each seed fine-tunes it on members of its own.

    Raises:
        SpecError: The scale is full.
    """
    if scale not in RECIPES:
        raise SpecError(f"pandora_mia: has no recipe for scale {scale}; use quick or reference")
    recipe, seeds = RECIPES[scale], range(3)
    with tempfile.TemporaryDirectory() as folder:
        base = _base(recipe, Path(folder))
        found = [_measure(recipe, base, Path(folder), seed) for seed in seeds]

    def each(name: str) -> list[float]:
        return [one[name] for one in found]

    details = {name: float(np.mean(each(name))) for name in found[0]}
    last = EPOCHS[-1]
    auc, loss = each(f"flora after {last}: auc"), each(f"loss after {last}: auc")
    tpr, loss_tpr = each(f"flora after {last}: tpr"), each(f"loss after {last}: tpr")
    single = each("white box: best single")
    return [
        reaches("flora_finds", auc, least=0.90, seeds=seeds, details=details),
        lead("flora_over_loss", auc, loss, least=0.20, seeds=seeds),
        reaches("flora_is_certain", tpr, least=0.30, seeds=seeds),
        lead("flora_more_certain_than_loss", tpr, [3 * one for one in loss_tpr], least=0.0, seeds=seeds),
        reaches("grows_with_epochs", each("flora: smaller gain"), least=1e-9, seeds=seeds),
        reaches("gradient_norm_finds", each("white box: gradnorm"), least=0.60, seeds=seeds),
        reaches("one_step_finds", each("white box: alora"), least=0.60, seeds=seeds),
        lead(
            "white_box_over_loss",
            [min(pair) for pair in zip(each("white box: gradnorm"), each("white box: alora"), strict=True)],
            each("white box: loss"),
            least=0.0,
            seeds=seeds,
        ),
        lead("supervised_over_single", each("white box: supervised"), single, least=0.0, seeds=seeds),
        lead("difference_or_ratio", auc, each("ratio: auc"), least=-0.01, seeds=seeds),
    ]


def _base(recipe: _Recipe, folder: Path) -> _Base:
    texts = recipe.texts()
    known = choose(texts, slice(recipe.pretraining))["text"].tolist()
    tokenizer = tokenizer_of(known)
    net = small_model(tokenizer, **recipe.size, max_tokens=TOKENS + 1)
    train(
        net,
        sequences_of(tokenizer, known, TOKENS),
        steps=recipe.steps,
        batch_size=24,
        lr=3e-3,
        warmup=0.1,
        seed=0,
    )
    path = save(net, tokenizer, folder / "base")
    return _Base(net, tokenizer, path, choose(texts, slice(recipe.pretraining, None)))


def _measure(recipe: _Recipe, base: _Base, folder: Path, seed: int) -> dict[str, float]:
    members, others = drawn(base.pool, [recipe.members, recipe.members], seed)
    tuned = _tuned(base, members["text"].tolist(), folder / f"seed-{seed}", seed)
    leakage = registry.build("diagnostics", "leakage", {"fpr": [0.01]})

    def judge(epochs: int, kind: str, **options: Any) -> dict[str, float]:
        scorer = _scorer(tuned[epochs], kind, base=base.folder if kind == "flora" else None, **options)
        report: dict[str, float] = leakage.report(scorer.score(members), scorer.score(others))
        return report

    result: dict[str, float] = {}
    for kind, epochs in (*(("flora", epochs) for epochs in EPOCHS), ("loss", EPOCHS[-1])):
        report = judge(epochs, kind)
        result[f"{kind} after {epochs}: auc"] = report["auc"]
        result[f"{kind} after {epochs}: tpr"] = report["tpr_at_fpr_0.01"]
    aucs = [result[f"flora after {epochs}: auc"] for epochs in EPOCHS]
    result["flora: smaller gain"] = float(np.diff(aucs).min())
    result["ratio: auc"] = judge(EPOCHS[-1], "flora", compare="ratio")["auc"]
    return {**result, **_white_box(recipe, tuned[EPOCHS[-1]], members, others)}


def _white_box(recipe: _Recipe, model: str, members: "Batch", others: "Batch") -> dict[str, float]:
    """AUC of what needs no base, on rows that the supervised signal has not learned from."""
    rows = slice(recipe.known, recipe.known + recipe.judged)
    known = np.concatenate([members["text"][: recipe.known], others["text"][: recipe.known]])
    labels = np.repeat([1, 0], recipe.known)
    leakage = registry.build("diagnostics", "leakage")
    result = {}
    for kind in ("loss", "mink", "gradnorm", "alora", "supervised"):
        scorer = _scorer(model, kind).fit({"text": known}, labels)
        report = leakage.report(*(scorer.score(choose(part, rows)) for part in (members, others)))
        result[f"white box: {kind}"] = report["auc"]
    single = max(value for name, value in result.items() if not name.endswith("supervised"))
    return {**result, "white box: best single": single}


def _tuned(base: _Base, texts: Sequence[str], folder: Path, seed: int) -> Mapping[int, str]:
    """Epochs → the folder of the model after them."""
    rows = sequences_of(base.tokenizer, texts, TOKENS)
    net, steps = deepcopy(base.net), -(-len(rows) // BATCH)
    paths: dict[int, str] = {}

    def keep(step: int) -> None:
        if step % steps == 0 and step // steps in EPOCHS:
            paths[step // steps] = save(net, base.tokenizer, folder / f"{step // steps}")

    train(net, rows, steps=steps * EPOCHS[-1], batch_size=BATCH, lr=5e-4, seed=seed, after=keep)
    return paths


def _scorer(model: str, kind: str, **options: Any) -> Any:
    return registry.build(
        "scorers", "membership", {"model": model, "kind": kind, "max_tokens": TOKENS, **options}
    )
