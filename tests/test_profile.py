"""Claims about the profile: it is read as documented; whatever is wrong is told without any of its values."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama import toml
from llama.errors import ProfileError
from llama.privacy.policy import FieldPolicy
from llama.privacy.profile import Profile, read_profile, text_of
from tests.conftest import ROOT


def profile_of(directory: Path, data: str | bytes) -> Profile:
    path = directory / "profile.toml"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_profile(path)


def test_each_kind_of_value_is_read(tmp_path: Path) -> None:
    """Text, numbers, dates, yes and no, lists; what is empty is not filled in."""
    profile = profile_of(
        tmp_path,
        'name = " Sari "\nage = 34\nincome = 1.5e7\nbirth_date = 1991-04-12\nseen = 1991-04-12T10:00:00Z\n'
        'married = true\nphone = ["1", "2"]\nemail = ""\ninterests = []\n',
    )
    values = {name: field.values for name, field in profile.fields.items()}
    day = dt.date(1991, 4, 12)
    assert values == {
        "name": ("Sari",), "age": (34,), "income": (1.5e7,), "birth_date": (day,), "seen": (day,), "married": ("yes",),
        "phone": ("1", "2"),
    }  # fmt: skip
    assert [text_of(v) for v in (day, 1.5e7, 34)] == ["12 April 1991", "15000000", "34"]
    assert text_of(day.replace(month=5), "id") == "12 Mei 1991"


def test_a_person_may_choose_another_policy_for_a_field(tmp_path: Path) -> None:
    """Stricter or laxer, for this field only."""
    profile = profile_of(
        tmp_path, 'employer = "PT A"\ninterests = "tea"\n[policy]\nemployer = "open"\ninterests = "secret"'
    )
    assert {name: field.policy for name, field in profile.fields.items()} == {
        "employer": FieldPolicy.OPEN, "interests": FieldPolicy.SECRET,
    }  # fmt: skip


def test_a_field_is_found_by_any_of_its_names(tmp_path: Path) -> None:
    """A sheet asks for ``budget``, the profile has ``anggaran``; what only sounds alike is another field."""
    profile = profile_of(tmp_path, 'anggaran = "Rp 1"\nfull_name = "A B"\nbudgett = "x"\nktp = "1"')
    found = {name: profile.find(name) for name in ("budget", "nama", "nik", "budgett", "passport", "nothing")}
    assert {name: field and field.name for name, field in found.items()} == {
        "budget": "anggaran", "nama": "full_name", "nik": "ktp", "budgett": "budgett", "passport": None,
        "nothing": None,
    }  # fmt: skip


def test_the_sample_profile_can_be_read() -> None:
    """It has what the demo shows: a phone number, a NIK and a diagnosis."""
    assert {"phone", "nik", "diagnosis"} <= read_profile(ROOT / "examples" / "profile.toml").fields.keys()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"nama = 'rahasia", "not valid TOML"),
        (b"rahasia", "not valid TOML (at end of document)"),
        (b"\xff", "not UTF-8 text (byte 0); save it as UTF-8"),
        (b"\xff\xfe", "not UTF-8 text but UTF-16, by its byte order mark; save it as UTF-8"),
        (b"[address]\nstreet = 'rahasia'", "field address: must be text"),
        (b"Name = 'rahasia'", "a field's name has 1 to 40 lower-case letters"),
        (b"'rahasia sekali' = 1", "a field's name"),
        (b"name = [['rahasia']]", "field name: must be text"),
        (b"name = nan", "field name: not a finite number"),
        (b"name = inf", "field name: not a finite number"),
        (b"name = 1" + b"0" * 50, "field name: a number of more than 40 digits"),
        (b"name = 10:00:00", "field name: must be text"),
        (b"name = '" + b"r" * 20_001 + b"'", "field name: 20001 characters, but at most 20000 are allowed"),
        (b"\n".join(b"f%d = 1" % i for i in range(201)), "201 fields, but at most 200 are allowed"),
        (b"policy = 'open'", "policy must be a table"),
        (b"name = 'x'\n[policy]\nname = 'rahasia'", "the policy of name must be secret or open"),
        (b"birth_date = 1991-04-12\n[policy]\nbirth_date = 3", "must be secret or quasi or open"),
        (b"[policy]\nname = 'open'", "[policy] sets name, a field without a value; remove it there"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_file_that_is_no_profile_is_refused_by_field_and_without_its_values(
    tmp_path: Path, data: bytes, said: str
) -> None:
    """One line that names the file, the field and the cure."""
    with pytest.raises(ProfileError) as refused:
        profile_of(tmp_path, data)
    text = str(refused.value)
    assert text.startswith(f"profile {tmp_path}/profile.toml: ") and said in text and "\n" not in text
    assert "rahasia" not in text or b"'rahasia sekali'" in data  # a field's name may be shown, cut to harmless letters


def test_a_missing_file_a_directory_and_an_enormous_file_are_refused(tmp_path: Path) -> None:
    """Each by name."""
    with pytest.raises(ProfileError, match="no such file"):
        read_profile(tmp_path / "nowhere.toml")
    with pytest.raises(ProfileError, match="a directory"):
        read_profile(tmp_path)
    with pytest.raises(ProfileError, match="larger than 1 MiB"):
        profile_of(tmp_path, b"#" * (toml.MAX_BYTES + 1))


TOML_PIECES = st.lists(
    st.sampled_from(['"', "'", "[", "]", "=", "\n", "name", "policy", "phone", "1979-05-27", "T07:32:00Z", "0x1", "inf",
                     "-", "true", ".", "{", "}", ",", '"open"', "9" * 45, "birth_date", "\\u00e9", " "])
).map("".join)  # fmt: skip


@given(st.one_of(TOML_PIECES, st.text(max_size=80)).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_a_profile_or_a_one_line_refusal(tmp_path: Path, data: bytes) -> None:
    """No exception of another kind."""
    try:
        profile_of(tmp_path, data)
    except ProfileError as refused:
        assert len(str(refused).splitlines()) == 1


def test_no_value_prints(tmp_path: Path) -> None:
    """Neither repr nor str, so no log line can hold one by accident."""
    profile = profile_of(tmp_path, 'name = "rahasia"\nphone = ["rahasia"]')
    assert "rahasia" not in f"{profile!r} {profile} {profile.fields['name']!r}"
