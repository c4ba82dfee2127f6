"""Claims about prompt files: each kind is read as documented; whatever else is a one-line error without its text."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama.chat import Message
from llama.errors import PromptError
from llama.prompt import OwnWords, read_from_directory, read_prompt
from llama.sheets import MAX_BYTES, Sheet
from llama.text.printable import is_blank

ROOT = Path(__file__).resolve().parent.parent


def prompt_of(directory: Path, name: str, data: str | bytes) -> Sheet | OwnWords:
    path = directory / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_prompt(str(path)).prompt


def words_of(directory: Path, name: str, data: str | bytes) -> list[Message]:
    """The dialogue of a file with the person's own words."""
    words = prompt_of(directory, name, data)
    assert isinstance(words, OwnWords)
    return list(words.dialog)


def refusal_of(directory: Path, name: str, data: str | bytes) -> str:
    with pytest.raises(PromptError) as refused:
        prompt_of(directory, name, data)
    text = str(refused.value)
    assert "\n" not in text and str(directory / name) in text
    return text


def test_a_text_file_is_one_user_message_byte_for_byte(tmp_path: Path) -> None:
    """Line ends, blanks and all; only a byte order mark goes."""
    text = "  Halo,\r\napa kabar?\t☕\n\n"
    assert words_of(tmp_path, "a.txt", text) == [Message("user", text)]
    assert words_of(tmp_path, "A.TXT", b"\xef\xbb\xbf" + text.encode()) == [Message("user", text)]
    assert read_prompt(str(tmp_path / "a.txt")).prompt_id == ""


@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])).filter(str.strip))
def test_any_text_comes_back_as_it_was(tmp_path: Path, text: str) -> None:
    """Except that leading byte order marks are removed."""
    expected = text.lstrip("\ufeff")
    if not is_blank(expected):
        assert words_of(tmp_path, "a.txt", text) == [Message("user", expected)]


@given(
    st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text(
            st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]))}),
        min_size=1,
    )
)  # fmt: skip
def test_any_dialogue_comes_back_as_the_json_library_reads_it(tmp_path: Path, dialog: list[dict[str, str]]) -> None:
    """Roles and contents in order; a system message that cannot be seen is empty, a dialogue of such is refused."""
    data = json.dumps(dialog, ensure_ascii=False)
    if all(is_blank(turn["content"]) for turn in dialog):
        assert "empty" in refusal_of(tmp_path, "a.json", data)
        return
    said = [
        turn | {"content": ""} if turn["role"] == "system" and is_blank(turn["content"]) else turn for turn in dialog
    ]
    assert [{"role": m.role, "content": m.content} for m in words_of(tmp_path, "a.json", data)] == said


def test_a_sheet_comes_back_as_it_is_written(tmp_path: Path) -> None:
    """Every field; a field that is asked for twice is asked for once."""
    sheet = """
    id = "sheet-1"
    title = "A title"
    system = "Be brief."
    examples = [{user = "a", assistant = "b"}, {user = "c", assistant = "d"}]
    questions = ["What {name}?", "Why?"]
    asks_for = ["name", "a_field_of_its_own", "name"]
    task = "extract"
    language = "id"
    """
    assert prompt_of(tmp_path, "a.toml", sheet) == Sheet(
        ("What {name}?", "Why?"), "sheet-1", "A title", "Be brief.", (("a", "b"), ("c", "d")),
        ("name", "a_field_of_its_own"), "extract", "id",
    )  # fmt: skip


def test_a_sheet_needs_nothing_but_questions(tmp_path: Path) -> None:
    """No system message is made up, and nothing is asked for."""
    assert prompt_of(tmp_path, "a.toml", 'questions = ["What?"]') == Sheet(("What?",))


def test_whose_a_sheet_is_follows_from_where_it_was_found(tmp_path: Path) -> None:
    """Whatever it says itself: by its path, in the provider's directory, or in a third party's part of it."""
    text = 'id = "insurer/cover"\ntitle = "From the provider"\nquestions = ["What?"]'
    (tmp_path / "insurer").mkdir()
    (tmp_path / "system.txt").write_text("Be kind.\n")
    for name in ("birthday", "insurer/cover"):
        (tmp_path / f"{name}.toml").write_text(text)
    by_path = read_prompt(str(tmp_path / "birthday.toml"))
    own, third = (read_from_directory(str(tmp_path), name) for name in ("birthday", "insurer/cover"))
    assert (by_path.origin, by_path.prompt_id, by_path.party) == (f"file:{tmp_path}/birthday.toml", "insurer/cover", "")
    assert (own.origin, own.prompt_id, own.party) == (f"provider:{tmp_path}", "birthday", "")
    assert (third.origin, third.prompt_id, third.party) == (f"vendor:insurer:{tmp_path}", "insurer/cover", "insurer")
    assert third.provider_system == "Be kind."


@pytest.mark.parametrize(
    ("prompt_id", "said"),
    [
        ("nothing", "has no sheet nothing; it has birthday, insurer/cover"),
        ("../birthday", "has no sheet"),
        ("/etc/passwd", "has no sheet"),
        ("insurer", "has no sheet"),
        ("", "has no sheet"),
        ("insurer/cover", "write that into system.txt"),
    ],
)
def test_a_sheet_that_is_not_in_the_directory_is_refused_with_those_that_are(
    tmp_path: Path, prompt_id: str, said: str
) -> None:
    """Nothing outside the directory is ever read; a third party's sheet needs the provider's words around it."""
    (tmp_path / "insurer").mkdir()
    for name in ("birthday", "insurer/cover"):
        (tmp_path / f"{name}.toml").write_text('questions = ["What?"]')
    with pytest.raises(PromptError) as refused:
        read_from_directory(str(tmp_path), prompt_id)
    assert said in str(refused.value)


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """By name, with what it should be."""
    with pytest.raises(PromptError, match="no such directory; name the provider's directory of sheets"):
        read_from_directory(str(tmp_path / "nowhere"), "birthday")


SHIPPED = sorted([ROOT / "examples" / "gift_ideas.toml", *(ROOT / "examples" / "sheets").rglob("*.toml")])


@pytest.mark.parametrize("example", SHIPPED, ids=lambda path: path.stem)
def test_every_example_sheet_can_be_read(example: Path) -> None:
    """What the README shows works: birthday, anniversary, company, insurer, advertiser, extraction, Indonesian."""
    assert len(SHIPPED) == 8 and isinstance(read_prompt(str(example)).prompt, Sheet)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", b" \r\n\t", "empty"),
        ("a.txt", b"\xef\xbb\xbf", "empty"),
        ("a.txt", b"\x89PNG\r\n\x1a\n\xff", "not UTF-8 text (byte 0); save it as UTF-8"),
        ("a.txt", "rahasia".encode("utf-16-le"), "NUL"),
        ("a.txt", "rahasia".encode("utf-16"), "not UTF-8 text but UTF-16"),
        ("a.txt", b"rahasia\0", "NUL"),
        ("a.md", b"rahasia", ".txt, .json or .toml"),
        ("a", b"rahasia", ".txt, .json or .toml"),
        ("a.json", b"", "empty"),
        ("a.json", b"[]", "array"),
        ("a.json", b"rahasia", "not valid JSON"),
        ("a.json", b'[{"role": "user", "content": "rahasia"}', "not valid JSON"),
        ("a.json", b'[{"role": "user", "content": "rahasia"}] x', "not valid JSON"),
        ("a.json", b'"rahasia"', "a dialogue is a list of"),
        ("a.json", b'{"role": "user", "content": "rahasia"}', "a dialogue is a list of"),
        ("a.json", b'[{"role": "user"}]', "content"),
        ("a.json", b'[{"role": "user", "content": 7}]', "$[0].content"),
        ("a.json", b'[{"role": "user", "content": "x", "rahasia": "y"}]', "unknown field"),
        ("a.json", b'[{"role": "rahasia \'x\'\\n", "content": "user"}]', "$[0].role"),
        ("a.json", b'[{"role": "tool", "content": "rahasia"}]', "$[0].role"),
        ("a.json", b'[{"role": "user", "content": "rahasia \\ud800"}]', "not valid JSON"),
        ("a.json", b"[" * 200_000, "a dialogue is a list of"),
        ("a.toml", b"", "empty"),
        ("a.toml", b"rahasia", "not valid TOML (at end of document)"),
        ("a.toml", b'questions = ["rahasia"', "not valid TOML (at end of document)"),
        ("a.toml", b'questions = ["(rahasia"]\nquestions = []\n', "not valid TOML (at line 2"),
        ("a.toml", b"questions = []", "length >= 1"),
        ("a.toml", b'questions = [""]', "$.questions[0]"),
        ("a.toml", b'questions = "rahasia"', "$.questions"),
        ("a.toml", b'title = "rahasia"', "questions"),
        ("a.toml", b'questions = ["x"]\nquestion = "rahasia"', "unknown field `question`"),
        ("a.toml", b'questions = ["x"]\nexamples = [{user = "rahasia"}]', "assistant"),
        ("a.toml", b'questions = ["x"]\nid = 42', "$.id"),
        ("a.toml", b'questions = ["x"]\nasks_for = "rahasia"', "$.asks_for"),
        ("a.toml", b'questions = ["x"]\nasks_for = ["Rahasia"]', "$.asks_for[0]"),
        ("a.toml", b'questions = ["x"]\nasks_for = [' + b'"a",' * 65 + b"]", "$.asks_for"),
        ("a.toml", b'questions = ["x"]\ntask = "rahasia"', "$.task"),
        ("a.toml", b'questions = ["x"]\nlanguage = "rahasia"', "$.language"),
        ("a.toml", b'questions = ["x"]\norigin = "provider"', "unknown field `origin`"),
        ("a.toml", b'questions = ["x"]\ntitle = "a\\nAgree? [y/N] y"', "$.title"),
        ("a.toml", b'questions = ["x"]\nid = "\\u001b]0;rahasia"', "$.id"),
        ("a.toml", b'questions = ["x", "rahasia\\u001b[2J"]', "$.questions[1]"),
        ("a.toml", b'questions = ["rahasia\\u0000"]', "$.questions[0]"),
        ("a.toml", b'questions = ["rahasia\\rx"]', "$.questions[0]"),
        ("a.toml", 'questions = ["rahasia \u202e"]'.encode(), "$.questions[0]"),
        ("a.toml", b'questions = ["x"]\nsystem = "rahasia\\u009b2J"', "$.system"),
        ("a.toml", b'questions = ["x"]\nexamples = [{user = "rahasia\\u2067", assistant = "y"}]', "$.examples[0].user"),
        (
            "a.toml",
            b'questions = ["x"]\nexamples = [{user = "y", assistant = "rahasia\\f"}]',
            "$.examples[0].assistant",
        ),
        ("a.toml", b'questions = ["x"]\n"rahasia !" = 1', "unknown field;"),
        ("a.toml", b'questions = ["x"]\n' + b"a" * 41 + b" = 1", "unknown field;"),
        ("a.toml", b'""' + b' ." ."' * 20_000 + b" = 1", "not valid TOML (a key of more than 64 parts)"),
        ("a.toml", b"a" + b".a" * 20_000 + b" = 1", "not valid TOML (a key of more than 64 parts)"),
        ("a.toml", b'questions = ["x"]\nd = 2020-13-45', "not valid TOML (at line 2"),
        ("a.toml", b"a = " + b"1" * 5000, "not valid TOML"),
        ("a.toml", b"a = " + b"[" * 20_000, "not valid TOML"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_file_that_is_no_prompt_is_refused_with_its_place_and_without_its_text(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    """One line that names the file, what is wrong and where."""
    text = refusal_of(tmp_path, name, data)
    assert said in text
    assert "rahasia" not in text


def test_a_missing_file_a_directory_and_an_enormous_file_are_refused(tmp_path: Path) -> None:
    """Each by name; the enormous one is not read whole."""
    with pytest.raises(PromptError, match=r"nowhere\.txt: no such file"):
        read_prompt(str(tmp_path / "nowhere.txt"))
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(PromptError, match=r"pipe\.toml: not a regular file"):
        read_prompt(str(tmp_path / "pipe.toml"))
    (tmp_path / "d.txt").mkdir()
    with pytest.raises(PromptError, match=r"d\.txt: a directory"):
        read_prompt(str(tmp_path / "d.txt"))
    with (tmp_path / "big.txt").open("wb") as sparse:
        sparse.truncate(MAX_BYTES + 1)
    with pytest.raises(PromptError, match="larger than 16 MiB"):
        read_prompt(str(tmp_path / "big.txt"))


@given(st.sampled_from(["a.txt", "a.json", "a.toml"]), st.binary(min_size=1, max_size=200))
def test_any_bytes_are_a_prompt_or_a_one_line_refusal(tmp_path: Path, name: str, data: bytes) -> None:
    """No exception of another kind."""
    try:
        assert prompt_of(tmp_path, name, data)
    except PromptError as refused:
        assert len(str(refused).splitlines()) == 1


TOML_PIECES = st.lists(
    st.sampled_from(['"', "'", '"""', "[", "]", "{", "}", "=", ",", "\n", "#", "questions", "id", "a", "\\",
                     "1979-05-27", "T07:32:00Z", "0x", "inf", "1e400", " ", "examples", "user", "true", "\\u00", "."])
).map("".join)  # fmt: skip


@given(st.sampled_from(["a.json", "a.toml"]), TOML_PIECES.filter(str.strip))
def test_any_arrangement_of_the_formats_own_signs_is_a_prompt_or_a_one_line_refusal(
    tmp_path: Path, name: str, text: str
) -> None:
    """Nearer to the parsers' paths than random bytes are."""
    test_any_bytes_are_a_prompt_or_a_one_line_refusal.hypothesis.inner_test(tmp_path, name, text.encode())  # type: ignore[attr-defined]


def test_a_prompt_does_not_print_its_text() -> None:
    """Neither repr nor str, so no log line can hold it by accident."""
    assert "rahasia" not in repr(OwnWords((Message("user", "rahasia"),)))
