"""The suites refuse methods that are broken on purpose: a suite that cannot fail tests nothing."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ray_app.methods._covariance import Moments
from ray_app.methods.detectors.knn import KNN
from ray_app.methods.encoders import Features
from ray_app.methods.heads.naive_bayes import NaiveBayes
from ray_app.methods.heads.nearest_mean import NearestMean
from ray_app.testing.detectors import check_detector
from ray_app.testing.heads import check_head
from ray_app.testing.mergeable import check_mergeable


class WrongWayRound(KNN):
    def score(self, features: Features) -> Tensor:
        return -super().score(features)


class SeesItsNeighbours(KNN):
    def score(self, features: Features) -> Tensor:
        score = super().score(features)
        return score + score.mean() if len(score) else score


class DrawsFromTheGlobalGenerator(KNN):
    def score(self, features: Features) -> Tensor:
        return super().score(features) + torch.rand(()) * 0


class WritesIntoItsInput(KNN):
    def score(self, features: Features) -> Tensor:
        score = super().score(features)
        features.pooled.mul_(2)
        return score


class HidesItsState(KNN):
    def fit(self, features: Features, labels: Tensor | None = None) -> "HidesItsState":
        super().fit(features, labels)
        self.scale = float(features.pooled.std())
        return self

    def score(self, features: Features) -> Tensor:
        return super().score(features) * getattr(self, "scale", 1.0)


class NeverForgets(KNN):
    def fit(self, features: Features, labels: Tensor | None = None) -> "NeverForgets":
        if not len(features):
            raise ValueError("no rows")
        return self.partial_fit(features, labels)


class AnswersUnfitted(NearestMean):
    def predict_proba(self, features: Features) -> Tensor:
        return super().predict_proba(features) if self._fitted() else torch.full((len(features), 3), 1 / 3)


class ScoresNotProbabilities(NaiveBayes):
    def predict_proba(self, features: Features) -> Tensor:
        return super().predict_proba(features) * 0.9


class GuessesTheUnseen(NaiveBayes):
    def predict_proba(self, features: Features) -> Tensor:
        proba = super().predict_proba(features) + 1e-3
        return proba / proba.sum(1, keepdim=True)


class ForgetsTheGap(NaiveBayes):
    def merge(self, other: "ForgetsTheGap") -> "ForgetsTheGap":  # type: ignore[override]
        if not len(self.counts) or not len(other.counts):
            return super().merge(other)
        a, b = self._moments().widened(3), other._moments().widened(3)
        both = a.add(b)
        return self._set(Moments(both.counts, both.means, a.scatter + b.scatter, tied=False))


class ForgetsTheCounts(NearestMean):
    def merge(self, other: "ForgetsTheCounts") -> "ForgetsTheCounts":  # type: ignore[override]
        if not len(self.counts) or not len(other.counts):
            return super().merge(other)
        a, b = self._moments().widened(3), other._moments().widened(3)
        both = a.add(b)
        return self._set(Moments(both.counts, (a.means + b.means) / 2, both.scatter, tied=False))


@pytest.mark.parametrize(
    ("check", "make", "sentence"),
    [
        (check_detector, WrongWayRound, "must score higher"),
        (check_detector, SeesItsNeighbours, "split into batches"),
        (check_detector, DrawsFromTheGlobalGenerator, "torch's global generator"),
        (check_detector, WritesIntoItsInput, "must not be written to"),
        (check_detector, HidesItsState, "through safetensors"),
        (check_detector, NeverForgets, "fit must forget"),
        (check_head, AnswersUnfitted, "NotFittedError; nothing came"),
        (check_head, ScoresNotProbabilities, "sum to 1"),
        (check_head, GuessesTheUnseen, "never seen"),
        (check_mergeable, ForgetsTheGap, "must equal one fit"),
        (check_mergeable, ForgetsTheCounts, "must equal one fit"),
    ],
)
def test_broken_methods_are_refused(
    check: Callable[[Callable[[], object]], None], make: Callable[[], object], sentence: str
) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check(make)
