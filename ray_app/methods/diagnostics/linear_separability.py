"""Linear separability: how well a linear classifier tells two sets of features apart.

    half of each set is fitted on (logistic regression on standardised features), the other half is judged:
    accuracy, with both sets weighing the same, and AUROC; both in 0..1, 0.5 is chance

Reference: A. Miyai, Q. Yu, G. Irie, K. Aizawa, "Can Pre-trained Networks Detect Familiar Out-of-Distribution
    Data?", 2023, https://arxiv.org/abs/2310.00847
Cost: that of one logistic regression.
"""

import numpy as np
import torch

from ray_app.methods._checks import matrix
from ray_app.methods.diagnostics import Diagnostic
from ray_app.methods.encoders import Features
from ray_app.methods.heads.logistic import Logistic


class LinearSeparability(Diagnostic):
    """Tells why boundary-based detectors miss familiar rows. It uses labels that no detector has.

    Args:
        C: Inverse strength of the penalty.
        seed: Of the halves.
    """

    def __init__(self, *, C: float = 1.0, seed: int = 0) -> None:
        self.C = C
        self.seed = seed

    def report(self, a: Features, b: Features) -> dict[str, float]:
        """Return `accuracy` and `auroc` of held-out halves.

        Args:
            a: In-distribution rows, pooled [n, d], n >= 2.
            b: Other rows, pooled [m, d], m >= 2.

        Raises:
            ValueError: Fewer than two rows, or other widths.
        """
        from sklearn.metrics import balanced_accuracy_score, roc_auc_score

        x = [matrix(part.pooled, "linear_separability", a.pooled.shape[1]) for part in (a, b)]
        if min(map(len, x)) < 2:
            raise ValueError(
                f"linear_separability: sets of {len(a)} and {len(b)} rows; each needs two, one for each half"
            )
        rng = np.random.default_rng(self.seed)
        orders = [torch.from_numpy(rng.permutation(len(part))) for part in x]
        fitted, held_out = (
            [part[order[half::2]] for part, order in zip(x, orders, strict=True)] for half in (0, 1)
        )
        head = Logistic(C=self.C).fit(Features(torch.cat(fitted)), _truth(fitted))
        proba = head.predict_proba(Features(torch.cat(held_out)))[:, 1].cpu().numpy()
        truth = _truth(held_out).cpu().numpy()
        return {
            "accuracy": float(balanced_accuracy_score(truth, proba > 0.5)),
            "auroc": float(roc_auc_score(truth, proba)),
        }


def _truth(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([torch.full((len(part),), i, dtype=torch.int64) for i, part in enumerate(parts)])
