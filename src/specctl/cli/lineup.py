"""Profiles lined up to be compared: one target, one way of drawing tokens, plain decoding as the baseline."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specctl.cli import choice, console, log, ready
from specctl.cli.choice import Choice
from specctl.cli.memory import out_of_memory
from specctl.cli.status import StatusLine
from specctl.errors import RequestError
from specctl.profile import files, override, read
from specctl.profile.schema import Profile, effective

if TYPE_CHECKING:
    from specctl.models.lm import LM
    from specctl.session import Session

BASELINE = "plain"


@dataclass(slots=True)
class Lineup:
    """`profiles` begins with the baseline; `skipped` says why others were left out."""

    profiles: list[Profile]
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Opened:
    session: Session
    choice: Choice
    folders: tuple[Path, Path | None]


def line_up(names: Sequence[str], typed: dict[str, Any]) -> Lineup:
    """The profiles of these names, or every one that suits the target for `all`, each with what was typed on top.

    Raises RequestError for profiles that cannot be compared.
    """
    every = list(names) == ["all"]
    skipped: dict[str, str] = {}
    if every:
        known = [one.name for one in files.list_profiles() if not one.shadowed]
        names = sorted(known, key=lambda name: name != "default")
    profiles: list[Profile] = []
    for name in names:
        try:
            profile = override.merge(read.load(name), typed)
            choice.choose(profile)
            if profiles:
                _require_comparable(profiles[0], profile)
            if every:
                _require_new(profiles, profile)
        except RequestError as error:
            if not every:
                raise
            skipped[name] = error.message
        else:
            profiles.append(profile)
    if not profiles:
        raise RequestError("none of the profiles can be measured", hint="; ".join(skipped.values()))
    others = [one for one in profiles if one.name != BASELINE]
    return Lineup([plain(profiles[0]), *others], skipped)


def plain(profile: Profile) -> Profile:
    """Plain decoding with everything else as in `profile`."""
    data = {**effective(profile), "drafter": {"method": "none"}, "draft": None}
    return Profile.model_validate({**data, "name": BASELINE})


def _require_comparable(first: Profile, other: Profile) -> None:
    """Raises RequestError unless both ask the same target for tokens of the same law."""
    for what in ("sampling", "dtype", "device"):
        if getattr(first, what) != getattr(other, what):
            raise RequestError(
                f"profiles `{first.name}` and `{other.name}` differ in `{what}`",
                hint="type it, so that it holds for both, or measure them apart",
            )
    if choice.choose(first).target != choice.choose(other).target:
        raise RequestError(
            f"profiles `{first.name}` and `{other.name}` have different targets",
            hint="add --pair, so that all are measured on one",
        )


def _require_new(known: Sequence[Profile], profile: Profile) -> None:
    """Raises RequestError for the settings of a profile that is lined up already."""
    for one in known:
        if one.model_copy(update={"name": profile.name, "about": profile.about}) == profile:
            raise RequestError(f"the same settings as `{one.name}`")


def open_all(
    profiles: Sequence[Profile], longest: str, rows: int, *, offline: bool, unasked: bool, quiet: bool
) -> list[Opened]:
    """Sessions for prompts up to `longest`, so many at a time; the target's weights are loaded once for each way of
    running it."""
    targets: dict[str, LM] = {}
    opened = []
    for profile in profiles:
        one = _open(
            profile,
            longest,
            rows,
            targets.get(profile.numerics),
            offline=offline,
            unasked=unasked,
            quiet=quiet,
        )
        targets[profile.numerics] = one.session.target
        opened.append(one)
    return opened


def _open(
    profile: Profile,
    longest: str,
    rows: int,
    loaded: LM | None,
    *,
    offline: bool,
    unasked: bool,
    quiet: bool,
) -> Opened:
    chosen = choice.choose(profile)
    with out_of_memory(profile, chosen):
        folders = ready.find_or_fetch(chosen, offline=offline, unasked=unasked, quiet=quiet)
        log.noise_to_file()
        status = StatusLine(under_text=False)
        if console.is_live(sys.stderr) and not quiet:
            status.show(f"{profile.name}: loading")
        try:
            session = ready.open_session(profile, chosen, folders, longest, rows=rows, loaded=loaded)
        finally:
            status.hide()
    for note in (session.info.numerics_note, session.info.draft_note):
        if note and not quiet:
            console.note(f"note: {note}")
    return Opened(session, chosen, folders)
