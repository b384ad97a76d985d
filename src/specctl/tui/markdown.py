"""Markdown as rows of styled text: a long answer has thousands of them, and few are in sight."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from markdown_it.tree import SyntaxTreeNode
from textual.content import Content, Span
from textual.highlight import highlight

from specctl.tui.pieces import parser

_PARSERS = {True: parser(), False: parser(indented_code=False)}
_BULLETS = "•◦▪"
_INLINE = {"strong": "bold", "em": "italic", "s": "strike", "link": "underline"}
_CODE_INLINE = "$text-accent on $panel"
_HEADINGS = {"h1": "bold underline $text-primary", "h2": "bold $text-primary"}
_CODE = "$text on $panel"
_MARGIN = "  "  # of code
_QUIET = "$foreground 60%"
_MARK = "$text-primary"
_LEAST = 8  # cells of a table's column, a nested block


class Row(NamedTuple):
    """One row of the screen. As text `end` comes behind it, nothing or a blank where it was wrapped.

    `margin`: characters at its start that are no text. `fill`: the style of what it leaves free at its right.
    """

    content: Content
    end: str = "\n"
    margin: int = 0
    fill: str = ""


BLANK = Row(Content())


def wrapped(content: Content, width: int) -> list[Row]:
    """Rows of at most `width` cells, cut between words."""
    rows: list[Row] = []
    for line in content.expand_tabs(4).split(allow_blank=True):
        parts = line.wrap(width) if line.cell_length > width else [line]
        rows += [Row(part, " ") for part in parts[:-1]]
        rows.append(Row(parts[-1]))
    return rows


def draw(text: str, width: int, *, indented_code: bool = True) -> list[Row]:
    """A text in Markdown, blank rows between its blocks and none around them."""
    tree = SyntaxTreeNode(_PARSERS[indented_code].parse(text))
    rows: list[Row] = []
    for block in tree.children:
        rows += [*([BLANK] if rows else []), *_block(block, width, 0)]
    return rows


def _block(node: SyntaxTreeNode, width: int, depth: int) -> list[Row]:
    width = max(width, _LEAST)
    match node.type:
        case "heading":
            line = _inline(node.children[0]).stylize_before(_HEADINGS.get(node.tag, "bold"))
            return wrapped(line, width)
        case "paragraph":
            return wrapped(_inline(node.children[0]), width)
        case "bullet_list" | "ordered_list":
            return _list(node, width, depth)
        case "blockquote":
            return _marked(_nested(node, width - 2, depth), "▌ ", "▌ ")
        case "fence" | "code_block":
            return _code(node.content, node.info, width)
        case "table":
            return _table(node, width)
        case "hr":
            return [Row(Content.styled("─" * width, _QUIET))]
    return wrapped(Content(node.content.rstrip("\n")), width)


def _nested(node: SyntaxTreeNode, width: int, depth: int) -> list[Row]:
    """The blocks inside of a block, with blank rows where the text has blank lines."""
    rows: list[Row] = []
    end: int | None = None
    for child in node.children:
        first, last = child.map or (0, 0)
        rows += [*([BLANK] if end is not None and first > end else []), *_block(child, width, depth)]
        end = last
    return rows or [BLANK]


def _list(node: SyntaxTreeNode, width: int, depth: int) -> list[Row]:
    rows: list[Row] = []
    for item in node.children:
        mark = f"{item.info}{item.markup} " if item.info else f"{_BULLETS[depth % len(_BULLETS)]} "
        inside = _nested(item, width - len(mark), depth + 1)
        rows += [*_marked(inside, mark, " " * len(mark)), *([BLANK] if _ends_blank(item) else [])]
    return rows[:-1] if rows[-1] is BLANK else rows


def _ends_blank(item: SyntaxTreeNode) -> bool:
    """Whether a blank line follows an item's last block: the item's own lines reach to the next item."""
    last = item
    while last.children and last.children[-1].map:
        last = last.children[-1]
    return bool(item.map and last.map and item.map[1] > last.map[1])


def _marked(rows: Sequence[Row], first: str, others: str) -> list[Row]:
    """With a mark before each row."""
    marks = [Content.styled(first, _MARK), *[Content.styled(others, _MARK)] * (len(rows) - 1)]
    return [
        Row(mark + row.content, row.end, row.margin and row.margin + len(mark), row.fill)
        for mark, row in zip(marks, rows, strict=True)
    ]


def _code(code: str, info: str, width: int) -> list[Row]:
    """Lines that are too long go on in the next row; told apart from text by where they begin as well."""
    rows: list[Row] = []
    language = info.split()[0] if info.strip() else "text"
    for line in highlight(code.expandtabs(4).rstrip("\n"), language=language).split(allow_blank=True):
        *parts, last = line.fold(width - len(_MARGIN))
        ends = [*((part, "") for part in parts), (last, "\n")]
        rows += [Row((_MARGIN + part).stylize_before(_CODE), end, len(_MARGIN), _CODE) for part, end in ends]
    return rows


def _table(node: SyntaxTreeNode, width: int) -> list[Row]:
    lines = [
        [_inline(cell.children[0]) for cell in line.children]
        for part in node.children
        for line in part.children
    ]
    sizes = _columns([max(cell.cell_length for cell in column) for column in zip(*lines, strict=True)], width)
    rows: list[Row] = []
    for number, line in enumerate(lines):
        cells = [[row.content for row in wrapped(cell, size)] for cell, size in zip(line, sizes, strict=True)]
        for at in range(max(map(len, cells))):
            shown = [cell[at] if at < len(cell) else Content() for cell in cells]
            padded = [one.pad_right(size - one.cell_length) for one, size in zip(shown, sizes, strict=True)]
            whole = Content.styled(" │ ", _QUIET).join(padded)
            rows.append(Row(whole.stylize_before("bold") if number == 0 else whole))
        if number == 0:
            rows.append(Row(Content.styled("─┼─".join("─" * size for size in sizes), _QUIET)))
    return rows


def _columns(wanted: list[int], width: int) -> list[int]:
    """The cells of each column: what it wants, the widest giving way until all of them fit."""
    sizes = [max(size, 1) for size in wanted]
    over = sum(sizes) + 3 * (len(sizes) - 1) - width
    while over > 0 and max(sizes) > _LEAST:
        widest = sizes.index(max(sizes))
        sizes[widest] -= 1
        over -= 1
    return sizes


def _inline(node: SyntaxTreeNode) -> Content:
    """A line of text with its emphasis. Links are text: nothing here can be clicked."""
    text: list[str] = []
    spans: list[Span] = []
    at = 0
    for piece, style in _runs(node, ()):
        text.append(piece)
        spans += [Span(at, at + len(piece), one) for one in style if one]
        at += len(piece)
    return Content("".join(text), spans)


def _runs(node: SyntaxTreeNode, style: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for child in node.children:
        match child.type:
            case "text" | "html_inline":
                yield re.sub(r"\s+", " ", child.content), style
            case "softbreak":
                yield " ", style
            case "hardbreak":
                yield "\n", style
            case "code_inline":
                yield child.content, (*style, _CODE_INLINE)
            case "image":
                yield f"[image: {child.content}]", style
            case _:
                yield from _runs(child, (*style, _INLINE.get(child.type, "")))
                address = str(child.attrs.get("href", ""))
                if address and address not in ("".join(piece for piece, _ in _runs(child, ())), ""):
                    yield f" ({address})", (*style, _QUIET)
