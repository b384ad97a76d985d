"""`specctl replay`: a recorded run, round by round, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specctl.cli import chat

EXAMPLES = """Examples:

specctl run --jsonl "Why is the sky blue?" > run.jsonl

specctl replay run.jsonl"""


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `run --jsonl` or a chat has written.")],
    play: Annotated[bool, typer.Option("--play", help="Start at once, at true speed.")] = False,
) -> None:
    """Scrub a recorded run forwards and backwards, round by round."""
    from specctl.chat import recording

    chat.require_terminal("replay")
    chat.show_recording(recording.read(file), playing=play)
