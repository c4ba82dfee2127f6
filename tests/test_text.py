"""Claims about what all texts have in common: how names, amounts and dates are written, and what a screen may get."""

from __future__ import annotations

import datetime as dt

import pytest

from llama.text.dates import day_in_words, utc
from llama.text.money import SCALES, number_of, rupiah
from llama.text.names import MAX_PARTY_NAME, is_field_name, is_party_name, is_prompt_id, name_rule
from llama.text.printable import escaped, printable


@pytest.mark.parametrize(("text", "party", "prompt", "field"), [
    ("toko-a", True, True, False),
    ("a" * 40, True, True, True),
    ("a" * 41, False, True, False),
    ("a" * 81, False, False, False),
    ("insurer/cover", False, True, False),
    (f"{'a' * 41}/cover", False, False, False),
    ("birth_date", False, False, True),
    ("Toko", False, False, False),
    ("toko\n", False, False, False),
    ("١", False, False, False),
    ("", False, False, False),
])  # fmt: skip
def test_a_name_is_of_few_characters_and_bounded(text: str, party: bool, prompt: bool, field: bool) -> None:
    assert (is_party_name(text), is_prompt_id(text), is_field_name(text)) == (party, prompt, field)
    assert name_rule(MAX_PARTY_NAME) == "1 to 40 of a-z, 0-9 and -"


def test_a_screen_gets_text_and_nothing_that_it_would_obey() -> None:
    """Not the controls, nor the signs that turn the direction of writing; tabs, lines' ends and all letters stay."""
    left_out = {*range(0x09), 0x0B, 0x0C, *range(0x0D, 0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F),
                *range(0x2066, 0x206A)}  # fmt: skip
    assert {code for code in range(0x110000) if not printable(chr(code))} == left_out
    assert escaped('"a\x1b\u202e\tb\n"') == '"a\\u001b\\u202e\tb\n"'


@pytest.mark.parametrize(("digits", "number"), [
    ("250", 250), ("0012", 12), ("1.250.000", 1250000), ("1,250", 1250), ("1 250 000", 1250000), ("1,5", 1.5),
    ("12.75", 12.75), ("1234.567", 1234567), ("1.25.30", None), ("12,37,500", None),
])  # fmt: skip
def test_digits_are_a_number_where_they_can_be_read_in_one_way(digits: str, number: float | None) -> None:
    assert number_of(digits) == number


def test_rupiah_are_written_and_scaled_as_in_indonesia() -> None:
    assert rupiah(400_000) == "Rp 400.000" and rupiah(0) == "Rp 0"
    assert SCALES["juta"] == SCALES["million"] == 1000 * SCALES["ribu"]


def test_a_day_is_written_in_words_and_a_moment_in_utc() -> None:
    """A moment's fraction of a second is left away."""
    assert day_in_words(dt.date(1991, 8, 17), "en") == "17 August 1991"
    assert day_in_words(dt.date(1991, 8, 17), "id") == "17 Agustus 1991"
    assert utc(1764167400.9) == "2025-11-26T14:30:00Z"
