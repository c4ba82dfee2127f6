"""Chat format that renders a checkpoint's own template, for templates that ``llama.chat`` cannot reproduce.

The template is rendered for every dialogue (``llama.rendering``: sandboxed, with little time and memory). Special
tokens are recognised in the template's own text, but not in people's words. So before rendering, the text of a special
token in a content is put between two unused characters, as transformers does (``mark_control_tokens``). In the rendered
text, each character between them is replaced by another unused character, and restored when the ids are made.

A second rendering marks the begin and end of each content with unused characters, to find its place. That is needed
because a template may strip a content, and the gate (``llama.privacy.gate``) reads the person's words in their places.
If a template rewrites a content so that the marks are lost, the special tokens must equal those of the same dialogue
without any words.

Knows nothing about: the origin of a dialogue or a template.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from llama.added_tokens import Literals, Segment
from llama.chat import Encoded, Message, checked
from llama.errors import TokenizerError
from llama.rendering import CannotRender, DialogRefused, render
from llama.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")
MAX_VARIABLES, MAX_VARIABLE_CHARACTERS = 32, 4096
_PRIVATE = (
    range(0xE000, 0xF900),
    range(0xF0000, 0xFFFFE),
    range(0x100000, 0x10FFFE),
)  # Unicode's private-use characters
_ESCAPE = re.compile(r"\\[uUx]([0-9a-fA-F]{2,8})")
_QUESTIONS = ("a", "B?")  # they differ from the first letter to the last


class ChatTemplate(msgspec.Struct, frozen=True):
    """A chat template and its variables beside the messages, such as ``bos_token``."""

    source: str
    variables: dict[str, str] = {}


@dataclass(frozen=True)
class _RenderedDialog:
    """A rendered dialogue, and the place of each stripped content. Its printed form omits the text."""

    text: str = field(repr=False)
    places: list[tuple[int, int] | None]


class TemplateFormat:
    """Chat format of a checkpoint's template; see the module.

    Args:
        tokenizer: the model's tokenizer.
        template: the checkpoint's template.
        stop_ids: ids that end a reply.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, stop_ids: Sequence[int]) -> None:
        self._tokenizer, self._template = tokenizer, template
        self.default_system: str | None = None  # the template adds its own system message
        self.stop_ids = tuple(stop_ids)
        self._special = Literals(tokenizer.special_tokens)
        self._special_ids = frozenset(tokenizer.special_tokens.values())

    def encode(self, dialog: Sequence[Message], prefix_messages: int = 0) -> Encoded:
        """Encode a dialogue with the assistant's next message opened; raises as ``ChatFormat.encode``."""
        dialog = checked(dialog, ROLES, None)
        try:
            hidden, (rendered, *others) = self._rendered_dialogs([dialog, *_asked(dialog[:prefix_messages])], marked=1)
        except TokenizerError:  # the template may refuse only the two prefix dialogues
            hidden, (rendered, *others) = self._rendered_dialogs([dialog], marked=1)
        ids, segments = self._tokenizer.encode_template(rendered.text, hidden)
        self._refuse_forged(dialog, rendered, segments)
        text, offsets = self._placed(dialog, rendered, segments, hidden)
        opened = self._common([self._tokenizer.encode_template(other.text, hidden)[0] for other in others])
        shared = len(opened) if ids[: len(opened)] == opened else 0
        return Encoded(ids, text, offsets, shared, self._preface(dialog[0], text, offsets[0]))

    def _preface(self, first: Message, text: str, offset: int | None) -> str:
        """Return the text before the first content, without special tokens and the role."""
        if offset is None:
            return ""
        begin = offset + len(first.content) - len(first.content.lstrip())
        said = " ".join(self._between_special(text[:begin]))
        return said.strip().removesuffix(first.role).strip()

    def _between_special(self, text: str) -> Iterator[str]:
        at = 0
        for begin, end in self._special.find(text, 0, len(text)):
            yield text[at:begin]
            at = end
        yield text[at:]

    def encode_dialog_prompt(self, dialog: Sequence[Message]) -> list[int]:
        """Return the ids of a dialogue with the assistant's next message opened; raises as ``ChatFormat.encode``."""
        return self.encode(dialog).ids

    def prefixes(self, first_messages: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Return the first ids of dialogues that begin with these messages; raises as ``ChatFormat.encode``.

        These are the common ids of two dialogues with different continuations, up to the last special token: ordinary
        text after it could merge with the next word. If the template refuses the messages, there are no ids.
        """
        dialogs = [_asked(checked(messages, ROLES, None) if messages else []) for messages in first_messages]
        try:
            hidden, rendered = self._rendered_dialogs([each for both in dialogs for each in both], marked=0)
        except TokenizerError:
            if len(first_messages) == 1:
                return [[]]
            return [ids for messages in first_messages for ids in self.prefixes([messages])]
        ids = [self._tokenizer.encode_template(each.text, hidden)[0] for each in rendered]
        return [self._common(both) for both in zip(ids[::2], ids[1::2], strict=True)]

    def _common(self, both: Sequence[Sequence[int]]) -> list[int]:
        same = [a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*both, strict=False))]
        while same and same[-1] not in self._special_ids:
            same.pop()
        return same

    def _rendered_dialogs(
        self, dialogs: Sequence[Sequence[Message]], *, marked: int
    ) -> tuple[dict[int, str], list[_RenderedDialog]]:
        """Return the originals of the hidden characters by their codes, and the rendered dialogues.

        The first ``marked`` dialogues also get the places of their contents.
        """
        fresh = _Fresh([self._template.source, *self._template.variables.values()], dialogs)
        begin, end = next(fresh), next(fresh)
        marks = [[(next(fresh), next(fresh)) for _ in dialog] for dialog in dialogs[:marked]]
        contents = [
            [(message.role, self._bracketed(message.content, begin, end)) for message in dialog] for dialog in dialogs
        ]
        versions = [
            *contents,
            *(
                [(role, _between(text, *pair)) for (role, text), pair in zip(messages, pairs, strict=True)]
                for messages, pairs in zip(contents, marks, strict=False)
            ),
        ]
        texts = self._rendered([[{"role": role, "content": text} for role, text in each] for each in versions], dialogs)
        signs = dict[str, str]()
        texts = [_hidden(text, begin, end, signs, fresh) for text in texts]
        places = [_places(*each) for each in zip(texts, texts[len(dialogs) :], marks, strict=False)]
        places += [[None] * len(dialog) for dialog in dialogs[marked:]]
        hidden = {ord(sign): char for char, sign in signs.items()}
        return hidden, [_RenderedDialog(text, where) for text, where in zip(texts, places, strict=False)]

    def _bracketed(self, text: str, begin: str, end: str) -> str:
        """Return the text with each special token's text put between ``begin`` and ``end``."""
        pieces, at = list[str](), 0
        for first, last in self._special.find(text, 0, len(text)):
            pieces += [text[at:first], begin, text[first:last], end]
            at = last
        return "".join([*pieces, text[at:]])

    def _rendered(
        self, messages: Sequence[Sequence[Mapping[str, str]]], dialogs: Sequence[Sequence[Message]]
    ) -> list[str]:
        roles = ", ".join(message.role for message in dialogs[0])
        try:
            return render(self._template.source, messages, self._template.variables)
        except DialogRefused:
            raise TokenizerError(
                f"the model's chat template refuses a dialogue of these roles: {roles}; omit the "
                f"system message, or let user and assistant take turns"
            ) from None
        except CannotRender as err:
            raise TokenizerError(
                f"the model's chat template cannot write this dialogue ({err}); shorten it, or split "
                f"the checkpoint again with another --chat_format"
            ) from None

    def _placed(
        self,
        dialog: Sequence[Message],
        rendered: _RenderedDialog,
        segments: Sequence[Segment],
        hidden: Mapping[int, str],
    ) -> tuple[str, list[int | None]]:
        """Return the text of the ids, and the position in it of character 0 of each content that appears whole."""
        pieces, length, place_of = list[str](), 0, dict[int, int]()
        wanted = sorted(place[0] for place in rendered.places if place is not None)
        names = {id: name for name, id in [*self._tokenizer.special_tokens.items(), *self._tokenizer.words.items()]}
        at = 0
        for segment in segments:
            begin = segment.start
            while at < len(wanted) and wanted[at] < segment.end:
                if segment.id is None:
                    pieces.append(rendered.text[begin : wanted[at]].translate(hidden))
                    length, begin = length + len(pieces[-1]), wanted[at]
                place_of[wanted[at]] = length
                at += 1
            pieces.append(
                rendered.text[begin : segment.end].translate(hidden) if segment.id is None else names[segment.id]
            )
            length += len(pieces[-1])
        place_of |= dict.fromkeys(wanted[at:], length)
        text = "".join(pieces)
        return text, [*_offsets(dialog, [None if p is None else place_of[p[0]] for p in rendered.places], text)]

    def _refuse_forged(self, dialog: Sequence[Message], rendered: _RenderedDialog, segments: Sequence[Segment]) -> None:
        """Refuse special tokens that a content makes, alone or together with the template's text beside it.

        Raises:
            TokenizerError: names the message, if it is known.
        """
        tokens = [segment for segment in segments if segment.id in self._special_ids]
        if any(place is None for place in rendered.places):
            wordless = [Message(each.role, "a" if each.content.strip() else each.content) for each in dialog]
            hidden, (plain,) = self._rendered_dialogs([wordless], marked=0)
            _, own = self._tokenizer.encode_template(plain.text, hidden)
            if [segment.id for segment in own if segment.id in self._special_ids] != [segment.id for segment in tokens]:
                raise TokenizerError(
                    "the model's chat template rewrites a message so that it makes special tokens, or "
                    "loses some; reword it, without signs such as < and |"
                )
        left = iter(tokens)
        token = next(left, None)
        places = enumerate(rendered.places, start=1)
        for number, (first, last) in sorted((n, p) for n, p in places if p is not None and p[0] < p[1]):
            while token is not None and token.end <= first:
                token = next(left, None)
            if token is not None and token.start < last:
                raise TokenizerError(
                    f"message {number} of {len(rendered.places)} and what the model's chat template "
                    f"writes beside it make a special token together; reword its end"
                )


class _Fresh(Iterator[str]):
    """Iterator of Unicode's private-use characters that none of these texts contain.

    Raises:
        TokenizerError: all of them are in use.
    """

    def __init__(self, texts: Sequence[str], dialogs: Sequence[Sequence[Message]]) -> None:
        seen = set[str]().union(*texts, *(message.content for dialog in dialogs for message in dialog))
        # A template may contain a character as an escape sequence.
        seen |= {
            chr(int(code, 16)) for text in texts for code in _ESCAPE.findall(text) if int(code, 16) < sys.maxunicode
        }
        self._found = (chr(code) for code in itertools.chain(*_PRIVATE) if chr(code) not in seen)

    def __next__(self) -> str:
        found = next(self._found, None)
        if found is None:
            raise TokenizerError(
                "the dialogue has too many messages, or too many private-use characters, for a chat "
                "template; shorten it"
            )
        return found


def _hidden(text: str, begin: str, end: str, signs: dict[str, str], fresh: Iterator[str]) -> str:
    """Replace the characters between ``begin`` and ``end`` by placeholders; a lone mark still separates its sides."""
    pieces = re.split(f"{begin}([^{begin}{end}]*){end}|([{begin}{end}])", text)
    for number in range(1, len(pieces), 3):
        inside = pieces[number]
        for char in inside or "":
            if char not in signs:
                signs[char] = next(fresh)
        if inside is None and "" not in signs:
            signs[""] = next(fresh)
        pieces[number] = signs[""] if inside is None else "".join(signs[char] for char in inside)
        pieces[number + 1] = ""
    return "".join(pieces)


def _offsets(dialog: Sequence[Message], places: Sequence[int | None], text: str) -> Iterator[int | None]:
    for message, place in zip(dialog, places, strict=True):
        core = message.content.strip()
        margin = len(message.content) - len(message.content.lstrip()) if core else len(message.content)
        yield None if place is None or not text.startswith(core, place) else place - margin


def _asked(messages: Sequence[Message]) -> list[list[Message]]:
    """Return two dialogues that begin with these messages and continue differently."""
    return [[*messages, Message("user", question)] for question in _QUESTIONS]


def _between(content: str, begin: str, end: str) -> str:
    """Return the content with marks before its first and after its last non-whitespace character."""
    core = content.strip()
    start = len(content) - len(content.lstrip()) if core else len(content)
    return f"{content[:start]}{begin}{core}{end}{content[start + len(core) :]}"


def _places(text: str, marked: str, marks: Sequence[tuple[str, str]]) -> list[tuple[int, int] | None]:
    """Return the place of each content in ``text``, by ``marked``, the same rendering with marks.

    All are None if the marks changed the rendering. One is None if the template omitted one of its marks, wrote it
    twice, or changed their order.
    """
    every = {mark for pair in marks for mark in pair}
    where, kept, last = dict[str, list[int]](), list[str](), 0
    for number, (at, mark) in enumerate((at, char) for at, char in enumerate(marked) if char in every):
        where.setdefault(mark, []).append(at - number)
        kept.append(marked[last:at])
        last = at + 1
    kept.append(marked[last:])
    if "".join(kept) != text:
        return [None] * len(marks)
    found = [(where.get(begin, []), where.get(end, [])) for begin, end in marks]
    return [
        (begins[0], ends[0]) if len(begins) == len(ends) == 1 and begins[0] <= ends[0] else None
        for begins, ends in found
    ]
