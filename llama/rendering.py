"""Runs a chat template, which is somebody's program, in a process of its own with little time and memory.

jinja's sandbox keeps a template from reaching anything; it does not keep it from looping for ever, or from filling the
memory. The process is ``template_program``; request and answer are JSON.

Knows nothing about: chat formats, where a template comes from.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

MAX_TEMPLATE_BYTES = 256 << 10  # the longest of known models have a tenth
MEMORY_BYTES = 256 << 20  # of addresses; 30 MiB of them are Python's and jinja's own
SECONDS = 1.0  # of computing; by the clock, on a machine that has much else to do, ten times as long
# Both grow with the dialogues: a context of 131,072 tokens holds half a million characters.
_CHARACTERS, _CHARACTERS_PER_CHARACTER = 128 << 10, 4
_MEMORY_PER_CHARACTER, _SECONDS_PER_CHARACTER = 64, 1e-6
_ANSWER_BYTES_PER_CHARACTER = 12  # a character beyond U+FFFF, escaped
_PROGRAM = Path(__file__).with_name("template_program.py")

Dialog = Sequence[Mapping[str, str]]


class CannotRender(ValueError):
    """The message, a few words, says why."""


class DialogRefused(CannotRender):
    """The template itself says that it cannot write this dialogue (``raise_exception``)."""


class _Rendered(msgspec.Struct):
    """``texts``, or the name of the ``error`` that ended it."""

    texts: list[str | None] = []
    error: str = ""


def render(template: str, dialogs: Sequence[Dialog], variables: Mapping[str, str] | None = None) -> list[str]:
    """The text of each dialogue, with the assistant's next message opened.

    Args:
        template: jinja.
        dialogs: messages with ``role`` and ``content``.
        variables: what the template knows beside them, such as ``bos_token``.

    Raises:
        DialogRefused: the template refuses one of the dialogues.
        CannotRender: the template is too long, fails, takes too long or too much, or writes too much.
    """
    return [text for text in _render(template, dialogs, variables or {}, opens_reply=True) if text is not None]


def render_any(
    template: str, dialogs: Sequence[Dialog], variables: Mapping[str, str], *, opens_reply: bool
) -> list[str | None]:
    """As :func:`render`, but None for a dialogue that the template refuses or fails at.

    With ``opens_reply`` the assistant's next message is opened at the end.
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
        raise CannotRender("it is not Unicode") from None
    try:
        seconds, most = SECONDS + _SECONDS_PER_CHARACTER * given, characters * _ANSWER_BYTES_PER_CHARACTER
        returned, out = _run(request, seconds, most)
    except OSError as err:
        raise CannotRender(f"no process can be started for it: {err.strerror or type(err).__name__}") from None
    if returned:
        raise CannotRender("it takes too long, or too much memory")
    try:
        answer = msgspec.json.decode(out, type=_Rendered)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise CannotRender("it writes too much") from None
    if answer.error == "CannotSay":
        raise DialogRefused("it refuses the dialogue")
    if answer.error or len(answer.texts) != len(dialogs):
        raise CannotRender(answer.error or "it gives no text")
    return answer.texts


def _run(request: bytes, seconds: float, most: int) -> tuple[int, bytes]:
    """Exit status and output, of at most that many bytes; the program has ended when this returns, or raises."""
    # -I: neither the environment nor the working directory has a say in what is imported.
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
            except BrokenPipeError:  # it has ended already; its status says so
                pass
            out = program.stdout.read(most)
            if len(out) == most:  # more than it may write
                program.kill()
            return program.wait(), out
        finally:
            deadline.cancel()
            program.kill()  # Ctrl-C, for one, ends the wait here and not there
