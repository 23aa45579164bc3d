"""Leakage: how well a membership score tells a model's training rows from others, and what it gives away.

    auc              probability that a member scores higher than another row, ties counting half; with its
                     95 % interval (DeLong), since it comes from finitely many rows
    tpr_at_fpr_x     share of members above the least threshold that at most the share x of others exceeds
    extraction_rate  share of training rows whose continuation the model writes down itself, given their
                     first tokens: of several drawn continuations the one that the base finds hardest,
                     compared with the model, must equal the true one

The AUC alone hides what matters: a few rows that are told with certainty.

Reference: J. G. Wang, J. Wang, M. Li, S. Neel, "Pandora's White-Box: Precise Training Data Detection and
    Extraction in Large Language Models", 2024, https://arxiv.org/abs/2402.17012; N. Carlini et al.,
    "Membership Inference Attacks From First Principles", S&P 2022, https://arxiv.org/abs/2112.03570;
    E. R. DeLong et al., "Comparing the Areas under Two or More Correlated Receiver Operating Characteristic
    Curves", Biometrics 1988.
Cost: O(n log n) for n scores; extraction: for each row, a forward pass a token for all its continuations.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from ray_app.methods.diagnostics import Diagnostic
from ray_app.metrics._arrays import scores_of

# Two-sided 95 % of a normal distribution.
_Z = 1.959963984540054


class Leakage(Diagnostic):
    """Say it before a model is published. Members and others must come from one distribution.

    Args:
        fpr: Shares of other rows that may be taken for members.
    """

    def __init__(self, *, fpr: Sequence[float] = (0.01, 0.001)) -> None:
        if not fpr or not all(0 < share < 1 for share in fpr):
            raise ValueError(f"leakage: fpr must be shares between 0 and 1, got {fpr!r}; try [0.01, 0.001]")
        self.fpr = list(fpr)

    def report(self, members: ArrayLike, others: ArrayLike) -> dict[str, float]:
        """Return `auc`, `auc_low`, `auc_high`, `tpr_at_fpr_x` for each x, `members` and `others`.

        Args:
            members: Scores [n] of rows that the model was trained on; higher: more likely a member.
            others: Scores [m] of rows that it was not.

        Raises:
            ValueError: Empty or not finite.
        """
        inside, outside = scores_of(members, "leakage: members"), scores_of(others, "leakage: others")
        auc, half = _auc(inside, outside)
        return {
            "auc": auc,
            "auc_low": max(0.0, auc - half),
            "auc_high": min(1.0, auc + half),
            **{f"tpr_at_fpr_{share:g}": _tpr(inside, outside, share) for share in self.fpr},
            "members": float(len(inside)),
            "others": float(len(outside)),
        }

    def extraction(
        self,
        texts: Sequence[str],
        *,
        model: str,
        base: str,
        prefix_tokens: int = 8,
        suffix_tokens: int = 16,
        samples: int = 20,
        seed: int = 0,
        device: str = "cpu",
    ) -> dict[str, float]:
        """Return `extraction_rate`, and how many `rows` it is of: those long enough.

        Args:
            texts: Training rows.
            model: Folder or hub name of the model that was fine-tuned on them.
            base: Of the one that it was fine-tuned from.
            prefix_tokens: What is given of a row.
            suffix_tokens: What must come back.
            samples: Continuations drawn for each row.
            seed: Of the draws.
            device: Where the models compute.

        Raises:
            ValueError: No row is long enough, or a model is not there.
        """
        import torch

        from ray_app.methods._causal import CausalModel

        tuned, before = (CausalModel(source, name="leakage", device=device) for source in (model, base))
        whole = prefix_tokens + suffix_tokens
        rows = [row for row in tuned.tokens(texts, whole) if len(row) == whole + len(tuned.begin)]
        if not rows:
            raise ValueError(
                f"leakage: none of {len(texts)} rows has {whole} tokens; ask for fewer prefix_tokens or"
                " suffix_tokens"
            )
        # torch's generator on the CPU looks at 32 bits of a seed only.
        generator = torch.Generator().manual_seed(seed % 2**32)
        found = 0
        for row in rows:
            given = row[: len(row) - suffix_tokens]
            drawn = tuned.continued([given] * samples, suffix_tokens, generator)
            window, tokens = len(row), samples * len(row)
            ours, theirs = (
                np.array(
                    [
                        each.mean()
                        for each in one.token_losses(drawn, window=window, stride=window, batch_tokens=tokens)
                    ]
                )
                for one in (tuned, before)
            )
            found += drawn[int(np.argmax(theirs - ours))] == row
        return {"extraction_rate": found / len(rows), "rows": float(len(rows))}


def _auc(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float]:
    """The AUC, and half the width of its interval."""
    # A row's placement: the share of the other kind that it beats.
    placed_inside, placed_outside = _placements(inside, outside), 1 - _placements(outside, inside)
    variance = sum(
        float(placed.var(ddof=1)) / len(placed)
        for placed in (placed_inside, placed_outside)
        if len(placed) > 1
    )
    return float(placed_inside.mean()), _Z * variance**0.5


def _placements(scores: np.ndarray, among: np.ndarray) -> np.ndarray:
    ordered = np.sort(among)
    below, not_above = (np.searchsorted(ordered, scores, side) for side in ("left", "right"))
    return cast(np.ndarray, (below + not_above) / (2 * len(ordered)))


def _tpr(inside: np.ndarray, outside: np.ndarray, fpr: float) -> float:
    allowed = int(fpr * len(outside))
    threshold = np.sort(outside)[len(outside) - 1 - allowed]
    return float((inside > threshold).mean())
