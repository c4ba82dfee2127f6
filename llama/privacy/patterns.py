"""Personal data in free text that no field declares: by pattern, by check sum, and by the words around it.

=========== ========================================================================================================
by pattern  e-mail, phone (``phonenumbers``), NIK with its embedded birth date, KK, NPWP, card (Luhn), IBAN (mod 97,
            ``python-stdnum``), other long numbers, number plates, full dates, addresses, links with an id in them
by cue      names and companies, by what stands before them (*Pak*, *Mr*, *nama saya*, *for my friend*, *PT*), and
            by some hundred given names that are no ordinary words
=========== ========================================================================================================

Indonesian and English. There is no named-entity model: a name that no word announces is missed. Misses are measured
(``tests/test_free_text.py``); what is declared in the profile needs none of this.

Formats: NIK and KK, Permendagri 25/2011 (6 digits of region, then for a NIK day (women: + 40), month, year, 4 of a
serial number); NPWP, 15 digits of which the ninth is a Luhn check digit; cards, ISO/IEC 7812; IBAN, ISO 13616.

Knows nothing about: profiles, tags, sheets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import phonenumbers
from stdnum import iban, luhn

from llama.privacy.normalised import NormalisedText
from llama.privacy.places import POSTCODE_UK
from llama.privacy.words import CITIES_ID, NAMES, NOT_NAMES, PROVINCES_ID, STREET_TYPES_EN


@dataclass(frozen=True)
class Hit:
    """``text[start:end]`` looks like personal data of a kind; ``kind`` is a tag's."""

    start: int
    end: int
    kind: str


def hits_in(text: str | NormalisedText) -> list[Hit]:
    """All hits, by position; they may overlap."""
    view = NormalisedText(text) if isinstance(text, str) else text
    found = [hit for detect in _DETECTORS for hit in detect(view)]
    return sorted(found, key=lambda hit: (hit.start, -hit.end))


# --- Numbers ---------------------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"(?<![\w])\+?\(?\d(?:[ \t.\-–/()]{0,2}\d)+(?!\w)")
_CURRENCY_BEFORE = re.compile(r"(?:rp\.?|idr|usd|us\$|sgd|eur|gbp|[$€£])\s?$")
_GROUPED_AMOUNT = re.compile(r"\d{1,3}(?:\.\d{3})+(?:,\d{1,2})?|\d{1,3}(?:,\d{3})+(?:\.\d{1,2})?")
_ACCOUNT_CUE = re.compile(
    r"\b(?:rek(?:ening)?|norek|no\.? ?rek|account|acct|a/c|acc|va|virtual account|bca|bni|bri|mandiri|cimb|permata|bsi|"
    r"btn|danamon|seabank|jago|gopay|ovo|dana)\b[^\d\n]{0,25}$"
)
_ID_CUE = re.compile(
    r"\b(?:nik|ktp|kk|kartu keluarga|npwp|nip|nis|sim|paspor|passport|ssn|social security|bpjs|policy|polis|member|"
    r"customer|id|identity|licen[cs]e|booking|order|resi|invoice)\b[^\d\n]{0,20}$"
)
_NPWP = re.compile(r"(?<!\d)\d{2}\.?\d{3}\.?\d{3}\.?\d-?\d{3}\.?\d{3}(?!\d)")
_SSN = re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])")
_NORTH_AMERICAN = re.compile(
    r"(?<![\w])(?:\+?0{0,2}1[-. ]?)?\(?[2-9]\d{2}\)?[-. ]{1,2}\d{3}[-. ]\d{4}(?:\s?(?:x|ext\.?)\s?\d{1,6})?(?!\w)"
)
_LOCAL_PHONE = re.compile(
    r"(?<![\w.])(?:\+\s?62|62|0)[\s.\-()]{0,3}(?:8\d|[2-7]\d{1,2})[\s.\-()]{0,3}\d(?:[\s.\-]{0,2}\d){4,9}(?!\w)"
)
_CARD_DETAIL = re.compile(
    r"(?<!\w)(?:cvv2?|cvc2?|exp(?:iry|ires)?|berlaku)[\s.:]{0,3}(?:\d{3,4}(?!\d)|\d{2}\s?/\s?\d{2,4}(?!\d))"
)
_PLATE = re.compile(r"(?<![\w])(?:[A-Z]{1,2})[ -]?\d{1,4}[ -]?[A-Z]{1,3}(?![\w])")
_PASSPORT = re.compile(r"(?<![\w])[A-Z]{1,2}\d{6,8}(?!\w)")


def _numbers(view: NormalisedText) -> Iterator[Hit]:
    line = view.line
    for m in _NUMBER.finditer(line):
        digits = re.sub(r"\D", "", m[0])
        before = line[max(0, m.start() - 40) : m.start()]
        shown = m[0].strip("() ")
        if _CURRENCY_BEFORE.search(before) or _GROUPED_AMOUNT.fullmatch(shown):
            continue
        if len(digits) == 16 and is_nik(digits):
            yield Hit(*m.span(), "ID")
        elif 13 <= len(digits) <= 19 and luhn.is_valid(digits) and len(set(digits)) > 2:
            yield Hit(*m.span(), "CARD")
        elif len(digits) >= 5 and _ACCOUNT_CUE.search(before):
            yield Hit(*m.span(), "ACCOUNT")
        elif (len(digits) >= 5 and _ID_CUE.search(before)) or _NPWP.fullmatch(m[0]):
            yield Hit(*m.span(), "ID")
        elif len(digits) >= 8 and not any(start <= m.start() and m.end() <= end for start, end, _ in view.dates):
            yield Hit(*m.span(), "NUMBER")
    for m in _NPWP.finditer(line):
        if luhn.is_valid(re.sub(r"\D", "", m[0])[:9]) or "." in m[0]:
            yield Hit(*m.span(), "ID")
    for m in _CARD_DETAIL.finditer(line):
        yield Hit(*m.span(), "CARD")
    for m in _SSN.finditer(line):
        yield Hit(*m.span(), "ID")
    for pattern in (_PLATE, _PASSPORT):
        for m in pattern.finditer(view.text):
            if m[0].replace(" ", "").replace("-", "").upper() == m[0].replace(" ", "").replace("-", ""):
                yield Hit(*m.span(), "ID")


def is_nik(digits: str) -> bool:
    """Whether 16 digits are built as a NIK: a province from 11 to 99, and a day (women: + 40) and month of birth."""
    day, month = int(digits[6:8]) % 40, int(digits[8:10])
    return int(digits[:2]) >= 11 and int(digits[6:8]) <= 71 and 1 <= day <= 31 and 1 <= month <= 12


def _phones(view: NormalisedText) -> Iterator[Hit]:
    for pattern in (_LOCAL_PHONE, _NORTH_AMERICAN):
        for m in pattern.finditer(view.line):
            yield Hit(*m.span(), "PHONE")
    if sum(c.isdigit() for c in view.line) < 7:
        return
    for region in ("ID", "US", "GB"):
        for match in phonenumbers.PhoneNumberMatcher(view.line, region):
            if not _GROUPED_AMOUNT.fullmatch(match.raw_string) and not any(
                start <= match.start and match.end <= end for start, end, _ in view.dates
            ):
                yield Hit(match.start, match.end, "PHONE")


def _ibans(view: NormalisedText) -> Iterator[Hit]:
    for m in re.finditer(r"(?<!\w)[a-z]{2}\d{2}(?: ?[a-z0-9]{1,4}){3,8}(?!\w)", view.line):
        for end in range(m.end(), m.start() + 14, -1):  # a word that follows may look like one more group
            if iban.is_valid(view.line[m.start() : end].strip()):
                yield Hit(m.start(), end, "ACCOUNT")
                break


# --- Mail, links, dates ----------------------------------------------------------------------------------------------

_EMAIL = re.compile(
    r"(?<![\w.!#$%&'*+/=?^`{|}~-])[\w.!#$%&'*+/=?^`{|}~-]{1,64}\s?(?:@|\[at\]|\(at\))\s?(?:[\w-]+(?:\.|\s?\[dot\]\s?|\s?\(dot\)\s?))+[a-z]{2,}"
)
_URL = re.compile(
    r"(?:https?://|www\.)[^\s<>\"']+|(?<![\w@.-])(?:[\w-]{1,63}\.){1,8}(?:com|id|co|me|net|org|io|app|link|ly|uk|gg|tv|"
    r"shop|info)/[^\s<>\"']+"
)
_HANDLE = re.compile(r"(?<![\w@./])@[A-Za-z_][\w.]{2,29}")
_PROFILE_HOSTS = re.compile(
    r"(?:instagram|facebook|fb|twitter|x|tiktok|linkedin|t|wa|github|line|threads|youtube|linktr)\.(?:com|me|ee)\b"
)


def _mail_and_links(view: NormalisedText) -> Iterator[Hit]:
    for m in _EMAIL.finditer(view.line):
        yield Hit(*m.span(), "EMAIL")
    for m in _URL.finditer(view.line):
        url = m[0].rstrip(".,;:!?)]}")
        host, _, path = re.sub(r"^https?://", "", url).partition("/")
        personal = "@" in url or "=" in path or re.search(r"\d{3}", path) or re.search(r"[a-z]\d|\d[a-z]", path)
        if (
            personal
            or (path and _PROFILE_HOSTS.search(host))
            or re.search(r"(?:^|/)(?:u|user|users|in|profile|member|~)/", path)
        ):
            yield Hit(m.start(), m.start() + len(url), "URL")
    for m in _HANDLE.finditer(view.text):
        yield Hit(*m.span(), "URL")


def _full_dates(view: NormalisedText) -> Iterator[Hit]:
    for start, end, days in view.dates:
        if any(year is not None and day is not None for year, _, day in days):
            yield Hit(start, end, "DATE")


# --- Addresses -------------------------------------------------------------------------------------------------------

_CITY, _PROVINCE = "|".join(CITIES_ID), "|".join(PROVINCES_ID)
CITIES = re.compile(rf"(?<!\w)(?:(?:kota|kabupaten|kab\.)\s)?(?:{_CITY})(?!\w)", re.IGNORECASE)

# Indonesian: a street word, up to five more words, then parts that only addresses have, or places after a comma.
_PART_ID = (
    r"blok|blk|no|nomor|nmr|rt/rw|rt|rw|kel|kelurahan|kec|kecamatan|desa|dusun|ds|dsn|kab|kabupaten|kota|prov|provinsi|"
    r"lt|lantai|unit|gg|gang|perum|perumahan|komplek|kompleks|kavling|kav|km|kode pos|lorong|residence|cluster|tower|"
    r"lot"
)
_STOP_ID = (
    r"no|nomor|blok|rt|rw|dan|atau|untuk|yang|ya|di|dekat|sebelah|kota|kel|kec|kab|hp|telp|saya|aku|itu|ini|dengan|jam|"
    r"setelah|sebelum|mau|besok|tolong|agar|supaya|wa|depan|belakang|samping|sudah|kalau|karena|tapi|adalah|bisa|ada|"
    r"tgl|tanggal|email|nama|nik|a\.?n|titip"
)
_TAIL_ID = (
    rf"(?:[\s,]*(?:(?:{_PART_ID})\b\.?[\s:]*[\w./-]+(?:\s(?!(?:{_STOP_ID})\b)(?:[a-z]+(?=\s?(?:,|\d{{5}}))|"
    r"(?-i:[A-Z])[a-z]+(?=\s?(?:\.|\n|$)))){0,2}"
    rf"|\d{{1,4}}[a-z]?(?![\w.])|\d{{2,3}}/\d{{2,3}}|(?:{_CITY})\b|(?:{_PROVINCE})\b|(?-i:[A-Z]{{2}}\s)?\d{{5}}\b)"
    rf"|,\s?(?!(?:{_STOP_ID})\b)(?-i:[A-Z])[\w'.-]*(?:\s(?!(?:{_STOP_ID})\b)(?-i:[A-Z])[\w'.-]*){{0,3}}"
    rf"|,\s?(?!(?:{_STOP_ID})\b)[a-z]+(?:\s(?!(?:{_STOP_ID})\b)[a-z]+){{0,2}}(?=,\s?(?:{_CITY}|{_PROVINCE})\b|"
    rf"\s\d{{5}}\b))*"
)
_STREET_ID = re.compile(
    r"(?<!\w)(?:jl|jln|gg|jalan|gang|komplek|kompleks|komp|perum|perumahan|dusun|kampung|kp|ruko|apartemen|apt|rusun|"
    r"gedung|"
    rf"cluster|griya)\b\.?\s+(?:[a-z][\w.'/-]*|\d{{1,3}})(?:\s(?!(?:{_STOP_ID})\b)[a-z][\w.'-]*){{0,4}}{_TAIL_ID}",
    re.IGNORECASE,
)
_RT_RW = re.compile(rf"(?<!\w)rt\.?\s?\d{{1,3}}\s?/?\s?(?:rw\.?\s?)?\d{{1,3}}{_TAIL_ID}", re.IGNORECASE)

# English: a number, one to four capitalised words, a kind of street; then flat, town, state or postcode.
_WORDS_EN = r"(?:(?:[A-Z][\w'.-]*|\d{1,3}(?:st|nd|rd|th))\s){1,4}"
_STREET_TYPE = rf"(?i:{'|'.join(STREET_TYPES_EN)})\b\.?"
_STATE = (
    "A[KLRZSAEP]|C[AOT]|D[CE]|F[LM]|G[AU]|HI|I[ADLN]|K[SY]|LA|M[ADEHINOPST]|N[CDEHJMVY]|O[HKR]|P[ARW]|RI|S[CD]|T[NX]|UT|V[AIT]|"
    "W[AIVY]"
)
_ZIP = r"\d{5}(?:-\d{4})?(?!\d)"
_TAIL_EN = (
    r"(?:,?\s(?:Apt|Apartment|Suite|Ste|Unit|Flat|Floor|Fl|Room|#)\.?\s?#?[\w-]+)?"
    rf"(?:,\s?(?:(?!(?:{_STATE})\s\d|{POSTCODE_UK})(?:[A-Z][\w'.-]*|upon|on|in|under|by|le|de|la)\s?){{1,4}}){{0,3}}"
    rf"(?:,?\s?(?:{_STATE})\s{_ZIP}|,?\s{_ZIP}|,?\s?{POSTCODE_UK})?"
)
_STREET_EN = re.compile(
    r"(?:(?<!\w)(?:The\s)?[A-Z]\w+(?:\s[A-Z]\w+)?,\s)?(?<![\w.])\d{1,5}[A-Za-z]?(?:-\d+)?,?\s(?:(?:[NSEW]\.?|North|"
    r"South|East|"
    rf"West)\s)?(?:{_WORDS_EN}{_STREET_TYPE}|Broadway\b){_TAIL_EN}"
)
_FLAT_EN = re.compile(
    rf"(?<!\w)(?:Flat|Apt\.?|Apartment|Suite|Unit|"
    rf"Studio)\s\d+[A-Za-z]?,?\s(?:\d+\s)?{_WORDS_EN}{_STREET_TYPE}{_TAIL_EN}"
)
_MILITARY = re.compile(
    r"(?<!\w)(?:PSC \d+,? Box \d+|Unit \d+,? Box \d+|US[NC][SGV]?[A-Z]* [A-Z]\w+),?\s[AFD]PO A[AEP] \d{5}",
    re.IGNORECASE,
)
_PO_BOX = re.compile(rf"(?<!\w)P\.?\s?O\.?\s?Box\s\d+{_TAIL_EN}")
_POSTCODES = re.compile(rf"(?<!\w)(?:{POSTCODE_UK}|(?:{_STATE})\s{_ZIP})(?!\w)")


def _addresses(view: NormalisedText) -> Iterator[Hit]:
    for pattern in (_STREET_ID, _RT_RW, _STREET_EN, _FLAT_EN, _MILITARY, _PO_BOX, _POSTCODES):
        for m in pattern.finditer(view.text):
            # jalan is also "to walk": before a small letter it is a street's only with a number.
            walked = pattern is _STREET_ID and m[0].partition(" ")[2][:1].islower()
            if walked and not any(c.isdigit() for c in m[0]):
                continue
            yield Hit(m.start(), m.start() + len(m[0].rstrip(" ,.")), "ADDRESS")


# --- Names and companies ---------------------------------------------------------------------------------------------

_WORD = r"(?<!\w)(?:(?:[A-Z]|Dr|Drs|H|Hj|Ir|Jr|Moh|Muh|Sr|St)\.|[A-ZÀ-ÖØ-Þ][\w'’-]{0,40})"
_MORE = rf"\s(?:(?:de|van|von|der|den|bin|binti|al|el|la|da|dos|ap|ter)\s){{0,2}}{_WORD}"
_ONE, _TWO = rf"({_WORD}(?:{_MORE}){{0,3}})", rf"({_WORD}\s(?:[A-Z]\.\s)?{_MORE[2:]}(?:{_MORE}){{0,2}})"
_TITLE = (
    r"(?i:bpk|bapak|pak|ibu|bu|sdri?|saudar[ai]|tuan|nyonya|tn|ny|mas|mba[kh]?|kak|bang|om|tante|nenek|kakek|eyang|dek|"
    r"mr|mrs|ms|miss|mx|dr|prof|aunt|auntie|uncle|grandma|grandpa|sir|h|hj)\.?"
)
_KIN_EN = (
    r"(?:wife|husband|partner|friend|colleague|coworker|co-worker|boss|manager|brother|sister|son|daughter|niece|"
    r"nephew|cousin|mom|mum|mother|dad|father|grandmother|grandfather|neighbou?r|girlfriend|boyfriend|fianc[eé]e?|"
    r"roommate|flatmate|teacher|assistant|client|uncle|aunt|godson|goddaughter|stepson|stepdaughter|kid|in-law)"
)
_KIN_ID = (
    r"(?:istri|suami|pacar|teman|sahabat|temen|rekan|kolega|bos|atasan|kakak|adik|anak|keponakan|sepupu|mama|mami|ibu|"
    r"papa|papi|ayah|bapak|nenek|kakek|tetangga|mertua|tunangan|guru|klien|pelanggan|dosen|calon|mantan|ponakan|bokap|"
    r"nyokap|menantu|cucu|bunda|abang|mbak|mas|sopir|asisten|direktur|manajer|karyawan|penerima|pengirim|pemesan|"
    r"pelapor|nasabah)"
)
_KIN = re.compile(rf"(?:{_KIN_EN}|{_KIN_ID})(?:ku|mu|nya|s)?")
_SAYS_ID = (
    r"nama\s?(?:saya|ku|gue|gw|aku|lengkap|panggilan|beliau|dia|nya|penerima|pengirim|pemesan|pelapor|anak|istri|suami|"
    r"ibu)?(?:\s?(?:adalah|:|=|ialah|itu|yaitu))?|namaku|namanya|panggil (?:saya|aku)|perkenalkan,?(?: saya|"
    r" nama saya)?|atas nama|a\.?\s?n\.?|an\.|a/n|bernama|dipanggil|kepada(?: yth\.?)?|yth\.?|u\.?p\.?|penerima|"
    r"pengirim|pemesan|hormat saya|salam|ttd|dari|buat|kirim ke|hubungi|tertanda|wassalam|terima kasih|menurut|kata|"
    r"ulang tahun,?|kemarin|tadi|kalau|titip ke|undang|cari"
)
_SAYS_EN = (
    r"my name(?:'s| is)|name\s?[:=]|full name\s?[:=]?|(?:recipient|sender|customer|contact|client|holder|insured|"
    r"guest)(?: name)?\s?[:=]|i'm|i am|this is|call me|called|named|known as|attn\.?:?|c/o|dear|hi|hello|hey|regards|"
    r"sincerely|cheers|best|love|thanks|thank you|yours(?: truly| sincerely| faithfully)?|signed|from|to|for|with|by|"
    r"ask for|contact|addressed to|deliver to|behalf of|met|and|tell|reach|email|phone|text|according to|"
    r"in the name of|name of|invite|ask"
)
_SAYS_ONE_EN = (
    r"my name(?:'s| is)|name\s?[:=]|i'm|this is|call me|called|named|dear|hi|hello|hey|attn\.?:?|c/o|ask|tell|"
    r"birthday,?|anniversary,?|congratulations,?|love,|xoxo,?|cheers,|(?:regards|sincerely|cheers|best|love|thanks|"
    r"thank you|yours truly)[,!.]?\n"
)
_DOES = (
    r"birthday|address|phone|number|email|house|desk|account|wife|husband|turns|lives|works|loves|likes|said|called|"
    r"wrote|will|is|was|has|ordered|bought|paid|wants|prefers|adalah|tinggal|suka|ulang tahun|bekerja|kerja|sudah|"
    r"pesan|memesan|bilang|mau|ingin|lahir|akan|baru"
)
_DATA = r"hp|wa|nik|telp|tlp|tel|phone|mobile|born|lahir|umur|usia|aged?\b|\d{3,}|\+\d|email|e-mail|nip|ktp"

# What stands before (or after) a name, with the fewest words that the name must have there.
_CUES: tuple[tuple[re.Pattern[str], int], ...] = tuple(
    (re.compile(pattern, re.MULTILINE), least)
    for pattern, least in (
        (rf"(?<!\w){_TITLE}\s{_ONE}", 1),
        (rf"(?i:\b(?:{_SAYS_ID}))[\s,:]{{0,8}}{_ONE}", 1),
        (rf"(?i:\b(?:{_SAYS_EN}))[\s,:]{{0,8}}{_TWO}", 2),
        (rf"(?i:\b(?:{_SAYS_ONE_EN}))[\s,:]{{0,8}}({_WORD})", 1),
        (
            rf"(?i:\b(?:my|our|his|her|their|the|a|an)(?:\s[a-z-]+){{0,2}}\s{_KIN_EN}),?\s(?:(?i:is|named|"
            rf"called)\s)?{_ONE}",
            1,
        ),
        (
            rf"(?i:\b{_KIN_ID}(?:ku|nya)?(?:\s(?:saya|aku|gue|gw|kami|kita|sy|bernama|namanya|si|"
            rf"yang bernama))?)[\s,:]\s?{_ONE}",
            1,
        ),
        (rf"(?i:\b(?:saya|aku|gue|gw|sy|untuk|buat|utk|si|oleh|sama|dengan|dgn|bersama|dan|ke))\s{_TWO}", 2),
        (rf"(?i:\b(?:saya|aku|gue|gw|sy|si)),?\s{_ONE}", 1),
        (rf"({_WORD}(?:{_MORE}){{1,3}})(?=(?:'s|’s)?\s(?i:{_DOES})\b)", 2),
        (rf"{_TWO}(?=\s(?:and|dan|&)\s[A-Z])", 2),
        (rf"^[ \t]{{0,8}}[-–—~]?[ \t]{{0,8}}{_TWO}[ \t]{{0,8}}[,.]?[ \t]{{0,8}}$", 2),
        (rf"({_WORD}(?:{_MORE}){{1,3}})(?=\s?[(,:;–-]\s?(?i:{_DATA}))", 2),
    )
)
_COMPANY = re.compile(
    rf"(?<!\w)(?:PT|CV|UD|Yayasan|Koperasi)\.?\s{_WORD}(?:\s{_WORD}){{0,4}}"
    rf"|(?<!\w){_WORD}(?:[ ,&]{{1,3}}(?:and\s)?{_WORD}){{0,3}},?\s(?:Inc|Ltd|LLC|PLC|Corp|GmbH|Tbk|Group)\b\.?"
)
_RUN = re.compile(rf"{_WORD}(?:{_MORE}){{0,3}}")


def _names(view: NormalisedText) -> Iterator[Hit]:
    for cue, least in _CUES:
        for m in cue.finditer(view.text):
            yield from _trimmed(view.text, *m.span(1), least)
    for m in _RUN.finditer(view.text):
        if any(w.casefold() in NAMES for w in re.findall(r"[\w’'-]+", m[0])):
            yield from _trimmed(view.text, *m.span(), 1)
    for m in re.finditer(r"(?<!\w)([a-z]+) ([a-z]+)(?!\w)", view.line):  # typed without capitals
        if m[1] in NAMES and m[2] in NAMES:
            yield Hit(*m.span(), "NAME")


def _trimmed(text: str, start: int, end: int, least: int) -> Iterator[Hit]:
    """The words of ``text[start:end]`` from the first that may be part of a name on, up to one that may not."""
    kept = list[tuple[int, int]]()
    for m in re.finditer(r"\S+", text[start:end]):
        word = m[0].rstrip(".,'’").casefold()
        if word in NOT_NAMES or _KIN.fullmatch(word) or any(c.isdigit() for c in word):
            if kept:
                break
            continue
        kept.append((start + m.start(), start + m.end()))
    if len(kept) < least:
        return
    found = text[kept[0][0] : kept[-1][1]].rstrip(".,'’")
    if sum(c.isalpha() for c in found) >= 3:
        yield Hit(kept[0][0], kept[0][0] + len(found), "NAME")


def _companies(view: NormalisedText) -> Iterator[Hit]:
    for m in _COMPANY.finditer(view.text):
        yield Hit(*m.span(), "ORG")


_DETECTORS: tuple[Callable[[NormalisedText], Iterator[Hit]], ...] = (
    _mail_and_links, _phones, _numbers, _ibans, _full_dates, _addresses, _companies, _names,
)  # fmt: skip
