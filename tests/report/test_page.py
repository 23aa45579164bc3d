"""One HTML file: everything is in it, text is escaped, numbers are aligned."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ray_app.report import plots
from ray_app.report.page import Picture, Section, Table, write_page

EVIL = '<script>alert("x")</script> & <b>'


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "path", "use"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def has(self, text: str) -> bool:
        return any(text in found for found in self.texts)


def page(tmp_path: Path, *sections: Section, **more: str) -> str:
    path = write_page(tmp_path / "deep" / "report.html", "Title", "Lead", sections, {"bundle": "v1", **more})
    assert [child.name for child in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 1), dtype=np.uint8)
    html = page(
        tmp_path,
        Section(
            "One",
            "text",
            figures=[("caption", plots.bars({"a": 0.5, "b": 0.7}, "accuracy"))],
            tables=[Table(["x"], [[1]])],
            pictures=[Picture(pixels, "a picture")],
        ),
    )
    for tag, attributes in Page(html).tags:
        assert tag not in ("script", "link", "iframe", "object")
        for key in ("src", "href", "xlink:href", "data"):
            value = attributes.get(key) or ""
            assert value.startswith(("#", "data:")) or not value, (tag, value)
    assert not re.findall(r"url\((?!#)|@import", html)


def test_every_section_is_reached_from_the_top_and_in_order(tmp_path: Path) -> None:
    html = page(tmp_path, Section("First", "alpha"), Section("Second", "beta"))
    found = Page(html)
    anchors = [a["href"] for tag, a in found.tags if tag == "a"]
    ids = [a["id"] for tag, a in found.tags if tag == "section" and a.get("id")]
    assert anchors == [f"#{name}" for name in ids]
    assert html.index("alpha") < html.index("beta") < html.index("Provenance")


def test_text_from_outside_is_escaped_wherever_it_stands(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4), dtype=np.uint8)
    figures = [
        (EVIL, plots.bars({EVIL: 0.5}, EVIL)),
        ("c", plots.confusion(np.eye(2, dtype=int), [EVIL, "b"])),
        ("h", plots.histograms({EVIL: np.arange(5.0)}, EVIL, 2.0)),
    ]
    section = Section(EVIL, EVIL, figures, [Table([EVIL], [[EVIL]], EVIL)], [Picture(pixels, EVIL)])
    path = write_page(tmp_path / "r.html", EVIL, EVIL, [section], {EVIL: EVIL, "map": {EVIL: [EVIL]}}, EVIL)
    found = Page(path.read_text(encoding="utf-8"))
    assert "script" not in [tag for tag, _ in found.tags]
    assert "b" not in [tag for tag, _ in found.tags]
    assert found.has(EVIL)
    assert [a["alt"] for tag, a in found.tags if tag == "img"] == [EVIL]


@pytest.mark.parametrize(
    ("values", "aligned"),
    [
        ([1, 2.5], True),
        ([0.5, None], True),
        (["0.9000 ± 0.0100", "-"], True),
        (["-0.1234"], True),
        (["name", 1], False),
        ([True, False], False),
        ([None, "-"], False),
        (["1.0.0"], False),
    ],
)
def test_columns_of_numbers_are_aligned_right(
    values: list[object],
    aligned: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    html = page(tmp_path, Section("s", tables=[Table(["column", "name"], [[v, "x"] for v in values])]))
    classes = [a.get("class") for tag, a in Page(html).tags if tag in ("td", "th")]
    assert (classes.count("number") == len(values) + 1) is aligned
    assert (classes.count("number") == 0) is not aligned


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.5, "0.5000"),
        (0.0, "0.0000"),
        (0.0000312, "3.12e-05"),
        (-0.25, "-0.2500"),
        (1234567.0, "1.235e+06"),
        (3, "3"),
        (None, "-"),
        (float("nan"), "-"),
        (True, "yes"),
        (False, "no"),
        ("text", "text"),
    ],
)
def test_cells_are_for_people(value: object, shown: str, tmp_path: Path) -> None:
    html = page(tmp_path, Section("s", tables=[Table(["c"], [[value]])]))
    assert re.search(rf"<td[^>]*>{re.escape(shown)}</td>", html)


def test_the_chosen_row_stands_out(tmp_path: Path) -> None:
    html = page(tmp_path, Section("s", tables=[Table(["c"], [["a"], ["b"], ["c"]], highlight=1)]))
    assert re.search(r'<tr class="chosen"><td>b</td>', html)
    assert html.count('class="chosen"') == 1


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 3)])
def test_pictures_show_their_pixels_enlarged(shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    html = page(tmp_path, Section("s", pictures=[Picture(pixels, "p"), Picture(pixels / 255.0, "as floats")]))
    sources = [str(a["src"]) for tag, a in Page(html).tags if tag == "img"]
    assert sources[0] == sources[1]
    content = base64.b64decode(sources[0].removeprefix("data:image/png;base64,"))
    shown = np.asarray(Image.open(io.BytesIO(content)))
    scale = shown.shape[0] // 8
    assert scale == 12
    np.testing.assert_array_equal(shown[::scale, ::scale], pixels.squeeze())


def test_provenance_holds_values_and_mappings(tmp_path: Path) -> None:
    path = write_page(tmp_path / "r.html", "t", "l", [], {"v": "1", "spec": {"a": {"b": 1}}}, "ray-app x")
    html = path.read_text(encoding="utf-8")
    assert "1 entries" in html
    assert '"b": 1' in html.replace("&#34;", '"')
    assert "<pre>ray-app x</pre>" in html


def test_a_page_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = write_page(tmp_path / "r.html", "old", "l", [], {})
    before = path.read_bytes()
    with pytest.raises(IndexError):
        write_page(path, "new", "l", [Section("s", tables=[Table(["a", "b"], [[1]])])], {})
    assert path.read_bytes() == before


def test_a_wide_figure_keeps_its_width_and_scrolls(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    figures = [("narrow", Figure(figsize=(5, 3))), ("broad", Figure(figsize=(8, 3)))]
    section = Section("S", figures=figures)
    page = write_page(tmp_path / "p.html", "t", "l", [section], {}).read_text(encoding="utf-8")
    assert page.count('<figure class="wide"><div style="min-width: 40rem">') == 1
    assert page.index("narrow") < page.index('class="wide"') < page.index("broad")
