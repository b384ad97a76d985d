"""Where a Markdown text that still grows may be cut: what stands before a cut is drawn once and for all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from markdown_it import MarkdownIt

CHARS = 1200
"""A block of more than twice as many characters is cut after about as many."""

Joint = Literal["gap", "tight", "cut"]
"""How a piece follows the one before it: below a blank row, below none, or as the rest of the same block."""


class Piece(NamedTuple):
    text: str
    joint: Joint


def parser(*, indented_code: bool = True) -> MarkdownIt:
    found = MarkdownIt("gfm-like")
    return found if indented_code else found.disable("code")


_BLOCKS = parser().disable(["inline", "linkify"])  # where blocks begin; what is in them is not read


def pieces(text: str, joint: Joint = "gap") -> list[Piece]:
    """Top-level blocks and the items of top-level lists, each on its own; `joint` is the first one's.

    >>> [piece.text for piece in pieces("word\\nword\\n\\n1. one\\n2. two\\n\\nend")]
    ['word\\nword\\n\\n', '1. one\\n', '2. two\\n\\n', 'end']
    """
    lines = text.split("\n")
    begun = 0
    found: list[Piece] = []
    for start, follows in _starts(lines, text):
        if start > begun:
            found += _halved("\n".join(lines[begun:start]) + "\n", joint)
            begun, joint = start, follows
    return [*found, *_halved("\n".join(lines[begun:]), joint)]


def _starts(lines: list[str], text: str) -> Iterator[tuple[int, Joint]]:
    """The first line of each piece, the first piece apart."""
    first = True
    for token in _BLOCKS.parse(text):
        block = token.level == 0 and token.nesting >= 0 and token.map is not None
        if token.map is None or not (block or (token.level == 1 and token.type == "list_item_open")):
            continue
        start = token.map[0]
        if block:
            opened = start
        tight = not block and start > opened and lines[start - 1].strip() != ""
        if not first:
            yield start, "tight" if tight else "gap"
        first = False


def _halved(text: str, joint: Joint) -> Iterator[Piece]:
    while len(text) > 2 * CHARS:
        head, text = cut(text)
        yield Piece(head, joint)
        joint = "cut"
    yield Piece(text, joint)


def cut(text: str) -> tuple[str, str]:
    """A long block in two. Where, its first 2 * `CHARS` characters say: at the end of a line or else of a word.

    A code block is closed and opened again, a table's head is repeated.
    """
    most = 2 * CHARS
    at = text.find("\n", CHARS, most) + 1 or text.rfind(" ", CHARS, most) + 1 or most
    head, rest = text[:at], text[at:]
    first, *others = head.split("\n")
    mark = first.strip()
    if mark.startswith(("```", "~~~")):
        fence = mark[: len(mark) - len(mark.lstrip(mark[0]))]
        if fence not in (line.strip() for line in others):
            return head.rstrip("\n") + f"\n{fence}\n", f"{mark}\n{rest}"
    if (
        mark.startswith("|")
        and others
        and not others[0].strip(" |:-")
        and len(others[0]) + len(first) < CHARS
    ):
        return head, f"{first}\n{others[0]}\n{rest}"
    return head, rest
