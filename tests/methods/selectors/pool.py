"""A pool that all selectors are tried on."""

import numpy as np

from ray_app.methods.selectors import View


def pool(n: int = 40, seed: int = 0) -> View:
    """Three clusters of rows, some rows there twice, one score missing."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    features = (rng.normal(size=(n, 6)) + 4 * np.eye(3, 6)[labels]).astype(np.float32)
    words = np.array(["red", "green", "blue", "large", "small", "old", "new", "far", "near", "round"])
    texts = np.array([" ".join(rng.choice(words, size=12)) for _ in range(n)], dtype=object)
    features[n - 3 :], texts[n - 3 :] = features[:3], texts[:3]
    score = rng.random(n)
    score[5] = np.nan
    passes = rng.dirichlet(np.ones(3), size=(4, n))
    return View(
        row_ids=np.array([f"row{i}" for i in range(n)], dtype=object),
        score=score,
        features=features,
        proba=passes.mean(0),
        proba_mc=passes,
        labels=labels,
        texts=texts,
        content=rng.integers(2**64, size=(n, 2), dtype=np.uint64),
        labelled_features=(rng.normal(size=(9, 6)) + 4 * np.eye(3, 6)[np.arange(9) % 3]).astype(np.float32),
        labelled_labels=np.arange(9) % 3,
    )
