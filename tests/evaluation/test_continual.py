"""Task splits, and the numbers of continual learning against a slow loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.evaluation.continual import History, class_tasks, follow


@settings(derandomize=True, deadline=None)
@given(per_task=st.integers(1, 4), tasks=st.integers(1, 5), seed=st.integers(0, 99))
def test_each_class_is_in_one_task(per_task: int, tasks: int, seed: int) -> None:
    made = class_tasks(per_task * tasks, per_task, np.random.default_rng(seed))
    assert [len(task) for task in made] == [per_task] * tasks
    assert sorted(label for task in made for label in task) == list(range(per_task * tasks))
    assert made == class_tasks(per_task * tasks, per_task, np.random.default_rng(seed))


def test_classes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="10 classes do not divide into tasks of 3; choose a divisor"):
        class_tasks(10, 3, np.random.default_rng(0))


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_history_equals_a_slow_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tasks = class_tasks(6, 2, rng)
    labels = np.concatenate([np.arange(6), rng.integers(6, size=20)])
    answers = [rng.random((len(labels), 6)) for _ in tasks]
    order = iter(answers)
    learned: list[list[int]] = []
    history = follow(tasks, labels, lambda task: learned.append(list(task)), lambda: next(order))
    assert learned == tasks
    for t in range(len(tasks)):
        known = [label for task in tasks[: t + 1] for label in task]
        hits: dict[int, list[bool]] = {j: [] for j in range(t + 1)}
        for row, label in enumerate(labels):
            if label not in known:
                continue
            best = max(known, key=lambda c: answers[t][row, c])
            (task_of,) = [j for j in hits if label in tasks[j]]
            hits[task_of].append(best == label)
        for j, right in hits.items():
            assert history.accuracies[t, j] == pytest.approx(np.mean(right))
        assert history.seen[t] == pytest.approx(np.mean([hit for right in hits.values() for hit in right]))
        assert np.isnan(history.accuracies[t, t + 1 :]).all()


def test_who_answers_only_the_newest_task_forgets_all_others() -> None:
    tasks = [[0, 1], [2, 3], [4, 5]]
    labels = np.arange(6)
    newest: list[list[int]] = []

    def predict() -> np.ndarray:
        scores = np.zeros((6, 6))
        scores[:, newest[-1]] = 1
        scores[labels, labels] += np.isin(labels, newest[-1])
        return scores

    history = follow(tasks, labels, lambda task: newest.append(list(task)), predict)
    assert history.seen.tolist() == pytest.approx([1, 1 / 2, 1 / 3])
    assert history.forgetting == 1
    assert history.average_accuracy == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert history.final_accuracy == pytest.approx(1 / 3)


def test_forgetting_counts_from_the_best_and_leaves_the_last_task_out() -> None:
    nan = np.nan
    accuracies = np.array([[0.5, nan, nan], [0.9, 0.8, nan], [0.6, 0.7, 0.1]])
    assert History(accuracies, np.ones(3)).forgetting == pytest.approx((0.3 + 0.1) / 2)
    assert History(accuracies[:1, :1], np.ones(1)).forgetting == 0


def test_classes_to_come_are_never_answers() -> None:
    # The highest score is always class 2's, which arrives last.
    scores = np.tile([0.1, 0.0, 0.9], (3, 1))
    history = follow([[0], [1], [2]], np.arange(3), lambda task: None, lambda: scores)
    assert history.seen.tolist() == pytest.approx([1, 1 / 2, 1 / 3])


@pytest.mark.parametrize(
    ("tasks", "width", "message"),
    [
        ([], 3, "no tasks; give at least one"),
        ([[0], [0, 1]], 3, "class 0 is in more than one task"),
        ([[0], [7]], 9, r"no test rows of the task \[7\]"),
        ([[0], [2]], 2, r"predictions of shape \[3, 2\]; expected \[3, c\], c > 2"),
    ],
)
def test_what_cannot_be_followed_is_refused(tasks: list[list[int]], width: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        follow(tasks, np.arange(3), lambda task: None, lambda: np.ones((3, width)))
