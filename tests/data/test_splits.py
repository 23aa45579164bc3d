import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.data.splits import Splits

SHARES = st.lists(st.floats(0.05, 1), min_size=1, max_size=5).map(
    lambda weights: {f"s{i}": weight / sum(weights) for i, weight in enumerate(weights)}
)


@settings(derandomize=True, deadline=None)
@given(SHARES, st.integers(0, 2**63 - 1), st.lists(st.text(), max_size=50))
def test_each_row_is_in_exactly_one_split_whatever_its_neighbours(
    shares: dict[str, float], seed: int, names: list[str]
) -> None:
    rule, rows = Splits(shares, seed), np.array([*names, ""], dtype=object)[:-1]
    masks = np.stack([rule.mask(rows, split) for split in shares])
    assert (masks.sum(0) == 1).all()
    for row in range(len(rows)):
        np.testing.assert_array_equal(rule.mask(rows[row : row + 1], "s0"), masks[0, row : row + 1])


def test_shares_are_kept_and_seeds_are_independent() -> None:
    rows = np.array([f"file.parquet#{i}" for i in range(40_000)], dtype=object)
    first, second = (Splits({"a": 0.25, "b": 0.75}, seed).mask(rows, "a") for seed in (0, 1))
    # Four standard deviations of a binomial share of 40,000 rows.
    assert abs(first.mean() - 0.25) < 0.009
    assert abs((first & second).mean() - 0.0625) < 0.005


def test_the_order_in_which_shares_are_written_moves_no_row() -> None:
    rows = np.array([str(i) for i in range(100)], dtype=object)
    one, other = Splits({"a": 0.3, "b": 0.7}), Splits({"b": 0.7, "a": 0.3})
    np.testing.assert_array_equal(one.mask(rows, "a"), other.mask(rows, "a"))


def test_the_draw_is_the_same_everywhere_and_for_ever() -> None:
    rows = np.array(["digits#0", "digits#1", "digits#2", "digits#3", "digits#4", "digits#5"], dtype=object)
    drawn = Splits({"a": 0.5, "b": 0.5}, 0).mask(rows, "a")
    assert drawn.tolist() == GOLDEN


# Written down once: a change would move rows between training and test sets that people have used.
GOLDEN = [True, True, True, True, True, False]
