"""Where long answers are cut."""

from __future__ import annotations

from markdown_it import MarkdownIt

from specctl.tui.pieces import CHARS, pieces


def test_no_text_is_lost_and_every_piece_is_small() -> None:
    text = "".join(f"word {n} and more.\n\n- one\n- two\n\n# head\n" for n in range(200)) + "x " * 5000
    found = pieces(text)
    assert "".join(piece.text for piece in found) == text
    assert max(len(piece.text) for piece in found) <= 2 * CHARS
    assert len(found) > 4 * 200


def test_a_code_block_that_is_cut_is_code_in_every_piece() -> None:
    code = "".join(f"line {n} # no heading\n" for n in range(500))
    found = pieces(f"```python\n{code}```\n")
    assert len(found) > 3
    assert [piece.joint for piece in found] == ["gap", *["cut"] * (len(found) - 1)]
    inside = [MarkdownIt("gfm-like").parse(piece.text) for piece in found]
    assert [[t.type for t in one] for one in inside] == [["fence"]] * len(found)
    assert "".join(one[0].content for one in inside) == code


def test_a_table_that_is_cut_has_its_head_in_every_piece() -> None:
    rows = [f"| {n} | {'x' * 40} |\n" for n in range(200)]
    found = pieces("".join(["| n | x |\n", "|---|---|\n", *rows]))
    assert len(found) > 2
    inside = [MarkdownIt("gfm-like").parse(piece.text) for piece in found]
    assert all([t.type for t in one if t.level == 0] == ["table_open", "table_close"] for one in inside)
    cells = [t.content for one in inside for t in one if t.type == "inline"]
    assert [cell for cell in cells if cell.isdigit()] == [str(n) for n in range(200)]


def test_items_follow_each_other_as_they_were_written() -> None:
    found = pieces("text\n- a\n- b\n\n- c\n\n* d\n")
    assert [(piece.text, piece.joint) for piece in found] == [
        ("text\n", "gap"),
        ("- a\n", "gap"),
        ("- b\n\n", "tight"),
        ("- c\n\n", "gap"),
        ("* d\n", "gap"),
    ]
