"""What a user sees of long work: a bar on a terminal, a line now and then in a pipe, nothing in tests."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

# A pipe (a log, CI) gets a line at most this often for each piece of work.
SECONDS_BETWEEN_LINES = 5.0


class Work(Protocol):
    """One piece of work that goes on."""

    def advance(self, done: float = 1, note: str = "") -> None:
        """Say that more of it is done, and what is going on (kept until the next note)."""
        ...


class Reporter(Protocol):
    """Where progress goes."""

    def say(self, text: str) -> None:
        """Print one line that stays."""
        ...

    def work(self, title: str, total: float | None) -> AbstractContextManager[Work]:
        """Show a piece of work for the length of a block; total None: it is not known how long."""
        ...


class Silent:
    """Says nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""

    @contextmanager
    def work(self, title: str, total: float | None) -> Iterator[Work]:
        """Show nothing."""
        yield _Quiet()


class Terminal:
    """A live bar on a terminal, else lines.

    Args:
        console: Where to print.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Progress | None = None

    def say(self, text: str) -> None:
        """Print one line that stays, above the bars."""
        # Without markup: a path or a message may have brackets of its own.
        self.console.print(text, highlight=False, markup=False, emoji=False)

    @contextmanager
    def work(self, title: str, total: float | None) -> Iterator[Work]:
        """Show a bar, or lines at intervals, and how long it took."""
        if not self.console.is_terminal:
            lines = _Lines(self.console, title, total)
            yield lines
            lines.end()
            return
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )
        with Progress(*columns, console=self.console) as progress:
            yield _Bar(progress, progress.add_task(title, total=total, note=""))


class _Quiet:
    def advance(self, done: float = 1, note: str = "") -> None:
        pass


@dataclass
class _Bar:
    progress: Progress
    task: TaskID

    def advance(self, done: float = 1, note: str = "") -> None:
        self.progress.update(self.task, advance=done)
        if note:
            self.progress.update(self.task, note=note)


@dataclass
class _Lines:
    console: Console
    title: str
    total: float | None
    done: float = 0
    note: str = ""
    begun: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)

    def advance(self, done: float = 1, note: str = "") -> None:
        self.done += done
        self.note = note or self.note
        finished = self.total is not None and self.done >= self.total
        # The last line comes with the time it took.
        if not finished and time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            self._print("")

    def end(self) -> None:
        self._print(f", {time.monotonic() - self.begun:.1f} s")

    def _print(self, ending: str) -> None:
        of = f"/{self.total:g}" if self.total is not None else ""
        note = f"  {self.note}" if self.note else ""
        line = f"  {self.title}: {self.done:g}{of}{ending}{note}"
        self.console.print(line, highlight=False, markup=False, emoji=False)
