"""The page of a run: what it shows of one trial and of many, and what it says where a part fails."""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ray_app.progress import Silent
from ray_app.report.page import Section, write_page
from ray_app.spec.tune import Report, Sweep
from ray_app.tune import report, report_trials
from ray_app.tune.geometry import CHECK, DISTANCES, PLANE
from ray_app.tune.ledger import Ledger, Trial
from ray_app.tune.report import sections, write_report
from ray_app.tune.report_trials import IMPORTANCE, axes_of, leaderboard, mattered, tried
from ray_app.tune.report_weights import weights
from ray_app.tune.run import TuneRun, run
from tests.tune.specs import tiny


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def named(found: Sequence[Section]) -> dict[str, Section]:
    return {section.title: section for section in found}


def sweep_of(space: dict[str, dict[str, Any]], **changes: Any) -> Sweep:
    return Sweep.model_validate({"space": space, **changes})


def trial(
    index: int, config: dict[str, Any], value: float = 0.5, status: str = "finished", **more: Any
) -> Trial:
    curve = [{"epoch": e, "accuracy": value * e / 3, "nll": 1.0} for e in (1, 2, 3)] if value else []
    return Trial(f"{index:05d}", config, status, curve, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def copied(made: TuneRun, tmp_path_factory: pytest.TempPathFactory) -> TuneRun:
    """The shared run in a folder of its own, with its tables."""
    folder = tmp_path_factory.mktemp("report") / "run"
    shutil.copytree(made.folder, folder)
    copy = replace(made, folder=folder)
    told = Told()
    write_report(copy, told)
    assert told.lines == []
    return copy


def test_the_page_has_every_part_and_the_tables_lie_beside_it(copied: TuneRun) -> None:
    found = named(sections(copied))
    assert list(found) == [
        "Soups and ensembles",
        "What was tried",
        "What mattered",
        "The weights",
        "Trials",
        "Bundle",
    ]
    for table in (DISTANCES, CHECK, IMPORTANCE):
        assert (copied.folder / table).exists()
    assert not (copied.folder / PLANE).exists()
    assert "switched off in the spec" in found["The weights"].text
    assert "3 trials finished; it takes" in found["What mattered"].text
    assert all(caption.strip() for section in found.values() for caption, _ in section.figures)
    page = (copied.folder / "report.html").read_text(encoding="utf-8")
    assert all(title in page for title in found)
    assert "ould not be" not in page


def test_combinations_are_told_against_the_best_single_candidate(copied: TuneRun) -> None:
    (table,) = named(sections(copied))["Soups and ensembles"].tables
    single, soup, ensemble = table.rows
    assert (single[0], soup[0], ensemble[0]) == ("single", "greedy_soup", "logit_ensemble")
    for row in table.rows:
        assert row[3] == pytest.approx(row[2] - single[2])
        assert row[5] == pytest.approx(row[4] - single[4])
        assert row[7] == pytest.approx(row[6] - single[6])
    bars = named(sections(copied))["Soups and ensembles"].figures[0][1].axes[0]
    assert [patch.get_width() for patch in bars.patches] == pytest.approx([row[2] for row in table.rows])  # type: ignore[attr-defined]
    assert list(bars.lines[0].get_xdata()) == pytest.approx([row[4] for row in table.rows])  # type: ignore[arg-type]


def test_what_fails_says_so_in_its_place_and_the_rest_is_shown(
    copied: TuneRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Section:
        raise RuntimeError("no ink\nat all")

    monkeypatch.setattr(report_trials, "tried", broken)
    monkeypatch.setattr(report, "measure", broken)
    told = Told()
    (copied.folder / CHECK).rename(copied.folder / "aside")
    page = write_report(copied, told).read_text(encoding="utf-8")
    (copied.folder / "aside").rename(copied.folder / CHECK)
    assert told.lines == [
        "  report: weights could not be measured: RuntimeError: no ink",
        "  report: What was tried could not be drawn: RuntimeError: no ink",
    ]
    assert "Could not be drawn: RuntimeError: no ink" in page
    assert "Not all could be measured: RuntimeError: no ink" in page
    # Distances were measured before.
    assert "Euclidean distances" in page
    assert "soup of two candidates exceeds" not in page
    assert copied.bundle.version in page


def test_a_figure_that_cannot_be_drawn_is_found_before_the_page(copied: TuneRun) -> None:
    section = named(sections(copied))["What was tried"]
    section.figures[0][1].axes[0].set_xlabel("$\\broken{$")
    told = Told()
    drawn = report._drawn("What was tried", lambda: section, told)
    assert drawn.text.startswith("Could not be drawn: ValueError")
    assert len(told.lines) == 1


def test_the_report_s_wishes_are_not_part_of_what_a_run_is(copied: TuneRun) -> None:
    assert "report" not in json.loads((copied.folder / "run.json").read_text())["spec"]
    again = run(tiny(report={"plane": True}), copied.folder, Silent())
    assert again.spec.report.plane
    assert again.bundle.version == copied.bundle.version
    assert "not measured yet" in named(sections(again))["The weights"].text


def test_failed_trials_are_listed_with_their_reasons(tmp_path: Path) -> None:
    trials = [trial(0, {}), trial(1, {"lr": 0.02}, 0.0, "failed", error="ValueError: loss is nan <b>")]
    sweep = sweep_of({"lr": {"loguniform": [1e-3, 1e-1]}})
    section = tried(sweep, trials)
    assert section.text == "2 trials: 1 finished, 1 failed."
    (table,) = section.tables
    assert table.rows == [["00001", 0, "lr=0.02", "ValueError: loss is nan <b>"]]
    page = write_page(tmp_path / "p.html", "t", "l", [section], {}).read_text(encoding="utf-8")
    assert "loss is nan &lt;b&gt;" in page


def test_axes_are_the_space_s_settings_the_defaults_filled_in() -> None:
    space = {
        "adapter.r": {"int": [2, 8], "when": {"adapter": "lora"}},
        "adapter": {"choice": [None, "lora"]},
        "lr": {"loguniform": [1e-3, 1e-1]},
        "augment.noise": {"uniform": [0.0, 0.1]},
    }
    sweep = sweep_of(space, train={"lr": 3e-3})
    trials = [trial(0, {}), trial(1, {"adapter": "lora", "adapter.r": 4, "lr": 0.01, "augment.noise": 0.05})]
    axes = {axis.name: axis for axis in axes_of(sweep, trials)}
    assert list(axes) == ["adapter", "adapter.r", "augment.noise", "lr"]
    assert (axes["adapter"].kind, axes["adapter"].values) == ("category", ["none", "lora"])
    assert (axes["adapter.r"].kind, axes["adapter.r"].values) == ("linear", [None, 4])
    assert (axes["lr"].kind, axes["lr"].values) == ("log", [3e-3, 0.01])
    # Nobody has it: there is nothing to see on its axis.
    assert "adapter.r" not in {axis.name for axis in axes_of(sweep, trials[:1])}


def test_choices_of_one_method_with_other_options_are_told_apart() -> None:
    choices: list[Any] = [{"name": "lora", "r": 4}, {"name": "lora", "r": 16}, "bitfit"]
    sweep = sweep_of({"adapter": {"choice": choices}})
    trials = [trial(i, {"adapter": choice}) for i, choice in enumerate(choices)]
    (axis,) = axes_of(sweep, trials)
    assert axis.values == ["lora r=4", "lora r=16", "bitfit"]


@pytest.mark.parametrize("metric", ["accuracy", "nll"])
@pytest.mark.parametrize(
    "trials",
    [
        [trial(0, {})],
        [
            trial(0, {}),
            *(trial(i, {"lr": 0.01 * i}, 0.0, "failed", error="RuntimeError: x") for i in range(1, 5)),
        ],
        [trial(0, {}, math.nan), trial(1, {"lr": 0.01}, status="stopped")],
        [trial(i, {"lr": 1e-3 * (i + 1)} if i else {}, 0.3 + i / 200) for i in range(100)],
    ],
    ids=["one", "all failed but one", "none with a value", "a hundred"],
)
def test_any_trials_make_a_page(trials: list[Trial], metric: str, tmp_path: Path) -> None:
    sweep = sweep_of({"lr": {"loguniform": [1e-3, 1e-1]}}, metric=metric)
    ledger = Ledger(tmp_path / "trials")
    for one in trials:
        ledger.write(one)
    found = [tried(sweep, trials), leaderboard(ledger.table(metric, 1.0), metric)]
    page = write_page(tmp_path / "p.html", "t", "l", found, {}).read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    assert "100 finished" in page or len(trials) < 100


def test_without_a_space_there_are_curves_and_a_note() -> None:
    sweep = sweep_of({}, seeds=2)
    section = tried(sweep, [trial(0, {"seed": 0}), trial(1, {"seed": 1})])
    assert len(section.figures) == 1
    assert section.figures[0][1].axes[0].get_xlabel() == "epoch"


def test_what_mattered_is_drawn_in_its_order(tmp_path: Path) -> None:
    from ray_app.tune.importance import importance
    from tests.tune.test_importance import sweep_of, trials_of

    trials = trials_of(40, lambda config: 0.9 if config.get("optimizer") == "sgd" else 0.5)
    pq.write_table(importance(sweep_of(), trials), tmp_path / IMPORTANCE)
    section = mattered(tmp_path, sweep_of(), None)
    assert "over 40 finished trials" in section.text
    assert "hint" not in section.text
    axes = section.figures[0][1].axes[0]
    assert axes.get_yticklabels()[0].get_text() == "optimizer"
    assert axes.get_xlim()[0] == 0
    pq.write_table(importance(sweep_of(), trials[:8]), tmp_path / IMPORTANCE)
    assert "hint, no more" in mattered(tmp_path, sweep_of(), None).text


def test_what_was_never_measured_is_named(tmp_path: Path) -> None:
    assert mattered(tmp_path, sweep_of({}), None).text == "Not measured yet."
    section = weights(tmp_path, Report(), None)
    assert all(f"{name} is not measured yet" in section.text for name in (PLANE, CHECK, DISTANCES))
    assert not section.figures
