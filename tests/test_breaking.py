"""What a reviewer broke, and what was honest but refused: long rows of signs, towns called St Albans, plurals."""

from __future__ import annotations

import time
from typing import Any

import pytest

from llama.chat import Llama3Format
from llama.privacy.preparing import Prepared, prepare
from llama.privacy.profile import profile_from
from llama.prompt import SourcedPrompt
from llama.sheets import Sheet
from llama.tokenizer import Tokenizer

LONG = 16_000  # characters
BOUND_S = 8.0  # a hundred times what it takes; what it took was minutes


def prepared(profile: dict[str, Any], notes: str, tokenizer: Tokenizer, *asks: str) -> Prepared:
    """A sheet that asks for the notes, and for what else is named."""
    sheet = Sheet(("What?",), asks_for=(*asks, "notes"))
    fields = profile_from({**profile, "notes": notes})
    return prepare(
        SourcedPrompt(sheet, "provider:x", "x"), fields, "schema", Llama3Format(tokenizer), tokenizer, 1 << 20
    )


def sent(profile: dict[str, Any], notes: str, tokenizer: Tokenizer, *asks: str) -> str:
    """What leaves."""
    return prepared(profile, notes, tokenizer, *asks).dialog[-1].content


@pytest.mark.parametrize(
    ("profile", "piece"),
    [
        ({"income": 12_500_000}, "Order 1234567890123456789012345678901a "), ({"income": 12_500_000}, "1,"),
        ({"income": 12_500_000}, "1a "), ({"name": "Sari Wulandari"}, "nyakulah"), ({"name": "Sari Wulandari"}, "中文"),
        ({"card": "4111 2222 3333 7890"}, "*"), ({"card": "4111 2222 3333 7890"}, "…"),
        ({"card": "4111 2222 3333 7890"}, "x"), ({"diagnosis": "diabetes"}, " "),
        ({"address": "Jl. Melati No. 5, Bandung 40115"}, "Jl. Melati No. "), ({"phone": "0812-3456-7890"}, "|"),
        ({"name": "Sari Wulandari " * 20}, "Sari "), ({"phone": "0812-3456-7890"}, "0812-"),
        ({"income": "1," * 5000}, "1,"), ({"api_key": "93457612039487561029384a"}, "93457612039487561029384a "),
        ({"address": "Jl. Melati 5, " + "." * 15_000 + "b"}, "."),
        ({"address": "Jl. Melati 5, Nevsky Court, " * 300}, "Nevsky Court 5 melati "),
    ],
    ids=lambda each: repr(each)[:24],
)  # fmt: skip
def test_a_long_row_of_anything_takes_no_longer_than_its_length(
    profile: dict[str, Any], piece: str, tokenizer: Tokenizer
) -> None:
    """A hash, a tracking number, a line of stars; nothing that anybody pastes may hold the device up."""
    notes = "my diabetes" + (piece * (LONG // len(piece) + 1))[:LONG] + "x"
    began = time.monotonic()
    prepared(profile, notes, tokenizer)
    assert time.monotonic() - began < BOUND_S


@pytest.mark.parametrize(
    "address",
    [
        "12 High Road, St Albans, AL1 1AA", "4 Market Street, St Andrews, KY16 9NT",
        "1 Main St, St. Petersburg, FL 33701",
        "Denpasar, Denpasar 80111", "Manchester, Manchester M1 1AA", "Yogyakarta, Kota Yogyakarta 55223",
        "Jakarta Selatan, Jakarta Selatan 12190",
    ],
)  # fmt: skip
def test_an_address_is_never_refused_for_its_towns_name(address: str, tokenizer: Tokenizer) -> None:
    """St Albans is no street."""
    prepared({"address": address}, "nothing", tokenizer, "address")
    town = address.split(",")[-2].strip()
    prepared({"address": address}, f"We live in {town}.", tokenizer)


@pytest.mark.parametrize(
    ("profile", "notes"),
    [
        ({"occupation": "gardener"}, "I like to garden"), ({"occupation": "photographers"}, "for a photographer"),
        ({"lucky_numbers": "7, 11, 23"}, "7 November"), ({"size_note": "size 7 - 8 / 90"}, "7 August"),
        ({"income": "25-50 dollars"}, "people aged 25-50"), ({"diagnosis": "migraines"}, "my migraine"),
        ({"allergies": "gluten, peanuts"}, "no peanut"),
    ],
)  # fmt: skip
def test_honest_notes_are_never_refused(profile: dict[str, Any], notes: str, tokenizer: Tokenizer) -> None:
    """A gate that refuses what everybody says is switched off."""
    prepared(profile, notes, tokenizer)


@pytest.mark.parametrize(
    ("profile", "notes", "absent"),
    [
        ({"allergies": "peanuts, eggs"}, "no peanut butter, egg-free cake", ("peanut", "egg-")),
        ({"diagnosis": "migraines"}, "I get a migraine often", ("migraine",)),
        ({"debt": 5000}, "five thousand 100 times", ("five thousand",)),
        ({"debt": 5000}, "lima ribu 100 kali", ("lima ribu",)),
        ({"income": 12_500_000}, "dua belas setengah juta tiga juta sisanya", ("dua belas setengah juta",)),
        ({"income": 12_500_000}, "12 juta setengah per bulan", ("12 juta",)),
        ({"card": "4111 2222 3333 1486"}, "kartu …1486", ("1486",)),
        ({"wedding_date": "12 May 2015"}, "our anniversary is 12/5", ("12/5",)),
    ],
)  # fmt: skip
def test_everyday_ways_that_got_through_are_found(
    profile: dict[str, Any], notes: str, absent: tuple[str, ...], tokenizer: Tokenizer
) -> None:
    """Singulars, amounts beside other numbers in words, one sign for three points."""
    text = sent(profile, notes, tokenizer)
    assert not [each for each in absent if each in text], text


@pytest.mark.parametrize(
    ("profile", "notes"),
    [
        ({"employer": "Cahaya Empat Ombak"}, "our CEO said"), ({"employer": "Kantor Tata Pemerintahan"}, "bawa KTP"),
        ({"school": "University of South Africa"}, "a trip to the USA"),
        ({"income": 12_500_000}, "12 guests, 500 words"),
    ],
)  # fmt: skip
def test_initials_of_everybodys_are_left_alone(profile: dict[str, Any], notes: str, tokenizer: Tokenizer) -> None:
    """Letters that half the world's bodies begin with."""
    assert notes in sent(profile, notes, tokenizer)


@pytest.mark.parametrize(
    ("profile", "notes"),
    [
        ({"income": 12_500_000}, "It was 12,6 juta then."),
        ({"birth_date": "12 April 1991"}, "On day 12 of month 4, yes."),
        ({"name": "Sari Wulandari"}, "Ask wulandri."), ({"card": "4111 2222 3333 1486"}, "It is **1486."),
    ],
)  # fmt: skip
def test_what_is_nearly_a_value_comes_back_as_it_was_written(
    profile: dict[str, Any], notes: str, tokenizer: Tokenizer
) -> None:
    """Or another amount, a whole date or somebody's name would stand there."""
    done = prepared(profile, notes, tokenizer)
    text = done.dialog[-1].content
    for tag, value in done.sanitiser.tags.items():
        text = text.replace(tag, value)
    assert notes in text
