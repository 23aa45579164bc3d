"""Detectors against pytorch-ood, faiss and the bare matrix product: `python -m benchmarks.methods [--quick]`.

Ratios are the peer's seconds over ours, so higher is better:

    mahalanobis_vs_pytorch_ood      scoring 10 classes, against pytorch_ood.detector.Mahalanobis
    mahalanobis_vs_gemm             the same, against x @ A of the same x and a d x d matrix: 1 is as fast as
    one product mahalanobis_fit_vs_pytorch_ood  fitting (ours in float64, theirs in float32)
    knn_vs_pytorch_ood              scoring queries, against pytorch_ood.detector.KNN (scikit-learn)
    knn_vs_faiss                    the same, against IndexFlatL2.search called by hand

Before anything is timed, the answers are compared. Features are float32, n x 512; the bank of k-NN has n rows
too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
import pytorch_ood.detector as peers
import torch

from benchmarks._pairs import Pair, arguments, measure, report
from ray_app.methods.detectors.knn import KNN
from ray_app.methods.detectors.mahalanobis import Mahalanobis
from ray_app.methods.encoders import Features

CLASSES = 10
NEIGHBOURS = 50


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rows: int = 50_000
    dim: int = 512
    queries: int = 2_000
    rounds: int = 7


def data(sizes: Sizes) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features with correlations and class means, as a ReLU network's have, and labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(sizes.rows) % CLASSES
    means = torch.randn(CLASSES, sizes.dim, generator=generator)
    mix = torch.randn(sizes.dim, sizes.dim, generator=generator) / sizes.dim**0.5
    rows = torch.randn(sizes.rows, sizes.dim, generator=generator) @ mix + means[labels]
    return rows.relu(), labels


def mahalanobis(sizes: Sizes, x: torch.Tensor, labels: torch.Tensor) -> list[Pair]:
    """Return the pairs of Mahalanobis."""
    features = Features(x)
    ours = Mahalanobis(layers="last", combine="last", shrinkage=0.0).fit(features, labels)
    theirs = peers.Mahalanobis(None).fit_features(x, labels)
    # Theirs is half the distance, with the summed scatter in place of the covariance.
    expected = theirs.predict_features(x[:500]) * 2 * sizes.rows
    torch.testing.assert_close(ours.score(features[:500]), expected, rtol=1e-3, atol=1e-3)
    matrix = torch.randn(sizes.dim, sizes.dim, generator=torch.Generator().manual_seed(1))
    shape = f"{sizes.rows} x {sizes.dim}"
    return [
        Pair(
            "mahalanobis_vs_pytorch_ood",
            lambda: ours.score(features),
            lambda: theirs.predict_features(x),
            f"score {shape}, {CLASSES} classes",
        ),
        Pair("mahalanobis_vs_gemm", lambda: ours.score(features), lambda: x @ matrix, f"score {shape}"),
        Pair(
            "mahalanobis_fit_vs_pytorch_ood",
            lambda: Mahalanobis(layers="last").fit(features, labels),
            lambda: peers.Mahalanobis(None).fit_features(x, labels),
            f"fit {shape}",
        ),
    ]


def knn(sizes: Sizes, x: torch.Tensor, labels: torch.Tensor) -> list[Pair]:
    """Return the pairs of k-NN."""
    queries = Features(x[: sizes.queries] + 0.1)
    ours = KNN(k=NEIGHBOURS).fit(Features(x))
    theirs = peers.KNN(None, k=NEIGHBOURS).fit_features(x, labels)
    bank = torch.nn.functional.normalize(x).numpy()
    index = faiss.IndexFlatL2(sizes.dim)
    index.add(bank)

    def by_hand() -> np.ndarray:
        unit = torch.nn.functional.normalize(queries.pooled).numpy()
        distances, _ = index.search(unit, NEIGHBOURS)
        return np.sqrt(distances[:, -1])

    torch.testing.assert_close(ours.score(queries), torch.from_numpy(by_hand()), rtol=1e-3, atol=1e-3)
    what = f"score {sizes.queries} against a bank of {sizes.rows} x {sizes.dim}, k = {NEIGHBOURS}"
    return [
        Pair("knn_vs_faiss", lambda: ours.score(queries), by_hand, what),
        Pair(
            "knn_vs_pytorch_ood",
            lambda: ours.score(queries),
            lambda: theirs.predict_features(queries.pooled),
            what,
        ),
    ]


def main(argv: Sequence[str] | None = None, sizes: Sizes | None = None) -> None:
    """Measure and print."""
    quick = arguments(__doc__, argv)
    sizes = sizes or (Sizes(queries=1_000, rounds=5) if quick else Sizes(rounds=15))
    x, labels = data(sizes)
    with torch.inference_mode():
        pairs = [*mahalanobis(sizes, x, labels), *knn(sizes, x, labels)]
        report([measure(pair, sizes.rounds) for pair in pairs])


if __name__ == "__main__":
    main()
