"""Which commands there are."""

from __future__ import annotations

from typing import Annotated

import typer

from specctl import __version__
from specctl.cli import (
    batch,
    bench,
    chat,
    console,
    doctor,
    env,
    models,
    profiles,
    pull,
    replay,
    run,
    train,
    train_s2d,
    train_streams,
    trim,
    tune,
    verify,
)

_EPILOG = (
    "Exit codes: 0 done · 1 the answer is no · 2 the request is wrong · 3 something is missing · "
    "4 this machine cannot do it · 70 a bug in specctl · 130 interrupted. More in docs/exit-codes.md."
)

START = """[bold]To start:[/bold]

specctl run "Why is the sky blue?"

specctl run --show-draft "Write the numbers from 1 to 20."

specctl profiles list"""

app = typer.Typer(
    name="specctl",
    help=f"The workbench for speculative decoding on your own machine.\n\n{START}",
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command(rich_help_panel="Generate", epilog=run.EXAMPLES)(run.run)
app.command(rich_help_panel="Generate", epilog=chat.EXAMPLES)(chat.chat)
app.command(rich_help_panel="Generate", epilog=replay.EXAMPLES)(replay.replay)
app.command(rich_help_panel="Generate", epilog=batch.EXAMPLES)(batch.batch)
app.command("verify-equivalence", rich_help_panel="Measure", epilog=verify.EXAMPLES)(
    verify.verify_equivalence
)
app.add_typer(bench.app, rich_help_panel="Measure")
app.command(rich_help_panel="Measure", epilog=doctor.EXAMPLES)(doctor.doctor)
app.command(rich_help_panel="Measure", epilog=tune.EXAMPLES)(tune.tune)
app.command("verify", hidden=True, epilog=verify.EXAMPLES)(verify.verify_equivalence)
app.command(rich_help_panel="Make drafts better", epilog=trim.EXAMPLES)(trim.trim)
train.app.command(epilog=train_s2d.EXAMPLES)(train_s2d.s2d)
train.app.command(epilog=train_streams.EXAMPLES)(train_streams.streams)
app.add_typer(train.app, rich_help_panel="Make drafts better")
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
