"""`specctl env`: what a bug report needs. No names of people, no tokens."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

from specctl import __version__, paths
from specctl.cli import console
from specctl.cli.options import Json

_PACKAGES = (
    "torch",
    "transformers",
    "huggingface-hub",
    "safetensors",
    "gguf",
    "pydantic",
    "typer",
    "rich",
    "textual",
)
_VARIABLES = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "SPECCTL_CONFIG_DIR",
    "SPECCTL_DATA_DIR",
    "SPECCTL_CACHE_DIR",
    "SPECCTL_DEBUG",
    "SPECCTL_KERNELS",
    "NO_COLOR",
    "FORCE_COLOR",
    "TERM",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)


def env(as_json: Json = False) -> None:
    """Versions, device, folders: for bug reports."""
    found = _collect()
    if as_json:
        console.document({"schema": 1, **found})
        return
    for part, values in found.items():
        if isinstance(values, dict):
            for name, value in values.items():
                console.line(f"{part}.{name}: {'not set' if value is None else value}")
        else:
            console.line(f"{part}: {values}")


def _collect() -> dict[str, Any]:
    return {
        "specctl": __version__,
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "machine": platform.machine(),
        "packages": {name: _package(name) for name in _PACKAGES},
        "compute": _compute(),
        "folders": {
            "profiles": str(paths.user_profiles_dir()),
            "shipped_profiles": str(paths.shipped_profiles_dir()),
            "models": str(paths.models_dir()),
            "log": str(paths.log_dir()),
        },
        "variables": {name: os.environ.get(name) for name in _VARIABLES},
        "hub_token": "set" if os.environ.get("HF_TOKEN") else "not in the environment",
    }


def _package(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _compute() -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        return {"torch": f"cannot be imported: {error}"}
    from specctl.models.kernels import build

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": ", ".join(gpus) or "none",
        "mps": torch.backends.mps.is_available(),
        "int4_kernels": "own" if build.built() else f"torch's: {build.lacking() or 'ours do not compile'}",
    }
