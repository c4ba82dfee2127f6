"""Numbers of identity cards, families, taxes, payment cards, accounts, passports and cars; other long numbers.

NIK and KK: Permendagri 25/2011 (6 digits of region, then for a NIK day (women: + 40), month, year, 4 of a serial
number). NPWP: 15 digits of which the ninth is a Luhn check digit. Cards: ISO/IEC 7812. IBAN: ISO 13616.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from stdnum import iban, luhn

from llama.privacy.recognisers.recogniser import FirstOf, PatternRecogniser, Recogniser, Span, without_trailing

_NUMBER = re.compile(r"(?<![\w])\+?\(?\d(?:[ .\-–/()]{0,2}\d)+(?!\w)")
_TOUCHING = re.compile(r"(?<=[^\W\d_])\d(?:[ .-]?\d){8,30}(?!\d)|(?<!\d)\d(?:[.-]?\d){8,30}(?=[^\W\d_])")
_AFTER_ITS_WORD = re.compile(
    r"(?<![^\W_])(?:nik|ktp|kk|npwp|norek|rek|rekening|no|nomor|hp|wa|telp|tlp|sim|nip|nisn?|nim|bpjs|acct?|id)"
    r"(\d(?:[ .-]?\d){5,30})(?!\d)"
)
_NPWP = re.compile(r"(?<!\d)\d{2}\.?\d{3}\.?\d{3}\.?\d-?\d{3}\.?\d{3}(?!\d)")
_CARD_DETAIL = re.compile(
    r"(?<!\w)(?:cvv2?|cvc2?|exp(?:iry|ires)?|berlaku)[\s.:]{0,3}(?:\d{3,4}(?!\d)|\d{2}\s?/\s?\d{2,4}(?!\d))"
)
_SSN = re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])")
# Indonesian plates begin with the code of a region (Perpol 7/2021); the same sign, or none, stands on both sides of the
# number. British ones: two letters, two digits, three letters (since 2001), or a letter, digits, three letters.
_PLATE_ID = re.compile(
    r"(?<!\w)(?:A[ABDEG]?|B[ABDEGHKLMNPR]?|D[ABCDEGHKLMNRSTW]?|E[ABDE]?|F|G|H|K[BHTU]?|L|M|N|P[ABGSTY]?|R|S|T|W|Z)"
    r"([ -]?)\d{1,4}\1[A-Z]{1,3}(?!\w)"
)
_PLATE_GB = re.compile(r"(?<!\w)(?:[A-Z]{2}\d{2} ?[A-Z]{3}|[A-Z]\d{1,3} ?[A-Z]{3}|[A-Z]{3} ?\d{1,3}[A-Z])(?!\w)")
_PLATE_AFTER_ITS_WORD = re.compile(
    r"\b(?:plat(?:e|nya)?(?: nomor)?|no\.? ?pol(?:isi)?|nopol|reg(?:istration)?|rego|number plate|licen[cs]e plate)\b"
    r"[\s.:=#|\"']{0,4}(?:(?:no|nomor|number|is|nya|mobil|motor)\b[\s.:=]{0,3}){0,2}"
    r"((?=[a-z0-9 -]{0,24}\d)[a-z0-9]{1,8}(?:[ -][a-z0-9]{1,5}){0,3})(?!\w)"
)
_PASSPORT = re.compile(r"(?<![\w])[A-Z]{1,2}\d{6,8}(?!\w)")
# Capital letters of a plate that are the unit or the short name of a product: SD 128 GB, B 500 ML.
_PRODUCT_ENDS = re.compile(
    r"(?:GB|TB|MB|KB|ML|CL|CM|MM|KG|MAH|GSM|W|V|HZ|GHZ|MP|IN|FT|OZ|LB|PCS|PC|X|XL|TV|PRO|MAX|LED|SSD)$"
)
_NI_NUMBER = re.compile(r"(?<!\w)(?![dfiquv])[a-z](?![dfiquvo])[a-z][ -]?\d{2}[ -]?\d{2}[ -]?\d{2}[ -]?[a-d](?!\w)")
_NRIC = re.compile(r"(?<!\w)[stfgm]\d{7}[a-z](?!\w)")
_IBAN = re.compile(r"(?<!\w)[a-z]{2}[ .-]?\d{2}(?:[ .-]?[a-z0-9]){11,30}(?!\w)")
_SHORTEST_IBAN = 15
_TIMES = re.compile(r"(?:[01]?\d|2[0-4])[.:][0-5]\d(?: ?[-–/] ?(?:[01]?\d|2[0-4])[.:][0-5]\d)+")
_YEARS = re.compile(r"(?:1[89]|20)\d\d(?: ?[-–/] ?(?:(?:1[89]|20)\d\d|\d\d))+")
_ROUND = re.compile(r"[1-9]\d{0,6}000")

# A code with digits, after the word for it: member no. AB-12345, policy #QX/9912, passport c1234567.
_CODE_AFTER_ITS_WORD = re.compile(
    r"\b(?:passport|paspor|member(?:ship)?|anggota|policy|polis|licen[cs]e|sim|student|siswa|mahasiswa|nim|nis|nisn|nip|"
    r"nrp|nuptk|employee|staff|karyawan|pegawai|patient|pasien|rekam medis|customer|pelanggan|client|booking|"
    r"reservation|order|pesanan|invoice|resi|tracking|account|loyalty|library|medicare|nhs|nhi|chi|tfn|pps|ppsn|ssn|pan|"
    r"aadhaar|voter|epic|nin|bvn|nric|fin|bpjs|visa|case|claim|klaim|ref(?:erence)?|kode booking|pnr|id|payroll|"
    r"matric(?:ulation)?|enroll?ment|candidate|pupil|mrn|cnic|iqama|emirates id|pension|tenancy|"
    r"(?:roll|badge|crew|permit|hospital|chart)(?=[ .:#-]{0,2}(?:no|number|nr|num|#)))\b"
    r"(?:[ .:=#|\"'()-]{1,3}(?:no|number|nr|num|nomor|id|card|kartu|code|kode|saya|ku|is|nya|adalah|peserta)\b){0,3}"
    r"[ .:=#|\"'()]{1,4}((?=[a-z0-9/.-]{0,24}\d)[a-z0-9]{1,12}(?:[-/. ]?(?=[a-z0-9]{0,11}\d)[a-z0-9]{1,12}){0,4})(?!\w)"
)

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


def is_no_span(number: str) -> bool:
    """Return whether the number is neither hours nor years nor a round sum: ``08.00-17.00``, ``2024/2025``."""
    return not (_TIMES.fullmatch(number) or _YEARS.fullmatch(number) or _ROUND.fullmatch(number))


def _is_no_product(plate: str) -> bool:
    return _PRODUCT_ENDS.search(plate) is None


def is_nric(number: str) -> bool:
    """Return whether a Singaporean identity number has its check letter (weights 2, 7, 6, 5, 4, 3, 2)."""
    letter, digits = number[0], number[1:8]
    total = sum(weight * int(digit) for weight, digit in zip((2, 7, 6, 5, 4, 3, 2), digits, strict=True))
    shift, letters = {
        "s": (0, "jzihgfedcba"),
        "t": (4, "jzihgfedcba"),
        "f": (0, "xwutrqpnmlk"),
        "g": (4, "xwutrqpnmlk"),
        "m": (3, "xwutrqpnjlk"),
    }[letter]
    return letters[(total + shift) % 11] == number[8]


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
            _long_number("NUMBER", _has_digits(at_least=8), is_no_span, outside_dates=True),
        )
    ),
    PatternRecogniser("ID", _NPWP, folded=True, validators=(is_npwp,)),
    PatternRecogniser("CARD", _CARD_DETAIL, folded=True),
    PatternRecogniser("ID", _SSN, folded=True),
    PatternRecogniser("ID", _PLATE_ID, validators=(_is_no_product,)),
    PatternRecogniser("ID", _PLATE_GB, validators=(_is_no_product,)),
    PatternRecogniser("ID", _PLATE_AFTER_ITS_WORD, folded=True, group=1),
    PatternRecogniser("NUMBER", _TOUCHING, folded=True, validators=(_is_no_amount,)),
    PatternRecogniser("NUMBER", _AFTER_ITS_WORD, folded=True, group=1),
    PatternRecogniser("ID", _PASSPORT),
    PatternRecogniser("ACCOUNT", _IBAN, folded=True, narrow=iban_in),
    PatternRecogniser("ID", _NI_NUMBER, folded=True),
    PatternRecogniser("ID", _NRIC, folded=True, validators=(is_nric,)),
    PatternRecogniser(
        "ID",
        _CODE_AFTER_ITS_WORD,
        folded=True,
        group=1,
        narrow=without_trailing("-/."),
        validators=(_has_digits(at_least=3),),
    ),
)
