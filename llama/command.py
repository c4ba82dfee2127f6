"""Runs a command line with python-fire, strictly: nothing starts unless every flag is known and parses.

python-fire alone runs the function before it rejects an unknown flag, and guesses types from text (``--title 42`` would
arrive as an int). Here the flags are checked against the function's signature first, and each text is converted to the
type that the signature declares.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import inspect
import math
import os
import signal
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, get_args, get_type_hints

import fire

from llama.disk import cure_of_writing
from llama.errors import Declined, SplitLlamaError, UsageError
from llama.text.printable import one_line

_received = list[int]()  # signals that this run was told to end with
_uninterrupted = list[None]()  # one for each section that is in progress and must not be ended in its midst

_NOT_WRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}
LEAST_DESCRIPTORS = 12
NO_TIME_TO_WAIT = " is no time to wait; give seconds above 0"  # after --FLAG SECONDS
_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}
_TRUE, _FALSE = {"true", "1", "yes"}, {"false", "0", "no"}
_NEVER_SUGGESTED = {"insecure"}  # whoever has mistyped something else must not be led to take a protection away


def run(
    main: Callable[..., None],
    argv: Sequence[str] | None = None,
    *,
    usage: str = "",
    descriptors: int = LEAST_DESCRIPTORS,
) -> None:
    """Call ``main`` with the flags of ``argv`` (the process's own by default), and exit the process.

    ``usage`` is how ``--help`` writes the words that must be given, where there is a shorter way than the flags;
    ``descriptors`` is how many files and sockets the program needs at least.

    Exit codes: 0 done; 1 a :class:`SplitLlamaError`, told in one line on stderr; 2 a wrong command line; 130 Ctrl-C;
    143 SIGTERM, unless ``main`` handles it.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with _ended_by_exceptions():
        _run(main, argv, usage, descriptors)


def _run(main: Callable[..., None], argv: list[str], usage: str, descriptors: int) -> None:
    try:
        if {"--help", "-h"} & set(argv):
            print(help_text(main, usage), flush=True)
            sys.exit(0)
        _check_descriptors(descriptors)
        # each flag and its value as one word, which python-fire cannot take apart in another way
        checked = [f"--{name}={value}" for name, value in check_flags(main, argv).items()]
        fire.Fire(fire.decorators.SetParseFns(**_converters(main))(main), command=checked)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where it is told if that fails; at its end Python would show a traceback
    except SplitLlamaError as err:
        _say(one_line(str(err) if isinstance(err, Declined) else f"error: {err}"))
        sys.exit(err.exit_code)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(130)
    except OSError as err:  # most likely our output, which may have been closed or sent to a full disk
        give_stdout_up()
        if not isinstance(err, BrokenPipeError):  # then whoever read it has left and wants no more
            where = err.filename or ("writing the output" if err.errno in _NOT_WRITTEN else "the system refused")
            _say(one_line(f"error: {where}: {err.strerror or err}{_cure(err.errno, cure_of_writing(err))}"))
        sys.exit(1)
    except Exception as err:  # a library's own kind of it, such as ZeroMQ's
        if getattr(err, "errno", None) not in _NO_DESCRIPTORS:
            raise
        _say(one_line(f"error: the system refused: {err}{_cure(errno.EMFILE)}"))
        sys.exit(1)


def _check_descriptors(least: int) -> None:
    """Whether files and sockets can be opened; where not even a few can, libzmq aborts the process."""
    opened = list[int]()
    try:
        for _ in range(least):
            opened.append(os.dup(0))
    except OSError as err:
        if err.errno in _NO_DESCRIPTORS:
            raise SplitLlamaError("this process may open too few files; let it open more (ulimit -n 64)") from None
    finally:
        for number in opened:
            os.close(number)


def _cure(number: int | None, otherwise: str = "") -> str:
    cure = "let this program open more (ulimit -n)" if number in _NO_DESCRIPTORS else otherwise
    return f"; {cure}" if cure else ""


def give_stdout_up() -> None:
    """What is still buffered would fail once more, at Python's end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it is none, or None
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _say(text: str) -> None:
    if sys.stderr is not None:  # closed: print would take stdout instead
        with contextlib.suppress(OSError):  # nobody reads it
            print(text, file=sys.stderr)


@contextlib.contextmanager
def _ended_by_exceptions() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the work as Ctrl-C does, so that what was begun is given back or removed."""

    _received.clear()

    def stop(number: int, frame: FrameType | None) -> None:
        _received.append(number)
        if not _uninterrupted:
            end_if_signalled()

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGHUP: stop}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup
        del handlers[signal.SIGHUP]
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()  # whoever goes on after this was not meant


def end_if_signalled() -> None:
    """End the work if a signal has come.

    Its handler has raised already, but Python drops what is raised inside a finaliser or a callback of a library: long
    work asks again between its steps, at the latest before it makes its result final.
    """
    if _received:
        if _received[0] == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + _received[0])


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C, SIGTERM and SIGHUP back, so that none stops what must be done as a whole, such as clearing up.

    The work ends at the end of the section if one has come. To mask them in this thread is not enough: any other thread
    takes them (torch has some), and Python runs the handler in this one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _uninterrupted.append(None)
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        _uninterrupted.pop()
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    if not _uninterrupted:
        end_if_signalled()


def check_flags(main: Callable[..., None], argv: Sequence[str]) -> dict[str, Any]:
    """The values that ``argv`` gives to the parameters of ``main``.

    Raises:
        UsageError: an unknown flag (with the nearest known one), a missing or unparsable value, a flag given twice,
            a word that belongs to no flag, or a required flag that is not there.
    """
    known = inspect.signature(main).parameters
    convert, values, words = _converters(main), dict[str, Any](), list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or word == "--":
            raise UsageError(f"'{word}' belongs to no flag; write --name value")
        name, has_value, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name not in known and name.startswith("no") and name[2:] in known and _is_switch(main, name[2:]):
            name, has_value, value = name[2:], "=", "false"
        if name not in known:
            suggested = [flag for flag in known if flag not in _NEVER_SUGGESTED]
            begun = [flag for flag in suggested if flag.startswith(name)]
            nearest = begun or difflib.get_close_matches(name, suggested, n=1)
            hint = f"did you mean --{nearest[0]}?" if nearest else "the flags are " + ", ".join(f"--{k}" for k in known)
            raise UsageError(f"unknown flag --{name}; {hint}")
        if name in values:
            raise UsageError(f"--{name} is given twice")
        if not has_value:
            if words and not words[0].startswith("--"):
                value = words.pop(0)
            elif _is_switch(main, name):
                value = "true"
            else:
                raise UsageError(f"--{name} needs a value")
        values[name] = convert[name](value)
    missing = [f"--{k}" for k, p in known.items() if p.default is p.empty and k not in values]
    if missing:
        raise UsageError(f"{' and '.join(missing)} must be given; --help lists all flags")
    return values


def check_timeout(flag: str, seconds: float) -> None:
    """Refuse a flag's seconds of waiting that are none: 0, less, or not a number.

    Raises:
        UsageError: they are.
    """
    if not seconds > 0:
        raise UsageError(f"--{flag} {seconds}{NO_TIME_TO_WAIT}")


def check_interval(seconds: float) -> None:
    """Refuse an --interval that is none: 0, less, without end, or not a number.

    Raises:
        UsageError: it is.
    """
    if not 0 < seconds < math.inf:
        raise UsageError(f"--interval {seconds}: give seconds above 0")


def help_text(main: Callable[..., None], usage: str = "") -> str:
    """What ``--help`` prints: python-fire's own would offer short and positional forms, which are refused here."""
    doc, parameters = fire.docstrings.parse(inspect.getdoc(main) or ""), inspect.signature(main).parameters
    about = {arg.name: arg.description for arg in doc.args or []}
    needed = usage or " ".join(f"--{name} {name.upper()}" for name, p in parameters.items() if p.default is p.empty)
    lines = [doc.summary or "", "", f"usage: python {_program()} {needed} [flags]", ""]
    for name, p in parameters.items():
        default = "" if p.default in (p.empty, None, False) else f" (default {p.default})"
        lines.append(f"  --{name:<25} {about.get(name, '')}{default}")
    return "\n".join(lines)


def _program() -> str:
    """What this process was started as: ``edge_main.py``, or ``-m llama.vendor``."""
    module = sys.modules["__main__"].__spec__  # of a program that is a file, None
    if module is not None and module.origin == sys.argv[0]:
        return f"-m {module.name.removesuffix('.__main__')}"
    return Path(sys.argv[0]).name


def _is_switch(main: Callable[..., None], name: str) -> bool:
    return get_type_hints(main)[name] is bool


def _converters(main: Callable[..., None]) -> dict[str, Callable[[str], Any]]:
    """For each parameter of ``main``, text to its declared type (``X | None`` counts as X)."""

    def converter(name: str, hint: Any) -> Callable[[str], Any]:
        if typing.get_origin(hint) in (types.UnionType, typing.Union):
            hint = next(h for h in get_args(hint) if h is not type(None))

        def convert(text: str) -> Any:
            text = str(text)
            if hint is bool:
                if text.lower() in _TRUE | _FALSE:
                    return text.lower() in _TRUE
                raise UsageError(f"--{name} is a switch: true or false, not '{text}'")
            try:
                return hint(text)
            except ValueError:
                kind = {int: "a whole number", float: "a number"}.get(hint, hint.__name__)
                raise UsageError(f"--{name} needs {kind}, not '{text}'") from None

        return convert

    hints = get_type_hints(main)
    return {name: converter(name, hints[name]) for name in inspect.signature(main).parameters}
