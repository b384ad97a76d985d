"""Where a long Markdown text may be cut: pieces that are drawn on their own, and look as they did together."""

from __future__ import annotations

from collections.abc import Iterator

from markdown_it import MarkdownIt

BLOCKS = 8
"""Top-level blocks (paragraphs, lists, code blocks) of a piece."""
CHARS = 1200
"""Characters from which on a piece ends with its block; a block of twice as many is cut inside."""


def pieces(text: str) -> Iterator[str]:
    """Cuts between top-level blocks, every piece small; a code block that is cut is closed and opened again.

    >>> [len(piece) for piece in pieces("word\\n\\n" * 30)]
    [48, 48, 48, 36]
    """
    lines = text.split("\n")
    tokens = MarkdownIt("gfm-like").parse(text)
    starts = [token.map[0] for token in tokens if token.level == 0 and token.map and token.nesting >= 0]
    begun, blocks = 0, 0
    for start in starts:
        size = sum(map(len, lines[begun:start]))
        if blocks and (blocks == BLOCKS or size > CHARS):
            yield from _halved("\n".join(lines[begun:start]) + "\n")
            begun, blocks = start, 0
        blocks += 1
    yield from _halved("\n".join(lines[begun:]))


def _halved(text: str) -> Iterator[str]:
    while len(text) > 2 * CHARS:
        head, text = cut(text)
        yield head
    yield text


def cut(text: str) -> tuple[str, str]:
    """One block in two, at the end of a line or else of a word, at most `CHARS` characters before its end."""
    least = max(len(text) - CHARS, CHARS) if len(text) < 4 * CHARS else CHARS
    at = text.find("\n", least) + 1 or text.find(" ", least) + 1 or least
    head, rest = text[:at], text[at:]
    mark = text.split("\n", 1)[0].strip()
    if mark.startswith(("```", "~~~")):
        fence = mark[: len(mark) - len(mark.lstrip(mark[0]))]
        if fence not in (line.strip() for line in head.split("\n")[1:]):
            return head.rstrip("\n") + f"\n{fence}\n", f"{mark}\n{rest}"
    return head, rest
