"""THE POLICY: the form in which each field of a profile may leave the device, and what each party holds after a run.

There are two tables. :data:`FIELDS` holds the policy of each field of a profile; a field that is not in it is secret.
:data:`SEES` holds what each party has of a run. It is the source of the README's table, the three parties' views and
their tests.

Standard library only. Knows nothing about: the person's values.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

# --- Fields of a profile ---------------------------------------------------------------------------------------------


class FieldPolicy(enum.StrEnum):
    """The form in which a field's value may leave the device, where a sheet asks for it."""

    SECRET = "secret"  # as a typed tag, [NAME_1]
    QUASI = "quasi"  # generalised: a decade, a city, a band
    OPEN = "open"  # unchanged, except for the secrets that it mentions


class Generaliser(enum.StrEnum):
    """The method that makes a quasi-identifier coarser; ``llama.privacy.generalise`` implements it."""

    DECADE = "decade"  # a birth date
    AGE_BAND = "age band"  # an age
    CITY = "city"  # an address
    INCOME_BAND = "income band"  # an amount


@dataclass(frozen=True)
class Field:
    """Properties that follow from a field's name alone.

    Attributes:
        policy: the form in which it may leave.
        tag: the kind in its tags, ``[TAG_1]``.
        names: its names in a profile or a sheet, all with the same meaning; the first is the English label, the second
            the Indonesian.
        generaliser: for QUASI.
        rupiah: a bare number is an amount of rupiah.
        place: its value is a place, even if it reads like a name.
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
"""Common answers, in lower case. They stand in every second sentence, so a text is not searched for them."""

IDENTIFYING = frozenset({"NAME", "CHILD", "PHONE", "EMAIL", "URL", "ID", "CARD", "ACCOUNT", "ADDRESS", "ORG", "NUMBER"})
"""Kinds whose value identifies its subject anywhere, so that one value has one tag in every field. In other kinds, two
fields with equal values have two tags: equal tags would reveal that both answers are the same.
"""

FOUND_IN_ANY_TEXT = frozenset(
    {"NAME", "PHONE", "EMAIL", "ADDRESS", "DATE", "ID", "CARD", "ACCOUNT", "ORG", "URL", "NUMBER"}
)
"""Kinds that are found without a profile, too, so that their tags reveal nothing of a profile's content."""

UNKNOWN_FIELD = Field(FieldPolicy.SECRET, "PRIVATE", ())

_BY_NAME = {name: field for field in FIELDS for name in field.names}

TAG_KINDS = frozenset(field.tag for field in FIELDS) | {UNKNOWN_FIELD.tag}


def neutral_kind(tag: str) -> str:
    """Return the kind to use in a tag of a field that was not asked for: never a kind that only a profile has."""
    if tag in FOUND_IN_ANY_TEXT:
        return tag
    return "NAME" if tag == "CHILD" else UNKNOWN_FIELD.tag


def field_of(name: str) -> Field:
    """Return the properties of the field called ``name``; an unknown one is secret."""
    return _BY_NAME.get(name, UNKNOWN_FIELD)


def same_field(name: str) -> tuple[str, ...]:
    """Return all names of the field called ``name``, itself first."""
    return (name, *(other for other in field_of(name).names if other != name))


def label_of(name: str, language: str) -> str:
    """Return a field's label before its value in a prompt, in ``en`` or ``id``: ``birth_date`` → ``Birth date``."""
    names = field_of(name).names
    if name in names[:2]:
        name = names[1 if language == "id" and len(names) > 1 else 0]
    return name.upper() if name in ("nik", "kk", "npwp") else name.replace("_", " ").capitalize()


# --- Who holds what of a run -----------------------------------------------------------------------------------------


class Party(enum.StrEnum):
    """A party that takes part in a run."""

    CUSTOMER = "customer"
    PROVIDER = "provider"
    VENDOR = "third party"


class DataKind(enum.StrEnum):
    """A kind of data that a run has."""

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
    """A cell of the table.

    Attributes:
        holds: the party must be assumed to hold it.
        says: the text in the table.
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
"""The cell per kind and party. :func:`view` gives a party nothing of a kind that it does not hold."""

_T = TypeVar("_T")


DELIVERED = frozenset({DataKind.REPLY_WITH_TAGS, DataKind.OFFERS})
"""Kinds that a third party has only if its copy was delivered."""


def view(party: Party, run: Mapping[DataKind, _T], *, vendors_own: bool, delivered: bool = True) -> dict[DataKind, _T]:
    """Return the share of a run that ``party`` holds.

    Args:
        party: the party.
        run: all data of the run, as the customer has it.
        vendors_own: the run is of a third party's sheet; otherwise there is no third party.
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
    """Return the table as Markdown, as the README shows it."""
    rows = [["of a run", *Party], ["---"] * (1 + len(Party))]
    rows += [[kind, *(SEES[kind][party].says for party in Party)] for kind in SEES]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
