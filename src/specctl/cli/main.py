"""Where every command starts, and the one place that turns failures into exit codes.

Nothing slow is imported at the top: a Ctrl-C during imports is as quiet as any other.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from specctl.errors import ExitCode, SpecctlError

if TYPE_CHECKING:
    import typer


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code and never raises."""
    try:
        from specctl.cli import console
        from specctl.cli.app import app

        console.prepare()
        return int(app(args=argv, prog_name="specctl", standalone_mode=False) or ExitCode.OK)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BaseException as error:
        if os.environ.get("SPECCTL_DEBUG") == "1":
            import traceback

            console.traceback("".join(traceback.format_exception(error)))
        return _report(error)


def _report(error: BaseException) -> ExitCode:
    import typer

    from specctl.cli import console

    if isinstance(error, SpecctlError):
        console.error(error.message, error.hint)
        return error.exit_code
    if isinstance(error, typer.TyperException):
        return _report_usage(error)
    if isinstance(error, console.PipeClosed) or isinstance(error.__context__, BrokenPipeError):
        return ExitCode.OK
    if isinstance(error, typer.Abort):
        return ExitCode.INTERRUPTED
    if isinstance(error, MemoryError):
        console.error("out of memory", "close other programs, or choose a smaller model")
        return ExitCode.MACHINE
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        console.error(f"cannot write: {error.strerror}", "free some disk space")
        return ExitCode.MACHINE
    return _report_bug(error)


def _report_usage(error: typer.TyperException) -> ExitCode:
    from specctl.cli import console

    text = error.format_message().strip().rstrip(".").replace("'", "`")
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "specctl"
    console.error(text[:1].lower() + text[1:], f"see `{command} --help`")
    return ExitCode.REQUEST


def _report_bug(error: BaseException) -> ExitCode:
    from specctl.cli import console, log

    path = log.write_crash(error)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    where = f"the traceback is in {path}; " if path else ""
    console.error(f"this is a bug in specctl: {what}", f"{where}please report it together with `specctl env`")
    return ExitCode.BUG
