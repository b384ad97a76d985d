"""`specctl train streams`: cells on a draft's final state that say the tokens after the next."""

from __future__ import annotations

from typing import Annotated

import typer

from specctl.cli import options, train

EXAMPLES = """Examples:

specctl train streams --pair smollm2-135m -o my-streams

specctl train streams --pair qwen2.5-coder-1.5b --streams 3 --data prompts.jsonl -o my-streams

Use the result in a profile: draft: {streams: my-streams}"""

Count = Annotated[
    int, typer.Option("--streams", min=1, max=8, help="Tokens a forward drafts besides the first.")
]


def streams(
    ctx: typer.Context,
    output: train.Output,
    pair: options.PairName = None,
    target: options.Target = None,
    offline: options.Offline = False,
    pull: options.Pull = False,
    dtype: options.Dtype = None,
    device: options.Device = None,
    count: Count = 2,
    data: train.Data = "self",
    tokens: train.Tokens = "300k",
    disk: train.Disk = 4.0,
    batch_size: train.BatchSize = None,
    vocabulary: train.Vocabulary = 8192,
    config: train.Config = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Streams: a draft that says several tokens a forward, for methods `mirror` and `draft-model`.

    They belong to the pair's draft where it has one, else to the target. The same command goes on where it was
    interrupted, in capture and in training.
    """
    from specctl.cli import train_run, train_streams_run
    from specctl.training.streams import SETTINGS

    wish = train_streams_run.Wish(
        data=data,
        tokens=train.count(tokens),
        disk=int(disk * 1e9),
        batch_size=batch_size,
        count=count,
        vocabulary=vocabulary,
        settings=train_run.read_settings(config, SETTINGS),
    )
    fields = ("pair", "target", "dtype", "device")
    typed = {key: value for key, value in options.typed(ctx).items() if key in fields}
    how = {"offline": offline, "unasked": pull, "quiet": quiet or as_json}
    session = train_run.open_target(typed, **how)
    base = train_streams_run.open_base(session, typed, **how)
    train_streams_run.run(session, base, wish, output, as_json=as_json, quiet=quiet)
