"""What nobody needs on the screen: library warnings and the tracebacks of our own bugs, in files."""

from __future__ import annotations

import logging
import os
import time
import traceback
from io import TextIOWrapper
from pathlib import Path

from specctl import __version__, paths
from specctl.cli.console import mask


class _Masked(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return mask(super().format(record))


class _LogFile(logging.FileHandler):
    """Made at the first record only; a folder that cannot be written loses the log, nothing else."""

    def _open(self) -> TextIOWrapper:
        paths.log_dir().mkdir(parents=True, exist_ok=True)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def noise_to_file() -> None:
    """Sends warnings of transformers, the hub client and Python to `specctl.log`; silences their bars.

    Call it before transformers is imported: the environment variables are read then.
    """
    for name in (
        "HF_HUB_DISABLE_PROGRESS_BARS",
        "HF_HUB_DISABLE_TELEMETRY",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS",
    ):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    root = logging.getLogger()
    if not any(isinstance(handler, _LogFile) for handler in root.handlers):
        handler = _LogFile(paths.log_dir() / "specctl.log", encoding="utf-8", delay=True)
        handler.setFormatter(_Masked("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(handler)
    logging.captureWarnings(True)

    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def write_crash(error: BaseException) -> Path | None:
    """The traceback of a bug, access tokens masked. None if it cannot be written."""
    text = "".join(traceback.format_exception(error))
    path = paths.log_dir() / f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"specctl {__version__}\n{mask(text)}", encoding="utf-8", errors="backslashreplace")
    except OSError:
        return None
    return path
