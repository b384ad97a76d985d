"""Where long answers are cut."""

from __future__ import annotations

from markdown_it import MarkdownIt

from specctl.tui.pieces import BLOCKS, CHARS, pieces


def test_no_text_is_lost_and_every_piece_is_small() -> None:
    text = "".join(f"word {n} and more.\n\n- one\n- two\n\n# head\n" for n in range(200)) + "x " * 5000
    found = list(pieces(text))
    assert "".join(found) == text
    assert max(map(len, found)) <= 3 * CHARS
    tops = [sum(t.level == 0 and t.nesting >= 0 for t in MarkdownIt("gfm-like").parse(one)) for one in found]
    assert max(tops) <= BLOCKS < len(MarkdownIt("gfm-like").parse(text))


def test_a_code_block_that_is_cut_is_code_in_every_piece() -> None:
    code = "".join(f"line {n} # no heading\n" for n in range(500))
    found = list(pieces(f"```python\n{code}```\n"))
    assert len(found) > 3
    inside = [MarkdownIt("gfm-like").parse(one) for one in found]
    assert [[t.type for t in one] for one in inside] == [["fence"]] * len(found)
    assert "".join(one[0].content for one in inside) == code
