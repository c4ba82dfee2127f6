"""Invented people whose every secret is written in many ways, and a search for it that shares no code with the product.

A canary is one secret value: as it is declared, as it may be written elsewhere, and the forms in which a search must
find it. :func:`leaks` is that search: it looks at a text as words (no case, accents, widths, punctuation, invisible
characters), as one string of letters and digits, and as runs of digits.

Profiles are drawn again until none of their forms is in what is public: the sheets, the sentences that the values are
written into, the city. So a hit is a leak, and the search needs no exceptions.

Knows nothing about: ``llama.privacy``; that is the point.
"""

from __future__ import annotations

import datetime as dt
import random
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from faker import Faker

SHEETS = Path(__file__).resolve().parent.parent / "examples" / "sheets"
SHEET_IDS = tuple(
    sorted(path.relative_to(SHEETS).with_suffix("").as_posix() for path in SHEETS.rglob("*.toml"))
)  # fmt: skip
RAW_LEAST = 7  # bytes from which a form is no chance hit among a hundred million random ones


@dataclass(frozen=True)
class Canary:
    """One secret value.

    Attributes:
        field: the profile's field.
        value: as it is declared there.
        written: other ways to write it.
        words: forms that are found as whole words, normalised by :func:`words_of`.
        solid: forms that are found anywhere among the letters and digits.
        digits: forms that are found in a run of digits.
    """

    field: str
    value: Any
    written: tuple[str, ...]
    words: tuple[str, ...] = ()
    solid: tuple[str, ...] = ()
    digits: tuple[str, ...] = ()

    @property
    def forms(self) -> tuple[str, ...]:
        return (*self.words, *self.solid, *self.digits)


@dataclass(frozen=True)
class Person:
    """A profile as a TOML table would give it, and the canaries in it."""

    language: str
    profile: Mapping[str, Any]
    canaries: tuple[Canary, ...]


# ---- the search


def words_of(text: str) -> str:
    """``" sari dewi 12 "``: letters and digits of any width, without case, accents or invisible characters."""
    text = "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Cs"))
    text = unicodedata.normalize("NFKC", text).casefold()
    text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " " + " ".join(re.findall(r"[^\W_]+", plain)) + " "


def digits_of(text: str) -> str:
    """Runs of digits, whatever few signs stand between their groups: ``|081234567890|40115|``."""
    words = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
    words = "".join(c for c in words if unicodedata.category(c) not in ("Cf", "Cs"))
    return "|" + "|".join(re.sub(r"\D", "", run) for run in re.findall(r"\d(?:[^\w\n]{0,3}\d)*", words)) + "|"


def leaks(text: str, canaries: Iterable[Canary]) -> list[str]:
    """``field: form`` for every form that a text holds."""
    words = words_of(text)
    solid, digits = words.replace(" ", ""), digits_of(text)
    return [
        f"{canary.field}: {form}"
        for canary in canaries
        for forms, where, edge in ((canary.words, words, " "), (canary.solid, solid, ""), (canary.digits, digits, ""))
        for form in forms
        if f"{edge}{form}{edge}" in where
    ]


def raw_leaks(data: bytes, canaries: Iterable[Canary]) -> list[str]:
    """The same for bytes that need not be text: the forms themselves, and the value in all its spellings."""
    data = data.lower()
    printed = b"\0".join(re.findall(rb"[ -~]{%d,}" % RAW_LEAST, data))  # of random bytes almost nothing is left
    found = list[str]()
    for canary in canaries:
        for form in {*canary.forms, *map(str.lower, canary.written)}:
            spelled = form.encode()
            if len(spelled) >= RAW_LEAST and spelled in (printed if form.isascii() else data):
                found.append(f"{canary.field}: {form}")
    return found


# ---- what is public: sentences that values are written into, and everything beside them

SENTENCES = {
    "en": (
        "Please keep {} in mind.", "It says {} on the label.", "We talked about {} yesterday.", "Mind {}, please!",
        "There was something about {}; ask again.", "({})", "Somebody wrote \"{}\" there.", "Not {} again...",
        "Reminder - {} - thanks", "It is {}.",
    ),
    "id": (
        "Tolong ingat {} ya.", "Di labelnya tertulis {} saja.", "Kemarin kami bicara tentang {} lagi.", "Awas {}!",
        "Ada sesuatu soal {}; tanya lagi.", "({})", "Seseorang menulis \"{}\" di sana.", "Jangan {} lagi...",
        "Pengingat - {} - makasih", "Ini {}.",
    ),
}  # fmt: skip
INTERESTS = {
    "en": ("chess", "sailing", "old films", "baking", "origami", "birds"),
    "id": ("catur", "berlayar", "film lama", "membuat roti", "origami", "burung"),
}
RELATIONS = {
    "en": ("my colleague", "my neighbour", "an old friend", "my niece"),
    "id": ("rekan saya", "tetangga saya", "teman lama", "keponakan saya"),
}
OCCASIONS = {"en": ("farewell", "housewarming"), "id": ("perpisahan", "syukuran rumah baru")}
TRIPS = {"en": "ten days in Norway", "id": "sepuluh hari di Norwegia"}
CITIES = {
    "en": ("Springfield", "Rochester", "Madison", "Oakland"),
    "id": ("Semarang", "Makassar", "Pontianak", "Manado", "Kupang"),
}
OF_THE_PRODUCT = """
    not given, tidak diisi; asks for: as a tag, the value stays here; made coarser (decade, age band, city, income
    band); as you wrote it, with tags for the secrets that are recognised in it; not in your profile. The provider can
    read everything you send, and the reply, which may quote it. The third party gets the reply as the model writes it
    (tags stay tags), and a list of its own products that fit.
    Agree?
"""


@lru_cache(maxsize=1)
def public_text() -> str:
    """Every word that may leave with anybody's prompt."""
    sheets = "\n".join(map(_strings_of, [tomllib.loads(path.read_text()) for path in sorted(SHEETS.rglob("*.toml"))]))
    sheets += "\n" + (SHEETS / "system.txt").read_text()
    own = [INTERESTS, RELATIONS, OCCASIONS, CITIES, {k: [s.format("/") for s in v] for k, v in SENTENCES.items()}]
    filler = "\n".join(line for table in own for lines in table.values() for line in lines)  # type: ignore[attr-defined]
    return "\n".join([sheets, filler, *TRIPS.values(), OF_THE_PRODUCT])


def _strings_of(value: Any) -> str:
    if isinstance(value, dict):
        value = list(value.values())
    return "\n".join(map(_strings_of, value)) if isinstance(value, list) else str(value)


# ---- the values

MONTHS_EN = [
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
]  # fmt: skip
MONTHS_ID = [
    "Januari", "Februari", "Maret", "April", "Mei", "Juni",
    "Juli", "Agustus", "September", "Oktober", "November", "Desember",
]  # fmt: skip
DIAGNOSES = {
    "en": {"epilepsy": "epilepsy", "schizophrenia": "schizophrenia", "multiple sclerosis": "sclerosis",
           "Crohn's disease": "crohn", "type 2 diabetes": "diabetes", "leukaemia": "leukaemia", "HIV": "hiv",
           "bipolar disorder": "bipolar"},
    "id": {"epilepsi": "epilepsi", "skizofrenia": "skizofrenia", "tuberkulosis paru": "tuberkulosis",
           "gagal ginjal kronis": "ginjal", "diabetes melitus tipe 2": "melitus", "leukemia": "leukemia",
           "HIV": "hiv", "hipertensi berat": "hipertensi"},
}  # fmt: skip
STREETS = {
    "en": ("Thornbury", "Wexcombe", "Old Quarry", "Larkspur", "Penhallow", "Marlowe"),
    "id": ("Cempaka Putih", "Kapten Muslihat", "Teuku Umar", "Pahlawan Revolusi", "Sisingamangaraja", "Diponegoro"),
}
STREET_TYPES = (("Street", "St"), ("Avenue", "Ave"), ("Road", "Rd"), ("Lane", "Ln"), ("Drive", "Dr"))
COMPANY_WORDS = ("Nusantara", "Sentosa", "Abadi", "Mandala", "Cakrawala", "Samudra", "Perkasa", "Lestarindo", "Bumi")


def _name(field: str, fake: Faker, draw: random.Random) -> Canary:
    first, last = fake.first_name(), fake.last_name()
    full = f"{first} {fake.first_name()} {last}" if draw.random() < 0.3 else f"{first} {last}"
    parts = sorted({part for part in words_of(full).split() if len(part) >= 3})
    accented = unicodedata.normalize("NFD", re.sub(r"[aeiou]", lambda m: m[0] + "\u0301", full, count=1))
    spelled = (
        full, full.upper(), full.lower(), f"{last}, {first}", f"{first}-{last}", last, first, f"{first}nya",
        f"{last}'s", f"{first}_{last}", accented, f"{first}{last}", f"{first}\u00a0{last}",
    )  # fmt: skip
    solid = {words_of(name).replace(" ", "") for name in (full, f"{first} {last}")}
    solid = {name for name in solid if len(name) >= 8}
    kept = {*parts, *(part + "nya" for part in parts), *solid}
    written = tuple(w for w in spelled if kept & set(words_of(w).split()))
    value = full if draw.random() < 0.7 else f"{draw.choice(['Dr.', 'Hj.', 'Mrs.'])} {full}"
    return Canary(
        field, value, written, tuple(p + c for p in parts for c in ("", "nya", "ku", "mu")),
        tuple(sorted(solid)),
    )  # fmt: skip


def _grouped(digits: str, sizes: Sequence[int], sign: str) -> str:
    groups, at = [], 0
    for size in sizes:
        groups.append(digits[at : at + size])
        at += size
    return sign.join([*groups, *([digits[at:]] if at < len(digits) else [])])


def _phone(language: str, draw: random.Random) -> Canary:
    if language == "id":
        national = "8" + draw.choice(["12", "13", "21", "57", "96"]) + "".join(draw.choices("0123456789", k=8))
        groups = _grouped(national, (3, 4, 4), "-")
        written = (
            "0" + groups, "+62 " + groups.replace("-", " "), "62" + national, "0" + national, f"(+62) {groups}",
            "0" + groups.replace("-", "."), f"+62-{groups}", "0062" + national, f"(0{national[:3]}) {national[3:]}",
            "0" + " ".join(national),
        )  # fmt: skip
    else:
        national = draw.choice(["415", "212", "617", "303"]) + draw.choice(["234", "555", "738"])
        national += "".join(draw.choices("0123456789", k=4))
        groups = _grouped(national, (3, 3, 4), "-")
        written = (
            groups, f"({national[:3]}) {groups[4:]}", groups.replace("-", "."), national, f"+1 {groups}",
            f"+1{national}", f"1-{groups}", groups.replace("-", " "), f"001-{groups}", groups.replace("-", " - "),
        )  # fmt: skip
    return Canary("phone", draw.choice(written[:4]), written, digits=(national,))


def _number(field: str, digits: str, *sizes: Sequence[int], also: Sequence[str] = ()) -> Canary:
    written = [digits, *(_grouped(digits, s, sign) for s in sizes for sign in (" ", "-", ".", "/", " - ", "\u00a0"))]
    written.append("".join(chr(0xFF10 + int(d)) for d in digits))  # full width, as typed with an East Asian keyboard
    return Canary(field, digits, (*written, *also), digits=(digits,))


def _birth_date(date: dt.date, draw: random.Random) -> Canary:
    d, m, y = date.day, date.month, date.year
    names = {MONTHS_EN[m - 1], MONTHS_ID[m - 1], MONTHS_EN[m - 1][:3], MONTHS_ID[m - 1][:3]}
    spelled = [f"{d} {n} {y}" for n in names] + [f"{n} {d}, {y}" for n in names] + [f"{d}-{n}-{y}" for n in names]
    spelled += [f"{d:02} {n}" for n in names] + [f"{n} {d}" for n in names] + [f"{d}th of {n}" for n in names]
    spelled += [f"{y} {n} {d}" for n in names] + [f"{n.upper()} {y}" for n in names if len(n) > 3]
    numeric = [
        f"{a}{s}{b}{s}{c}"
        for s in ("-", "/", ".", " ")
        for day, month in ((f"{d}", f"{m}"), (f"{d:02}", f"{m:02}"))
        for a, b, c in (
            (day, month, y), (month, day, y), (y, month, day), (day, month, f"{y % 100:02}"),
            (month, day, f"{y % 100:02}"),
        )
    ]  # fmt: skip
    spelled += [f"{d:02}{n.upper()}{y}" for n in names if len(n) == 3]  # as in a passport
    runs = [f"{d:02}{m:02}{y}", f"{y}{m:02}{d:02}", f"{m:02}{d:02}{y}"]
    words = {words_of(text).strip() for text in (*spelled, *numeric, *runs)}
    ordinals = ("st", "nd", "rd", "th")
    words |= {f"{d}{o} {n}".casefold() for n in names for o in ordinals} | {
        f"{n} {d}{o}".casefold() for n in names for o in ordinals
    }
    as_text = [date.isoformat(), f"{d} {MONTHS_EN[m - 1]} {y}", f"{d} {MONTHS_ID[m - 1]} {y}"]
    value: Any = draw.choice([date, date, *as_text])
    return Canary("birth_date", value, (*spelled, *numeric, *runs), tuple(sorted(words)), digits=tuple(runs))


def _address(language: str, city: str, draw: random.Random) -> Canary:
    number, written = draw.randint(12, 980), tuple[str, ...]()
    street, post = draw.choice(STREETS[language]), f"{draw.randint(20000, 98999)}"
    name = words_of(street).strip()
    if language == "id":
        value = f"Jl. {street} No. {number}, {city} {post}"
        written = (
            value, f"Jalan {street} no {number}", f"jln {street.lower()} {number}", f"JL {street.upper()} NO {number}",
            f"{street} No.{number}", f"{street} {number}", f"Jl. {street}", f"jalan {street.lower()}",
            f"kode pos {post}",
        )  # fmt: skip
        words = [f"{kind} {name}" for kind in ("jl", "jln", "jalan")]
        words += [f"{name} {no}{number}" for no in ("", "no ", "nomor ", "nomer ")]
    else:
        kind, short = draw.choice(STREET_TYPES)
        value = f"{number} {street} {kind}, {city}, OH {post}"
        written = (
            value, f"{number} {street} {short}.", f"{number} {street.lower()} {kind.lower()}", f"{street} {kind}",
            f"{number} {street.upper()} {short.upper()}", f"{street} {short}", f"{street} {kind} {number}",
            f"No. {number}, {street} {kind}", f"OH {post}",
        )  # fmt: skip
        words = [f"{number} {name}", f"{name} {kind.casefold()}", f"{name} {short.casefold()}"]
    return Canary("address", value, written, (*words, post))


def _income(language: str, draw: random.Random) -> Canary:
    written: tuple[str, ...]
    if language == "id":
        tenths = draw.choice([n for n in range(71, 489) if n % 10])
        n = tenths * 100_000
        dotted, comma = f"{n:,}".replace(",", "."), f"{tenths // 10},{tenths % 10}"
        written = (
            f"Rp {dotted}", f"Rp{dotted},-", f"{n}", f"IDR {n:,}", f"{comma} juta", f"{comma}jt", f"{comma} jt",
            f"Rp {comma} Juta", f"{comma.replace(',', '.')} million", f"{dotted},00",
        )  # fmt: skip
        pair = comma.replace(",", " ")
        words = [words_of(f"{n:,}").strip(), f"{n}", *(f"{pair} {s}" for s in ("juta", "jt", "million", "m", "mio"))]
        words += [f"rp{words_of(dotted).strip()}", *(f"{pair}{s}" for s in ("jt", "juta", "m"))]
    else:
        n = draw.choice([n for n in range(41, 189) if n % 10]) * 1000
        written = (
            f"USD {n:,}", f"${n:,}", f"{n}", f"${n // 1000}k", f"{n // 1000}K", f"{n // 1000} thousand",
            f"$ {n:,}.00", f"{n:,} dollars",
        )  # fmt: skip
        words = [words_of(f"{n:,}").strip(), f"{n}", f"{n // 1000}k", f"{n // 1000} k", f"{n // 1000} thousand"]
    return Canary("income", draw.choice([n, written[0]]), written, tuple(words))


def _employer(language: str, fake: Faker, draw: random.Random) -> Canary:
    if language == "id":
        core = " ".join(draw.sample(COMPANY_WORDS, 3))
        value = f"{draw.choice(['PT', 'CV', 'PT.'])} {core}{draw.choice(['', ' Tbk'])}"
    else:
        core = ""
        while len(core) < 5:  # "Ho Ltd" exists; so short a word is not looked for
            core = re.sub(r",? (?:Inc|Ltd|LLC|PLC)$", "", fake.company())
        value = f"{core}{draw.choice([' Inc', ' Ltd', ' LLC', ', Inc.'])}"
    name = words_of(core).strip()
    written = (value, core, core.upper(), core.lower(), core.replace(" ", "-"), core.replace(" ", ""), f"{core}'s")
    return Canary("employer", value, written, (name,), (name.replace(" ", ""),) if len(name) >= 9 else ())


def _diagnosis(language: str, draw: random.Random) -> Canary:
    text, core = draw.choice(sorted(DIAGNOSES[language].items()))
    written = (text, text.upper(), text.capitalize(), core, core.upper(), text.replace(" ", "-"), f"{core}nya")
    return Canary("diagnosis", text, written, (words_of(text).strip(), core, f"{core}nya"))


def _luhn(digits: str) -> str:
    doubled = [int(d) * 2 if i % 2 == 0 else int(d) for i, d in enumerate(reversed(digits))]
    return digits + str(-sum(n - 9 if n > 9 else n for n in doubled) % 10)


def _canaries(language: str, city: str, fake: Faker, draw: random.Random) -> tuple[Canary, ...]:
    def digits(n: int) -> str:
        return "".join(draw.choices("0123456789", k=n))

    name, spouse = _name("name", fake, draw), _name("spouse", fake, draw)
    date = dt.date(draw.randint(1950, 2005), 1, 1) + dt.timedelta(days=draw.randrange(365))
    local, domain = f"{name.written[2]} {draw.randint(10, 99)}", draw.choice(["example.com", "example.org"])
    local = re.sub(r" (\d)", r"\1", words_of(local).strip()).replace(" ", ".")
    email = f"{local}@{domain}"
    solid = local.replace(".", "")
    mail = Canary(
        "email", email,
        (email, email.upper(), email.replace("@", " @ "), email.replace("@", "(at)"), email.replace("@", " [at] "),
         f"{local} at {domain.replace('.', ' dot ')}", f"{local}@{domain}".replace(".", " dot ").replace("@", " at "),
         local),
        solid=(solid, words_of(local.replace(".", " dot ")).replace(" ", "")),
    )  # fmt: skip
    found = [
        name, spouse, _phone(language, draw), mail, _birth_date(date, draw), _address(language, city, draw),
        _number("card", _luhn("4" + digits(14)), (4, 4, 4)), _number("bank_account", digits(10), (3, 3), (4, 4)),
        _diagnosis(language, draw), _income(language, draw), _employer(language, fake, draw),
    ]  # fmt: skip
    if language == "id":
        day = date.day + draw.choice([0, 40])
        nik = f"{draw.randint(11, 94)}{digits(4)}{day:02}{date:%m%y}{draw.randint(1, 9999):04}"
        npwp = _luhn(digits(8)) + digits(6)
        printed = f"{npwp[:2]}.{npwp[2:5]}.{npwp[5:8]}.{npwp[8]}-{npwp[9:12]}.{npwp[12:]}"
        found += [_number("nik", nik, (4, 4, 4), (6, 6)), _number("npwp", npwp, (3, 3, 3, 3), also=[printed])]
    else:
        passport = draw.choice("ABCX") + digits(8)
        found += [_number("ssn", draw.choice("12345678") + digits(8), (3, 2), (3, 3)),
                  Canary("passport", passport, (passport, passport.lower(), f"{passport[0]} {passport[1:]}",
                                                f"{passport[:5]} {passport[5:]}"), digits=(passport[1:],))]  # fmt: skip
    return tuple(found)


def _disguised(text: str, draw: random.Random) -> str:
    """Now and then a character that is written but not seen, as copied text has."""
    if draw.random() < 0.9:
        return text
    middle = len(text) // 2
    return text[:middle] + draw.choice(["\u200b", "\u00ad", "\u2060", "\ufeff"]) + text[middle:]


def person(language: str, seed: int) -> Person:
    """The same person for the same seed; none of their forms is in what is public."""
    locale = {"en": "en_US", "id": "id_ID"}[language]
    for attempt in range(100):
        draw = random.Random(f"{language} {seed} {attempt}")
        fake = Faker(locale)
        fake.seed_instance(seed * 100 + attempt)
        city = draw.choice(CITIES[language])
        canaries = _canaries(language, city, fake, draw)
        if not leaks(public_text(), canaries):
            return Person(language, _profile(language, city, canaries, draw), canaries)
    raise AssertionError("a hundred people, each with a value that is public")


def _profile(language: str, city: str, canaries: tuple[Canary, ...], draw: random.Random) -> dict[str, Any]:
    def one() -> str:
        return _disguised(draw.choice(draw.choice(canaries).written), draw)

    def sentence(value: str) -> str:
        return draw.choice(SENTENCES[language]).format(value)

    declared = {canary.field: canary.value for canary in canaries}
    every = [sentence(_disguised(draw.choice(canary.written), draw)) for canary in canaries]
    draw.shuffle(every)
    interests = draw.sample(INTERESTS[language], 2)
    return declared | {
        "city": city,
        "recipient": f"{draw.choice(RELATIONS[language])} {draw.choice(canaries[draw.randrange(2)].written)}",
        "interests": [*interests, one()] if draw.random() < 0.5 else f"{', '.join(interests)}, {one()} / {one()}",
        "occasion": f"{draw.choice(OCCASIONS[language])}; {one()}",
        "trip": f"{TRIPS[language]}. {sentence(one())}",
        "budget": "Rp 450.000" if language == "id" else "$45",
        "headcount": 60,
        "notes": draw.choice([" ", "\n"]).join(every),
    }


def as_toml(profile: Mapping[str, Any]) -> str:
    """The profile as a file."""
    lines = []
    for name, value in profile.items():
        items = value if isinstance(value, list) else [value]
        texts = [_toml(item) for item in items]
        lines.append(f"{name} = [{', '.join(texts)}]" if isinstance(value, list) else f"{name} = {texts[0]}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, int):
        return str(value)
    return '"' + re.sub(r'[\\"\x00-\x1f]', lambda m: f"\\u{ord(m[0]):04x}", value) + '"'
