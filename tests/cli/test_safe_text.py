"""Nothing a model or a file says can command the terminal; what people write stays as it is."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specctl.cli.safe_text import SafeText, safe_line, safe_text

HARMLESS = [
    "plain text\n\twith a tab",
    "[bold]not markup[/bold] [unclosed",
    "naïve café Ωμέγα Привет שלום مرحبا नमस्ते 日本語 한국어",
    "क्‍ष and क्‌ष",  # joiners between Devanagari marks and letters
    "می‌خواهم",
    "👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽",
    "┌─┐ █▓▒ ✓ ✗ → ∑",
    "\u0600123",
]

SHOWN = {
    "\x1b[2J": "␛[2J",
    "\x1b]52;c;AAAA\x07": "␛]52;c;AAAA␇",
    "\x1b]8;;http://x\x1b\\link": "␛]8;;http://x␛\\link",
    "\x1bPq\x1b\\": "␛Pq␛\\",
    "\x1bc": "␛c",
    "\r\x08\x0b\x0c\x00\x7f": "␍␈␋␌␀␡",
    "\x9b31m\x90\x9d": "<U+009B>31m<U+0090><U+009D>",
    "a\u202eb\u2066c\u200f": "a<U+202E>b<U+2066>c<U+200F>",
    "pass\u200bword\ufeff\u00ad": "pass<U+200B>word<U+FEFF><U+00AD>",
    "pass\u200dword": "pass<U+200D>word",
    "é\u200d\u200d": "é\u200d<U+200D>",
    "\u2028\u2029": "<U+2028><U+2029>",
    "\U000e0041": "<U+E0041>",
    "\ud800": "\ufffd",
}


@pytest.mark.parametrize("text", HARMLESS)
def test_what_people_write_is_unchanged(text: str) -> None:
    assert safe_text(text) == text


@pytest.mark.parametrize("text", SHOWN, ids=ascii)
def test_what_commands_terminals_is_shown(text: str) -> None:
    assert safe_text(text) == SHOWN[text]


@pytest.mark.parametrize("text", [*SHOWN, *HARMLESS], ids=ascii)
def test_where_the_stream_is_split_does_not_matter(text: str) -> None:
    for cut in range(len(text) + 1):
        stream = SafeText()
        assert stream.feed(text[:cut]) + stream.feed("") + stream.feed(text[cut:]) == safe_text(text)


@given(st.text(st.characters(codec=None), max_size=60))
def test_no_control_or_format_character_is_left(text: str) -> None:
    safe = safe_text(text)
    safe.encode("utf-8")
    for character in safe:
        category = unicodedata.category(character)
        assert category not in ("Cc", "Zl", "Zp", "Cs") or character in "\n\t"
        if category == "Cf":
            assert character in "\u200c\u200d" or unicodedata.name(character).startswith(
                ("ARABIC", "SYRIAC", "KAITHI")
            )


@given(st.text(st.characters(codec="ascii", exclude_categories=("Cc",))))
def test_printable_ascii_is_unchanged(text: str) -> None:
    assert safe_text(text) == text


def test_one_line_places_show_newlines_too() -> None:
    assert safe_line("a\nb\tc") == "a⏎b⇥c"
