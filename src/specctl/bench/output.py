"""The files of a run: for programs after every group of prompts, for people at the end."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from specctl.bench import page
from specctl.bench.report import Run
from specctl.bench.trial import Trial
from specctl.store.files import write_atomic


def write(folder: Path, run: Run) -> None:
    """`bench.json` and `bench.csv`. Raises MachineError if the disk refuses."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(run.to_json(), indent=1, ensure_ascii=True) + "\n"
    write_atomic(folder / "bench.json", text.encode())
    write_atomic(folder / "bench.csv", _csv(run.trials).encode(errors="replace"))


def write_page(folder: Path, run: Run) -> None:
    """`report.html`. Raises MachineError if the disk refuses."""
    write_atomic(folder / "report.html", page.page(run).encode(errors="replace"))


def _csv(trials: list[Trial]) -> str:
    """One line a trial; lists are joined with semicolons."""
    out = io.StringIO()
    rows = [{key: _cell(value) for key, value in one.to_json().items()} for one in trials]
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["contestant"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    return ";".join(map(str, value)) if isinstance(value, tuple) else value
