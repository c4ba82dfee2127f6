"""Words that the person adds to their profile's file. Everything else in it stays byte for byte, comments too.

Knows nothing about: files, screens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from llama import toml
from llama.errors import ProfileError
from llama.privacy.policy import FieldPolicy
from llama.privacy.profile import PRIVATE_WORDS, parse, text_of
from llama.text.decoding import decoded
from llama.text.printable import is_blank


def with_private_words(raw: bytes, words: Sequence[str], where: str = "profile") -> bytes:
    """Return a profile's file with more words in its field ``private_words``.

    Args:
        raw: the file.
        words: what to add. Words that it has already are not added again.
        where: begins the message of an error.

    Raises:
        ProfileError: the file, or the one that would result, is no profile; or its policy sends these words openly.
    """
    before = parse(raw, where).fields
    known = before.get(PRIVATE_WORDS)
    if known is not None and known.policy is not FieldPolicy.SECRET:
        raise ProfileError(f"{where}: [policy] opens {PRIVATE_WORDS}; remove that line to keep these words private")
    there = [] if known is None else [text_of(value) for value in known.values]
    new = [word for word in dict.fromkeys(words) if word not in there and not is_blank(word)]
    if not new:
        return raw
    text = decoded(raw)
    mark = raw[: len(raw) - len(text.encode())]
    is_there = PRIVATE_WORDS in toml.parsed(text)  # it may be empty, and then be no field
    problem = f"{where}: cannot be edited here; add the word to {PRIVATE_WORDS} in an editor"
    for candidate in _with_longer_list(text, there, new) if is_there else _with_list(text, new):
        edited = mark + candidate.encode(errors="replace")
        try:
            after = parse(edited, where).fields
        except ProfileError as err:
            problem = str(err)
            continue
        if {**after, PRIVATE_WORDS: None} == {**before, PRIVATE_WORDS: None}:
            return edited
    raise ProfileError(problem)


def _with_list(text: str, words: Sequence[str]) -> Iterator[str]:
    """Yield the text with the new field: after the last field before the first table, or else at its beginning."""
    import tomlkit  # imported here: only a person who adds a word needs it

    end = "\r\n" if "\r\n" in text else "\n"
    line = f"{PRIVATE_WORDS} = {tomlkit.item(list(words)).as_string()}{end}"
    lines = text.split("\n")
    at = next((i for i, each in enumerate(lines) if each.lstrip().startswith("[")), None)
    if at is None:
        yield text + ("" if not text or text.endswith("\n") else end) + line
    else:
        while at and lines[at - 1].lstrip().startswith("#"):  # a comment on the table
            at -= 1
        while at and not lines[at - 1].strip():
            at -= 1
        before = "".join(f"{each}\n" for each in lines[:at])
        yield before + line + text[len(before) :]
    yield line + text  # where a text of several lines looks like a table


def _with_longer_list(text: str, there: Sequence[str], words: Sequence[str]) -> Iterator[str]:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    with suppress(TOMLKitError, RecursionError):  # it is stricter than tomllib in a few places
        document = tomlkit.parse(text)
        field = document[PRIVATE_WORDS]
        if isinstance(field, list):
            field.extend(words)
        else:
            document[PRIVATE_WORDS] = [*there, *words]
        yield tomlkit.dumps(document)
