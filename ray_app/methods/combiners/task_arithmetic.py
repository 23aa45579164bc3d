"""Task arithmetic: what each training added to the start is added up and put on it, scaled.

    theta = theta_0 + (scale / k) sum_i (theta_i - theta_0),   scale from a grid; of equals the first

Reference: G. Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023,
https://arxiv.org/abs/2212.04089
Departure: the paper adds vectors of different tasks and tries scales 0, 0.05 … 1. A sweep's candidates
    share a task, so their sum reaches about k times as far as each, and scales count in units of 1/k: 1 is
    the mean, the paper's scale is ours over k.
Cost: k + 1 reads for the sum, an evaluation for each point; one state in memory, in float32.
"""

from collections.abc import Sequence

from torch import Tensor

from ray_app.methods.combiners import Candidate, Combined, Combiner, Evaluate, Weights
from ray_app.methods.combiners._merge import checked_top, difference, grid
from ray_app.methods.combiners._vectors import with_vector


class TaskArithmetic(Combiner):
    """Use it for candidates of different tasks or data, or to see whether going further than the mean helps.

    Args:
        scale: Scales to try, 1 being the mean.
        top: Use only the best so many candidates; None: all.
    """

    def __init__(
        self, *, scale: Sequence[float] = (0.5, 0.75, 1.0, 1.25, 1.5), top: int | None = None
    ) -> None:
        self.scale = grid("scale", "task_arithmetic", scale)
        self.top = checked_top("task_arithmetic", top)

    def make(self, candidates: Sequence[Candidate], evaluate: Evaluate) -> Combined:
        """Add; see Combiner.make."""
        used = candidates[: self.top]
        opened = [candidate.load() for candidate in used]

        def vector(name: str, start: Weights) -> Tensor:
            total = difference(opened[0], start, name)
            for weights in opened[1:]:
                total += difference(weights, start, name)
            return total / len(opened)

        return with_vector("task_arithmetic", used, evaluate, self.scale, vector)
