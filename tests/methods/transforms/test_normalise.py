"""One way of writing for what means the same; twice is as good as once."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.errors import SpecError
from ray_app.methods.transforms.normalise import Normalise
from ray_app.testing.transforms import check_transform
from tests.methods.transforms.texts import batch, build, change


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("Cafe\u0301", {}, "Café"),
        ("ﬁne \uff11\uff12", {}, "ﬁne \uff11\uff12"),
        ("ﬁne \uff11\uff12", {"form": "NFKC"}, "fine 12"),
        ("Cafe\u0301", {"form": None}, "Cafe\u0301"),
        ("a\x00b\u200bc\ufeff\u00ad", {}, "abc"),
        ("a\x00b", {"control": False}, "a\x00b"),
        ("👩\u200d💻", {}, "👩\u200d💻"),
        ("  a \t b\r\nc\r\r\r\rd \n ", {}, "a b\nc\n\nd"),
        (" a  b ", {"whitespace": False}, " a  b "),
        ("Straße", {"case": "lower"}, "straße"),
        ("Straße", {"case": "fold"}, "strasse"),
        ("See https://a.org/b?c=1, or www.x.de.", {"mask": ["url"]}, "See <url>, or <url>."),
        ("Mail a.b@c.org or ask @me_2", {"mask": ["user", "email"]}, "Mail <email> or ask <user>"),
        ("@me paid 1,234.50 in 2nd", {"mask": ["number"]}, "@me paid <number> in 2nd"),
        ("at 10:30", {"mask": ["number"]}, "at <number>:<number>"),
        ("https://a.org/@me", {"mask": ["user", "url"]}, "<url>"),
    ],
)  # fmt: skip
def test_what_comes_out(text: str, options: dict[str, Any], expected: str) -> None:
    assert change("normalise", text, **options) == expected


@pytest.mark.parametrize("case", ["keep", "lower", "fold"])
@pytest.mark.parametrize("form", ["NFC", "NFKC"])
@settings(derandomize=True, deadline=None, max_examples=150)
@given(text=st.text(max_size=20))
def test_twice_is_as_good_as_once(text: str, form: Any, case: Any) -> None:
    transform = Normalise(form=form, case=case, mask=["url", "email", "user", "number"])
    once = transform(batch(text))
    assert transform(once)["text"][0] == once["text"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "NFD"}, "NFC, NFKC or nothing, got 'NFD'"),
        ({"case": "upper"}, "keep, lower or fold, got 'upper'"),
        ({"mask": ["phone"]}, "url, email, user, number; got 'phone'"),
        ({"mask": "url"}, "takes a list of .*; got 'url'"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build("normalise", **options)


def test_contract() -> None:
    check_transform(
        lambda: Normalise(mask=["user"], case="fold"), batch("A  b", "@me", "", "\n\n\n", "x\u0301")
    )
