"""What a user may type to name a model: a registry name, OWNER/REPO[@REV], a folder or a .gguf file."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from specctl.errors import MissingError, RequestError

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REVISION = r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,127}"
_HUB = re.compile(rf"(?P<owner>{_PART})/(?P<repo>{_PART})(?:@(?P<revision>{_REVISION}))?")
_PLAIN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DEVICE = re.compile(r"(?i)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")
_MAX_LENGTH = 1024


@dataclass(frozen=True, slots=True)
class RegistryName:
    name: str


@dataclass(frozen=True, slots=True)
class HubName:
    repo: str
    revision: str | None


@dataclass(frozen=True, slots=True)
class LocalFolder:
    path: Path


@dataclass(frozen=True, slots=True)
class LocalGguf:
    path: Path


Name = RegistryName | HubName | LocalFolder | LocalGguf


def parse(text: str) -> Name:
    """Anything that starts like a path, ends in `.gguf` or is a folder here is local; the rest are names.

    Raises RequestError for what no model can be called, MissingError for a path that is not there.
    """
    _refuse_unprintable(text)
    if text.startswith("-"):
        raise RequestError(f"`{text}` is not a model name", hint="names and paths do not start with a dash")
    if _looks_local(text):
        return _local(text)
    if _PLAIN.fullmatch(text) and not _DEVICE.fullmatch(text):
        return RegistryName(text)
    match = _HUB.fullmatch(text)
    if match is None or not _is_acceptable(match):
        raise RequestError(
            f"`{text}` is not a model name",
            hint="give a registry name, OWNER/REPO[@REV], a folder or a .gguf file",
        )
    return HubName(f"{match['owner']}/{match['repo']}", match["revision"])


def _refuse_unprintable(text: str) -> None:
    if not text or len(text) > _MAX_LENGTH:
        raise RequestError("a model name is empty or too long")
    for character in text:
        # Cc control, Cf format (direction overrides), Cs half a surrogate, Zl/Zp line ends, Zs but the space.
        category = unicodedata.category(character)
        if category in ("Cc", "Cf", "Cs", "Zl", "Zp") or (category == "Zs" and character != " "):
            shown = text[:60].encode("unicode_escape").decode()
            raise RequestError(f"a model name contains an invisible character: `{shown}`")


def _looks_local(text: str) -> bool:
    if text in (".", "..") or text.startswith(("./", "../", "/", "~/")) or text.lower().endswith(".gguf"):
        return True
    return _PLAIN.fullmatch(text) is None and Path(text).is_dir()


def _local(text: str) -> LocalFolder | LocalGguf:
    path = Path(text).expanduser()
    if not path.exists():
        raise MissingError(f"no such file or folder: `{text}`")
    path = path.resolve()
    if path.is_dir():
        return LocalFolder(path)
    if path.is_file() and path.suffix.lower() == ".gguf":
        return LocalGguf(path)
    raise RequestError(f"`{text}` is neither a folder nor a .gguf file")


def _is_acceptable(match: re.Match[str]) -> bool:
    parts = [match["owner"], match["repo"], *(match["revision"] or "").split("/")]
    return not any(".." in part or "--" in part or _DEVICE.fullmatch(part) for part in parts)
