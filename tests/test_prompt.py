"""Claims about prompt files: each kind is read as documented; whatever else is a one-line error without its text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama.chat import Message
from llama.errors import PromptError
from llama.prompt import MAX_BYTES, Prompt, read_prompt

ROOT = Path(__file__).resolve().parent.parent
ANY_FILE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)


def prompt_of(directory: Path, name: str, data: str | bytes) -> Prompt:
    path = directory / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_prompt(str(path))


def refusal_of(directory: Path, name: str, data: str | bytes) -> str:
    with pytest.raises(PromptError) as refused:
        prompt_of(directory, name, data)
    text = str(refused.value)
    assert "\n" not in text and str(directory / name) in text
    return text


def test_a_text_file_is_one_user_message_byte_for_byte(tmp_path: Path) -> None:
    """Line ends, blanks and all; only a byte order mark goes."""
    text = "  Halo,\r\napa kabar?\t☕\n\n"
    assert prompt_of(tmp_path, "a.txt", text).dialog == [Message("user", text)]
    assert prompt_of(tmp_path, "A.TXT", b"\xef\xbb\xbf" + text.encode()).dialog == [Message("user", text)]
    assert prompt_of(tmp_path, "a.txt", text).id == ""


@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])).filter(str.strip))
@ANY_FILE
def test_any_text_comes_back_as_it_was(tmp_path: Path, text: str) -> None:
    """Except that one leading byte order mark is removed."""
    expected = text.removeprefix("\ufeff")
    if expected.strip():
        assert prompt_of(tmp_path, "a.txt", text).dialog == [Message("user", expected)]


@given(
    st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text(
            st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]))}),
        min_size=1,
    )
)  # fmt: skip
@ANY_FILE
def test_any_dialogue_comes_back_as_the_json_library_reads_it(tmp_path: Path, dialog: list[dict[str, str]]) -> None:
    """Roles and contents in order."""
    prompt = prompt_of(tmp_path, "a.json", json.dumps(dialog, ensure_ascii=False))
    assert [{"role": m.role, "content": m.content} for m in prompt.dialog] == dialog


def test_a_sheet_is_its_system_message_its_examples_as_turns_and_its_questions_as_one_message(tmp_path: Path) -> None:
    """In that order, a question a line."""
    sheet = """
    id = "sheet-1"
    title = "not sent"
    system = "Be brief."
    examples = [{user = "a", assistant = "b"}, {user = "c", assistant = "d"}]
    questions = ["What?", "Why?"]
    """
    prompt = prompt_of(tmp_path, "a.toml", sheet)
    assert prompt.id == "sheet-1"
    assert [(m.role, m.content) for m in prompt.dialog] == [
        ("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"),
        ("user", "What?\nWhy?"),
    ]  # fmt: skip


def test_a_sheet_needs_nothing_but_questions(tmp_path: Path) -> None:
    """No system message is made up."""
    assert prompt_of(tmp_path, "a.toml", 'questions = ["What?"]') == Prompt("", [Message("user", "What?")])


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_every_example_prompt_can_be_read(example: Path) -> None:
    """What the README shows works."""
    assert read_prompt(str(example)).dialog[-1].role == "user"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", b" \r\n\t", "empty"),
        ("a.txt", b"\xef\xbb\xbf", "empty"),
        ("a.txt", b"\x89PNG\r\n\x1a\n\xff", "not UTF-8 text (byte 0); save it as UTF-8"),
        ("a.txt", "rahasia".encode("utf-16-le"), "NUL"),
        ("a.txt", "rahasia".encode("utf-16"), "not UTF-8"),
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
        ("a.json", b'[{"role": "user", "content": "x", "nama": "y"}]', "nama"),
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
    (tmp_path / "d.txt").mkdir()
    with pytest.raises(PromptError, match=r"d\.txt: a directory"):
        read_prompt(str(tmp_path / "d.txt"))
    with (tmp_path / "big.txt").open("wb") as sparse:
        sparse.truncate(MAX_BYTES + 1)
    with pytest.raises(PromptError, match="larger than 16 MiB"):
        read_prompt(str(tmp_path / "big.txt"))


@given(st.sampled_from(["a.txt", "a.json", "a.toml"]), st.binary(min_size=1, max_size=200))
@ANY_FILE
def test_any_bytes_are_a_prompt_or_a_one_line_refusal(tmp_path: Path, name: str, data: bytes) -> None:
    """No exception of another kind."""
    try:
        assert prompt_of(tmp_path, name, data).dialog
    except PromptError as refused:
        assert len(str(refused).splitlines()) == 1


TOML_PIECES = st.lists(
    st.sampled_from(['"', "'", '"""', "[", "]", "{", "}", "=", ",", "\n", "#", "questions", "id", "a", "\\",
                     "1979-05-27", "T07:32:00Z", "0x", "inf", "1e400", " ", "examples", "user", "true", "\\u00", "."])
).map("".join)  # fmt: skip


@given(st.sampled_from(["a.json", "a.toml"]), TOML_PIECES.filter(str.strip))
@ANY_FILE
def test_any_arrangement_of_the_formats_own_signs_is_a_prompt_or_a_one_line_refusal(
    tmp_path: Path, name: str, text: str
) -> None:
    """Nearer to the parsers' paths than random bytes are."""
    test_any_bytes_are_a_prompt_or_a_one_line_refusal.hypothesis.inner_test(tmp_path, name, text.encode())  # type: ignore[attr-defined]


def test_a_prompt_does_not_print_its_text() -> None:
    """Neither repr nor str, so no log line can hold it by accident."""
    assert "rahasia" not in repr(Prompt("id", [Message("user", "rahasia")]))
