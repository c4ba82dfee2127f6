"""How a program ends: signals as exceptions, errors as one line on stderr, and exit codes.

0 is success, 1 an error, 2 a wrong command line, 3 the memory ceiling, 129 SIGHUP, 130 Ctrl-C and 143 SIGTERM.

Knows: signals, the standard streams, the errors of this package. Does not know: flags, programs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from llama.disk import cure_of_writing
from llama.errors import Declined, SplitLlamaError
from llama.text.printable import one_line

LEAST_DESCRIPTORS = 12

_received = list[int]()  # the signals that ask this process to end
_uninterrupted = list[None]()  # one entry for each section in progress that no signal may stop

_NOT_WRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}
_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Turn signals and errors in this section into one line on stderr and the process's exit code."""
    with _ended_by_exceptions(), _exiting():
        yield
        if sys.stdout is not None:
            sys.stdout.flush()  # an error is reported here; when the interpreter exits, it would be a traceback


@contextlib.contextmanager
def _exiting() -> Iterator[None]:
    try:
        yield
    except SplitLlamaError as err:
        _say(one_line(str(err) if isinstance(err, Declined) else f"error: {err}"))
        sys.exit(err.exit_code)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(130)
    except OSError as err:  # most likely from stdout: a closed pipe or a full disk
        give_stdout_up()
        if not isinstance(err, BrokenPipeError):  # the reader of a closed pipe wants no more
            where = err.filename or ("writing the output" if err.errno in _NOT_WRITTEN else "the system refused")
            _say(one_line(f"error: {where}: {err.strerror or err}{_cure(err.errno, cure_of_writing(err))}"))
        sys.exit(1)
    except Exception as err:  # a library's own error class, such as ZeroMQ's
        if getattr(err, "errno", None) not in _NO_DESCRIPTORS:
            raise
        _say(one_line(f"error: the system refused: {err}{_cure(errno.EMFILE)}"))
        sys.exit(1)


def check_descriptors(least: int) -> None:
    """Check that this process can open ``least`` more files and sockets: libzmq aborts where it can open none.

    Raises:
        SplitLlamaError: it cannot.
    """
    opened = list[int]()
    try:
        for _ in range(least):
            opened.append(os.dup(0))
    except OSError as err:
        if err.errno in _NO_DESCRIPTORS:
            raise SplitLlamaError("this process may open too few files; raise the limit (ulimit -n 64)") from None
    finally:
        for number in opened:
            os.close(number)


def _cure(number: int | None, otherwise: str = "") -> str:
    cure = "let this program open more files (ulimit -n)" if number in _NO_DESCRIPTORS else otherwise
    return f"; {cure}" if cure else ""


def give_stdout_up() -> None:
    """Point stdout at the null device, so that Python's last flush does not fail on what is still buffered."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stdout is no file, or None
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _say(text: str) -> None:
    if sys.stderr is not None:  # if stderr is closed, print would write to stdout
        with contextlib.suppress(OSError):  # stderr has no reader
            print(text, file=sys.stderr)


@contextlib.contextmanager
def _ended_by_exceptions() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the work as Ctrl-C does, by an exception, so that clean-up runs."""

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
        _received.clear()  # a later run in this process starts without them


def end_if_signalled() -> None:
    """End the work if a signal has come.

    The signal's handler has raised already, but Python drops exceptions inside a finaliser or a library's callback.
    Long work therefore calls this between its steps, at the latest before it makes its result final.

    Raises:
        KeyboardInterrupt: Ctrl-C was the first signal.
        SystemExit: SIGTERM or SIGHUP was; the code is 128 plus its number.
    """
    if _received:
        if _received[0] == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + _received[0])


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C, SIGTERM and SIGHUP in this section, for work that must not stop halfway, such as clean-up.

    If a signal comes, the work ends when the section does. A mask on this thread alone is not enough: another thread
    takes the signal (torch has some threads), and Python runs the handler in the main thread.
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
