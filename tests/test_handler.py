"""Claims about requests and their replies, without a socket, thread, model, or real waiting."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch

from llama import wire
from llama.cloud.event_log import EventLog
from llama.cloud.handler import Handler
from llama.cloud.jobs import (
    BackgroundDone,
    BackgroundJob,
    ClearSlot,
    ControlJob,
    FinishJob,
    ModelJob,
    Sampled,
    SlotCleared,
    StepDone,
    StepJob,
)
from llama.cloud.lifecycle import SessionLifecycle
from llama.cloud.metrics import Metrics
from llama.cloud.rate_limit import RateLimiter
from llama.cloud.router import Sender
from llama.cloud.sessions import HELD_S, UNUSED_S, Sessions
from llama.tensor_frames import hidden_to_frame
from llama.wire import Close, Closed, Error, Finish, Hello, ListSheets, Open, Opened, Reply, Request, Step, Tokens
from tests.support import ARGS, FINGERPRINT, MAX_ROWS, MAX_SEQ_LEN, open_request

WELCOME = wire.Welcome(wire.VERSION, FINGERPRINT, "float32", ARGS.dim, 1, MAX_SEQ_LEN, MAX_ROWS)


@dataclass
class Cloud:
    """A handler, and everything that it hands on."""

    slots: int = 2
    now: float = 1000.0
    sent: list[tuple[bytes, Reply]] = field(default_factory=list)
    disconnected: list[int] = field(default_factory=list)
    to_model: list[ModelJob] = field(default_factory=list)
    to_background: list[BackgroundJob] = field(default_factory=list)

    def __post_init__(self) -> None:
        metrics, event_log = Metrics(self.clock), EventLog("error")
        self.lifecycle = SessionLifecycle(
            WELCOME,
            500,
            Sessions(self.slots, 120.0, self.clock),
            listed=lambda prompt_id: None,
            send=self.send,
            submit_to_model=self.to_model.append,
            max_runs_s=math.inf,
            metrics=metrics,
            event_log=event_log,
            clock=self.clock,
        )
        self.handler = Handler(
            WELCOME,
            wire.RequestDecoder(MAX_SEQ_LEN),
            self.lifecycle,
            peers=self,
            submit_to_model=self.to_model.append,
            background=self,
            limiter=RateLimiter(math.inf, math.inf, 1, self.clock),
            keys=None,
            metrics=metrics,
            event_log=event_log,
            clock=self.clock,
        )

    def clock(self) -> float:
        return self.now

    def send(self, peer: bytes, reply: bytes) -> None:
        self.sent.append((peer, wire.decode_reply(reply)))

    def disconnect(self, descriptor: int) -> None:
        self.disconnected.append(descriptor)

    def submit(self, job: BackgroundJob) -> None:
        self.to_background.append(job)

    def note_reply(self, job: BackgroundJob) -> None:
        self.to_background.remove(job)

    def ask(self, request: Request, *rows: bytes | memoryview, peer: bytes = b"device") -> Reply | None:
        sender = Sender(peer, "", lambda: "127.0.0.1", 7, self.now)
        reply = self.handler.handle(sender, [wire.encode(request), *map(bytes, rows)])
        return None if reply is None else wire.decode_reply(reply)

    def open(self, request: Open, peer: bytes = b"device") -> bytes:
        assert self.ask(request, peer=peer) is None
        (reported, opened) = self.sent.pop()
        assert reported == peer and isinstance(opened, Opened)
        return opened.session


def step(session: bytes, seq: int, position: int, length: int) -> tuple[Step, memoryview]:
    hidden = torch.ones(length, ARGS.dim)
    return Step(session, seq, position, 1, "float32", length, ARGS.dim), hidden_to_frame(hidden)


def test_a_step_becomes_a_job_and_its_result_the_reply() -> None:
    """A repeat gets the first reply byte for byte, and submits no second job."""
    cloud = Cloud()
    session = cloud.open(open_request(4))
    request, rows = step(session, 1, 0, 4)
    assert cloud.ask(request, rows) is None
    (job,) = cloud.to_model
    assert isinstance(job, StepJob) and job.slot == 0 and job.length == 4
    cloud.now += 0.25
    cloud.handler.reply_to(StepDone(job, Sampled([9], None)))
    assert cloud.sent == [(b"device", Tokens((9,), 250_000, 1))]
    assert cloud.ask(request, rows, peer=b"another socket") == Tokens((9,), 250_000, 1)
    assert len(cloud.to_model) == 1


def test_a_closed_session_gives_its_slot_back_only_once_it_is_cleared() -> None:
    """Until then an Open in the slot queue waits."""
    cloud = Cloud(slots=1)
    session = cloud.open(open_request(4))
    assert cloud.ask(open_request(4), peer=b"waits") is None and not cloud.sent
    assert cloud.ask(Close(session, 1)) == Closed()
    assert cloud.to_model == [ClearSlot(0, 0)]
    cloud.lifecycle.admit()
    assert not cloud.sent
    cloud.handler.reply_to(SlotCleared(0))
    cloud.lifecycle.admit()
    ((peer, opened),) = cloud.sent
    assert peer == b"waits" and isinstance(opened, Opened)


def test_time_is_an_argument() -> None:
    """The test takes no real time.

    It passes two minutes of silence, and the two seconds until a queued Open gets its busy.
    """
    cloud = Cloud(slots=1)
    cloud.open(open_request(4))
    assert cloud.ask(open_request(4), peer=b"waits") is None
    cloud.now += HELD_S
    cloud.lifecycle.admit()
    ((peer, reported),) = cloud.sent
    assert peer == b"waits" and isinstance(reported, Error) and (reported.code, reported.retry_after_s) == ("busy", 0.0)
    cloud.now += UNUSED_S
    cloud.lifecycle.end_expired()
    assert cloud.to_model == [ClearSlot(0, 0)] and len(cloud.lifecycle.sessions) == 0


def test_what_may_wait_for_a_disk_goes_to_the_background() -> None:
    """A finished run by its session, a control request by its peer."""
    cloud = Cloud()
    session = cloud.open(open_request(1, resumed_ids=(7, 8)))
    assert cloud.ask(Finish(session, 1, 2)) is None and cloud.ask(ListSheets(), peer=b"vendor") is None
    finish, control = cloud.to_background
    assert isinstance(finish, FinishJob) and finish.run.ids == [7, 8]
    assert isinstance(control, ControlJob) and control.peer == b"vendor"
    cloud.handler.reply_to(BackgroundDone(control, wire.Sheets(()), 0.0))
    assert cloud.sent == [(b"vendor", wire.Sheets(()))] and cloud.to_background == [finish]


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b"no map"], "bad_request"),
        ([wire.encode(Hello(wire.VERSION)), b"rows"], "bad_request"),
        ([wire.encode(Hello(wire.VERSION + 1))], "unsupported_version"),
        ([wire.encode(Close(b"s" * 16, 1))], "unknown_session"),
        ([b"a", b"b", b"c"], "bad_request"),
    ],
)
def test_whatever_is_wrong_becomes_a_typed_error(frames: list[bytes], code: str) -> None:
    reply = Cloud().handler.handle(Sender(b"p", "", lambda: "127.0.0.1", 7, 0.0), frames)
    assert reply is not None
    error = wire.decode_reply(reply)
    assert isinstance(error, Error) and error.code == code
