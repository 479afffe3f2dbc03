"""Every error a user can meet: the rule, what came, what to write instead."""

from __future__ import annotations


class CellwrightError(ValueError):
    """The base of all errors here; its message is one line with three parts.

    >>> print(CellwrightError("a batch holds at least one row", "batch_size=0", "write 1 or more"))
    a batch holds at least one row; got batch_size=0; write 1 or more
    """

    def __init__(self, rule: str, came: str, write: str) -> None:
        self.rule, self.came, self.write = rule, came, write
        super().__init__(f"{rule}; got {came}; {write}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.rule, self.came, self.write)


class CellError(CellwrightError):
    """A cell breaks the contract of `Cell`: sizes, names of states, returned values."""


class ShapeError(CellwrightError):
    """A tensor has another shape or type than the layer reads."""


class BackendError(CellwrightError):
    """A backend was asked for by name and cannot run this cell."""


class SettingError(CellwrightError):
    """A setting, flag, preset or preset file holds a value that makes no sense."""


class TextError(CellwrightError):
    """A text cannot be read, or is not what training or sampling needs."""


class RunError(CellwrightError):
    """A run directory or checkpoint is missing, damaged, in the way, or cannot be written."""


class DivergedError(CellwrightError):
    """Training met a loss or gradient that is not a finite number."""


class MissingPackageError(CellwrightError):
    """A feature needs an optional package that is not installed."""


class ExportError(CellwrightError):
    """A model cannot be exported, or the exported file does not compute what the model does."""
