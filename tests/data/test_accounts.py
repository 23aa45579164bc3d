import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_app.data.accounts import Accounts, steady_rate
from ray_app.data.payload import Done


@given(
    processes=st.integers(1, 6),
    turns=st.integers(4, 30),
    rate=st.floats(0.1, 1e4),
    start=st.floats(0, 1e3),
)
def test_the_rate_of_processes_that_finish_side_by_side_is_theirs(
    processes: int, turns: int, rate: float, start: float
) -> None:
    unit = 128
    seconds = processes * unit / rate
    timeline = [
        (start + (turn + 1) * seconds, float((turn * processes + place + 1) * unit))
        for turn in range(turns)
        for place in range(processes)
    ]
    assert steady_rate(timeline, processes) == pytest.approx(rate, rel=1e-3)


def test_what_a_start_takes_does_not_change_the_rate() -> None:
    late = [(100.0 + turn, 10.0 * (turn + 1)) for turn in range(20)]
    assert steady_rate(late, 1) == pytest.approx(10.0)


def test_one_unit_counts_from_the_beginning() -> None:
    assert steady_rate([(4.0, 100.0)], 2) == pytest.approx(25.0)
    assert Accounts().rows_per_s == 0.0


def test_it_says_what_was_done_until_the_first_row(monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = Accounts(begun=0.0)
    accounts.connect_s = 3.0
    monkeypatch.setattr("time.time", lambda: 20.0)
    accounts.add(Done("a", 10, 0, spent={"read_s": 1.0, "load_s": 7.0, "model_s": 2.0, "batches": 5.0}))
    accounts.add(Done("b", 10, 0, spent={"load_s": 99.0}))
    told = accounts.until_first_row
    assert told["connect to Ray"] == 3.0
    assert told["load the model"] == 7.0
    assert sum(told.values()) == pytest.approx(accounts.seconds_to_first_row)
