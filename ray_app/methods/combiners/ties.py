"""TIES: task vectors trimmed to their largest numbers; of each number the elected sign alone is averaged.

    d_i  = (theta_i - theta_0), zero but for the share `density` of its numbers with the largest magnitude
    s    = sign( sum_i d_i )
    d    = mean of the d_i with sign s, number by number (0 where there are none)
    theta = theta_0 + scale d,                   scale from a grid; of equals the first

Reference: P. Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", NeurIPS 2023,
https://arxiv.org/abs/2306.01708
Departure: numbers as large as the smallest kept one are all kept, so that no order decides.
Cost: three reads of each candidate to find its threshold and two to merge, an evaluation for each point; one
    state in memory, in float32.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ray_app.methods.combiners import Candidate, Combined, Combiner, Evaluate, Weights
from ray_app.methods.combiners._merge import Mix, checked_top, difference, grid, start_of
from ray_app.methods.combiners._vectors import with_vector

_DIGIT = 16
"""Bits of a magnitude that one pass decides."""


class TIES(Combiner):
    """Use it when candidates learned different things: small and contrary changes blur nothing.

    Args:
        density: Share of each task vector's numbers that is kept, over all tensors together.
        scale: Scales to try.
        top: Use only the best so many candidates; None: all.
    """

    def __init__(
        self,
        *,
        density: float = 0.2,
        scale: Sequence[float] = (0.5, 0.75, 1.0, 1.25, 1.5),
        top: int | None = None,
    ) -> None:
        if not 0 < density <= 1:
            raise ValueError(f"ties: density must be > 0 and <= 1, got {density!r}; the paper keeps 0.2")
        self.density = density
        self.scale = grid("scale", "ties", scale)
        self.top = checked_top("ties", top)

    def make(self, candidates: Sequence[Candidate], evaluate: Evaluate) -> Combined:
        """Trim, elect and average; see Combiner.make."""
        used = candidates[: self.top]
        opened = [candidate.load() for candidate in used]
        known, names = start_of("ties", opened[0], evaluate), Mix(opened[0], evaluate).names
        least = [self._threshold(weights, known, names) for weights in opened]

        def trimmed(index: int, name: str, start: Weights) -> Tensor:
            added = difference(opened[index], start, name)
            return torch.where(added.abs() >= least[index], added, 0.0)

        def vector(name: str, start: Weights) -> Tensor:
            # Twice through the candidates: their tensors are never held side by side.
            elected = torch.zeros(())
            for index in range(len(opened)):
                elected = elected + trimmed(index, name, start)
            elected = elected.sign()
            total, count = torch.zeros_like(elected), torch.zeros_like(elected)
            for index in range(len(opened)):
                part = trimmed(index, name, start)
                agrees = (part.sign() == elected) & (part != 0)
                total += torch.where(agrees, part, 0.0)
                count += agrees
            return total / count.clamp(min=1)

        return with_vector("ties", used, evaluate, self.scale, vector)

    def _threshold(self, weights: Weights, start: Weights, names: Sequence[str]) -> float:
        kept = max(1, round(self.density * sum(start[name].numel() for name in names)))
        return _largest(lambda: (difference(weights, start, name).abs() for name in names), kept)


def _largest(parts: Callable[[], Iterable[Tensor]], k: int) -> float:
    """Return the k-th largest of magnitudes that are too many to be held, counted from 1.

    The bits of a positive float32 are in the order of the numbers: a histogram of their upper half says in
    which bin the answer lies, one of the lower half inside that bin says where.

    Args:
        parts: Yields tensors of magnitudes, the same ones each time it is called.
        k: At most as many as there are.
    """
    upper, above = _bin((_bits(part) >> _DIGIT for part in parts()), k)
    inside = (bits[bits >> _DIGIT == upper] & (1 << _DIGIT) - 1 for bits in map(_bits, parts()))
    lower, _ = _bin(inside, k - above)
    return torch.tensor(upper << _DIGIT | lower, dtype=torch.int32).view(torch.float32).item()


def _bits(magnitudes: Tensor) -> Tensor:
    return magnitudes.float().flatten().view(torch.int32)


def _bin(digits: Iterable[Tensor], k: int) -> tuple[int, int]:
    """The digit of the k-th largest, and how many have a larger one."""
    counts = torch.zeros(1 << _DIGIT, dtype=torch.int64)
    for part in digits:
        counts += torch.bincount(part, minlength=1 << _DIGIT)
    at_least = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(at_least, torch.tensor(k)))
    digit = (1 << _DIGIT) - 1 - place
    return digit, int(at_least[place] - counts[digit])
