"""Gaussian classes: rows from one normal distribution a class, with features independent given the class.

    y uniform in 0..c-1;   x_j | y ~ N(m_y, v_j);   m_0 = -1,  m_k = 2^(k-1);   v_j = d for j < d/2, else 1
    Bayes error = (1/c) sum_{k=1}^{c-1} 2 Phi(-(m_k - m_{k-1}) s / 2),   s = sqrt(sum_j 1 / v_j)

All features of a class share their mean, so the best classifier looks at one number, sum_j x_j / v_j, which
is normal in each class; the formula adds up what its two tails lose at the midpoints between neighbours.

Reference: C. Zheng, G. Wu, F. Bao, Y. Cao, C. Li, J. Zhu, "Revisiting Discriminative vs. Generative
    Classifiers: Theory and Implications", ICML 2023, https://arxiv.org/abs/2302.02334
"""

import math

import numpy as np

from ray_app.methods.generators import Generator


class GaussianClasses(Generator):
    """A task whose least possible error is known; half of its features say much less than the other half.

    Args:
        num_classes: c.
        dim: d, the number of features.
    """

    def __init__(self, *, num_classes: int = 2, dim: int = 100) -> None:
        if num_classes < 2:
            raise ValueError(f"gaussian_classes: num_classes must be >= 2, got {num_classes!r}")
        if dim < 1:
            raise ValueError(f"gaussian_classes: dim must be >= 1, got {dim!r}; try 100")
        self.num_classes = num_classes
        self.dim = dim
        self.means = np.array([-1.0, *(2.0**k for k in range(num_classes - 1))])
        self.stds = np.sqrt(np.where(np.arange(dim) < dim // 2, float(dim), 1.0))

    def row(self, rng: np.random.Generator) -> dict[str, np.ndarray | int | float | str]:
        """Return `tensor` float32 [dim], and its `label` in 0..num_classes-1."""
        label = int(rng.integers(self.num_classes))
        x = self.means[label] + self.stds * rng.standard_normal(self.dim)
        return {"tensor": x.astype(np.float32), "label": label}

    @property
    def bayes_error(self) -> float:
        """The error in 0..1 that no classifier can beat."""
        sharpness = math.sqrt(float((1 / self.stds**2).sum()))
        # 2 Phi(-z) = erfc(z / sqrt 2)
        tails = [math.erfc(gap * sharpness / 2 / math.sqrt(2)) for gap in np.diff(self.means).tolist()]
        return sum(tails) / self.num_classes
