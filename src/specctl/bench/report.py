"""A bench run as a value: the trials, and everything needed to take them again; as JSON and back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from specctl.bench.summary import Summary, Weights, summarise
from specctl.bench.trial import Trial
from specctl.errors import RequestError

SCHEMA = 2
_MAX_BYTES = 256_000_000


@dataclass(frozen=True, slots=True)
class Setup:
    """What was measured, on what, and how to do it again. `suite` and `models` carry SHA-256 sums."""

    argv: list[str]
    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    models: dict[str, str]
    dtype: str
    device: str
    numerics: str
    suite: dict[str, Any]
    profiles: dict[str, Any]
    repeats: int
    max_new_tokens: int
    seed: int
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Run:
    """`complete` is False when the run was cut short; `trials` holds whole groups only.

    `predicted`: speedups at batch 1 from cost curves and a trace, by contestant and kind. `curves`: seconds of a
    forward of one row, by model and tokens, as far as they are known.
    """

    setup: Setup
    baseline: str
    weights: dict[str, Weights]
    trials: list[Trial] = field(default_factory=list)
    complete: bool = False
    predicted: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, dict[int, float]] = field(default_factory=dict)

    def summaries(self) -> list[Summary]:
        return summarise(self.trials, self.weights, self.baseline)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "bench",
            "schema": SCHEMA,
            "complete": self.complete,
            "baseline": self.baseline,
            "setup": asdict(self.setup),
            "weights": {name: asdict(one) for name, one in self.weights.items()},
            "summary": [one.to_json() for one in self.summaries()],
            "predicted_speedup": self.predicted,
            "curves": self.curves,
            "trials": [one.to_json() for one in self.trials],
        }


def read(path: Path) -> Run:
    """A report this module has written: the file, or the folder it is in. Raises RequestError."""
    file = path / "bench.json" if path.is_dir() else path
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ValueError("too large")
        data = json.loads(file.read_bytes())
        if data["kind"] != "bench" or data["schema"] != SCHEMA:
            raise ValueError("another kind or schema")
        return Run(
            Setup(**data["setup"]),
            data["baseline"],
            {name: Weights(**one) for name, one in data["weights"].items()},
            [Trial.from_json(one) for one in data["trials"]],
            data["complete"],
            data["predicted_speedup"],
            {
                name: {int(tokens): float(seconds) for tokens, seconds in curve.items()}
                for name, curve in data["curves"].items()
            },
        )
    except FileNotFoundError:
        raise RequestError(f"there is no file `{file}`", hint="`bench -o DIR` writes one") from None
    except OSError as error:
        raise RequestError(f"cannot read `{file}`: {error.strerror}", hint="check the path") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RequestError(
            f"`{file}` is no report of `specctl bench`", hint="give a folder written with `bench -o`"
        ) from None
