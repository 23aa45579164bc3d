"""scikit-learn's handwritten digits, divided at random: what papers run on at quick scale."""

from ray_app.data.sources.sklearn import Sklearn
from ray_app.papers._rows import Parts, drawn

CLASSES = 10
TRAIN, VALIDATION, TEST = 1000, 297, 500


def digits(seed: int, *, train: int = TRAIN, validation: int = VALIDATION, test: int = TEST) -> Parts:
    """Return `image` uint8 [n, 8, 8, 1] and `label`; the same seed draws the same rows.

    Args:
        seed: Of the division.
        train: Rows to fit on.
        validation: Rows to choose on.
        test: Rows to report on.
    """
    (unit,) = Sklearn(dataset="digits").units(10_000)
    batch = Sklearn(dataset="digits").read(unit).batch
    return Parts(*drawn(batch, [train, validation, test], seed))
