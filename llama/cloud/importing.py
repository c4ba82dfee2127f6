"""Import of a file of products into a catalogue, completely or not at all.

    python -m llama.cloud.importing --import_file products.jsonl --catalogue products.sqlite

The catalogue is replaced as a whole. A cloud that has the old file open keeps reading the old file.
"""

from __future__ import annotations

from llama import starting

if __name__ == "__main__":
    starting.begin()

import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from llama import placing
from llama.cloud.catalogue import TABLES, VERSION, WORD_COLUMNS, bits, connect, is_catalogue
from llama.cloud.products import FIELDS, LISTS, Product, opened, products_in
from llama.command import run
from llama.disk import lock, replace_with
from llama.errors import CatalogueError, UsageError
from llama.process_end import end_if_signalled


def import_products(source: str | Path, catalogue: str | Path) -> int:
    """Make or replace a catalogue from a file of products; return the number of products.

    A CSV file has a header row, and ``;`` separates the parts of a list. A JSON Lines file has one object per line.
    Both are UTF-8, with one product per line. Errors are printed line by line on stderr; with any error nothing is
    imported. The catalogue gets its name once it is complete and on the disk.

    Args:
        source: ends in ``.csv``, ``.jsonl`` or ``.ndjson``.
        catalogue: absent, empty, or a catalogue of any version.

    Raises:
        CatalogueError: a line has an error, a file cannot be read or written, or ``catalogue`` is another file.
    """
    source, target = Path(source), Path(os.path.realpath(catalogue))
    _check_target(target)
    try:
        with opened(source) as file, _only_import(target.parent):
            placing.check_replaceable(target)
            partial = target.with_name(placing.hidden_name(target.parent, target.name, ".partial"))
            partial.unlink(missing_ok=True)  # left by a killed import
            try:
                count = _write(partial, products_in(file, source))
                end_if_signalled()
                replace_with(partial, target)
            finally:
                partial.unlink(missing_ok=True)
    except OSError as err:
        raise CatalogueError(
            f"the catalogue {target} cannot be written: {err.strerror or err}; free some space, or "
            f"give --catalogue a path where you may write"
        ) from None
    except sqlite3.Error as err:
        raise CatalogueError(
            f"the catalogue {target} cannot be written: {err}; give --catalogue a path on a local disk with space"
        ) from None
    return count


def _check_target(target: Path) -> None:
    """Check that an existing file may be replaced, so that a mistyped path costs no other database."""
    if not target.exists() or (target.is_file() and target.stat().st_size == 0):
        return
    if target.is_file():
        try:
            with contextlib.closing(connect(target)) as db:
                if is_catalogue(db):
                    return
        except sqlite3.Error:
            pass
    raise CatalogueError(
        f"{target} exists and is not a catalogue; give --catalogue another path, or remove the file first"
    )


@contextlib.contextmanager
def _only_import(directory: Path) -> Iterator[None]:
    """Allow one import at a time in a directory. The lock ends with the process."""
    number = os.open(directory, os.O_RDONLY)
    try:
        lock(number)
        yield
    except BlockingIOError:
        raise CatalogueError(f"another import is writing to {directory}; wait until it has finished") from None
    finally:
        os.close(number)


def _write(path: Path, products: Iterator[Product]) -> int:
    """Write a new catalogue; return the number of products."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = OFF")  # on any error the file is deleted
        db.execute("PRAGMA synchronous = OFF")
        db.executescript(TABLES)
        db.execute("BEGIN")
        for number, product in enumerate(products, start=1):
            _insert(db, number, product)
        _merge(db)
        db.execute("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab('main', 'words', 'row')")
        db.execute("INSERT INTO terms SELECT term, doc FROM temp.vocabulary")
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
        return int(db.execute("SELECT count(*) FROM products").fetchone()[0])


def _insert(db: sqlite3.Connection, number: int, product: Product) -> None:
    row = {name: getattr(product, name) for name in FIELDS}
    row |= {name: ";".join(row[name]) for name in LISTS}
    db.execute(f"INSERT INTO products VALUES (?{', ?' * len(FIELDS)})", (number, *row.values()))
    db.execute(
        "INSERT INTO facts VALUES (?, ?, ?, ?, ?)",
        (number, product.vendor, product.price, bits(product.occasions), not product.cities),
    )
    cities = {city.casefold() for city in product.cities}
    db.executemany("INSERT INTO deliveries VALUES (?, ?)", ((city, number) for city in cities))
    columns = (*WORD_COLUMNS, "vendor")
    db.execute(
        f"INSERT INTO words (rowid, {', '.join(columns)}) VALUES (?{', ?' * len(columns)})",
        (number, *(row[name] for name in columns)),
    )


def _merge(db: sqlite3.Connection) -> None:
    """Merge the index into one segment, which reads fastest. Steps are short, so that Ctrl-C works in between."""
    pages = -500  # negative: start a merge of everything; positive: continue it
    while True:
        end_if_signalled()
        before = db.total_changes
        db.execute("INSERT INTO words (words, rank) VALUES ('merge', ?)", (pages,))
        if db.total_changes - before < 2:  # FTS5 signals that nothing was left to merge
            return
        pages = 500


def main(import_file: str, catalogue: str) -> None:
    """Make or replace a partner catalogue from a file of products.

    Args:
        import_file: Products, one per line. A .csv file has a header row. A .jsonl or .ndjson file has an object per
            line.
        catalogue: SQLite file. It is replaced as a whole, and only if every line is good.
    """
    if Path(os.path.realpath(import_file)) == Path(os.path.realpath(catalogue)):
        raise UsageError("--import_file and --catalogue are the same file; give --catalogue another path")
    began = time.monotonic()
    count = import_products(import_file, catalogue)
    products = "1 product" if count == 1 else f"{count} products"
    print(f"{catalogue}: {products}; {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)
