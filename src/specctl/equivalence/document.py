"""The JSON report: what was verified, with what, and what was found; the same bytes for the same run."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from specctl import __version__
from specctl.equivalence.report import Report, exit_code
from specctl.store.files import write_atomic

SCHEMA = 1


def document(reports: Sequence[Report], skipped: Mapping[str, str]) -> dict[str, Any]:
    """`skipped` names profiles that were left out, and why. No clock and no text of prompts or answers in it."""
    verdicts = [one.verdict for one in reports]
    return {
        "schema": SCHEMA,
        "tool": {"name": "specctl", "version": __version__},
        "env": _environment(),
        "not_verified": dict(skipped),
        "runs": [one.to_json() for one in reports],
        "verdict": max(verdicts, key=lambda one: one.severity).value,
        "exit_code": exit_code(verdicts),
    }


def write(path: Path, data: dict[str, Any]) -> None:
    """Sorted keys, ASCII. Raises MachineError if the disk refuses."""
    text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=True) + "\n"
    write_atomic(path, text.encode())


def _environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "libraries": {
            "mkl": torch.backends.mkl.is_available(),  # type: ignore[no-untyped-call]
            "onednn": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
        },
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "packages": {name: metadata.version(name) for name in ("torch", "transformers", "huggingface-hub")},
    }
