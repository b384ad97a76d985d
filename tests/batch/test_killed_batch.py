"""kill -9 at 20 moments of a batch run: what is written in the end is what an uninterrupted run writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import specctl

ROWS, KILLS = 60, 20


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_killed_twenty_times(tiny_folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"say {'la ' * (i % 7)}{i}\n" for i in range(ROWS)))
    command = ["batch", str(prompts), "--target", str(tiny_folder), "-p", "plain", "--dtype", "float64", "-q"]
    command += ["-n", "6", "--batch-size", "3"]
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    run(tmp_path, whole, "", [*command, "-o", str(whole)])
    size = whole.stat().st_size
    moments = ",".join(str(1 + size * i // KILLS) for i in range(KILLS))
    killed = run(tmp_path, out, moments, [*command, "-o", str(out)])
    assert killed >= KILLS // 2, "the runs were over before they could be killed"
    assert out.read_bytes() == whole.read_bytes()


def run(tmp_path: Path, out: Path, moments: str, command: list[str]) -> int:
    folders = {f"SPECCTL_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "DATA", "CACHE")}
    source = str(Path(specctl.__file__).parents[1])
    program = [sys.executable, str(Path(__file__).with_name("killed_runs.py")), str(out), moments or "0"]
    done = subprocess.run(
        [*program, *command],
        env={**os.environ, **folders, "PYTHONPATH": source, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
