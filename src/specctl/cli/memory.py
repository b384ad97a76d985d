"""Running out of memory, said once and with a way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from specctl.cli.choice import Choice
from specctl.errors import MachineError, is_out_of_memory
from specctl.profile.schema import Profile


@contextmanager
def out_of_memory(profile: Profile, choice: Choice, *, rows: int = 1) -> Iterator[None]:
    """Turns every way of running out of memory into a MachineError with two smaller settings."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        names = " with ".join(model.name for model in choice.models)
        raise MachineError(
            f"out of memory: {names}, dtype {profile.dtype}, batch {rows}, {profile.max_new_tokens} new tokens",
            hint="try " + " or ".join(_smaller(profile, choice, rows)[:2]),
        ) from error


def _smaller(profile: Profile, choice: Choice, rows: int) -> list[str]:
    ways = [f"`--batch-size {rows // 2}`"] if rows > 1 else []
    if choice.draft is not None:
        ways.append("`--profile ngram --pair {}`, which needs no draft model".format(choice.pair or "…"))
    if profile.dtype in ("float32", "float64"):
        ways.append("`--dtype bfloat16`")
    ways.append(f"`--max-new-tokens {max(profile.max_new_tokens // 2, 1)}`")
    ways.append("`--pair smollm2-135m`")
    return ways
