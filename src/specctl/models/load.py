"""From a directory on disk to an `LM` in memory: dtype, device, attention."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from specctl.errors import MachineError, ModelFileError, RequestError
from specctl.models import attention
from specctl.models.lm import LM
from specctl.store import screen

_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def pick_device(wanted: str) -> torch.device:
    """`auto` is the first accelerator torch sees, else the CPU.

    Raises MachineError for a device this machine lacks, RequestError for a name torch does not know.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise RequestError(f"unknown device `{wanted}`", hint="try `cpu`, `cuda` or `mps`") from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise MachineError(f"device `{wanted}` is not available here", hint="use `--device cpu`") from None
    return device


def pick_dtype(wanted: str, path: Path, device: torch.device) -> torch.dtype:
    """`auto` is the dtype the weights are stored in; float16 has no fast path on a CPU, so float32 there."""
    name = wanted
    if wanted == "auto":
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        name = str(config.get("dtype") or config.get("torch_dtype") or "float32")
        if name == "float16" and device.type == "cpu":
            name = "float32"
    if name not in _DTYPES:
        raise RequestError(f"dtype `{name}` is not supported", hint="use `--dtype bfloat16` or `float32`")
    return _DTYPES[name]


def load(path: Path, *, name: str, dtype: str = "auto", device: str = "auto", native: bool = False) -> LM:
    """Load a model directory (config.json, safetensors) without running any code from it.

    `native` takes the attention transformers would choose, else `models/attention.py`. Raises ModelFileError
    for files that are broken or of a kind specctl refuses, MachineError when memory or the device fails.
    """
    screen.folder(path)
    where = pick_device(device)
    try:
        module = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=pick_dtype(dtype, path, where),
            attn_implementation=None if native else attention.register(),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        torch.nn.Module.to(module, where)
    except torch.OutOfMemoryError:
        raise MachineError(
            f"`{name}` does not fit in the memory of `{where}`", hint="use `--device cpu`"
        ) from None
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelFileError(
            f"cannot load the model in `{path}`: {first_line}", hint="pull it again, or check the files"
        ) from error
    return LM(module.eval(), name)


def load_tokenizer(path: Path) -> Any:
    """The model's own tokenizer, in the fast implementation. Raises ModelFileError."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception for a broken file
        raise ModelFileError(
            f"cannot load the tokenizer in `{path}`: {error}", hint="pull it again"
        ) from error
    if not tokenizer.is_fast:
        raise ModelFileError(
            f"`{path}` has no tokenizer.json", hint="convert the tokenizer to the fast format"
        )
    return tokenizer
