"""Requests that come at about the same time share a forward pass.

A lone request waits only the small wait, and not at all where that is 0; while a pass runs, the next batch
gathers. A batch that fails is tried again one request at a time: one bad request cannot take others with it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Collects items into batches; one batch runs at a time, first come first served.

    Args:
        run: Answers a batch: as many results as items, in their order.
        max_rows: Most rows of a batch; an item with more goes alone.
        wait_s: How long the first item of a batch waits for company.
        rows: How many rows an item has.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        max_rows: int,
        wait_s: float,
        rows: Callable[[Item], int],
    ) -> None:
        self._run = run
        self._max_rows = max_rows
        self._wait_s = wait_s
        self._rows = rows
        self._queue: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._arrived = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Result:
        """Return the item's result, or raise what its batch raised for it alone."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.append((item, future))
        self._arrived.set()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        try:
            while self._queue:
                await self._gather()
                batch = self._take()
                if batch:
                    await self._answer(batch)
        finally:
            # Only where this task itself was ended: nobody may wait for a worker that is gone.
            while self._queue:
                self._queue.popleft()[1].cancel()

    async def _gather(self) -> None:
        """Wait until a batch is full, or the wait is over."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._wait_s
        while sum(self._rows(item) for item, _ in self._queue) < self._max_rows:
            self._arrived.clear()
            left = end - loop.time()
            if left <= 0:
                return
            try:
                async with asyncio.timeout(left):
                    await self._arrived.wait()
            except TimeoutError:
                return

    def _take(self) -> list[tuple[Item, "asyncio.Future[Result]"]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        total = 0
        while self._queue:
            item, future = self._queue[0]
            if future.done():  # its client has left
                self._queue.popleft()
                continue
            total += self._rows(item)
            if batch and total > self._max_rows:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _answer(self, batch: list[tuple[Item, "asyncio.Future[Result]"]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(
                    f"batch of {len(batch)} items got {len(results)} results; `run` must keep their number"
                )
        except Exception as error:  # noqa: BLE001 - whatever a model raises belongs to the request that caused it
            if len(batch) == 1:
                _fail(batch[0][1], error)
                return
            for one in batch:
                await self._answer([one])
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)


def _fail(future: "asyncio.Future[Result]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
