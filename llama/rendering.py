"""Run a chat template, a third party's program, in a separate process with little time and memory.

jinja's sandbox isolates a template from the system, but not from looping forever or filling the memory. The process is
``template_program``; request and answer are JSON.

Knows nothing about: chat formats, the origin of a template.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

MAX_TEMPLATE_BYTES = 256 << 10  # the longest of known models has a tenth
MEMORY_BYTES = 256 << 20  # address space; Python and jinja take 30 MiB of it
SECONDS = 1.0  # CPU time; the limit of wall-clock time is ten times as long, for busy machines
# Both limits grow with the dialogues: a context of 131,072 tokens holds half a million characters.
_CHARACTERS, _CHARACTERS_PER_CHARACTER = 128 << 10, 4
_MEMORY_PER_CHARACTER, _SECONDS_PER_CHARACTER = 64, 1e-6
_ANSWER_BYTES_PER_CHARACTER = 12  # a character beyond U+FFFF, escaped
_PROGRAM = Path(__file__).with_name("template_program.py")

Dialog = Sequence[Mapping[str, str]]


class CannotRender(ValueError):
    """The template cannot be rendered. The message, a few words, says why."""


class DialogRefused(CannotRender):
    """The template refuses this dialogue (``raise_exception``)."""


class _Rendered(msgspec.Struct):
    """The program's answer: ``texts``, or the name of the ``error`` that ended it."""

    texts: list[str | None] = []
    error: str = ""


def render(template: str, dialogs: Sequence[Dialog], variables: Mapping[str, str] | None = None) -> list[str]:
    """Return the text of each dialogue, with the assistant's next message opened.

    Args:
        template: the jinja source.
        dialogs: messages with ``role`` and ``content``.
        variables: the template's other variables, such as ``bos_token``.

    Raises:
        DialogRefused: the template refuses one of the dialogues.
        CannotRender: the template is too long, fails, takes too much time or memory, or writes too much.
    """
    return [text for text in _render(template, dialogs, variables or {}, opens_reply=True) if text is not None]


def render_any(
    template: str, dialogs: Sequence[Dialog], variables: Mapping[str, str], *, opens_reply: bool
) -> list[str | None]:
    """Render as :func:`render` does, but return None for a dialogue that the template refuses or fails at.

    With ``opens_reply``, the text ends with the opening of the assistant's next message.
    """
    return _render(template, dialogs, variables, opens_reply=opens_reply, any_of_them=True)


def _render(
    template: str,
    dialogs: Sequence[Dialog],
    variables: Mapping[str, str],
    *,
    opens_reply: bool,
    any_of_them: bool = False,
) -> list[str | None]:
    if len(template.encode(errors="replace")) > MAX_TEMPLATE_BYTES:
        raise CannotRender(f"it is longer than {MAX_TEMPLATE_BYTES >> 10} KiB")
    given = sum(len(message["content"]) for dialog in dialogs for message in dialog)
    characters = _CHARACTERS + _CHARACTERS_PER_CHARACTER * given
    try:
        request = msgspec.json.encode(
            {
                "template": template,
                "variables": {**variables, "add_generation_prompt": opens_reply},
                "any": any_of_them,
                "dialogs": dialogs,
                "characters": characters,
                "memory": MEMORY_BYTES + _MEMORY_PER_CHARACTER * given,
            }
        )
    except UnicodeEncodeError:
        raise CannotRender("it is not valid Unicode") from None
    try:
        seconds, most = SECONDS + _SECONDS_PER_CHARACTER * given, characters * _ANSWER_BYTES_PER_CHARACTER
        returned, out = _run(request, seconds, most)
    except OSError as err:
        raise CannotRender(f"its process cannot be started: {err.strerror or type(err).__name__}") from None
    if returned:
        raise CannotRender("it takes too much time or memory")
    try:
        answer = msgspec.json.decode(out, type=_Rendered)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise CannotRender("it writes too much") from None
    if answer.error == "CannotSay":
        raise DialogRefused("it refuses the dialogue")
    if answer.error or len(answer.texts) != len(dialogs):
        raise CannotRender(answer.error or "it writes no text")
    return answer.texts


def _run(request: bytes, seconds: float, most: int) -> tuple[int, bytes]:
    """Return exit status and output (at most ``most`` bytes). The program has ended when this returns or raises."""
    # -I: neither the environment nor the working directory affects imports.
    command = [sys.executable, "-I", str(_PROGRAM), str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
        assert program.stdin is not None and program.stdout is not None
        deadline = threading.Timer(10 * seconds, program.kill)
        deadline.daemon = True
        deadline.start()
        try:
            try:
                program.stdin.write(request)
                program.stdin.close()
            except BrokenPipeError:  # it has already ended; its exit status says so
                pass
            out = program.stdout.read(most)
            if len(out) == most:  # it may write less than this
                program.kill()
            return program.wait(), out
        finally:
            deadline.cancel()
            program.kill()  # Ctrl-C, for example, ends the wait here but not the program
