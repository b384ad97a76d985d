"""As a program: run a `specctl` command in children, each killed at a given size of OUT, then let one finish.

    python killed_runs.py OUT SIZE[,SIZE...] COMMAND...

Children are forked once everything is imported, so that 20 kills do not cost 20 starts.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch

import specctl.session  # noqa: F401  (imported before the children are made)
from specctl.cli.main import main


def child(command: list[str]) -> int:
    """The process id of a run of its own."""
    pid = os.fork()
    if pid == 0:
        os._exit(main(command))
    return pid


def kill_at(pid: int, out: Path, size: int) -> bool:
    """Kill -9 as soon as OUT has this size; whether it was still running then."""
    while True:
        if out.exists() and out.stat().st_size >= size:
            os.kill(pid, signal.SIGKILL)
            return os.waitpid(pid, 0)[1] == signal.SIGKILL
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.0002)


if __name__ == "__main__":
    torch.set_num_threads(1)
    out, command = Path(sys.argv[1]), sys.argv[3:]
    killed = sum(kill_at(child(command), out, int(size)) for size in sys.argv[2].split(","))
    sys.stdout.write(f"{killed}\n")
    sys.stdout.flush()
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child(command), 0)[1]))
