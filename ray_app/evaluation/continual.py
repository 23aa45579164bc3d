"""Continual learning: classes arrive task by task; those seen so far are told apart, the task unnamed.

    accuracies[t, j]  accuracy on task j's test rows after task t, among the classes seen so far
    seen[t]           accuracy on all classes seen so far (A_t); its mean over t is the average accuracy
    forgetting        mean over tasks j before the last of max_t accuracies[t, j] - accuracies[T, j]

Reference: A. Chaudhry et al., "Riemannian Walk for Incremental Learning: Understanding Forgetting and
    Intransigence", ECCV 2018, https://arxiv.org/abs/1801.10112
Departure: the maximum includes the last task, so that forgetting is never negative.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class History:
    """How well each task was known after each task."""

    accuracies: np.ndarray
    """float64 [t, t], in 0..1; nan where the task was still to come."""
    seen: np.ndarray
    """float64 [t], in 0..1: over the rows of all tasks so far."""

    @property
    def average_accuracy(self) -> float:
        """Mean over tasks of the accuracy on all classes seen so far, in 0..1."""
        return float(self.seen.mean())

    @property
    def final_accuracy(self) -> float:
        """Accuracy on all classes after the last task, in 0..1."""
        return float(self.seen[-1])

    @property
    def forgetting(self) -> float:
        """Mean loss of accuracy since a task was known best, in 0..1; the last task had no time to fade."""
        if len(self.seen) == 1:
            return 0.0
        before = self.accuracies[:, :-1]
        return float((np.nanmax(before, 0) - before[-1]).mean())


def class_tasks(num_classes: int, per_task: int, rng: np.random.Generator) -> list[list[int]]:
    """Return the classes of each task, in random order.

    Args:
        num_classes: Classes 0..c-1.
        per_task: Classes that arrive together.
        rng: The only source of chance.

    Raises:
        ValueError: The classes cannot be divided so.
    """
    if per_task < 1 or num_classes < 1 or num_classes % per_task:
        raise ValueError(
            f"class_tasks: {num_classes} classes do not divide into tasks of {per_task}; "
            "choose a divisor as per_task"
        )
    order = rng.permutation(num_classes).reshape(-1, per_task)
    return [[int(label) for label in task] for task in order]


def follow(
    tasks: Sequence[Sequence[int]],
    labels: ArrayLike,
    learn: Callable[[Sequence[int]], object],
    predict: Callable[[], ArrayLike],
) -> History:
    """Show a learner one task after the other and test it on all tasks so far each time.

    Args:
        tasks: The classes of each task, in the order of arrival; no class is in two of them.
        labels: Integers [n] of the test rows; each task has some.
        learn: Called with a task's classes; it may use the training rows of these alone.
        predict: Returns probabilities or logits [n, c] of the test rows. Classes still to come are never
            answers.

    Raises:
        ValueError: No tasks, a class in two tasks or beyond the predictions, or a task without test rows.
    """
    truth = np.asarray(labels)
    members = _members(tasks, truth)
    accuracies = np.full((len(tasks), len(tasks)), np.nan)
    seen = np.zeros(len(tasks))
    known: list[int] = []
    for t, task in enumerate(tasks):
        learn(task)
        known.extend(task)
        scores = np.asarray(predict())
        if scores.ndim != 2 or len(scores) != len(truth) or scores.shape[1] <= max(known):
            raise ValueError(
                f"follow: predictions of shape {list(scores.shape)}; expected [{len(truth)}, c], "
                f"c > {max(known)}, a row for each test label"
            )
        right = np.asarray(known)[scores[:, known].argmax(1)] == truth
        accuracies[t, : t + 1] = [right[rows].mean() for rows in members[: t + 1]]
        seen[t] = right[np.logical_or.reduce(members[: t + 1])].mean()
    return History(accuracies, seen)


def _members(tasks: Sequence[Sequence[int]], truth: np.ndarray) -> list[np.ndarray]:
    """A mask bool [n] of the test rows for each task."""
    if not tasks:
        raise ValueError("follow: no tasks; give at least one")
    classes = [label for task in tasks for label in task]
    if twice := {label for label in classes if classes.count(label) > 1}:
        raise ValueError(f"follow: class {min(twice)} is in more than one task; give each class to one")
    members = [np.isin(truth, list(task)) for task in tasks]
    for task, rows in zip(tasks, members, strict=True):
        if not rows.any():
            raise ValueError(f"follow: no test rows of the task {list(task)}; add some, or leave it out")
    return members
