"""Claims about offers: which products answer a reply, in which order, and what is said about each.

On the sample catalogue where a claim is about real products; on a few made up ones where it is about an order.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llama import wire
from llama.cloud.catalogue import Catalogue
from llama.cloud.importing import import_products
from llama.cloud.offers import MAX_OFFERS, offers_for
from llama.cloud.products import OCCASIONS
from llama.cloud.query import budget_in, occasions_in, query_of, words_in
from llama.sheets import Sheet, read_all
from llama.wire import Offer
from tests.volumes import examples

ROOT = Path(__file__).resolve().parent.parent
QUERIES = ROOT / "tests" / "data" / "search_queries.toml"
SEEN_QUERIES = QUERIES.with_name("search_queries_seen.toml")
QUICK = examples(0.8)
HIT_RATE = 0.9  # of the written queries

Shops = Callable[..., Catalogue]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """The sample catalogue."""
    path = tmp_path_factory.mktemp("catalogue") / "products.sqlite"
    import_products(ROOT / "examples" / "catalogue.jsonl", path)
    with closing(Catalogue(path)) as catalogue:
        yield catalogue


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shops]:
    """Opens a catalogue of the given products; what is not said of one is empty."""
    with ExitStack() as stack:

        def opened(*products: dict[str, Any]) -> Catalogue:
            rows = [{"id": f"p-{i}", "vendor": "v", "price": 100_000} | row for i, row in enumerate(products, start=1)]
            source = tmp_path / "products.jsonl"
            source.write_bytes(b"\n".join(map(msgspec.json.encode, rows)))
            import_products(source, tmp_path / "products.sqlite")
            return stack.enter_context(closing(Catalogue(tmp_path / "products.sqlite")))

        yield opened


def ids(offers: tuple[Offer, ...]) -> list[str]:
    return [offer.product for offer in offers]


def sheet(language: str = "en", **fields: Any) -> Sheet:
    return Sheet(("…",), language=language, **fields)


# --- Ideas -----------------------------------------------------------------------------------------------------------


def test_three_ideas_get_a_first_offer_each_in_their_order(catalogue: Catalogue) -> None:
    """The README's reply."""
    offers = offers_for(
        "Gifts for [NAME_1]:\n1. A tea set\n2. A hiking backpack\n3. A painting set", None, catalogue, None
    )
    assert [offer.item for offer in offers[:3]] == ["A tea set", "A hiking backpack", "A painting set"]
    assert [offer.title for offer in offers[:2]] == ["Porcelain tea set for two", "Day pack for short hikes, 20 litres"]
    assert len(offers) == MAX_OFFERS


def test_every_ideas_best_comes_before_any_ideas_second_best(catalogue: Catalogue) -> None:
    offers = offers_for("- Chocolates\n- Candles\n- Jazz records\n- Mugs", None, catalogue, None)
    items = [offer.item for offer in offers]
    assert items[:4] == ["Chocolates", "Candles", "Jazz records", "Mugs"]
    assert len(set(items[4:7])) == 3


@pytest.mark.parametrize(
    "text",
    [
        "1. A tea set\n2. A backpack", "1) A tea set\n2) A backpack", "(1) A tea set\n(2) A backpack",
        "- A tea set\n- A backpack", "* A tea set\n* A backpack", "• A tea set\n• A backpack",
        "1. A tea set\n1. A backpack",
        "1️⃣ A tea set\n2️⃣ A backpack", "  1. A tea set\n  2. A backpack", "1.  **A tea set**\n2.  __A backpack__",
        "**1. A tea set**\n**2. A backpack**", "### 1. A tea set\nNice.\n\n### 2. A backpack\nStrong.",
        "1. **A tea set:** keeps a mat warm\n2. **A backpack** with a tent",
        "1. A tea set: for yoga\n2. A backpack – for yoga",
        "1. A tea set - a candle for the ears\n2. A backpack -- a candle for the back",
        "1. A tea set\n\nA candle for the ears.\n\n2. A backpack\n\nA candle for the back.",
        "1. A tea set\n   - porcelain\n   - with candles\n2. A backpack\n   - of canvas",
        "1. [A tea set](https://a.example/x)\n2. `A backpack`",
        "Sure!\r\n\r\n1. A tea set\r\n2. A backpack\r\n\r\nEnjoy!",
        "1. A tea set\n2. A backpack\n\nIf these do not fit:\n1. A yoga mat\n2. A candle",
        "- A tea set\n- A backpack\n\nOr, for the home:\n\n- A candle\n- A yoga mat",
    ],
)  # fmt: skip
def test_lists_are_read_as_models_write_them(text: str) -> None:
    """The first list, and of each item what it is, not what explains it."""
    query = query_of(text, ())
    assert [idea.item for idea in query.ideas] == ["A tea set", "A backpack"]
    assert [list(idea.words) for idea in query.ideas] == [["tea", "set"], ["backpack"]]
    assert query.listed


def test_an_item_that_begins_with_whom_it_is_for_is_read_to_its_end() -> None:
    (idea,) = query_of("1. For him: a tea set", ()).ideas
    assert list(idea.words) == ["tea", "set"]


def test_an_item_is_shown_as_one_line_of_bounded_length() -> None:
    """Its tags are the device's to restore."""
    (idea,) = query_of("1. A mug\x1b[2J for [NAME_1]\x07 " + "and a mug " * 90, ()).ideas
    assert idea.item.startswith("A mug [2J for [NAME_1] and") and idea.item.isprintable()
    assert len(idea.item) <= 500


def test_a_text_without_a_list_is_searched_clause_by_clause(catalogue: Catalogue) -> None:
    """Its offers name no item."""
    offers = offers_for("I would give her a yoga mat, or perhaps a jazz record.", None, catalogue, None)
    assert {offer.title for offer in offers[:2]} == {"Cork yoga mat", "Jazz record, Jakarta nights"}
    assert {offer.item for offer in offers} == {""}


def test_what_a_text_mentions_is_searched_without_its_labels(catalogue: Catalogue) -> None:
    """A reply to an "extract" sheet."""
    text = "person: [NAME_1]\ndrink: green tea\nphone: [PHONE_1]"
    offers = offers_for(text, sheet(task="extract"), catalogue, None)
    assert offers and not any({"phone", "person"} & {w.casefold() for w in offer.matched} for offer in offers)
    assert "green tea" in offers[0].title


# --- No nonsense -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "1. A telescope",
        "1. A wooden telescope", "1. A set", "1. A nice box set", "1. Sebuah paket", "Happy birthday!",
        "", " ",
        "Sorry, I cannot help with that.", "Maaf, saya tidak tahu.", "1. [NAME_1]", "[TEA_1] [SET_2]", "1.", "42",
        "Rp 400.000", "1. Something special that she will love", "1. Something green",
    ],
)  # fmt: skip
def test_an_idea_without_a_real_match_gets_no_offer(catalogue: Catalogue, text: str) -> None:
    assert offers_for(text, None, catalogue, None) == ()


def test_a_container_alone_is_no_match(shop: Shops) -> None:
    """A tea set is no painting set; nor is what only mentions tea in its description a tea set."""
    products = shop({"title": "Painting set"}, {"title": "Set of tools"}, {"title": "Cup", "description": "For tea."})
    assert offers_for("1. A tea set", None, products, None) == ()


def test_an_idea_that_nothing_answers_leaves_its_place_to_the_others(catalogue: Catalogue) -> None:
    offers = offers_for("1. A telescope\n2. A yoga mat\n3. A jazz record", None, catalogue, None)
    assert [offer.item for offer in offers[:2]] == ["A yoga mat", "A jazz record"]


@pytest.mark.parametrize("tag", ["[TEA_1]", "[tea 1]", "TEA_1", "[TEA_1", "Tea_1]", "[SET-12]"])
def test_tags_are_never_searched(catalogue: Catalogue, tag: str) -> None:
    assert words_in(f"A {tag} for hiking") == {"hiking": 1.0}


def test_a_product_and_a_title_come_once(shop: Shops) -> None:
    """Also under two ideas that it answers, and from two vendors."""
    products = shop({"title": "Tea cup"}, {"title": "Tea CUP", "vendor": "w"}, {"title": "Tea bowl"})
    offers = offers_for("1. A tea cup\n2. A tea bowl\n3. A tea cup", None, products, None)
    assert [offer.title.casefold() for offer in offers] == ["tea cup", "tea bowl"]


# --- Vendors ---------------------------------------------------------------------------------------------------------


def test_with_a_vendor_every_offer_is_of_exactly_that_vendor(catalogue: Catalogue) -> None:
    """For every vendor, on a text that mentions something of everybody's."""
    text = "tea, coffee, cover, chocolate, batik, mug, backpack, watercolour, jazz, novel, orchid, plush, ball, " \
           "ring, roses, camera, candle, lamp, hamper, class"  # fmt: skip
    vendors = {offer.vendor for offer in offers_for("- " + "\n- ".join(text.split(", ")), None, catalogue, None)}
    assert len(vendors) > 3
    for vendor in ("insurer", "advertiser", "daun-seduh", "kain-pesisir", "nobody"):
        offers = offers_for(text, None, catalogue, vendor)
        assert {offer.vendor for offer in offers} <= {vendor}
        assert bool(offers) == (vendor != "nobody")


def test_vendors_with_names_alike_are_apart(shop: Shops) -> None:
    products = shop(*({"title": f"Tea {v}", "vendor": v} for v in ("tea", "tea-tea", "tea-", "-tea", "teas", "a-tea")))
    for vendor in ("tea", "tea-tea", "tea-", "-tea", "teas", "a-tea"):
        assert [offer.vendor for offer in offers_for("1. Tea", None, products, vendor)] == [vendor]


# --- Budget ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("up to Rp 400.000", 0, 400_000), ("under 300 ribu", 0, 300_000), ("di bawah Rp 1,5 juta", 0, 1_500_000),
        ("max IDR 250k", 0, 250_000), ("IDR 250k max", 0, 250_000), ("Rp 500rb ke bawah", 0, 500_000),
        ("between Rp 100.000 and Rp 200.000", 100_000, 200_000), ("antara 100 dan 200 ribu", 100_000, 200_000),
        ("Rp 100-200 ribu", 100_000, 200_000), ("Rp 500.000 sampai Rp 1 juta", 500_000, 1_000_000),
        ("Budget: Rp 400.000.", 0, 400_000), ("your budget of Rp250.000", 0, 250_000), ("maksimal 150rb", 0, 150_000),
        ("anggaran sebesar Rp 300 ribuan", 0, 300_000), ("kurang dari Rp 99.000,-", 0, 99_000),
        ("below 1 million rupiah", 0, 1_000_000), ("up to IDR 250,000", 0, 250_000),
        ("under Rp 2.000.000,00", 0, 2_000_000),
        ("at least Rp 50.000", 50_000, None), ("around Rp 100.000", 70_000, 130_000),
        ("sekitar 1.5 juta", 1_050_000, 1_950_000),
    ],
)  # fmt: skip
def test_a_budget_is_read_as_it_is_written(text: str, least: int, most: int | None) -> None:
    budget = budget_in(f"These are all good, {text} a piece")
    assert budget is not None
    assert (budget.least, budget.most) == (least, most)
    assert budget.written in text


@pytest.mark.parametrize(
    "text", ["Rp 400.000", "A set (Rp 150.000)", "up to 4 people", "under 5 minutes", "from 3 to 5 years",
             "up to [PRICE_1]",
             "between you and me", "less than perfect"],
)  # fmt: skip
def test_what_is_no_budget_is_none(text: str) -> None:
    """A price alone is not one, nor a number that is no money."""
    assert budget_in(text) is None


def test_what_is_above_the_budget_comes_after_all_that_is_not(shop: Shops) -> None:
    """However well it fits otherwise; of any idea."""
    products = shop(
        {"title": "Porcelain tea set", "price": 400_001, "occasions": ["birthday"]},
        {"title": "Tea set", "price": 400_000},
        {"title": "Yoga mat", "price": 2_000_000}, {"title": "Porcelain tea set, small", "price": 90_000},
    )  # fmt: skip
    offers = offers_for("For a birthday, up to Rp 400.000:\n1. A yoga mat\n2. A tea set", None, products, None)
    assert ids(offers) == ["p-2", "p-4", "p-3", "p-1"]
    assert [("up to Rp 400.000" in offer.matched) for offer in offers] == [True, True, False, False]


def test_an_ideas_own_budget_overrules_the_replys(shop: Shops) -> None:
    products = shop({"title": "Tea set", "price": 300_000}, {"title": "Tea set, small", "price": 90_000})
    for text, first in (("1. A tea set under Rp 100.000\n\nIn all up to Rp 500.000", "p-2"), ("1. A tea set", "p-1")):
        assert ids(offers_for(text, None, products, None))[0] == first


# --- Occasion and city -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "occasion"),
    [
        ("for her birthday", "birthday"), ("untuk ulang tahunnya", "birthday"), ("kado ultah", "birthday"),
        ("your wedding anniversary", "anniversary"), ("ulang tahun pernikahan", "anniversary"),
        ("a wedding", "wedding"),
        ("pernikahan mereka", "wedding"), ("her graduation", "graduation"), ("hadiah wisuda", "graduation"),
        ("a housewarming party", "housewarming"), ("pindahan rumah", "housewarming"),
        ("baby shower", "new-baby"),
        ("kelahiran anaknya", "new-baby"), ("Eid al-Fitr", "eid"), ("hampers Lebaran", "eid"), ("Idul Fitri", "eid"),
        ("for Christmas", "christmas"), ("hari Natal", "christmas"), ("Lunar New Year", "lunar-new-year"),
        ("perayaan Imlek", "lunar-new-year"), ("Valentine's Day", "valentine"), ("hari kasih sayang", "valentine"),
        ("Mother's Day", "mothers-day"), ("Hari Ibu", "mothers-day"), ("a farewell", "farewell"),
        ("perpisahan kantor", "farewell"), ("our employees", "corporate"), ("untuk karyawan", "corporate"),
        ("a thank-you", "thank-you"), ("ucapan terima kasih", "thank-you"), ("Get well soon", "get-well"),
        ("semoga lekas sembuh", "get-well"), ("a trip to Bali", "travel"), ("liburan keluarga", "travel"),
    ],
)  # fmt: skip
def test_an_occasion_is_read_in_both_languages(text: str, occasion: str) -> None:
    found = occasions_in(text)
    assert next(iter(found)) == occasion
    assert found[next(iter(found))] in text


def test_every_occasion_can_be_read() -> None:
    """By the name that products have, with a space for the hyphen or not."""
    for occasion in OCCASIONS:
        assert occasion in occasions_in(occasion) and occasion in occasions_in(occasion.replace("-", " "))


def test_of_products_alike_the_one_for_the_occasion_comes_first(shop: Shops) -> None:
    """Named by the text, or by the sheet's title or id; and it is told how."""
    products = shop({"title": "Tea set"}, {"title": "Tea set in red", "occasions": ["birthday"]})
    for text, of, matched in (
        ("For your birthday:\n1. A tea set", None, ("Tea", "set", "birthday")),
        ("1. A tea set", sheet(title="Three gifts for a Birthday"), ("Tea", "set", "Birthday")),
        ("1. A tea set", sheet(id="ulang-tahun"), ("Tea", "set", "ulang tahun")),
    ):
        offers = offers_for(text, of, products, None)
        assert ids(offers) == ["p-2", "p-1"]
        assert (offers[0].matched, offers[1].matched) == (matched, ("Tea", "set"))


def test_every_sheet_of_the_examples_that_recommends_names_its_occasion() -> None:
    sheets = read_all(str(ROOT / "examples" / "sheets")).sheets
    found = {name: set(occasions_in(f"{s.sheet.title}\n{s.sheet.id}")) for name, s in sheets.items()}
    assert found["birthday"] == found["ulang-tahun"] == {"birthday"}
    assert "anniversary" in found["anniversary"] and found["corporate-holiday"] == {"corporate"}


def test_a_city_counts_only_where_the_text_names_one(shop: Shops) -> None:
    """Then what can be delivered there comes first; without cities, that is everywhere."""
    products = shop({"title": "Tea set", "cities": ["Medan"]},
                    {"title": "Tea set in red", "cities": ["Bogor", "Banda Aceh"]},
                    {"title": "Tea set in blue"})  # fmt: skip
    assert ids(offers_for("1. A tea set", None, products, None))[0] == "p-1"
    for text, city in (("in Bogor", "Bogor"), ("di banda aceh", "banda aceh"), ("BOGOR", "BOGOR")):
        offers = offers_for(f"Delivered {text}:\n1. A tea set", None, products, None)
        assert set(ids(offers)[:2]) == {"p-2", "p-3"}
        assert [city in offer.matched for offer in offers] == [True, True, False]


def test_a_city_that_is_also_a_word_counts_only_after_a_word_of_place(shop: Shops) -> None:
    """ "Solo" is Surakarta, where the text says so."""
    cities = frozenset({"surakarta", "padang"})
    assert query_of("Solo travel", cities).city == query_of("sepasang, di padang rumput", {"malang"}).city == ""
    assert (query_of("delivered in Solo", cities).city, query_of("delivered in Solo", cities).city_written) == (
        "surakarta",
        "Solo",
    )


# --- What an offer says ----------------------------------------------------------------------------------------------


def test_the_matched_words_are_the_products_as_fts5_marks_them(catalogue: Catalogue) -> None:
    """Its forms, not the reply's."""
    (offer, *_) = offers_for("1. Hikers' backpacks", None, catalogue, None)
    assert (offer.product, offer.matched) == ("jejak-rimba-001", ("backpack",))
    (offer, *_) = offers_for("1. A hike with a backpack", None, catalogue, None)
    assert offer.matched == ("hikes", "backpack", "hiking", "rucksack")


def test_titles_are_in_the_sheets_language(catalogue: Catalogue, shop: Shops) -> None:
    """English where a product has no other."""
    text = "1. Piringan hitam jazz"
    assert offers_for(text, sheet("id"), catalogue, None)[0].title == "Piringan hitam jazz, malam Jakarta"
    assert offers_for(text, sheet("en"), catalogue, None)[0].title == "Jazz record, Jakarta nights"
    assert offers_for(text, sheet("id"), shop({"title": "Jazz piringan"}), None)[0].title == "Jazz piringan"


def test_an_indonesian_list_finds_products_by_their_indonesian_words(catalogue: Catalogue) -> None:
    text = "Kado untuk kakak Anda:\n1. Benih bumbu dapur dengan pot kecil\n2. Kotak bumbu dari kayu\n3. Kaus sepak bola"
    offers = offers_for(text, sheet("id"), catalogue, None)
    assert ids(offers)[:3] == ["kebun-teras-001", "tungku-dapur-003", "lapangan-kita-001"]


def test_an_offer_is_the_product_as_the_catalogue_has_it(shop: Shops) -> None:
    products = shop({"title": "Tea set", "price": 123_456, "url": "https://a.example/x"})
    (offer,) = offers_for("1. A tea set", None, products, None)
    assert offer == Offer("p-1", "v", "Tea set", 123_456, "https://a.example/x", "A tea set", ("Tea", "set"))


# --- Any text --------------------------------------------------------------------------------------------------------

ODD = [
    '1. A "tea" set\n2. AND OR NOT\n3. NEAR(tea set, 3)', "1. tea* ^set title:tea -tea + tea ( \" ) { } : ; '' \\",
    "1. 🎁 A tea set 🎉\n2. 🫖", "1. A tea\x00 set\x00", "1. A tea \ud800 set\udfff",
    "1. ‮tea set‬ شاي תה", "tea " * 25_000,
    "1. A tea set\n" * 10_000, "- " + "tea set " * 12_000, "\n".join(f"{i}. item{i} tea" for i in range(10_000)),
    "[" * 100_000, "**" * 50_000, "1. " * 33_000, "Rp 1.000" * 12_000, "under " * 16_000, "under Rp " * 11_000,
    " " * 100_000, "\n" * 100_000, "1.\n" * 33_000, "a" * 100_000,
    "１. Ｔｅａ ｓｅｔ", "1. té\u0301a sét", "1. 茶 杯子",
    "- a\n" + " - b\n" * 20_000, "ulang " * 16_000, ": - " * 25_000, "Banda " * 16_000,
]  # fmt: skip


def check(offers: tuple[Offer, ...]) -> None:
    """That a device takes them."""
    assert len(offers) <= MAX_OFFERS
    final = wire.Final("", wire.Usage(1, 1, 1), offers)
    assert wire.decode_reply(wire.encode(final)) == final
    for offer in offers:
        assert offer.matched and (offer.item + "".join(offer.matched)).isprintable()


@pytest.mark.parametrize("text", ODD, ids=lambda text: repr(text[:12]))
def test_an_odd_text_is_answered_soon(catalogue: Catalogue, text: str) -> None:
    """Also 100 KB of it, and a list of 10,000 items."""
    began = time.perf_counter()
    check(offers_for(text, None, catalogue, None))
    check(offers_for(text, None, catalogue, "daun-seduh"))
    assert time.perf_counter() - began < 2  # some 0.1 s; a busy machine is slower


pieces = st.sampled_from([
    "1. ", "- ", "\n", "tea ", "set ", "Rp 400.000", "up to ", "under ", "[NAME_1]", '"', "AND ", "*", "**", ":",
    "Bogor ", "birthday ", "ulang tahun ", "(", ")", "\x00", "\ud800", "2) ",
])  # fmt: skip


@given(text=st.lists(pieces | st.text(max_size=6), max_size=30).map("".join))
@example("1. tea\n1. \n- set")
@QUICK
def test_any_text_is_answered(catalogue: Catalogue, text: str) -> None:
    check(offers_for(text, sheet("id", title=text[:100], id=text[:50]), catalogue, None))


# --- Written queries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queries", [QUERIES, SEEN_QUERIES], ids=lambda path: path.stem)
def test_written_queries_find_what_their_authors_expect(catalogue: Catalogue, queries: Path) -> None:
    """In nine of ten at least, one of the first three offers is one of the products that they name.

    Both sets are by people who had not seen the search. At the first look 21 of the 24 that are "seen" were found, one
    too few; they were then used to mend it, and are all found. At the first look at the other set, 18 of its 20 were
    found; nothing was changed after that.
    """
    written = tomllib.loads(queries.read_text())["query"]
    missed = [
        query["text"]
        for query in written
        if not set(query["expected"])
        & set(ids(offers_for(query["text"], None, catalogue, query["vendor"] or None))[:3])
    ]
    assert len(written) >= 20
    assert len(missed) <= round((1 - HIT_RATE) * len(written), 6), missed
