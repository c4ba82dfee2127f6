"""The forms that docs/privacy.md lists as not found: an example of each, so that the list stays true."""

from __future__ import annotations

import datetime as dt
import re

import pytest

from llama.privacy.profile import Value
from tests.processes import ROOT
from tests.test_variants import index_of

BIRTH = dt.date(1991, 4, 12)
NOT_FOUND: tuple[tuple[str, str, Value, str], ...] = (
    ("one or two letters", "name", "Na", "na suka teh"),
    ("one to three digits", "locker", "219", "loker 219"),
    ("answers such as yes, no, belum", "married", "belum", "belum tahu"),
    ("nicknames and cut names", "name", "Sari Wulandari", "Wulan suka teh"),
    ("initials", "name", "Sari Wulandari", "salam, S.W."),
    ("two letters wrong", "name", "Sari Wulandari", "wulndri suka teh"),
    ("or one in a short part", "name", "Sari Wulandari", "untuk Sarri"),
    ("or one that makes an everyday word", "name", "Marina Salim", "untuk marine"),
    ("single word without its kind", "address", "77 Nevsky Court, Brighton BN1 1AA", "we live in Nevsky"),
    ("another word", "diagnosis", "diabetes", "kencing manis"),
    ("a translation", "religion", "Catholic", "orang Katolik"),
    ("everyday words of a value", "diagnosis", "high blood pressure", "under pressure"),
    ("a month misspelt", "birth_date", BIRTH, "born 12 Aprill 1991"),
    ("a day alone", "birth_date", BIRTH, "born on the 12th"),
    ("a year or an age that no word announces", "birth_date", BIRTH, "1991 was cold; table 35"),
    ("two days after Christmas", "birth_date", dt.date(1991, 12, 27), "born two days after Christmas"),
    ("an amount per year", "income", 14_250_000, "171 juta setahun"),
    ("as a range or a sum", "income", 14_250_000, "antara 13 dan 16 juta"),
    ("gocap", "debt", 50_000, "utang gocap"),
    ("up to five digits of a longer number", "card", "4111 2222 3333 7890", "kursi 33337, meja 7890"),
    ("digits in words", "phone", "0812-3450-7890", "kosong delapan satu dua tiga empat"),
    ("words between groups of digits", "phone", "0812-3450-7890", "0812 lalu 3450 lalu 7890"),
    ("a masked middle", "card", "4111 2222 3333 7890", "4111-****-****"),
    ("Base64", "name", "Hartono", "SGFydG9ubw=="),
    ("JSON", "name", "Hartono", r"\u0048\u0061\u0072tono"),
    ("quoted-printable", "name", "Müller", "M=C3=BCller"),
    ("HTML entities", "name", "Müller", "M&uuml;ller"),
    ("leetspeak", "name", "Hartono", "h4rt0n0"),
    ("spelled backwards", "name", "Hartono", "onotrah"),
    ("letters of other alphabets that look", "name", "Hartono", "Hаrtоnо"),
)  # fmt: skip


@pytest.mark.parametrize(("says", "field", "value", "text"), NOT_FOUND, ids=[each[0] for each in NOT_FOUND])
def test_a_form_that_is_listed_as_not_found_is_not_found(says: str, field: str, value: Value, text: str) -> None:
    """When one is found, the page may promise more."""
    page = " ".join((ROOT / "docs" / "privacy.md").read_text(encoding="utf-8").split())
    (listed,) = re.findall(r" ## Forms that are not found (.*?) ## ", page)
    assert says in listed
    assert index_of(field, value).find(text) == []
