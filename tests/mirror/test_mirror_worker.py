"""A draft in a process of its own: the same rounds as in turn, and no run is lost with it."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from mirrors import LAWS, hits, mirror, rounds

from fakes import ask, noisy_lm, plain_tokens, run, shared_lm, tiny_module
from specctl.decode.sampling import Law
from specctl.decode.stats import Stats
from specctl.events import Mirrored
from specctl.mirror import process
from specctl.mirror.worker import Recipe, Worker

NOWHERE = Recipe("", "noisy", "float64", "cpu", None, None, None, 48, 1)


class Threaded:
    """Stands in for a process: the same server, in a thread, whose pipe may break behind any byte it writes.

    `lets` is how many bytes come through; behind them it is as dead as after kill -9, or, if it `hangs`, silent.
    """

    pid = -1

    def __init__(self, lets: int, hangs: bool = False) -> None:
        there, self.stdin = (os.fdopen(end, mode) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
        self.stdout, back = (os.fdopen(end, mode) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
        self._thread = threading.Thread(target=self._serve, args=(there, Cut(back, lets, hangs)), daemon=True)
        self._thread.start()

    def _serve(self, inlet: Any, outlet: Any) -> None:
        with inlet, outlet, contextlib.suppress(BrokenPipeError, ValueError):
            process.serve(inlet, outlet)

    def wait(self, timeout: float | None = None) -> int:
        self._thread.join(timeout)
        self.stdout.close()
        return 0

    def kill(self) -> None: ...


class Cut(io.RawIOBase):
    """Lets so many bytes through, then breaks, or swallows the rest."""

    def __init__(self, pipe: Any, lets: int, hangs: bool) -> None:
        self._pipe, self._left, self._hangs = pipe, lets, hangs

    def write(self, data: Any) -> int:
        data = bytes(data)
        self._pipe.write(data[: max(self._left, 0)])
        self._left -= len(data)
        if self._left < 0 and not self._hangs:
            self._pipe.flush()
            raise BrokenPipeError
        return len(data)

    def flush(self) -> None:
        self._pipe.flush()

    def close(self) -> None:
        self._pipe.close()


@pytest.fixture
def threaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes workers that are threads."""
    made: list[Worker] = []

    def make(lets: int = 10**9, hangs: bool = False) -> Worker:
        monkeypatch.setattr(subprocess, "Popen", lambda *args, **named: Threaded(lets, hangs))
        made.append(Worker(NOWHERE))
        return made[-1]

    monkeypatch.setattr(process, "open_draft", lambda recipe: noisy_lm())
    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize(("law", "accept"), LAWS, ids=["greedy", "coupled", "rejection"])
def test_the_rounds_are_those_of_drafting_in_turn(law: Law, accept: str, threaded: Any) -> None:
    worker = threaded()
    assert worker.started()
    for batch_size in (1, 3):
        settings: Any = {"law": law, "accept": accept}
        asked = {"batch_size": batch_size, **settings}
        expected, _, before = run(shared_lm(), mirror(**settings), ask(4, 12), **asked)
        one = mirror(overlap="worker", worker=worker, patience=60.0, **settings)
        tokens, _, events = run(shared_lm(), one, ask(4, 12), **asked)
        assert tokens == expected
        assert rounds(events) == rounds(before)
        assert hits(events) == hits(before)
        assert any(hits(events))
        assert not any(event.failed for event in events if isinstance(event, Mirrored))


def sent(threaded: Any) -> int:
    """Bytes a worker writes in the run of the tests below."""
    written: list[int] = []
    right = Cut.write

    def counted(self: Cut, data: Any) -> int:
        written.append(len(bytes(data)))
        return right(self, data)

    Cut.write = counted  # type: ignore[method-assign]
    try:
        broken_run(threaded())
    finally:
        Cut.write = right  # type: ignore[method-assign]
    return sum(written)


def broken_run(worker: Worker, patience: float = 60.0) -> Stats:
    """Whatever becomes of the worker, the answers are plain decoding's."""
    worker.started(patience)
    stats = Stats()
    one = mirror(overlap="worker", worker=worker, patience=patience)
    tokens, _, _ = run(shared_lm(), one, ask(2, 10), batch_size=2, on_event=stats.add)
    assert [tuple(row) for row in tokens] == list(plain_tokens(n=2, new=10))
    return stats


def test_a_worker_that_dies_at_any_moment_loses_nothing(threaded: Any) -> None:
    """20 moments, in the middle of answers too."""
    total = sent(threaded)
    counts = []
    for seed in range(20):
        worker = threaded(random.Random(seed).randrange(total))
        stats = broken_run(worker)
        assert worker.gone == "the worker died"
        assert stats.mirror.why == "the worker died"
        counts.append(stats.mirror.in_place)
    assert len(set(counts)) > 2


def test_a_worker_that_hangs_is_not_waited_for(threaded: Any) -> None:
    worker = threaded(sent(threaded) // 2, hangs=True)
    stats = broken_run(worker, patience=0.2)
    assert worker.gone is None
    assert stats.mirror.why == "the worker is late"
    assert stats.mirror.in_place > 0


def test_late_answers_are_thrown_away(threaded: Any) -> None:
    worker = threaded()
    assert worker.started()
    first = worker.ask("close", 99)
    second = worker.ask("close", 98)
    assert worker.wait(second, 60.0) is None  # nothing is what `close` says
    assert worker.ready
    assert worker.wait(first, 60.0) is None


def test_a_worker_that_fails_says_so(threaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inlet, outlet = io.BytesIO(pickle.dumps(NOWHERE)), io.BytesIO()
    monkeypatch.setattr(process, "open_draft", lambda recipe: 1 / 0)
    process.until_the_end(inlet, outlet)
    assert pickle.loads(outlet.getvalue()) == (-1, "the worker failed (ZeroDivisionError)")


# A real process --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("noisy")
    module = tiny_module(native=True)
    module.load_state_dict(noisy_lm().module.state_dict())
    module.save_pretrained(folder)
    return Recipe(str(folder), "noisy", "float64", "cpu", None, None, None, 48, 1)


def test_a_process_that_is_killed(recipe: Recipe) -> None:
    worker = Worker(recipe)
    assert worker.started()
    seen: list[int] = []

    def kill(event: Any) -> None:
        seen.append(1)
        if len(seen) == 20:
            os.kill(worker.pid, signal.SIGKILL)

    one = mirror(overlap="worker", worker=worker, patience=60.0)
    tokens, _, events = run(shared_lm(), one, ask(3), batch_size=2, on_event=kill)
    assert [tuple(row) for row in tokens] == list(plain_tokens()[:3])
    assert any(hits(events))
    assert worker.gone == "the worker died"
    worker.close()


OWNER = """
import pickle, sys
from specctl.mirror.worker import Worker
worker = Worker(pickle.loads(bytes.fromhex(sys.argv[1])))
worker.started()
print(worker.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux to wait for another's child")
def test_no_worker_outlives_its_owner(recipe: Recipe) -> None:
    """Killed, the owner can clean up nothing; the pipe closes, and that is enough."""
    command = [sys.executable, "-c", OWNER, pickle.dumps(recipe).hex()]
    owner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdin is not None
    handle = os.pidfd_open(int(owner.stdout.readline()))
    assert not select.select([handle], [], [], 0)[0]
    owner.kill()
    owner.wait()
    assert select.select([handle], [], [], 60)[0]
    os.close(handle)
    owner.stdin.close()
    owner.stdout.close()


def test_a_closed_worker_is_gone(recipe: Recipe) -> None:
    worker = Worker(recipe)
    running = worker._process
    worker.close()
    assert running.poll() is not None
