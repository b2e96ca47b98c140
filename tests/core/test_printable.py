"""Text of other people reaches a terminal without control characters."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.printable import printable

# Joiners, of an emoji and of a Persian word, stay.
JOINED = "\U0001f469\u200d\U0001f680 \u0645\u200c\u062e"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("good\rbad", r"good\rbad"),
        ("a\u202eb\u2066c\u200f", r"a\u202eb\u2066c\u200f"),
        ("\x9b2J\x07\x7f\ud800", r"\x9b2J\x07\x7f\ud800"),
        ("two\nlines\tand \u00e9", "two\nlines\tand \u00e9"),
        (JOINED, JOINED),
    ],
)
def test_what_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_one_line() -> None:
    assert printable("a\nb\tc", lines=False) == r"a\nb\tc"


@given(st.text(st.characters()))
def test_no_control_character_is_left(text: str) -> None:
    shown = printable(text, lines=False)
    assert not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in shown)
    directions = {unicodedata.bidirectional(letter) for letter in shown}
    assert not directions & {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert printable(shown) == shown
    shown.encode()
