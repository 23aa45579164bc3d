"""`ray-app keys`: who may ask a server."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from ray_app.errors import SpecError
from ray_app.terminal import line, print_table

keys_app = typer.Typer(name="keys", help="Make, list and revoke the keys of a server.", no_args_is_help=True)

Where = Annotated[
    Path, typer.Option("--file", help="The file of keys; `keys_file` of a serve spec names it.")
]
Name = Annotated[str, typer.Argument(help="Whose key it is.")]
_FILE = Path("keys.json")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


@keys_app.command("add")
def add(
    name: Name,
    file: Where = _FILE,
    expires: Annotated[
        str | None,
        typer.Option("--expires", help="For how long it is good: 90m, 12h, 30d.", show_default=False),
    ] = None,
    per_minute: Annotated[
        int | None,
        typer.Option(
            "--per-minute", min=1, help="Requests a minute, in each ingress replica.", show_default=False
        ),
    ] = None,
) -> None:
    """Make a key and print it, this once: the file keeps its hash alone."""
    from ray_app.serve import keys

    lasts = _span(expires) if expires is not None else None
    line(keys.add(file, _checked(name), lasts=lasts, per_minute=per_minute))


@keys_app.command("list")
def show(
    file: Where = _FILE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """List the keys, without what opens."""
    from ray_app.serve import keys

    now = datetime.now(UTC)
    rows = [
        {
            "name": key.name,
            "state": key.state(now),
            "created": key.created,
            "expires": key.expires,
            "per_minute": key.per_minute,
            "revoked": key.revoked,
        }
        for key in keys.read(file)
    ]
    if as_json:
        line(json.dumps(rows))
        return
    columns = ["name", "state", "created", "expires", "per_minute", "revoked"]
    print_table(
        columns, [["-" if row[column] is None else row[column] for column in columns] for row in rows]
    )


@keys_app.command("revoke")
def revoke(name: Name, file: Where = _FILE) -> None:
    """Refuse a key from now on; servers that run notice within two seconds."""
    from ray_app.serve import keys

    keys.revoke(file, name)
    line(f"{name}: revoked")


def _span(text: str) -> timedelta:
    found = re.fullmatch(r"([1-9]\d{0,5})([mhd])", text)
    if found is None:
        raise SpecError(f"--expires {text}: expected a number and m, h or d: 90m, 12h, 30d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _checked(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}", name):
        raise SpecError(f"NAME {name!r}: 1 to 64 letters, digits, or _ . @ -, a letter or digit first")
    return name
