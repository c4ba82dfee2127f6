"""Chat formats: conversion of a dialogue into the ids that a model was trained on.

============ =========================================================================================================
``llama3``   ``<|begin_of_text|>``, then per message ``<|start_header_id|>role<|end_header_id|>``, a blank line, the
             content without surrounding whitespace, ``<|eot_id|>``; at the end an open header of the assistant
             (github.com/meta-llama/llama3, ``ChatFormat``)
``chatml``   per message ``<|im_start|>role``, a newline, the unchanged content, ``<|im_end|>``, a newline; at the end
             an open message of the assistant
``template`` the text of the checkpoint's own chat template: ``llama.template_format``
============ =========================================================================================================

The first two put the model's default system message in front of a dialogue that has none.

Special tokens are inserted as ids. A person's words are encoded as ordinary text, so they cannot close their own
message. The text between two special tokens is encoded as the model's makers do it: in ``llama3`` header, blank line
and content separately, in ``chatml`` together.

Knows nothing about: the origin of a dialogue, its permitted length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from llama.errors import TokenizerError
from llama.tokenizer import Tokenizer


class Message(msgspec.Struct, frozen=True):
    """One turn of a dialogue. Its printed form omits the content, which may be personal."""

    role: str
    content: str

    def __repr__(self) -> str:
        return f"Message(role={self.role!r}, content=…)"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("role", self.role)]


@dataclass(frozen=True)
class Encoded:
    """An encoded dialogue with the assistant's next message opened. Its printed form omits all content.

    Attributes:
        ids: token ids to embed.
        text: the same as text, with special tokens by name. It equals the decoded ids, unless the vocabulary cannot
            write some of it.
        offsets: position in ``text`` of character 0 of each message's content. If the format strips a content, the
            position is where its stripped margin would begin. None if the content does not appear unchanged.
        shared: number of leading ids that equal ``ChatFormat.prefixes`` for the first messages.
        preface: text of the checkpoint's template before the first message, without special tokens.
    """

    ids: list[int] = field(repr=False)
    text: str = field(repr=False)
    offsets: list[int | None] = field(repr=False)
    shared: int
    preface: str = field(default="", repr=False)  # a template may begin with any message


class ChatFormat(Protocol):
    """Interface of all chat formats."""

    stop_ids: tuple[int, ...]
    """Ids that end a reply."""
    default_system: str | None
    """System message for a dialogue without one, or None."""

    def encode(self, dialog: Sequence[Message], prefix_messages: int = 0) -> Encoded:
        """Encode a dialogue with the assistant's next message opened.

        Args:
            dialog: at least one message.
            prefix_messages: number of first messages that are the same in every dialogue of this kind.

        Raises:
            TokenizerError: no message, an unknown role, or a content that is not text; names the message by its number.
        """

    def encode_dialog_prompt(self, dialog: Sequence[Message]) -> list[int]:
        """Return only the ids of ``encode``; raises the same errors."""

    def prefixes(self, first_messages: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Return, for each list of messages, the first ids of every dialogue that begins with these messages.

        For an empty list, return the first ids of every dialogue without a system message. Raises as ``encode``.
        """


class _NativeFormat:
    """Base class of the native formats."""

    roles: tuple[str, ...]
    # Tokens that end a reply: the first, which ends a turn, always; the others if the checkpoint names none.
    ends: tuple[str, ...]
    begins: str  # beginning of a dialogue
    turn: str  # one message
    opens_reply: str
    strips: bool  # strip whitespace around a content
    stop_ids: tuple[int, ...]

    def __init__(
        self, tokenizer: Tokenizer, default_system: str | None = None, stop_ids: Sequence[int] | None = None
    ) -> None:
        self._tokenizer, self.default_system = tokenizer, default_system
        names = self.ends if stop_ids is None else self.ends[:1]
        ends = [tokenizer.special_tokens[name] for name in names if name in tokenizer.special_tokens]
        self.stop_ids = tuple(dict.fromkeys([*ends, *(stop_ids or ())]))

    def encode(self, dialog: Sequence[Message], prefix_messages: int = 0) -> Encoded:
        """Encode a dialogue with the assistant's next message opened."""
        ids = self.encode_dialog_prompt(dialog)
        (shared,) = self.prefixes([dialog[:prefix_messages]])
        text, offsets = self.spell(dialog)
        return Encoded(ids, text, [*offsets], len(shared) if ids[: len(shared)] == shared else 0)

    def encode_dialog_prompt(self, dialog: Sequence[Message]) -> list[int]:
        """Return the ids of a dialogue with the assistant's next message opened."""
        raise NotImplementedError

    def prefixes(self, first_messages: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Return the first ids of dialogues that begin with these messages."""
        raise NotImplementedError

    def spell(self, dialog: Sequence[Message]) -> tuple[str, list[int]]:
        """Return ``text`` and ``offsets`` of :class:`Encoded`."""
        text, offsets = self.written(checked(dialog, self.roles, self.default_system))
        return text, offsets[-len(dialog) :]

    @classmethod
    def written(cls, messages: Sequence[Message]) -> tuple[str, list[int]]:
        """Return the text of exactly these messages, and the position in it of character 0 of each content."""
        text, offsets = cls.begins, list[int]()
        for message in messages:
            before, after = (part.replace("{role}", message.role) for part in cls.turn.split("{content}"))
            content = message.content.strip() if cls.strips else message.content
            margin = len(message.content) - len(message.content.lstrip()) if cls.strips else 0
            text += before
            offsets.append(len(text) - margin)
            text += content + after
        return text + cls.opens_reply, offsets


class Llama3Format(_NativeFormat):
    """Meta's format since Llama 3."""

    roles = ("system", "user", "assistant", "ipython")
    ends = ("<|eot_id|>", "<|end_of_text|>", "<|eom_id|>")
    begins = "<|begin_of_text|>"
    turn = "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>"
    opens_reply = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    strips = True

    def __init__(
        self, tokenizer: Tokenizer, default_system: str | None = None, stop_ids: Sequence[int] | None = None
    ) -> None:
        super().__init__(tokenizer, default_system, stop_ids)
        self._begin_of_text, self._start_header, self._end_header, self._eot = _special_ids(
            tokenizer, ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
        )

    def encode_dialog_prompt(self, dialog: Sequence[Message]) -> list[int]:
        """Return the ids of a dialogue with the assistant's next message opened."""
        return self._encode(checked(dialog, self.roles, self.default_system)) + self.encode_header("assistant")

    def prefixes(self, first_messages: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Return the first ids of dialogues that begin with these messages."""
        found = [_prefix_messages(messages, self.roles, self.default_system) for messages in first_messages]
        return [self._encode(prefix) if prefix else [] for prefix in found]

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        return [self._begin_of_text, *(i for message in messages for i in self.encode_message(message))]

    def encode_message(self, message: Message) -> list[int]:
        """Return the ids of one whole message."""
        return [*self.encode_header(message.role), *_encode(self._tokenizer, message.content.strip()), self._eot]

    def encode_header(self, role: str) -> list[int]:
        """Return the ids before a message's content."""
        return [
            self._start_header,
            *_encode(self._tokenizer, role),
            self._end_header,
            *_encode(self._tokenizer, "\n\n"),
        ]


class ChatMLFormat(_NativeFormat):
    """ChatML, the format of SmolLM2 and others."""

    roles = ("system", "user", "assistant")
    ends = ("<|im_end|>",)
    begins = ""
    turn = "<|im_start|>{role}\n{content}<|im_end|>\n"
    opens_reply = "<|im_start|>assistant\n"
    strips = False

    def __init__(
        self, tokenizer: Tokenizer, default_system: str | None = None, stop_ids: Sequence[int] | None = None
    ) -> None:
        super().__init__(tokenizer, default_system, stop_ids)
        self._im_start, self._im_end = _special_ids(tokenizer, ("<|im_start|>", "<|im_end|>"))

    def encode_dialog_prompt(self, dialog: Sequence[Message]) -> list[int]:
        """Return the ids of a dialogue with the assistant's next message opened."""
        dialog = checked(dialog, self.roles, self.default_system)
        return [*self._encode(dialog), self._im_start, *_encode(self._tokenizer, "assistant\n")]

    def prefixes(self, first_messages: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Return the first ids of dialogues that begin with these messages."""
        return [
            self._encode(_prefix_messages(messages, self.roles, self.default_system)) for messages in first_messages
        ]

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        return [i for message in messages for i in self.encode_message(message)]

    def encode_message(self, message: Message) -> list[int]:
        """Return the ids of one whole message."""
        text = f"{message.role}\n{message.content}"
        return [self._im_start, *_encode(self._tokenizer, text), self._im_end, *_encode(self._tokenizer, "\n")]


NATIVE_FORMATS: dict[str, type[Llama3Format | ChatMLFormat]] = {"llama3": Llama3Format, "chatml": ChatMLFormat}
TEMPLATE = "template"
MAX_STOP_IDS = 32  # per checkpoint; a request has room for twice as many


def chat_format(
    name: str, tokenizer: Tokenizer, default_system: str | None, stop_ids: Sequence[int] | None = None
) -> Llama3Format | ChatMLFormat:
    """Return the native format of that name.

    Args:
        name: ``llama3`` or ``chatml``.
        tokenizer: a vocabulary with the format's special tokens.
        default_system: system message for dialogues that do not begin with one, or None.
        stop_ids: ids that end a reply, beside the one that ends a turn; None for those of Meta's models, or of ChatML.

    Raises:
        TokenizerError: the name is unknown, or the vocabulary lacks the format's special tokens.
    """
    if name not in NATIVE_FORMATS:
        raise TokenizerError(f"chat format {name!r} is unknown; use {' or '.join(NATIVE_FORMATS)}")
    return NATIVE_FORMATS[name](tokenizer, default_system, stop_ids)


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, bos=False, eos=False)


def _special_ids(tokenizer: Tokenizer, names: tuple[str, ...]) -> list[int]:
    missing = [name for name in names if name not in tokenizer.special_tokens]
    if missing:
        raise TokenizerError(
            f"the vocabulary lacks {' and '.join(missing)}, which the chat format needs; split the checkpoint again"
        )
    return [tokenizer.special_tokens[name] for name in names]


def _prefix_messages(messages: Sequence[Message], roles: tuple[str, ...], default_system: str | None) -> list[Message]:
    """Return the first messages of a dialogue, with the default system message where ``checked`` would add it."""
    if messages:
        return checked(messages, roles, default_system)
    return [] if default_system is None else [Message("system", default_system)]


def checked(dialog: Sequence[Message], roles: tuple[str, ...], default_system: str | None) -> list[Message]:
    """Check that a dialogue can be encoded; return it, with the default system message if it has none.

    Raises:
        TokenizerError: as ``ChatFormat.encode``.
    """
    if not dialog:
        raise TokenizerError("the dialogue has no message; give at least one")
    for i, message in enumerate(dialog, start=1):
        place = f"message {i} of {len(dialog)}"
        if message.role not in roles:
            raise TokenizerError(f"{place}: its role is not one of {', '.join(roles)}")
        if not isinstance(message.content, str):
            raise TokenizerError(f"{place}: its content is not text but {type(message.content).__name__}")
        try:
            message.content.encode()
        except UnicodeEncodeError:
            raise TokenizerError(
                f"{place}: a lone surrogate, which is not valid Unicode; save the prompt as UTF-8"
            ) from None
    if default_system is None or dialog[0].role == "system":
        return list(dialog)
    return [Message("system", default_system), *dialog]
