"""Claims about texts that people bring: which bytes are read, what is called by its name, what says nothing."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama.cloud.importing import import_products
from llama.edge.web.profile_editor import ProfileEditor
from llama.errors import CatalogueError, KeysError, ProfileError, PromptError
from llama.keys import make_keys, read_key, read_public
from llama.privacy.profile import parse, read_profile
from llama.prompt import read_prompt, received
from llama.sheets import Sheet, parse_sheet, read_all
from llama.text.decoding import decoded
from llama.text.printable import is_blank
from tests.support import written

NOTHING = "\u200b\ufeff \u00ad\u200d\u2060\u3164\ufe0f\u115f\u2800\U000e0041\n\t\u00a0"
SHEET, PROFILE = 'questions = ["What?"]\n', 'name = "Sari"\n'
PRODUCT = "id,vendor,title,price\r\nmug-1,toko-a,Mug,45000\r\n"


def brought(directory: Path, data: Callable[[str], bytes]) -> dict[str, Callable[[], object]]:
    """Each file that a person brings, as ``data`` writes its text, and what reads it."""
    make_keys("phone", "device", directory)
    texts = {
        "own.txt": "What?", "own.json": '[{"role": "user", "content": "What?"}]', "own.toml": SHEET,
        "profile.toml": PROFILE, "products.csv": PRODUCT, "products.jsonl": '{"id": "mug-1", "vendor": "toko-a", '
        '"title": "Mug", "price": 45000}\n', "phone.key": (directory / "phone.key").read_text(),
        "phone.pub": (directory / "phone.pub").read_text(), "sheets/gifts.toml": SHEET, "sheets/system.txt": "Be kind.",
    }  # fmt: skip
    (directory / "sheets").mkdir()
    for name, text in texts.items():
        (directory / name).write_bytes(data(text))
    at = {name: str(directory / name) for name in texts}
    return {
        **{name: lambda name=name: read_prompt(at[name]) for name in ("own.txt", "own.json", "own.toml")},  # type: ignore[misc]
        "profile.toml": lambda: read_profile(at["profile.toml"]),
        "products.csv": lambda: import_products(at["products.csv"], directory / "a.sqlite"),
        "products.jsonl": lambda: import_products(at["products.jsonl"], directory / "b.sqlite"),
        "phone.key": lambda: read_key(at["phone.key"], "device"),
        "phone.pub": lambda: read_public(at["phone.pub"], "device"),
        "system.txt": lambda: read_all(str(directory / "sheets")),
    }


@pytest.mark.parametrize(
    "data",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace("\r\n", "\n").replace("\n", "\r\n").encode(),
        lambda text: text.encode() + b"\r\n\r\n  \n",
        lambda text: b"\xef\xbb\xbf" + text.replace("\r\n", "\n").replace("\n", "\r\n").encode() + b"\r\n",
    ],
    ids=["byte order mark", "CRLF", "blank lines at the end", "all of it"],
)
def test_every_file_may_have_what_editors_of_windows_leave(tmp_path: Path, data: Callable[[str], bytes]) -> None:
    """Also the private key that was pasted into an editor."""
    for name, read in brought(tmp_path, data).items():
        assert read(), name


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32"])
def test_every_file_in_another_encoding_is_called_by_its_name(tmp_path: Path, encoding: str) -> None:
    """PowerShell's ``>`` writes UTF-16. One line that names the file and the cure, and holds nothing of the text."""
    marks = {"utf-16-be": b"\xfe\xff"}

    def data(text: str) -> bytes:
        return marks.get(encoding, b"") + text.encode(encoding)

    for name, read in brought(tmp_path, data).items():
        with pytest.raises((PromptError, ProfileError, CatalogueError, KeysError)) as refused:
            read()
        said = str(refused.value)
        assert name in said and "\n" not in said
        if encoding != "utf-16-le":
            assert f"{encoding[:6].upper()}, by its byte order mark; save it as UTF-8" in said
        elif "products" not in name:  # of these each line is told on stderr
            assert "binary or UTF-16; save it as UTF-8" in said


def test_a_file_of_another_encoding_is_not_shown_on_the_page_to_be_written_back(tmp_path: Path) -> None:
    """As well as it can be shown would be garbage, and then it would be saved."""
    profile = tmp_path / "profile.toml"
    profile.write_bytes(PROFILE.encode("utf-16"))
    with pytest.raises(ProfileError, match="UTF-16"):
        ProfileEditor(str(profile)).read()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_text_is_blank_where_unicode_says_that_nothing_is_shown(text: str) -> None:
    """Space, control and format characters; whatever has a letter, a digit, a sign or a symbol is not."""
    shown = [c for c in text if unicodedata.category(c)[0] in "LNPS" and c not in "\u115f\u1160\u3164\uffa0\u2800"]
    assert not (shown and is_blank(text) and set(shown) - {"\U0001d159"})
    if all(unicodedata.category(c) in ("Cc", "Cf", "Zs", "Zl", "Zp") for c in text):
        assert is_blank(text)


@given(st.binary(max_size=60))
def test_any_bytes_are_utf_8_or_refused_without_a_word_of_them(raw: bytes) -> None:
    """What is read is what UTF-8 says, without marks at its beginning."""
    try:
        text = decoded(raw)
    except ValueError as err:
        assert str(err).endswith("save it as UTF-8")
    else:
        assert text == raw.decode().lstrip("\ufeff")


def test_of_several_byte_order_marks_none_is_left(tmp_path: Path) -> None:
    """In the provider's words, a sheet's and the person's own."""
    marks = "\ufeff\ufeff\ufeff"
    directory = written(tmp_path, {"system.txt": f"{marks}Be kind.", "gifts.toml": f"{marks}{SHEET}"})
    read = read_all(str(directory))
    assert (read.system, read.sheets["gifts"].text) == ("Be kind.", SHEET)
    (tmp_path / "own.txt").write_text(f"{marks}What?")
    words = read_prompt(str(tmp_path / "own.txt")).prompt
    assert not isinstance(words, Sheet) and [m.content for m in words.dialog] == ["What?"]


def test_a_system_message_that_cannot_be_seen_is_empty(tmp_path: Path) -> None:
    """The provider's, a sheet's, a dialogue's, and one that a cloud sends."""
    for nothing in (NOTHING, "\u200b", " \n", "\u3164"):
        directory = written(tmp_path, {"system.txt": nothing, "gifts.toml": SHEET})
        assert read_all(str(directory)).system == ""
        assert parse_sheet(f'{SHEET}system = "{nothing.strip()}"', "sheet").system == ""
        assert received("gifts", SHEET, nothing, "tcp://x:1").provider_system == ""
        (tmp_path / "a.json").write_text(
            f'[{{"role": "system", "content": "{nothing.strip()}"}}, {{"role": "user", "content": "What?"}}]'
        )
        words = read_prompt(str(tmp_path / "a.json")).prompt
        assert not isinstance(words, Sheet) and [m.content for m in words.dialog] == ["", "What?"]
    (tmp_path / "insurer").mkdir()
    (tmp_path / "insurer" / "cover.toml").write_text(SHEET)
    with pytest.raises(PromptError, match=r"write that into system\.txt"):  # which is there, and says nothing
        read_all(str(tmp_path))


def test_what_cannot_be_seen_is_no_prompt_no_title_no_example_and_no_value(tmp_path: Path) -> None:
    """Refused as empty, or as good as left away."""
    for name, data in (
        ("a.txt", NOTHING), ("a.toml", NOTHING), ("a.json", f'[{{"role": "user", "content": "{NOTHING.strip()}"}}]'),
    ):  # fmt: skip
        (tmp_path / name).write_text(data)
        with pytest.raises(PromptError, match=r"a\.\w+: empty"):
            read_prompt(str(tmp_path / name))
    with pytest.raises(PromptError, match=r"no visible text - at `\$\.questions`"):
        parse_sheet('questions = ["\u200b", " "]', "sheet")
    with pytest.raises(PromptError, match=r"no visible text - at `\$\.examples\[0\]\.assistant`"):
        parse_sheet(f'{SHEET}examples = [{{user = "a", assistant = "\u3164"}}]', "sheet")
    assert parse_sheet(f'{SHEET}title = "\u200b"', "sheet").title == ""
    assert parse_sheet('questions = ["What?", " "]', "sheet").questions == ("What?", " ")  # an empty line in between
    assert not parse('name = "\u200b"\nphone = ["\u3164", " "]\n'.encode()).fields
    (tmp_path / "products.csv").write_text(PRODUCT.replace("Mug", "\u200b"))
    with pytest.raises(CatalogueError, match="1 line has errors"):
        import_products(tmp_path / "products.csv", tmp_path / "c.sqlite")
