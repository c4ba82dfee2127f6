"""Claims about the person's history: what is kept of a run on this device, and what is not."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llama.edge.history import MAX_BYTES, History, HistoryEntry, Outcome, beside, history_of, recorded
from llama.errors import HistoryError
from llama.privacy.profile import text_of
from llama.wire import DeliveryStatus
from tests.processes import Cloud, cloud, edge, wait_until
from tests.support import ROOT, run_main, written

Splits = Callable[..., Path]

SHEETS = {
    "gifts.toml": 'title = "Gifts"\nasks_for = ["name", "address", "interests"]\n'
    'questions = ["For {name}, {address}, {interests}."]',
    "system.txt": "Be kind.",
    "insurer/cover.toml": 'title = "Cover"\nquestions = ["Which cover fits a trip?"]',
}
PROFILE = (
    'name = "Zelphira Quandt"\naddress = "12 Mill Road, Leeds LS2 3AB"\ninterests = "chess"\nphone = "0812-3450-7890"\n'
)


def an_entry(number: int = 1, **changes: Any) -> HistoryEntry:
    fields = {"run_id": f"{number:032x}", "began_at": "2026-11-28T14:26:03Z", "cloud": "tcp://127.0.0.1:5555"}
    return HistoryEntry(**(fields | changes))


def no_problem(text: str) -> None:
    raise AssertionError(text)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history.jsonl")


# ---- the file


def test_the_last_state_of_each_run_counts_and_the_newest_run_comes_first(history: History) -> None:
    """Each state is a line of its own, which is on the disk when the call returns."""
    assert history.entries() == []
    for entry in (an_entry(1), an_entry(2), an_entry(1, outcome=Outcome.FINISHED, reply="a mug")):
        history.write(entry)
    assert history.entries() == [an_entry(2), an_entry(1, outcome=Outcome.FINISHED, reply="a mug")]
    assert len(history.path.read_text().splitlines()) == 3


def test_the_file_is_for_its_owner_only(history: History) -> None:
    """Also one that others could read before."""
    history.begin()
    assert stat.S_IMODE(history.path.stat().st_mode) == 0o600 and history.path.read_bytes() == b""
    history.path.chmod(0o644)
    history.write(an_entry())
    assert stat.S_IMODE(history.path.stat().st_mode) == 0o600


def test_a_line_that_a_kill_cut_short_costs_no_other(history: History) -> None:
    """Not the one before it, and not the one that is written after it."""
    history.write(an_entry(1))
    with history.path.open("ab") as file:
        file.write(msgspec.json.encode(an_entry(2))[:30])
    assert history.entries() == [an_entry(1)]
    history.write(an_entry(3))
    assert history.entries() == [an_entry(3), an_entry(1)]


def test_two_programs_write_at_the_same_time(history: History) -> None:
    """No line is lost or torn."""

    def write_fifty(first: int) -> None:
        for number in range(first, first + 50):
            History(history.path).write(an_entry(number))

    writers = [threading.Thread(target=write_fifty, args=(first,)) for first in (0, 100, 200, 300)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(history.entries()) == 200


def _write_a_letter(path: Path) -> None:
    path.write_text("Dear diary\n")


@pytest.mark.parametrize("make", [_write_a_letter, os.mkfifo, Path.mkdir], ids=["text", "pipe", "directory"])
def test_another_kind_of_file_is_refused_and_stays_as_it_is(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """A slip of the hand must not spoil it."""
    path = tmp_path / "another-file"
    make(path)
    with pytest.raises(HistoryError, match="another-file"):
        History(path).write(an_entry())
    with pytest.raises(HistoryError, match="another-file"):
        History(path).entries()
    assert not path.is_file() or path.read_text() == "Dear diary\n"


def test_a_file_that_has_grown_to_its_limit_is_refused(history: History) -> None:
    """And says what to do."""
    history.write(an_entry())
    os.truncate(history.path, MAX_BYTES)
    with pytest.raises(HistoryError, match="move it away to begin a new one"):
        history.write(an_entry(2))


def test_without_a_name_the_history_beside_the_profile_counts_if_there_is_one(tmp_path: Path) -> None:
    """So that a person who began one on the page keeps it; nothing is made by itself."""
    profile = str(tmp_path / "profile.toml")
    assert history_of(None, None) is None and history_of(None, profile) is None
    History(beside(profile)).begin()
    kept, named = history_of(None, profile), history_of("other", profile)
    assert kept is not None and kept.path == beside(profile)
    assert named is not None and named.path == Path("other")


# ---- the states of a run


def test_a_run_is_in_the_history_before_anything_leaves(history: History) -> None:
    """And how it ended, at its end: early by default, unconfirmed once the reply is complete, finished by the cloud."""
    outcomes = list[Outcome]()
    with recorded(history, an_entry(1), no_problem):
        outcomes.append(history.entries()[0].outcome)
    outcomes.append(history.entries()[0].outcome)
    with pytest.raises(KeyboardInterrupt), recorded(history, an_entry(2), no_problem) as recorder:
        recorder.complete()
        raise KeyboardInterrupt
    outcomes.append(history.entries()[0].outcome)
    with recorded(history, an_entry(3), no_problem) as recorder:
        recorder.complete()
        recorder.finish("a mug", (), DeliveryStatus.QUEUED)
    outcomes.append(history.entries()[0].outcome)
    assert outcomes == [Outcome.BEGUN, Outcome.ENDED_EARLY, Outcome.UNCONFIRMED, Outcome.FINISHED]
    assert history.entries()[0] == an_entry(3, outcome=Outcome.FINISHED, reply="a mug", copy=DeliveryStatus.QUEUED)


def test_an_end_that_cannot_be_written_is_a_notice_and_the_reply_stays(history: History) -> None:
    """The run is over by then."""
    told = list[str]()
    with recorded(history, an_entry(), told.append) as recorder:
        history.path.unlink()
        history.path.mkdir()
        recorder.finish("a mug", (), DeliveryStatus.NONE)
    assert len(told) == 1 and "cannot be written" in told[0]


# ---- whole runs


@pytest.fixture(scope="module")
def served(tiny_split: Splits, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    directory = tmp_path_factory.mktemp("history")
    sheets = written(directory / "sheets", SHEETS)
    record = directory / "runs.sqlite"
    with cloud(
        tiny_split() / "cloud", "--sheet_dir", sheets, "--record_file", record, "--max_seq_len", 2048
    ) as running:
        yield running


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile.toml"
    path.write_text(PROFILE)
    return path


def run_edge(split: Path, served: Cloud, *flags: object) -> Any:
    return run_main("edge_main.py", "--ckpt_dir", str(split / "edge"), "--cloud", served.address, *map(str, flags))


@pytest.mark.process
def test_the_history_has_forms_and_tags_and_never_a_value(
    tiny_split: Splits, served: Cloud, profile: Path, tmp_path: Path
) -> None:
    """Whose sheet, which cloud, each field with its form; the person reads it with --show_history."""
    kept = tmp_path / "kept.jsonl"
    flags = (
        "--prompt_id",
        "gifts",
        "--profile_file",
        profile,
        "--yes",
        "--max_gen_len",
        4,
        "--history",
        kept,
        "--json",
    )
    ran = run_edge(tiny_split(), served, *flags)
    assert ran.returncode == 0, ran.stderr
    raw = kept.read_text()
    values = [text_of(value) for value in tomllib.loads(PROFILE).values() if value != "chess"]
    assert not [part for value in values for part in (value, *value.split()) if len(part) > 3 and part in raw]
    (entry,) = History(kept).entries()
    assert entry.run_id == json.loads(ran.stdout)["run_id"] and entry.cloud == served.address
    assert entry.fields == {"name": "tag", "address": "coarser", "interests": "as written"}
    assert entry.tags == ("[NAME_1]",) and entry.outcome is Outcome.FINISHED and entry.title == "Gifts"
    shown = run_main("edge_main.py", "--show_history", "--history", str(kept))
    assert shown.returncode == 0 and "Gifts" in shown.stdout and "address (coarser)" in shown.stdout
    listed = run_main("edge_main.py", "--show_history", "--history", str(kept), "--json")
    assert [each["run_id"] for each in json.loads(listed.stdout)] == [entry.run_id]


@pytest.mark.process
def test_a_run_that_was_not_sanitised_leaves_no_reply_in_the_history(
    tiny_split: Splits, served: Cloud, profile: Path, tmp_path: Path
) -> None:
    """It may have any value in it. The forms say that all was sent as written."""
    kept = tmp_path / "kept.jsonl"
    flags = ("--profile_file", profile, "--yes", "--max_gen_len", 4, "--history", kept, "--sanitise", "off")
    assert run_edge(tiny_split(), served, "--prompt_id", "gifts", *flags).returncode == 0
    (entry,) = History(kept).entries()
    assert entry.reply == "" and set(entry.fields.values()) == {"as written"} and "Zelphira" not in kept.read_text()


@pytest.mark.process
def test_a_history_that_cannot_be_written_ends_the_run_before_anything_is_sent(
    tiny_split: Splits, served: Cloud, profile: Path, tmp_path: Path
) -> None:
    """The person asked for a record of what is sent."""
    flags = ("--profile_file", profile, "--yes", "--history", tmp_path / "nowhere" / "kept.jsonl", "--plain")
    ran = run_edge(tiny_split(), served, "--prompt_id", "gifts", *flags)
    assert ran.returncode == 1 and ran.stdout == "" and "cannot be written" in ran.stderr


@pytest.mark.process
def test_a_run_that_is_killed_is_in_the_history(tiny_split: Splits, served: Cloud, tmp_path: Path) -> None:
    """Its prompt has left; nothing is claimed about its end."""
    kept, words = tmp_path / "kept.jsonl", tmp_path / "words.txt"
    words.write_text("Tell me a long story.")
    with edge(tiny_split() / "edge", served.address, words, "--history", kept, "--max_gen_len", 1900) as process:
        wait_until(lambda: kept.exists() and kept.stat().st_size > 0)
        process.send_signal(signal.SIGKILL)
        process.wait()
    (entry,) = History(kept).entries()
    assert entry.outcome is Outcome.BEGUN and entry.own_words


@pytest.mark.process
@pytest.mark.parametrize("collected", [False, True])
def test_a_run_is_forgotten_by_the_cloud_and_the_history_says_what_became_of_the_copy(
    tiny_split: Splits, served: Cloud, profile: Path, tmp_path: Path, collected: bool
) -> None:
    """A copy that the third party has fetched is beyond reach; asked again, the cloud says the same."""
    kept = tmp_path / "kept.jsonl"
    flags = ("--prompt_id", "insurer/cover", "--profile_file", profile, "--yes", "--max_gen_len", 4, "--history", kept)
    assert run_edge(tiny_split(), served, *flags).returncode == 0
    collector = ("-m", "llama.vendor", "--cloud", served.address, "--vendor", "insurer")
    if collected:
        assert len(_python(*collector).splitlines()) >= 1
    (before,) = History(kept).entries()
    assert before.copy is DeliveryStatus.QUEUED and before.third_party == "insurer"
    said = [
        run_main("edge_main.py", "--forget", before.run_id, "--cloud", served.address, "--history", str(kept)).stdout
        for _ in range(2)
    ]
    assert said[0] == said[1] and ("beyond the cloud's reach" in said[0]) == collected
    (after,) = History(kept).entries()
    assert after.forgotten_at and after.collected == collected
    assert _python(*collector) == ""
    shown = run_main("edge_main.py", "--show_history", "--history", str(kept)).stdout
    assert ("deleted before insurer collected it" in " ".join(shown.split())) == (not collected)


@pytest.mark.process
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"--forget": "zz"}, "a run id has 32 hexadecimal digits (got 'zz')"),
        ({"--forget": "ab" * 16, "--cloud": "tcp://127.0.0.1:9", "--history": "HISTORY"}, "ask that one with --cloud"),
        ({"--show_history": ""}, "--show_history requires --history"),
        ({"--show_history": "", "--web": ""}, "--web and --show_history cannot be combined"),
        ({}, "--ckpt_dir is required, except with --show_history or --forget"),
    ],
)
def test_a_request_that_cannot_be_done_says_why(tmp_path: Path, flags: Mapping[str, str], says: str) -> None:
    """Exit code 2, in one line."""
    kept = tmp_path / "kept.jsonl"
    History(kept).write(an_entry(run_id="ab" * 16))
    words = [
        word for flag, value in flags.items() for word in (flag, str(kept) if value == "HISTORY" else value) if word
    ]
    cloud_flag = [] if "--cloud" in flags else ["--cloud", "tcp://127.0.0.1:5555"]
    ended = run_main("edge_main.py", *words, *cloud_flag)
    assert ended.returncode == 2 and says in ended.stderr and ended.stderr.count("\n") == 1


def _python(*command: str) -> str:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
