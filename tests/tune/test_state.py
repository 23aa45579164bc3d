"""A training that is stopped and gone on with ends where one that was not stopped does, to the bit."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ray_app import registry
from ray_app.errors import RunError
from ray_app.methods.encoders import Encoder
from ray_app.spec.train import Train
from ray_app.tune.start import fine_tune
from ray_app.tune.state import Saved
from ray_app.tune.training import Epoch, Rows
from tests.tune.test_training import Small, rows

EPOCHS, PART = 6, 3
NEVER = 3600.0
MIXED = {"augment": {"noise": 0.1, "mixup": 0.2}}
CASES: dict[str, dict[str, Any]] = {
    "adamw": {},
    "sgd": {"optimizer": {"name": "sgd", "momentum": 0.9}},
    "lamb": {"optimizer": "lamb"},
    # Counts its steps in its groups.
    "adan": {"optimizer": "adan"},
    "ema": {"ema": 0.9},
    "mixup": MIXED,
    "randaugment": {"augment": {"randaugment": 2}},
    "accumulate": {"accumulate": 3, "batch_size": 10},
    "layer_decay": {"layer_decay": 0.7},
    "cosine_cycles": {"cycles": 3},
    "bfloat16": {"amp": "bfloat16"},
    "lora": {"adapter": {"name": "lora", "r": 2}},
    "sparse": {"adapter": "sparse"},
    "intrinsic": {"adapter": {"name": "intrinsic", "d": 5}},
    "early_learning": {"objective": "early_learning"},
    "distill": {"objective": ["cross_entropy", "distill"]},
    "pseudo_label": {"objective": "pseudo_label"},
    "contrastive": {"objective": "in_batch_contrastive"},
    "gradient_noise": {"objective": ["cross_entropy", {"name": "gradient_noise", "eta": 1e-3}]},
}


def vit(seed: int = 0) -> Encoder:
    """Dropout, and linear layers for adapters."""
    return registry.build(
        "encoders",
        "timm",
        {
            "model": "test_vit",
            "num_classes": 2,
            "channels": 1,
            "image_size": 32,
            "seed": seed,
            "model_args": {"proj_drop_rate": 0.1, "drop_rate": 0.1},
        },
    )


def pictures(n: int = 60) -> Rows:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (n,), generator=generator)
    pixels = torch.randint(0, 256, (n, 1, 32, 32), generator=generator, dtype=torch.uint8)
    return Rows(pixels, labels)


def settings(case: str) -> Train:
    return Train.model_validate({"epochs": EPOCHS, "batch_size": 20, "lr": 1e-2, **CASES[case]})


def parts_of(case: str) -> tuple[Encoder, Rows, Encoder | None]:
    """A model and rows that the case can be trained on, and the teacher it asks."""
    large = case in ("lora", "intrinsic", "sparse", "randaugment", "contrastive", "layer_decay")
    asks = case in ("distill", "pseudo_label")
    make = vit if large else Small
    return make(), pictures() if large else rows(), make(seed=1) if asks else None


def trained(case: str, saved: Saved | None = None, until: int | None = None) -> tuple[Encoder, list[Any]]:
    model, data, teacher = parts_of(case)
    told: list[Any] = []

    def on_epoch(epoch: Epoch) -> None:
        told.append((epoch.number, dict(epoch.logged), epoch.last))

    fine_tune(model, data, settings(case), on_epoch, teacher=teacher, saved=saved, until=until)
    return model, told


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("case", list(CASES))
def test_in_two_parts_it_is_the_same_to_the_bit(case: str, tmp_path: Path) -> None:
    whole, told = trained(case)
    saved = Saved(tmp_path / "state", NEVER)
    _, before = trained(case, saved, until=PART)
    assert saved.epoch == PART
    torch.rand(7)  # whatever else draws from the global generator in between
    resumed, after = trained(case, Saved(tmp_path / "state", NEVER))
    assert same(whole.state_dict(), resumed.state_dict())
    assert before + after == told
    assert [last for _, _, last in told] == [False] * (EPOCHS - 1) + [True]


def test_patience_goes_on_waiting_and_keeps_the_best_epoch_of_all(tmp_path: Path) -> None:
    class Judge:
        """Rises to the second epoch, then falls."""

        def __init__(self, seen: int) -> None:
            self.seen = seen

        def __call__(self) -> tuple[float, dict[str, float]]:
            self.seen += 1
            return -abs(self.seen - 2.0), {"epoch judged": float(self.seen)}

    how = Train(epochs=EPOCHS, batch_size=20, lr=1e-2, patience=3, ema=0.9)

    def run(judge: Judge, **more: Any) -> tuple[Encoder, list[Epoch]]:
        model, told = Small(), []
        fine_tune(model, rows(), how, told.append, judge=judge, **more)
        return model, told

    whole, told = run(Judge(0))
    run(Judge(0), saved=Saved(tmp_path, NEVER), until=PART)
    resumed, after = run(Judge(PART), saved=Saved(tmp_path, NEVER))
    assert same(whole.state_dict(), resumed.state_dict())
    # Two epochs of waiting before the stop would be forgotten, or the best of them lost, else.
    assert [epoch.number for epoch in told] == [1, 2, 3, 4, 5]
    assert [epoch.number for epoch in after] == [4, 5]
    assert after[-1].logged["epoch judged"] == 2.0


def test_another_process_goes_on_to_the_bit(tmp_path: Path) -> None:
    case = "lora"
    program = (
        "import sys; from pathlib import Path; from ray_app.tune.state import Saved\n"
        "from tests.tune.test_state import trained\n"
        f"trained({case!r}, Saved(Path(sys.argv[1]), 3600), until={PART})"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    resumed, _ = trained(case, Saved(tmp_path, NEVER))
    assert same(trained(case)[0].state_dict(), resumed.state_dict())


def test_it_is_written_no_more_often_than_asked(tmp_path: Path) -> None:
    seen = []
    for every_s in (0.0, NEVER):
        saved = Saved(tmp_path / str(every_s), every_s)
        fine_tune(
            Small(), rows(), Train(epochs=3), lambda _, saved=saved: seen.append(saved.epoch), saved=saved
        )
    # Asked before an epoch's own state is written; the last epoch leaves none.
    assert seen == [0, 1, 2, 0, 0, 0]


def test_settings_are_the_new_ones_and_the_rest_is_the_states(tmp_path: Path) -> None:
    how = Train(epochs=4, batch_size=20, lr=1e-2, optimizer={"name": "sgd", "momentum": 0.9})
    saved = Saved(tmp_path, NEVER)
    fine_tune(Small(), rows(), how, saved=saved, until=2)
    weights = saved.read()["steps"]["model"]
    still = Small()
    # As good as no learning rate: only the state's weights are left, and the statistics of two more epochs.
    fine_tune(
        still, rows(), how.model_copy(update={"lr": 1e-12, "weight_decay": 0.0}), saved=Saved(tmp_path, NEVER)
    )
    for name, parameter in still.named_parameters():
        torch.testing.assert_close(parameter.detach(), weights[name], rtol=0, atol=1e-8)


def test_all_kinds_of_content_come_back(tmp_path: Path) -> None:
    content = {
        "tensors": [torch.arange(3), (torch.tensor(1.5), torch.zeros(0, 2, dtype=torch.bfloat16))],
        3: {"nested": None, "text": "x", "number": 0.1 + 0.2, "infinite": float("-inf"), "flag": True},
    }
    saved = Saved(tmp_path, NEVER)
    assert saved.read() is None
    assert saved.epoch == 0
    saved.write(5, content)
    found = Saved(tmp_path, NEVER).read()
    assert found[3] == content[3]
    assert type(found["tensors"][1]) is tuple
    for one, other in zip(
        [found["tensors"][0], *found["tensors"][1]],
        [content["tensors"][0], *content["tensors"][1]],
        strict=True,
    ):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    with pytest.raises(TypeError, match="state/0: set is nothing that a state can hold"):
        saved.write(6, {"odd": {1, 2}})
    assert saved.epoch == 5
    saved.copy_to(tmp_path / "other")
    assert Saved(tmp_path / "other", NEVER).epoch == 5
    saved.delete()
    assert saved.epoch == 0


def test_what_is_damaged_or_anothers_is_one_line(tmp_path: Path) -> None:
    saved = Saved(tmp_path, NEVER)
    how = Train(epochs=2, batch_size=20)
    fine_tune(Small(), rows(), how, saved=saved, until=1)
    (path,) = tmp_path.iterdir()
    with pytest.raises(
        RunError, match=r"no state to go on from \(another training's: .+\); delete it"
    ) as error:
        fine_tune(vit(), pictures(), how, saved=saved)
    assert "\n" not in str(error.value)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match=r"no state to go on from \(.+\); delete it"):
        fine_tune(Small(), rows(), how, saved=saved)
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(RunError, match="its header lacks content"):
        saved.epoch  # noqa: B018
    with pytest.raises(ValueError, match="until=1 needs `saved`"):
        fine_tune(Small(), rows(), how, until=1)


def test_nothing_in_the_file_can_run(tmp_path: Path) -> None:
    fine_tune(Small(), rows(), Train(epochs=2), saved=Saved(tmp_path, NEVER), until=1)
    (path,) = tmp_path.iterdir()
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])
    assert json.loads(header["__metadata__"]["content"])["dict"]
    assert load_file(path)
