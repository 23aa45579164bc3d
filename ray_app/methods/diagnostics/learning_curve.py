"""Learning curve: test accuracy by the number of labels, for each way of choosing what to label next.

    seed set -> fit -> query -> label -> fit -> ...;   area = mean accuracy over all rounds

All strategies begin with the same seed set, learn with fresh heads and are judged on the same test rows,
which are never in the pool.

Reference: C. Schröder, A. Niekler, "A Survey of Active Learning for Text Classification using Deep Neural
    Networks", 2020, https://arxiv.org/abs/2008.07267
Cost: repeats times rounds times strategies fits; a committee multiplies them.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ray_app.methods.diagnostics import Diagnostic
from ray_app.methods.encoders import Features
from ray_app.methods.heads import Head
from ray_app.methods.selectors import Fitted, Selector, View
from ray_app.metrics.classification import accuracy


class LearningCurve(Diagnostic):
    """Tells which query strategy is worth its trouble, before anyone is paid for labels.

    Args:
        seed_size: Labelled rows to begin with, drawn by chance.
        budget: Rows that each round asks for.
        rounds: How often.
        repeats: Seed sets.
        members: Heads of a committee, each fitted on as many rows drawn with replacement; for strategies that
            need one.
        seed: Of all chance.
    """

    def __init__(
        self,
        *,
        seed_size: int = 20,
        budget: int = 20,
        rounds: int = 10,
        repeats: int = 3,
        members: int = 5,
        seed: int = 0,
    ) -> None:
        for name, value in {
            "seed_size": seed_size,
            "budget": budget,
            "rounds": rounds,
            "repeats": repeats,
            "members": members,
        }.items():
            if value < 1:
                raise ValueError(f"learning_curve: {name} must be >= 1, got {value!r}")
        self.seed_size = seed_size
        self.budget = budget
        self.rounds = rounds
        self.repeats = repeats
        self.members = members
        self.seed = seed

    def report(
        self,
        make: Callable[[], Head],
        queries: Mapping[str, Callable[[], Selector]],
        pool: tuple[Features, Tensor],
        test: tuple[Features, Tensor],
    ) -> dict[str, list[Any]]:
        """Return a table: columns `query`, `repeat`, `labels` and `accuracy`, a row for each fit.

        Args:
            make: What makes a fresh head; it should know the number of classes.
            queries: Name → what makes a fresh strategy.
            pool: Features [n] and labels int64 [n], which are shown as they are asked for.
            test: Features and labels to judge by.

        Raises:
            ValueError: The pool is smaller than what would be labelled.
        """
        wanted = self.seed_size + self.budget * self.rounds
        if wanted > len(pool[1]):
            raise ValueError(f"learning_curve: would label {wanted} rows of {len(pool[1])}; ask for fewer")
        table: dict[str, list[Any]] = {"query": [], "repeat": [], "labels": [], "accuracy": []}
        for repeat in range(self.repeats):
            order = np.random.default_rng((self.seed, repeat)).permutation(len(pool[1]))
            for name, query in queries.items():
                rng = np.random.default_rng((self.seed, repeat, 1))
                for labels, found in self._follow(make, query(), pool, test, order[: self.seed_size], rng):
                    row = (name, repeat, labels, found)
                    for column, value in zip(table.values(), row, strict=True):
                        column.append(value)
        return table

    @staticmethod
    def areas(table: Mapping[str, list[Any]]) -> dict[str, list[float]]:
        """Return strategy → mean accuracy over the rounds, one a repeat.

        Args:
            table: What `report` returned.
        """
        query, repeat, found = (np.asarray(table[column]) for column in ("query", "repeat", "accuracy"))
        return {
            name: [
                float(found[(query == name) & (repeat == one)].mean()) for one in sorted(set(repeat.tolist()))
            ]
            for name in dict.fromkeys(table["query"])
        }

    def _follow(
        self,
        make: Callable[[], Head],
        selector: Selector,
        pool: tuple[Features, Tensor],
        test: tuple[Features, Tensor],
        start: np.ndarray,
        rng: np.random.Generator,
    ) -> list[tuple[int, float]]:
        """The number of labels and the accuracy after each round, the seed set's first."""
        features, labels = pool
        truth = test[1].cpu().numpy()
        labelled = start
        curve: list[tuple[int, float]] = []
        whole = View(
            row_ids=np.array([str(row) for row in range(len(labels))], dtype=object),
            features=features.pooled.detach().cpu().float().numpy(),
        )
        if isinstance(selector, Fitted):
            selector.fit(whole, rng)
        for done in range(self.rounds + 1):
            known = torch.from_numpy(labelled)
            head = make().fit(features[known], labels[known])
            curve.append((len(labelled), accuracy(head.predict_proba(test[0]).cpu().numpy(), truth)))
            if done == self.rounds:
                break
            rest = np.setdiff1d(np.arange(len(labels)), labelled)
            view = self._view(whole, selector, make, head, pool, labelled, rest, rng)
            chosen = selector.select(view, float(self.budget), rng).indices
            labelled = np.concatenate([labelled, rest[chosen]])
        return curve

    def _view(
        self,
        whole: View,
        selector: Selector,
        make: Callable[[], Head],
        head: Head,
        pool: tuple[Features, Tensor],
        labelled: np.ndarray,
        rest: np.ndarray,
        rng: np.random.Generator,
    ) -> View:
        """What a strategy may look at: the rows without labels, and what is known of the others."""
        features, labels = pool
        unknown = features[torch.from_numpy(rest)]
        view = replace(
            whole.take(rest),
            labelled_features=whole.need("features", "learning_curve")[labelled],
            labelled_labels=labels[torch.from_numpy(labelled)].cpu().numpy(),
        )
        if "proba" in selector.needs:
            view = replace(view, proba=head.predict_proba(unknown).cpu().numpy())
        if "proba_mc" in selector.needs:
            drawn = [labelled[rng.integers(len(labelled), size=len(labelled))] for _ in range(self.members)]
            members = [
                make().fit(features[torch.from_numpy(rows)], labels[torch.from_numpy(rows)]) for rows in drawn
            ]
            proba = [member.predict_proba(unknown).cpu().numpy() for member in members]
            view = replace(view, proba_mc=np.stack(proba))
        return view
