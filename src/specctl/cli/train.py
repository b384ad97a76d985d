"""`specctl train`: a drafter of your own for a target, from text the target writes itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from specctl.cli import options
from specctl.errors import RequestError

EXAMPLES = """Examples:

specctl train kangaroo --pair smollm2-135m -o my-adapter

specctl train kangaroo --tokens 1M --exit auto --block layer -o my-adapter

specctl train kangaroo --data prompts.jsonl --exit 3 -o my-adapter

Use the result in a profile: drafter: {method: kangaroo, adapter: my-adapter}"""

app = typer.Typer(name="train", help="Train a drafter for a target.", no_args_is_help=True)

Tokens = Annotated[
    str, typer.Option(metavar="N|300k|1M", help="Positions to capture.", rich_help_panel="Data")
]
Data = Annotated[
    str,
    typer.Option(
        metavar="FILE|self",
        help="Prompts to answer, or conversations, as text or token ids; `self`: the model writes them.",
        rich_help_panel="Data",
    ),
]
Disk = Annotated[
    float, typer.Option(metavar="GB", min=0.01, help="Room for captured states.", rich_help_panel="Data")
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1, max=64, help="Answers decoded together; by default as memory allows.", rich_help_panel="Data"
    ),
]
Exit = Annotated[
    str, typer.Option("--exit", metavar="L|auto", help="Layers below the adapter; `auto` tries some.")
]
Block = Annotated[
    str,
    typer.Option(
        metavar="attention|layer|two-layers", help="The paper's attention alone, or one or two whole layers."
    ),
]
Vocabulary = Annotated[
    int, typer.Option(min=0, help="Draft with the commonest tokens only; 0: with all of them.")
]
Config = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Settings of the training loop, as YAML: steps, learning_rate ..."),
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the result.")]


@app.command(epilog=EXAMPLES)
def kangaroo(
    ctx: typer.Context,
    output: Output,
    pair: options.PairName = None,
    target: options.Target = None,
    offline: options.Offline = False,
    pull: options.Pull = False,
    dtype: options.Dtype = None,
    device: options.Device = None,
    data: Data = "self",
    tokens: Tokens = "300k",
    disk: Disk = 4.0,
    batch_size: BatchSize = None,
    exit_layer: Exit = "3",
    block: Block = "layer",
    vocabulary: Vocabulary = 8192,
    config: Config = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """An early-exit adapter: the target's first layers draft with it, the others verify.

    The same command goes on where it was interrupted, in capture and in training.
    """
    from specctl.cli import train_run
    from specctl.models import adapter as adapters
    from specctl.training.kangaroo import SETTINGS

    if block not in get_args(adapters.Block):
        raise RequestError(f"`--block {block}` is unknown", hint=f"use {', '.join(get_args(adapters.Block))}")
    wish = train_run.Wish(
        data=data,
        tokens=count(tokens),
        disk=int(disk * 1e9),
        batch_size=batch_size,
        exit_layer=None if exit_layer == "auto" else _layer(exit_layer),
        block=block,  # type: ignore[arg-type]  # one of them, see above
        vocabulary=vocabulary,
        settings=train_run.read_settings(config, SETTINGS),
    )
    fields = ("pair", "target", "dtype", "device")
    typed = {key: value for key, value in options.typed(ctx).items() if key in fields}
    session = train_run.open_target(typed, offline=offline, unasked=pull, quiet=quiet or as_json)
    train_run.run(session, wish, output, as_json=as_json, quiet=quiet)


def count(text: str) -> int:
    unit = {"k": 1_000, "m": 1_000_000}.get(text[-1:].lower(), 1)
    digits = text[:-1] if unit > 1 else text
    if not digits.isdecimal() or int(digits) == 0:
        raise RequestError(f"`--tokens {text}` is not a number of tokens", hint="such as 300k or 1M")
    return int(digits) * unit


def _layer(text: str) -> int:
    if not text.isdecimal():
        raise RequestError(f"`--exit {text}` is not a layer", hint="give a number, or `auto`")
    return int(text)
