"""Chat formats: how a dialogue becomes the ids a model was trained on.

============ =========================================================================================================
``llama3``   ``<|begin_of_text|>``, then per message ``<|start_header_id|>role<|end_header_id|>``, a blank line, the
             content without surrounding whitespace, ``<|eot_id|>``; at the end an open header of the assistant
             (github.com/meta-llama/llama3, ``ChatFormat``)
``chatml``   per message ``<|im_start|>role``, a newline, the content as it is, ``<|im_end|>``, a newline; at the end an
             open message of the assistant
``template`` whatever the checkpoint's own chat template writes: ``llama.template_format``
============ =========================================================================================================

In the first two the model's own system message goes in front where the dialogue has none.

Special tokens are put in as ids; what people wrote is encoded as ordinary text, so that it cannot close its own
message. Each stretch between two special tokens is encoded as the model's makers do it: in ``llama3`` header, blank
line and content one by one, in ``chatml`` all in one.

Knows nothing about: where a dialogue comes from, how long it may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from llama.errors import TokenizerError
from llama.tokenizer import Tokenizer


class Message(msgspec.Struct, frozen=True):
    """One turn of a dialogue. Its printed form leaves the content out, which may be personal."""

    role: str
    content: str

    def __repr__(self) -> str:
        return f"Message(role={self.role!r}, content=…)"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("role", self.role)]


@dataclass(frozen=True)
class Encoded:
    """A dialogue with the assistant's next message opened; it does not print.

    Attributes:
        ids: to be embedded.
        text: the same, special tokens by name. It is what the ids are decoded to, unless the vocabulary cannot write
            some of it.
        offsets: where in ``text`` character 0 of each message's content stands; before its place, where the format
            strips a content; None, where the content does not stand in the text as it was written.
        shared: how many of the ids, from the first, are those of ``ChatFormat.prefixes`` for the first messages.
        preface: what the checkpoint's own template says before the first message, without special tokens.
    """

    ids: list[int] = field(repr=False)
    text: str = field(repr=False)
    offsets: list[int | None] = field(repr=False)
    shared: int
    preface: str = field(default="", repr=False)  # a template may begin with any message


class ChatFormat(Protocol):
    """What all formats offer."""

    stop_ids: tuple[int, ...]
    """Ids after which the reply is over."""
    default_system: str | None
    """Put in front of a dialogue that has no system message."""

    def encode(self, dialog: Sequence[Message], prefix_messages: int = 0) -> Encoded:
        """A dialogue with the assistant's next message opened.

        Args:
            dialog: at least one message.
            prefix_messages: how many messages from the first everybody's dialogue of this kind begins with.

        Raises:
            TokenizerError: no message, an unknown role, or a content that is not text; names the message by its number.
        """

    def encode_dialog_prompt(self, dialog: Sequence[Message]) -> list[int]:
        """Its ids alone; raises likewise."""

    def prefixes(self, first_messages: Sequence[Sequence[Message]]) -> list[list[int]]:
        """For each list of messages: ids that every dialogue begins with whose first messages are these.

        Without messages, ids that every dialogue begins with that has no system message. Raises likewise.
        """


class _NativeFormat:
    """What the formats share that are written here."""

    roles: tuple[str, ...]
    # Tokens after which a reply is over: the first, which ends a turn, always; others if the checkpoint names none.
    ends: tuple[str, ...]
    begins: str  # what a dialogue begins with
    turn: str  # one message
    opens_reply: str
    strips: bool  # a content's margins go
    stop_ids: tuple[int, ...]

    def __init__(
        self, tokenizer: Tokenizer, default_system: str | None = None, stop_ids: Sequence[int] | None = None
    ) -> None:
        self._tokenizer, self.default_system = tokenizer, default_system
        names = self.ends if stop_ids is None else self.ends[:1]
        ends = [tokenizer.special_tokens[name] for name in names if name in tokenizer.special_tokens]
        self.stop_ids = tuple(dict.fromkeys([*ends, *(stop_ids or ())]))

    def encode(self, dialog: Sequence[Message], prefix_messages: int = 0) -> Encoded:
        """A dialogue with the assistant's next message opened."""
        ids = self.encode_dialog_prompt(dialog)
        (shared,) = self.prefixes([dialog[:prefix_messages]])
        text, offsets = self.spell(dialog)
        return Encoded(ids, text, [*offsets], len(shared) if ids[: len(shared)] == shared else 0)

    def encode_dialog_prompt(self, dialog: Sequence[Message]) -> list[int]:
        """Ids of a dialogue with the assistant's next message opened."""
        raise NotImplementedError

    def prefixes(self, first_messages: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Ids that dialogues begin with whose first messages are these."""
        raise NotImplementedError

    def spell(self, dialog: Sequence[Message]) -> tuple[str, list[int]]:
        """``text`` and ``offsets`` of :class:`Encoded`."""
        text, offsets = self.written(checked(dialog, self.roles, self.default_system))
        return text, offsets[-len(dialog) :]

    @classmethod
    def written(cls, messages: Sequence[Message]) -> tuple[str, list[int]]:
        """The text of these very messages, and where in it character 0 of each content stands."""
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
        """Ids of a dialogue with the assistant's next message opened."""
        return self._encode(checked(dialog, self.roles, self.default_system)) + self.encode_header("assistant")

    def prefixes(self, first_messages: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Ids that dialogues begin with whose first messages are these."""
        found = [_prefix_messages(messages, self.roles, self.default_system) for messages in first_messages]
        return [self._encode(prefix) if prefix else [] for prefix in found]

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        return [self._begin_of_text, *(i for message in messages for i in self.encode_message(message))]

    def encode_message(self, message: Message) -> list[int]:
        """Ids of one whole message."""
        return [*self.encode_header(message.role), *_encode(self._tokenizer, message.content.strip()), self._eot]

    def encode_header(self, role: str) -> list[int]:
        """Ids of what stands before a message's content."""
        return [
            self._start_header,
            *_encode(self._tokenizer, role),
            self._end_header,
            *_encode(self._tokenizer, "\n\n"),
        ]


class ChatMLFormat(_NativeFormat):
    """ChatML, as SmolLM2 and others use it."""

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
        """Ids of a dialogue with the assistant's next message opened."""
        dialog = checked(dialog, self.roles, self.default_system)
        return [*self._encode(dialog), self._im_start, *_encode(self._tokenizer, "assistant\n")]

    def prefixes(self, first_messages: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Ids that dialogues begin with whose first messages are these."""
        return [
            self._encode(_prefix_messages(messages, self.roles, self.default_system)) for messages in first_messages
        ]

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        return [i for message in messages for i in self.encode_message(message)]

    def encode_message(self, message: Message) -> list[int]:
        """Ids of one whole message."""
        text = f"{message.role}\n{message.content}"
        return [self._im_start, *_encode(self._tokenizer, text), self._im_end, *_encode(self._tokenizer, "\n")]


NATIVE_FORMATS: dict[str, type[Llama3Format | ChatMLFormat]] = {"llama3": Llama3Format, "chatml": ChatMLFormat}
TEMPLATE = "template"
MAX_STOP_IDS = 32  # that a checkpoint says; a request has room for twice as many


def chat_format(
    name: str, tokenizer: Tokenizer, default_system: str | None, stop_ids: Sequence[int] | None = None
) -> Llama3Format | ChatMLFormat:
    """The format of that name that is written here.

    Args:
        name: ``llama3`` or ``chatml``.
        tokenizer: a vocabulary with the format's special tokens.
        default_system: system message for dialogues that do not begin with one, or None.
        stop_ids: ids that end a reply, beside the one that ends a turn; None for those of Meta's models, or of ChatML.

    Raises:
        TokenizerError: unknown name, or special tokens that the vocabulary lacks.
    """
    if name not in NATIVE_FORMATS:
        raise TokenizerError(f"chat format {name!r} is not known; known are {' and '.join(NATIVE_FORMATS)}")
    return NATIVE_FORMATS[name](tokenizer, default_system, stop_ids)


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, bos=False, eos=False)


def _special_ids(tokenizer: Tokenizer, names: tuple[str, ...]) -> list[int]:
    missing = [name for name in names if name not in tokenizer.special_tokens]
    if missing:
        raise TokenizerError(f"the vocabulary lacks {' and '.join(missing)}, which the chat format needs")
    return [tokenizer.special_tokens[name] for name in names]


def _prefix_messages(messages: Sequence[Message], roles: tuple[str, ...], default_system: str | None) -> list[Message]:
    """The first messages of a dialogue, with the default system message where it would be put in front."""
    if messages:
        return checked(messages, roles, default_system)
    return [] if default_system is None else [Message("system", default_system)]


def checked(dialog: Sequence[Message], roles: tuple[str, ...], default_system: str | None) -> list[Message]:
    """The dialogue, found to be one that can be encoded, with the default system message where it has none.

    Raises:
        TokenizerError: as of ``ChatFormat.encode``.
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
            raise TokenizerError(f"{place}: a lone surrogate, which is not Unicode; save the prompt as UTF-8") from None
    if default_system is None or dialog[0].role == "system":
        return list(dialog)
    return [Message("system", default_system), *dialog]
