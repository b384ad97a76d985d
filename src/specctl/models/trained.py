"""Trained weights on disk: safetensors with what they belong to, and beside them a card for people.

Every method that trains something for a model stores it this way: Kangaroo's adapter, S2D's sorted draft.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from specctl import paths
from specctl.errors import MissingError, ModelFileError
from specctl.models import trimmed
from specctl.models.lm import LM
from specctl.store.files import write_atomic
from specctl.store.safetensors_screen import read_header

CARD = "card.json"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of trained weights: how errors call it, the command that trains it, the profile's key for it.

    `method` names the file and the folder of those that are shipped.
    """

    method: str
    noun: str
    key: str

    @property
    def file(self) -> str:
        return f"{self.method}.safetensors"

    @property
    def format(self) -> str:
        return f"specctl-{self.method}-2"

    @property
    def hint(self) -> str:
        return f"train one with `specctl train {self.method}`"

    def refuse(self, folder: Path, what: str) -> NoReturn:
        raise ModelFileError(f"the {self.noun} `{folder}` {what}", hint=self.hint)


@dataclass(frozen=True, slots=True)
class Stored:
    """`shape`: what the method needs to build the module; `kept` `[k]`: the ids its head is trimmed to."""

    tensors: dict[str, Tensor]
    shape: Any
    kept: Tensor | None


def fingerprint(lm: LM) -> str:
    """Which weights these are, by 64 numbers of every tensor: the same in bfloat16 and wider."""
    digest = hashlib.sha256()
    for name, parameter in sorted(lm.module.named_parameters()):
        flat = parameter.detach().flatten()
        some = flat[:: max(flat.numel() // 64, 1)].to("cpu", torch.bfloat16).view(torch.int16)
        digest.update(f"{name} {tuple(parameter.shape)} ".encode() + some.numpy().tobytes())
    return digest.hexdigest()


def write(
    kind: Kind,
    folder: Path,
    base: LM,
    tensors: Mapping[str, Tensor],
    shape: Mapping[str, Any],
    kept: Tensor | None,
    card: Mapping[str, Any],
) -> None:
    """A state dict, in the dtype of the model it belongs to, and its card."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.detach().to("cpu", base.dtype).contiguous() for name, tensor in tensors.items()}
    if kept is not None:
        stored["kept"] = kept.to("cpu", torch.int32)
    mark = fingerprint(base)
    facts = json.dumps({"format": kind.format, "base": mark, "shape": shape}, sort_keys=True)
    # One entry: safetensors writes several in any order, and files made twice should be equal.
    write_atomic(folder / kind.file, save(stored, metadata={"facts": facts}))
    write_card(folder, {**shape, "base": {"name": base.name, "fingerprint": mark}, **card})


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    write_atomic(folder / CARD, json.dumps(card, indent=2).encode() + b"\n")


def read(kind: Kind, folder: Path, base: LM) -> Stored:
    """What `write` wrote for these very weights.

    Raises ModelFileError unless it is whole and belongs to them: on others it drafts nonsense, which costs speed
    and shows nowhere else.
    """
    path = folder / kind.file
    if not path.is_file():
        kind.refuse(folder, f"has no `{kind.file}`")
    read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(f"cannot read `{path}`: {error}") from error
    if not isinstance(facts, dict) or facts.get("format") != kind.format:
        kind.refuse(folder, f"is no {kind.noun} of this version of specctl")
    if facts.get("base") != fingerprint(base):
        kind.refuse(folder, f"was trained for another model than `{base.name}`")
    kept = tensors.pop("kept", None)
    if kept is not None and not trimmed.is_map(kept, base.vocab_size):
        kind.refuse(folder, f"keeps tokens that `{base.name}` does not have")
    return Stored(tensors, facts.get("shape"), None if kept is None else kept.long())


def shipped(kind: Kind, base: LM) -> list[Path]:
    """The folders of the weights that come with specctl for this model, one at least. Raises MissingError."""
    mine = fingerprint(base)
    found = [
        card.parent
        for card in sorted(paths.shipped_weights_dir().glob(f"{kind.method}/*/{CARD}"))
        if read_card(card.parent)["base"]["fingerprint"] == mine
    ]
    if not found:
        raise MissingError(
            f"no {kind.noun} is shipped for `{base.name}`", hint=f"{kind.hint} and give it as `{kind.key}`"
        )
    return found


def read_card(folder: Path) -> dict[str, Any]:
    """What is told of trained weights. Raises OSError or ValueError."""
    card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
    return card
