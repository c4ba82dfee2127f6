"""Choose a checkpoint's chat format from its chat template.

A template is a third party's program. If it provably writes the same as ``llama3`` or ``chatml`` (``llama.chat``; see
``native_proof``), that format is used, because it needs no rendering. Otherwise the template itself is rendered
(``llama.template_format``).

Knows nothing about: files, ids.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from llama.chat import NATIVE_FORMATS, TEMPLATE
from llama.checkpoint.native_proof import native_equal, own_tokens, texts_of, writable
from llama.errors import TokenizerError
from llama.files import quoted
from llama.rendering import MAX_TEMPLATE_BYTES, CannotRender, render, render_any
from llama.template_format import MAX_VARIABLE_CHARACTERS, MAX_VARIABLES, ChatTemplate

FORMATS = (*NATIVE_FORMATS, TEMPLATE)


@dataclass(frozen=True)
class Choice:
    """The chat format of a checkpoint.

    Attributes:
        chat_format: ``llama3``, ``chatml`` or ``template``.
        default_system: the model's default system message for ``llama3`` and ``chatml``, or None.
        template: the chat template for ``template``, or None.
        around: text that the format writes around and between contents.
        after_answer: text that it writes directly after an assistant's content.
    """

    chat_format: str
    default_system: str | None = None
    template: ChatTemplate | None = None
    around: str = ""
    after_answer: str = ""


def choose(
    template: ChatTemplate | None, special: Collection[str], asked: str | None, flagged: bool, where: str
) -> Choice:
    """Choose the chat format of a checkpoint.

    Args:
        template: the checkpoint's template, or None.
        special: texts of its added tokens.
        asked: the format from the command line, or None.
        flagged: some added tokens are words or have flags, which ``llama3`` and ``chatml`` do not support.
        where: the checkpoint, for errors.

    Raises:
        TokenizerError: the template cannot be rendered; there is no template and the tokens match no known format; or
            the format asked for does not exist.
    """
    if asked is not None and asked not in FORMATS:
        raise TokenizerError(f"--chat_format must be one of {', '.join(FORMATS)} (got {quoted(asked)})")
    if asked == TEMPLATE and template is None:
        raise TokenizerError(
            f"{where}: --chat_format template, but the checkpoint has no chat template; omit --chat_format"
        )
    if asked is not None and asked in NATIVE_FORMATS:
        if lacking := sorted(own_tokens(asked) - set(special)):
            raise TokenizerError(
                f"{where}: --chat_format {asked}, but the vocabulary lacks {' and '.join(lacking)}; omit it"
            )
        return _native_choice(asked)
    if template is None:
        return _native_choice(_by_tokens(special, where))
    if len(template.source) > MAX_TEMPLATE_BYTES:
        raise TokenizerError(
            f"{where}: its chat template is longer than {MAX_TEMPLATE_BYTES >> 10} KiB; "
            f"use --chat_format llama3 or chatml to ignore it"
        )
    try:
        return _by_template(template, [] if asked == TEMPLATE or flagged else writable(special))
    except CannotRender as err:
        raise TokenizerError(
            f"{where}: its chat template cannot be rendered ({err}); repair it, or use "
            f"--chat_format llama3 or chatml to ignore it"
        ) from None


def _native_choice(name: str, default_system: str | None = None) -> Choice:
    return Choice(name, default_system, around="".join(texts_of(name)))


def _by_tokens(special: Collection[str], where: str) -> str:
    if "<|im_start|>" in special:
        return "chatml"
    if "<|start_header_id|>" in special:
        return "llama3"
    raise TokenizerError(
        f"{where}: it has no chat template, and its special tokens match no known chat format; use a "
        f"version of the model for dialogues (instruct, chat)"
    )


def _by_template(template: ChatTemplate, natives: Sequence[str]) -> Choice:
    question = {"role": "user", "content": "q"}
    (bare,) = render(template.source, [[question]], template.variables)
    if natives and (native := native_equal(template, bare, natives)) is not None:
        return _native_choice(*native)
    around, after = _structure(template)
    return Choice(TEMPLATE, None, template, around, after)


def _structure(template: ChatTemplate) -> tuple[str, str]:
    """Return the text that a template writes around contents, and the text directly after an assistant's content.

    Both are empty if it refuses every dialogue. If the template writes answers, the opening of a reply is left out: a
    content cannot end itself with that text.
    """
    marks, turns = ["\uf8f0", "\uf8f1", "\uf8f2", "\uf8f3"], ["system", "user", "assistant", "user"]
    orders = [turns, turns[1:], turns[:3], turns[1:3], turns[:2], turns[1:2]]
    dialogs = [[{"role": role, "content": mark} for role, mark in zip(o, marks, strict=False)] for o in orders]
    opened = render_any(template.source, dialogs, template.variables, opens_reply=True)
    closed = render_any(template.source, dialogs, template.variables, opens_reply=False)
    answered = any(text and "assistant" in order for order, text in zip(orders, closed, strict=True))
    texts = [text or "" for text in (closed if answered else opened)]
    split = [re.split(f"[{''.join(marks)}]", text) for text in texts]
    # Some templates always open a reply. Their last text may be that opening; the end of a message also stands between
    # messages.
    opens_always = answered and closed == opened and any(len(pieces) > 2 for pieces in split)
    around = [piece for pieces in split for piece in (pieces[:-1] if opens_always else pieces)]
    ends = (
        text.partition(marks[order.index("assistant")])[2]
        for order, text in zip(orders, texts, strict=True)
        if "assistant" in order and marks[order.index("assistant")] in text
    )
    after = next(ends, "")
    return "\n".join(around), after


def template_variables(texts: Mapping[str, str], template: str, where: str) -> dict[str, str]:
    """Return the variables that a template mentions, and check their number and size.

    Raises:
        TokenizerError: there are too many, or one is too long; names it.
    """
    mentioned = {name: text for name, text in texts.items() if name in template}
    if len(mentioned) > MAX_VARIABLES:
        raise TokenizerError(
            f"{where}: its chat template names {len(mentioned)} tokens; at most {MAX_VARIABLES} are supported"
        )
    for name, text in mentioned.items():
        if len(text) > MAX_VARIABLE_CHARACTERS:
            raise TokenizerError(
                f"{where}: its {name} has {len(text)} characters; at most {MAX_VARIABLE_CHARACTERS} are supported"
            )
    return mentioned
