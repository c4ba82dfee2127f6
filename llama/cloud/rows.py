"""How runs and deliveries become rows of the run record, and rows become what they were.

Knows: which fields SQLite keeps in another type. Does not know: the tables' columns, when rows are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from llama import wire


def insert(table: str, columns: Sequence[str]) -> str:
    """The statement that writes a row with these columns."""
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def bytes_of(prompt_id: str, text: str, offers: tuple[wire.Offer, ...]) -> int:
    """The size of a row's texts."""
    return sum(len(each.encode()) for each in (prompt_id, text, stored(offers)))


def stored(value: Any) -> Any:
    """A field as SQLite keeps it."""
    return msgspec.json.encode(value).decode() if isinstance(value, tuple) else value


def loaded(columns: Sequence[str], row: Sequence[Any]) -> dict[str, Any]:
    """A row's fields, with the types that they had."""
    values = dict(zip(columns, row, strict=True))
    values["offers"] = msgspec.json.decode(values["offers"], type=tuple[wire.Offer, ...])
    if "withheld" in values:
        values["withheld"] = bool(values["withheld"])
    return values
