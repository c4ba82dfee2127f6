"""THE POLICY: which field of a profile may leave the device in which form, and which party holds what after a run.

Two tables. :data:`FIELDS` says what becomes of a profile's field; a field that is not in it is secret. :data:`SEES`
says who holds what of a run; the README's table, the three parties' views and their tests are made from it.

Standard library only. Knows nothing about: anybody's values.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

# --- Fields of a profile ---------------------------------------------------------------------------------------------


class FieldPolicy(enum.StrEnum):
    """In which form a field's value may leave the device, where a sheet asks for it."""

    SECRET = "secret"  # as a typed tag, [NAME_1]
    QUASI = "quasi"  # generalised: a decade, a city, a band
    OPEN = "open"  # as it is, less the secrets that it mentions


class Generaliser(enum.StrEnum):
    """How a quasi-identifier is made coarser; ``llama.privacy.generalise`` does it."""

    DECADE = "decade"  # a birth date
    AGE_BAND = "age band"  # an age
    CITY = "city"  # an address
    INCOME_BAND = "income band"  # an amount


@dataclass(frozen=True)
class Field:
    """What is known about a field by its name alone.

    Attributes:
        policy: the form in which it may leave.
        tag: the kind in its tags, ``[TAG_1]``.
        names: what it is called in a profile or a sheet, all meaning the same; the first is the English label, the
            second the Indonesian.
        generaliser: for QUASI.
        rupiah: a bare number is an amount of rupiah.
        place: its value is a place, also where it reads like a name.
        specific: "specific personal data" of Indonesia's law 27/2022 (UU PDP), article 4(2).
    """

    policy: FieldPolicy
    tag: str
    names: tuple[str, ...]
    generaliser: Generaliser | None = None
    specific: bool = False
    rupiah: bool = False
    place: bool = False


def _secret(tag: str, *names: str, specific: bool = False) -> Field:
    return Field(FieldPolicy.SECRET, tag, names, specific=specific)


def _quasi(generaliser: Generaliser, tag: str, *names: str) -> Field:
    return Field(FieldPolicy.QUASI, tag, names, generaliser)


def _open(*names: str, rupiah: bool = False, place: bool = False) -> Field:
    return Field(FieldPolicy.OPEN, "PRIVATE", names, rupiah=rupiah, place=place)


FIELDS: tuple[Field, ...] = (
    _secret("NAME", "name", "nama", "full_name", "nama_lengkap"),
    _secret("NAME", "first_name", "nama_depan", "given_name"),
    _secret("NAME", "last_name", "nama_belakang", "family_name", "surname", "marga"),
    _secret("NAME", "nickname", "nama_panggilan", "panggilan"),
    _secret("NAME", "spouse", "pasangan", "partner"),
    _secret("NAME", "husband", "suami"),
    _secret("NAME", "wife", "istri", "isteri"),
    _secret("NAME", "mother_name", "nama_ibu", "mothers_maiden_name", "nama_ibu_kandung", "mother", "ibu",
            "mom", "mum"),
    _secret("NAME", "father_name", "nama_ayah", "father", "ayah", "dad", "bapak"),
    _secret("NAME", "brother", "saudara_laki_laki", "kakak", "adik", "sibling", "siblings"),
    _secret("NAME", "sister", "saudara_perempuan"),
    _secret("NAME", "boss", "atasan", "bos", "manager"),
    _secret("NAME", "emergency_contact", "kontak_darurat"),
    _secret("NAME", "contact", "kontak", "contact_name"),
    _secret("NAME", "recipient_name", "nama_penerima"),
    _secret("NAME", "friend_name", "nama_teman", "friend", "teman", "friends", "best_friend", "sahabat"),
    _secret("CHILD", "children", "anak", "child", "child_name", "nama_anak", "child_names", "son", "daughter", "sons",
            "daughters", "grandchildren", "cucu", specific=True),
    _secret("PHONE", "phone", "telepon", "mobile", "hp", "no_hp", "nomor_hp", "phone_number", "nomor_telepon", "telp",
            "no_telp"),
    _secret("PHONE", "whatsapp", "wa", "no_wa"),
    _secret("EMAIL", "email", "surel", "e_mail", "mail"),
    _secret("ID", "nik", "ktp", "no_ktp", "id_number", "national_id", "nomor_induk"),
    _secret("ID", "ssn", "social_security_number", "national_insurance"),
    _secret("ID", "passport", "paspor", "no_paspor"),
    _secret("ID", "driving_licence", "sim", "driver_license", "no_sim"),
    _secret("ID", "kk", "no_kk", "kartu_keluarga"),
    _secret("ID", "npwp", "tax_id"),
    _secret("ID", "bpjs", "no_bpjs"),
    _secret("ID", "plate", "plat_nomor", "licence_plate"),
    _secret("ID", "employee_id", "nip"),
    _secret("CARD", "card", "kartu", "credit_card", "kartu_kredit", "debit_card", "kartu_debit", specific=True),
    _secret("ACCOUNT", "bank_account", "rekening", "no_rekening", "account", specific=True),
    _secret("ACCOUNT", "iban", specific=True),
    _secret("FINANCE", "finance", "keuangan", specific=True),
    _secret("FINANCE", "debt", "utang", "hutang", specific=True),
    _secret("FINANCE", "loan", "pinjaman", specific=True),
    _secret("FINANCE", "savings", "tabungan", specific=True),
    _secret("FINANCE", "credit_score", "skor_kredit", specific=True),
    _secret("HEALTH", "health", "kesehatan", specific=True),
    _secret("HEALTH", "diagnosis", "diagnosa", "disease", "penyakit", specific=True),
    _secret("HEALTH", "medical_history", "riwayat_medis", "medical", specific=True),
    _secret("HEALTH", "allergies", "alergi", "allergy", specific=True),
    _secret("HEALTH", "medication", "obat", specific=True),
    _secret("HEALTH", "disability", "disabilitas", specific=True),
    _secret("HEALTH", "blood_type", "golongan_darah", specific=True),
    _secret("BIOMETRIC", "biometric", "biometrik", "fingerprint", "sidik_jari", specific=True),
    _secret("GENETIC", "genetic", "genetik", "dna", specific=True),
    _secret("RECORD", "criminal_record", "catatan_kejahatan", "skck", specific=True),
    _secret("RELIGION", "religion", "agama", "faith"),
    _secret("ORIENTATION", "sexual_orientation", "orientasi_seksual"),
    _secret("ORIENTATION", "politics", "pandangan_politik"),
    _secret("ORG", "employer", "pemberi_kerja", "company", "perusahaan", "kantor"),
    _secret("ORG", "school", "sekolah", "university", "universitas"),
    _secret("JOB", "occupation", "pekerjaan", "job", "profesi", "jabatan"),
    _secret("URL", "website", "situs"),
    _secret("URL", "social_media", "media_sosial", "instagram", "linkedin", "facebook", "twitter", "tiktok"),
    _quasi(Generaliser.DECADE, "DATE", "birth_date", "tanggal_lahir", "date_of_birth", "dob", "birthdate", "birthday",
           "tgl_lahir"),
    _quasi(Generaliser.AGE_BAND, "DATE", "age", "umur", "usia"),
    _quasi(Generaliser.CITY, "ADDRESS", "address", "alamat", "home_address", "alamat_rumah"),
    _quasi(Generaliser.CITY, "ADDRESS", "office_address", "alamat_kantor", "work_address"),
    _quasi(Generaliser.CITY, "ADDRESS", "shipping_address", "alamat_pengiriman", "delivery_address"),
    _quasi(Generaliser.INCOME_BAND, "FINANCE", "income", "penghasilan", "salary", "gaji", "pendapatan"),
    _open("budget", "anggaran", "price_range", "kisaran_harga", rupiah=True),
    _open("occasion", "acara", "event", "momen"),
    _open("interests", "minat", "hobbies", "hobi", "hobby", "likes", "kesukaan"),
    _open("dislikes", "tidak_suka"),
    _open("notes", "catatan", "note", "remarks", "keterangan"),
    _open("recipient", "penerima", "relationship", "hubungan", "for_whom", "untuk"),
    _open("city", "kota", place=True),
    _open("colours", "warna", "colors", "favourite_colour", "favorite_color", "warna_favorit"),
    _open("style", "gaya"),
    _open("sizes", "ukuran", "size"),
    _open("quantity", "jumlah"),
    _open("headcount", "jumlah_orang"),
    _open("destination", "tujuan", place=True),
    _open("trip", "perjalanan"),
    _open("language", "bahasa"),
)  # fmt: skip

NEVER_SOUGHT = frozenset(
    """
    yes|no|y|n|yep|nope|ya|iya|tidak|ga|gak|nggak|enggak|none|n/a|-|true|false|tidak ada|nihil|not applicable|nothing|
    none known|unknown|tidak tahu|never|not yet|sometimes|belum|belum pernah|tidak pernah|sudah|pernah|kadang|ada
    """.replace("\n", "")
    .replace("    ", "")
    .split("|")
)
"""Answers that stand in every second sentence, in lower case: they are not looked for in a text."""

IDENTIFYING = frozenset({"NAME", "CHILD", "PHONE", "EMAIL", "URL", "ID", "CARD", "ACCOUNT", "ADDRESS", "ORG", "NUMBER"})
"""Kinds whose value says who it is, wherever it stands, so that it has one tag in every field. Two other fields with
equal values have two tags: equal ones would say that both answers are the same."""

FOUND_IN_ANY_TEXT = frozenset(
    {"NAME", "PHONE", "EMAIL", "ADDRESS", "DATE", "ID", "CARD", "ACCOUNT", "ORG", "URL", "NUMBER"}
)
"""Kinds that are found without a profile, too, so that a tag of theirs says nothing of what is in one."""

UNKNOWN_FIELD = Field(FieldPolicy.SECRET, "PRIVATE", ())

_BY_NAME = {name: field for field in FIELDS for name in field.names}

TAG_KINDS = frozenset(field.tag for field in FIELDS) | {UNKNOWN_FIELD.tag}


def neutral_kind(tag: str) -> str:
    """Give the kind that a tag says of a field that nobody has asked for: none that only a profile could tell."""
    if tag in FOUND_IN_ANY_TEXT:
        return tag
    return "NAME" if tag == "CHILD" else UNKNOWN_FIELD.tag


def field_of(name: str) -> Field:
    """What is known about the field called ``name``; an unknown one is secret."""
    return _BY_NAME.get(name, UNKNOWN_FIELD)


def same_field(name: str) -> tuple[str, ...]:
    """All names of the field called ``name``, itself first."""
    return (name, *(other for other in field_of(name).names if other != name))


def label_of(name: str, language: str) -> str:
    """How a field is called before its value in a prompt, in ``en`` or ``id``: ``birth_date`` → ``Birth date``."""
    names = field_of(name).names
    if name in names[:2]:
        name = names[1 if language == "id" and len(names) > 1 else 0]
    return name.upper() if name in ("nik", "kk", "npwp") else name.replace("_", " ").capitalize()


# --- Who holds what of a run -----------------------------------------------------------------------------------------


class Party(enum.StrEnum):
    """Who takes part."""

    CUSTOMER = "customer"
    PROVIDER = "provider"
    VENDOR = "third party"


class DataKind(enum.StrEnum):
    """What there is of a run."""

    PROFILE = "profile, raw"
    SANITISED_PROMPT = "sanitised prompt"
    PROVIDER_PROMPT = "provider's system prompt"
    VENDOR_PROMPT = "third party's prompt"
    REPLY_WITH_TAGS = "reply with tags"
    REPLY = "reply, restored"
    OFFERS = "matched offers"
    TIMINGS = "token counts and times"


@dataclass(frozen=True)
class Cell:
    """One cell of the table.

    Attributes:
        holds: the party must be assumed to hold it.
        says: how the table puts it.
        own_only: only of runs of the party's own sheets.
    """

    holds: bool
    says: str
    own_only: bool = False


_YES, _NO = Cell(True, "yes"), Cell(False, "no")

SEES: Mapping[DataKind, Mapping[Party, Cell]] = {
    kind: dict(zip(Party, cells, strict=True))
    for kind, cells in {
        DataKind.PROFILE: (_YES, _NO, _NO),
        DataKind.SANITISED_PROMPT: (
            _YES,
            Cell(True, "not sent as text; assume recoverable"),
            Cell(False, "no; what the reply quotes of sent fields"),
        ),
        DataKind.PROVIDER_PROMPT: (_YES, _YES, Cell(False, "no; replies that quote it at length are withheld")),
        DataKind.VENDOR_PROMPT: (_YES, _YES, Cell(True, "its own only", own_only=True)),
        DataKind.REPLY_WITH_TAGS: (_YES, _YES, Cell(True, "for its own prompts", own_only=True)),
        DataKind.REPLY: (_YES, _NO, _NO),
        DataKind.OFFERS: (_YES, _YES, Cell(True, "its own", own_only=True)),
        DataKind.TIMINGS: (_YES, _YES, _NO),
    }.items()
}
"""Per kind and party. A party that does not hold a kind is handed nothing of it by :func:`view`."""

_T = TypeVar("_T")


DELIVERED = frozenset({DataKind.REPLY_WITH_TAGS, DataKind.OFFERS})
"""What a third party has only if its copy was delivered."""


def view(party: Party, run: Mapping[DataKind, _T], *, vendors_own: bool, delivered: bool = True) -> dict[DataKind, _T]:
    """The share of a run that ``party`` holds.

    Args:
        party: whose.
        run: all that there is of the run, as the customer has it.
        vendors_own: the run is of a third party's sheet; otherwise there is no third party to hold anything.
        delivered: the third party's copy was not withheld.
    """
    return {
        kind: content
        for kind, content in run.items()
        if (cell := SEES[kind][party]).holds
        and (vendors_own or not cell.own_only)
        and (delivered or party is not Party.VENDOR or kind not in DELIVERED)
    }


def as_markdown() -> str:
    """The table as the README shows it."""
    rows = [["of a run", *Party], ["---"] * (1 + len(Party))]
    rows += [[kind, *(SEES[kind][party].says for party in Party)] for kind in SEES]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
