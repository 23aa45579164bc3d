"""What the command line prints: tables for people, and lines."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def console() -> "Console":
    """Return a console; one that is no terminal does not fold lines."""
    from rich.console import Console

    made = Console()
    if not made.is_terminal:
        made.width = 160  # a pipe has no width: do not fold what grep is to find
    return made


def print_table(columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        # As it is: Rich would take the shape [n, d] of a summary for markup and leave it out.
        made.add_row(*(Text(str(cell)) for cell in row))
    console().print(made)


def line(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")
