"""Real text that every machine has: documentation and code of the packages installed beside this one."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from ray_app import registry
from ray_app.data.dataset import open_dataset
from ray_app.methods.selectors import View
from ray_app.papers._rows import choose
from ray_app.papers.run import reference_folder
from ray_app.spec import Method
from ray_app.spec.dataset import DatasetSpec

if TYPE_CHECKING:
    from ray_app.methods import Batch


MODULES = [
    f"sklearn.{name}"
    for name in (
        "cluster",
        "datasets",
        "decomposition",
        "ensemble",
        "feature_extraction",
        "gaussian_process",
        "linear_model",
        "metrics",
        "model_selection",
        "neighbors",
        "preprocessing",
        "svm",
        "tree",
    )
]
"""Of sklearn: a thousand documentation strings in a second or two."""


def docstrings(
    packages: Sequence[str],
    *,
    limit: int | None = None,
    min_chars: int = 80,
    max_chars: int = 600,
    modules: Sequence[str] | None = None,
    seed: int = 0,
) -> "Batch":
    """Return distinct documentation strings: `text`, `label` (the package's number), `module`, `name`.

    Args:
        packages: Installed ones.
        limit: Most rows, drawn at random; None: all.
        min_chars: Shorter strings are left out.
        max_chars: Longer ones are cut.
        modules: Only these modules and what is below them; None: all.
        seed: Of the order, and of what is drawn.
    """
    found = _read("docstrings", tuple(packages), tuple(modules) if modules else None, min_chars, max_chars)
    return _drawn(found, limit, seed)


def sources(
    packages: Sequence[str],
    *,
    limit: int | None = None,
    min_chars: int = 80,
    max_chars: int = 600,
    modules: Sequence[str] | None = None,
    seed: int = 0,
) -> "Batch":
    """Return distinct pieces of source code; see docstrings."""
    found = _read("sources", tuple(packages), tuple(modules) if modules else None, min_chars, max_chars)
    return _drawn(found, limit, seed)


def language_reference(max_chars: int = 600) -> "Batch":
    """Return `text` of Python's own language reference, by paragraphs put together up to a length."""
    from pydoc_data.topics import topics

    pieces: list[str] = []
    for _, topic in sorted(topics.items()):
        piece = ""
        for paragraph in topic.split("\n\n"):
            if piece and len(piece) + len(paragraph) > max_chars:
                pieces.append(piece[:max_chars])
                piece = ""
            piece = f"{piece}\n\n{paragraph}".strip("\n")
        pieces.append(piece[:max_chars])
    return _distinct({"text": np.array(pieces, dtype=object)})


def without_near_duplicates(batch: "Batch", threshold: float = 0.5) -> "Batch":
    """Return the rows without those that share most of their runs of three words with another one.

    Args:
        batch: With the column `text`.
        threshold: Share of common runs from which on one of two rows is left out.
    """
    selector = registry.build("selectors", "near_duplicates", {"threshold": threshold})
    view = View(row_ids=_numbered(len(batch["text"])), texts=batch["text"])
    kept = selector.select(view, np.inf, np.random.default_rng(0)).indices
    return choose(batch, np.sort(kept))


def reference(
    path: str, columns: Sequence[str] = (), *, text: str = "text", limit: int | None = None, seed: int = 0
) -> "Batch":
    """Return distinct texts of a file of the reference data, as `text`, in random order.

    Args:
        path: Relative to the reference folder.
        columns: What else is wanted; `text` is there anyway.
        text: The column that holds them.
        limit: Most rows, drawn at random; None: all.
        seed: Of the order, and of what is drawn.
    """
    others = [name for name in columns if name != "text"]
    table = pq.read_table(reference_folder() / path, columns=[text, *others]).to_pandas()
    batch = {"text": table[text].to_numpy(), **{name: table[name].to_numpy() for name in others}}
    return _drawn(_distinct(batch), limit, seed)


def cut(texts: Sequence[str], length: int, limit: int, seed: int) -> list[str]:
    """Return pieces of so many characters, drawn from all that texts can be cut into; a shorter rest is left.

    Args:
        texts: Long ones.
        length: Of a piece.
        limit: Most pieces.
        seed: Of what is drawn.
    """
    pieces = [
        text[start : start + length] for text in texts for start in range(0, len(text) - length + 1, length)
    ]
    order = np.random.default_rng(seed).permutation(len(pieces))
    return [pieces[row] for row in order[:limit]]


def cheapest(pool: "Batch", scores: np.ndarray, fraction: float) -> "Batch":
    """Return the rows with the lowest scores, the lowest first, up to a share of the pool's characters.

    Args:
        pool: With the column `text`.
        scores: [n]; negate them where the highest are wanted.
        fraction: Of all characters.
    """
    options = {"by": "score", "fraction": fraction, "order": "ascending", "weight": "chars"}
    selector = registry.build("selectors", "top_fraction", options)
    costs = np.array([len(text) for text in pool["text"]], dtype=np.float64)
    view = View(row_ids=_numbered(len(costs)), score=scores, costs=costs)
    budget = selector.budget(len(costs), float(costs.sum()))
    return choose(pool, selector.select(view, budget, np.random.default_rng(0)).indices)


def bits_per_character(scorer: Any, batch: "Batch") -> float:
    """Return what a scorer by nats a character says of texts together, in bits: long ones weigh more."""
    lengths = np.array([len(text) for text in batch["text"]])
    return float((scorer.score(batch) * lengths).sum() / lengths.sum() / np.log(2))


@cache
def _read(
    kind: str, packages: tuple[str, ...], modules: tuple[str, ...] | None, min_chars: int, max_chars: int
) -> "Batch":
    options = {
        "packages": list(packages),
        "modules": list(modules) if modules else None,
        "min_chars": min_chars,
        "max_chars": max(max_chars, 4000),
    }
    batch = open_dataset(DatasetSpec(name=kind, source=Method(name=kind, options=options))).read()
    # Cut here: what a source does with long strings is its own affair.
    cut = np.array([text[:max_chars] for text in batch["text"]], dtype=object)
    return _distinct({**batch, "text": cut})


def _distinct(batch: "Batch") -> "Batch":
    """The first row of each text."""
    first = {text: row for row, text in reversed(list(enumerate(batch["text"])))}
    return choose(batch, np.sort(np.fromiter(first.values(), dtype=np.int64)))


def _drawn(batch: "Batch", limit: int | None, seed: int) -> "Batch":
    order = np.random.default_rng(seed).permutation(len(batch["text"]))
    return choose(batch, order[:limit])


def _numbered(n: int) -> np.ndarray:
    return np.array([str(row) for row in range(n)], dtype=object)
