"""Claims about personal data in free text that nobody has declared: how much is found, published as numbers.

The texts are of templates written apart from the patterns (``tests/free_text.py``); ``python -m
tests.benchmarks.sanitising`` prints the figures by kind, with a peer's beside them.
"""

from __future__ import annotations

import re

import pytest

from llama.privacy.normalised import NormalisedText
from llama.privacy.profile import Profile
from llama.privacy.recognisers import hits_in
from llama.privacy.recognisers.numbers import is_nik
from llama.privacy.recognisers.recogniser import FirstOf, Hit, PatternRecogniser, without_trailing
from llama.privacy.sanitiser import Sanitiser
from tests.benchmarks.sanitising import AIMS, SEED, TEXTS, Figures, declared, measure, patterns
from tests.conftest import ROOT
from tests.free_text import samples


@pytest.fixture(scope="module", params=sorted(AIMS))
def language(request: pytest.FixtureRequest) -> str:
    """Indonesian, English."""
    text: str = request.param
    return text


@pytest.fixture(scope="module")
def found(language: str) -> Figures:
    """What the patterns find in 500 texts."""
    return measure(patterns, samples(TEXTS, language, 500, SEED))


def test_patterns_find_as_much_as_was_aimed_at(language: str, found: Figures) -> None:
    """More than nine in ten values, and little else masked. Companies, which are masked too, count as ordinary here."""
    assert found.recall >= AIMS[language]
    assert found.over_masked <= 0.08


def test_what_has_a_form_of_its_own_is_always_found(found: Figures) -> None:
    """Numbers, dates, mail: there are no near misses."""
    kinds = {"PHONE", "EMAIL", "NIK", "KK", "NPWP", "CARD", "ACCOUNT", "DOB"} & found.by_kind.keys()
    assert {kind: found.by_kind[kind] for kind in kinds} == dict.fromkeys(kinds, 1.0)


def test_whatever_the_profile_declares_is_found(language: str) -> None:
    """The ring that needs no luck."""
    figures = measure(declared, samples(TEXTS, language, 500, SEED))
    assert figures.recall == 1.0


def test_the_privacy_page_publishes_these_figures(language: str, found: Figures) -> None:
    """To two digits."""
    row = re.search(rf"^\| {language} \|.*$", (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert row is not None
    for share in (found.recall, found.over_masked, found.by_kind["NAME"], found.by_kind["ADDRESS"]):
        assert f" {share:.2f} " in row[0], (share, row[0])


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("3273 0152 0491 0003", {"ID"}),  # a woman's: day + 40
        ("32.73.01.12.04.91.0003", {"ID"}),
        ("4539 1488 0343 6467", {"CARD"}),
        ("GB82 WEST 1234 5698 7654 32", {"ACCOUNT"}),
        ("01.855.081.4-412.000", {"ID"}),
        ("0812-3456-7890", {"PHONE"}),
        ("+62 22 7501234", {"PHONE"}),
        ("(415) 555-2671", {"PHONE"}),
        ("https://wa.me/6281234567890", {"URL"}),
        ("instagram.com/sari.w", {"URL"}),
        ("17 Agustus 1990", {"DATE"}),
        ("August 17th, 1990", {"DATE"}),
        ("Jl. Kenanga III No. 7 RT 03/RW 05", {"ADDRESS"}),
        ("221B Baker Street, London NW1 6XE", {"ADDRESS"}),
        ("B 1234 XYZ", {"ID"}),
        ("Penhallow & Sons Trading Ltd", {"ORG"}),
        ("PT Maju Jaya Abadi", {"ORG"}),
    ],
)
def test_each_pattern_finds_its_kind(text: str, kinds: set[str]) -> None:
    """All of the text is covered, by this kind as the widest hit."""
    hits = hits_in(f"see {text}, ok")
    widest = max(hits, key=lambda hit: hit.end - hit.start)
    assert {widest.kind} == kinds and (widest.start, widest.end) == (4, 4 + len(text))


@pytest.mark.parametrize(
    "text",
    [
        "Rp 1.500.000 for 3 people", "400.000 per orang, 25 orang", "12 December, 17 Agustus, 09:30", "budget 1,5 juta",
        "Rp 12.500.000,00", "iPhone 15 Pro 256 GB", "What is the capital of France?", "$1,299.99 each", "ISO 9001",
        "4/5 stars",
        "https://shop.example/gifts", "tea, hiking, painting", "We are 25 people in Jakarta", "the 1990s",
    ],
)  # fmt: skip
def test_ordinary_text_is_left_alone(text: str) -> None:
    """Prices, quantities, days without a year, places, brands."""
    assert Sanitiser(Profile(), own=[text]).clean(text).text == text


def test_an_account_is_known_by_the_word_before_it() -> None:
    """A bare number of ten digits could be anything; it is masked all the same."""
    assert Sanitiser(Profile()).clean("rek BCA 1234567890, 1234567899").text == "rek BCA [ACCOUNT_1], [NUMBER_1]"


def test_the_structure_of_a_nik_is_checked() -> None:
    """Province, day of birth (women: + 40) and month."""
    assert is_nik("3273015204910003") and is_nik("3273011204910003")
    assert not any(is_nik(n) for n in ("0973011204910003", "3273013204910003", "3273017204910003", "3273011213910003"))


def test_a_row_needs_its_context_and_its_validators() -> None:
    """Before the match, within the window; the validators see the narrowed value."""
    row = PatternRecogniser(
        "ID", re.compile(r"\d[\d.]+"), folded=True, before=re.compile(r"pin:? $"), not_before=re.compile("no pin"),
        narrow=without_trailing("."), validators=(lambda pin: len(pin) == 4,),
    )  # fmt: skip
    text = "PIN 1234. Pin: 12345, 6789, no pin 1111, pin " + " " * 40 + "2222"
    assert list(row.find(NormalisedText(text))) == [Hit(4, 8, "ID")]


def test_a_row_takes_one_group_of_its_match_and_may_look_outside_dates_only() -> None:
    """A cue is no part of the value; a day is no number."""
    row = PatternRecogniser("NUMBER", re.compile(r"on (\d[\d-]+)"), group=1, outside_dates=True)
    assert list(row.find(NormalisedText("on 1990-08-17, on 555-17"))) == [Hit(18, 24, "NUMBER")]


def test_one_place_is_of_the_first_kind_that_fits() -> None:
    """The next kind gets what is left, and what lies elsewhere."""
    short = PatternRecogniser("ID", re.compile(r"\d+"), validators=(lambda digits: len(digits) == 2,))
    any_number = PatternRecogniser("NUMBER", re.compile(r"\d+"))
    hits = FirstOf((short, any_number)).find(NormalisedText("12 345"))
    assert list(hits) == [Hit(0, 2, "ID"), Hit(3, 6, "NUMBER")]
