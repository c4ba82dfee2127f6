"""Claims about what is told by the words around it: the lexicon, the features, the entity recogniser, small cases.

How much is found in texts by independent authors is the evaluation's: ``python -m tests.benchmarks.undeclared``.
"""

from __future__ import annotations

import threading

import pytest

from llama.privacy.lexicon import Entry, all_entries, entry, letter_groups, name_score, plain
from llama.privacy.profile import Profile, profile_from
from llama.privacy.recognisers import hits_in
from llama.privacy.recognisers.entities import entities_in
from llama.privacy.recognisers.entity_features import features_of, tokens_of
from llama.privacy.sanitiser import Sanitiser
from tests.benchmarks.undeclared import Share, measure, product
from tests.labelled_texts import KINDS, NOT_COUNTED, ROOT, labelled_texts


def cleaned(text: str, **declared: object) -> str:
    """What would leave of a person's own words."""
    return Sanitiser(profile_from(declared) if declared else Profile(), own=[text]).clean(text).text


# ---- the lexicon


def test_the_lexicon_tells_names_from_words() -> None:
    """With how common each is, in both languages."""
    assert entry("sarah").given == 3 and entry("siregar").surname >= 1
    assert entry("the") == Entry(0, 1, 8, 6) or entry("the").english >= 7
    assert entry("perpustakaan").given == 0 and entry("perpustakaan").indonesian >= 4
    assert entry("qqzx") == Entry(0, 0, 0, 0)
    assert len(all_entries()) > 200_000


def test_a_name_that_no_list_has_is_judged_by_its_letters() -> None:
    """More of them look like names than ordinary words do."""
    assert plain("Déborà") == "debora" and letter_groups("ab")[0] == "<a"
    names = [name_score(word) for word in ("voula", "dazza", "soula", "tahmina", "okafor")]
    words = [name_score(word) for word in ("perpustakaan", "grandmother", "biscuit", "blanket", "wallpaper")]
    assert min(names) > max(words)


# ---- the features


def test_a_word_knows_the_label_that_it_stands_under() -> None:
    """The word before a colon, a key of JSON, the head of a column."""
    texts = ("Nama: Wayan", '{"nama": "Wayan", "qty": 2}', "nama | kota\nWayan | Ubud", "nama,kota\nWayan,Ubud")
    for text in texts:
        (word,) = [token for token in tokens_of(text) if text[token.start : token.end] == "Wayan"]
        assert "nama" in word.labels, text
    (town,) = [token for token in tokens_of(texts[2]) if texts[2][token.start : token.end] == "Ubud"]
    assert town.labels == ["kota"]


def test_every_token_has_features_and_a_place_in_the_text() -> None:
    """In order, without overlaps; for any text."""
    text = "O'Brien's 😊 no.7\n\n– naïve Ünal_x 081-23 “Zoë”\t|"
    tokens = tokens_of(text)
    assert len(features_of(tokens)) == len(tokens)
    ends = [0]
    for token in tokens:
        assert ends[-1] <= token.start < token.end
        ends.append(token.end)
    assert tokens_of("") == [] and list(entities_in("", ())) == []


def test_several_threads_may_look_at_texts() -> None:
    """A tagger holds one text at a time; each thread gets its own text's answer."""
    texts = [f"Please send it to my friend Wendell Okafor and {name} Mbeki in Leeds tomorrow." for name in "ABCDEFGH"]
    alone, together = [hits_in(text) for text in texts], dict[str, list[object]]()
    threads = [
        threading.Thread(target=lambda t=t: together.update({t: [hits_in(t) for _ in range(20)]})) for t in texts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(each == expected for text, expected in zip(texts, alone, strict=True) for each in together[text])


# ---- small cases from real reports


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("NIK saya 3273‑0152‑0491‑0003.\nKartu 4111‐1111‐1111‐1111 habis masa berlakunya.", ["3273", "0491", "4111"]),
        ("WA081234567890", ["34567890"]),
        ("NIK3273015204910003", ["3273015204910003"]),
        ("norek1234567890", ["1234567890"]),
        ("hubungi 081234567890ya", ["34567890"]),
        ("NI number QQ 12 34 56 C or ab123456c", ["123456", "12 34"]),
        ("my NRIC is s1234567d", ["1234567"]),
        ("passport c1234567", ["1234567"]),
        ("GB82-WEST-1234-5698-7654-32", ["WEST", "5698"]),
        ("plat mobil b 1234 xyz", ["1234"]),
        ("member no. AB-12345", ["12345"]),
        ("born on the 17th day of August 1985", ["17th", "1985"]),
    ],
)  # fmt: skip
def test_a_number_is_found_however_it_is_typed(text: str, gone: list[str]) -> None:
    """Typographic hyphens, letters that touch it, any grouping, small letters after its word."""
    left = cleaned(text)
    assert not [part for part in gone if part in left]


@pytest.mark.parametrize(
    "text",
    [
        "budget 1500000", "harga Rp. 1500000", "IDR 1500000", "dari 500000 sampai 1500000", "buka jam 08.00-17.00 WIB",
        "tahun ajaran 2024-2025 dan 2025/2026",
        "an M2 SSD, a PS5 VR headset, a UB40 LP, an SD 128 GB card and an E27 LED lamp",
    ],
)  # fmt: skip
def test_prices_hours_years_and_products_stay_readable(text: str) -> None:
    """Also as a field of the profile."""
    assert cleaned(text) == text
    field = Sanitiser(profile_from({"budget": "1500000"})).field_text("budget")
    assert field is not None and field.text == "1500000"


def test_a_declared_name_is_found_across_the_end_of_a_line() -> None:
    """Hyphenated, as in a letter; and a birth date whose parts have labels."""
    assert "ga," not in cleaned("Hadiah untuk Rang-\nga, sahabat saya.", name="Rangga Wiratama")
    left = cleaned("tgl 17 bln 8 thn 1985", birth_date="1985-08-17")
    assert not [part for part in ("17", "1985") if part in left]


# ---- the labelled texts


@pytest.mark.parametrize("language", ["en", "id"])
def test_the_texts_are_as_many_as_claimed_and_their_labels_are_known(language: str) -> None:
    """The open half of at least 300 texts with personal data and 300 without; the other half is only counted."""
    texts = labelled_texts("open", language)
    assert sum(text.personal for text in texts) >= 140 and sum(not text.personal for text in texts) >= 140
    assert {value.kind for text in texts for value in text.values} <= {*KINDS, *NOT_COUNTED, "public"}
    assert {text.form for text in texts} == {"chat", "form", "note", "table", "json", "list", "voice"}
    heads = [
        line.split()[1]
        for half in ("open", "sealed")
        for file in (ROOT / half).glob(f"{language}-*.txt")
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.startswith("=== ")
    ]
    assert heads.count("personal") >= 300 and heads.count("clean") >= 300


@pytest.mark.parametrize("language", ["en", "id"])
def test_what_was_fitted_to_is_found(language: str) -> None:
    """A tenth of the open half. It shows that the fitted file belongs to this code, not how good it is."""
    figures = measure(product, labelled_texts("open", language)[::10])
    assert figures.share("all promised kinds").value > 0.95 and figures.clean.value < 0.03


def test_an_interval_is_wilsons() -> None:
    """Values of the literature: 10 of 10, and 81 of 263 (Newcombe 1998, table I)."""
    assert [round(each, 4) for each in Share(81, 263).interval] == [0.2553, 0.3662]
    assert round(Share(10, 10).interval[0], 4) == 0.7225
