"""The partner catalogue, open for reading: products in one SQLite file with a full-text index.

Knows: the tables and their version, which products have which words. FTS5 decides what a word is (``porter
unicode61``: "teas" is "tea", "café" is "cafe").
Does not know: replies, people's budgets, sheets, which words are worth searching, how the file is made
(``importing``).
"""

from __future__ import annotations

import math
import os
import re
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from llama.cloud.products import FIELDS, LISTS, MAX_PRICE, OCCASIONS, Occasion, Product
from llama.errors import CatalogueError

VERSION = 1  # of the tables; stored as the file's user_version

_TOKENIZER = "porter unicode61 remove_diacritics 2"
WORD_COLUMNS = ("title", "title_id", "tags", "description", "description_id")
_STRONG_COLUMNS = 3  # the first three name the product, the others describe it
# products: the text. facts: the values compared for each of hundreds of candidates, narrow for speed. terms: the number
# of products that have each word of the index, which FTS5 would otherwise have to count.
TABLES = f"""
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
    {", ".join(WORD_COLUMNS)}, vendor, content='products', content_rowid='number', tokenize='{_TOKENIZER}'
);
"""

CANDIDATES = 20  # most products that a search returns
_ROWS = 2_000  # most rows ranked for one query; of more, the ones imported first
_ENOUGH = 12  # products within the budget after which no easier query is run
_MAX_ASKED = 12  # words of one search
_MAIN = 4  # words that are searched in all combinations
_KNOWN_TERMS = 50_000  # words whose terms are cached
_IDF_MOST = 6.0  # upper bound: all words rarer than this name a product equally well
_IDF_UNKNOWN = 5.0  # upper bound for a word that no product has
_MARK, _END = "\x01", "\x02"  # around matching words; product texts cannot contain them
_MARKED = re.compile(f"{_MARK}([^{_MARK}{_END}]*){_END}")

# The best matches: within the budget first, then by FTS5's rank (negative, lower is better). In it a title counts four
# times as much as a description.
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
    {", ".join(f"highlight(words, {i}, '{_MARK}', '{_END}')" for i in range(len(WORD_COLUMNS)))}
FROM words CROSS JOIN products ON products.number = words.rowid
WHERE words MATCH ? AND words.rowid = ?
"""


@dataclass(frozen=True)
class Preference:
    """Preferences among products that have the words.

    Attributes:
        least: lowest price, in whole rupiah.
        most: highest price, or None.
        occasions: any of these.
        city: city of delivery, in upper or lower case; or empty.
    """

    least: int = 0
    most: int | None = None
    occasions: frozenset[Occasion] = frozenset()
    city: str = ""


@dataclass(frozen=True)
class ProductMatch:
    """A product that has some of the words.

    Attributes:
        product: the product.
        relevance: 0 … 1, the weighted part of the words that the product has. Words only in its description count half.
        named: the searched words that its title or tags have.
        words: its own words that match, as FTS5 marks them; title first, each once.
        delivered: whether it can be delivered to the requested city; True without one.
    """

    product: Product
    relevance: float
    named: frozenset[str]
    words: tuple[str, ...]
    delivered: bool


@dataclass(frozen=True)
class _Asked:
    """A word to search.

    Attributes:
        word: as given.
        spelled: its spellings that products have.
        terms: the index terms of each spelling; usually one, more if FTS5 does not know a letter.
        products: the number of products that have it.
        weight: as given.
        mass: the weight times the word's inverse document frequency.
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

    Any thread may use it, one at a time. If the import replaces the file meanwhile, this object keeps reading the old
    one.

    Args:
        path: the file that the import made.

    Raises:
        CatalogueError: the file is missing, cannot be read, or is not a catalogue of this version.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path = Path(path).absolute()
        _check_is_file(path)
        try:
            self._db = connect(path)
            try:
                check_version(self._db, path)
                self._prepare()
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as err:
            raise CatalogueError(
                f"the catalogue {path} cannot be read: {err}; make it again with python -m llama.cloud.importing"
            ) from None

    def _prepare(self) -> None:
        # No memory map: overwriting the file in place would end this process.
        self._db.execute("PRAGMA cache_size = -65536")  # KiB; grows on demand
        # A small separate index in memory, only to look up the terms of words: FTS5 has no function for it.
        self._db.execute("PRAGMA temp_store = MEMORY")
        self._db.execute(f"CREATE VIRTUAL TABLE temp.asked USING fts5(word, tokenize='{_TOKENIZER}')")
        self._db.execute("CREATE VIRTUAL TABLE temp.asked_terms USING fts5vocab('temp', 'asked', 'instance')")
        self._terms: dict[str, frozenset[str]] = {}
        (self.size,) = self._db.execute("SELECT count(*) FROM facts").fetchone()
        self.cities = frozenset(city for (city,) in self._db.execute("SELECT DISTINCT city FROM deliveries"))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def search(
        self,
        words: Mapping[str, float],
        *,
        spellings: Mapping[str, Collection[str]] | None = None,
        unknown: float = 1.0,
        vendor: str | None = None,
        preference: Preference | None = None,
    ) -> list[ProductMatch]:
        """Return products that have some of the words, the best first, at most :data:`CANDIDATES`.

        Args:
            words: the weight of each: 1, or less for a word that many kinds of products share. Words with characters
                other than letters and digits are ignored. Of those that products have, the rarest :data:`_MAX_ASKED`
                are searched.
            spellings: equivalent words for some words.
            unknown: weight, relative to other words, of a word that no product has. It lowers every relevance.
            vendor: only products of exactly this vendor.
            preference: ranks products that have the same words. Products above its price come last.

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
            found = [self._product_match(number, known, whole, vendor, preference.city) for number in numbers]
        except sqlite3.Error as err:
            raise CatalogueError(
                f"the catalogue {self._path} cannot be read: {err}; make it again with python -m llama.cloud.importing"
            ) from None
        return sorted(filter(None, found), key=lambda f: -f.relevance)

    def _asked(self, words: Mapping[str, float], spellings: Mapping[str, Collection[str]]) -> list[_Asked]:
        # Letters and digits only: no quotes, NUL or lone surrogates.
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
        """Return an upper bound of the number of products that have all of ``terms``."""
        counts = [self._db.execute("SELECT products FROM terms WHERE term = ?", (term,)).fetchone() for term in terms]
        return min((0 if row is None else int(row[0]) for row in counts), default=0)

    def _learn_terms(self, words: Collection[str]) -> None:
        """Look up the index terms of all ``words`` and cache them."""
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
        """Return numbers of products: within the budget first, then those with more of the words."""
        values = {
            "vendor": vendor,
            "most": MAX_PRICE if preference.most is None else preference.most,
            "least": preference.least,
            "occasions": bits(preference.occasions),
            "city": preference.city.casefold(),
        }
        numbers = dict[int, bool]()  # by number: within the budget
        for question in _questions(known):
            for number, affordable in self._db.execute(_SELECT, values | {"match": _match(question, vendor)}):
                numbers.setdefault(number, bool(affordable))
            if sum(numbers.values()) >= _ENOUGH:
                break
        return sorted(numbers, key=lambda number: not numbers[number])[:CANDIDATES]

    def _product_match(
        self, number: int, known: Sequence[_Asked], whole: float, vendor: str | None, city: str
    ) -> ProductMatch | None:
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
        in_description = [a for a in known if a.is_in(in_any) and not a.is_in(in_strong)]
        relevance = (sum(a.mass for a in named) + sum(a.mass for a in in_description) / 2) / whole if whole else 0.0
        product = _product_of(values)
        delivered = not city or not product.cities or city.casefold() in map(str.casefold, product.cities)
        words = {word.casefold(): word for word in reversed([*strong, *weak])}  # the first spelling of each
        return ProductMatch(
            product,
            min(relevance, 1.0),
            frozenset(a.word for a in named),
            tuple(reversed(words.values())),
            delivered,
        )


def _questions(known: Sequence[_Asked]) -> Iterator[str]:
    """Yield FTS5 queries for words, which come rarest first; the strictest query comes first.

    The first query has all words. The next has all ordinary words with any other word. Then come fewer and fewer of the
    ordinary words. A conjunction costs FTS5 about as much as its rarest word.
    """
    heaviest = max(a.weight for a in known)
    main = [a for a in known if a.weight == heaviest][:_MAIN]
    light = [a for a in known if a.weight < heaviest]
    yield " AND ".join(a.quoted for a in known)
    all_main = " AND ".join(a.quoted for a in main)
    if len(light) > 1:
        yield f"{all_main} AND ({' OR '.join(a.quoted for a in light)})"
    for count in range(len(main) - (len(main) == len(known)), 0, -1):  # the first query had all of them
        yield " OR ".join(f"({' AND '.join(a.quoted for a in some)})" for some in combinations(main, count))


def _match(question: str, vendor: str | None) -> str:
    match = f"{{{' '.join(WORD_COLUMNS)}}} : ({question})"
    return match if vendor is None else f'({match}) AND vendor : "{vendor}"'


def bits(occasions: Collection[str]) -> int:
    """Return occasions as the table ``facts`` stores them: one bit for each word of the vocabulary."""
    return sum(1 << i for i, name in enumerate(OCCASIONS) if name in occasions)


def _product_of(values: Sequence[Any]) -> Product:
    row = dict(zip(FIELDS, values, strict=True))
    for name in LISTS:
        row[name] = tuple(row[name].split(";")) if row[name] else ()
    return Product(**row)


def _check_is_file(path: Path) -> None:
    if not path.exists():
        raise CatalogueError(f"there is no catalogue {path}; make it with python -m llama.cloud.importing")
    if not path.is_file():
        raise CatalogueError(f"the catalogue {path} is not a file; give --catalogue the path of one")
    if not os.access(path, os.R_OK):
        raise CatalogueError(f"the catalogue {path} cannot be read by this user; change its mode or owner")


def connect(path: Path) -> sqlite3.Connection:
    """Open a file for reading only."""
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, check_same_thread=False)


def check_version(db: sqlite3.Connection, path: Path) -> None:
    """Check that a file is a catalogue of this version.

    Raises:
        CatalogueError: it is not.
    """
    if not is_catalogue(db):
        raise CatalogueError(f"{path} is not a catalogue but another program's database; use another --catalogue")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version != VERSION:
        raise CatalogueError(
            f"the catalogue {path} has version {version}, and this program reads version {VERSION}; "
            f"import it again with python -m llama.cloud.importing"
        )


def is_catalogue(db: sqlite3.Connection) -> bool:
    """Return whether a file has a catalogue's tables, of any version."""
    return {"products", "words"} <= {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
