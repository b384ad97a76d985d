"""The command line: which commands there are, and the one place that turns failures into exit codes."""

from __future__ import annotations

import os
import traceback
from typing import Annotated

import typer

from specctl import __version__
from specctl.cli import console, env, log, models, profiles, pull, run
from specctl.errors import ExitCode, SpecctlError

_EPILOG = (
    "Exit codes: 0 done · 1 the answer is no · 2 the request is wrong · 3 something is missing · "
    "4 this machine cannot do it · 70 a bug in specctl · 130 interrupted. More in docs/exit-codes.md."
)

app = typer.Typer(
    name="specctl",
    help="The workbench for speculative decoding on your own machine.",
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command(rich_help_panel="Generate", epilog=run.EXAMPLES)(run.run)
app.command(rich_help_panel="Models", epilog=pull.EXAMPLES)(pull.pull)
app.add_typer(models.app, rich_help_panel="Models")
app.add_typer(profiles.app, rich_help_panel="Configure")
app.command(rich_help_panel="Configure")(env.env)


def _version(asked: bool) -> None:
    if asked:
        console.line(f"specctl {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _specctl(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print name and version.")
    ] = False,
) -> None:
    if ctx.invoked_subcommand is None:
        console.out(ctx.get_help())


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code and never raises."""
    console.prepare()
    try:
        return int(app(args=argv, prog_name="specctl", standalone_mode=False) or ExitCode.OK)
    except BaseException as error:
        if os.environ.get("SPECCTL_DEBUG") == "1":
            console.traceback("".join(traceback.format_exception(error)))
        return _report(error)


def _report(error: BaseException) -> ExitCode:
    if isinstance(error, SpecctlError):
        console.error(error.message, error.hint)
        return error.exit_code
    if isinstance(error, typer.TyperException):
        return _report_usage(error)
    if isinstance(error, console.PipeClosed) or isinstance(error.__context__, BrokenPipeError):
        return ExitCode.OK
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return ExitCode.INTERRUPTED
    if isinstance(error, MemoryError):
        console.error("out of memory", "close other programs, or choose a smaller model")
        return ExitCode.MACHINE
    path = log.write_crash(error)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    where = f"the traceback is in {path}; " if path else ""
    console.error(f"this is a bug in specctl: {what}", f"{where}please report it together with `specctl env`")
    return ExitCode.BUG


def _report_usage(error: typer.TyperException) -> ExitCode:
    text = error.format_message().strip().rstrip(".").replace("'", "`")
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "specctl"
    console.error(text[:1].lower() + text[1:], f"see `{command} --help`")
    return ExitCode.REQUEST
