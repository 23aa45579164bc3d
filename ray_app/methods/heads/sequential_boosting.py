"""Sequential boosting: one hidden layer, trained a few units at a time, each time on what is still wrong.

    F_t(x) = F_{t-1}(x) + eta rho_t f_t(x),     F_0 = 0,     p = softmax(F_T)
    f_t: a net of J logistic units, fitted by squared error to onehot(y) - softmax(F_{t-1}) on a share of rows
    rho_t = sum f (onehot - p) / sum f^2 p (1 - p)      one Newton step of the cross-entropy, over all rows

The nets stand side by side as one layer of T J units. Its first k steps are a smaller net, which needs no
further training: units can be switched off when answers are to be fast.

Reference: S. Emami, G. Martinez-Munoz, "Sequential Training of Neural Networks with Gradient Boosting"
    (GBNN), IEEE Access 2023, https://arxiv.org/abs/1909.12098
Departure: two classes have two outputs, as more have, where the paper has one; features are standardised,
    which is folded into the weights. Classification only: it is a head.
Cost: fit T times L-BFGS on a net of J units; predict O(n T J (d + c)), or less with fewer steps.
"""

import warnings
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from ray_app.errors import NotFittedError
from ray_app.methods._checks import finite, indices, matrix, some
from ray_app.methods.encoders import Features
from ray_app.methods.heads import Head

# A step is a Newton step where the loss is curved; where probabilities have saturated it is not to leap.
_LARGEST_STEP = 10.0
_FLOOR = 1e-12


class SequentialBoosting(Head):
    """The final layers of a network whose features are frozen, with a knob for speed: `steps`.

    Args:
        steps: How many small nets are trained, T.
        units: Hidden units of each, J.
        eta: Share of each step that is made.
        subsample: Share of rows, drawn anew, that each net is fitted on.
        penalty: L2 on a small net's weights.
        max_iter: Most iterations of L-BFGS for each.
        num_classes: c, where it is known; None: the largest label seen plus one.
        seed: Of the rows drawn and of the nets' initial weights.
    """

    mean: Tensor  # float64 [d]
    hidden: Tensor  # float64 [T, J, d], of features less the mean
    hidden_bias: Tensor  # float64 [T, J]
    output: Tensor  # float64 [T, J, c], rho and eta in it
    output_bias: Tensor  # float64 [T, c], likewise
    seen: Tensor  # bool [c]: classes of which there were rows

    def __init__(
        self,
        *,
        steps: int = 20,
        units: int = 3,
        eta: float = 0.5,
        subsample: float = 0.5,
        penalty: float = 1e-4,
        max_iter: int = 200,
        num_classes: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, count in (("steps", steps), ("units", units), ("max_iter", max_iter)):
            if count < 1:
                raise ValueError(f"sequential_boosting: {name} must be >= 1, got {count!r}")
        for name, share in (("eta", eta), ("subsample", subsample)):
            if not 0 < share <= 1:
                raise ValueError(
                    f"sequential_boosting: {name} must be in 0..1, above 0, got {share!r}; try 0.5"
                )
        if not penalty >= 0:
            raise ValueError(f"sequential_boosting: penalty must be >= 0, got {penalty!r}; try 1e-4")
        if num_classes is not None and num_classes < 1:
            raise ValueError(
                f"sequential_boosting: num_classes must be >= 1, got {num_classes!r}; leave it out"
            )
        self.steps, self.units, self.eta, self.subsample = steps, units, eta, subsample
        self.penalty, self.max_iter, self.num_classes, self.seed = penalty, max_iter, num_classes, seed
        for name, shape in (
            ("mean", (0,)),
            ("hidden", (0, units, 0)),
            ("hidden_bias", (0, units)),
            ("output", (0, units, 0)),
            ("output_bias", (0, 0)),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(0, dtype=torch.bool))

    def fit(self, features: Features, labels: Tensor) -> Self:
        """Forget, then learn from features.pooled [n, d] and labels int64 [n].

        Raises:
            ValueError: No rows, rows that are not finite, or bad labels.
        """
        n = len(features)
        some(n, "sequential_boosting")
        y = indices(labels, n, "sequential_boosting", self.num_classes).cpu().numpy()
        pooled = finite(matrix(features.pooled.detach(), "sequential_boosting"), "sequential_boosting")
        x = pooled.double().cpu().numpy()
        mean, scale = x.mean(0), x.std(0)
        # A constant feature's computed std may be a rounding error; dividing by that would blow it up.
        scale[scale <= 1e-12 * np.abs(mean)] = 1.0
        scale[scale == 0] = 1.0
        c = self.num_classes or int(y.max()) + 1
        seen = np.isin(np.arange(c), y)
        truth = np.eye(c)[y][:, seen]
        nets = self._boost((x - mean) / scale, truth)
        device = self.mean.device
        hidden, hidden_bias, output, output_bias = (np.stack(part) for part in zip(*nets, strict=True))
        wide, wide_bias = np.zeros((*output.shape[:2], c)), np.zeros((len(nets), c))
        wide[:, :, seen], wide_bias[:, seen] = output, output_bias
        for name, value in {
            "mean": mean,
            "hidden": hidden / scale,
            "hidden_bias": hidden_bias,
            "output": wide,
            "output_bias": wide_bias,
            "seen": seen,
        }.items():
            setattr(self, name, torch.from_numpy(value).to(device))
        return self

    def logits(self, features: Features, steps: int | None = None) -> Tensor:
        """Return float64 [n, c]; -inf for a class never seen.

        Args:
            features: Their pooled [n, d].
            steps: Use the first so many nets only, 0 to T; None: all.

        Raises:
            NotFittedError: Nothing was learned yet.
            ValueError: The features' width is not the fitted one, or there are fewer steps.
        """
        k = self._trained(steps)
        x = matrix(features.pooled, "sequential_boosting", len(self.mean)).double() - self.mean
        units = torch.sigmoid(x @ self.hidden[:k].flatten(0, 1).T + self.hidden_bias[:k].flatten())
        logits = units @ self.output[:k].flatten(0, 1) + self.output_bias[:k].sum(0)
        return logits.masked_fill(~self.seen, -torch.inf)

    def predict_proba(self, features: Features, steps: int | None = None) -> Tensor:
        """Return float32 [n, c] for features.pooled [n, d]; each row sums to 1.

        Args:
            features: What to judge.
            steps: See logits.
        """
        return torch.softmax(self.logits(features, steps), 1).float()

    def to_module(self, steps: int | None = None) -> nn.Sequential:
        """Return the net of plain layers, float64, whose logits are those of `logits`.

        Args:
            steps: See logits; at least 1.

        Raises:
            NotFittedError: Nothing was learned yet.
            ValueError: There are fewer steps.
        """
        k = self._trained(steps)
        if k < 1:
            raise ValueError("sequential_boosting: a net has at least 1 step, got 0")
        hidden, output = self.hidden[:k].flatten(0, 1), self.output[:k].flatten(0, 1)
        first, last = (
            nn.utils.skip_init(nn.Linear, rows, columns, device=hidden.device, dtype=torch.float64)
            for rows, columns in (hidden.T.shape, output.shape)
        )
        with torch.no_grad():
            first.weight.copy_(hidden)
            first.bias.copy_(self.hidden_bias[:k].flatten() - hidden @ self.mean)
            last.weight.copy_(output.T)
            last.bias.copy_(self.output_bias[:k].sum(0).masked_fill(~self.seen, -torch.inf))
        return nn.Sequential(first, nn.Sigmoid(), last)

    def _trained(self, steps: int | None) -> int:
        if not len(self.seen):
            raise NotFittedError("sequential_boosting: nothing learned yet; call fit() or load a bundle")
        trained = len(self.hidden)
        k = trained if steps is None else steps
        if not 0 <= k <= trained:
            raise ValueError(
                f"sequential_boosting: steps must be 0..{trained}, which were trained; got {k!r}"
            )
        return k

    def _boost(self, x: np.ndarray, truth: np.ndarray) -> list[tuple[np.ndarray, ...]]:
        """Each step's hidden weights [J, d] and bias, and output weights [J, seen] and bias."""
        from scipy.special import expit

        rng = np.random.default_rng(self.seed)
        n, c = truth.shape
        made: list[tuple[np.ndarray, ...]] = []
        total = np.zeros((n, c))
        for _ in range(self.steps):
            proba = _softmax(total)
            rows = rng.permutation(n)[: max(1, round(self.subsample * n))]
            seed = int(rng.integers(2**31))
            hidden, hidden_bias, output, output_bias = self._net(x[rows], (truth - proba)[rows], seed)
            fitted = expit(x @ hidden.T + hidden_bias) @ output + output_bias
            curvature = (fitted**2 * proba * (1 - proba)).sum()
            newton = (fitted * (truth - proba)).sum() / max(curvature, _FLOOR)
            rho = self.eta * float(np.clip(newton, -_LARGEST_STEP, _LARGEST_STEP))
            total += rho * fitted
            made.append((hidden, hidden_bias, rho * output, rho * output_bias))
        return made

    def _net(self, x: np.ndarray, residuals: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPRegressor

        net = MLPRegressor(
            hidden_layer_sizes=(self.units,),
            activation="logistic",
            solver="lbfgs",
            alpha=self.penalty,
            max_iter=self.max_iter,
            tol=0,
            random_state=seed,
        )
        with warnings.catch_warnings():
            # So many iterations are what is asked for, not convergence.
            warnings.simplefilter("ignore", ConvergenceWarning)
            net.fit(x, residuals if residuals.shape[1] > 1 else residuals[:, 0])
        (hidden, output), (hidden_bias, output_bias) = net.coefs_, net.intercepts_
        return hidden.T, hidden_bias, output, output_bias


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)
