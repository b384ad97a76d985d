"""Text from models, files and users made safe to show: nothing in it can command the terminal.

Every control character (C0 but newline and tab, DEL, C1), bidirectional control, zero-width or other format
character, and line or paragraph separator becomes a visible symbol: ESC is `␛`, U+202E is `<U+202E>`. Since
the introducer itself is replaced, an escape sequence split over chunks is as harmless as a whole one.

Kept: the few format characters that are drawn (Arabic number signs), and zero-width joiners where scripts
and emoji need them, that is behind a mark, a symbol or a letter outside ASCII.
"""

from __future__ import annotations

import unicodedata

_JOINERS = "\u200c\u200d"
_DRAWN = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}


class _Table(dict[int, str]):
    """A `str.translate` table filled as characters turn up."""

    def __missing__(self, code: int) -> str:
        self[code] = shown = _shown(code)
        return shown


def _shown(code: int) -> str:
    character = chr(code)
    if character in "\n\t" or character in _JOINERS or code in _DRAWN:
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    category = unicodedata.category(character)
    if category == "Cs":
        return "\ufffd"
    if category in ("Cc", "Cf", "Zl", "Zp"):
        return f"<U+{code:04X}>"
    return character


_TABLE = _Table()


class SafeText:
    """One stream of text. `feed` never holds anything back."""

    def __init__(self) -> None:
        self._last = ""

    def feed(self, chunk: str) -> str:
        if not chunk:
            return ""
        if not chunk.isascii() and any(joiner in chunk for joiner in _JOINERS):
            chunk = self._show_idle_joiners(chunk)
        self._last = chunk[-1]
        return chunk.translate(_TABLE)

    def _show_idle_joiners(self, chunk: str) -> str:
        shown: list[str] = []
        last = self._last
        for character in chunk:
            idle = character in _JOINERS and not _joinable(last)
            shown.append(f"<U+{ord(character):04X}>" if idle else character)
            last = character
        return "".join(shown)


def _joinable(character: str) -> bool:
    if not character or character.isascii():
        return False
    return unicodedata.category(character)[0] in "LM" or unicodedata.category(character) in ("So", "Sk")


def safe_text(text: str) -> str:
    """A whole text at once; newlines and tabs stay."""
    return SafeText().feed(text)


def safe_line(text: str) -> str:
    """The same for places that have one line only: newline and tab are shown as well."""
    return safe_text(text).replace("\n", "⏎").replace("\t", "⇥")
