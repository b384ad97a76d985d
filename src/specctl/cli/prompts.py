"""Where the prompt comes from: the argument, standard input, or both."""

from __future__ import annotations

import sys

from specctl.cli import console
from specctl.errors import RequestError

MAX_BYTES = 8_000_000


def read(argument: str | None) -> str:
    """Piped text first, then the argument, a blank line between them.

    Raises RequestError if there is no prompt, or if it is not text.
    """
    if argument is not None:
        require_text("the prompt", argument)
    piped = ""
    if argument == "-" or (sys.stdin is not None and not sys.stdin.isatty()):
        piped = _read_stdin()
    parts = [part for part in (piped, argument if argument != "-" else None) if part]
    if not parts:
        raise RequestError(
            "there is no prompt", hint='give one, as in `specctl run "Why is the sky blue?"`, or pipe text in'
        )
    return "\n\n".join(parts)


def _read_stdin() -> str:
    if sys.stdin is None:
        return ""
    if sys.stdin.isatty():
        console.note("reading the prompt from the terminal; Ctrl-D ends it", "plain")
    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise RequestError(
            f"standard input is larger than {MAX_BYTES // 1_000_000} MB", hint="shorten the prompt"
        )
    try:
        return data.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"standard input is not UTF-8 text (byte {data[error.start]:#04x} at offset {error.start})",
            hint="convert it first, for example with iconv",
        ) from None


def require_text(what: str, text: str) -> None:
    """Raises RequestError for arguments that were not valid UTF-8: no tokenizer takes them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError(f"{what} is not UTF-8 text", hint="check the terminal's encoding") from None
