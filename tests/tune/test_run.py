"""A whole tune run on local Ray: what it writes, that it goes on, what it refuses."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ray_app import bundle as bundles
from ray_app import registry
from ray_app.data.dataset import open_dataset
from ray_app.errors import RunError, SpecError
from ray_app.predictor import Predictor
from ray_app.progress import Silent
from ray_app.spec import parse
from ray_app.spec.tune import TuneSpec
from ray_app.tune.ledger import Ledger
from ray_app.tune.report import write_report
from ray_app.tune.run import TuneRun, read_rows, run
from ray_app.tune.start import build_model
from ray_app.tune.store import read_state
from ray_app.tune.training import recalibrate
from ray_app.tune.trial import Shared, train_trial
from tests.tune.specs import TINY, tiny

pytestmark = pytest.mark.usefixtures("ray_session")

GRID = {"lr": {"grid": [1e-3, 6e-3]}}


def test_every_trial_is_on_the_leaderboard_best_first(made: TuneRun) -> None:
    table = pq.read_table(made.folder / "leaderboard.parquet").to_pydict()
    assert sorted(table["trial"]) == ["00000", "00001", "00002"]
    assert table["status"] == ["finished"] * 3
    assert table["accuracy"] == sorted(table["accuracy"], reverse=True)
    trials = {trial.name: trial for trial in Ledger(made.folder / "trials").trials()}
    assert trials["00000"].config == {}
    assert [len(trial.curve) for trial in trials.values()] == [2, 2, 2]


def test_the_greedy_soup_is_at_least_the_best_candidate_on_validation_rows(made: TuneRun) -> None:
    values = {result.name: result.value for result in made.results}
    assert (
        values["greedy_soup"]
        >= values["single"]
        == max(trial.last("accuracy") for trial in Ledger(made.folder / "trials").trials())
    )
    assert len(next(r for r in made.results if r.name == "logit_ensemble").files) == 2


def test_the_bundle_predicts_what_its_metrics_say(made: TuneRun) -> None:
    bundle = bundles.load(made.folder / "bundle")
    predictor, test = Predictor(bundle), open_dataset("datasets/digits.yaml").read("test")
    with torch.no_grad():
        told = predictor(predictor.preprocess(test))
    accuracy = float((told.predictions.numpy() == test["label"]).mean())
    assert accuracy == pytest.approx(bundle.manifest.metrics["test_accuracy"], abs=1e-9)
    head = float((told.heads["nearest_mean"].argmax(1).numpy() == test["label"]).mean())
    assert head == pytest.approx(bundle.manifest.heads["nearest_mean"].metrics["accuracy"], abs=1e-9)


def test_thresholds_let_through_what_they_promise_of_validation_rows(made: TuneRun) -> None:
    predictor = Predictor(bundles.load(made.folder / "bundle"))
    rows = open_dataset("datasets/digits.yaml").read("validation")
    with torch.no_grad():
        scores = predictor(predictor.preprocess(rows)).scores
    for name, threshold in predictor.thresholds.items():
        # A learned combination keeps one half of the rows to learn from, and the other half sets the
        # threshold.
        held_out = slice(1, None, 2) if name == "mahalanobis" else slice(None)
        normal = scores[name].numpy()[held_out]
        assert threshold.rows == len(normal)
        assert np.mean(normal <= threshold.value) == pytest.approx(0.95, abs=1.01 / len(normal))


def test_lineage_names_data_start_and_ingredients(made: TuneRun) -> None:
    lineage = made.bundle.manifest.lineage
    assert lineage["fingerprint"] == open_dataset("datasets/digits.yaml").fingerprint
    assert lineage["ingredients"] == made.chosen.ingredients
    assert made.bundle.manifest.spec["name"] == "tiny"
    stages = sorted(path.name.split("-")[0] for path in (made.folder / "stages").iterdir())
    assert stages == ["pretrain", "start"]


def test_the_start_has_the_statistics_of_the_rows_that_trials_see(made: TuneRun) -> None:
    (path,) = made.folder.glob("stages/start-*/weights.safetensors")
    start = read_state(path)
    spec = tiny()
    encoder = build_model(spec.model, 10)
    encoder.load_state_dict(start)
    rows = read_rows(spec.model, open_dataset(spec.dataset), "train", None, spec.sweep.rows)
    recalibrate(encoder, rows)
    statistics = [name for name in start if name.endswith(("running_mean", "running_var"))]
    assert statistics
    for name in statistics:
        torch.testing.assert_close(start[name], encoder.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_a_trial_goes_on_from_its_state_and_ends_as_if_nothing_had_happened(
    made: TuneRun, tmp_path: Path
) -> None:
    import ray

    spec = tiny(sweep={**TINY["sweep"], "train": {**TINY["sweep"]["train"], "epochs": 4}})
    data = open_dataset(spec.dataset)
    (start,) = made.folder.glob("stages/start-*/weights.safetensors")
    rows = [ray.put(read_rows(spec.model, data, split, None, None)) for split in ("train", "validation")]
    heard: list[list[int]] = []

    def train(name: str, until: int | None = None) -> None:
        shared = Shared(
            spec.model, 10, spec.sweep, ray.put(read_state(start)), None, *rows, tmp_path / "trials"
        )
        heard.append([])
        train_trial(name, {"lr": 2e-3}, shared, lambda epoch: heard[-1].append(epoch["epoch"]), until)

    ledger = Ledger(tmp_path / "trials")
    train("whole")
    train("parts", until=2)
    stopped = ledger.read("parts")
    assert (stopped.status, ledger.state("parts").epoch) == ("running", 2)
    # As if it had been killed an epoch after the state was saved.
    stopped.curve.append({"epoch": 3, "accuracy": 0.0})
    ledger.write(stopped)
    train("parts")
    assert heard == [[1, 2, 3, 4], [1, 2], [3, 4]]
    weights = [read_state(ledger.weights(name)) for name in ("whole", "parts")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    whole, parts = ledger.read("whole"), ledger.read("parts")
    assert parts.curve == whole.curve
    assert (whole.tries, parts.tries) == (1, 2)


def test_run_again_it_does_nothing_again(made: TuneRun) -> None:
    files = [path for path in made.folder.rglob("*.safetensors") if "bundle" not in path.parts]
    before = {path: path.stat().st_mtime_ns for path in files}
    again = run(tiny(), made.folder, Silent())
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert again.leaderboard.equals(made.leaderboard)
    assert again.bundle.version == made.bundle.version


def test_what_is_missing_is_made_again_the_same(made: TuneRun) -> None:
    weights = made.folder / "trials" / "00001" / "candidate.safetensors"
    bytes_before = weights.read_bytes()
    weights.unlink()
    again = run(tiny(), made.folder, Silent())
    assert weights.read_bytes() == bytes_before
    assert again.leaderboard.equals(made.leaderboard)


def test_the_report_stands_alone(made: TuneRun) -> None:
    page = write_report(made).read_text(encoding="utf-8")
    assert page.count("<svg") >= 4
    assert "http://www.w3.org" in page  # the namespace of SVG, and no other address
    assert "<script" not in page
    assert 'src="http' not in page
    assert all(name in page for name in ("greedy_soup", "00002", made.bundle.version))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sweep": {"trials": 4}}, "of another spec .sweep.trials differs.; give another --out"),
        ({"dataset": "datasets/photo_patches.yaml"}, "photo.patches"),
    ],
)
def test_another_run_s_folder_is_refused(made: TuneRun, change: dict, message: str) -> None:
    with pytest.raises((RunError, SpecError), match=message):
        run(tiny(**change), made.folder, Silent())
    assert json.loads((made.folder / "run.json").read_text())["spec"]["sweep"]["trials"] == 3


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="is not empty and holds no run; give another --out"):
        run(tiny(), tmp_path, Silent())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_more_than_the_cluster_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"sweep.resources: 1000 CPUs asked for, the cluster has 4; ask for less"
    ):
        run(tiny(sweep={"resources": {"cpu": 1000}}), tmp_path / "out", Silent())
    assert not (tmp_path / "out").exists()


def test_trials_that_fail_are_kept_with_their_error(tmp_path: Path) -> None:
    # Batch normalisation cannot train on one row, so trials that draw a batch of one fail.
    sweep = {
        "space": {"batch_size": {"choice": [50, 1]}},
        "train": {"epochs": 1, "batch_size": 50},
        "seed": 1,
    }
    result = run(tiny(sweep=sweep, stages=[]), tmp_path / "out", Silent())
    trials = Ledger(result.folder / "trials").trials()
    assert [trial.status for trial in trials] == ["finished", "failed", "failed"]
    failed = trials[1]
    assert failed.config == {"batch_size": 1}
    assert failed.error.startswith("ValueError: Expected more than 1 value per channel")
    assert "Traceback" in (result.folder / "trials" / failed.name / "error.txt").read_text()
    assert failed.name not in {name for made in result.results for name in made.ingredients}
    assert result.leaderboard["trial"].to_pylist() == ["00000", "00001", "00002"]


def test_asha_and_optuna_stop_trials_and_keep_their_record(tmp_path: Path) -> None:
    spec = tiny(
        sweep={
            "search": "optuna",
            "trials": 4,
            "scheduler": {"name": "asha", "grace": 1, "reduction": 2},
            "train": {"epochs": 4, "batch_size": 50, "lr": 3e-3},
        },
        stages=[],
    )
    result = run(spec, tmp_path / "out", Silent())
    trials = Ledger(result.folder / "trials").trials()
    assert len(trials) == 4
    assert {trial.status for trial in trials} == {"finished", "stopped"}
    for trial in trials:
        assert (len(trial.curve) == 4) == (trial.status == "finished")
        assert Ledger(result.folder / "trials").weights(trial.name).exists() == (trial.status == "finished")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"export": {"choose": "gredy_soup"}}, "'gredy_soup' is none of best, single"),
        ({"combine": {"single": {"name": "uniform_soup"}}}, "the name 'single' is taken"),
        ({"validation_split": "train"}, "must be three different splits"),
        ({"export": {"answer": "svm"}}, "'svm' is neither `logits` nor one of heads"),
        ({"sweep": {"trialz": 3}}, "sweep.trialz: unknown key; did you mean 'trials'"),
        ({"model": {"name": "tim"}}, "unknown method encoders/tim; did you mean 'timm'"),
        (
            {"combine": {"soup": {"name": "greedy_soup", "strickt": True}}},
            "no option 'strickt'; did you mean 'strict'",
        ),
    ],
)
def test_a_wrong_spec_is_one_line(change: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message) as error:
        tiny(**change)
    assert "\n" not in str(error.value)


def test_the_shipped_sweeps_are_valid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ray_app.spec import load

    # A sweep of reference data is valid where there are none; it names its classes itself.
    monkeypatch.setenv("RAY_APP_REFERENCE_DATA", str(tmp_path))
    found = sorted(Path("tune").glob("*.yaml"))
    assert found
    for path in found:
        spec = load(path, TuneSpec)
        assert parse(spec.model_dump(mode="json"), TuneSpec, "round trip") == spec
        assert open_dataset(spec.dataset).labels
        assert registry.load("encoders", spec.model.name)


def test_only_the_best_weights_are_kept_and_a_finished_sweep_stays_finished(tmp_path: Path) -> None:
    spec = tiny(
        sweep={**TINY["sweep"], "keep": 1, "search": "grid", "trials": None, "space": GRID}, combine={}
    )
    spec = spec.model_copy(update={"export": spec.export.model_copy(update={"choose": "single"})})
    done = run(spec, tmp_path / "out", Silent())
    assert done.leaderboard.num_rows == 3
    kept = [path.parent.name for path in (tmp_path / "out" / "trials").glob("*/candidate.safetensors")]
    assert kept == [done.leaderboard["trial"][0].as_py()] == done.chosen.ingredients
    again = run(spec, tmp_path / "out", Silent())
    assert again.leaderboard.equals(done.leaderboard)


def test_trials_leave_the_logits_that_combiners_ask_for(made: TuneRun) -> None:
    kept = list((made.folder / "kept").glob("logits-*.safetensors"))
    assert len(kept) == made.leaderboard.num_rows


def test_a_trials_cycles_become_a_snapshot_ensemble(tmp_path: Path) -> None:
    train = {**TINY["sweep"]["train"], "epochs": 4, "cycles": 2}
    spec = tiny(
        sweep={**TINY["sweep"], "trials": 1, "train": train, "space": {}},
        combine={"greedy_soup": {"name": "greedy_soup"}, "cycles": {"name": "snapshot"}},
    )
    done = run(spec, tmp_path / "out", Silent())
    assert [path.name for path in (tmp_path / "out" / "trials" / "00000").glob("cycle-*")] == [
        "cycle-0001.safetensors"
    ]
    found = next(result for result in done.results if result.name == "cycles")
    single = next(result for result in done.results if result.name == "single")
    assert found.value >= single.value
    steps = {step.ingredient for step in found.history}
    assert {"00000", "00000@1"} <= steps
