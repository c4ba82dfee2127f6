"""Claims about values as people type them: beside other numbers, with slips, cut at a line's end, in words.

Each family is generated around one kind of leak that was found; ``tests/test_leaks.py`` has written cases of them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llama.privacy.amounts import amounts_in, main_amounts_in
from llama.privacy.secret import Secret
from llama.privacy.secret_index import SecretIndex
from llama.privacy.spoken import spoken_amounts_in
from tests.test_variants import NAMES, SENTENCES, assert_found, index_of, missed
from tests.volumes import examples

TYPED = settings(examples(0.8), derandomize=True)
TODAY = dt.date(2026, 6, 15)

sentences = st.sampled_from(SENTENCES)


def digits(least: int, most: int) -> st.SearchStrategy[str]:
    return st.text("0123456789", min_size=least, max_size=most)


# --- Amounts beside other numbers ------------------------------------------------------------------------------------

NEIGHBOURS = ("2", "17", "2024", "45%", "3,5", "12:30", "0", "100", "1/2", "365")
BESIDE = (" ", "\n", "\t", ", ", "; ", " | ", " / ", " - ", "\n- ", " (", ") ", " x ", ";", "|")


@st.composite
def amounts_as_declared(draw: st.DrawFn) -> str:
    """An amount as profiles have it, in several countries' ways."""
    thousands, rest = draw(st.integers(12, 999)), draw(st.integers(1, 999))
    return draw(
        st.sampled_from(
            [
                f"£{thousands},{rest:03}", f"${thousands},{rest:03}.50", f"Rp {thousands}.{rest:03}.000",
                f"€{thousands}.{rest:03},00", f"{thousands}{rest:03}", f"CHF {thousands}'{rest:03}",
                f"{thousands} {rest:03} kr", f"₹{draw(st.integers(1, 99))},{thousands % 90 + 10},{rest:03}",
            ]
        )
    )  # fmt: skip


@given(amounts_as_declared(), st.sampled_from(NEIGHBOURS), st.sampled_from(BESIDE), st.booleans(), sentences)
@TYPED
def test_an_amount_is_found_beside_any_other_number(
    amount: str, other: str, sign: str, is_before: bool, sentence: str
) -> None:
    """Children, years, percentages, the next cell of a table, the number that begins the next line."""
    before, after = (other + sign, "") if is_before else ("", sign + other)
    assume(not (is_before and sign == " " and len(other) <= 3 and other.isdigit() and amount[0].isdigit()))
    assert_found(index_of("salary", amount), sentence, amount, before=before, after=after)


@given(st.integers(1, 999), st.integers(1, 999), st.sampled_from(["\n", "\n\n", "\r\n", " \n "]))
@TYPED
def test_the_end_of_a_line_never_joins_two_numbers(first: int, second: int, end: str) -> None:
    """38 at a line's end and 500 at the next one's beginning are two numbers."""
    values = {amount.value for amount in amounts_in(f"{first}{end}{second:03}")}
    assert values == {float(first), float(second)}


@given(st.integers(2, 99), st.integers(1, 999), st.sampled_from([" ", " dan ", ", ", ""]))
@TYPED
def test_an_amount_in_words_and_digits_is_their_sum(millions: int, thousands: int, between: str) -> None:
    """14 juta 250 ribu; 6jt750rb."""
    juta, ribu = ("jt", "rb") if between == "" else (" juta", " ribu")
    text = f"{millions}{juta}{between}{thousands}{ribu}"
    amount = millions * 1_000_000 + thousands * 1_000
    assert max(each.value for each in amounts_in(text)) == amount
    assert_found(index_of("gaji", amount), "Gaji saya § sebulan.", text)


TENS = ["", "", "dua puluh", "tiga puluh", "empat puluh", "lima puluh", "enam puluh", "tujuh puluh", "delapan puluh"]
UNITS = ["", "satu", "dua", "tiga", "empat", "lima", "enam", "tujuh", "delapan", "sembilan"]
TENS_EN = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty"]
UNITS_EN = ["", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@given(st.integers(20, 89), st.integers(100, 899).map(lambda n: n // 100))
@TYPED
def test_an_amount_in_words_is_read(number: int, hundreds: int) -> None:
    """Spelled out by this test, in both languages."""
    ten, unit = divmod(number, 10)
    indonesian = f"{TENS[ten]} {UNITS[unit]}".strip()
    english = f"{TENS_EN[ten]}-{UNITS_EN[unit]}".strip("-")
    for text, value in (
        (f"{indonesian} juta", number * 1e6), (f"{english} thousand", number * 1e3),
        (f"{english} thousand {UNITS_EN[hundreds]} hundred", number * 1e3 + hundreds * 100),
        (f"{indonesian} juta {UNITS[hundreds] if hundreds > 1 else 'se'}{' ' if hundreds > 1 else ''}ratus ribu",
         number * 1e6 + hundreds * 1e5),
    ):  # fmt: skip
        assert value in {each for _, _, each in spoken_amounts_in(text)}, text
        assert_found(index_of("income", int(value)), "It is § now.", text)


def test_a_declared_amount_is_read_in_its_longest_way_only() -> None:
    """1 500 000 declares no 500 000."""
    assert [amount.value for amount in main_amounts_in("1 500 000 kr")] == [1_500_000]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (500_000, "Kadonya Rp 1.500.000."), (250_000, "It costs 1,250,000."), (25_000_000, "sekitar 1,25 juta"),
        (38_500, "38\n500"), (1_500, "1.500.000 saja"), (14_250_000, "14 juta dan 25 ribu"), (2_000, "dua anak"),
    ],
)  # fmt: skip
def test_a_part_of_another_amount_is_none(value: int, text: str) -> None:
    """Or every price would hold a salary."""
    assert index_of("salary", value).find(text) == []


# --- Dates -----------------------------------------------------------------------------------------------------------

dates = st.dates(dt.date(1930, 1, 1), dt.date(2010, 12, 31))
SIGNS = ("/", "-", ".", " ", ", ", " / ", "|")
MONTHS = ["Januari", "Februari", "Maret", "April", "Mei", "Juni", "Juli", "Agustus", "September", "Oktober", "November",
          "Desember"]  # fmt: skip
MONTHS_EN = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
             "November", "December"]  # fmt: skip


@given(dates, st.sampled_from(SIGNS), st.sampled_from(SIGNS), sentences)
@TYPED
def test_a_birth_date_is_found_with_two_different_signs(date: dt.date, one: str, other: str, sentence: str) -> None:
    """12/4 1991; 12.4-1991."""
    assert_found(index_of("birth_date", date), sentence, f"{date.day}{one}{date.month}{other}{date.year}")


@given(dates, st.data(), sentences)
@TYPED
def test_a_birth_date_is_found_with_words_for_its_parts(date: dt.date, data: st.DataObject, sentence: str) -> None:
    """As in forms, letters and speech."""
    d, m, y = date.day, date.month, date.year
    name, name_en = MONTHS[m - 1], MONTHS_EN[m - 1]
    th = f"{d}{'th' if d in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(d % 10, 'th')}"
    form = data.draw(
        st.sampled_from(
            [
                f"{d} bln {m} thn {y}", f"{d} bulan {m} tahun {y}", f"{d} {name} tahun {y}",
                f"{th} day of {name_en} {y}",
                f"{d} bulan {name}", f"{name_en} the {th}, {y}", f"the {th} of {name_en} {y}".removeprefix("the "),
                f"{d}, bulan {m}, tahun {y}",
            ]
        )
    )  # fmt: skip
    assert_found(index_of("birth_date", date), sentence, form)


@given(dates, st.sampled_from([": ", "=", " : ", " - "]), st.sampled_from(["\n", "; ", ", "]))
@TYPED
def test_a_birth_date_is_found_in_three_fields_of_a_form(date: dt.date, sign: str, between: str) -> None:
    """Day, month and year, each with its label."""
    index = index_of("birth_date", date)
    for labels in (("Tgl", "Bln", "Thn"), ("dob_day", "dob_month", "dob_year"), ("Day", "Month", "Year")):
        numbers = (str(date.day), f"{date.month:02}", str(date.year))
        text = between.join(f"{label}{sign}{number}" for label, number in zip(labels, numbers, strict=True))
        at = 0
        for label, number in zip(labels, numbers, strict=True):
            at = text.index(label + sign, at) + len(label + sign)
            assert missed(index, text, at, at + len(number)) == "", text


@given(
    st.integers(1940, 2005),
    st.sampled_from(["born in §", "lahir tahun §", "kelahiran §", "born back in §", "lahir '§"]),
)
@TYPED
def test_a_year_of_birth_is_found_where_a_word_says_so(year: int, said: str) -> None:
    """And the same year by itself is left alone."""
    index = index_of("birth_date", dt.date(year, 5, 20))
    written = f"{year % 100:02}" if "'" in said else str(year)
    assert_found(index, said, written)
    assert index.find(f"The summer of {year} was hot; {year} songs.") == []


@given(
    st.integers(18, 90), st.sampled_from(["she turns §", "umur §", "usia § tahun", "I'm §", "§ years old", "aged §"])
)
@TYPED
def test_an_age_is_found_where_a_word_says_so(age: int, said: str) -> None:
    """From the birth date, as of today, and the year before and after; a number of anything else is left alone."""
    index = SecretIndex(TODAY)
    index.add(Secret("birth_date", "DATE", dt.date(TODAY.year - age, 1, 1)))
    assert_found(index, said, str(age))
    assert index.find(f"Pesan {age} kotak, {age} orang, meja {age}, {age} km.") == []


# --- Names and numbers as they are typed -----------------------------------------------------------------------------

LONG_NAMES = [name for name in NAMES if len(name) >= 6 and name.isascii()]
RARE = [name + "ovsky" for name in ("Wila", "Tumb", "Grabo", "Pelin", "Zarem", "Kurbat")]


@st.composite
def slips(draw: st.DrawFn, name: str) -> str:
    """A name with one letter left out, doubled, changed, or changed with its neighbour."""
    i = draw(st.integers(1, len(name) - 2))
    return draw(
        st.sampled_from(
            [
                name[:i] + name[i + 1 :], name[:i] + name[i] + name[i:], name[:i] + "q" + name[i + 1 :],
                name[:i] + name[i + 1] + name[i] + name[i + 2 :],
            ]
        )
    )  # fmt: skip


@given(st.sampled_from(RARE), st.data(), sentences)
@TYPED
def test_a_long_name_is_found_with_one_letter_wrong(name: str, data: st.DataObject, sentence: str) -> None:
    """And its tag stands for what was typed, so that nobody else's name is put in its place."""
    written = data.draw(slips(name))
    assert_found(index_of("name", f"Ana {name}"), sentence, written)
    found = index_of("name", f"Ana {name}")
    if written.casefold() != name.casefold():
        assert all(found.secrets[hit.index].derived for hit in found.find(written))


@pytest.mark.parametrize(
    ("name", "text"),
    [("Marina Salim", "a marine blue scarf"), ("Harmoni Putri", "in harmony"), ("Martin", "a martini, please"),
     ("Permata", "permatang sawah")],
)  # fmt: skip
def test_a_word_that_everybody_uses_is_no_typing_error(name: str, text: str) -> None:
    """One letter makes many words of a name."""
    assert index_of("name", name).find(text) == []


@given(st.sampled_from(LONG_NAMES), st.sampled_from(["nyalah", "kulah", "mukah", "nyapun", "kupun"]), sentences)
@TYPED
def test_a_name_is_found_before_two_clitics(name: str, clitics: str, sentence: str) -> None:
    """Sarinyalah."""
    assert_found(index_of("name", name), sentence, name, after=clitics)


@given(st.sampled_from(LONG_NAMES), st.data(), st.sampled_from(["-\n", "‐\n", "-\n  ", "-\n> "]))
@TYPED
def test_a_name_is_found_across_the_end_of_a_line(name: str, data: st.DataObject, end: str) -> None:
    """As in letters and quoted mail."""
    i = data.draw(st.integers(2, len(name) - 2))
    assert_found(index_of("name", f"Ana {name}"), "Kado untuk §, ya.", name[:i] + end + name[i:])


@given(digits(9, 9).filter(lambda d: len(set(d)) > 3), st.data(), sentences)
@TYPED
def test_a_number_is_found_with_letters_that_look_like_its_digits(
    rest: str, data: st.DataObject, sentence: str
) -> None:
    """O for 0, l and I for 1, S for 5, as they are typed or read from paper."""
    number = "0812" + rest
    typed = "".join(data.draw(st.sampled_from([c, {"0": "O", "1": "l", "5": "S"}.get(c, c)])) for c in number)
    groups = [typed[:4], typed[4:8], typed[8:]]
    assume(all(any(c.isdigit() for c in group) for group in groups))
    assert_found(index_of("phone", number), sentence, "-".join(groups))


ENDS = ("wa akhiran §", "last four digits §", "ending in §", "berakhiran §", "4 digit terakhir §", "**** §", "xxxx-§",
        "§ di belakangnya")  # fmt: skip


@given(digits(16, 16).filter(lambda d: len(set(d)) > 4), st.integers(3, 5), st.sampled_from(ENDS))
@TYPED
def test_the_end_of_a_number_is_found_where_a_word_or_a_mask_says_so(number: str, count: int, said: str) -> None:
    """And the same digits by themselves are left alone."""
    assume(number[-count] != "0")
    index = index_of("card", number)
    assert_found(index, said, number[-count:])
    assert index.find(f"kursi {number[-count:]}, kado") == []


# --- Streets and bodies ----------------------------------------------------------------------------------------------

KINDS: Sequence[tuple[str, ...]] = (
    ("Court", "Ct", "Crt"), ("Place", "Pl"), ("Square", "Sq"), ("Close", "Cl"), ("Crescent", "Cres"),
    ("Gardens", "Gdns"), ("Terrace", "Ter"), ("Grove", "Gr"), ("Way",), ("Boulevard", "Blvd"), ("House",), ("Cottage",),
    ("Lodge",),
)  # fmt: skip
KINDS_ID: Sequence[tuple[str, ...]] = (
    ("Gang", "Gg", "Gg."), ("Jalan", "Jl.", "Jln"), ("Komplek", "Komp.", "Kompleks"), ("Perumahan", "Perum", "Perum."),
    ("Lorong", "Lr."), ("Dusun", "Dsn"), ("Kampung", "Kp."), ("Apartemen", "Apt"), ("Cluster",),
)  # fmt: skip


@given(st.sampled_from(RARE), st.integers(2, 99), st.sampled_from(KINDS), st.data(), sentences)
@TYPED
def test_a_street_is_found_by_its_name_and_any_form_of_its_kind(
    name: str, number: int, kinds: tuple[str, ...], data: st.DataObject, sentence: str
) -> None:
    """Nevsky Court, Nevsky Ct; the name alone is left, since it may be anything."""
    index = index_of("address", f"{number} {name} {kinds[0]}, Brighton BN1 1AA", ["Brighton"])
    assert_found(index, sentence, f"{name} {data.draw(st.sampled_from(kinds))}")
    assert index.find(f"the {name} family sings") == []


@given(st.sampled_from(RARE), st.integers(2, 99), st.sampled_from(KINDS_ID), st.data(), sentences)
@TYPED
def test_an_indonesian_street_is_found_by_its_name_and_any_form_of_its_kind(
    name: str, number: int, kinds: tuple[str, ...], data: st.DataObject, sentence: str
) -> None:
    """The kind comes first there."""
    index = index_of("alamat", f"{kinds[0]} {name} No. {number}, Bandung 40115", ["Bandung"])
    assert_found(index, sentence, f"{data.draw(st.sampled_from(kinds))} {name}")


@given(st.sampled_from(RARE), st.sampled_from(["§ University", "Univ. §", "Uni of §", "§ Uni", "the § campus"]))
@TYPED
def test_a_university_is_found_turned_and_shortened(name: str, said: str) -> None:
    """University of X is X University."""
    assert_found(index_of("school", f"University of {name}"), said, name)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("school", "Universitas Indonesia", "liburan di Indonesia"),
        ("school", "SMA Negeri 3 Bandung", "ke Bandung lagi"),
        ("school", "University of Oxford", "a weekend in Oxford"), ("employer", "Apple Orchard Ltd", "an apple a day"),
        ("employer", "Royal Lanchester Hospital", "a royal blue scarf"), ("employer", "Bank Mandiri", "ke bank dulu"),
    ],
)  # fmt: skip
def test_a_town_and_an_everyday_word_are_no_body(field: str, value: str, text: str) -> None:
    """A body is told from the town that it is named after by a word such as university."""
    assert index_of(field, value).find(text) == []


@given(
    st.from_regex("[a-z]{4,9}-[a-z]{4,9}", fullmatch=True),
    st.sampled_from(["", "www.", "mail.", "intranet."]),
    sentences,
)
@TYPED
def test_the_domain_of_a_mail_address_is_found(domain: str, host: str, sentence: str) -> None:
    """It often is the employer's."""
    assert_found(index_of("email", f"tara@{domain}.example"), sentence, f"{domain}.example", before=host)


@pytest.mark.parametrize("host", ["gmail.com", "yahoo.co.id", "outlook.com", "icloud.com", "proton.me"])
def test_a_domain_of_everybodys_is_left_alone(host: str) -> None:
    """It says nothing."""
    assert index_of("email", f"tara.silvers@{host}").find(f"I read my mail at {host}.") == []
