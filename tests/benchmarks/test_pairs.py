"""How benchmarks measure and report, by counting calls, not seconds."""

import json

import pytest

from benchmarks._pairs import Pair, Timing, measure, report, table


def test_sides_alternate_after_a_warm_up() -> None:
    calls: list[str] = []
    measure(Pair("x_vs_y", lambda: calls.append("x"), lambda: calls.append("y"), "nothing"), rounds=4)
    assert "".join(calls) == "xy" + "xy" + "yx" + "xy" + "yx"


def test_ratio_is_the_peers_seconds_over_ours() -> None:
    assert Timing("m", "w", ours=2.0, peer=6.0).ratio == 3


def test_last_line_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    timings = [Timing("a_vs_b", "work", 1.0, 2.0), Timing("c_vs_d", "more", 4.0, 1.0)]
    report(timings, {"rows": 5})
    out = capsys.readouterr().out
    assert json.loads(out.splitlines()[-1]) == {"a_vs_b": 2.0, "c_vs_d": 0.25, "rows": 5}
    assert table(timings) in out
    assert "higher is better" in out
