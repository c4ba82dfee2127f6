"""How long it takes to find offers for a reply, among 100,000 products.

    python -m tests.benchmarks.searching [--products 100000] [--asked 300]

The products are varied from the sample catalogue: each is a row of it with other words of its fields put in, another
price, other occasions and cities. The replies are lists of three ideas made from titles and tags, half of them
Indonesian, with a budget, and often an occasion or a city; one in ten has no list. Everything is drawn with one seed.
"""

from __future__ import annotations

import json
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llama.cloud.catalogue import Catalogue
from llama.cloud.importing import import_products
from llama.cloud.offers import offers_for
from llama.cloud.products import OCCASIONS
from llama.command import run
from llama.sheets import Sheet
from tests.benchmarks.reporting import Aimed, machine, progress, versions
from tests.processes import ROOT

SEED = 7
AIM_MS = 50
VENDORS = 200
CITIES = ("Jakarta", "Bandung", "Surabaya", "Medan", "Semarang", "Makassar", "Denpasar", "Yogyakarta", "Bogor")
TEXTS = ("title", "title_id", "description", "description_id")
ASKED = {
    "en": ("Gifts for [NAME_1]{occasion}, up to Rp {budget}.000{city}:", " for a birthday", " in "),
    "id": ("Kado untuk [NAME_1]{occasion}, di bawah Rp {budget}.000{city}:", " untuk ulang tahun", " di "),
}
REASONS = {"en": " - a lovely thing for quiet evenings", "id": ": cocok untuk sore yang tenang"}


def sample_rows() -> list[dict[str, Any]]:
    """The sample catalogue."""
    return [json.loads(line) for line in (ROOT / "examples" / "catalogue.jsonl").read_text().splitlines()]


def varied(rows: Sequence[dict[str, Any]], count: int, draw: random.Random) -> Iterator[dict[str, Any]]:
    """``count`` products made from ``rows``."""
    words = {name: [word for row in rows for word in row[name].split()] for name in TEXTS}
    tags = [tag for row in rows for tag in row["tags"]]
    for number in range(count):
        row = dict(draw.choice(rows))
        for name in TEXTS:
            text = row[name].split()
            for _ in range(1 + len(text) // 4):
                text[draw.randrange(len(text))] = draw.choice(words[name])
            row[name] = " ".join(text)
        row["id"], row["vendor"] = f"p-{number}", f"vendor-{draw.randrange(VENDORS)}"
        row["price"] = max(1000, round(row["price"] * draw.uniform(0.5, 2)))
        row["tags"] = list(dict.fromkeys([*row["tags"], draw.choice(tags)]))
        row["occasions"] = draw.sample(OCCASIONS, draw.randrange(5))
        row["cities"] = draw.sample(CITIES, draw.choice((0, 0, 1, 3, 5)))
        row["url"] = ""
        yield row


def replies(rows: Sequence[dict[str, Any]], count: int, draw: random.Random) -> Iterator[tuple[str, Sheet]]:
    """``count`` replies, each with the sheet that it answers."""
    for number in range(count):
        language = ("en", "id")[number % 2]
        first_words, occasion, at = ASKED[language]
        chosen = draw.sample(list(rows), 3)
        title = "title" if language == "en" else "title_id"
        ideas = [row[title].lower() if draw.random() < 0.6 else " ".join(draw.sample(row["tags"], 2)) for row in chosen]
        text = first_words.format(
            occasion=draw.choice(("", occasion)),
            budget=draw.choice((150, 300, 400, 750)),
            city=draw.choice(("", at + draw.choice(CITIES))),
        )
        if number % 10 == 9:
            text += " " + (" or " if language == "en" else " atau ").join(ideas) + "."
        else:
            text += "".join(f"\n{i}. {idea}{draw.choice(('', REASONS[language]))}" for i, idea in enumerate(ideas, 1))
        yield text, Sheet(("…",), "birthday", "Three gifts", task="recommend", language=language)


def main(products: int = 100_000, asked: int = 300) -> None:
    """Print the figures.

    Args:
        products: in the catalogue.
        asked: replies that offers are looked for, each once.
    """
    print(machine())
    print(versions([]).rstrip(": ") + f", sqlite {sqlite3.sqlite_version}")
    rows, draw = sample_rows(), random.Random(SEED)
    with tempfile.TemporaryDirectory() as directory:
        source, target = Path(directory, "products.jsonl"), Path(directory, "products.sqlite")
        with source.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in varied(rows, products, draw))
        progress("importing")
        began = time.perf_counter()
        import_products(source, target)
        seconds, size = time.perf_counter() - began, target.stat().st_size
        print(f"\n{products} products, imported in {seconds:.1f} s, {size / 1e6:.0f} MB")
        progress("searching")
        times, offered = list[float](), list[int]()
        catalogue = Catalogue(target)
        for text, sheet in replies(rows, asked, draw):
            began = time.perf_counter()
            offers = offers_for(text, sheet, catalogue, None)
            times.append(1000 * (time.perf_counter() - began))
            offered.append(len(offers))
        catalogue.close()
    cuts = statistics.quantiles(times, n=20)
    print(f"{asked} replies, {statistics.mean(offered):.1f} offers each")
    print(Aimed("offers for a reply: half of them within", [statistics.median(times)], " ms", 1).line())
    print(Aimed("offers for a reply: 95 in 100 within", [cuts[-1]], " ms", 1, at_most=AIM_MS).line())
    print(Aimed("offers for a reply: the slowest", [max(times)], " ms", 1).line())


if __name__ == "__main__":
    run(main)
