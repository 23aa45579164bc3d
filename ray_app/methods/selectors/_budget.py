"""What selectors with a budget share: a part of the pool, or so many rows (or characters, or tokens)."""


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
