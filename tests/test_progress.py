"""What a user sees of long work: lines in a pipe, a bar on a terminal, nothing from Silent."""

import io
import re

import pytest
from rich.console import Console

from ray_app import progress
from ray_app.progress import Silent, Terminal


def pipe() -> tuple[Terminal, io.StringIO]:
    file = io.StringIO()
    return Terminal(Console(file=file, width=200)), file


def without_seconds(file: io.StringIO) -> str:
    return re.sub(r"\d+\.\d s", "0.0 s", file.getvalue())


@pytest.mark.parametrize(("interval", "between"), [(0.0, "  sweep: 1/4  first\n"), (float("inf"), "")])
def test_a_pipe_gets_a_line_at_intervals_and_one_at_the_end(
    interval: float, between: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", interval)
    terminal, file = pipe()
    with terminal.work("sweep", 4) as work:
        work.advance(1, "first")
        work.advance(3)
        assert file.getvalue() == between
    assert without_seconds(file) == between + "  sweep: 4/4, 0.0 s  first\n"


def test_work_of_unknown_length_has_no_total() -> None:
    terminal, file = pipe()
    with terminal.work("rows", None) as work:
        work.advance(1000)
    assert without_seconds(file) == "  rows: 1000, 0.0 s\n"


def test_work_that_fails_says_no_end() -> None:
    terminal, file = pipe()
    with pytest.raises(ValueError, match="broken"), terminal.work("sweep", 4):
        raise ValueError("broken")
    assert file.getvalue() == ""


@pytest.mark.parametrize("text", ["a [n, d] b", "[/] [/bold]", "[red]", "runs/[x]/y", ":smile:"])
def test_brackets_are_printed_as_they_are(text: str) -> None:
    terminal, file = pipe()
    terminal.say(text)
    with terminal.work(text, 1) as work:
        work.advance(1, text)
    assert without_seconds(file) == f"{text}\n  {text}: 1/1, 0.0 s  {text}\n"


def test_a_terminal_gets_a_bar_with_title_count_and_note() -> None:
    file = io.StringIO()
    terminal = Terminal(Console(file=file, force_terminal=True, width=120, color_system=None))
    with terminal.work("[sweep]", 3) as work:
        work.advance(1, "a [note]")
        work.advance(2)
        terminal.say("a line above")
    shown = file.getvalue()
    assert all(part in shown for part in ("[sweep]", "3/3", "a [note]", "a line above"))


def test_silent_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    silent = Silent()
    silent.say("hello")
    with silent.work("work", 3) as work:
        work.advance(2, "note")
    assert capsys.readouterr() == ("", "")
