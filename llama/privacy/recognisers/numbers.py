"""Numbers of identity cards, families, taxes, payment cards, accounts, passports and cars; other long numbers.

NIK and KK: Permendagri 25/2011 (6 digits of region, then for a NIK day (women: + 40), month, year, 4 of a serial
number). NPWP: 15 digits of which the ninth is a Luhn check digit. Cards: ISO/IEC 7812. IBAN: ISO 13616.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from stdnum import iban, luhn

from llama.privacy.recognisers.recogniser import FirstOf, PatternRecogniser, Recogniser, Span

_NUMBER = re.compile(r"(?<![\w])\+?\(?\d(?:[ \t.\-–/()]{0,2}\d)+(?!\w)")
_NPWP = re.compile(r"(?<!\d)\d{2}\.?\d{3}\.?\d{3}\.?\d-?\d{3}\.?\d{3}(?!\d)")
_CARD_DETAIL = re.compile(
    r"(?<!\w)(?:cvv2?|cvc2?|exp(?:iry|ires)?|berlaku)[\s.:]{0,3}(?:\d{3,4}(?!\d)|\d{2}\s?/\s?\d{2,4}(?!\d))"
)
_SSN = re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])")
_PLATE = re.compile(r"(?<![\w])(?:[A-Z]{1,2})[ -]?\d{1,4}[ -]?[A-Z]{1,3}(?![\w])")
_PASSPORT = re.compile(r"(?<![\w])[A-Z]{1,2}\d{6,8}(?!\w)")
_IBAN = re.compile(r"(?<!\w)[a-z]{2}\d{2}(?: ?[a-z0-9]{1,4}){3,8}(?!\w)")
_SHORTEST_IBAN = 15

# Words before a number that tell its kind.
_CURRENCY = re.compile(r"(?:rp\.?|idr|usd|us\$|sgd|eur|gbp|[$€£])\s?$")
_ACCOUNT = re.compile(
    r"\b(?:rek(?:ening)?|norek|no\.? ?rek|account|acct|a/c|acc|va|virtual account|bca|bni|bri|mandiri|cimb|permata|bsi|"
    r"btn|danamon|seabank|jago|gopay|ovo|dana)\b[^\d\n]{0,25}$"
)
_ID = re.compile(
    r"\b(?:nik|ktp|kk|kartu keluarga|npwp|nip|nis|sim|paspor|passport|ssn|social security|bpjs|policy|polis|member|"
    r"customer|id|identity|licen[cs]e|booking|order|resi|invoice)\b[^\d\n]{0,20}$"
)

_GROUPED_AMOUNT = re.compile(r"\d{1,3}(?:\.\d{3})+(?:,\d{1,2})?|\d{1,3}(?:,\d{3})+(?:\.\d{1,2})?")


def is_grouped_amount(number: str) -> bool:
    """Return whether the digits stand in groups of three, as in an amount: ``1.500.000``, ``1,299.99``."""
    return _GROUPED_AMOUNT.fullmatch(number) is not None


def is_nik(number: str) -> bool:
    """Return whether 16 digits form a NIK: a province from 11 to 99, and a day (women: + 40) and month of birth."""
    digits = _digits(number)
    if len(digits) != 16:
        return False
    day, month = int(digits[6:8]) % 40, int(digits[8:10])
    return int(digits[:2]) >= 11 and int(digits[6:8]) <= 71 and 1 <= day <= 31 and 1 <= month <= 12


def is_card(number: str) -> bool:
    """Return whether length and check digit are those of a payment card; 4444 4444 4444 4448 is none."""
    digits = _digits(number)
    return 13 <= len(digits) <= 19 and luhn.is_valid(digits) and len(set(digits)) > 2


def is_npwp(number: str) -> bool:
    """Return whether 15 digits have an NPWP's check digit, or at least its points."""
    return luhn.is_valid(_digits(number)[:9]) or "." in number


def iban_in(value: str) -> Span | None:
    """Return the longest beginning that is an IBAN. A word that follows one may look like one more group of it."""
    lengths = range(len(value), _SHORTEST_IBAN - 1, -1)
    return next(((0, length) for length in lengths if iban.is_valid(value[:length].strip())), None)


def _digits(number: str) -> str:
    return re.sub(r"\D", "", number)


def _has_digits(at_least: int) -> Callable[[str], bool]:
    return lambda number: len(_digits(number)) >= at_least


def _is_no_amount(number: str) -> bool:
    """Return whether the number is no amount, also without its brackets."""
    return not is_grouped_amount(number.strip("() "))


def _is_written_as_npwp(number: str) -> bool:
    return _NPWP.fullmatch(number) is not None


def _long_number(
    kind: str, *validators: Callable[[str], bool], before: re.Pattern[str] | None = None, outside_dates: bool = False
) -> PatternRecogniser:
    """Return a row for numbers of any length that are no amounts of money."""
    return PatternRecogniser(
        kind,
        _NUMBER,
        folded=True,
        before=before,
        not_before=_CURRENCY,
        validators=(_is_no_amount, *validators),
        outside_dates=outside_dates,
    )


RECOGNISERS: tuple[Recogniser, ...] = (
    FirstOf(
        (
            _long_number("ID", is_nik),
            _long_number("CARD", is_card),
            _long_number("ACCOUNT", _has_digits(at_least=5), before=_ACCOUNT),
            _long_number("ID", _has_digits(at_least=5), before=_ID),
            _long_number("ID", _is_written_as_npwp),
            _long_number("NUMBER", _has_digits(at_least=8), outside_dates=True),
        )
    ),
    PatternRecogniser("ID", _NPWP, folded=True, validators=(is_npwp,)),
    PatternRecogniser("CARD", _CARD_DETAIL, folded=True),
    PatternRecogniser("ID", _SSN, folded=True),
    PatternRecogniser("ID", _PLATE),
    PatternRecogniser("ID", _PASSPORT),
    PatternRecogniser("ACCOUNT", _IBAN, folded=True, narrow=iban_in),
)
