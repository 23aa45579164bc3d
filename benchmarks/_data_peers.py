"""What one would write instead of the data engine: `python -m benchmarks._data_peers NAME …`.

    bare        one loop of torch: all texts sorted by length, batches by tokens (of two sizes the faster one,
                tried before the clock starts), bfloat16, nothing else
    sentence    sentence-transformers' `encode` as it comes
    naive       Ray Data's `map_batches` with tokenizer and model in an actor, as one would write it first

Each reads a Parquet file of texts and writes one of embeddings. Its last line is JSON: rows per second,
without what it takes to start.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# Tokens at once that the bare loop tries, and on how many texts.
_SIZES = (512, 1024)
_TRIED = 24


def bare(texts: list[str], model: str, out: Path, processes: int, threads: int, dtype: str) -> float:
    """Return rows/s of a loop in so many processes, which begin together."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    shares = [texts[start::processes] for start in range(processes)]
    workers = [
        context.Process(
            target=_loop, args=(share, model, str(out / f"{i}.parquet"), threads, dtype, barrier, results)
        )
        for i, share in enumerate(shares)
    ]
    for worker in workers:
        worker.start()
    spans = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return len(texts) / (max(end for _, end in spans) - min(begun for begun, _ in spans))


def _loop(
    texts: list[str], model: str, out: str, threads: int, dtype: str, barrier: Any, results: Any
) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(model)
    net = AutoModel.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
    with torch.inference_mode():
        sample = texts[:: max(1, len(texts) // _TRIED)]
        _embedded(sample[:2], tokenizer, net, _SIZES[0])
        tokens = min(_SIZES, key=lambda size: _seconds(lambda: _embedded(sample, tokenizer, net, size)))
        barrier.wait()
        begun = time.time()
        pq.write_table(pa.table({"embedding": list(_embedded(texts, tokenizer, net, tokens))}), out)
    results.put((begun, time.time()))


def _embedded(texts: list[str], tokenizer: Any, net: Any, tokens: int) -> np.ndarray:
    """Float32 [n, d] of texts, in batches of at most so many tokens, the padding counted."""
    import torch

    ids = tokenizer(texts, truncation=True, max_length=256)["input_ids"]
    order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    found = np.zeros((len(ids), net.config.hidden_size), dtype=np.float32)
    start = 0
    while start < len(order):
        longest = len(ids[order[start]])
        rows = order[start : start + max(1, tokens // longest)]
        padded = torch.zeros(len(rows), longest, dtype=torch.int64)
        mask = torch.zeros_like(padded)
        for place, row in enumerate(rows):
            padded[place, : len(ids[row])] = torch.tensor(ids[row])
            mask[place, : len(ids[row])] = 1
        hidden = net(input_ids=padded, attention_mask=mask).last_hidden_state.float()
        weight = mask[:, :, None].float()
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        found[rows] = torch.nn.functional.normalize(pooled, dim=1).numpy()
        start += len(rows)
    return found


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def sentence(texts: list[str], model: str, out: Path, threads: int) -> float:
    """Return rows/s of sentence-transformers' encode, with its own batches."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    encoder = SentenceTransformer(model, device="cpu")
    encoder.max_seq_length = 256
    encoder.encode(["warm up"])
    begun = time.time()
    found = encoder.encode(texts, show_progress_bar=False)
    pq.write_table(pa.table({"embedding": list(found)}), out / "0.parquet")
    return len(texts) / (time.time() - begun)


class _Naive:
    """Tokenizer and model in one actor, batches as they come."""

    def __init__(self, model: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.net = AutoModel.from_pretrained(model).eval()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import torch

        inputs = self.tokenizer(
            list(batch["text"]), padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        with torch.inference_mode():
            hidden = self.net(**inputs).last_hidden_state
        weight = inputs["attention_mask"][:, :, None].float()
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        batch["embedding"] = torch.nn.functional.normalize(pooled, dim=1).numpy()
        return {"embedding": batch["embedding"], "at": np.full(len(batch["text"]), time.time())}


def naive(file: Path, model: str, out: Path) -> float:
    """Return rows/s of the usual pipeline, from its first finished batch to its last."""
    import ray
    import ray.data

    from ray_app.session import session

    with session():
        dataset = (
            ray.data.read_parquet(str(file))
            .repartition(16)
            .map_batches(
                _Naive,
                fn_constructor_kwargs={"model": model},
                batch_size=64,
                compute=ray.data.ActorPoolStrategy(size=2),
                num_cpus=1,
            )
        )
        dataset.write_parquet(str(out))
    at = np.sort(pq.read_table(out, columns=["at"])["at"].to_numpy())
    return float((at > at[0]).sum() / (at[-1] - at[0]))


def main() -> None:
    """Run one peer."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("peer", choices=["bare", "sentence", "naive"])
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    texts = pq.read_table(given.texts, columns=["text"])["text"].to_pylist()
    if given.peer == "bare":
        rate = bare(texts, given.model, given.out, given.processes, given.threads, given.dtype)
    elif given.peer == "sentence":
        rate = sentence(texts, given.model, given.out, given.threads)
    else:
        rate = naive(given.texts, given.model, given.out)
    print(json.dumps({"rows_per_s": rate}))


if __name__ == "__main__":
    main()
