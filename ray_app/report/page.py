"""One HTML file with everything in it: text, tables, plots as SVG, pictures as PNG; nothing is fetched."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure


@dataclass
class Section:
    """A heading with what belongs under it, in this order: text, figures, tables, pictures."""

    title: str
    text: str = ""
    figures: "list[tuple[str, Figure]]" = field(default_factory=list)
    """Caption and plot."""
    tables: list["Table"] = field(default_factory=list)
    pictures: list["Picture"] = field(default_factory=list)


@dataclass
class Table:
    """Rows for people; numbers are right-aligned."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    highlight: int | None = None
    """Index of the row to stand out."""


@dataclass
class Picture:
    """One image with a caption."""

    pixels: "np.ndarray"
    """uint8 [h, w], [h, w, 1] or [h, w, 3], or float 0..1."""
    caption: str


def write_page(
    path: Path,
    title: str,
    lead: str,
    sections: Sequence[Section],
    provenance: dict[str, Any],
    command: str = "",
) -> Path:
    """Write a report: whole, or not at all.

    Args:
        path: The HTML file.
        title: Its heading.
        lead: One paragraph: what was done and what came of it.
        sections: In the order of reading.
        provenance: What it was made from (spec, fingerprints, versions).
        command: The command that repeats it.
    """
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(cell=_cell, svg=_svg, png=_png, numeric=_is_numeric)
    template = environment.from_string(
        files("ray_app.report").joinpath("page.html").read_text(encoding="utf-8")
    )
    html = template.render(
        title=title,
        lead=lead,
        sections=sections,
        provenance=provenance,
        command=command,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(html, encoding="utf-8")
    return temporary.replace(path)


def _svg(figure: "Figure") -> str:
    from markupsafe import Markup

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    svg = buffer.getvalue()
    # Made by matplotlib from numbers and escaped text, so it may stand in the page as it is.
    return Markup(svg[svg.index("<svg") :])  # noqa: S704


def _png(pixels: "np.ndarray") -> str:
    import numpy as np
    from PIL import Image

    values = np.asarray(pixels)
    if values.dtype != np.uint8:
        values = (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
    image = Image.fromarray(values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values)
    scale = max(1, 96 // max(image.size))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _is_numeric(table: Table, column: int) -> bool:
    values = [row[column] for row in table.rows if row[column] not in (None, "", "-")]
    return bool(values) and all(_looks_numeric(value) for value in values)


def _looks_numeric(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"-?\d+\.\d+( ± \d+\.\d+)?", value) is not None
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        # Four decimals where they say something, else four digits (a weight decay of 0.0000312).
        return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 1e5 else f"{value:.4g}"
    return str(value)
