"""Get models onto disk: what a name means, what is missing, and fetching exactly that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from specctl.store.progress import Progress
from specctl.store.registry import Model, Pair


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """`bytes` is None when only the download itself can tell."""

    model: str
    name: str
    bytes: int | None
    cached: bool
    source: str


@dataclass(frozen=True, slots=True)
class Plan:
    files: tuple[PlannedFile, ...]
    notes: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        return sum(file.bytes or 0 for file in self.files)

    @property
    def missing_bytes(self) -> int:
        return sum(file.bytes or 0 for file in self.files if not file.cached)


@dataclass(frozen=True, slots=True)
class Fetched:
    target: Path
    draft: Path | None


def resolve(spec: str) -> Pair:
    """What `spec` means: a registry name, OWNER/REPO[@REV], a folder or a .gguf file. No network."""
    raise NotImplementedError


def plan(spec: str, *, offline: bool = False) -> Plan:
    """What `pull` would do. Asks the hub for sizes unless `offline`."""
    raise NotImplementedError


def find(what: str | Model) -> Path | None:
    """The folder of a model that is whole and on disk, without any network; of a pair: its target."""
    raise NotImplementedError


def find_pair(spec: str) -> Fetched | None:
    """Both folders of a pair, if both are whole and on disk."""
    raise NotImplementedError


def fetch(what: str | Model, *, offline: bool, progress: Progress) -> Path:
    """A folder transformers can load (config, safetensors, tokenizer); of a pair: its target.

    Raises MissingError, MachineError (disk), ModelFileError, RequestError.
    """
    raise NotImplementedError


def fetch_pair(spec: str, *, offline: bool, progress: Progress) -> Fetched:
    """Target and draft of a pair; a lone model has no draft."""
    raise NotImplementedError
