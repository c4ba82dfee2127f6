"""Conversion of runs and deliveries to rows of the run record, and back.

Knows: which fields SQLite stores in another type. Does not know: the tables' columns, when rows are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from llama import wire


def insert(table: str, columns: Sequence[str]) -> str:
    """Return the SQL statement that inserts a row with these columns."""
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def bytes_of(prompt_id: str, text: str, offers: tuple[wire.Offer, ...]) -> int:
    """Return the size of a row's texts, in bytes of UTF-8."""
    return sum(len(each.encode()) for each in (prompt_id, text, stored(offers)))


def stored(value: Any) -> Any:
    """Return a field as SQLite stores it: a tuple as JSON, other values unchanged."""
    return msgspec.json.encode(value).decode() if isinstance(value, tuple) else value


def loaded(columns: Sequence[str], row: Sequence[Any]) -> dict[str, Any]:
    """Return a row's fields by name, with their original types."""
    values = dict(zip(columns, row, strict=True))
    values["offers"] = msgspec.json.decode(values["offers"], type=tuple[wire.Offer, ...])
    if "withheld" in values:
        values["withheld"] = bool(values["withheld"])
    return values
