"""Published figures of a benchmark, as a JSON file in ``docs/figures``; ``charts`` draws them.

Knows nothing about: what is measured, how it is drawn.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated

import msgspec
from msgspec import Meta

from llama.errors import UsageError
from tests.benchmarks.reporting import hardware, versions

Positive = Annotated[float, Meta(gt=0)]


class Figure(msgspec.Struct, forbid_unknown_fields=True):
    """One figure over some rounds.

    Attributes:
        median: of all rounds.
        low: the least, or None where it was not kept.
        high: the most, or None where it was not kept.
    """

    median: Positive
    low: Positive | None = None
    high: Positive | None = None


class Figures(msgspec.Struct, forbid_unknown_fields=True):
    """All figures that one benchmark publishes.

    Attributes:
        setting: what was run: model, dtype, lengths.
        unit: of all figures.
        rounds: number of rounds behind each figure.
        machine: processor, cores and memory.
        versions: of Python and the packages that matter.
        date: day of the measurement, UTC, ISO 8601.
        figures: by name.
        note: a reservation, such as a machine that was not quiet; or empty.
    """

    setting: str
    unit: str
    rounds: Annotated[int, Meta(ge=1)]
    machine: str
    versions: str
    date: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\d$")]
    figures: dict[str, Figure]
    note: str = ""


def over_rounds(values: Sequence[float], digits: int = 1) -> Figure:
    """Return median, least and most of one value per round, rounded; of a single round the median alone."""
    if len(values) == 1:
        return Figure(round(values[0], digits))
    return Figure(*(round(of(values), digits) for of in (median, min, max)))


def measured(
    figures: dict[str, Figure], *, setting: str, unit: str, rounds: int, packages: Sequence[str], note: str = ""
) -> Figures:
    """Return figures that were measured on this machine, today."""
    today = time.strftime("%Y-%m-%d", time.gmtime())
    return Figures(
        setting, unit, rounds, hardware(), versions(packages).removeprefix("versions: "), today, figures, note
    )


def check_place(path: str | None) -> None:
    """Check before the work that :func:`save` finds a directory.

    Raises:
        UsageError: there is none.
    """
    if path is not None and not Path(path).parent.is_dir():
        raise UsageError(f"--save {path}: no directory {Path(path).parent}; make it first")


def save(figures: Figures, path: str | Path) -> None:
    """Write the file under a temporary name, which then becomes ``path``."""
    file = Path(path)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
    partial.replace(file)


def load(path: str | Path) -> Figures:
    """Read such a file.

    Raises:
        UsageError: it cannot be read, or has another format.
    """
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=Figures)
    except (OSError, msgspec.DecodeError) as err:
        raise UsageError(f"{path} holds no figures ({err}); make it again: make bench") from None
