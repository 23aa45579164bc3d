"""One role of the soup benchmark in a process of its own, so that its memory is its own.

    python -m benchmarks._tune_roles greedy --folder F --n 16 --rows 256

`still` evaluates the network it has, again and again: what memory evaluation itself takes. `bare` loads and
evaluates each candidate. `greedy` is our greedy soup. `naive` is the recipe as one would write it first:
every state dict in memory. The last line of the output is JSON: seconds, peak bytes, and evaluations.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ray_app import registry
from ray_app.methods.combiners import Candidate
from ray_app.methods.encoders import Encoder
from ray_app.tune.combine import OnRows
from ray_app.tune.store import open_state, write_state
from ray_app.tune.training import Rows, logits_of

SIZE = 64
CLASSES = 10


def network() -> Encoder:
    """Return a vision transformer of 9.7 million parameters (39 MB), without normalisation statistics."""
    options = {
        "model": "vit_tiny_patch16_224",
        "image_size": SIZE,
        "num_classes": CLASSES,
        "model_args": {"embed_dim": 256, "num_heads": 4, "img_size": SIZE},
    }
    made: Encoder = registry.build("encoders", "timm", options)
    return made.eval()


def make_candidates(folder: Path, n: int) -> int:
    """Write candidates near one start, those that are not there yet; return a model's bytes."""
    start = network().state_dict()
    for index in range(n):
        path = folder / f"{index:03d}.safetensors"
        if path.exists():
            continue
        generator = torch.Generator().manual_seed(index)
        write_state(
            path,
            {name: t + 1e-6 * torch.randn(t.shape, generator=generator) for name, t in start.items()},
        )
    return sum(tensor.numel() * tensor.element_size() for tensor in start.values())


def rows_for(encoder: Encoder, n: int) -> Rows:
    """Return noise, labelled by what the start answers: all candidates are right, so all are in the soup."""
    inputs = torch.rand(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    blank = Rows(inputs, torch.zeros(n, dtype=torch.int64))
    return Rows(inputs, logits_of(encoder, blank).argmax(1))


def bare(encoder: Encoder, rows: Rows, files: Sequence[Path]) -> int:
    """Load and evaluate each."""
    for file in files:
        encoder.load_state_dict(load_file(file))
        logits_of(encoder, rows)
    return len(files)


def still(encoder: Encoder, rows: Rows, files: Sequence[Path]) -> int:
    """Evaluate the network as it is, three times."""
    for _ in files[:3]:
        logits_of(encoder, rows)
    return 3


def greedy(encoder: Encoder, rows: Rows, files: Sequence[Path]) -> int:
    """Make our greedy soup."""
    candidates = [Candidate(file.stem, 1.0, partial(open_state, file)) for file in files]
    combined = registry.build("combiners", "greedy_soup").combine(
        candidates, OnRows(encoder, rows, rows, "accuracy")
    )
    return len(combined.ingredients)


def naive(encoder: Encoder, rows: Rows, files: Sequence[Path]) -> int:
    """Make a greedy soup with every state dict in memory."""
    states = [{name: tensor.clone() for name, tensor in load_file(file).items()} for file in files]

    def accuracy(state: Mapping[str, Tensor]) -> float:
        encoder.load_state_dict(state)
        return (logits_of(encoder, rows).argmax(1) == rows.labels).float().mean().item()

    soup, count = states[0], 1
    value = accuracy(soup)
    for state in states[1:]:
        larger = {
            name: tensor * (count / (count + 1)) + state[name] / (count + 1) for name, tensor in soup.items()
        }
        tried = accuracy(larger)
        if tried >= value:
            soup, value, count = larger, tried, count + 1
    return count


ROLES = {"still": still, "bare": bare, "greedy": greedy, "naive": naive}


def main() -> None:
    """Play one role and print what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=sorted(ROLES))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--rows", type=int, required=True)
    given = parser.parse_args()
    encoder = network()
    rows = rows_for(encoder, given.rows)
    files = sorted(given.folder.glob("*.safetensors"))[: given.n]
    # From here on the peak counts: what importing and building took is over.
    Path("/proc/self/clear_refs").write_text("5")
    begun = time.perf_counter()
    done = ROLES[given.role](encoder, rows, files)
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "peak": peak(), "done": done}))


def peak() -> int:
    """Return the most bytes that were resident, files' pages among them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
