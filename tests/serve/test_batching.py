"""Requests share a pass, in order, and none takes another with it."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.serve.batching import Batcher


class Pass:
    """Records the batches; doubles each item; a negative one breaks its batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.running = 0
        self.gate: asyncio.Event | None = None

    async def __call__(self, items: Sequence[int]) -> Sequence[int]:
        self.running += 1
        assert self.running == 1
        self.batches.append(list(items))
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        self.running -= 1
        if any(item < 0 for item in items):
            raise ValueError(f"bad {min(items)}")
        return [2 * item for item in items]


def batcher(run: Pass, max_rows: int = 8, wait_s: float = 0) -> Batcher[int, int]:
    return Batcher(run, max_rows=max_rows, wait_s=wait_s, rows=lambda item: max(1, abs(item) % 10))


async def all_of(calls: Sequence[Awaitable[Any]]) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.integers(-30, 60), max_size=30), st.integers(1, 12), st.sampled_from([0, 1e-4]))
def test_everyone_gets_their_own_result(items: list[int], max_rows: int, wait_s: float) -> None:
    run = Pass()

    async def go() -> list[Any]:
        share = batcher(run, max_rows, wait_s)
        return await all_of([share(item) for item in items])

    results = asyncio.run(go())
    for item, result in zip(items, results, strict=True):
        if item < 0:
            assert isinstance(result, ValueError)
            assert str(result) == f"bad {item}"
        else:
            assert result == 2 * item
    rows = [sum(max(1, abs(item) % 10) for item in batch) for batch in run.batches]
    assert all(n <= max_rows or len(batch) == 1 for n, batch in zip(rows, run.batches, strict=True))


def test_requests_gather_while_a_pass_runs() -> None:
    run = Pass()

    async def go() -> None:
        run.gate = asyncio.Event()
        share = batcher(run)
        first = asyncio.create_task(share(1))
        while not run.batches:
            await asyncio.sleep(0)
        others = [asyncio.create_task(share(1)) for _ in range(5)]
        await asyncio.sleep(0)
        run.gate.set()
        await asyncio.gather(first, *others)

    asyncio.run(go())
    assert [len(batch) for batch in run.batches] == [1, 5]


def test_a_full_batch_does_not_wait() -> None:
    run = Pass()

    async def go() -> list[int]:
        share = batcher(run, max_rows=3, wait_s=3600)
        return await asyncio.wait_for(asyncio.gather(*(share(1) for _ in range(3))), 30)

    assert asyncio.run(go()) == [2, 2, 2]
    assert len(run.batches) == 1


def test_one_that_left_is_not_computed() -> None:
    run = Pass()

    async def go() -> int:
        run.gate = asyncio.Event()
        share = batcher(run, max_rows=1)
        first, gone, last = (asyncio.create_task(share(item)) for item in (11, 21, 31))
        while not run.batches:
            await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        run.gate.set()
        await first
        return await last

    assert asyncio.run(go()) == 62
    assert run.batches == [[11], [31]]


def test_nobody_waits_for_a_worker_that_is_gone() -> None:
    run = Pass()

    async def go() -> list[Any]:
        share = batcher(run, max_rows=9, wait_s=3600)
        waiting = [asyncio.create_task(share(1)) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert share._worker is not None
        share._worker.cancel()
        return await all_of(waiting)

    assert all(isinstance(result, asyncio.CancelledError) for result in asyncio.run(go()))


def test_a_pass_that_loses_items_is_an_error() -> None:
    async def loses(items: Sequence[int]) -> Sequence[int]:
        return list(items)[1:]

    async def go() -> int:
        return await Batcher(loses, max_rows=8, wait_s=0, rows=lambda _: 1)(1)

    with pytest.raises(RuntimeError, match="batch of 1 items got 0 results"):
        asyncio.run(go())
