"""Claims about the partner catalogue: what an import accepts, what it says when it does not, and that a file is whole.

The commands are run as a person runs them; files are read with SQLite itself where the product's code might flatter.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama.cloud.catalogue import Catalogue, Preference
from llama.cloud.importing import import_products, main
from llama.cloud.products import FIELDS, OCCASIONS, Occasion
from llama.command import run
from llama.errors import CatalogueError
from llama.text.printable import is_blank
from tests.volumes import examples

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "examples" / "catalogue.jsonl"
QUICK = examples(0.6)

Makes = Callable[..., Path]


def a_product(number: int = 1, **changes: Any) -> dict[str, Any]:
    product = {
        "id": f"p-{number}", "vendor": "daun", "title": f"Tea set {number}", "title_id": f"Set teh {number}",
        "description": "A pot with two cups.", "description_id": "Teko dan dua cangkir.", "price": 250000,
        "occasions": ["birthday"], "tags": ["tea", "teh"], "cities": [], "url": "https://daun.example/1",
    }  # fmt: skip
    return product | changes


def jsonl(*products: Any) -> str:
    return "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in products)


def as_csv(*products: dict[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    for product in products:
        writer.writerow({key: ";".join(v) if isinstance(v, list) else v for key, v in product.items()})
    return text.getvalue()


def contents(path: Path) -> list[dict[str, Any]]:
    """All products, read without any code of the product's."""
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute(f"SELECT {', '.join(FIELDS)} FROM products ORDER BY number").fetchall()
    products = [dict(zip(FIELDS, row, strict=True)) for row in rows]
    for product in products:
        for name in ("occasions", "tags", "cities"):
            product[name] = product[name].split(";") if product[name] else []
    return products


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "products.sqlite"


@pytest.fixture
def made(tmp_path: Path, target: Path) -> Makes:
    """Imports a text, and gives the catalogue's path."""

    def make(text: str | bytes, name: str = "products.jsonl") -> Path:
        source = tmp_path / name
        source.write_bytes(text if isinstance(text, bytes) else text.encode())
        import_products(source, target)
        return target

    return make


@pytest.fixture
def complaints(made: Makes, target: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """What is told about a file that is not good, without the file's name; that nothing was imported is checked."""

    def complain(text: str | bytes, name: str = "products.jsonl") -> list[str]:
        with pytest.raises(CatalogueError, match="nothing was imported"):
            made(text, name)
        assert not target.exists()
        lines = capsys.readouterr().err.splitlines()
        assert all(name in line for line in lines)
        return [line.partition(f"{name}, ")[2] for line in lines]

    return complain


# --- What is imported ------------------------------------------------------------------------------------------------


def test_the_sample_catalogue_is_imported_as_it_stands(target: Path) -> None:
    """Every field of every product; and its keys are in the documented order."""
    products = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
    assert import_products(SAMPLE, target) == len(products) >= 300
    assert contents(target) == products
    assert all(tuple(product) == FIELDS for product in products)


def test_csv_and_json_lines_give_the_same_catalogue(made: Makes, tmp_path: Path) -> None:
    """With commas, quotes and other alphabets in the cells."""
    products = [a_product(1, title='Cup, "blue"', tags=["café", "杯子"]), a_product(2, cities=["Banda Aceh", "Medan"])]
    from_jsonl = contents(made(jsonl(*products)))
    assert contents(made(as_csv(*products), "products.csv")) == from_jsonl == products


def test_only_four_fields_are_required(made: Makes) -> None:
    """Also as columns."""
    bare = {"id": "a", "vendor": "v", "title": "Cup", "price": 0}
    empty = {
        "title_id": "",
        "description": "",
        "description_id": "",
        "occasions": [],
        "tags": [],
        "cities": [],
        "url": "",
    }
    assert contents(made(jsonl(bare))) == [bare | empty]
    assert contents(made("id,vendor,title,price\na,v,Cup,0\n", "products.csv")) == [bare | empty]


@pytest.mark.parametrize("name", ["products.jsonl", "products.csv"])
def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_tolerated(made: Makes, name: str) -> None:
    """As spreadsheets leave them."""
    text = (as_csv if name.endswith("csv") else jsonl)(a_product(1), a_product(2))
    text = "\ufeff" + text.replace("\n", "\r\n\r\n") + "  \r\n"
    assert contents(made(text, name)) == [a_product(1), a_product(2)]


def test_spaces_around_values_and_repeated_or_empty_parts_of_lists_do_not_count(made: Makes) -> None:
    """ "tea; ;tea" is one tag."""
    row = "id,vendor,title,price,tags\n a , v , Cup , 5000 ,tea; ;green tea;tea\n"
    (product,) = contents(made(row, "products.csv"))
    assert (product["id"], product["title"], product["price"]) == ("a", "Cup", 5000)
    assert product["tags"] == ["tea", "green tea"]


printable = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="\u200e\u200f\u202a\u202b\u202c\u202d"
                  "\u202e\u2066\u2067\u2068\u2069"), max_size=40,
).map(lambda text: text.strip(" "))  # fmt: skip
words = printable.map(lambda text: text.replace(";", "").strip(" ")).filter(str.strip)
products = st.fixed_dictionaries({
    "id": st.from_regex(r"[a-z0-9-]{1,60}", fullmatch=True),
    "vendor": st.from_regex(r"[a-z0-9-]{1,40}", fullmatch=True),
    "title": words.filter(lambda text: not is_blank(text)), "description": printable, "description_id": printable,
    "title_id": printable.map(lambda text: "" if is_blank(text) else text),
    "price": st.integers(0, 10**12), "occasions": st.lists(st.sampled_from(OCCASIONS), unique=True, max_size=4),
    "tags": st.lists(words, unique=True, max_size=4), "cities": st.lists(words, unique=True, max_size=4),
    "url": st.sampled_from(["", "http://a.example/x?y=1#z", "https://toko.example/é"]),
})  # fmt: skip


@given(
    rows=st.lists(products, min_size=1, max_size=4, unique_by=lambda row: row["id"]),
    suffix=st.sampled_from(["jsonl", "csv"]),
)
@QUICK
def test_whatever_follows_the_rules_arrives_unchanged(made: Makes, rows: list[dict[str, Any]], suffix: str) -> None:
    """From both kinds of file, in its order."""
    text = jsonl(*rows) if suffix == "jsonl" else as_csv(*rows)
    assert contents(made(text, f"products.{suffix}")) == rows


@given(junk=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
       suffix=st.sampled_from(["jsonl", "csv"]))  # fmt: skip
@QUICK
def test_any_bytes_are_imported_or_refused_never_a_traceback(made: Makes, junk: bytes, suffix: str) -> None:
    """With a good line before them."""
    good = jsonl(a_product()) if suffix == "jsonl" else as_csv(a_product())
    with contextlib.suppress(CatalogueError):
        made(good.encode() + junk, f"products.{suffix}")


values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                      lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=5), one, max_size=3),
                      max_leaves=5)  # fmt: skip


@given(table=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=6), values, max_size=6))
@QUICK
def test_any_object_is_imported_or_refused_with_a_reason(made: Makes, table: dict[str, Any]) -> None:
    with contextlib.suppress(CatalogueError):
        made(jsonl(a_product() | table))


def test_the_vocabulary_of_occasions_is_the_documented_one() -> None:
    assert len(set(OCCASIONS)) == 16 == len(get_args(Occasion))


# --- What is refused, and how it is told -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id": ""}, "id"), ({"id": "A"}, "id"), ({"id": "a" * 61}, "id"), ({"id": "a\n"}, "id"), ({"id": 7}, "id"),
        ({"vendor": "Über"}, "vendor"), ({"vendor": "v" * 41}, "vendor"), ({"title": ""}, "title"),
        ({"title": "   "}, "title"), ({"title": "t" * 201}, "title"), ({"title": "two\nlines"}, "title"),
        ({"title": "Cup\n"}, "title"), ({"title": "bell\x07"}, "title"), ({"title": "turned\u202eround"}, "title"),
        ({"title_id": "NUL\x00"}, "title_id"), ({"description": "d" * 4001}, "description"),
        ({"description_id": "a\u2028b"}, "description_id"), ({"price": -1}, "price"), ({"price": 10**12 + 1}, "price"),
        ({"price": 1.5}, "price"), ({"price": "250000"}, "price"), ({"price": None}, "price"),
        ({"price": True}, "price"),
        ({"occasions": ["brithday"]}, "occasions"), ({"occasions": "birthday"}, "occasions"), ({"tags": "tea"}, "tags"),
        ({"tags": [""]}, "tags"), ({"tags": ["a;b"]}, "tags"), ({"tags": ["t"] * 41}, "tags"),
        ({"tags": ["t" * 61]}, "tags"), ({"cities": [5]}, "cities"), ({"cities": ["Bo\tgor"]}, "cities"),
        ({"url": "ftp://x.example"}, "url"), ({"url": "https://x.example/a b"}, "url"),
        ({"url": "javascript:1"}, "url"),
        ({"url": "https://x.example/\n"}, "url"), ({"url": "https://" + "x" * 2000}, "url"),
        ({"colour": "red"}, "colour"),
    ],
)  # fmt: skip
def test_a_field_that_is_not_good_is_told_with_its_line_and_its_rule(
    complaints: Callable[..., list[str]], changes: dict[str, Any], field: str
) -> None:
    (line,) = complaints(jsonl(a_product(1), "", a_product(2, **changes)))
    assert line.startswith(f"line 3: {field}: ")
    assert "give" in line or f"the fields are {', '.join(FIELDS)}" in line


def test_a_list_that_holds_lists_six_hundred_deep_is_a_bad_line(complaints: Callable[..., list[str]]) -> None:
    """As any other that holds no text."""
    deep = json.dumps(a_product(1, tags=[])).replace('"tags": []', f'"tags": {"[" * 600}"tea"{"]" * 600}')
    (line,) = complaints(deep + "\n")
    assert line.startswith("line 1: tags: give a list")


@pytest.mark.parametrize("name", ["id", "vendor", "title", "price"])
def test_a_required_field_that_is_missing_is_told(complaints: Callable[..., list[str]], name: str) -> None:
    product = a_product()
    del product[name]
    (line,) = complaints(jsonl(product))
    assert line.startswith(f"line 1: {name}: missing; give ")


def test_all_that_is_wrong_with_a_line_is_told_at_once(complaints: Callable[..., list[str]]) -> None:
    reported = complaints(jsonl(a_product(1, id="X", price=-5, colour="red")))
    assert [line.split(":")[1].strip() for line in reported] == ["colour", "id", "price"]


def test_an_id_that_is_there_twice_is_told_with_both_lines(complaints: Callable[..., list[str]]) -> None:
    reported = complaints(jsonl(a_product(1), a_product(2), a_product(1, title="Other")))
    assert reported == ["line 3: id: line 1 has the same id; give each product another id"]


def test_the_first_twenty_bad_lines_are_told(made: Makes, capsys: pytest.CaptureFixture[str]) -> None:
    """And those after them are not read: whoever has twenty to mend imports again anyway."""
    with pytest.raises(CatalogueError, match="20 lines have errors, where reading stopped"):
        made(jsonl(a_product(0), *(a_product(i, price=-1) for i in range(1, 50))))
    reported = capsys.readouterr().err.splitlines()
    assert [line.partition(", ")[2].partition(":")[0] for line in reported] == [f"line {i}" for i in range(2, 22)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"), ("[1]", "not an object"), ("7", "not an object"), ('{"id": "a",}', "not JSON"),
        ('{"title": "\\ud800"}', "line 2"), ("[" * 5000, "not JSON"), ("x" * 70000, "longer than 64 KiB"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_object_of_json_is_told(complaints: Callable[..., list[str]], line: str, reason: str) -> None:
    reported = complaints(jsonl(a_product(1), line, a_product(3, price=-1)))
    assert reported[0].startswith("line 2: ") and reason in reported[0]
    assert reported[-1].startswith("line 3: price: ")  # a bad line does not hide the next


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("id,vendor,title\n", "line 1: price: the column is missing; add it"),
        ("id,vendor,title,price,id\n", "line 1: id: the column appears twice; keep one"),
        ("id,vendor,title,price,colour\n", "line 1: colour: unknown; the fields are "),
        ("id;vendor;title;price\n", "line 1: cells are separated by semicolons; save"),
        ("id,vendor,title,price\na,v,Cup\n", "line 2: 3 cells, but the header has 4; quote cells that have a comma"),
        ("id,vendor,title,price\na,v,Cup,1,2\n", "line 2: 5 cells, but the header has 4"),
        ('id,vendor,title,price\na,v,"Cup,1\n', "line 2: not CSV"),
        ("id,vendor,title,price\na,v,Cup,Rp 5.000\n", "line 2: price: give whole rupiah"),
        ("id,vendor,title,price\na,v,Cup,1e5\n", "line 2: price: give whole rupiah"),
        ("id,vendor,title,price\na,v,Cup,٣\n", "line 2: price: give whole rupiah"),
        ("id,vendor,title,price,occasions\na,v,Cup,1,birthday;party\n", "line 2: occasions: give a list such as"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_csv_file_is_told(complaints: Callable[..., list[str]], text: str, reported: str) -> None:
    assert complaints(text, "products.csv")[0].startswith(reported)


def test_bytes_that_are_no_text_are_told(complaints: Callable[..., list[str]]) -> None:
    reported = complaints(jsonl(a_product(1)).encode() + b'{"id": "caf\xe9"}\n')
    assert reported == ["line 2: not UTF-8 (byte 12 of the line); save the file as UTF-8"]


@pytest.mark.parametrize("text", ["", "\n\n", "id,vendor,title,price\n"])
def test_a_file_without_products_replaces_nothing(made: Makes, text: str) -> None:
    with pytest.raises(CatalogueError, match="no products"):
        made(text, "products.csv")


def test_what_comes_from_a_file_cannot_steer_the_terminal(complaints: Callable[..., list[str]]) -> None:
    (reported,) = complaints(jsonl(a_product(1, **{"\x1b[2Jcolour": 1})))
    assert reported.isprintable()


@pytest.mark.parametrize("name", ["products.xlsx", "products"])
def test_a_file_of_another_kind_is_refused(made: Makes, name: str) -> None:
    with pytest.raises(CatalogueError, match=r"\.csv, \.jsonl or \.ndjson"):
        made("", name)


def test_a_source_that_cannot_be_read_is_told(tmp_path: Path, target: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for name, reason in (("absent.csv", "no such file"), ("pipe.csv", "not a file")):
        with pytest.raises(CatalogueError, match=reason):
            import_products(tmp_path / name, target)


# --- The command -----------------------------------------------------------------------------------------------------


def command(*flags: str, **how: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "llama.cloud.importing", *flags], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, **how,
    )  # fmt: skip


@pytest.mark.process
def test_the_command_imports_and_says_how_many(target: Path) -> None:
    process = command("--import_file", str(SAMPLE), "--catalogue", str(target))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert err.startswith(f"{target}: {len(contents(target))} products; ")


def test_the_command_tells_bad_lines_and_ends_with_one_line(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1; and a wrong flag is 2."""
    source = tmp_path / "products.jsonl"
    source.write_text(jsonl(a_product(1, price=-1), a_product(2, id="?")))
    with pytest.raises(SystemExit) as ended:
        run(main, ["--import_file", str(source), "--catalogue", str(target)])
    reported = capsys.readouterr().err.splitlines()
    assert (ended.value.code, len(reported)) == (1, 3)
    assert reported[2] == (
        f"error: {source}: 2 lines have errors (see above), and nothing was imported; fix them and import again"
    )
    for flags in (["--import_file", str(source)], ["--import_file", str(source), "--catalogue", str(source)]):
        with pytest.raises(SystemExit) as ended:
            run(main, flags)
        assert ended.value.code == 2


@contextlib.contextmanager
def a_long_import(tmp_path: Path, target: Path) -> Iterator[subprocess.Popen[str]]:
    """An import that is in the middle of its work."""
    source = tmp_path / "many.jsonl"
    with source.open("w") as file:
        file.writelines(json.dumps(a_product(i)) + "\n" for i in range(60_000))
    process = command("--import_file", str(source), "--catalogue", str(target))
    partial, deadline = target.with_name(f".{target.name}.partial"), time.monotonic() + 60
    try:
        while not (partial.exists() and partial.stat().st_size > 1 << 20):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.process
def test_a_killed_import_leaves_the_old_catalogue_whole(made: Makes, tmp_path: Path) -> None:
    """kill -9; and the next import takes away what the killed one left."""
    target = made(jsonl(a_product(1)))
    before = target.read_bytes()
    with a_long_import(tmp_path, target) as process:
        process.kill()
        process.wait()
    assert target.read_bytes() == before
    with closing(Catalogue(target)) as catalogue:
        assert [found.product.id for found in catalogue.search({"tea": 1})] == ["p-1"]
    made(jsonl(a_product(2)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["many.jsonl", "products.jsonl", "products.sqlite"]


@pytest.mark.process
def test_ctrl_c_leaves_nothing(tmp_path: Path, target: Path) -> None:
    with a_long_import(tmp_path, target) as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "interrupted\n")
    assert [p.name for p in tmp_path.iterdir()] == ["many.jsonl"]


@pytest.mark.process
def test_two_imports_at_a_time_do_not_meet(made: Makes, tmp_path: Path, target: Path) -> None:
    with a_long_import(tmp_path, target):
        with pytest.raises(CatalogueError, match="another import"):
            made(jsonl(a_product(1)))


def test_who_reads_goes_on_reading_while_the_file_is_replaced(made: Makes) -> None:
    """The old products until it is opened again."""
    target = made(jsonl(a_product(1)))
    with closing(Catalogue(target)) as old:
        made(jsonl(a_product(2)))
        assert [found.product.id for found in old.search({"tea": 1})] == ["p-1"]
        with closing(Catalogue(target)) as new:
            assert [found.product.id for found in new.search({"tea": 1})] == ["p-2"]


def test_a_bad_file_leaves_the_old_catalogue(made: Makes) -> None:
    target = made(jsonl(a_product(1)))
    with pytest.raises(CatalogueError):
        made(jsonl(a_product(2), a_product(3, price=-1)))
    assert contents(target) == [a_product(1)]


def test_no_other_file_is_overwritten(made: Makes, target: Path) -> None:
    """A database of another program, or no database at all; an empty file is nobody's."""
    with closing(sqlite3.connect(target)) as db:
        db.execute("CREATE TABLE runs (a)")
    for other in (target.read_bytes(), b"my thesis"):
        target.write_bytes(other)
        with pytest.raises(CatalogueError, match="is not a catalogue"):
            made(jsonl(a_product(1)))
        assert target.read_bytes() == other
    target.write_bytes(b"")
    assert contents(made(jsonl(a_product(1)))) == [a_product(1)]


def test_a_link_stays_a_link(made: Makes, tmp_path: Path, target: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    real = tmp_path / "elsewhere" / "real.sqlite"
    target.symlink_to(real)
    made(jsonl(a_product(1)))
    assert target.is_symlink() and contents(real) == [a_product(1)]


def test_a_place_where_nothing_can_be_written_is_told(tmp_path: Path) -> None:
    source = tmp_path / "products.jsonl"
    source.write_text(jsonl(a_product(1)))
    with pytest.raises(CatalogueError, match="cannot be written"):
        import_products(source, tmp_path / "absent" / "products.sqlite")


# --- Opening ---------------------------------------------------------------------------------------------------------


def test_the_file_says_its_version(made: Makes) -> None:
    with closing(sqlite3.connect(made(jsonl(a_product(1))))) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)


def test_a_catalogue_of_another_version_is_refused(made: Makes) -> None:
    """An older and a newer one, each in one line; an import may replace it."""
    target = made(jsonl(a_product(1)))
    for version in (0, 2, 9):
        with closing(sqlite3.connect(target)) as db, db:
            db.execute(f"PRAGMA user_version = {version}")
        with pytest.raises(CatalogueError) as refused:
            Catalogue(target)
        assert str(refused.value) == (
            f"the catalogue {target} has version {version}, and this program reads version 1; "
            f"import it again with python -m llama.cloud.importing"
        )
        made(jsonl(a_product(1)))
        Catalogue(target).close()


def test_what_is_no_catalogue_is_refused(tmp_path: Path) -> None:
    other, text = tmp_path / "other.sqlite", tmp_path / "text.sqlite"
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE runs (a)")
    text.write_text("no database" * 100)
    for path, reason in ((other, "another program"), (text, "cannot be read"), (tmp_path, "not a file"),
                         (tmp_path / "absent", "there is no catalogue")):  # fmt: skip
        with pytest.raises(CatalogueError, match=reason):
            Catalogue(path)


def test_reading_changes_nothing(made: Makes, tmp_path: Path) -> None:
    """Nor leaves files beside it: the directory may be read-only."""
    target = made(jsonl(a_product(1)))
    before, files = target.read_bytes(), sorted(tmp_path.iterdir())
    with closing(Catalogue(target)) as catalogue:
        catalogue.search({"tea": 1, "unknown": 1}, vendor="daun")
        assert sorted(tmp_path.iterdir()) == files
    assert target.read_bytes() == before


def test_another_thread_may_search_than_the_one_that_opened(made: Makes) -> None:
    with closing(Catalogue(made(jsonl(a_product(1))))) as catalogue:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(len(catalogue.search({"tea": 1}))))
        thread.start()
        thread.join()
    assert found == [1]


# --- Searching -------------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(made: Makes) -> Iterator[Catalogue]:
    """Four products."""
    rows = [
        a_product(1, vendor="daun", title="Porcelain tea set", tags=["teapot"], price=300000, occasions=["wedding"]),
        a_product(2, vendor="daun-dua", title="Tea tin", description="For a tea set.", price=90000, cities=["Bogor"]),
        a_product(3, vendor="rimba", title="Day pack", title_id="Ransel", tags=["backpack", "hiking"], description=""),
        a_product(4, vendor="rimba", title="Painting set", title_id="Set lukis", tags=["art"], description=""),
    ]
    for row in rows[2:]:
        row["description_id"] = ""
    with closing(Catalogue(made(jsonl(*rows)))) as catalogue:
        yield catalogue


def test_a_product_that_has_all_words_comes_before_one_that_has_some(shop: Catalogue) -> None:
    found = shop.search({"porcelain": 1, "tea": 1, "set": 0.25})
    assert found[0].product.id == "p-1"
    assert found[0].relevance == pytest.approx(1)
    assert all(later.relevance < 1 for later in found[1:])


def test_the_words_told_are_the_products_own(shop: Catalogue) -> None:
    """As its text spells them, each once; what was asked for may be another form."""
    (found,) = shop.search({"backpacks": 1, "hike": 1})
    assert found.words == ("backpack", "hiking")
    assert found.named == {"backpacks", "hike"}


def test_a_word_of_the_description_counts_half_and_is_not_what_it_is_called(shop: Catalogue) -> None:
    found = {f.product.id: f for f in shop.search({"set": 1})}
    assert found["p-1"].relevance == pytest.approx(1) and found["p-1"].named == {"set"}
    assert found["p-2"].named == {"set"}  # its Indonesian title has it
    (only_described,) = [f for f in shop.search({"pot": 1}) if f.product.id == "p-1"]
    assert only_described.relevance == pytest.approx(0.5) and not only_described.named


def test_a_word_that_no_product_has_counts_against_the_others(shop: Catalogue) -> None:
    """As much as is asked for."""
    alone, beside, less = (
        shop.search({"tea": 1})[0].relevance,
        shop.search({"tea": 1, "telescope": 1})[0].relevance,
        shop.search({"tea": 1, "telescope": 1}, unknown=0)[0].relevance,
    )
    assert alone == less == pytest.approx(1)
    assert beside < 0.5


def test_only_the_vendor_asked_for_is_searched(shop: Catalogue) -> None:
    """Exactly that one: a name that begins alike is another."""
    assert {f.product.vendor for f in shop.search({"tea": 1, "set": 1}, vendor="daun")} == {"daun"}
    assert {f.product.vendor for f in shop.search({"tea": 1, "set": 1}, vendor="daun-dua")} == {"daun-dua"}
    assert shop.search({"tea": 1}, vendor="rimba-x") == []


def test_a_vendors_name_is_no_word_of_its_products(shop: Catalogue) -> None:
    assert shop.search({"rimba": 1}) == []


def test_among_equals_the_preference_decides_who_is_a_candidate(made: Makes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many more products than a search gives, those within the budget, for the occasion and the city."""
    many = [
        a_product(i, title="Tea set", title_id="", price=900000 - i, occasions=[], cities=["Medan"]) for i in range(300)
    ]
    many[250] |= {"price": 100000}
    many[260] |= {"occasions": ["eid"]}
    many[270] |= {"cities": ["Bogor"]}
    with closing(Catalogue(made(jsonl(*many)))) as catalogue:
        for preference, best in (
            (Preference(most=200000), "p-250"),
            (Preference(occasions=frozenset({"eid"})), "p-260"),
            (Preference(city="bogor"), "p-270"),
        ):
            assert best in [f.product.id for f in catalogue.search({"tea": 1}, preference=preference)]


def test_no_operator_of_the_query_language_gets_through(shop: Catalogue) -> None:
    for word in ('"', "a OR b", "tea*", "^tea", "NEAR(tea set)", "title:tea", "-tea", "\x00", "\ud800", "", "(", "AND"):
        assert shop.search({word: 1}) == []
        shop.search({"tea": 1, word: 1})


@given(words=st.dictionaries(st.text(max_size=12), st.sampled_from([0.0, 0.25, 1.0]), max_size=30))
@QUICK
def test_any_words_can_be_searched(shop: Catalogue, words: dict[str, float]) -> None:
    for found in shop.search({"tea": 1} | words):
        assert 0 <= found.relevance <= 1


def test_a_damaged_file_is_told_not_a_traceback(made: Makes) -> None:
    target = made(SAMPLE.read_text())
    raw = bytearray(target.read_bytes())
    raw[8192:-8192] = b"\xff" * (len(raw) - 16384)
    target.write_bytes(raw)
    with pytest.raises(CatalogueError, match="cannot be read"):
        with closing(Catalogue(target)) as catalogue:
            for word in ("tea", "teh", "set"):
                catalogue.search({word: 1})
