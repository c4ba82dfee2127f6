"""Claims about written forms: a declared value is found however it is written, whole; ordinary text is left alone."""

from __future__ import annotations

import datetime as dt
import unicodedata
from collections.abc import Callable, Sequence

import pytest
from faker import Faker
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llama.privacy.policy import field_of
from llama.privacy.profile import Value
from llama.privacy.secret import Secret
from llama.privacy.secret_index import SecretIndex
from llama.privacy.word_lists import known_words

FORMS = settings(derandomize=True)

# --- What is asserted ------------------------------------------------------------------------------------------------

SENTENCES = (
    "§ adalah yang tertulis di formulir.", "Tolong catat § di buku tamu, ya.", "Yang tertulis di sana §",
    "Kata mereka, § itu benar.", 'Ia menulis "§" di kartu.', "Begitulah (§) isinya.", "Isian: §", "Isian:§.",
    "§ is what the form says.", "Please write § into the guest book.", "All that it says is §", "Is it §?",
    "They wrote “§” on the card.", "That line [§] was read aloud.", "Entry: §", "Hello,\n§\nSee you.", "§",
    "🎁🎉 wrapped: § 🎂", "'§'", "«§»", "* §;", "مرحبا § שלום",
)  # fmt: skip


def index_of(field: str, value: Value, not_secret: Sequence[str] = ()) -> SecretIndex:
    index = SecretIndex()
    index.add(Secret(field, field_of(field).tag, value), not_secret)
    return index


def missed(index: SecretIndex, text: str, start: int, end: int) -> str:
    """Letters and digits of ``text[start:end]`` that no hit covers."""
    covered = {i for found in index.find(text) for i in range(found.start, found.end)}
    return "".join(text[i] for i in range(start, end) if text[i].isalnum() and i not in covered)


def assert_found(index: SecretIndex, sentence: str, form: str, before: str = "", after: str = "") -> None:
    """``form`` is found whole in the sentence; ``before`` and ``after`` touch it and may be found or not."""
    text = sentence.replace("§", before + form + after)
    start = sentence.index("§") + len(before)
    left = missed(index, text, start, start + len(form))
    assert not left, f"{left!r} of {form!r} is not found in {text!r}"


# --- How anything may be written -------------------------------------------------------------------------------------


def without_accents(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def full_width(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if c.isascii() and c.isalnum() else c for c in text)


SCRIPTS: tuple[Callable[[str], str], ...] = (
    str, str, without_accents, full_width,
    lambda text: unicodedata.normalize("NFC", text),
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: unicodedata.normalize("NFKC", text),
)  # fmt: skip
CASES: tuple[Callable[[str], str], ...] = (
    str, str.lower, str.upper, str.title, str.swapcase,
    lambda text: "".join(c.upper() if i % 2 else c.lower() for i, c in enumerate(text)),
)  # fmt: skip

sentences = st.sampled_from(SENTENCES)
scripts = st.sampled_from(SCRIPTS)
cases = st.sampled_from(CASES)


@st.composite
def grouped(draw: st.DrawFn, digits: str, separators: Sequence[str] = (" ", ".", "-", " - ", "")) -> str:
    """Digits in groups, the same sign between all."""
    sizes = draw(st.lists(st.integers(2, 5), min_size=len(digits), max_size=len(digits)))
    groups, at = list[str](), 0
    for size in sizes:
        if at < len(digits):
            groups.append(digits[at : at + size])
            at += size
    return draw(st.sampled_from(separators)).join(groups)


def digits_of(least: int, most: int | None = None) -> st.SearchStrategy[str]:
    return st.text("0123456789", min_size=least, max_size=most or least)


# --- Names -----------------------------------------------------------------------------------------------------------

NO_PARTS = {"bin", "binti", "van", "von", "der", "den", "pak", "bapak", "ibu", "mrs", "prof", "drs", "haji", "hajah",
            "the", "and", "dan", "yes", "tidak", "none", "true", "false"}  # fmt: skip
"""Titles, little words and plain answers, which are no one's name by themselves."""


def _faked(locale: str) -> set[str]:
    fake = Faker(locale)
    fake.seed_instance(20)
    return {fake.first_name() for _ in range(80)} | {fake.last_name() for _ in range(80)}


NAMES = sorted(
    name for name in _faked("id_ID") | _faked("en_US") | {"Déwi", "Ramón", "Zoë", "Çelik", "Ștefan", "Müller"}
    if len(name) >= 3 and name.isalpha() and name.lower() not in NO_PARTS
)  # fmt: skip
parts = st.sampled_from(NAMES) | st.text("abcdefghijklmnopqrstuvwxyz", min_size=3, max_size=9).map(str.title).filter(
    lambda part: part.lower() not in NO_PARTS
)
full_names = st.lists(parts, min_size=1, max_size=4, unique=True)
name_fields = st.sampled_from(["name", "nama", "spouse", "children", "recipient_name"])


@given(full_names, name_fields, st.data(), sentences, scripts, cases)
@FORMS
def test_a_name_is_found_whole_and_in_parts_in_any_case_and_unicode_form(
    name: list[str], field: str, data: st.DataObject, sentence: str, script: Callable[[str], str],
    case: Callable[[str], str],
) -> None:  # fmt: skip
    """People are called by a part of their name, and nobody types it as in the passport."""
    first = data.draw(st.integers(0, len(name) - 1))
    last = data.draw(st.integers(first + 1, len(name)))
    sign = data.draw(st.sampled_from([" ", "  ", "-", "_", ".", ", ", "\n", "\u00a0", " • "]))
    assert_found(index_of(field, " ".join(name)), sentence, script(case(sign.join(name[first:last]))))


@given(full_names, st.data(), sentences, cases)
@FORMS
def test_a_name_is_found_with_its_parts_written_together(
    name: list[str], data: st.DataObject, sentence: str, case: Callable[[str], str]
) -> None:
    """As in nicknames and accounts: two neighbours, or all."""
    first = data.draw(st.integers(0, max(0, len(name) - 2)))
    together = data.draw(st.sampled_from([name, name[first : first + 2]]))
    assert_found(index_of("name", " ".join(name)), sentence, case("".join(together)))


@given(full_names, st.sampled_from(["NFC", "NFD", "NFKD"]), st.data(), sentences)
@FORMS
def test_a_name_is_found_in_whatever_unicode_form_the_profile_has_it(
    name: list[str], form: str, data: st.DataObject, sentence: str
) -> None:
    """An editor that saves é as two characters makes no other name."""
    value = unicodedata.normalize(form, " ".join(name))  # type: ignore[arg-type]
    assert_found(index_of("name", value), sentence, data.draw(st.sampled_from(name)))


@given(full_names, st.sampled_from(["nya", "ku", "mu", "lah", "-nya", "-ku", "'s", "’s"]), st.data(), sentences, cases)
@FORMS
def test_a_name_is_found_before_a_clitic_and_a_possessive(
    name: list[str], clitic: str, data: st.DataObject, sentence: str, case: Callable[[str], str]
) -> None:
    """``Sarinya`` and ``Sari's`` are Sari."""
    written = data.draw(st.sampled_from([*name, " ".join(name)]))
    assert_found(index_of("name", " ".join(name)), sentence, case(written), after=case(clitic))


@given(full_names, st.sampled_from([" ", ".", "-", "_", "*", "·", " . ", ". "]), st.data(), sentences, cases)
@FORMS
def test_a_name_is_found_with_something_between_its_letters(
    name: list[str], sign: str, data: st.DataObject, sentence: str, case: Callable[[str], str]
) -> None:
    """The oldest way around a filter."""
    written = data.draw(st.sampled_from([*name, "".join(name)]))
    assert_found(index_of("name", " ".join(name)), sentence, case(sign.join(written)))


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("Béléna Ramón", "belena"), ("M. Al Amin", "Amin"), ("Nur'aini", "Nuraini"),
        ("Siti Nur'aini", "nur aini"), ("Anne-Marie O'Brien", "annemarie"), ("Anne-Marie O'Brien", "OBrien"),
        ("Fitri", "ﬁtri"), ("Strauß", "STRAUSS"), ("陳大文", "陳大文"), ("Сергей Иванов", "ИВАНОВ"), ("สมชาย", "สมชาย"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("unicode_form", ["NFC", "NFD"])
def test_a_name_with_a_sign_an_initial_or_another_script_is_found(name: str, form: str, unicode_form: str) -> None:
    """Names are not only A to Z."""
    index = index_of("name", unicodedata.normalize(unicode_form, name))  # type: ignore[arg-type]
    assert_found(index, "Kado untuk §, ya.", form)


def test_a_name_part_inside_a_longer_word_is_left_alone() -> None:
    """``Ani`` is not in ``animal``."""
    index = index_of("name", "Ani Rin Bay")
    for text in ("The animal in the manicured garden", "berani, marina, Bayangan; print, rinse, a bayonet", "ANIMASI"):
        assert index.find(text) == [], text


@pytest.mark.parametrize(
    ("name", "text"),
    [("Isa", "This is a gift, and it is a surprise."), ("Ina", "It comes in a box."), ("Maya", "Of May, a Monday."),
     ("Asa", "Use it as a lamp."), ("Adi", "Menu à di sini."), ("Iman", "I man the desk.")],
)  # fmt: skip
def test_a_short_name_is_not_read_out_of_two_ordinary_words(name: str, text: str) -> None:
    """``is a`` is not Isa: only letters that all stand apart spell a short word."""
    assert index_of("name", name).find(text) == []


# --- Phones ----------------------------------------------------------------------------------------------------------

area_codes = st.sampled_from(["21", "22", "24", "31", "61", "274", "361", "411", "778"])
PREFIXES = ("0", "(0)", "62", "+62", "+62 ", "+62-", "(+62) ", "+ 62 ", "0062", "0062 ", "00 62 ", "+62 (0)")


@st.composite
def phones(draw: st.DrawFn) -> tuple[str, str]:
    """First digits and the rest, without country code and zero, of a mobile or a landline."""
    if draw(st.booleans()):
        return "8" + draw(st.integers(11, 99).map(str)), draw(digits_of(7, 9))
    return draw(area_codes), draw(st.integers(2, 9).map(str)) + draw(digits_of(6, 7))


@given(phones(), st.data(), sentences, scripts)
@FORMS
def test_a_phone_number_is_found_with_any_prefix_in_any_grouping(
    phone: tuple[str, str], data: st.DataObject, sentence: str, script: Callable[[str], str]
) -> None:
    """With its prefix, or what is restored would have two."""
    code, rest = phone
    value = data.draw(st.sampled_from([f"0{code}{rest}", f"+62{code}{rest}", f"0{code}-{rest[:3]}-{rest[3:]}",
                                       f"(0{code}) {rest}", f"62 {code} {rest}"]))  # fmt: skip
    sign = data.draw(st.sampled_from([" ", "-", ".", " - ", "", "/"]))
    form = data.draw(st.sampled_from([
        data.draw(st.sampled_from(PREFIXES)) + code + sign + data.draw(grouped(rest)),
        f"(0{code}) {data.draw(grouped(rest))}", f"(0{code}){rest}", f"+62 ({code}) {data.draw(grouped(rest))}",
        data.draw(grouped(f"0{code}{rest}")), data.draw(grouped(f"62{code}{rest}")),
    ]))  # fmt: skip
    assert_found(index_of("phone", value), sentence, script(form))


@pytest.mark.parametrize("form", ["+1 415 555 0132", "1-415-555-0132", "(415) 555-0132", "415.555.0132", "4155550132",
                                  "+14155550132", "001 415 555 0132"])  # fmt: skip
def test_a_phone_number_of_another_country_is_found_in_its_own_forms(form: str) -> None:
    """Friends live abroad."""
    assert_found(index_of("phone", "+1 (415) 555-0132"), "Call § tonight.", form)


@pytest.mark.parametrize("value", ["0812-3456-7890 atau 0857-1111-2222", "0812-3456-7890 / 0857-1111-2222",
                                   "0812 3456 7890, 0857 1111 2222"])  # fmt: skip
def test_both_phone_numbers_of_one_line_are_found(value: str) -> None:
    """Written where one was asked for, both are declared."""
    index = index_of("phone", value)
    for form in ("0812 3456 7890", "+62 812-3456-7890", "0857 1111 2222", "+62 857-1111-2222", "085711112222"):
        assert_found(index, "Hubungi § saja.", form)


# --- Identity numbers ------------------------------------------------------------------------------------------------


@given(
    st.sampled_from([("nik", 16), ("kk", 16), ("npwp", 15), ("card", 16), ("card", 15), ("bank_account", 10)]),
    st.data(),
    sentences,
    scripts,
)
@FORMS
def test_an_identity_number_is_found_in_any_grouping(
    kind: tuple[str, int], data: st.DataObject, sentence: str, script: Callable[[str], str]
) -> None:
    """Four by four, with dots, dashes or none, whatever the profile has."""
    field, length = kind
    number = data.draw(digits_of(length))
    value, form = data.draw(grouped(number)), data.draw(grouped(number))
    assert_found(index_of(field, value), sentence, script(form))


@given(digits_of(16), st.data(), sentences)
@FORMS
def test_a_long_run_of_digits_of_an_identity_number_is_found(number: str, data: st.DataObject, sentence: str) -> None:
    """The last eight of a card are most of it."""
    start = data.draw(st.integers(0, 8))
    part = number[start : data.draw(st.integers(start + 8, 16))]
    assert_found(index_of("nik", number), sentence, data.draw(grouped(part)))


def test_an_identity_number_of_npwps_own_punctuation_is_found() -> None:
    """As it is printed on the card."""
    assert_found(index_of("npwp", "092542943407000"), "NPWP saya §.", "09.254.294.3-407.000")


@pytest.mark.parametrize(("field", "value", "form"), [
    ("plate", "D 1234 ABC", "d1234abc"), ("plate", "D 1234 ABC", "D-1234-ABC"), ("passport", "B1234567", "b 1234567"),
    ("iban", "DE89 3704 0044 0532 0130 00", "de89370400440532013000"), ("employee_id", 1987, "1987"),
])  # fmt: skip
def test_an_identity_of_letters_and_digits_is_found(field: str, value: Value, form: str) -> None:
    """Plates, passports, accounts; also four digits, where they are all of it."""
    assert_found(index_of(field, value), "Tercatat: §, sudah.", form)


@pytest.mark.parametrize(("field", "value"), [
    ("phone", "081234567890"), ("nik", "3273014104910001"), ("card", "4111 1111 1111 1111"), ("name", "Sari"),
    ("birth_date", dt.date(1991, 4, 12)), ("email", "sari@example.com"), ("employee_id", "55512"),
])  # fmt: skip
@pytest.mark.parametrize("between", [" ", ", ", "\n", " / ", " dan "])
def test_a_value_that_is_written_twice_is_found_twice(field: str, value: Value, between: str) -> None:
    """Both leave otherwise, one of them hidden behind the other."""
    written = "12-04-1991" if isinstance(value, dt.date) else str(value)
    index = index_of(field, value)
    assert_found(index, "Isi: §.", written, after=between + written)
    assert_found(index, "Isi: §.", written, before=written + between)


# --- Dates -----------------------------------------------------------------------------------------------------------

MONTHS = (
    ("January", "Januari", "Jan"), ("February", "Februari", "Feb", "Pebruari"), ("March", "Maret", "Mar"),
    ("April", "Apr"), ("May", "Mei"), ("June", "Juni", "Jun"), ("July", "Juli", "Jul"),
    ("August", "Agustus", "Aug", "Agu", "Ags", "Agt"), ("September", "Sept", "Sep"),
    ("October", "Oktober", "Oct", "Okt"), ("November", "Nov", "Nop", "Nopember"), ("December", "Desember", "Dec",
    "Des"),
)  # fmt: skip
dates = st.dates(dt.date(1930, 1, 1), dt.date(2023, 12, 31))


def ordinal(day: int) -> str:
    return f"{day}{'th' if day in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


def numeric_dates(date: dt.date, sign: str) -> list[str]:
    y, d, m = str(date.year), f"{date.day:02}", f"{date.month:02}"
    d1, m1 = str(date.day), str(date.month)
    orders = [(d, m, y), (m, d, y), (y, m, d), (d1, m1, y), (m1, d1, y), (y, m1, d1)]
    orders += [(d, m, y[2:]), (m, d, y[2:]), (y[2:], m, d), (d1, m1, y[2:])]
    return [sign.join(order) for order in orders]


@given(dates, st.sampled_from(["-", "/", ".", " ", "–", " - ", " / ", ". ", "\u00a0"]), st.data(), sentences, scripts)
@FORMS
def test_a_birth_date_is_found_in_any_order_of_numbers(
    date: dt.date, sign: str, data: st.DataObject, sentence: str, script: Callable[[str], str]
) -> None:
    """Indonesia writes the day first, America the month, machines the year; and two digits may stand for it."""
    assert_found(index_of("birth_date", date), sentence, script(data.draw(st.sampled_from(numeric_dates(date, sign)))))


@pytest.mark.parametrize("sign", ["_", ",", ", ", "|", "\\", "·", "‐", "‑", "−", "—", "⁄", "／", "  "])
def test_a_birth_date_is_found_with_a_rare_sign_between_its_numbers(sign: str) -> None:
    """Any sign will do to tell a person the date."""
    date = dt.date(1991, 4, 5)
    for form in numeric_dates(date, sign):
        assert_found(index_of("birth_date", date), "Tanggalnya §.", form)


@given(dates, st.data(), sentences)
@FORMS
def test_a_birth_date_is_found_in_one_run_of_digits(date: dt.date, data: st.DataObject, sentence: str) -> None:
    """As in PINs and user names."""
    form = data.draw(st.sampled_from(["%d%m%Y", "%Y%m%d", "%m%d%Y", "%d%m%y", "%y%m%d"]))
    assert_found(index_of("birth_date", date), sentence, date.strftime(form))


@given(dates, st.data(), sentences, cases)
@FORMS
def test_a_birth_date_is_found_with_its_month_in_words(
    date: dt.date, data: st.DataObject, sentence: str, case: Callable[[str], str]
) -> None:
    """In both languages, short or long, in any case and order, with and without the year."""
    month = data.draw(st.sampled_from(MONTHS[date.month - 1]))
    y, y2, d, d2, th = date.year, f"{date.year % 100:02}", date.day, f"{date.day:02}", ordinal(date.day)
    form = data.draw(st.sampled_from([
        f"{d} {month} {y}", f"{d2} {month} {y}", f"{d} {month}, {y}", f"{d}-{month}-{y}", f"{d2}-{month}-{y2}",
        f"{d}/{month}/{y}", f"{d}.{month}.{y}", f"{d}{month}{y}", f"{d2}{month}{y2}", f"{d} {month} '{y2}",
        f"{d} {month} ’{y2}", f"{th} {month} {y}", f"{th} of {month} {y}", f"{th} of {month}, {y}",
        f"{d} {month}. {y}",
        f"{month} {d}, {y}", f"{month} {d} {y}", f"{month} {th}, {y}", f"{month}-{d2}-{y}", f"{month} {d2}, '{y2}",
        f"{month}. {d}, {y}", f"{y} {month} {d}", f"{y}-{month}-{d2}", f"{d} bulan {month}",
        f"{d} {month}", f"{d2} {month}", f"{th} {month}", f"{th} of {month}", f"{month} {d}", f"{month} {th}",
        f"{d}-{month}", f"{d}{month}",
    ]))  # fmt: skip
    assert_found(index_of("birth_date", date), sentence, case(form))


@pytest.mark.parametrize("after", [" 20 orang datang", " 19.00 WIB", " 10:30", ", 50 kado", " 3 orang", " 100 people",
                                   " - 15 Mei", "-15 Mei", ", 7 pm", "/12 May"])  # fmt: skip
@pytest.mark.parametrize("form", ["12 April", "12th of April", "April 12", "April 12th", "12 Apr"])
def test_a_birthday_is_found_also_where_another_number_follows(form: str, after: str) -> None:
    """The time of the party is not the year of birth, and no reason not to look."""
    assert_found(index_of("birth_date", dt.date(1991, 4, 12)), "Acaranya § ya", form, after=after)


@pytest.mark.parametrize("before", ["2 ", "Total 5, ", "10-", "3x ", "Rp 5.000 - ", "5/"])
@pytest.mark.parametrize("form", ["12-04-1991", "12 April 1991", "12 April"])
def test_a_birth_date_is_found_also_where_another_number_stands_before(form: str, before: str) -> None:
    """Lists and ranges are ordinary."""
    assert_found(index_of("birth_date", dt.date(1991, 4, 12)), "Catatan: § ya", form, before=before)


@pytest.mark.parametrize("form", ["3 Mei 1991", "3 May", "May 3, 1991", "3-5-91", "5 March 1991", "1991-03-05",
                                  "1991-05-03", "5 Maret"])  # fmt: skip
def test_a_birth_date_written_as_text_is_found_in_both_its_readings(form: str) -> None:
    """Nobody knows whether 03/05 was meant as May or as March, so both are secret."""
    assert_found(index_of("birth_date", "03/05/1991"), "Lahir §.", form)


@pytest.mark.parametrize(
    "value", ["12 April 1991", "April 12, 1991", "1991-04-12", "12 Apr 1991", "12th of April 1991"]
)
def test_a_birth_date_written_as_text_is_found_in_other_forms(value: str) -> None:
    """Quotes around it do not make it another date."""
    for form in ("12-04-1991", "12 April", "April 12th, 1991", "12041991", "12/4/91"):
        assert_found(index_of("birth_date", value), "Lahir §.", form)


# --- Amounts ---------------------------------------------------------------------------------------------------------

JUTA = ("juta", " juta", "jt", " jt", " million", " Juta", "JT", " mio")


@st.composite
def amounts(draw: st.DrawFn) -> tuple[int, str]:
    """Hundreds of thousands, and a form."""
    hundreds = draw(st.integers(10, 9999))
    amount = hundreds * 100_000
    million, tenth = divmod(hundreds, 10)
    in_millions = str(million) if tenth == 0 else f"{million}{draw(st.sampled_from('.,'))}{tenth}"
    form = draw(st.sampled_from([
        str(amount), f"{amount:,}", f"{amount:,}".replace(",", "."), f"{amount:,}".replace(",", " "),
        f"{amount:,}".replace(",", ".") + ",00", f"{amount:,}.00", in_millions + draw(st.sampled_from(JUTA)),
        f"{amount // 1000}" + draw(st.sampled_from(["rb", " ribu", "k"])),
        f"{amount // 1000:,}".replace(",", ".") + draw(st.sampled_from(["rb", " ribu"])),
    ]))  # fmt: skip
    return amount, form


@given(
    amounts(), st.booleans(), st.sampled_from(["", "Rp", "Rp ", "Rp. ", "Rp.", "IDR ", "rp"]),
    st.sampled_from(["", ",-", "/bulan", " per month", "-an"]), sentences, scripts,
)  # fmt: skip
@FORMS
def test_an_amount_is_found_in_figures_and_in_words(
    amount: tuple[int, str], as_text: bool, before: str, after: str, sentence: str, script: Callable[[str], str]
) -> None:
    """``15000000`` in the profile is ``15 juta`` in a sentence."""
    number, form = amount
    assume(after != ",-" or form[-1].isdigit())
    value: Value = f"Rp {number:,}".replace(",", ".") if as_text else number
    assert_found(index_of("income", value), sentence, script(form), before=before, after=after)


@pytest.mark.parametrize(("value", "form"), [
    (15_000_000, "15000000"), (15_000_000, "15.000.000"), (15_000_000, "15,000,000"), (15_000_000, "15 juta"),
    (15_000_000, "15jt"), (15_000_000, "15 million"), (1_500_000, "1,5jt"), (1_500_000, "1.5 juta"),
    ("15 juta", "15.000.000"), ("Rp15jt per bulan", "15 juta"), ("1,5 jt", "1.500.000"), (2_000_000_000, "2 miliar"),
    (2_000_000_000, "2bn"), (85_000, "85k"), (85_000, "85 ribu"), (85_000, "85,000"),
])  # fmt: skip
def test_the_usual_ways_to_write_an_amount_are_found(value: Value, form: str) -> None:
    """One by one, whatever is drawn above."""
    for before in ("", "Rp", "Rp.", "Rp "):
        assert_found(index_of("salary", value), "Gajinya § saja.", form, before=before)


@pytest.mark.parametrize(("value", "text"), [
    (15_000_000, "Budget Rp 5.000.000 saja."), (15_000_000, "Ada 5,000,000 alasan."), (15_000_000, "Rp 115.000.000."),
    (1_500_000, "Kadonya Rp500.000."), (1_500_000, "It costs 500,000."), (15_000_000, "Nomor undian 000000."),
    (15_000_000, "15 orang, 15 kado, Rp 15.000"), (12_750_000, "Rp 2.750.000"), (12_750_000, "sekitar 750.000"),
])  # fmt: skip
def test_another_amount_with_some_of_the_same_digits_is_left_alone(value: Value, text: str) -> None:
    """A price is not part of a salary."""
    assert index_of("income", value).find(text) == []


# --- E-mail ----------------------------------------------------------------------------------------------------------

AT = ("@", " @ ", "[at]", " [at] ", "(at)", " (at) ", " at ", " AT ")
DOT = (".", " . ", "[dot]", " [dot] ", "(dot)", " (dot) ", " dot ", " DOT ")
mail_words = st.from_regex("[a-z][a-z0-9]{3,8}", fullmatch=True)


@given(
    st.lists(mail_words, min_size=1, max_size=2), mail_words, st.sampled_from(["com", "co.id", "ac.uk", "net"]),
    st.sampled_from(AT), st.sampled_from(DOT), st.booleans(), sentences, cases, scripts,
)  # fmt: skip
@FORMS
def test_an_email_address_is_found_also_with_its_signs_in_words(
    local: list[str], host: str, top: str, at: str, dot: str, local_too: bool, sentence: str,
    case: Callable[[str], str], script: Callable[[str], str],
) -> None:  # fmt: skip
    """``sari [at] example (dot) com`` is meant to be read by people only, and is."""
    value = ".".join(local) + "@" + host + "." + top
    form = (dot if local_too else ".").join(local) + at + host + dot + top.replace(".", dot)
    assert_found(index_of("email", value), sentence, script(case(form)))


@given(st.text("abcdefghijklmnopqrstuvwxyz", min_size=5, max_size=12), sentences, cases)
@FORMS
def test_the_local_part_of_an_email_address_is_found_alone(
    local: str, sentence: str, case: Callable[[str], str]
) -> None:
    """It is the same word at every provider; a word that everybody uses is sought only with the rest of the address."""
    assume(local not in known_words())
    assert_found(index_of("email", local + "@example.com"), sentence, case(local))


# --- Addresses, employers, diagnoses ---------------------------------------------------------------------------------

STREETS = ("Melati Indah", "Kebon Jeruk Raya", "Cihampelas", "Jenderal Sudirman", "Teuku Umar", "Veteran")


@given(
    st.sampled_from(STREETS), st.integers(10, 199), st.sampled_from(["Jl. ", "Jl ", "Jalan ", "Jln. ", "jl."]),
    st.sampled_from([" No. ", " No.", " no ", " Nomor ", " nomor ", " ", ", No. "]),
    st.sampled_from(["Jl. ", "Jalan "]), st.sampled_from([" No. ", " Nomor "]), sentences, cases,
)  # fmt: skip
@FORMS
def test_a_street_and_number_are_found_with_any_words_for_street_and_number(
    street: str, number: int, jalan: str, nomor: str, jalan_in_value: str, nomor_in_value: str, sentence: str,
    case: Callable[[str], str],
) -> None:  # fmt: skip
    """``Jl.`` and ``Jalan``, ``No.`` and ``Nomor`` are one word each."""
    value = f"{jalan_in_value}{street}{nomor_in_value}{number}, Bandung"
    index = index_of("address", value, ["Bandung"])
    assert_found(index, sentence, case(f"{jalan}{street}{nomor}{number}"))
    assert_found(index, sentence, case(f"{jalan}{street}"))


@given(
    st.sampled_from(STREETS), st.integers(10, 199), digits_of(5), st.sampled_from(["Bandung", "Depok", "Yogyakarta"]),
    st.sampled_from([", ", " ", "\n", ",", "; "]), sentences, cases, scripts,
)  # fmt: skip
@FORMS
def test_a_whole_address_is_found_with_and_without_commas(
    street: str, number: int, postcode: str, city: str, sign: str, sentence: str, case: Callable[[str], str],
    script: Callable[[str], str],
) -> None:  # fmt: skip
    """All of it, the town at its end too, where all of it is written."""
    pieces = [f"Jl. {street} No. {number}", "RT 03/RW 07", "Kel. Sukajadi", f"{city} {postcode}"]
    assert_found(index_of("address", ", ".join(pieces)), sentence, script(case(sign.join(pieces))))
    assert_found(index_of("address", f"{pieces[0]}, {city}"), sentence, script(case(f"{pieces[0]}{sign}{city}")))


@pytest.mark.parametrize("form", ["742 Evergreen Terrace", "742 evergreen terrace", "742, Evergreen Terrace",
                                  "742 EVERGREEN TERRACE, Springfield"])  # fmt: skip
def test_an_english_address_is_found(form: str) -> None:
    """The number comes first there."""
    street = form.removesuffix(", Springfield")
    assert_found(index_of("address", "742 Evergreen Terrace, Springfield", ["Springfield"]), "Ship to §.", street)


def test_a_street_named_after_a_flower_leaves_the_flower_alone() -> None:
    """Nor is the city that is sent anyway a secret."""
    index = index_of("address", "Jl. Melati No. 7, Bandung", ["Bandung"])
    assert index.find("Bunga melati untuk ibu di Bandung, 7 tangkai.") == []


@pytest.mark.parametrize("value", ["PT Maju Bersama Abadi", "PT. Maju Bersama Abadi Tbk", "Maju Bersama Abadi",
                                   "CV Maju Bersama Abadi", "Maju Bersama Abadi, Inc."])  # fmt: skip
@pytest.mark.parametrize("before", ["", "PT ", "PT. ", "CV "])
@pytest.mark.parametrize("after", ["", " Tbk", ", Inc.", " Ltd"])
def test_an_employer_is_found_with_and_without_its_legal_form(value: str, before: str, after: str) -> None:
    """Nobody says PT at the coffee machine."""
    for form in ("Maju Bersama Abadi", "MAJU BERSAMA ABADI", "maju-bersama abadi", "MajuBersamaAbadi"):
        for sentence in SENTENCES:
            assert_found(index_of("employer", value), sentence, form, before=before, after=after)


@pytest.mark.parametrize(("value", "form"), [
    ("Diabetes tipe 2", "diabetes"), ("Diabetes tipe 2", "DIABETES"),
    ("Hypertension; asthma", "asthma"), ("hipertensi dan asma", "Hipertensi"), ("Lupus", "lupus"), ("Asma", "asma"),
    ("Diabetes tipe 2", "d-i-a-b-e-t-e-s"), ("Gagal ginjal kronis", "ginjal"), ("Epilepsi", "ＥＰＩＬＥＰＳＩ"),
    ("HIV positif", "HIV"), ("HIV positif", "hiv"), ("ADHD since childhood", "ADHD"), ("asma kronis", "asma"),
])  # fmt: skip
def test_the_words_of_a_diagnosis_are_found(value: str, form: str) -> None:
    """One word of it says enough."""
    for sentence in SENTENCES:
        assert_found(index_of("diagnosis", value), sentence, form)


@pytest.mark.parametrize(("field", "value"), [("diagnosis", "Asma"), ("diagnosis", "diabetes"), ("religion",
    "Katolik"),
                                              ("religion", "Islam"), ("employer", "PT Telkom")])  # fmt: skip
@pytest.mark.parametrize("clitic", ["ku", "nya", "mu", "-ku", "-nya", "'s"])
def test_other_words_are_found_before_a_clitic_too(field: str, value: str, clitic: str) -> None:
    """``asmaku kambuh`` is how it is said."""
    assert_found(index_of(field, value), "Ya, § lagi.", value.split()[-1].lower(), after=clitic)


# --- Ordinary text ---------------------------------------------------------------------------------------------------

PROFILE: tuple[tuple[str, Value, tuple[str, ...]], ...] = (
    ("name", "Kirana Wulandari", ()), ("children", "Bima Aryasatya", ()), ("phone", "0812-3456-7890", ()),
    ("phone", "(022) 750 1234", ()), ("email", "kirana.w91@example.co.id", ()), ("nik", "3273015204910001", ()),
    ("card", "4111 1111 1111 1111", ()), ("birth_date", dt.date(1991, 4, 12), ()), ("income", 15_000_000, ()),
    ("age", 34, ()), ("employer", "PT Maju Bersama", ()), ("address", "Jl. Melati No. 7, Bandung 40162",
    ("Bandung",)),
    ("diagnosis", "diabetes tipe 2", ()), ("religion", "Katolik", ()), ("bank_account", "BCA 7310252527", ()),
    ("blood_type", "AB", ()), ("married", "yes", ()), ("nickname", "Na", ()),
)  # fmt: skip

ORDINARY = """
Saya mencari kado ulang tahun untuk ibu, budget Rp 400.000.
Tolong carikan tiga ide hadiah di bawah 250 ribu.
Acaranya tanggal 17 Agustus 2025, pukul 19.00 WIB.
Harga 15.000 per buah, beli 12 dapat 1 gratis.
Kami 34 orang, jadi butuh 34 bingkisan.
Anggaran kantor 5.000.000, paling banyak 7,5 juta.
Rumah kami dekat taman, jalan kaki 7 menit.
Bunga melati dan mawar, masing-masing 7 tangkai.
Bandung dingin sekali bulan April.
Dia suka kopi, membaca, dan mendaki gunung.
Pesan 12 kotak, kirim 4 April saja.
Tahun 1991 banyak lagu bagus.
Tolong kirim sebelum 12 Mei 2025 atau 13 April 2025.
Bersama ini kami kirim daftar tamu; semoga maju terus.
Diskon 12,5 persen untuk tipe 2 dan tipe 3.
Ukuran sepatu 41, ukuran baju L, warna biru.
Nomor antrean 0001, loket 3273.
Satu lusin isinya 12, satu kodi 20.
Jl. Mawar No. 7, dekat pasar.
Kartu ucapannya tulis tangan saja.
Kata orang, agama itu urusan pribadi.
Anaknya dua, umur 4 dan 7 tahun.
Ada apa di sana? Tidak ada apa-apa.
Gaji pertama biasanya untuk orang tua.
Ya, tidak, mungkin; 1, 2, 3.
Total Rp1.250.000, uang muka 50 persen.
Skor akhirnya 3-1, menit 90+4.
Resepnya: 200 g tepung, 150 ml susu, 2 telur.
Suhu 36,6 derajat, kelembapan 75 persen.
Kereta pukul 08.12 dari peron 3.
Bank buka pukul 8, tutup pukul 15.
Nama panggilan kucingnya lucu.
Rp 115.000.000 untuk satu mobil bekas.
I am looking for a birthday gift for my mother, budget $50.
Please suggest three ideas under 250,000 rupiah.
The party is on August 17, 2025, at 7 pm.
It costs $15 each; buy 12, get 1 free.
There are 34 of us, so we need 34 bags.
She was born in spring, and it shows.
In April 2025 we moved to Bandung.
The year 1991 had good songs.
Deliver before May 12, or on the 13th of April.
April showers bring May flowers.
Call me maybe, or write an e-mail; both work.
This is a gift in a box, as a surprise.
Yes, no, none, true, false.
He runs 10 km in 45:30, or 6.2 miles in 45.5 minutes.
Version 3.12.4 was released on 2024-06-06.
The answer is 42, not 34.
A recipe: 2 eggs, 150 ml of milk, 200 g of flour.
Room 750 is on floor 7, next to 1234.
Type 2 errors are misses, type 1 errors are false alarms.
The bank opens at 8 and closes at 15.
Chapter 12, verse 4; page 1991 of 2000.
Her example was the best; nobody at work knew.
Let's go together: forward, then left, then 15 steps.
Add 1,000,000 and 4,000,000; that is 5,000,000.
10% off until 30/09/2025, 20% off after 01/10/2025.
Sizes S, M, L, XL; colours red, green, blue.
Between 1990 and 1995, about 12 to 15 million people.
ISO 9001:2015, RFC 2119, HTTP 404, UTF-8.
Order 8123 has 4 items at 111 each.
🎁 3 kado, 🎂 1 kue, 🎈 99 balon!
The postman rings twice, at 4.16 and at 5.20.
""".strip().splitlines()


@pytest.fixture(scope="module")
def person() -> SecretIndex:
    index = SecretIndex()
    for field, value, not_secret in PROFILE:
        index.add(Secret(field, field_of(field).tag, value), not_secret)
    return index


# "12 to 15 million" does write the income: not ordinary for this person.
@pytest.mark.parametrize("text", [text for text in ORDINARY if "15 million" not in text])
def test_ordinary_text_is_left_alone(person: SecretIndex, text: str) -> None:
    """A prompt full of tags for what nobody has declared is worth nothing."""
    assert [text[f.start : f.end] for f in person.find(text)] == []


@pytest.mark.parametrize(("field", "value", "text"), [
    ("address", "Jl. Melati No. 7, Bandung 40162", "Totalnya Rp 1.401.620."),
    ("address", "Jl. Melati No. 7, Bandung 40162", "Nomor 40, 162 orang."),
    ("birth_date", dt.date(1991, 4, 12), "Harganya Rp 199.104 saja."),
])  # fmt: skip
def test_a_short_number_is_not_read_out_of_a_longer_amount(field: str, value: Value, text: str) -> None:
    """Five digits of a post code are in many a price."""
    assert index_of(field, value).find(text) == []


@given(
    st.sampled_from(["name", "nik", "phone", "employer", "diagnosis", "age", "religion", "pin", "address", "income"]),
    st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=2) | digits_of(1, 3),
    st.data(),
)
@FORMS
def test_a_value_of_one_or_two_letters_or_of_one_to_three_digits_is_not_looked_for(
    field: str, value: str, data: st.DataObject
) -> None:
    """It would be found everywhere."""
    text = data.draw(sentences).replace("§", value)
    assert index_of(field, value).find(text) == []
    if value.isdigit():
        assert index_of(field, int(value)).find(text) == []


@pytest.mark.parametrize("value", ["yes", "No", "ya", "tidak", "none", "N/A", "-", "true"])
def test_an_answer_that_is_no_information_is_not_looked_for(value: str) -> None:
    """``no`` is in every second sentence."""
    assert index_of("criminal_record", value).find(f"Well, {value}, and {value.lower()} again.") == []


# --- Positions, and any text -----------------------------------------------------------------------------------------

AROUND = ("🎁", "👩‍👩‍👧", "e\u0301", "مرحبا", "שלום", "\u200b", "\u200d", "\u202e", "\ufeff", "ﬃ", "İ", "ß", "½",
          "한국",
          "\r\n", "\t", "#", "x")  # fmt: skip
HELD = (
    ("name", "Wulandari", "Wulandari"), ("name", "Wulandari", "wu\u0301landari"), ("phone", "081234567890",
    "0812 3456 7890"),
    ("nik", "3273015204910001", "3273-0152-0491-0001"), ("birth_date", dt.date(1991, 4, 12), "12 April 1991"),
    ("income", 15_000_000, "15 juta"), ("email", "kirana.w91@example.com", "kirana.w91@example.com"),
)  # fmt: skip


@given(
    st.sampled_from(HELD), st.lists(st.sampled_from(AROUND), max_size=6).map(" ".join),
    st.lists(st.sampled_from(AROUND), max_size=6).map(" ".join),
)  # fmt: skip
@FORMS
def test_positions_are_those_of_the_text_whatever_stands_around(
    held: tuple[str, Value, str], before: str, after: str
) -> None:
    """Characters that fold to none or to several would shift what is cut out."""
    field, value, form = held
    text = f"{before} {form} {after}"
    start, end = len(before) + 1, len(before) + 1 + len(form)
    index = index_of(field, value)
    assert missed(index, text, start, end) == ""
    for found in index.find(text):
        assert start <= found.start < found.end <= end, text[found.start : found.end]


@given(st.lists(st.sampled_from(["\u200b", "\u200d", "\u00ad", "\u2060", "\u0301", "\ufe0f"]), min_size=9, max_size=9))
@FORMS
def test_a_name_and_a_number_are_found_with_invisible_characters_between(signs: list[str]) -> None:
    """Nothing is seen, so nothing is different."""
    for field, value in (("name", "Wulandari"), ("nik", "3273015204910001")):
        form = "".join(c + s for c, s in zip(value, [*signs, *signs], strict=False))
        assert_found(index_of(field, value), "Isi: § ya.", form)


@given(st.text(), st.text(max_size=6))
@settings(derandomize=True)
def test_any_text_is_searched_without_an_error_and_hits_lie_within_it(
    person: SecretIndex, text: str, more: str
) -> None:
    """The text is anybody's."""
    for part in (text, f"{more}12 April{text}", f"0812{more}3456-7890{text}Jl. Melati{more}7"):
        for found in person.find(part):
            assert 0 <= found.start < found.end <= len(part)
            assert any(c.isalnum() or c.isnumeric() for c in part[found.start : found.end])


@given(st.sampled_from([field for field, _, _ in PROFILE]), st.text(max_size=40), st.text(max_size=60))
@settings(derandomize=True)
def test_any_value_can_be_declared_and_is_found_where_all_of_it_is_written(field: str, value: str, around: str) -> None:
    """A profile is anybody's too; what is too short, or has no letter and digit, is not looked for."""
    index = index_of(field, value)
    for found in index.find(f"{around} {value} {around}"):
        assert found.end > found.start


@pytest.mark.parametrize("sign", ["!", "é", "१२", "ﷺ", "\U0001d7d8" * 5, "𝐒𝐚𝐫𝐢", "1" * 400, "a" * 19_000,
    "1 " * 5_000,
                                  "12 April 1991 " * 300, "jl no " * 800])  # fmt: skip
def test_a_long_or_odd_text_is_searched_in_bounded_time(person: SecretIndex, sign: str) -> None:
    """Within what a person waits for a key press to count; the suite's own limit is what fails it."""
    began = dt.datetime.now(dt.UTC)
    person.find(sign)
    assert (dt.datetime.now(dt.UTC) - began).total_seconds() < 5
