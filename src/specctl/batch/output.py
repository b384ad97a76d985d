"""The file of answers: one JSON object a line, in input order, and what is needed to go on after a stop.

A line is written at once and whole; what a kill leaves half-written is cut off by the next run. Beside OUT lies
`OUT.job`, which says what the answers are answers to, so that nothing is ever appended to a foreign file.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from specctl.errors import MachineError, RequestError
from specctl.store.files import write_atomic

_SCHEMA = 1


def fingerprint(facts: Any) -> str:
    """A name for whatever decides the answers: prompts, models, settings."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def as_line(record: Any) -> str:
    return json.dumps(record, ensure_ascii=True, separators=(",", ":")) + "\n"


class AnswerFile:
    """An output file, open for appending. `done` are the ids of the answers it holds already."""

    def __init__(self, path: Path, job: str, *, restart: bool) -> None:
        """`job` is a fingerprint. Raises RequestError when OUT holds something else, or is being written."""
        self._path = path
        self._sidecar = path.with_name(path.name + ".job")
        try:
            # Opened for appending, so that nothing is lost before it is known whose file this is.
            self._file = path.open("ab+")
        except OSError as error:
            raise RequestError(
                f"cannot write `{path}`: {error.strerror}", hint="give another file with -o"
            ) from None
        try:
            self._lock()
            self.done = self._resume(job, restart)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A failure before the first answer leaves no trace.
        if error is not None and self._file.seek(0, os.SEEK_END) == 0:
            self._path.unlink(missing_ok=True)
            self._sidecar.unlink(missing_ok=True)
        self._file.close()

    def write(self, record: Any) -> None:
        """Append one answer. Raises MachineError if the disk refuses."""
        try:
            self._file.write(as_line(record).encode())
            self._file.flush()
        except OSError as error:
            raise MachineError(
                f"cannot write `{self._path}`: {error.strerror}",
                hint="make room; the same command goes on from there",
            ) from None

    def _resume(self, job: str, restart: bool) -> list[str]:
        self._file.seek(0)
        held = self._file.read()
        if held and not restart:
            if self._recorded_job() != job:
                raise RequestError(
                    f"`{self._path}` exists and holds the answers to other prompts or settings",
                    hint="give another file with -o, or --restart to replace it",
                )
            done, end = _whole_lines(held)
            self._file.truncate(end)
            return done
        # The sidecar first: a kill in between leaves an empty OUT, which belongs to nobody.
        self._file.truncate(0)
        write_atomic(self._sidecar, json.dumps({"schema": _SCHEMA, "job": job}).encode())
        return []

    def _recorded_job(self) -> str | None:
        try:
            data = json.loads(self._sidecar.read_bytes())
        except (OSError, ValueError):
            return None
        return data.get("job") if isinstance(data, dict) and data.get("schema") == _SCHEMA else None

    def _lock(self) -> None:
        """One writer a file; the system lets go when the process ends, however it ends."""
        if sys.platform == "win32":
            return
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RequestError(
                f"`{self._path}` is being written by another run", hint="wait for it, or give another file"
            ) from None


def _whole_lines(held: bytes) -> tuple[list[str], int]:
    """The ids of the answers up to the first line that is not whole, and where that begins."""
    done: list[str] = []
    end = 0
    while (stop := held.find(b"\n", end)) >= 0:
        try:
            done.append(str(json.loads(held[end:stop])["id"]))
        except (ValueError, KeyError, TypeError):
            break
        end = stop + 1
    return done, end
