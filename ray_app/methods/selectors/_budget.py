"""What selectors with a budget share: a part of the pool, or so many rows (or characters, or tokens)."""

import numpy as np


class Budget:
    """How much may be taken of a pool.

    Args:
        who: The method's name, for errors.
        fraction: Of what the whole pool costs; None: `amount` says it.
        amount: In the unit of the costs; None: `fraction` says it.
    """

    def __init__(self, who: str, fraction: float | None, amount: float | None) -> None:
        if (fraction is None) == (amount is None):
            raise ValueError(f"{who}: got fraction={fraction!r} and budget={amount!r}; give exactly one")
        if fraction is not None and not 0 <= fraction <= 1:
            raise ValueError(f"{who}: fraction must be in 0..1, got {fraction!r}; try 0.1")
        if amount is not None and not amount >= 0:
            raise ValueError(f"{who}: budget must be >= 0, got {amount!r}; try 1000")
        self.fraction = fraction
        self.amount = amount

    def of(self, total_cost: float) -> float:
        """Return what may be taken of a pool that costs so much; never more than all of it."""
        if self.fraction is not None:
            return self.fraction * total_cost
        return min(float(self.amount or 0), total_cost)


def whole(exact: np.ndarray, total: np.ndarray, budget: float) -> np.ndarray:
    """Round shares to whole units that sum to the whole of the budget, where rows cost whole units.

    Args:
        exact: [g]: what each group may take.
        total: [g]: what it has; no share is larger.
        budget: Of all groups.
    """
    if not bool((total == np.rint(total)).all()):
        return exact
    # What a product of floats lacks of a whole number is no remainder.
    floors = np.floor(exact + 1e-9)
    left = round(np.floor(budget + 1e-9) - floors.sum())
    spare = np.where(floors < total, exact - floors, -np.inf)
    floors[np.argsort(-spare, kind="stable")[: max(0, left)]] += 1
    return np.minimum(floors, total)
