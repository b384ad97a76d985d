"""From a profile to a session: models found or fetched, checked against each other, loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from specctl.cli import console
from specctl.cli.choice import Choice
from specctl.cli.progress import progress, size
from specctl.errors import MissingError
from specctl.profile.schema import Profile
from specctl.store import fetch, hub, pair, screen
from specctl.store.registry import HubSource, IndexSource, Model

if TYPE_CHECKING:
    from specctl.session import Session

ASK_ABOVE_BYTES = 500_000_000


def find_or_fetch(choice: Choice, *, offline: bool, unasked: bool, quiet: bool) -> tuple[Path, Path | None]:
    """The folders of target and draft. Raises MissingError and what `fetch.fetch` raises."""
    missing = [model for model in choice.models if fetch.find(model) is None]
    remote = [model for model in missing if _is_remote(model)]
    if remote and not unasked and not offline and not hub.is_offline():
        _ask(remote, choice)
    with progress(quiet=quiet or not missing) as shown:
        target = fetch.fetch(choice.target, offline=offline, progress=shown)
        draft = fetch.fetch(choice.draft, offline=offline, progress=shown) if choice.draft else None
    return target, draft


def _is_remote(model: Model) -> bool:
    return any(isinstance(source, HubSource | IndexSource) for source in model.sources)


def _ask(missing: list[Model], choice: Choice) -> None:
    """Small models are fetched unasked; large ones on a terminal's yes only. Raises MissingError."""
    total = sum(model.bytes or fetch.plan(model.name).missing_bytes for model in missing)
    if total <= ASK_ABOVE_BYTES:
        return
    names = " and ".join(f"`{model.name}`" for model in missing)
    if console.can_ask() and console.confirm(f"{names}: {size(total)} to fetch first. Go on?"):
        return
    command = f"specctl pull {choice.pair or missing[0].name}"
    raise MissingError(
        f"{names} not on disk ({size(total)} to fetch)", hint=f"run `{command}`, or add --pull"
    )


def open_session(
    profile: Profile, choice: Choice, folders: tuple[Path, Path | None], prompt: str, *, rows: int = 1
) -> Session:
    """Checks the pair for so many rows, then loads it. Raises PairError, MachineError and what loading raises."""
    target, draft = folders
    wide = {"float32": 4, "float64": 8}
    # Four bytes a token is a guess on the low side; the session counts exactly, and ends at the context's end.
    tokens = len(prompt.encode()) // 4 + profile.max_new_tokens
    context = screen.folder(target).config.get("max_position_embeddings", tokens)
    report = pair.check(
        target,
        draft,
        max_tokens=min(tokens, context),
        batch_size=rows,
        dtype_bytes=wide.get(profile.dtype, 2),
    )
    report.refuse()
    for warning in report.warnings:
        console.note(f"warning: {warning}")
    from specctl.session import open_session as load

    return load(
        profile,
        target,
        draft,
        target_name=choice.target.name,
        draft_name=choice.draft.name if choice.draft else None,
    )
