"""From a profile to a session: models found or fetched, checked against each other, loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from specctl.cli import console
from specctl.cli.choice import Choice, choose
from specctl.cli.progress import progress, size
from specctl.errors import MissingError
from specctl.profile.schema import Profile
from specctl.store import fetch, hub, pair, screen
from specctl.store.registry import HubSource, IndexSource, Model

if TYPE_CHECKING:
    from specctl.models.lm import LM
    from specctl.session import Session
    from specctl.store.progress import Progress

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
    profile: Profile,
    choice: Choice,
    folders: tuple[Path, Path | None],
    prompt: str,
    *,
    rows: int = 1,
    loaded: LM | None = None,
) -> Session:
    """Checks the pair for so many rows, then loads it. Raises PairError, MachineError and what loading raises.

    `loaded` is the target if it is loaded already, the way the profile asks for.
    """
    # Four bytes a token is a guess on the low side; the session counts exactly, and ends at the context's end.
    tokens = len(prompt.encode()) // 4 + profile.max_new_tokens
    for warning in _check(profile, folders, tokens, rows):
        console.note(f"warning: {warning}")
    return _load(profile, choice, folders, loaded)


def open_for_chat(profile: Profile, progress: Progress, target: LM | None) -> tuple[Session, Sequence[str]]:
    """Finds or fetches the models, checks and loads them; also returns the pair check's warnings.

    `target` is the target if it is loaded already. Raises what `choose`, `fetch` and `open_session` raise.
    """
    choice = choose(profile)
    fetched = [fetch.fetch(model, offline=False, progress=progress) for model in choice.models]
    folders = fetched[0], fetched[1] if choice.draft else None
    warnings = _check(profile, folders, 2 * profile.max_new_tokens, 1)
    return _load(profile, choice, folders, target), warnings


def missing_for_chat(profile: Profile) -> bool:
    return any(fetch.find(model) is None for model in choose(profile).models)


def _check(profile: Profile, folders: tuple[Path, Path | None], tokens: int, rows: int) -> Sequence[str]:
    """The pair check's warnings for so many rows. Raises PairError, MachineError."""
    target, draft = folders
    wide = {"float32": 4, "float64": 8}
    context = screen.folder(target).config.get("max_position_embeddings", tokens)
    report = pair.check(
        target,
        draft,
        max_tokens=min(tokens, context),
        batch_size=rows,
        dtype_bytes=wide.get(profile.dtype, 2),
    )
    report.refuse()
    return report.warnings


def _load(profile: Profile, choice: Choice, folders: tuple[Path, Path | None], target: LM | None) -> Session:
    from specctl.session import open_session as load

    return load(
        profile,
        *folders,
        target_name=choice.target.name,
        draft_name=choice.draft.name if choice.draft else None,
        target=target,
    )
