"""Claims about the cloud's log: what is told, how a line looks, and that nobody can make it long or say something."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest
import zmq
from hypothesis import example, given
from hypothesis import strategies as st

from cloud_main import main
from llama import wire
from llama.cloud.allow_list import AllowList
from llama.cloud.auth import CloudKeys
from llama.cloud.event_log import LEVELS, MAX_LINE_BYTES, MOST_LINES, WINDOW_S, EventLog, Value, line_of
from llama.command import run
from llama.keys import LinkKeys, link_keys, make_keys, read_key
from llama.tokenizer import Tokenizer
from llama.wire import Close, Finish, Hello
from tests.processes import wait_until
from tests.support import Halves, Served, event_of, open_request, step_of

Told = Callable[[], list[dict[str, str]]]


@pytest.fixture
def reported(capfd: pytest.CaptureFixture[str]) -> Told:
    """All events so far, without their times."""
    so_far = list[dict[str, str]]()

    def reported() -> list[dict[str, str]]:
        for line in capfd.readouterr().err.splitlines():
            event = event_of(line)
            time.strptime(event.pop("time"), "%Y-%m-%dT%H:%M:%S.%fZ")
            so_far.append(event)
        return so_far

    return reported


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def names(events: list[dict[str, str]]) -> list[str]:
    return [event["event"] for event in events]


# ---- a line


@given(
    text=st.text(max_size=300), name=st.from_regex(r"[a-su-z_]{1,20}", fullmatch=True).filter(lambda n: n != "level"),
    number=st.integers() | st.floats(allow_nan=False), level=st.sampled_from(LEVELS),
)  # fmt: skip
@example(text="\x7f", name="a", number=0, level="info")
def test_whatever_a_value_is_it_is_read_back_and_the_line_is_one(
    text: str, name: str, number: Value, level: str
) -> None:
    """Also line ends of every kind, quotes, terminal sequences, halves of a surrogate pair."""
    line = line_of(level, "something", {name: text, "xnumber": number})
    assert line.isascii() and line.isprintable()
    event = event_of(line)
    assert (event["level"], event["event"], event[name]) == (level, "something", text)
    assert event["xnumber"] == str(number)


def test_a_line_of_any_length_stays_within_what_a_pipe_takes_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    """The rest of it is cut off."""
    EventLog().error("something", message="x" * 100_000)
    assert len(capfd.readouterr().err) == MAX_LINE_BYTES


def test_what_is_below_the_level_is_not_told(reported: Told) -> None:
    for level in LEVELS:
        events = EventLog(level)
        for tell in (events.info, events.warning, events.error):
            tell("something")
    assert [event["level"] for event in reported()] == ["info", "warning", "error", "warning", "error", "error"]


def test_a_level_that_is_not_known_is_refused(
    tiny_split: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(main, ["--ckpt_dir", str(tiny_split() / "cloud"), "--log_level", "loud"])
    assert ended.value.code == 2
    assert capfd.readouterr() == ("", "error: --log_level must be one of info, warning, error (got loud)\n")


# ---- how many


def test_of_a_flood_of_one_event_some_are_told_and_then_how_many_were_not(reported: Told) -> None:
    """Others are told all the while, and with the next window it begins anew."""
    clock = Clock()
    events = EventLog(clock=clock)
    for _ in range(1000):
        events.info("flood")
    events.error("other")
    events.catch_up()
    assert names(reported()) == ["flood"] * MOST_LINES + ["other"]
    clock.now = WINDOW_S
    events.catch_up()
    assert reported()[-1] == {"level": "info", "event": "left_out", "of": "flood", "lines": str(1000 - MOST_LINES)}
    events.info("flood")
    assert names(reported())[MOST_LINES + 1 :] == ["left_out", "flood"]


def tell_at_length(events: EventLog) -> None:
    for _ in range(60):
        events.info("long", text="x" * 3000)


def test_a_reader_who_does_not_read_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe fills; what does not fit is left out, and told of when there is room again."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as reader, os.fdopen(write_end, "w") as writer:
        events = EventLog(clock=Clock())
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", writer)
            teller = threading.Thread(target=tell_at_length, args=(events,), daemon=True)
            teller.start()
            teller.join(30)
            assert not teller.is_alive()
            first = os.read(read_end, 1 << 20).decode()
            events.catch_up(at_once=True)
        writer.close()
        kept, last = first.splitlines(), event_of(reader.read())
    assert 0 < len(kept) < 60 and {event_of(line)["event"] for line in kept} == {"long"}
    assert (last["event"], last["lines"]) == ("left_out", str(60 - len(kept)))


@pytest.mark.parametrize("stderr", ["closed", "a pipe without a reader"])
def test_nobody_need_hold_stderr(stderr: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is raised, and no other file gets the line."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as writer, monkeypatch.context() as patched:
        stream: TextIO | None = None if stderr == "closed" else writer
        patched.setattr(sys, "stderr", stream)
        EventLog().error("something")


# ---- what a cloud tells


PROMPT = [258, 84, 104, 101, 32]


def test_a_session_is_told_of_when_it_is_opened_and_when_it_ends(
    halves: Halves, tokenizer: Tokenizer, reported: Told
) -> None:
    """By a number of the cloud's own; and why it ended: closed, opened anew, or nobody used it."""
    with Served(halves, tokenizer, idle_timeout_s=0.5, log_level="info") as served:
        served.run(PROMPT, 3)
        with served.peer() as peer:
            first = open_request(7)
            served.open(peer, first)
            served.open(peer, open_request(8, run_id=first.run_id))
            assert wait_until(lambda: not len(served.server.sessions))
    events = reported()
    for event in events:
        if event["event"] == "session_ended":
            assert float(event.pop("seconds")) >= 0
        event.pop("level")
    assert events == [
        {"event": "session_opened", "session": "1", "prompt_tokens": "5"},
        {"event": "session_ended", "session": "1", "why": "closed", "tokens": "3"},
        {"event": "session_opened", "session": "2", "prompt_tokens": "7"},
        {"event": "session_ended", "session": "2", "why": "replaced", "tokens": "0"},
        {"event": "session_opened", "session": "3", "prompt_tokens": "8"},
        {"event": "session_ended", "session": "3", "why": "idle", "tokens": "0"},
        {"event": "stopped", "sessions_cut_off": "0"},
    ]


def test_draining_is_told_once_and_at_the_end_how_many_sessions_were_cut_off(
    halves: Halves, tokenizer: Tokenizer, reported: Told
) -> None:
    with Served(halves, tokenizer, drain_s=0.5, log_level="info") as served, served.peer() as peer:
        served.open(peer, open_request())
        served.drain()
        served.thread.join()
    assert [event for event in reported() if event["event"] != "session_opened"] == [
        {"level": "info", "event": "draining", "sessions": "1"},
        {"level": "info", "event": "stopped", "sessions_cut_off": "1"},
    ]


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[tuple[CloudKeys, Path, LinkKeys]]:
    """The cloud's, with an empty list; the directory of that, and a phone's."""
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    make_keys("cloud", "cloud", tmp_path)
    make_keys("phone", "device", tmp_path)
    phone = link_keys(str(tmp_path / "phone.key"), str(tmp_path / "cloud.pub"), "device")
    assert phone is not None
    yield CloudKeys(read_key(str(tmp_path / "cloud.key"), "cloud"), AllowList(allowed)), allowed, phone


def test_it_is_told_how_many_keys_come_and_go_but_not_whose(
    halves: Halves, tokenizer: Tokenizer, keys: tuple[CloudKeys, Path, LinkKeys], reported: Told
) -> None:
    """One that is not listed is turned away; a session of one that is taken off the list ends for that reason."""
    cloud_keys, allowed, phone = keys
    with Served(halves, tokenizer, keys=cloud_keys, log_level="info") as served:
        with served.peer(keys=phone):
            assert wait_until(lambda: "turned_away" in names(reported()))
        (allowed / "phone.pub").write_bytes((allowed.parent / "phone.pub").read_bytes())
        assert wait_until(lambda: "keys_listed" in names(reported()))
        with served.peer(keys=phone) as peer:
            served.open(peer, open_request())
            (allowed / "phone.pub").unlink()
            assert wait_until(lambda: "session_ended" in names(reported()))
            assert peer.refusal(Hello(wire.VERSION)) == "not_allowed"
    away = {"level": "info", "event": "turned_away", "number": "1"}
    assert reported()[0] == away
    rest = [event for event in reported() if event != away]  # it may have tried again
    listed, opened, unlisted, ended, refused, _ = rest
    assert listed == {"level": "info", "event": "keys_listed", "number": "1", "listed": "1"}
    assert unlisted == {"level": "info", "event": "keys_unlisted", "number": "1", "listed": "0"}
    assert (opened["event"], ended["why"], refused["code"]) == ("session_opened", "key_removed", "not_allowed")


def test_a_peer_that_is_refused_again_and_again_gets_a_hundred_lines(
    halves: Halves, tokenizer: Tokenizer, reported: Told
) -> None:
    """And each holds the reason's code and no byte of its own."""
    with Served(halves, tokenizer, log_level="info") as served, served.peer(zmq.DEALER) as peer:
        for i in range(300):
            peer.send(b"", b"Zimtstern %d" % i)
            peer.receive()
    *refused, stopped, left_out = reported()
    assert refused == [{"level": "info", "event": "refused", "code": "bad_request"}] * MOST_LINES
    assert stopped["event"] == "stopped"
    assert left_out == {"level": "info", "event": "left_out", "of": "refused", "lines": str(300 - MOST_LINES)}


def test_nothing_that_is_said_or_chosen_gets_into_the_log(
    halves: Halves, tokenizer: Tokenizer, capfd: pytest.CaptureFixture[str]
) -> None:
    """A reply's text, a run's and a sheet's id, a session's, the rows; also when they are wrong."""
    canary = "Zimtstern"
    ids = tuple(tokenizer.encode(canary, bos=False, eos=False))
    request = open_request(5, run_id=b"Zimtstern-Zimt16", prompt_id=canary, resumed_ids=ids)
    rows = halves.rows([*PROMPT, *ids])
    with Served(halves, tokenizer, log_level="info") as served, served.peer() as peer:
        session = served.open(peer, request)
        peer.ask(step_of(session, 1, 0, rows), rows)
        final = peer.ask(Finish(session, 2, len(ids)))
        assert isinstance(final, wire.Final) and final.text == canary
        assert peer.refusal(Finish(session, 3, 99)) == "out_of_range"
        assert peer.refusal(wire.FetchSheet(canary)) == "unknown_sheet"
        assert peer.refusal(wire.Collect("zimtstern")) == "not_served"
        assert peer.refusal(Close(b"Zimtstern-Zimt16", 1)) == "unknown_session"
        peer.ask(Close(session, 3))
    log = capfd.readouterr().err
    assert [event_of(line)["event"] for line in log.splitlines()] == [
        "session_opened", *["refused"] * 4, "session_ended", "stopped",
    ]  # fmt: skip
    assert "zimt" not in log.lower() and b"Zimt".hex() not in log and session.hex() not in log
