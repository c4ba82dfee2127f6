"""Runs a chat template, which is somebody's program, in a process of its own with little time and memory.

jinja's sandbox keeps a template from reaching anything; it does not keep it from looping for ever, or from filling the
memory.
The process is ``template_program``; request and answer are JSON.

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
SECONDS = 1.0  # of computing; by the clock, on a machine that has much else to do, ten times as long
_ANSWER_BYTES = 1 << 20
_PROGRAM = Path(__file__).with_name("template_program.py")

Dialog = Sequence[Mapping[str, str]]


class CannotRender(ValueError):
    """The message, a few words, says why."""


class _Answer(msgspec.Struct):
    """``texts``, or the name of the ``error`` that ended it."""

    texts: list[str] = []
    error: str = ""


def render(template: str, dialogs: Sequence[Dialog]) -> list[str]:
    """The text of each dialogue, with the assistant's next message opened.

    Raises:
        CannotRender: the template is too long, fails, takes too long or too much, or writes too much.
    """
    if len(template.encode(errors="replace")) > MAX_TEMPLATE_BYTES:
        raise CannotRender(f"it is longer than {MAX_TEMPLATE_BYTES >> 10} KiB")
    try:
        request = msgspec.json.encode({"template": template, "dialogs": dialogs})
    except UnicodeEncodeError:
        raise CannotRender("it is not Unicode") from None
    returned, out = _run(request)
    if returned:
        raise CannotRender("it takes too long, or too much memory")
    try:
        answer = msgspec.json.decode(out, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise CannotRender("it writes too much") from None
    if answer.error or len(answer.texts) != len(dialogs):
        raise CannotRender(answer.error or "it gives no text")
    return answer.texts


def _run(request: bytes) -> tuple[int, bytes]:
    """Exit status and output of the program; it has ended when this returns, or raises."""
    # -I: neither the environment nor the working directory has a say in what is imported.
    command = [sys.executable, "-I", str(_PROGRAM), str(SECONDS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
        assert program.stdin is not None and program.stdout is not None
        deadline = threading.Timer(10 * SECONDS, program.kill)
        deadline.daemon = True
        deadline.start()
        try:
            try:
                program.stdin.write(request)
                program.stdin.close()
            except BrokenPipeError:  # it has ended already; its status says so
                pass
            out = program.stdout.read(_ANSWER_BYTES)
            if len(out) == _ANSWER_BYTES:  # more than it may write
                program.kill()
            return program.wait(), out
        finally:
            deadline.cancel()
            program.kill()  # Ctrl-C, for one, ends the wait here and not there
