"""Models and pairs known by name, read from `registry.yaml` beside this file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from specctl.errors import RequestError


@dataclass(frozen=True, slots=True)
class HubSource:
    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hub {self.repo}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True, slots=True)
class IndexSource:
    """A GGUF file spread over the data files of pinned wheels, in this order."""

    requirements: tuple[str, ...]
    sha256: str
    bytes: int

    def __str__(self) -> str:
        first = self.requirements[0]
        more = len(self.requirements) - 1
        return f"package index {first}" + (f" and {more} more" if more else "")


@dataclass(frozen=True, slots=True)
class GgufSource:
    path: Path

    def __str__(self) -> str:
        return f"file {self.path}"


@dataclass(frozen=True, slots=True)
class FolderSource:
    path: Path

    def __str__(self) -> str:
        return f"folder {self.path}"


Source = HubSource | IndexSource | GgufSource | FolderSource


@dataclass(frozen=True, slots=True)
class Model:
    """`bytes` is the size on disk when ready, None if nobody knows; `tokenizer` a fingerprint, if known."""

    name: str
    sources: tuple[Source, ...]
    about: str = ""
    licence: str = "unknown"
    bytes: int | None = None
    tokenizer: str | None = None
    gated: bool = False
    unverified: str | None = None

    @property
    def repo(self) -> str | None:
        return next((source.repo for source in self.sources if isinstance(source, HubSource)), None)


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair carries its target's name. Without a `draft` only methods that need no draft model fit."""

    name: str
    about: str
    target: Model
    draft: Model | None

    @property
    def models(self) -> tuple[Model, ...]:
        return (self.target,) if self.draft is None else (self.target, self.draft)


def pairs() -> dict[str, Pair]:
    known = models()
    return {name: _pair(name, entry, known) for name, entry in _document()["pairs"].items()}


def models() -> dict[str, Model]:
    return {name: _model(name, entry) for name, entry in _document()["models"].items()}


def default_pair() -> str:
    return str(_document()["default"])


def unknown(name: str) -> RequestError:
    """The error for a name nobody knows, with the nearest known one."""
    near = difflib.get_close_matches(name, known_names(), n=1)
    ask = f"did you mean `{near[0]}`? " if near else ""
    return RequestError(
        f"unknown model `{name}`",
        hint=f"{ask}known: {', '.join(known_names())}; or give OWNER/REPO, a folder or a .gguf file",
    )


def known_names() -> list[str]:
    return list(_document()["models"])


@cache
def _document() -> dict[str, Any]:
    text = Path(__file__).with_name("registry.yaml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def _pair(name: str, entry: dict[str, str], known: dict[str, Model]) -> Pair:
    target = known[name]
    draft = known[entry["draft"]] if "draft" in entry else None
    about = f"{target.about} with {draft.about} as draft" if draft else target.about
    return Pair(name, about, target, draft)


def _model(name: str, entry: dict[str, Any]) -> Model:
    fields = {key: value for key, value in entry.items() if key != "sources"}
    return Model(name=name, sources=tuple(_source(source) for source in entry["sources"]), **fields)


def _source(entry: dict[str, Any]) -> Source:
    if "hub" in entry:
        return HubSource(entry["hub"], entry.get("revision"))
    return IndexSource(tuple(_expand(entry["index"])), entry["sha256"], entry["bytes"])


def _expand(requirements: Iterable[str]) -> Iterable[str]:
    """`name{1..3}==1.0` stands for name1==1.0, name2==1.0, name3==1.0."""
    for requirement in requirements:
        span = re.search(r"\{(\d+)\.\.(\d+)\}", requirement)
        if span is None:
            yield requirement
            continue
        for number in range(int(span[1]), int(span[2]) + 1):
            yield requirement[: span.start()] + str(number) + requirement[span.end() :]
