"""The partner catalogue: products in one SQLite file with a full-text index, made by an import and then only read.

    python -m llama.cloud.catalogue --import_file products.jsonl --catalogue products.sqlite

Knows: what a product is, how files of products are checked, the tables and their version, which products have which
words. FTS5 decides what a word is (``porter unicode61``: "teas" is "tea", "café" is "cafe").
Does not know: replies, budgets of people, sheets; which words are worth searching.

Prices are whole rupiah. A file is replaced as a whole: who has the old one open goes on reading the old one.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import math
import os
import re
import sqlite3
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta
from rich.console import Console
from rich.progress import Progress

from llama.command import end_if_signalled, run
from llama.errors import CatalogueError, UsageError

VERSION = 1  # of the tables: the file's user_version
MAX_PRODUCTS = 1_000_000
MAX_LINE_BYTES = 64 << 10
MAX_BAD_LINES = 20  # that are told
MAX_PRICE = 10**12

# --- What a product is -----------------------------------------------------------------------------------------------

Occasion = Literal[
    "birthday", "anniversary", "wedding", "graduation", "housewarming", "new-baby", "eid", "christmas",
    "lunar-new-year", "valentine", "mothers-day", "farewell", "corporate", "thank-you", "get-well", "travel",
]  # fmt: skip
OCCASIONS: tuple[Occasion, ...] = get_args(Occasion)

# No line breaks, no terminal or text-direction controls, no halves of surrogate pairs. (\Z: "$" allows a line break.)
_PRINTABLE = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
_Title = Annotated[str, Meta(max_length=200, pattern=rf"\A(?=.*\S){_PRINTABLE}+\Z")]
_OtherTitle = Annotated[str, Meta(max_length=200, pattern=rf"\A{_PRINTABLE}*\Z")]
_Description = Annotated[str, Meta(max_length=4000, pattern=rf"\A{_PRINTABLE}*\Z")]
_Tag = Annotated[str, Meta(max_length=60, pattern=rf"\A(?=.*\S)(?:(?!;){_PRINTABLE})+\Z")]


class Product(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A product; the columns of a CSV file and the keys of a line of JSON.

    Attributes:
        id: unique in the catalogue.
        vendor: whose it is.
        title: English, or the only one.
        title_id: Indonesian, or empty.
        description: English, or empty.
        description_id: Indonesian, or empty.
        price: whole rupiah.
        occasions: that it is a gift for; of a closed vocabulary.
        tags: further words that it should be found by.
        cities: where it is delivered; empty is everywhere.
        url: http(s), or empty.
    """

    id: Annotated[str, Meta(pattern=r"\A[a-z0-9-]{1,60}\Z")]
    vendor: Annotated[str, Meta(pattern=r"\A[a-z0-9-]{1,40}\Z")]
    title: _Title
    title_id: _OtherTitle = ""
    description: _Description = ""
    description_id: _Description = ""
    price: Annotated[int, Meta(ge=0, le=MAX_PRICE)]
    occasions: Annotated[tuple[Occasion, ...], Meta(max_length=len(OCCASIONS))] = ()
    tags: Annotated[tuple[_Tag, ...], Meta(max_length=40)] = ()
    cities: Annotated[tuple[_Tag, ...], Meta(max_length=600)] = ()
    # As llama.wire.WebLink, which would let a line break pass at the end.
    url: Annotated[str, Meta(max_length=2000, pattern=r"\A(https?://[^\x00-\x20\x7f-\xa0\"<>\\^`{|}\ud800-\udfff]+)?\Z")] = ""  # fmt: skip  # noqa: E501


FIELDS = Product.__struct_fields__
_LISTS = ("occasions", "tags", "cities")
_REQUIRED = ("id", "vendor", "title", "price")
_TYPES = {name: hint for name, hint in get_type_hints(Product, include_extras=True).items() if name in FIELDS}
_RULES = {
    "id": "give 1 to 60 of a-z, 0-9 and -",
    "vendor": "give 1 to 40 of a-z, 0-9 and -",
    "title": "give 1 to 200 characters on one line, without control characters",
    "title_id": "give at most 200 characters on one line, without control characters",
    "description": "give at most 4000 characters on one line, without control characters",
    "description_id": "give at most 4000 characters on one line, without control characters",
    "price": f"give whole rupiah from 0 to {MAX_PRICE}, digits only, such as 250000",
    "occasions": "give a list of " + ", ".join(OCCASIONS),
    "tags": "give a list of at most 40 words, each of 1 to 60 characters, without ; and control characters",
    "cities": "give a list of at most 600 cities, each of 1 to 60 characters, without ; and control characters",
    "url": "give an http or https address of at most 2000 characters without spaces, or leave it empty",
}

# --- Reading the catalogue -------------------------------------------------------------------------------------------

_TOKENIZER = "porter unicode61 remove_diacritics 2"
_WORD_COLUMNS = ("title", "title_id", "tags", "description", "description_id")
_STRONG_COLUMNS = 3  # the first three say what a product is, the others tell about it
# products: the text. facts: what is compared for each of hundreds of candidates, narrow to be quick. terms: in how many
# products each word of the index is, which FTS5 itself would have to count.
_TABLES = f"""
CREATE TABLE versions (version INTEGER NOT NULL, applied_at TEXT NOT NULL);
CREATE TABLE products (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, vendor TEXT NOT NULL, title TEXT NOT NULL,
    title_id TEXT NOT NULL, description TEXT NOT NULL, description_id TEXT NOT NULL, price INTEGER NOT NULL,
    occasions TEXT NOT NULL, tags TEXT NOT NULL, cities TEXT NOT NULL, url TEXT NOT NULL
);
CREATE TABLE facts (
    number INTEGER PRIMARY KEY, vendor TEXT NOT NULL, price INTEGER NOT NULL, occasions INTEGER NOT NULL,
    everywhere INTEGER NOT NULL
);
CREATE TABLE deliveries (city TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (city, number)) WITHOUT ROWID;
CREATE TABLE terms (term TEXT PRIMARY KEY NOT NULL, products INTEGER NOT NULL) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5(
    {", ".join(_WORD_COLUMNS)}, vendor, content='products', content_rowid='number', tokenize='{_TOKENIZER}'
);
"""

CANDIDATES = 20  # products that a search gives at most
_ROWS = 2_000  # of one question that are ranked; with more, those that were imported first are
_ENOUGH = 12  # products within the budget: then easier questions are not asked
_MAX_ASKED = 12  # words of one search
_MAIN = 4  # words that are asked for in all combinations
_KNOWN_TERMS = 50_000  # words whose terms are remembered
_IDF_MOST = 6.0  # above, a rarer word says no more: each is as good a name of a product
_IDF_UNKNOWN = 5.0  # the most of a word that no product has
_MARK, _END = "\x01", "\x02"  # around words that match; no product has them
_MARKED = re.compile(f"{_MARK}([^{_END}]*){_END}")

# The best of those that match: within the budget first, then by FTS5's rank (negative, the less the better), in which
# a title counts four times as much as a description.
_SELECT = f"""
SELECT found.number, facts.price <= :most
FROM (
    SELECT rowid AS number, bm25(words, 4, 4, 3, 1, 1, 0) AS rank FROM words WHERE words MATCH :match LIMIT {_ROWS}
) AS found CROSS JOIN facts ON facts.number = found.number
WHERE :vendor IS NULL OR facts.vendor = :vendor
ORDER BY facts.price <= :most DESC, found.rank * (
    1 + 0.3 * (facts.price >= :least) + 0.5 * (facts.occasions & :occasions <> 0)
    + 0.5 * (:city <> '' AND (facts.everywhere OR EXISTS (
        SELECT 1 FROM deliveries WHERE city = :city AND number = found.number)))
), found.number
LIMIT {CANDIDATES}
"""
_HIGHLIGHT = f"""
SELECT {", ".join(f"products.{name}" for name in FIELDS)},
    {", ".join(f"highlight(words, {i}, '{_MARK}', '{_END}')" for i in range(len(_WORD_COLUMNS)))}
FROM words CROSS JOIN products ON products.number = words.rowid
WHERE words MATCH ? AND words.rowid = ?
"""


@dataclass(frozen=True)
class Preference:
    """What is better among products that have the words.

    Attributes:
        least: from which price on.
        most: up to which price, or None.
        occasions: any of them.
        city: where it can be delivered, in any case; or empty.
    """

    least: int = 0
    most: int | None = None
    occasions: frozenset[Occasion] = frozenset()
    city: str = ""


@dataclass(frozen=True)
class Found:
    """A product that has some of the words.

    Attributes:
        product: all of it.
        relevance: 0 … 1, how much of what the words say the product has; what only its description has counts half.
        named: those of the words that its title or tags have.
        words: its own words that match, as FTS5 marks them; title first, each once.
        delivered: whether it can be delivered to the city asked for; True without one.
    """

    product: Product
    relevance: float
    named: frozenset[str]
    words: tuple[str, ...]
    delivered: bool


@dataclass(frozen=True)
class _Asked:
    """A word that is searched.

    Attributes:
        word: as it was given.
        spelled: the ways to write it that products have.
        terms: what each of these is in the index; one term but where FTS5 does not know a letter.
        products: how many have it.
        weight: as it was given.
        mass: the weight times how much the word tells apart.
    """

    word: str
    spelled: tuple[str, ...]
    terms: tuple[frozenset[str], ...]
    products: int
    weight: float
    mass: float

    @property
    def quoted(self) -> str:
        quoted = " OR ".join(f'"{one}"' for one in self.spelled)
        return quoted if len(self.spelled) == 1 else f"({quoted})"

    def is_in(self, terms: frozenset[str] | set[str]) -> bool:
        return any(its <= terms for its in self.terms)


class Catalogue:
    """A catalogue that is open for reading.

    Any thread may use it, one at a time. The import may replace the file meanwhile: this goes on reading the old one.

    Args:
        path: the file that the import made.

    Raises:
        CatalogueError: no file, not a catalogue of this version, or it cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path = Path(path).absolute()
        _check_is_file(path)
        try:
            self._db = _connect(path)
            try:
                _check_version(self._db, path)
                self._prepare()
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as err:
            raise CatalogueError(f"the catalogue {path} cannot be read: {err}; make it again with "
                                 f"python -m llama.cloud.catalogue") from None  # fmt: skip

    def _prepare(self) -> None:
        # Not mapped into memory: who overwrote the file in place would end this process.
        self._db.execute("PRAGMA cache_size = -65536")  # KiB; grows only as it is needed
        # A little index of its own, in memory, that only tells the terms of words: FTS5 has no function for it.
        self._db.execute("PRAGMA temp_store = MEMORY")
        self._db.execute(f"CREATE VIRTUAL TABLE temp.asked USING fts5(word, tokenize='{_TOKENIZER}')")
        self._db.execute("CREATE VIRTUAL TABLE temp.asked_terms USING fts5vocab('temp', 'asked', 'instance')")
        self._terms: dict[str, frozenset[str]] = {}
        (self.size,) = self._db.execute("SELECT count(*) FROM facts").fetchone()
        self.cities = frozenset(city for (city,) in self._db.execute("SELECT DISTINCT city FROM deliveries"))

    def close(self) -> None:
        """Give the file back."""
        self._db.close()

    def search(
        self,
        words: Mapping[str, float],
        *,
        spellings: Mapping[str, Collection[str]] | None = None,
        unknown: float = 1.0,
        vendor: str | None = None,
        preference: Preference | None = None,
    ) -> list[Found]:
        """Products that have some of the words, the best first, at most :data:`CANDIDATES`.

        Args:
            words: what each says about a product: 1, or less for a word that many kinds of products share. Of
                letters and digits, others are left out; the rarest :data:`_MAX_ASKED` that products have are searched.
            spellings: of some words, other words that are as good.
            unknown: how much a word that no product has takes from the relevance of those that have the others.
            vendor: only products of exactly this vendor.
            preference: decides among products that have the same words; and those above its price come last.

        Raises:
            CatalogueError: the file cannot be read.
        """
        preference = preference or Preference()
        try:
            asked = self._asked(words, spellings or {})
            known = sorted((a for a in asked if a.products), key=lambda a: (a.products, a.word))[:_MAX_ASKED]
            if not known:
                return []
            whole = sum(a.mass for a in known) + unknown * sum(a.mass for a in asked if not a.products)
            numbers = self._candidates(known, vendor, preference)
            found = [self._found(number, known, whole, vendor, preference.city) for number in numbers]
        except sqlite3.Error as err:
            raise CatalogueError(f"the catalogue {self._path} cannot be read: {err}; make it again with "
                                 f"python -m llama.cloud.catalogue") from None  # fmt: skip
        return sorted(filter(None, found), key=lambda f: -f.relevance)

    def _asked(self, words: Mapping[str, float], spellings: Mapping[str, Collection[str]]) -> list[_Asked]:
        # Of letters and digits only: no quotes, no NUL, no halves of surrogate pairs.
        spelled = {
            word: [one for one in (word, *spellings.get(word, ())) if one.isalnum()] for word in words if word.isalnum()
        }
        self._learn_terms({one for every in spelled.values() for one in every})
        asked, unknown_telling = [], min(math.log(1 + self.size), _IDF_UNKNOWN)
        for word, every in spelled.items():
            products = {one: self._products_with(self._terms[one]) for one in every if self._terms[one]}
            if products:
                there = tuple(one for one, count in products.items() if count) or (word,)
                count = sum(products.values())
                telling = min(math.log(1 + self.size / count), _IDF_MOST) if count else unknown_telling
                terms = tuple(self._terms[one] for one in there)
                asked.append(_Asked(word, there, terms, count, words[word], words[word] * telling))
        return asked

    def _products_with(self, terms: Collection[str]) -> int:
        """How many products have all of ``terms``, at most."""
        counts = [self._db.execute("SELECT products FROM terms WHERE term = ?", (term,)).fetchone() for term in terms]
        return min((0 if row is None else int(row[0]) for row in counts), default=0)

    def _learn_terms(self, words: Collection[str]) -> None:
        """See to it that the terms of all ``words`` are known."""
        if len(self._terms) > _KNOWN_TERMS:
            self._terms.clear()
        new = [word for word in words if word not in self._terms]
        if not new:
            return
        terms: dict[str, set[str]] = {word: set() for word in new}
        self._db.execute("DELETE FROM temp.asked")
        self._db.executemany("INSERT INTO temp.asked (rowid, word) VALUES (?, ?)", enumerate(new))
        for term, number in self._db.execute("SELECT term, doc FROM temp.asked_terms"):
            terms[new[number]].add(term)
        self._db.commit()
        self._terms |= {word: frozenset(its) for word, its in terms.items()}

    def _candidates(self, known: Sequence[_Asked], vendor: str | None, preference: Preference) -> list[int]:
        """Numbers of products: within the budget first, then those with more of the words."""
        values = {
            "vendor": vendor,
            "most": MAX_PRICE if preference.most is None else preference.most,
            "least": preference.least,
            "occasions": _bits(preference.occasions),
            "city": preference.city.casefold(),
        }
        numbers = dict[int, bool]()  # and whether each is within the budget
        for question in _questions(known):
            for number, affordable in self._db.execute(_SELECT, values | {"match": _match(question, vendor)}):
                numbers.setdefault(number, bool(affordable))
            if sum(numbers.values()) >= _ENOUGH:
                break
        return sorted(numbers, key=lambda number: not numbers[number])[:CANDIDATES]

    def _found(self, number: int, known: Sequence[_Asked], whole: float, vendor: str | None, city: str) -> Found | None:
        any_of_them = " OR ".join(a.quoted for a in known)
        row = self._db.execute(_HIGHLIGHT, (_match(any_of_them, vendor), number)).fetchone()
        if row is None:
            return None
        values, marked = row[: len(FIELDS)], row[len(FIELDS) :]
        matched = [[word for run in _MARKED.findall(text) for word in run.split()] for text in marked]
        strong = [word for words in matched[:_STRONG_COLUMNS] for word in words]
        weak = [word for words in matched[_STRONG_COLUMNS:] for word in words]
        self._learn_terms([*strong, *weak])
        in_strong = {term for word in strong for term in self._terms[word]}
        in_any = in_strong | {term for word in weak for term in self._terms[word]}
        named = [a for a in known if a.is_in(in_strong)]
        told = [a for a in known if a.is_in(in_any) and not a.is_in(in_strong)]
        relevance = (sum(a.mass for a in named) + sum(a.mass for a in told) / 2) / whole if whole else 0.0
        product = _product_of(values)
        delivered = not city or not product.cities or city.casefold() in map(str.casefold, product.cities)
        words = {word.casefold(): word for word in reversed([*strong, *weak])}  # the first spelling of each
        return Found(
            product, min(relevance, 1.0), frozenset(a.word for a in named), tuple(reversed(words.values())), delivered,
        )  # fmt: skip


def _questions(known: Sequence[_Asked]) -> Iterator[str]:
    """FTS5 queries for words, rarest first, from the one that asks for most to those that ask for least.

    All words; then all that are ordinary with any other; then ever fewer of the ordinary ones. A conjunction costs FTS5
    about as much as its rarest word.
    """
    heaviest = max(a.weight for a in known)
    main = [a for a in known if a.weight == heaviest][:_MAIN]
    light = [a for a in known if a.weight < heaviest]
    yield " AND ".join(a.quoted for a in known)
    all_main = " AND ".join(a.quoted for a in main)
    if len(light) > 1:
        yield f"{all_main} AND ({' OR '.join(a.quoted for a in light)})"
    for count in range(len(main) - (len(main) == len(known)), 0, -1):  # all of them were asked for first
        yield " OR ".join(f"({' AND '.join(a.quoted for a in some)})" for some in combinations(main, count))


def _match(question: str, vendor: str | None) -> str:
    match = f"{{{' '.join(_WORD_COLUMNS)}}} : ({question})"
    return match if vendor is None else f'({match}) AND vendor : "{vendor}"'


def _bits(occasions: Collection[str]) -> int:
    return sum(1 << i for i, name in enumerate(OCCASIONS) if name in occasions)


def _product_of(values: Sequence[Any]) -> Product:
    row = dict(zip(FIELDS, values, strict=True))
    for name in _LISTS:
        row[name] = tuple(row[name].split(";")) if row[name] else ()
    return Product(**row)


def _check_is_file(path: Path) -> None:
    if not path.exists():
        raise CatalogueError(f"the catalogue {path} is not there; make it with python -m llama.cloud.catalogue")
    if not path.is_file():
        raise CatalogueError(f"the catalogue {path} is not a file; give the path of one")
    if not os.access(path, os.R_OK):
        raise CatalogueError(f"the catalogue {path} cannot be read by this user; change its mode or owner")


def _connect(path: Path) -> sqlite3.Connection:
    """The file, opened for reading only."""
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, check_same_thread=False)


def _check_version(db: sqlite3.Connection, path: Path) -> None:
    """That the file is a catalogue of this version.

    Raises:
        CatalogueError: it is not.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    if not {"versions", "products", "words"} <= tables:
        raise CatalogueError(f"the catalogue {path} is a database of another program; give the path of a catalogue")
    applied = [row[0] for row in db.execute("SELECT version FROM versions ORDER BY version")]
    if version != VERSION or not applied or applied[-1] != VERSION:
        raise CatalogueError(f"the catalogue {path} is of version {version}, and this release reads version {VERSION}; "
                             f"import it again with python -m llama.cloud.catalogue")  # fmt: skip


# --- The import ------------------------------------------------------------------------------------------------------


def import_products(source: str | Path, catalogue: str | Path) -> int:
    """Make or replace a catalogue from a file of products; return how many there are.

    A CSV file has a header row and lists separated by ``;``; a JSON Lines file has an object per line. Both are UTF-8,
    a product per line. What is wrong is told line by line on stderr, and then nothing is imported. The catalogue gets
    its name once it is whole and on the disk.

    Args:
        source: ends in ``.csv``, ``.jsonl`` or ``.ndjson``.
        catalogue: absent, empty, or a catalogue of any version.

    Raises:
        CatalogueError: a line is not good, a file cannot be read or written, or ``catalogue`` is something else.
    """
    source, target = Path(source), Path(os.path.realpath(catalogue))
    _check_target(target)
    try:
        with _opened(source) as file, _only_import(target.parent):
            partial = target.with_name(f".{target.name}.partial")
            partial.unlink(missing_ok=True)  # of an import that was killed
            try:
                count = _write(partial, _products_in(file, source))
                _settle(partial)
                end_if_signalled()
                partial.replace(target)
                _sync(target.parent)
            finally:
                partial.unlink(missing_ok=True)
    except OSError as err:
        raise CatalogueError(f"the catalogue {target} cannot be written: {err.strerror or err}; free some room, or "
                             f"give --catalogue a path where this user may write") from None  # fmt: skip
    except sqlite3.Error as err:
        raise CatalogueError(f"the catalogue {target} cannot be written: {err}; give --catalogue a path on a local "
                             f"disk with room") from None  # fmt: skip
    return count


def _check_target(target: Path) -> None:
    """That a file which is there may be replaced: whoever mistypes a path must not lose another database."""
    if not target.exists() or (target.is_file() and target.stat().st_size == 0):
        return
    if target.is_file():
        try:
            with contextlib.closing(_connect(target)) as db:
                tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
            if {"versions", "products"} <= tables:
                return
        except sqlite3.Error:
            pass
    raise CatalogueError(f"{target} is there and is no catalogue; give --catalogue another path, or remove it first")


@contextlib.contextmanager
def _only_import(directory: Path) -> Iterator[None]:
    """One import at a time in a directory; the lock goes with the process, however that ends."""
    number = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise CatalogueError(f"another import is writing to {directory}; wait until it is done") from None
    finally:
        os.close(number)


def _settle(path: Path) -> None:
    """Have the file on the disk before it gets its name."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    number = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _write(path: Path, products: Iterator[Product]) -> int:
    """A new catalogue of ``products``; how many there were."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = OFF")  # the file is thrown away if anything goes wrong
        db.execute("PRAGMA synchronous = OFF")
        db.executescript(_TABLES)
        db.execute("BEGIN")
        for number, product in enumerate(products, start=1):
            _insert(db, number, product)
        _merge(db)
        db.execute("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab('main', 'words', 'row')")
        db.execute("INSERT INTO terms SELECT term, doc FROM temp.vocabulary")
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("INSERT INTO versions VALUES (?, ?)", (VERSION, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")))
        db.execute("COMMIT")
        return int(db.execute("SELECT count(*) FROM products").fetchone()[0])


def _insert(db: sqlite3.Connection, number: int, product: Product) -> None:
    row = {name: getattr(product, name) for name in FIELDS}
    row |= {name: ";".join(row[name]) for name in _LISTS}
    db.execute(f"INSERT INTO products VALUES (?{', ?' * len(FIELDS)})", (number, *row.values()))
    db.execute(
        "INSERT INTO facts VALUES (?, ?, ?, ?, ?)",
        (number, product.vendor, product.price, _bits(product.occasions), not product.cities),
    )
    cities = {city.casefold() for city in product.cities}
    db.executemany("INSERT INTO deliveries VALUES (?, ?)", ((city, number) for city in cities))
    columns = (*_WORD_COLUMNS, "vendor")
    db.execute(
        f"INSERT INTO words (rowid, {', '.join(columns)}) VALUES (?{', ?' * len(columns)})",
        (number, *(row[name] for name in columns)),
    )


def _merge(db: sqlite3.Connection) -> None:
    """Make the index one piece, which is read fastest; step by step, so that Ctrl-C need not wait for all of it."""
    pages = -500  # negative: begin to merge everything; then go on
    while True:
        end_if_signalled()
        before = db.total_changes
        db.execute("INSERT INTO words (words, rank) VALUES ('merge', ?)", (pages,))
        if db.total_changes - before < 2:  # FTS5's sign that there was nothing to do
            return
        pages = 500


# --- The file of products --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[BinaryIO]:
    """The file of products.

    Raises:
        CatalogueError: of another kind, or it cannot be read.
    """
    if source.suffix.lower() not in (".csv", ".jsonl", ".ndjson"):
        raise CatalogueError(
            f"{source}: products are read from .csv, .jsonl or .ndjson; give --import_file one of these"
        )
    if not source.is_file():  # a pipe would be waited for
        what = "not a file" if source.exists() else "no such file"
        raise CatalogueError(f"{source}: {what}; give --import_file a file of products")
    try:
        file = source.open("rb")
    except OSError as err:
        raise CatalogueError(f"{source}: cannot be read: {err.strerror}; change its mode or owner") from None
    with file:
        yield file


def _products_in(file: BinaryIO, source: Path) -> Iterator[Product]:
    """The products of a file, each line checked.

    Raises:
        CatalogueError: at the end, if a line was not good; which ones is on stderr then.
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
                raise _BadLine([f"id: line {first_line[product.id]} has the same; give each product its own"])
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
        if not bad:  # else it is only checked
            yield product
    if bad:
        so_far = ", where reading stopped" if bad == MAX_BAD_LINES else ""
        lines = "1 line is not good" if bad == 1 else f"{bad} lines are not good{so_far}"
        raise CatalogueError(f"{source}: {lines} (told above); nothing was imported; mend them and import again")
    if not count:
        raise CatalogueError(f"{source}: no products in it; nothing was imported")


class _BadLine(Exception):
    """What is wrong with a line: the field and what to do, one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems


def _lines_of(file: BinaryIO, source: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines, with progress on a terminal for those that take long."""
    console = Console(stderr=True)
    total, began = os.fstat(file.fileno()).st_size, time.monotonic()
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = None
        number = done = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number, done = number + 1, done + len(line)
            yield number, line
            if len(line) > MAX_LINE_BYTES:  # told as a bad line; its rest is no line of its own
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
        return line.decode("utf-8-sig" if first else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as err:
        raise _BadLine([f"not UTF-8 (byte {err.start + 1} of the line); save the file as UTF-8"]) from None


def _object_of(text: str) -> dict[str, Any]:
    """A line of JSON."""
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
    return [_stripped(one) for one in value] if isinstance(value, list) else value


def _cells(text: str) -> list[str]:
    """The cells of a line of CSV."""
    try:
        (row,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError):
        raise _BadLine(["not CSV; a cell with a comma or a quotation mark stands in quotation marks, marks in it are "
                        "doubled, and a product is on one line"]) from None  # fmt: skip
    return [cell.strip(" ") for cell in row]


def _header_of(text: str) -> list[str]:
    header = _cells(text)
    problems = [_unknown(name) for name in header if name not in FIELDS]
    problems += [f"{name}: the column is there twice; keep one" for name in FIELDS if header.count(name) > 1]
    problems += [f"{name}: the column is missing; add it" for name in _REQUIRED if name not in header]
    if problems:
        raise _BadLine(problems)
    return header


def _cells_of(text: str, header: list[str]) -> dict[str, Any]:
    """A line of CSV, with lists and the price as they would be in JSON."""
    cells = _cells(text)
    if len(cells) != len(header):
        raise _BadLine([f"{len(cells)} cells, the header has {len(header)}; quote cells that have a comma"])
    table: dict[str, Any] = dict(zip(header, cells, strict=True))
    for name in _LISTS:
        if name in table:
            table[name] = [part.strip(" ") for part in table[name].split(";") if part.strip(" ")]
    if re.fullmatch(r"[0-9]{1,15}", table["price"]):
        table["price"] = int(table["price"])
    return table


def _checked(table: dict[str, Any]) -> Product:
    """The product that a line describes.

    Raises:
        _BadLine: with a sentence for each field that is not good.
    """
    try:
        product = msgspec.convert(table, Product)
    except msgspec.ValidationError:
        problems = [_unknown(name) for name in table if name not in FIELDS]
        problems += [f"{name}: it is missing; {_RULES[name]}" for name in _REQUIRED if name not in table]
        problems += [f"{name}: {_RULES[name]}" for name in FIELDS if name in table and not _is_good(name, table[name])]
        raise _BadLine(problems) from None
    return msgspec.structs.replace(product, **{name: tuple(dict.fromkeys(getattr(product, name))) for name in _LISTS})


def _is_good(name: str, value: Any) -> bool:
    try:
        msgspec.convert(value, _TYPES[name])
    except msgspec.ValidationError:
        return False
    return True


def _unknown(name: str) -> str:
    return f"{name[:60] or 'a column without a name'}: unknown; the fields are {', '.join(FIELDS)}"


def _say(text: str) -> None:
    """A line on stderr; what comes from a file may not steer the terminal."""
    print("".join(c if c.isprintable() else "?" for c in text), file=sys.stderr, flush=True)


def main(import_file: str, catalogue: str) -> None:
    """Make or replace a partner catalogue.

    Args:
        import_file: products, a line each; .csv with a header row, or .jsonl.
        catalogue: SQLite file; replaced as a whole once every line has been found good.
    """
    if Path(os.path.realpath(import_file)) == Path(os.path.realpath(catalogue)):
        raise UsageError("--import_file and --catalogue are the same file; give --catalogue another path")
    began = time.monotonic()
    count = import_products(import_file, catalogue)
    products = "1 product" if count == 1 else f"{count} products"
    print(f"{catalogue}: {products}; {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)
