"""Everything specctl refuses or fails at, with its exit code.

    SpecctlError              70  a bug in specctl, if nothing more precise is raised
      RequestError             2  the request is wrong: option, argument, file content
        ProfileError           2  a profile cannot be used
        PairError              2  target and draft cannot work together
        ModelFileError         2  a model's files are broken, hostile or of a kind specctl refuses
      MissingError             3  something needed is not there and cannot be fetched
      MachineError             4  this machine cannot do it: disk, memory, device, dtype

Messages start in lower case, are one sentence without a final stop, and name the thing in backticks.
`hint` says what to do next. `cli/main.py` is the one place that catches them.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command; `docs/exit-codes.md` explains them to users."""

    OK = 0
    NO = 1
    REQUEST = 2
    MISSING = 3
    MACHINE = 4
    BUG = 70
    INTERRUPTED = 130


class SpecctlError(Exception):
    exit_code: ExitCode = ExitCode.BUG

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class RequestError(SpecctlError):
    exit_code = ExitCode.REQUEST


class ProfileError(RequestError):
    pass


class PairError(RequestError):
    pass


class ModelFileError(RequestError):
    pass


class MissingError(SpecctlError):
    exit_code = ExitCode.MISSING


class MachineError(SpecctlError):
    exit_code = ExitCode.MACHINE


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    named = type(error).__name__ == "OutOfMemoryError"  # torch's own class, without importing torch
    return isinstance(error, MemoryError) or named or "out of memory" in text or "allocate memory" in text
