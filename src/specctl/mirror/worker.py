"""A draft model in a process of its own, seen from the process of the target.

Only token ids, chances and laws go over, by pipes to a fresh interpreter (`mirror/process.py`). Two threads read
and write them, so nothing here ever waits longer than it was told to, whatever has become of the worker. A worker
whose pipe closes ends, so none outlives this process.
"""

from __future__ import annotations

import pickle
import queue
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import IO, Any, Literal

_START_S = 300.0
"""Loading may have to wait for a disk."""

_END_S = 2.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the worker comes by its draft: what `session.py` does for the one in place."""

    folder: str
    name: str
    dtype: str
    device: str
    quantize: Literal["int8", "int4"] | None
    trim: str | None
    streams: str | None
    vocab_size: int
    threads: int


class Worker:
    """The process, and numbered questions to it. `gone` says why it answers no more."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.gone: str | None = None
        # Not in our group: Ctrl-C is for us to hear, and a worker's output is not for the terminal.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "specctl.mirror.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._inbox: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._answers: dict[int, Any] = {}
        self._open: set[int] = {0}
        self._last = 0
        for work, pipe, box in (
            (_send, self._process.stdin, self._outbox),
            (_receive, self._process.stdout, self._inbox),
        ):
            threading.Thread(target=work, args=(pipe, box), daemon=True).start()
        self.close = weakref.finalize(self, _end, self._process, self._outbox)
        self._outbox.put(recipe)

    @property
    def pid(self) -> int:
        return self._process.pid

    def started(self, seconds: float = _START_S) -> bool:
        """Wait until its model is loaded; whether it is."""
        self.wait(0, seconds)
        return self.ready

    @property
    def ready(self) -> bool:
        """Whether it lives and owes no answer."""
        self._collect(0.0)
        return self.gone is None and not self._open

    def tell(self, what: str, *args: Any) -> None:
        """Something it does not answer."""
        self._outbox.put((None, what, args))

    def ask(self, what: str, *args: Any) -> int:
        """Put a question; returns its number."""
        self._last += 1
        self._open.add(self._last)
        self._outbox.put((self._last, what, args))
        return self._last

    def wait(self, number: int, seconds: float) -> Any | None:
        """The answer to a question, or None if it is not there in time. A late one is thrown away."""
        end = monotonic() + seconds
        while number in self._open and self.gone is None and (left := end - monotonic()) > 0:
            self._collect(left)
        answer = self._answers.get(number)
        self._answers.clear()
        return answer

    def _collect(self, seconds: float) -> None:
        """Take in what has come; wait for the first of it."""
        with suppress(queue.Empty):
            while self.gone is None:
                number, answer = self._inbox.get(timeout=seconds) if seconds else self._inbox.get_nowait()
                seconds = 0.0
                if number < 0:
                    self.gone = str(answer)
                else:
                    self._open.discard(number)
                    self._answers[number] = answer


def _send(pipe: IO[bytes], box: queue.SimpleQueue[Any]) -> None:
    with suppress(OSError, ValueError):
        while (message := box.get()) is not None:
            pickle.dump(message, pipe, protocol=5)
            pipe.flush()
    with suppress(OSError):
        pipe.close()


def _receive(pipe: IO[bytes], box: queue.SimpleQueue[tuple[int, Any]]) -> None:
    try:
        with pipe:
            while True:
                box.put(pickle.load(pipe))
    except Exception:  # a worker that is killed while it writes leaves anything at all
        box.put((-1, "the worker died"))


def _end(process: subprocess.Popen[bytes], outbox: queue.SimpleQueue[Any]) -> None:
    """Ask it to end, then see to it."""
    outbox.put(None)
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
