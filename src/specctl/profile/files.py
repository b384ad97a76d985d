"""Where profiles are: names, search order, listing. Needs no schema, so listing them stays instant.

Search order, nearest wins: an explicit path, `./profiles`, the user's folder, the shipped ones.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import NamedTuple

from specctl import paths
from specctl.errors import ProfileError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")


class Found(NamedTuple):
    """`source` is `path`, `project`, `user` or `shipped`; a shadowed profile is hidden by a nearer one."""

    name: str
    source: str
    path: Path
    shadowed: bool


def is_name(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and not _DEVICE_NAME.fullmatch(name)


def list_profiles() -> list[Found]:
    """Every profile of every folder, nearest first among those of one name; sorted by name."""
    project = Path("profiles")
    folders = [("user", paths.user_profiles_dir()), ("shipped", paths.shipped_profiles_dir())]
    if project.resolve() != paths.shipped_profiles_dir().resolve():
        folders.insert(0, ("project", project))
    found: list[Found] = []
    seen: set[str] = set()
    for source, folder in folders:
        here = [path for path in sorted(folder.glob("*.yaml")) if is_name(path.stem)]
        found += [Found(path.stem, source, path, path.stem in seen) for path in here]
        seen |= {path.stem for path in here}
    return sorted(found, key=lambda one: one.name)


def find(name_or_path: str) -> Found:
    """Raises ProfileError for a name nobody has, with the nearest known one, and for an impossible name."""
    if name_or_path.endswith((".yaml", ".yml")) or "/" in name_or_path or "\\" in name_or_path:
        path = Path(name_or_path)
        require_name(path.stem)
        return Found(path.stem, "path", path, False)
    require_name(name_or_path)
    known = list_profiles()
    for one in known:
        if one.name == name_or_path and not one.shadowed:
            return one
    near = difflib.get_close_matches(name_or_path, sorted({one.name for one in known}), n=1)
    ask = f"did you mean `{near[0]}`? " if near else ""
    raise ProfileError(f"no profile `{name_or_path}`", hint=f"{ask}`specctl profiles list` shows all")


def require_name(name: str) -> None:
    """Raises ProfileError unless `name` is safe as a file name on every system."""
    if not is_name(name):
        raise ProfileError(
            f"`{name[:80]}` cannot be a profile's name",
            hint="use 1 to 64 of a-z, 0-9, `.`, `_`, `-`, starting with a letter or a digit",
        )


def about(path: Path) -> str:
    """The profile's own one-line description; empty if the file is unreadable or has none."""
    from specctl.profile import yaml_file

    try:
        value = yaml_file.read(path).value
    except ProfileError:
        return ""
    text = value.get("about") if isinstance(value, dict) else None
    return text if isinstance(text, str) else ""
