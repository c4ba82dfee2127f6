"""Held-out free texts with known personal data in them, English and Indonesian.

The templates of a TOML file (``free_text.toml``) are what people type into a gift assistant's notes, chats,
forms, e-mails and letters; this module fills their placeholders with invented data and says where each value
lies. Every value is invented: numbers are drawn at random with the right shape and check digits, people are
put together from lists of given names and surnames.

Kinds (a placeholder is its kind in braces):

==========  =====================================================================================
NAME        a full name without titles or degrees; an Indonesian one may be a single word
FIRST       a given name only
ADDRESS     a whole postal address on one line, as far as its writer goes (not always a postcode)
DOB         a full date with its year (two digits sometimes)
NIK, KK     Indonesian identity number, family card number: 16 digits, grouped in fours sometimes
NPWP        Indonesian tax number: 15 digits, formatted or plain, or the newer 16-digit form
PHONE       mobile or fixed line, Indonesian, American or British
EMAIL       an e-mail address
CARD        a payment card number that passes the Luhn check
ACCOUNT     a bank account number (Indonesian: 10 to 15 digits; English texts also 8 to 12)
IBAN        an IBAN with valid check digits (British, German, Dutch or Irish), English texts only
URL         a link with a person's handle or number or an order's number in it
==========  =====================================================================================

What it knows: the first person of a text has one sex and one date of birth, so that the NIK, the date and the
titles around the name agree, and an e-mail address often follows the first name in the text. British and
American texts keep to British and American addresses, phones and dates. A template's ``case`` makes the writer
type names, addresses and dates in lower or upper case, in about half of the texts.

What it does not know: streets, postcodes and districts need not belong together or exist; several NAMEs in one
text are different people unless the template has ``same_name``; bank codes and card prefixes are plausible, not
looked up; numbers and addresses might by chance be somebody's, so never dial or write to them. Titles ("Bu",
"Dr.", "Sp.A") and the possessive "'s" stay outside the spans, as do a card's expiry, companies, cities, brands,
order quantities and dates without a year, which are all ordinary text here. Spans never overlap and come in the
order of the text.
"""

from __future__ import annotations

import datetime
import random
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faker import Faker
from stdnum import luhn

LANGUAGES = ("en", "id")
KINDS = (
    "NAME", "FIRST", "ADDRESS", "DOB", "NIK", "KK", "NPWP", "PHONE", "EMAIL", "CARD", "ACCOUNT", "IBAN", "URL",
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """A filled text and its personal data: (start, end, kind) per value, ``text[start:end]`` being the value."""

    language: str
    text: str
    spans: tuple[tuple[int, int, str], ...]


@dataclass(frozen=True)
class Template:
    """One entry of the TOML file; see the head of that file for the optional keys."""

    language: str
    text: str
    case: str | None = None
    region: str | None = None
    sex: str | None = None
    same_name: bool = False


def samples(path: Path, language: str, count: int, seed: int) -> list[Sample]:
    """Fill ``count`` templates of ``language`` from ``path``, in the file's order and again from its start.

    The same arguments give the same samples, and a smaller ``count`` gives the first ones of a larger.
    """
    templates = [template for template in load_templates(path) if template.language == language]
    if not templates:
        raise ValueError(f"no templates for language {language!r} in {path}")
    locales = ("id_ID", "en_US", "en_GB")
    fakers = {locale: Faker(locale) for locale in locales}
    result = []
    for index in range(count):
        rng = random.Random(f"{seed}:{language}:{index}")
        for locale in locales:
            fakers[locale].seed_instance(rng.getrandbits(32))
        result.append(_Filler(templates[index % len(templates)], rng, fakers).fill())
    return result


def load_templates(path: Path) -> list[Template]:
    """Read and check the templates of both languages."""
    with path.open("rb") as file:
        entries = tomllib.load(file)["template"]
    templates = [Template(**entry) for entry in entries]
    for template in templates:
        kinds = set(_PLACEHOLDER.findall(template.text))
        if template.language not in LANGUAGES:
            raise ValueError(f"unknown language {template.language!r}: {template.text!r}")
        if not kinds <= set(KINDS) or (template.language == "id" and "IBAN" in kinds):
            raise ValueError(f"unknown placeholder: {template.text!r}")
        if (
            template.case not in (None, "lower", "upper")
            or template.region not in (None, "US", "GB")
            or template.sex not in (None, "f", "m")
        ):
            raise ValueError(f"bad case, region or sex: {template.text!r}")
    return templates


_PLACEHOLDER = re.compile(r"\{([A-Z]+)\}")
_SHE = re.compile(r"\b(?:Mrs|Ms|Miss|Grandma|Bu|Ibu|Mbak|Tante|Sdri)\.? $")
_HE = re.compile(r"\b(?:Mr|Pak|Bapak|Mas|Bang|Om|Ayahanda|Sdr)\.? $")


class _Filler:
    """Fills one template: holds the dice and what is settled about the text's first person.

    ``home`` is that person's province, regency and district as the six digits of a NIK.
    """

    def __init__(self, template: Template, rng: random.Random, fakers: dict[str, Faker]) -> None:
        self.template = template
        self.rng = rng
        self.fakers = fakers
        kinds = _PLACEHOLDER.findall(template.text)
        if template.language == "id":
            self.region = "ID"
        else:
            self.region = template.region or rng.choice(("US", "US", "GB"))
        # People who give an Indonesian number in an English text mostly have Indonesian names.
        asks_id = not {"NIK", "KK", "NPWP"}.isdisjoint(kinds)
        self.indonesian_names = rng.random() < (0.97 if self.region == "ID" else 0.7 if asks_id else 0.08)
        self.sex = template.sex or rng.choice("fm")
        # Chatty lower-case writers write about younger people.
        oldest = 1984 if template.case == "lower" else 1946
        self.birth = datetime.date(oldest, 1, 1) + datetime.timedelta(days=rng.randrange((2006 - oldest) * 365))
        self.recase: Callable[[str], str] = str
        if template.case and rng.random() < 0.5:
            self.recase = str.lower if template.case == "lower" else str.upper
        self.main_name = ""
        self.home = f"{rng.choice(_REGENCIES)}{rng.randint(1, 20):02d}"

    def fill(self) -> Sample:
        """Replace every placeholder by a value and note where it lies."""
        text = ""
        spans = []
        rest = 0
        for match in _PLACEHOLDER.finditer(self.template.text):
            text += self.template.text[rest : match.start()]
            rest = match.end()
            kind = match.group(1)
            value = self.value(kind, text)
            spans.append((len(text), len(text) + len(value), kind))
            text += value
            assert text[spans[-1][0] : spans[-1][1]] == value
        text += self.template.text[rest:]
        return Sample(self.template.language, text, tuple(spans))

    def value(self, kind: str, before: str) -> str:
        """A value for a placeholder that comes after the text ``before``."""
        if kind in ("NAME", "FIRST"):
            first = not self.main_name
            sex = "f" if _SHE.search(before) else "m" if _HE.search(before) else ""
            if first:
                self.sex = sex = sex or self.sex
            if self.template.same_name and not first:
                return self.recase(self.main_name)
            name = self.name(sex or self.rng.choice("fm"), given_only=kind == "FIRST")
            self.main_name = self.main_name or name
            return self.recase(name)
        if kind == "ADDRESS":
            return self.recase(self.address())
        if kind == "DOB":
            return self.recase(self.birth_date())
        makers: dict[str, Callable[[], str]] = {
            "NIK": lambda: self.group_of_four(self.nik()),
            "KK": lambda: self.group_of_four(self.kk()),
            "NPWP": self.npwp,
            "PHONE": lambda: self.phone(mobile=re.search(r"\b(?:hp|wa|text)\b", before[-10:].lower()) is not None),
            "EMAIL": self.email,
            "CARD": lambda: self.card(brand="visa" if before.endswith("Visa ") else None),
            "ACCOUNT": lambda: self.account(before[-30:].lower()),
            "IBAN": self.iban,
            "URL": lambda: self.url(order=re.search(r"\b(?:order|pesanan)\b", before[-30:].lower()) is not None),
        }
        return makers[kind]()

    # ------------------------------------------------------------------ dice

    def digits(self, count: int) -> str:
        """``count`` random digits."""
        return "".join(self.rng.choice("0123456789") for _ in range(count))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.rng.random() < probability

    def shape(self, pattern: str) -> str:
        """``pattern`` with every ``#`` replaced by a digit and every ``@`` by a digit from 2 to 9."""
        return "".join(
            self.digits(1) if sign == "#" else self.rng.choice("23456789") if sign == "@" else sign for sign in pattern
        )

    # ------------------------------------------------------------------ people

    def name(self, sex: str, given_only: bool) -> str:
        """A person's full or given name."""
        if self.indonesian_names:
            return self.indonesian_name(sex, given_only)
        return self.english_name(sex, given_only)

    def indonesian_given(self, sex: str) -> str:
        """One given name: from today's usual ones or from Faker's list, which has many old Javanese names."""
        faker = self.fakers["id_ID"]
        if self.chance(0.4):
            return str(faker.first_name_female() if sex == "f" else faker.first_name_male())
        return self.rng.choice(_GIVEN_F if sex == "f" else _GIVEN_M)

    def indonesian_name(self, sex: str, given_only: bool) -> str:
        """Javanese, Batak, Balinese, Chinese-Indonesian …; one to four words."""
        rng, faker = self.rng, self.fakers["id_ID"]
        given = self.indonesian_given(sex)
        if given_only:
            return given
        dice = rng.random()
        if dice < 0.06:
            return rng.choice(_SINGLE_F if sex == "f" else _SINGLE_M)
        if dice < 0.12:
            order = rng.choice(("Putu", "Wayan", "Made", "Kadek", "Nyoman", "Komang", "Ketut"))
            return f"{'Ni' if sex == 'f' else 'I'} {order} {rng.choice(_BALI_F if sex == 'f' else _BALI_M)}"
        if dice < 0.19:
            return f"{rng.choice(_CHINESE_GIVEN_F if sex == 'f' else _CHINESE_GIVEN_M)} {rng.choice(_CHINESE_LAST)}"
        if dice < 0.25 and sex == "m":
            return f"{rng.choice(('Muhammad', 'M.', 'Muh.', 'Mohamad', 'Ahmad'))} {given} {rng.choice(_LAST_ID)}"
        if dice < 0.25:
            return f"{rng.choice(('Siti', 'Nur', 'Dwi', 'Tri', 'Sri'))} {given} {rng.choice(_LAST_ID)}"
        faker_last = faker.last_name_female() if sex == "f" else faker.last_name_male()
        last = str(faker_last) if self.chance(0.4) else rng.choice(_LAST_ID)
        if dice < 0.5:
            return f"{given} {self.indonesian_given(sex)} {last}"
        return f"{given} {last}"

    def english_name(self, sex: str, given_only: bool) -> str:
        """American or British, with middle initials, hyphens and families from elsewhere now and then."""
        rng = self.rng
        faker = self.fakers["en_GB" if self.region == "GB" else "en_US"]
        if self.chance(0.22):
            whole = rng.choice(_WORLD_F if sex == "f" else _WORLD_M)
            return whole.split(" ")[0] if given_only else whole
        given = str(faker.first_name_female() if sex == "f" else faker.first_name_male())
        if given_only:
            return given
        last = str(faker.last_name())
        if self.chance(0.08):
            last = f"{last}-{faker.last_name()}"
        if self.region == "US" and self.chance(0.15):
            return f"{given} {rng.choice('ABCDEFGHJKLMNPRSTW')}. {last}"
        return f"{given} {last}"

    def handle(self) -> str:
        """What somebody calls themselves on the net, mostly with a number in it."""
        name = self.main_name or self.name(self.sex, given_only=False)
        words = _words(name)
        joined = self.rng.choice((".", "_", "")).join(words[:2])
        numbers = (self.digits(2), self.digits(3), f"{self.birth.year}")
        return joined + self.rng.choice(numbers if len(words) == 1 else (*numbers, "_official", ""))

    def email(self) -> str:
        """An address that follows the first name in the text, or some other person's."""
        rng = self.rng
        if self.main_name and self.chance(0.75):
            words = _words(self.main_name)
        else:
            words = _words(self.name(rng.choice("fm"), given_only=False))
        first, last = words[0], words[-1]
        local = rng.choice(
            (f"{first}.{last}", f"{first}{last}", f"{first[0]}.{last}", f"{first}_{last}", f"{last}.{first}", first)
        )
        if self.chance(0.5) or len(words) == 1:
            local += rng.choice((self.digits(2), self.digits(3), f"{self.birth.year}", f"{self.birth.year % 100:02d}"))
        if self.chance(0.06):
            local += rng.choice(("+gifts", "+shop", "+orders"))
        return f"{local}@{rng.choice(_MAIL_HOSTS[self.region])}"

    def url(self, order: bool) -> str:
        """Somebody's page or, where the text speaks of an order, that order's; with or without ``https://``."""
        handle = self.handle()
        slug = re.sub(r"[._]", "-", handle)
        if order and self.region == "ID":
            ways = [
                f"shopee.co.id/user/purchase/order/{self.shape('1@#############')}",
                f"kadoku.co.id/pesanan/INV-{self.digits(8)}?email={handle}%40gmail.com",
                f"www.tokokado.example/order/{self.digits(9)}?u={handle}",
            ]
        elif order:
            ways = [
                f"www.etsy.com/your/orders/{self.shape('@#########')}",
                f"shop.giftly.example/orders/{self.digits(7)}?user={handle}",
                f"www.amazon.com/gp/your-account/order-details?orderID={self.shape('11#-#######-#######')}",
            ]
        else:
            ways = [
                f"instagram.com/{handle}",
                f"www.instagram.com/{handle}/",
                f"www.facebook.com/profile.php?id=1000{self.digits(11)}",
                f"www.linkedin.com/in/{slug}-{self.rng.randrange(16**8):08x}",
                f"tiktok.com/@{handle}",
                f"www.pinterest.com/{handle}/wishlist/",
            ]
            if self.region == "ID":
                ways += [f"www.tokopedia.com/people/{self.digits(8)}", f"wa.me/628{self.shape('@########')}"]
            else:
                ways += [
                    f"www.amazon.com/hz/wishlist/ls/{self.rng.randrange(16**8, 16**9):X}",
                    f"www.theknot.com/us/{slug}-registry-{self.digits(4)}",
                ]
        if "LinkedIn" in self.template.text:
            ways = [way for way in ways if "linkedin" in way]
        return ("https://" if self.chance(0.75) else "") + self.rng.choice(ways)

    # ------------------------------------------------------------------ dates

    def birth_date(self) -> str:
        """The first person's date of birth, in one of the language's many ways."""
        date = self.birth
        year, short, day, month = date.year, f"{date.year % 100:02d}", date.day, date.month
        names, abbreviations = (_MONTHS_ID, _MONTHS_ID_SHORT) if self.region == "ID" else (_MONTHS_EN, _MONTHS_EN_SHORT)
        long, brief = names[month - 1], abbreviations[month - 1]
        if self.region == "US":
            ways = [
                f"{long} {day}, {year}", f"{long} {day}, {year}", f"{month:02d}/{day:02d}/{year}",
                f"{month}/{day}/{year}", f"{month}/{day}/{short}", f"{brief} {day}, {year}", f"{long} {day} {year}",
                f"{long} {_ordinal(day)}, {year}", f"{day} {long} {year}", f"{date:%Y-%m-%d}",
                f"{month:02d}-{day:02d}-{year}", f"{brief}. {day}, {year}",
            ]  # fmt: skip
        elif self.region == "GB":
            ways = [
                f"{day} {long} {year}", f"{day} {long} {year}", f"{day:02d}/{month:02d}/{year}",
                f"{day:02d}/{month:02d}/{short}", f"{_ordinal(day)} {long} {year}", f"{day} {brief} {year}",
                f"{day:02d}.{month:02d}.{year}", f"{day:02d}-{month:02d}-{short}", f"{date:%Y-%m-%d}",
                f"{day} {brief} {short}", f"{_ordinal(day)} of {long} {year}",
            ]  # fmt: skip
        else:
            ways = [
                f"{day} {long} {year}", f"{day} {long} {year}", f"{day:02d} {long} {year}",
                f"{day:02d}/{month:02d}/{year}", f"{day:02d}-{month:02d}-{year}", f"{day:02d}-{month:02d}-{short}",
                f"{day}/{month}/{year}", f"{day}/{month}/{short}", f"{day} {brief} {year}", f"{day} {brief} {short}",
                f"{day:02d}.{month:02d}.{year}", f"{date:%Y-%m-%d}", f"{day}-{month}-{year}",
            ]  # fmt: skip
        return self.rng.choice(ways)

    # ------------------------------------------------------------------ addresses

    def address(self) -> str:
        """A postal address on one line: Faker's or one put together as people of the region write it."""
        dice = self.rng.random()
        if self.region == "ID":
            return self.faker_address("id_ID") if dice < 0.3 else self.indonesian_address()
        if self.template.region is None and dice > 0.92:
            return self.indonesian_address()
        if self.region == "GB":
            return self.faker_address("en_GB") if dice < 0.35 else self.british_address()
        return self.faker_address("en_US") if dice < 0.35 else self.american_address()

    def faker_address(self, locale: str) -> str:
        """Faker's address in one line (its American ones are sometimes military mail, which is left out)."""
        while True:
            address = str(self.fakers[locale].address()).replace("\n", ", ")
            if not re.search(r"\b(?:APO|FPO|DPO|PSC|USNS|USS|USCGC|USNV)\b", address):
                return address

    def indonesian_address(self) -> str:
        """A street, alley, housing estate, flat or village house, with more or less of the rest."""
        rng = self.rng
        ward, district, town, province, postcode = rng.choice(_PLACES_ID)
        number = f"{rng.randint(1, 180)}{rng.choice(('', '', '', 'A', 'B'))}"
        no = rng.choice(("No. ", "No.", "no ", "No ", "No. "))
        rt, rw = rng.randint(1, 15), rng.randint(1, 18)
        wards = rng.choice((
            f"RT {rt:02d}/RW {rw:02d}", f"RT.{rt:03d}/RW.{rw:03d}", f"RT {rt} RW {rw}", f"RT {rt:02d} RW {rw:02d}",
            f"Rt {rt:02d}/{rw:02d}", f"RT/RW {rt:03d}/{rw:03d}",
        ))  # fmt: skip
        street = f"{rng.choice(('Jl.', 'Jl', 'Jalan', 'Jln.', 'Jl. '))} {rng.choice(_STREETS_ID)}".replace("  ", " ")
        alley = f"{rng.choice(('Gang', 'Gg.', 'Gg'))} {rng.choice(_ALLEYS_ID)}"
        block = f"{rng.choice(('Blok', 'Blok', 'blok'))} {rng.choice('ABCDEFGHJK')}{rng.choice(('', '2', '5', '11'))}"
        estate = f"{rng.choice(('Perum', 'Perumahan', 'Komplek', 'Komp.'))} {rng.choice(_ESTATES_ID)}"
        long_ward = f"{rng.choice(('Kel. ', 'Kelurahan ', 'Kel '))}{ward}"
        long_district = f"{rng.choice(('Kec. ', 'Kecamatan ', 'Kec '))}{district}"
        end = rng.choice((town, f"{town} {postcode}", f"{town} {postcode}", f"{town}, {province} {postcode}"))
        flat = f"{rng.choice(_FLATS_ID)} Lt. {rng.randint(2, 32)} Unit {rng.randint(1, 32):02d}{rng.choice('ABCDEF')}"
        village = f"{rng.choice(('Dusun', 'Dsn.', 'Kp.'))} {rng.choice(_HAMLETS_ID)}"
        ways = (
            f"{street} {no}{number}, {wards}, {long_ward}, {long_district}, {end}",
            f"{street} {no}{number} {wards}, {long_ward}, {long_district}, {end}",
            f"{street} {no}{number}, {ward}, {end}",
            f"{street} {no}{number}, {end}",
            f"{street} {alley} {no}{number} {wards}, {ward}, {district}, {end}",
            f"{alley} {no}{number}, {wards}, {ward}, {end}",
            f"{estate} {block} {no}{number}, {wards}, {long_ward}, {end}",
            f"{estate} {block}/{number}, {long_district}, {end}",
            f"{flat}, {street} {no}{number}, {end}",
            f"{village} {wards}, Desa {ward}, {long_district}, Kab. {town}, {province} {postcode}",
        )
        return rng.choice(ways)

    def american_address(self) -> str:
        """Number, street, apartment or suite, city, state and ZIP code."""
        rng = self.rng
        city, state, prefix = rng.choice(_PLACES_US)
        unit = rng.choice((
            "", "", f", Apt {rng.randint(1, 12)}{rng.choice('ABCD')}", f" Apt. {rng.randint(2, 410)}",
            f", Suite {rng.randrange(100, 900, 10)}", f" #{rng.randint(2, 48)}", f", Unit {rng.randint(1, 30)}",
        ))  # fmt: skip
        zip_code = f"{prefix}{self.digits(2)}{rng.choice(('', '', '', '', '-' + self.digits(4)))}"
        street = f"{rng.randint(12, 9800)} {rng.choice(_STREETS_US)}{unit}"
        return rng.choice((f"{street}, {city}, {state} {zip_code}", f"{street}, {city} {state} {zip_code}"))

    def british_address(self) -> str:
        """Flat, number, street, town and postcode."""
        rng = self.rng
        town, area = rng.choice(_PLACES_GB)
        letters = "ABDEFGHJLNPQRSTUWXYZ"
        postcode = f"{area}{rng.randint(1, 19)} {rng.randint(1, 9)}{rng.choice(letters)}{rng.choice(letters)}"
        flat = rng.choice((
            "", "", "", f"Flat {rng.randint(1, 40)}, ", f"Flat {rng.randint(1, 9)}{rng.choice('AB')}, ",
            f"{rng.choice(('Rose Cottage', 'The Old Bakery', 'Elm House', 'Mill House'))}, ",
        ))  # fmt: skip
        street = f"{flat}{rng.randint(1, 190)} {rng.choice(_STREETS_GB)}"
        return rng.choice((f"{street}, {town} {postcode}", f"{street}, {town}, {postcode}"))

    # ------------------------------------------------------------------ numbers

    def serial(self) -> str:
        """A serial number of four digits, mostly a low one."""
        return f"{self.rng.randint(1, 30) if self.chance(0.8) else self.rng.randint(31, 9999):04d}"

    def nik(self) -> str:
        """The first person's identity number: home's six digits, date of birth (a woman's day plus 40), serial."""
        day = self.birth.day + (40 if self.sex == "f" else 0)
        return f"{self.home}{day:02d}{self.birth:%m%y}{self.serial()}"

    def kk(self) -> str:
        """The family's card number: home's six digits, the day of registration, serial."""
        issued = datetime.date(2005, 1, 1) + datetime.timedelta(days=self.rng.randrange(19 * 365))
        return f"{self.home}{issued:%d%m%y}{self.serial()}"

    def group_of_four(self, number: str) -> str:
        """The number plain, or sometimes in groups of four."""
        mark = self.rng.choice(("", "", "", "", "", "", " ", " ", "."))
        return mark.join(number[start : start + 4] for start in range(0, len(number), 4))

    def npwp(self) -> str:
        """A tax number: formatted, 15 plain digits, or the 16-digit form (a person's NIK, or a leading zero)."""
        rng = self.rng
        head = rng.choice(("01", "02", "06", "07", "08", "09", "24", "31", "48", "54", "66", "73", "85", "91"))
        head += self.digits(6)
        head += luhn.calc_check_digit(head)
        office = f"{rng.randint(1, 98) * 10 + rng.randint(1, 9):03d}"
        branch = "000" if self.chance(0.8) else f"00{rng.randint(1, 4)}"
        dice = rng.random()
        if dice < 0.62:
            return f"{head[:2]}.{head[2:5]}.{head[5:8]}.{head[8]}-{office}.{branch}"
        if dice < 0.75:
            return head + office + branch
        if dice < 0.9:
            return "0" + head + office + branch
        return self.nik()

    def phone(self, mobile: bool) -> str:
        """A number in one of the region's usual ways of writing; of a mobile, or of any kind of line."""
        rng = self.rng
        if self.region == "ID":
            prefix = rng.choice(("811", "812", "813", "815", "816", "817", "819", "821", "822", "831", "838", "851",
                                 "852", "853", "856", "857", "858", "859", "877", "878", "895", "896"))  # fmt: skip
            middle, last = self.digits(4), self.digits(rng.choice((3, 4, 4, 4)))
            area = rng.choice(("21", "22", "24", "31", "61", "251", "274", "271", "341", "361", "411"))
            local = self.shape("@######" if len(area) == 2 else "@#####")
            ways: tuple[str, ...] = (
                f"0{prefix}-{middle}-{last}", f"0{prefix}-{middle}-{last}", f"0{prefix}{middle}{last}",
                f"0{prefix}{middle}{last}", f"0{prefix}{middle}{last}", f"0{prefix} {middle} {last}",
                f"+62 {prefix} {middle} {last}", f"+62 {prefix}-{middle}-{last}", f"+62{prefix}{middle}{last}",
                f"62{prefix}{middle}{last}", f"0{prefix}.{middle}.{last}",
            )  # fmt: skip
            fixed: tuple[str, ...] = (
                f"(0{area}) {local}", f"0{area}-{local}", f"+62 {area} {local[:3]} {local[3:]}",
                f"(0{area}) {local[:3]}-{local[3:]}",
            )  # fmt: skip
        elif self.region == "GB":
            code, six = f"07{rng.choice('34578')}{self.digits(2)}", self.digits(6)
            ways = (
                f"{code} {six}", f"{code} {six}", f"{code} {six[:3]} {six[3:]}", f"{code}{six}",
                f"+44 {code[1:]} {six}", f"+44{code[1:]}{six}", f"+44 (0){code[1:]} {six}",
            )  # fmt: skip
            fixed = (
                self.shape("020 7### ####"), self.shape("0113 @## ####"), self.shape("(0131) @## ####"),
                self.shape("01@## @#####"),
            )  # fmt: skip
        else:
            area = rng.choice(("212", "312", "415", "503", "512", "602", "614", "617", "619", "702", "718", "737",
                               "773", "813", "917", "919", "971"))  # fmt: skip
            rest = self.shape("@##-####")
            ways = (
                f"({area}) {rest}", f"({area}) {rest}", f"{area}-{rest}", f"{area}-{rest}", f"{area} {rest}",
                f"{area}.{rest.replace('-', '.')}", f"+1 {area} {rest.replace('-', ' ')}", f"+1 {area}-{rest}",
                f"1-{area}-{rest}", f"{area}{rest.replace('-', '')}", f"+1 ({area}) {rest}",
            )  # fmt: skip
            fixed = ()
        return rng.choice(ways if mobile else ways + fixed)

    def card(self, brand: str | None = None) -> str:
        """A card number with its Luhn digit; none of the numbers that payment companies publish for tests."""
        rng = self.rng
        brand = brand or rng.choice(("visa", "visa", "visa", "master", "master", "master", "amex", "jcb"))
        while True:
            if brand == "visa":
                body = "4" + self.digits(14)
            elif brand == "master":
                body = rng.choice((f"5{rng.randint(1, 5)}", f"2{rng.randint(3, 6)}")) + self.digits(13)
            elif brand == "amex":
                body = rng.choice(("34", "37")) + self.digits(12)
            else:
                body = f"35{rng.randint(28, 89)}" + self.digits(11)
            number = body + luhn.calc_check_digit(body)
            # The published ones are all regular: long runs, or few different digits.
            if len(set(number)) >= 6 and not re.search(r"(\d)\1{3}", number) and number not in _TEST_CARDS:
                break
        mark = rng.choice((" ", " ", " ", "-", "-", ""))
        if brand == "amex":
            return mark.join((number[:4], number[4:10], number[10:]))
        return mark.join(number[start : start + 4] for start in range(0, 16, 4))

    def account(self, before: str) -> str:
        """A bank account number; of the bank that the text names just before it, if it does."""
        rng = self.rng
        banks = {
            "bca": ("##########", "###-###-####", "####-###-###"),
            "bni": ("0#########", "1#########", "0###-###-###"),
            "bri": ("####01######50#", "####-01-######-50-#", "####-01-######-53-#"),
            "mandiri": ("1############", "1##-##-#######-#", "1##-00-#######-#"),
        }
        for bank, patterns in banks.items():
            if re.search(rf"\b{bank}\b", before):
                return self.shape(rng.choice((patterns[0], *patterns)))
        if self.region == "US" and self.chance(0.6):
            return self.shape(rng.choice(("@########", "@##########", "@###########")))
        if self.region == "GB" and self.chance(0.6):
            return self.shape("@#######")
        return self.shape(rng.choice([pattern for patterns in banks.values() for pattern in patterns]))

    def iban(self) -> str:
        """A British, German, Dutch or Irish IBAN, in groups of four or plain."""
        rng = self.rng
        country = rng.choice(("GB", "GB", "DE", "DE", "NL", "IE"))
        if country == "GB":
            body = rng.choice(("BARC", "NWBK", "LOYD", "HBUK", "MIDL")) + self.digits(14)
        elif country == "DE":
            body = rng.choice(("37040044", "10050000", "50010517", "70020270", "20041133")) + self.digits(10)
        elif country == "IE":
            body = rng.choice(("AIBK", "BOFI")) + self.digits(14)
        else:
            account = ""
            while not account or sum((10 - place) * int(digit) for place, digit in enumerate(account)) % 11:
                account = "0" + self.digits(9)
            body = rng.choice(("INGB", "RABO", "ABNA")) + account
        as_digits = "".join(str(int(sign, 36)) for sign in f"{body}{country}00")
        whole = f"{country}{98 - int(as_digits) % 97:02d}{body}"
        if self.chance(0.6):
            return " ".join(whole[start : start + 4] for start in range(0, len(whole), 4))
        return whole


def _words(name: str) -> list[str]:
    """The words of a name in lower case without accents, initials and marks; at least one word."""
    accents = str.maketrans("áàâäãåçéèêëíìîïñóòôöõøśúùûüý", "aaaaaaceeeeiiiinoooooosuuuuy")
    letters = re.sub(r"[^a-z ]", "", name.lower().translate(accents))
    return [word for word in letters.split() if len(word) > 1] or [letters.strip() or "info"]


def _ordinal(day: int) -> str:
    """1st, 2nd, 3rd, 4th, …"""
    return f"{day}{'th' if 11 <= day <= 13 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


# ---------------------------------------------------------------------- lists

_MONTHS_EN = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_MONTHS_EN_SHORT = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sept", "Oct", "Nov", "Dec")
_MONTHS_ID = (
    "Januari", "Februari", "Maret", "April", "Mei", "Juni", "Juli", "Agustus", "September", "Oktober", "November",
    "Desember",
)  # fmt: skip
_MONTHS_ID_SHORT = ("Jan", "Feb", "Mar", "Apr", "Mei", "Jun", "Jul", "Agt", "Sep", "Okt", "Nov", "Des")

_GIVEN_M = (
    "Adi", "Agung", "Agus", "Aldi", "Andi", "Anton", "Ari", "Arief", "Aris", "Bagas", "Bambang", "Bayu", "Bima",
    "Budi", "Catur", "Dani", "Dedi", "Deni", "Dimas", "Doni", "Eko", "Fajar", "Farhan", "Fauzan", "Fikri", "Galih",
    "Gilang", "Hadi", "Hafiz", "Hendra", "Heru", "Ilham", "Imam", "Indra", "Irfan", "Iwan", "Joko", "Krisna",
    "Lukman", "Maulana", "Naufal", "Nugroho", "Panji", "Rahmat", "Raka", "Rangga", "Reza", "Rian", "Ridwan", "Rizky",
    "Rudi", "Satria", "Slamet", "Sigit", "Surya", "Taufik", "Teguh", "Tono", "Wahyu", "Wawan", "Yoga", "Yudi",
    "Yusuf", "Zaki", "Togar", "Ucok", "Ferdinand", "Yohanes", "Markus", "La Ode",
)  # fmt: skip
_GIVEN_F = (
    "Aisyah", "Alya", "Anisa", "Anggun", "Ayu", "Bunga", "Cantika", "Citra", "Desi", "Dewi", "Dian", "Dina", "Dwi",
    "Eka", "Elsa", "Endang", "Erna", "Fitri", "Gita", "Hana", "Ika", "Indah", "Intan", "Ira", "Kartini", "Laras",
    "Lestari", "Lia", "Lilis", "Linda", "Maya", "Mega", "Melati", "Mira", "Nabila", "Nadia", "Nining", "Novi", "Nur",
    "Nurul", "Putri", "Rahma", "Rani", "Ratna", "Retno", "Rina", "Rini", "Riska", "Rosa", "Salsabila", "Sari",
    "Sekar", "Shinta", "Siti", "Sri", "Susi", "Tari", "Tiara", "Tika", "Tuti", "Ulfa", "Vina", "Wati", "Wulan",
    "Yanti", "Yuli", "Yuni", "Zahra", "Maria", "Theresia",
)  # fmt: skip
_LAST_ID = (
    "Abdullah", "Anggraini", "Ardiansyah", "Aulia", "Batubara", "Chaniago", "Darmawan", "Fadillah", "Firdaus",
    "Ginting", "Gunawan", "Hakim", "Harahap", "Hartono", "Hasibuan", "Hidayat", "Iskandar", "Kurniawan", "Kusuma",
    "Lubis", "Manullang", "Maulida", "Nababan", "Nainggolan", "Nasution", "Ningsih", "Nugraha", "Nugroho", "Panjaitan",
    "Permana", "Permata", "Pratama", "Pratiwi", "Prasetyo", "Purnama", "Putra", "Rahayu", "Rahman", "Ramadhan",
    "Saputra", "Sari", "Setiawan", "Siahaan", "Simanjuntak", "Siregar", "Situmorang", "Subagyo", "Sudrajat", "Sulistyo",
    "Suryani", "Susanto", "Sutrisno", "Tampubolon", "Utomo", "Wardhana", "Wibowo", "Widodo", "Wijaya", "Wulandari",
    "Yulianti", "Pattiwael", "Manoppo", "Lumentut", "Rumbiak", "Daeng Pawero",
)  # fmt: skip
_SINGLE_M = ("Sukirman", "Supardi", "Mulyono", "Paimin", "Sugeng", "Suyatno", "Kasiman", "Wagiman", "Darsono")
_SINGLE_F = ("Suminah", "Sukinem", "Partini", "Rohayati", "Sumiyati", "Maryani", "Tugiyem", "Nurhayati", "Jumiati")
_BALI_M = ("Wirawan", "Sudiarta", "Agus Suarjana", "Darmayasa", "Eka Putra", "Mahendra", "Suartika", "Artawan")
_BALI_F = ("Ayu Lestari", "Suryani", "Sri Astuti", "Ratnadi", "Ayu Pradnyani", "Widiantari", "Sukerti", "Eka Dewi")
_CHINESE_GIVEN_M = ("Kevin", "Hendrik", "Steven", "William", "Andreas", "Jonathan", "Budiman", "Edwin", "Felix")
_CHINESE_GIVEN_F = ("Meilani", "Jessica", "Felicia", "Evelyn", "Mei Ling", "Stephanie", "Cindy", "Silvia", "Lanny")
_CHINESE_LAST = ("Tanoto", "Halim", "Wijaya", "Liem", "Tan", "Gunadi", "Salim", "Kwee", "Sutanto", "Lie", "Oey")
_WORLD_M = (
    "Rajesh Venkataraman", "Mohammed Al-Harbi", "Seamus O'Donnell", "Jean-Luc Moreau", "Kwame Boateng",
    "Hiroshi Tanabe", "Diego Fuentes Rojas", "Tomasz Wiśniewski", "Wei Zhang", "Olumide Adeyemi", "Lars van der Berg",
    "José Ramírez", "Dmitri Volkov", "Arjun Mehta", "Callum MacLeod", "Tyrone Beckford", "Nikos Papadakis",
    "Minh Nguyen",
)  # fmt: skip
_WORLD_F = (
    "Priya Raghunathan", "Siobhán O'Reilly", "Fatima El-Sayed", "Ingrid Sørensen", "Chidinma Okafor", "Mei-Ling Chow",
    "Lucía Hernández", "Agnieszka Nowak", "Yuki Matsuda", "Anneke de Vries", "Saoirse Brennan", "Hope Achebe",
    "Rose Delacroix", "Noor Hussain", "Linh Tran", "Grace Kim", "Ananya Iyer", "Bronwen ap Rhys",
)  # fmt: skip

_MAIL_HOSTS = {
    "ID": ("gmail.com", "gmail.com", "gmail.com", "yahoo.co.id", "yahoo.com", "outlook.co.id", "ymail.com",
           "student.ui.ac.id", "grahasentosa.co.id", "icloud.com"),
    "US": ("gmail.com", "gmail.com", "yahoo.com", "outlook.com", "icloud.com", "hotmail.com", "proton.me",
           "brightwater-consulting.com", "alumni.utexas.edu"),
    "GB": ("gmail.com", "gmail.com", "hotmail.co.uk", "btinternet.com", "outlook.com", "yahoo.co.uk", "icloud.com",
           "harbourandfinch.co.uk"),
}  # fmt: skip

_PLACES_ID = (
    ("Cipete Selatan", "Cilandak", "Jakarta Selatan", "DKI Jakarta", "12410"),
    ("Duren Sawit", "Duren Sawit", "Jakarta Timur", "DKI Jakarta", "13440"),
    ("Kelapa Gading Timur", "Kelapa Gading", "Jakarta Utara", "DKI Jakarta", "14240"),
    ("Kedoya Selatan", "Kebon Jeruk", "Jakarta Barat", "DKI Jakarta", "11520"),
    ("Menteng", "Menteng", "Jakarta Pusat", "DKI Jakarta", "10310"),
    ("Dago", "Coblong", "Bandung", "Jawa Barat", "40135"),
    ("Antapani Kidul", "Antapani", "Bandung", "Jawa Barat", "40291"),
    ("Sukamaju", "Cilodong", "Depok", "Jawa Barat", "16415"),
    ("Margahayu", "Bekasi Timur", "Bekasi", "Jawa Barat", "17113"),
    ("Pakansari", "Cibinong", "Bogor", "Jawa Barat", "16915"),
    ("Cimone", "Karawaci", "Tangerang", "Banten", "15114"),
    ("Serua", "Ciputat", "Tangerang Selatan", "Banten", "15414"),
    ("Condongcatur", "Depok", "Sleman", "DI Yogyakarta", "55283"),
    ("Banguntapan", "Banguntapan", "Bantul", "DI Yogyakarta", "55198"),
    ("Bulusan", "Tembalang", "Semarang", "Jawa Tengah", "50277"),
    ("Jebres", "Jebres", "Surakarta", "Jawa Tengah", "57126"),
    ("Tlogomas", "Lowokwaru", "Malang", "Jawa Timur", "65144"),
    ("Airlangga", "Gubeng", "Surabaya", "Jawa Timur", "60286"),
    ("Sukodadi", "Sukodadi", "Lamongan", "Jawa Timur", "62253"),
    ("Sesetan", "Denpasar Selatan", "Denpasar", "Bali", "80223"),
    ("Peliatan", "Ubud", "Gianyar", "Bali", "80571"),
    ("Tamalanrea Indah", "Tamalanrea", "Makassar", "Sulawesi Selatan", "90245"),
    ("Padang Bulan", "Medan Baru", "Medan", "Sumatera Utara", "20155"),
    ("Talang Kelapa", "Alang-Alang Lebar", "Palembang", "Sumatera Selatan", "30154"),
    ("Loa Bakung", "Sungai Kunjang", "Samarinda", "Kalimantan Timur", "75129"),
    ("Lolong Belanti", "Padang Utara", "Padang", "Sumatera Barat", "25136"),
)
_STREETS_ID = (
    "Melati Raya", "Kenanga", "Mawar II", "H. Naim", "Diponegoro", "Ahmad Yani", "Gatot Subroto", "Pahlawan",
    "Cempaka Putih Tengah", "Raya Bogor KM 32", "Kaliurang Km 7,5", "Imam Bonjol", "Merdeka Barat", "Veteran",
    "Sunan Kalijaga", "KH. Ahmad Dahlan", "Teuku Umar", "Anggrek Loka", "Rajawali Selatan", "Pangeran Antasari",
    "Dr. Wahidin", "Cendrawasih", "Letjen S. Parman", "Flamboyan Dalam", "Tukad Badung", "Perintis Kemerdekaan",
)  # fmt: skip
_ALLEYS_ID = ("Mangga", "H. Sabar", "Buntu", "Kancil 2", "Masjid Al-Ikhlas", "Swadaya IV", "Salak", "Pos Pengumben")
_ESTATES_ID = (
    "Griya Asri", "Bumi Serpong Damai", "Pondok Indah Permai", "Villa Nusa Indah", "Taman Sari Persada", "Citra Raya",
    "Graha Bintaro", "Permata Hijau Regency", "BTN Antang", "Puri Cikarang",
)  # fmt: skip
_FLATS_ID = (
    "Apartemen Kalibata City Tower Flamboyan", "Apt. Mediterania Garden 2 Tower Heliconia", "Apartemen Bassura Tower C",
    "Rusun Benhil 2", "Apartemen Puncak Dharmahusada Tower B",
)  # fmt: skip
_HAMLETS_ID = ("Krajan", "Sumberejo", "Karanganyar", "Pasir Angin", "Cikaret", "Ngemplak", "Tegalsari")

_PLACES_US = (
    ("Austin", "TX", "787"), ("Portland", "OR", "972"), ("Chicago", "IL", "606"), ("Brooklyn", "NY", "112"),
    ("Columbus", "OH", "432"), ("Denver", "CO", "802"), ("San Diego", "CA", "921"), ("Seattle", "WA", "981"),
    ("Nashville", "TN", "372"), ("Tampa", "FL", "336"), ("Boise", "ID", "837"), ("Madison", "WI", "537"),
    ("Raleigh", "NC", "276"), ("Tucson", "AZ", "857"), ("Ann Arbor", "MI", "481"), ("Providence", "RI", "029"),
)  # fmt: skip
_STREETS_US = (
    "Maple Street", "Oak Ave", "W 34th St", "N Lamar Blvd", "Cherry Hill Rd", "SE Hawthorne Blvd", "Lakeview Drive",
    "Washington Ave", "Sunset Ct", "Old Mill Road", "E 6th Street", "Magnolia Lane", "County Road 12", "Broadway",
    "Martin Luther King Jr Blvd", "Pine Ridge Trail", "Jefferson St", "Bay Parkway",
)  # fmt: skip
_PLACES_GB = (
    ("Leeds", "LS"), ("Manchester", "M"), ("Bristol", "BS"), ("Edinburgh", "EH"), ("Cardiff", "CF"), ("Sheffield", "S"),
    ("Brighton", "BN"), ("Norwich", "NR"), ("York", "YO"), ("London", "SE"), ("London", "N"), ("Glasgow", "G"),
    ("Oxford", "OX"), ("Newcastle upon Tyne", "NE"), ("Belfast", "BT"),
)  # fmt: skip
_STREETS_GB = (
    "Station Road", "High Street", "Victoria Terrace", "Church Lane", "Queens Road", "Albert Street", "Park Crescent",
    "St John's Hill", "The Avenue", "Mill Lane", "Chapel Close", "King's Parade", "Burley Lodge Road", "Meadow Way",
    "Gloucester Place", "Bath Row",
)  # fmt: skip

_REGENCIES = (
    "1101", "1171", "1207", "1271", "1275", "1306", "1371", "1401", "1471", "1571", "1604", "1671", "1771", "1801",
    "1871", "1971", "2171", "2172", "3171", "3172", "3173", "3174", "3175", "3201", "3204", "3205", "3215", "3216",
    "3271", "3273", "3275", "3276", "3277", "3302", "3313", "3322", "3372", "3374", "3402", "3404", "3471", "3507",
    "3515", "3524", "3573", "3578", "3603", "3671", "3674", "5103", "5104", "5171", "5201", "5271", "5371", "6171",
    "6271", "6371", "6471", "6472", "6571", "7171", "7271", "7306", "7371", "7471", "7571", "8171", "8271", "9171",
)  # fmt: skip

_TEST_CARDS = frozenset((
    "4111111111111111", "4242424242424242", "4012888888881881", "4000056655665556", "5555555555554444",
    "5105105105105100", "5200828282828210", "2223003122003222", "378282246310005", "371449635398431",
    "378734493671000", "3530111333300000", "3566002020360505", "4012001037141112", "5454545454545454",
    "4917610000000000", "4988438843884305", "5425233430109903", "2222405343248877", "374245455400126",
    "4539578763621486", "4532015112830366", "4716108999716531", "5496198584584769", "4485275742308327",
))  # fmt: skip
