"""Stored drafts in fewer bits, as files: their names, what is there, what one takes. Nothing is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from specctl import paths

_NAME = re.compile(r"(?P<model>.+)-(?P<source>[0-9a-f]{12})\.(?P<scheme>int8|int4)\.safetensors")
_BYTES = {"int4": 0.625, "int8": 1.01}  # a weight, with its share of a scale


@dataclass(frozen=True, slots=True)
class QuantizedFile:
    """`source` is the beginning of the fingerprint of the weights it was made from."""

    path: Path
    model: str
    scheme: str
    source: str

    @property
    def name(self) -> str:
        return f"{self.model}.{self.scheme}"


def path_for(model: str, scheme: str, source: str) -> Path:
    """Where the draft made of weights with the fingerprint `source` goes."""
    return paths.quantized_dir() / f"{slug(model)}-{source[:12]}.{scheme}.safetensors"


def listing() -> list[QuantizedFile]:
    """All of them, by name."""
    found = []
    for path in sorted(paths.quantized_dir().glob("*.safetensors")):
        match = _NAME.fullmatch(path.name)
        if match is not None and path.is_file() and not path.is_symlink():
            found.append(QuantizedFile(path, match["model"], match["scheme"], match["source"]))
    return found


def find(scheme: str, source: str) -> Path | None:
    """The draft in `scheme` of weights with this fingerprint, by its name only."""
    wanted = (scheme, source[:12])
    return next((one.path for one in listing() if (one.scheme, one.source) == wanted), None)


def estimate(folder: Path, scheme: str) -> int:
    """Bytes of a model's draft in `scheme`, about, from its 16-bit weights on disk."""
    return of_bytes(sum(path.stat().st_size for path in folder.glob("*.safetensors")), scheme)


def of_bytes(weights: int, scheme: str) -> int:
    """The same from the bytes of 16-bit weights."""
    return int(weights / 2 * _BYTES[scheme])


def slug(name: str) -> str:
    """A model's name as part of a file's."""
    return re.sub(r"[^a-z0-9._-]+", "-", Path(name).name.lower()).strip("-._")[:48] or "model"
