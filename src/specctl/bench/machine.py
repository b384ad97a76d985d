"""Where and with what a measurement was taken: enough to tell whether two can be compared."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from specctl import __version__
from specctl.store.files import read_manifest

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors")


def machine() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": memory_bytes(),
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
    }


def versions() -> dict[str, str]:
    found = {name: metadata.version(name) for name in _PACKAGES}
    return {"specctl": __version__, "python": platform.python_version(), **found}


def model_digest(folder: Path) -> str:
    """SHA-256 that stands for a model's files: from the manifest if specctl wrote one, else of the configuration
    and the files' names and sizes.
    """
    manifest = read_manifest(folder)
    if manifest is not None:
        facts = repr(sorted((name, digest) for name, (_, digest) in manifest.files.items())).encode()
    else:
        sizes = sorted((path.name, path.stat().st_size) for path in folder.glob("*.safetensors"))
        facts = (folder / "config.json").read_bytes() + repr(sizes).encode()
    return hashlib.sha256(facts).hexdigest()


def memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
