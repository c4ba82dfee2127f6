"""The person's history: what left this device in each run, and what became of it; a file that the person asks for.

Each line of the file is one state of one run, as JSON. A later line about a run replaces the earlier ones, so that a
kill loses at most the last state. The first state is written before anything leaves, the last one when the run has
ended. There are tags and forms in it, and the reply with tags; never a value that a tag stands for.

Knows: the file, the states of a run. Does not know: how a run goes, screens.
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from llama.disk import cure_of_writing, fsync, fsync_directory, write_all
from llama.errors import HistoryError
from llama.files import check_regular, read_regular
from llama.text.dates import utc
from llama.wire import DeliveryStatus, Offer

MAX_BYTES = 64 << 20
_MODE = 0o600
_BEGINS = b'{"run_id":"'
_FIRST_BYTES = len(_BEGINS)


class Outcome(enum.StrEnum):
    """How a run ended.

    Attributes:
        BEGUN: nothing is known after its beginning: the program was killed, or the run is still under way.
        FINISHED: the cloud has finished it.
        ENDED_EARLY: it was stopped, or it failed, and the cloud never finished it.
        UNCONFIRMED: the reply was complete, but the cloud has not confirmed it, and may have handed it on.
    """

    BEGUN = "begun"
    FINISHED = "finished"
    ENDED_EARLY = "ended early"
    UNCONFIRMED = "unconfirmed"


class HistoryEntry(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One run.

    Attributes:
        run_id: its id, in hexadecimal. It is the one by which the cloud forgets the run.
        began_at: UTC, ISO 8601.
        cloud: address of the cloud.
        prompt_id: id of the sheet; empty for the person's own words.
        own_words: the prompt was the person's own words.
        title: title of the sheet.
        origin: the channel that the prompt came through, as ``SourcedPrompt`` has it.
        third_party: name of the third party that owns the sheet; empty if none does.
        fields: fields of the profile that the sheet asked for, each with the form in which it was sent.
        tags: tags of the text that was sent, without their values.
        outcome: how it ended.
        reply: the reply with tags; empty if the run was not sanitised.
        offers: the offers that came with the reply.
        copy: what became of the third party's copy at the end of the run.
        forgotten_at: when the cloud deleted what it had of the run; UTC, ISO 8601; empty if it was not asked to.
        collected: the third party had fetched its copy by then.
    """

    run_id: str
    began_at: str
    cloud: str
    prompt_id: str = ""
    own_words: bool = False
    title: str = ""
    origin: str = ""
    third_party: str = ""
    fields: dict[str, str] = {}
    tags: tuple[str, ...] = ()
    outcome: Outcome = Outcome.BEGUN
    reply: str = ""
    offers: tuple[Offer, ...] = ()
    copy: DeliveryStatus = DeliveryStatus.NONE
    forgotten_at: str = ""
    collected: bool = False


def history_of(history_file: str | None, profile_file: str | None) -> History | None:
    """Return the history of a person; None if none is kept.

    Args:
        history_file: the file that the person has named.
        profile_file: the person's profile. If no file is named, the history beside the profile counts, if it exists.
    """
    if history_file is not None:
        return History(history_file)
    if profile_file is not None and beside(profile_file).exists():
        return History(beside(profile_file))
    return None


def beside(profile_file: str) -> Path:
    """Return the path of the history beside a profile."""
    return Path(f"{profile_file}.history.jsonl")


class History:
    """A person's history in a file, for them alone. Several programs may write it at the same time.

    Args:
        path: the file; it need not be there yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def entries(self) -> list[HistoryEntry]:
        """Return the last state of each run, the newest run first. Without the file there are none.

        A line that a kill has cut short is left out.

        Raises:
            HistoryError: the file cannot be read, or is no history.
        """
        try:
            raw = read_regular(self.path, MAX_BYTES)
        except FileNotFoundError:
            return []
        except OSError as err:
            raise HistoryError(f"{self._named}: cannot be read ({err.strerror})") from None
        self._check_begins_as_history(raw[:_FIRST_BYTES])
        found = dict[str, HistoryEntry]()
        for line in raw.split(b"\n"):
            with suppress(ValueError, RecursionError):
                entry = msgspec.json.decode(line, type=HistoryEntry)
                found[entry.run_id] = entry
        return list(found.values())[::-1]

    def begin(self) -> None:
        """Create the file, empty, if it is not there.

        Raises:
            HistoryError: it cannot be created.
        """
        self._append(b"")

    def find(self, run_id: str) -> HistoryEntry | None:
        """Return the last state of a run, or None. Raise as :meth:`entries`."""
        return next((entry for entry in self.entries() if entry.run_id == run_id), None)

    def write(self, entry: HistoryEntry) -> None:
        """Append a state of a run. It is on the disk when this returns.

        Raises:
            HistoryError: the file cannot be written.
        """
        self._append(msgspec.json.encode(entry) + b"\n")

    def _append(self, line: bytes) -> None:
        try:
            is_new = not self.path.exists()
            fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, _MODE)
            try:
                self._check(fd, len(line))
                self._check_begins_as_history(os.pread(fd, _FIRST_BYTES, 0))
                if line:
                    write_all(fd, (b"" if _ends_a_line(fd) else b"\n") + line)
                fsync(fd)
            finally:
                os.close(fd)
            if is_new:
                fsync_directory(self.path.absolute().parent)
        except OSError as err:
            cure = cure_of_writing(err) or "give --history a file on this machine that you may write"
            raise HistoryError(f"{self._named}: cannot be written ({err.strerror}); {cure}") from None

    def forget(self, run_id: str, *, collected: bool) -> None:
        """Note that the cloud has deleted what it had of a run. A run that is not in the history is left out.

        Raises:
            HistoryError: the file cannot be read or written.
        """
        entry = self.find(run_id)
        if entry is not None:
            self.write(msgspec.structs.replace(entry, forgotten_at=utc(time.time()), collected=collected))

    def _check(self, fd: int, more: int) -> None:
        """Check the file's kind and size, and close it to others."""
        status = os.fstat(fd)
        check_regular(status.st_mode, self.path)
        if status.st_size + more > MAX_BYTES:
            raise HistoryError(
                f"{self._named}: it has reached {MAX_BYTES >> 20} MiB, the limit; move it away to begin a new one"
            )
        if status.st_mode & 0o077 and status.st_uid == os.getuid():
            os.fchmod(fd, _MODE)

    def _check_begins_as_history(self, first: bytes) -> None:
        """Check that a file that is not empty is a history, and not another file by mistake."""
        if first and not first.startswith(_BEGINS):
            raise HistoryError(f"{self._named}: it is another kind of file; give --history another name")

    @property
    def _named(self) -> str:
        return f"history {self.path}"


def _ends_a_line(fd: int) -> bool:
    size = os.fstat(fd).st_size
    return size == 0 or os.pread(fd, 1, size - 1) == b"\n"


class RunRecorder:
    """The state of a run as it goes on.

    Attributes:
        entry: what the history gets when the run has ended.
    """

    def __init__(self, entry: HistoryEntry) -> None:
        self.entry = msgspec.structs.replace(entry, outcome=Outcome.ENDED_EARLY)

    def complete(self) -> None:
        """Note that the reply is complete. Until the cloud confirms it, it may or may not have handed it on."""
        self.entry = msgspec.structs.replace(self.entry, outcome=Outcome.UNCONFIRMED)

    def finish(self, reply: str, offers: tuple[Offer, ...], copy: DeliveryStatus) -> None:
        """Note that the cloud has finished the run."""
        self.entry = msgspec.structs.replace(
            self.entry, outcome=Outcome.FINISHED, reply=reply, offers=offers, copy=copy
        )


@contextmanager
def recorded(history: History | None, entry: HistoryEntry, on_problem: Callable[[str], None]) -> Iterator[RunRecorder]:
    """Record a run in a history, if there is one: its beginning now, and how it ended at the end of the block.

    Args:
        history: the history; None if the person keeps none.
        entry: the run, before anything has left.
        on_problem: called with a sentence if the end cannot be written. The run is over by then.

    Raises:
        HistoryError: the beginning cannot be written, so nothing should be sent.
    """
    recorder = RunRecorder(entry)
    if history is None:
        yield recorder
        return
    history.write(entry)
    try:
        yield recorder
    finally:
        try:
            history.write(recorder.entry)
        except HistoryError as err:
            on_problem(str(err))
