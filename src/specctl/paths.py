"""The only module that knows where specctl keeps files. Nothing is created by asking."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def _folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or default).expanduser()


def config_dir() -> Path:
    return _folder("SPECCTL_CONFIG_DIR", platformdirs.user_config_dir("specctl", appauthor=False))


def data_dir() -> Path:
    return _folder("SPECCTL_DATA_DIR", platformdirs.user_data_dir("specctl", appauthor=False))


def cache_dir() -> Path:
    """Things that can be made again: start-up self-test results, logs."""
    return _folder("SPECCTL_CACHE_DIR", platformdirs.user_cache_dir("specctl", appauthor=False))


def models_dir() -> Path:
    """Converted models (GGUF turned into safetensors). Hub files stay in the hub's own cache."""
    return data_dir() / "models"


def quantized_dir() -> Path:
    """Drafts in fewer bits, as this machine's kernels read them (`specctl pull --quantize`)."""
    return data_dir() / "quantized"


def user_profiles_dir() -> Path:
    return config_dir() / "profiles"


def log_dir() -> Path:
    return cache_dir() / "log"


def shipped_weights_dir() -> Path:
    """Trained parts that are part of the package."""
    return Path(__file__).resolve().parent / "weights"


def shipped_profiles_dir() -> Path:
    """`_profiles` inside an installed wheel, `profiles/` at the root of a source tree."""
    package = Path(__file__).resolve().parent
    installed = package / "_profiles"
    return installed if installed.is_dir() else package.parents[1] / "profiles"
