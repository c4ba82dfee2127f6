"""Products of the partner catalogue, and the checks of each line of the files that partners send.

Knows: CSV and JSON Lines, the closed vocabulary of occasions. Prices are whole rupiah.
Does not know: the catalogue's tables, replies.
"""

from __future__ import annotations

import contextlib
import csv
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta
from rich.progress import Progress

from llama import screen
from llama.errors import CatalogueError
from llama.files import NotRegular, open_regular
from llama.process_end import end_if_signalled
from llama.text.decoding import encoding_problem, without_marks
from llama.text.names import MAX_PARTY_NAME, MAX_PRODUCT_ID, PARTY_NAME, PRODUCT_ID, name_rule
from llama.text.printable import (
    CONTROLS,
    DIRECTION_MARKS,
    LINE_ENDS,
    NOT_IN_LINKS,
    SURROGATES,
    TURNS,
    is_blank,
    one_line,
)

MAX_PRODUCTS = 1_000_000
MAX_LINE_BYTES = 64 << 10
MAX_BAD_LINES = 20  # lines whose errors are printed
MAX_PRICE = 10**12

Occasion = Literal[
    "birthday",
    "anniversary",
    "wedding",
    "graduation",
    "housewarming",
    "new-baby",
    "eid",
    "christmas",
    "lunar-new-year",
    "valentine",
    "mothers-day",
    "farewell",
    "corporate",
    "thank-you",
    "get-well",
    "travel",
]
OCCASIONS: tuple[Occasion, ...] = get_args(Occasion)

# No line breaks, terminal or text-direction controls, or lone surrogates. (\Z, because "$" allows a line break.)
_PRINTABLE = f"[^{CONTROLS}{LINE_ENDS}{DIRECTION_MARKS}{TURNS}{SURROGATES}]"
_Title = Annotated[str, Meta(max_length=200, pattern=rf"\A(?=.*\S){_PRINTABLE}+\Z")]
_OtherTitle = Annotated[str, Meta(max_length=200, pattern=rf"\A{_PRINTABLE}*\Z")]
_Description = Annotated[str, Meta(max_length=4000, pattern=rf"\A{_PRINTABLE}*\Z")]
_Tag = Annotated[str, Meta(max_length=60, pattern=rf"\A(?=.*\S)(?:(?!;){_PRINTABLE})+\Z")]


class Product(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A product. The attributes are the columns of a CSV file and the keys of a JSON line.

    Attributes:
        id: unique in the catalogue.
        vendor: name of the third party that sells it.
        title: the English title, or the only one.
        title_id: the Indonesian title, or empty.
        description: in English, or empty.
        description_id: in Indonesian, or empty.
        price: in whole rupiah.
        occasions: occasions it is a gift for; a closed vocabulary.
        tags: further search words.
        cities: cities of delivery; empty means everywhere.
        url: http(s) address, or empty.
    """

    id: Annotated[str, Meta(pattern=rf"\A{PRODUCT_ID}\Z")]
    vendor: Annotated[str, Meta(pattern=rf"\A{PARTY_NAME}\Z")]
    title: _Title
    title_id: _OtherTitle = ""
    description: _Description = ""
    description_id: _Description = ""
    price: Annotated[int, Meta(ge=0, le=MAX_PRICE)]
    occasions: Annotated[tuple[Occasion, ...], Meta(max_length=len(OCCASIONS))] = ()
    tags: Annotated[tuple[_Tag, ...], Meta(max_length=40)] = ()
    cities: Annotated[tuple[_Tag, ...], Meta(max_length=600)] = ()
    # As llama.wire.WebLink, and no lone surrogates.
    url: Annotated[str, Meta(max_length=2000, pattern=rf"\A(https?://[^{NOT_IN_LINKS}{SURROGATES}]+)?\Z")] = ""


FIELDS = Product.__struct_fields__
LISTS = ("occasions", "tags", "cities")
_REQUIRED = ("id", "vendor", "title", "price")
_TYPES = {name: hint for name, hint in get_type_hints(Product, include_extras=True).items() if name in FIELDS}
_RULES = {
    "id": f"give text of {name_rule(MAX_PRODUCT_ID)}",
    "vendor": f"give text of {name_rule(MAX_PARTY_NAME)}",
    "title": "give 1 to 200 characters on one line, without control characters",
    "title_id": "give at most 200 characters on one line, without control characters",
    "description": "give at most 4000 characters on one line, without control characters",
    "description_id": "give at most 4000 characters on one line, without control characters",
    "price": f"give whole rupiah from 0 to {MAX_PRICE}, digits only and in JSON without quotes, such as 250000",
    "occasions": 'give a list such as ["birthday", "eid"], in CSV birthday;eid, of ' + ", ".join(OCCASIONS),
    "tags": 'give a list such as ["tea", "teh"], in CSV tea;teh: at most 40 words of 1 to 60 characters, without '
    "control characters",
    "cities": "give a list of at most 600 cities, each of 1 to 60 characters, without ; and control characters",
    "url": "give an http or https address of at most 2000 characters without spaces, or leave it empty",
}


@contextlib.contextmanager
def opened(source: Path) -> Iterator[BinaryIO]:
    """Open a file of products.

    Raises:
        CatalogueError: the file has another format, or cannot be read.
    """
    if source.suffix.lower() not in (".csv", ".jsonl", ".ndjson"):
        raise CatalogueError(
            f"{source}: products are read from .csv, .jsonl or .ndjson; give --import_file one of these"
        )
    try:
        file = open_regular(source)
    except FileNotFoundError:
        raise CatalogueError(f"{source}: no such file; give --import_file a file of products") from None
    except (NotRegular, IsADirectoryError):
        raise CatalogueError(f"{source}: not a file; give --import_file a file of products") from None
    except OSError as err:
        raise CatalogueError(f"{source}: cannot be read: {err.strerror}; change its mode or owner") from None
    with file:
        if problem := encoding_problem(file.read(4)):
            raise CatalogueError(f"{source}: {problem}, and import it again")
        file.seek(0)
        yield file


def products_in(file: BinaryIO, source: Path) -> Iterator[Product]:
    """Yield the products of a file; check each line.

    Raises:
        CatalogueError: after the last line, if any line had an error. The errors are printed on stderr before.
    """
    is_csv = source.suffix.lower() == ".csv"
    header: list[str] | None = None
    first_line, bad, count = dict[str, int](), 0, 0
    for number, line in _lines_of(file, source):
        try:
            text = _text_of(line, first=number == 1)
            if not text.strip():
                continue
            if is_csv and header is None:
                header = _header_of(text)
                continue
            table = _cells_of(text, header) if header is not None else _object_of(text)
            product = _checked(table)
            if product.id in first_line:
                raise _BadLine([f"id: line {first_line[product.id]} has the same id; give each product another id"])
        except _BadLine as err:
            bad += 1
            for problem in err.problems:
                _say(f"{source}, line {number}: {problem}")
            if bad == MAX_BAD_LINES or (is_csv and header is None):
                break
            continue
        count += 1
        if count > MAX_PRODUCTS:
            raise CatalogueError(f"{source}, line {number}: more than {MAX_PRODUCTS} products; import fewer")
        first_line[product.id] = number
        if not bad:  # after an error, lines are only checked
            yield product
    if bad:
        so_far = ", where reading stopped" if bad == MAX_BAD_LINES else ""
        lines = "1 line has errors" if bad == 1 else f"{bad} lines have errors{so_far}"
        raise CatalogueError(f"{source}: {lines} (see above), and nothing was imported; fix them and import again")
    if not count:
        raise CatalogueError(f"{source} has no products; nothing was imported")


class _BadLine(Exception):
    """Errors of a line: one sentence each, with the field and what to do."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems


def _lines_of(file: BinaryIO, source: Path) -> Iterator[tuple[int, bytes]]:
    """Yield numbered lines. If it takes longer than a second, show progress on a terminal."""
    console = screen.console(sys.stderr)
    total, began = os.fstat(file.fileno()).st_size, time.monotonic()
    with Progress(console=console, disable=not screen.has_bars(console), transient=True) as bar:
        task = None
        number = done = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number, done = number + 1, done + len(line)
            yield number, line
            if len(line) > MAX_LINE_BYTES:  # reported as a bad line; skip its rest
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
                    done += len(line)
            if number % 500 == 0:
                end_if_signalled()
                if task is None and time.monotonic() - began > 1:
                    task = bar.add_task(source.name, total=total)
                if task is not None:
                    bar.update(task, completed=done)


def _text_of(line: bytes, *, first: bool) -> str:
    if len(line) > MAX_LINE_BYTES:
        raise _BadLine([f"longer than {MAX_LINE_BYTES >> 10} KiB; shorten its texts"])
    try:
        text = line.decode("utf-8-sig" if first else "utf-8").rstrip("\r\n")
        if "\0" in text:
            raise _BadLine(["holds NUL bytes, so the file is UTF-16 or binary; save it as UTF-8"])
        if first and "\r" in text:
            raise _BadLine(["a carriage return within the line; save the file with LF or CRLF line ends"])
        return without_marks(text) if first else text
    except UnicodeDecodeError as err:
        raise _BadLine([f"not UTF-8 (byte {err.start + 1} of the line); save the file as UTF-8"]) from None


def _object_of(text: str) -> dict[str, Any]:
    """Parse a line of JSON."""
    try:
        table = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as err:
        place = re.search(r"byte \d+", str(err))
        raise _BadLine(
            [f"not JSON{f' ({place[0]} of the line)' if place else ''}; write one object per line"]
        ) from None
    if not isinstance(table, dict):
        raise _BadLine(['not an object; write {"id": …, "vendor": …, "title": …, "price": …}'])
    return {key: _stripped(value) for key, value in table.items()}


def _stripped(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip(" ")
    if isinstance(value, list):  # other items fail the check later
        return [one.strip(" ") if isinstance(one, str) else one for one in value]
    return value


def _cells(text: str) -> list[str]:
    """Split a line of CSV into cells."""
    try:
        (row,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError):
        raise _BadLine(
            [
                "not CSV; put a cell with a comma or a quotation mark in quotation marks, double the marks in "
                "it, and keep each product on one line"
            ]
        ) from None
    return [cell.strip(" ") for cell in row]


def _header_of(text: str) -> list[str]:
    header = _cells(text)
    problems = [_unknown(name) for name in header if name not in FIELDS]
    if len(header) == 1 and ";" in header[0]:
        problems = ["cells are separated by semicolons; save the file with commas"]
        raise _BadLine(problems)
    problems += [f"{name}: the column appears twice; keep one" for name in FIELDS if header.count(name) > 1]
    problems += [f"{name}: the column is missing; add it" for name in _REQUIRED if name not in header]
    if problems:
        raise _BadLine(problems)
    return header


def _cells_of(text: str, header: list[str]) -> dict[str, Any]:
    """Parse a line of CSV, with lists and the price as in JSON."""
    cells = _cells(text)
    if len(cells) != len(header):
        raise _BadLine([f"{len(cells)} cells, but the header has {len(header)}; quote cells that have a comma"])
    table: dict[str, Any] = dict(zip(header, cells, strict=True))
    for name in LISTS:
        if name in table:
            table[name] = [part.strip(" ") for part in table[name].split(";") if part.strip(" ")]
    if re.fullmatch(r"[0-9]{1,15}", table["price"]):
        table["price"] = int(table["price"])
    return table


def _checked(table: dict[str, Any]) -> Product:
    """Return a line's product.

    Raises:
        _BadLine: with one sentence for each wrong field.
    """
    for name in ("title", "title_id"):
        if isinstance(title := table.get(name), str) and is_blank(title):
            table = table | {name: ""}
    try:
        product = msgspec.convert(table, Product)
    except msgspec.ValidationError:
        problems = [_unknown(name) for name in table if name not in FIELDS]
        problems += [f"{name}: missing; {_RULES[name]}" for name in _REQUIRED if name not in table]
        problems += [f"{name}: {_RULES[name]}" for name in FIELDS if name in table and not _is_good(name, table[name])]
        raise _BadLine(problems) from None
    return msgspec.structs.replace(product, **{name: tuple(dict.fromkeys(getattr(product, name))) for name in LISTS})


def _is_good(name: str, value: Any) -> bool:
    try:
        msgspec.convert(value, _TYPES[name])
    except msgspec.ValidationError:
        return False
    return True


def _unknown(name: str) -> str:
    return f"{name[:60] or 'a column without a name'}: unknown; the fields are {', '.join(FIELDS)}"


def _say(text: str) -> None:
    """Print a line on stderr, without control characters from the file."""
    print(one_line(text), file=sys.stderr, flush=True)
