"""Claims about the device's link: whatever the other side does, the device goes on or says what is wrong, in time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest
import zmq

import edge_main
from llama import wire
from llama.checkpoint.halves import read_half
from llama.client import connection as connection_module
from llama.client import link as link_module
from llama.client.link import Link
from llama.edge.generation import GeneratedReply, GenerationSettings, generate_reply
from llama.edge.session import CloudSession
from llama.errors import CloudRefused, CloudUnreachable, LinkError, PromptError, ProtocolMismatch, UsageError
from llama.sampling_params import SamplingParams
from llama.tokenizer import Tokenizer
from llama.wire import Close, Closed, Error, ErrorCode, Final, Finish, Hello, Opened, Step, Tokens, Usage, Welcome
from tests.processes import wait_until
from tests.support import ARGS, FINGERPRINT, GREEDY, MAX_ROWS, MAX_SEQ_LEN, Halves, Served

PROMPT = [258, 84, 104, 101, 32]
WELCOME = Welcome(wire.VERSION, FINGERPRINT, "float32", ARGS.dim, 1, MAX_SEQ_LEN, MAX_ROWS)
Behaviour = Callable[[list[bytes]], "bytes | None"]


class FalseCloud:
    """A ROUTER that answers each request as it is told to, and remembers what was asked."""

    def __init__(
        self, behaviour: Behaviour, address: str = "tcp://127.0.0.1:*", longest: int = -1
    ) -> None:  # fmt: skip
        self.behaviour, self.asked = behaviour, list[list[bytes]]()
        self._router: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        self._router.setsockopt(zmq.LINGER, 0)
        self._router.setsockopt(zmq.MAXMSGSIZE, longest)  # whoever sends more is dropped
        give_up = time.monotonic() + 10
        while True:
            try:
                self._router.bind(address)
                break
            except zmq.ZMQError:  # one that had the address before is closed by libzmq in its own time
                assert time.monotonic() < give_up
                time.sleep(0.01)
        self.endpoint: str = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while not self._stop.is_set():
            if self._router.poll(20):
                peer, empty, *body = self._router.recv_multipart()
                assert empty == b""
                self.asked.append(body)
                answer = self.behaviour(body)
                if answer is not None:
                    self._router.send_multipart([peer, b"", answer])

    def __enter__(self) -> FalseCloud:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._router.close()


def properly(body: list[bytes]) -> wire.Reply:
    """What a cloud says that always samples id 65 and knows the text."""
    request = wire.decode_request(body[0])
    if isinstance(request, Hello):
        return WELCOME
    if isinstance(request, wire.Open):
        return Opened(b"s" * 16)
    if isinstance(request, Step):
        return Tokens((65,) * request.want, 5, request.seq)
    if isinstance(request, Close):
        return Closed()
    assert isinstance(request, Finish)
    return Final("A" * request.end, Usage(len(PROMPT), request.end, 5))


def is_a(body: list[bytes], kind: type) -> bool:
    return isinstance(wire.decode_request(body[0]), kind)


class Except:
    """Properly, but for requests of one kind, which get these answers in turn (None: silence), the last one again."""

    def __init__(self, kind: type, *answers: wire.Reply | bytes | None) -> None:
        self.kind, self.answers = kind, list(answers)

    def __call__(self, body: list[bytes]) -> bytes | None:
        if not is_a(body, self.kind):
            return wire.encode(properly(body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer if isinstance(answer, bytes | None) else wire.encode(answer)


class EveryOther:
    """Loses the answer to the first, third, … request of each kind given; otherwise properly."""

    def __init__(self, *kinds: type) -> None:
        self.kinds, self.count = kinds, dict.fromkeys(kinds, 0)

    def __call__(self, body: list[bytes]) -> bytes | None:
        kind = type(wire.decode_request(body[0]))
        if kind in self.kinds:
            self.count[kind] += 1
            if self.count[kind] % 2:
                return None
        return wire.encode(properly(body))


@contextmanager
def linked(endpoint: str, deadline_s: float = 1.0) -> Iterator[tuple[Link, list[str]]]:
    notices: list[str] = []
    with Link(endpoint, deadline_s=deadline_s, on_notice=notices.append) as link:
        yield link, notices


def reply(
    link: Link, halves: Halves, tokenizer: Tokenizer, n: int = 6, welcome: Welcome = WELCOME,
    on_text: Callable[[str], None] = lambda text: None, prompt: list[int] = PROMPT, sampling: SamplingParams = GREEDY,
) -> GeneratedReply:  # fmt: skip
    return generate_reply(
        prompt, edge=halves.edge, link=link, welcome=welcome, tokenizer=tokenizer,
        settings=GenerationSettings(sampling, stop_ids=(), max_gen_len=n), on_text=on_text,
    )  # fmt: skip


# ---- the cloud behaves


def test_a_reply_through_the_link_is_that_of_the_halves_called_directly(halves: Halves, tokenizer: Tokenizer) -> None:
    """Greedy and seeded, in one chunk and in several, with the text streamed and the text returned equal."""
    with Served(halves, tokenizer) as served, linked(served.endpoint, 30) as (link, notices):
        assert link.hello() == served.welcome
        for prompt in (PROMPT, PROMPT * 8, [258]):
            for sampling in (GREEDY, SamplingParams(0.9, 0.9, 3)):
                pieces: list[str] = []
                got = reply(link, halves, tokenizer, 12, served.welcome, pieces.append, prompt, sampling)
                assert got.tokens == halves.tokens(prompt, 12, sampling)
                assert got.text == "".join(pieces) == tokenizer.decode(got.tokens)
                assert got.stop_reason == "max_gen_len" and got.prompt_tokens == prompt
        assert notices == [] and len(served.server.sessions) == 0


def test_a_reply_ends_where_the_context_ends(halves: Halves, tokenizer: Tokenizer) -> None:
    """Prompt and reply together have ``max_seq_len`` tokens; a prompt that leaves no room is refused unsent."""
    with Served(halves, tokenizer) as served, linked(served.endpoint, 30) as (link, _):
        got = reply(link, halves, tokenizer, 1000, served.welcome)
        assert got.stop_reason == "max_seq_len" and len(got.tokens) + len(PROMPT) == MAX_SEQ_LEN
        with pytest.raises(PromptError, match=f"{MAX_SEQ_LEN} tokens, but prompt and reply together may have"):
            reply(link, halves, tokenizer, 1, served.welcome, prompt=[65] * MAX_SEQ_LEN)
        assert len(reply(link, halves, tokenizer, 5, served.welcome, prompt=[65] * (MAX_SEQ_LEN - 1)).tokens) == 1


def test_a_session_lost_in_the_middle_is_opened_again_and_the_tokens_are_the_same(
    halves: Halves, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed behind the device's back after some tokens, with a prompt of several chunks; twice; and before Finish."""
    prompt, n = PROMPT * 5, 9
    with Served(halves, tokenizer) as served, linked(served.endpoint, 30) as (link, _), served.peer() as thief:

        def steal() -> None:
            (session,) = served.server.sessions
            thief.ask(Close(session.id, 99))

        for losses in ([3], [1, 6], [n], [0]):
            for sampling in (GREEDY, SamplingParams(0.9, 0.95, 11)):
                pieces: list[str] = []

                def on_text(text: str, losses: list[int] = losses, pieces: list[str] = pieces) -> None:
                    pieces.append(text)
                    if len(pieces) in losses:
                        steal()

                if losses == [0]:  # before the first row: the session goes while the device makes its rows
                    edge = halves.edge.forward
                    monkeypatch.setattr(halves.edge, "forward", _once(steal, edge))
                got = reply(link, halves, tokenizer, n, served.welcome, on_text, prompt, sampling)
                if losses == [0]:
                    monkeypatch.undo()
                assert got.tokens == halves.tokens(prompt, n, sampling)
                assert got.text == "".join(pieces)
                assert got.timing.reopened == len(losses)
        assert len(served.server.sessions) == 0


def _once(act: Callable[[], None], then: Callable[..., object]) -> Callable[..., object]:
    """``then``, with ``act`` before its first call."""
    todo = [act]

    def both(*args: object) -> object:
        if todo:
            todo.pop()()
        return then(*args)

    return both


@pytest.mark.long
def test_a_full_cloud_is_waited_for_and_the_person_told(halves: Halves, tokenizer: Tokenizer) -> None:
    """The only place is taken; it is given back when the device says that it waits."""
    with Served(halves, tokenizer, slots=1) as served, served.peer() as other:
        from tests.support import open_request

        session = served.open(other, open_request())
        notices: list[str] = []

        def on_notice(text: str) -> None:
            notices.append(text)
            if len(notices) == 1:
                other.ask(Close(session, 1))

        with Link(served.endpoint, deadline_s=30, on_notice=on_notice) as link:
            assert reply(link, halves, tokenizer, 4).tokens == halves.tokens(PROMPT, 4)
        reported = ("the cloud is full; waiting for a slot", "the cloud is busy: all 1 slots are taken")
        assert notices and all(text.startswith(reported) for text in notices)


def test_a_cloud_that_stays_full_is_given_up_at_the_deadline(halves: Halves, tokenizer: Tokenizer) -> None:
    """And the flag is named that would have waited longer."""
    busy = Error(ErrorCode.BUSY, "all slots are taken", "wait for one", 0.1)
    with FalseCloud(Except(wire.Open, busy)) as cloud, linked(cloud.endpoint, 0.5) as (link, notices):
        with pytest.raises(CloudRefused, match=r"busy.* are taken; this program tried for 0 s; .* --deadline"):
            reply(link, halves, tokenizer)
        assert len(notices) >= 2


def test_a_busy_clouds_senseless_hint_is_replaced_by_a_second(halves: Halves, tokenizer: Tokenizer) -> None:
    """NaN is no time to sleep."""
    busy = Error(ErrorCode.BUSY, "all slots are taken", "wait for one", float("nan"))
    with FalseCloud(Except(wire.Open, busy)) as cloud, linked(cloud.endpoint, 0.5) as (link, notices):
        with pytest.raises(CloudRefused, match="busy"):
            reply(link, halves, tokenizer)
        assert notices[0].endswith("in 1.0 s")


@pytest.mark.parametrize(
    ("kind", "good"), [(Step, Tokens((65,), 5, 1)), (wire.Finish, Final("A", Usage(5, 1, 5))), (Hello, WELCOME)]
)
def test_any_request_is_asked_again_of_a_busy_cloud_with_the_same_bytes(
    halves: Halves, tokenizer: Tokenizer, kind: type, good: wire.Reply
) -> None:
    """Busy once, then not: the run ends well."""
    busy = wire.encode(Error(ErrorCode.BUSY, "all slots are taken", "wait for one", 0.1))
    with FalseCloud(Except(kind, busy, good)) as cloud, linked(cloud.endpoint, 30) as (link, notices):
        assert link.hello() == WELCOME
        assert reply(link, halves, tokenizer, 1).tokens == [65]
    first, second = [body for body in cloud.asked if is_a(body, kind)]
    assert first == second and notices == ["the cloud is busy: all slots are taken; trying again in 0.1 s"]


def test_a_cloud_that_keeps_our_place_in_its_queue_is_asked_at_once_and_the_person_told_once(
    halves: Halves, tokenizer: Tokenizer
) -> None:
    """``retry_after_s`` of 0, many times."""
    busy = Error(ErrorCode.BUSY, "all slots are taken", "wait for one", 0)
    answers = Except(Step, *[busy] * 5, Tokens((65,), 5, 1))
    with FalseCloud(answers) as cloud, linked(cloud.endpoint, 30) as (link, notices):
        assert reply(link, halves, tokenizer, 1).tokens == [65]
    assert sum(is_a(body, Step) for body in cloud.asked) == 6
    assert notices == ["the cloud is full; waiting for a slot"]


def test_who_does_not_want_to_wait_for_a_busy_cloud_is_told_at_once() -> None:
    """The refusal as it came, with its hint; the link goes on to work."""
    busy = Error(ErrorCode.BUSY, "too many requests at once", "ask again", 7.0)
    with FalseCloud(Except(wire.ListSheets, busy)) as cloud, linked(cloud.endpoint) as (link, notices):
        link.waits_when_busy = False
        with pytest.raises(CloudRefused, match="too many requests") as refused:
            link.ask(wire.ListSheets())
        assert refused.value.retry_after_s == 7.0 and notices == []
        assert link.hello() == WELCOME


def test_a_reply_that_comes_twice_is_not_taken_for_the_next_ones(halves: Halves, tokenizer: Tokenizer) -> None:
    """The second one is late; the step that it is handed to is asked again, with the same bytes."""
    late = Except(Step, Tokens((65,), 5, 1), Tokens((66,), 5, 1), Tokens((65,), 5, 2))
    with FalseCloud(late) as cloud, linked(cloud.endpoint, 30) as (link, _):
        assert reply(link, halves, tokenizer, 2).tokens == [65, 65]
    assert [body for body in cloud.asked if is_a(body, Step)][1] == [b for b in cloud.asked if is_a(b, Step)][2]


# ---- the connection breaks


def test_a_cloud_that_comes_back_is_noticed_without_any_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes under a request, and comes back on its port; to wait for silence would take an hour."""
    monkeypatch.setattr(link_module, "STEP_TIMEOUT_S", 3600.0)
    asked = threading.Event()

    def mute(body: list[bytes]) -> bytes | None:
        if not is_a(body, Hello):
            asked.set()
            return None
        return wire.encode(WELCOME)

    first = FalseCloud(mute)
    with linked(first.endpoint, 7200) as (link, notices):
        with first:
            assert link.hello() == WELCOME
            link.begin(wire.ListSheets())
            assert asked.wait(30)
        answer = Except(wire.ListSheets, wire.Sheets(()))
        with FalseCloud(answer, first.endpoint) as second:
            assert link.finish() == wire.Sheets(())
        assert [type(wire.decode_request(body[0])) for body in second.asked] == [Hello, wire.ListSheets]
        assert len(notices) == 1 and "broke" in notices[0] and not link.silent


def test_a_connection_that_broke_while_nothing_was_asked_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request goes out once, with the next connection, and nobody is told."""
    monkeypatch.setattr(link_module, "STEP_TIMEOUT_S", 3600.0)
    first = FalseCloud(lambda body: wire.encode(WELCOME))
    with linked(first.endpoint, 7200) as (link, notices):
        with first:
            assert link.hello() == WELCOME
            link.connection.read_events()  # so that what libzmq says next is that it broke

        def broke() -> bool:
            link.connection.read_events()
            return link.connection.was_lost

        assert wait_until(broke)
        with FalseCloud(Except(wire.ListSheets, wire.Sheets(())), first.endpoint) as second:
            assert link.ask(wire.ListSheets()) == wire.Sheets(())
        assert len(second.asked) == 1 and notices == []


def test_a_request_that_breaks_every_connection_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cloud lives and answers Hello, but drops whoever sends so much."""
    for module in (link_module, connection_module):
        monkeypatch.setattr(module, "RECONNECT_MS", 1)
    with FalseCloud(lambda body: wire.encode(WELCOME), longest=100) as cloud:
        with linked(cloud.endpoint, 30) as (link, notices):
            with pytest.raises(CloudUnreachable, match=f"{cloud.endpoint} broke 12 times during one request"):
                link.ask(wire.FetchSheet("x" * 200))
            assert len(notices) == 1
            assert link.hello() == WELCOME
        assert all(is_a(body, Hello) for body in cloud.asked)


def test_a_link_remade_a_thousand_times_holds_no_more_than_one() -> None:
    """No file and no thread is left."""

    def held() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir()))

    with FalseCloud(lambda body: wire.encode(WELCOME)) as cloud, linked(cloud.endpoint, 30) as (link, _):
        assert link.hello() == WELCOME
        files, threads = held()
        for _ in range(1000):
            link.begin(Hello(wire.VERSION))
            link.abandon()
        assert link.hello() == WELCOME
        # What was closed is taken down by libzmq's own threads.
        assert wait_until(lambda: held()[0] <= files + 8 and held()[1] <= threads), (held(), files, threads)


# ---- the cloud is silent


@pytest.mark.parametrize("kind", [wire.Open, Step, wire.Finish])
def test_a_lost_answer_is_asked_for_again_with_the_same_bytes(halves: Halves, tokenizer: Tokenizer, kind: type) -> None:
    """Silence once, then answers: the run ends well, the request was sent twice, identical in every frame."""
    behaviour = Except(kind, None, *[wire.encode(reply_for(kind, i)) for i in range(2)])
    with FalseCloud(behaviour) as cloud, linked(cloud.endpoint, 1.0) as (link, notices):
        got = reply(link, halves, tokenizer, 1)
        assert got.text == "A" and got.tokens == [65]
    asked = [body for body in cloud.asked if is_a(body, kind)]
    assert len(asked) == 2 and asked[0] == asked[1]
    assert [is_a(body, Hello) for body in cloud.asked].count(True) == 1  # the heartbeat, asked for in between
    assert len(notices) == 1 and cloud.endpoint in notices[0] and "trying again" in notices[0]


def reply_for(kind: type, _: int) -> wire.Reply:
    replies: dict[type, wire.Reply] = {
        wire.Open: Opened(b"s" * 16),
        Step: Tokens((65,), 5, 1),
        wire.Finish: Final("A", Usage(5, 1, 5)),
    }
    return replies[kind]


@pytest.mark.long
def test_a_real_cloud_behind_a_lossy_line_gives_the_right_tokens_and_computes_each_step_once(
    halves: Halves, tokenizer: Tokenizer
) -> None:
    """A relay that loses every third answer on its way back."""
    with Served(halves, tokenizer) as served, served.peer(zmq.DEALER) as upstream:
        count = 0

        def relay(body: list[bytes]) -> bytes | None:
            nonlocal count
            count += 1
            upstream.send(b"", *body)
            answer = upstream.receive_bytes()
            return None if count % 3 == 0 else answer

        before = halves.cloud.steps
        with FalseCloud(relay) as lossy, linked(lossy.endpoint, 1.0) as (link, notices):
            got = reply(link, halves, tokenizer, 6)
        assert got.tokens == halves.tokens(PROMPT, 6) and notices
        assert halves.cloud.steps == before + 6
        assert got.timing.reopened == 0


def test_a_late_handshake_is_waited_for(halves: Halves) -> None:
    """Silent to the first Hello, answers the second."""
    with FalseCloud(Except(Hello, None, WELCOME)) as cloud, linked(cloud.endpoint, 4.0) as (link, notices):
        assert link.hello() == WELCOME
        assert len(notices) == 1


def test_a_step_that_takes_longer_than_the_deadline_is_waited_for_while_the_cloud_gives_signs_of_life(
    halves: Halves, tokenizer: Tokenizer
) -> None:
    """A real server, held inside a step until the device has asked again several times."""
    with Served(halves, tokenizer) as served, halves.cloud.held():
        notices: list[str] = []

        def on_notice(text: str) -> None:
            notices.append(text)
            if len(notices) == 4:
                halves.cloud.may_go_on.set()

        with Link(served.endpoint, deadline_s=0.4, on_notice=on_notice) as link:
            assert reply(link, halves, tokenizer, 3).tokens == halves.tokens(PROMPT, 3)
        assert len(notices) >= 4


def test_a_cloud_that_is_not_there_is_unreachable_within_the_deadline_with_its_address_and_notices() -> None:
    """Nobody listens; one retry at least is told, and the error names the address and the cure."""
    reserve: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REP)
    with reserve:
        reserve.bind("tcp://127.0.0.1:*")
        address = reserve.getsockopt_string(zmq.LAST_ENDPOINT)
    with linked(address, 1.0) as (link, notices):
        started = time.monotonic()
        with pytest.raises(CloudUnreachable) as unreachable:
            link.hello()
        assert time.monotonic() - started >= 0.9  # it did try; how fast machines are is not asserted
    text = str(unreachable.value)
    assert address in text and "cloud_main.py" in text and "\n" not in text
    assert notices and all(address in notice and "giving up after 1 s" in notice for notice in notices)


def test_a_host_that_nobody_knows_is_told_from_one_that_is_silent() -> None:
    """libzmq waits for such a name as for a cloud; the error is of how it is written, not of firewalls."""
    with linked("tcp://gpu-box.invalid:5555", 0.5) as (link, _), pytest.raises(CloudUnreachable) as unreachable:
        link.hello()
    text = str(unreachable.value)
    assert "cannot resolve the host name gpu-box.invalid" in text and "firewall" not in text


def test_a_cloud_that_falls_silent_in_the_middle_is_unreachable(halves: Halves, tokenizer: Tokenizer) -> None:
    """It takes the Step and never says anything again, not even Welcome."""
    alive = True

    def behaviour(body: list[bytes]) -> bytes | None:
        nonlocal alive
        alive = alive and not is_a(body, Step)
        return wire.encode(properly(body)) if alive else None

    with FalseCloud(behaviour) as cloud, linked(cloud.endpoint, 1.0) as (link, notices):
        with pytest.raises(CloudUnreachable, match=cloud.endpoint):
            reply(link, halves, tokenizer)
        assert notices


@pytest.mark.parametrize(
    "address", ["", "localhost:5555", "tcp://127.0.0.1", "tcp://127.0.0.1:99999", "http://x:1", "x"]
)
def test_what_is_no_address_is_refused_at_once_with_the_right_form(address: str) -> None:
    """A UsageError, before anything is sent."""
    with pytest.raises(UsageError, match="tcp://HOST:PORT"):
        Link(address)


# ---- the cloud says something else


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request",
        b"\xff" * 100,
        wire.encode(Hello(1)),
        msgspec.msgpack.encode({"type": "welcome", "version": wire.VERSION}),
        msgspec.msgpack.encode({"type": "closed", "and": "more"}),
        wire.encode(Closed()),
        wire.encode(msgspec.structs.replace(WELCOME, version=wire.VERSION + 1)),
        wire.encode(msgspec.structs.replace(WELCOME, dtype="float8")),
        wire.encode(msgspec.structs.replace(WELCOME, max_rows=0)),
    ],
    ids=lambda answer: repr(answer[:24]),
)
def test_a_handshake_answered_in_another_way_is_a_protocol_mismatch(answer: bytes) -> None:
    """Garbage, the wrong reply, another version, a dtype or a limit nobody can work with; the address is named."""
    with FalseCloud(Except(Hello, answer)) as cloud, linked(cloud.endpoint) as (link, _):
        with pytest.raises(ProtocolMismatch) as mismatch:
            link.hello()
        assert cloud.endpoint in str(mismatch.value)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (wire.Open, Closed()),
        (wire.Open, b"garbage"),
        (wire.Open, Opened(b"s" * 16, 3)),  # of a prefix that was not named
        (Step, Tokens((), 5, 1)),
        (Step, Tokens((65, 66), 5, 1)),
        (Step, Opened(b"s" * 16)),
        (Step, b"\x93\x01"),
        (wire.Finish, Tokens((65,), 5, 1)),
        (wire.Finish, b""),
    ],
    ids=lambda value: getattr(value, "__name__", repr(value)[:30]),
)
def test_a_reply_that_does_not_belong_to_the_request_is_a_protocol_mismatch(
    halves: Halves, tokenizer: Tokenizer, kind: type, answer: wire.Reply | bytes
) -> None:
    """Whichever request it is; afterwards the link can still be closed and used."""
    with FalseCloud(Except(kind, answer)) as cloud, linked(cloud.endpoint) as (link, _):
        with pytest.raises(ProtocolMismatch, match=r"127\.0\.0\.1"):
            reply(link, halves, tokenizer)
        assert link.hello() == WELCOME


@pytest.mark.parametrize("change", [{"dim": 128}, {"split_layer": 2}, {"max_seq_len": 2**31 - 1}], ids=str)
def test_a_cloud_that_describes_another_model_than_the_devices_is_a_protocol_mismatch(
    change: dict[str, int], tiny_split: Callable[..., Path], tmp_path: Path
) -> None:
    """Although its fingerprint is right; the device makes no cache for a context that the model does not have."""
    half = read_half(tiny_split() / "edge", "edge")
    honest = Welcome(wire.VERSION, half.fingerprint, "float32", half.args.dim, 1, MAX_SEQ_LEN, MAX_ROWS)
    (tmp_path / "question.txt").write_text("Why?")
    with FalseCloud(Except(Hello, msgspec.structs.replace(honest, **change))) as cloud:
        with pytest.raises(ProtocolMismatch, match="describes another model"):
            edge_main.main(str(half.directory), cloud.endpoint, str(tmp_path / "question.txt"))
        assert len(cloud.asked) == 1  # Hello


def test_several_frames_in_a_reply_are_a_protocol_mismatch() -> None:
    """A REP that sends two."""
    rep: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REP)
    with rep, linked_to(rep) as link:
        link.begin(Hello(1))
        rep.recv()
        rep.send_multipart([wire.encode(WELCOME), b"more"])
        with pytest.raises(ProtocolMismatch, match="2 frames"):
            link.finish()
        link.abandon()


@contextmanager
def linked_to(rep: zmq.Socket[bytes]) -> Iterator[Link]:
    rep.bind("tcp://127.0.0.1:*")
    with linked(rep.getsockopt_string(zmq.LAST_ENDPOINT)) as (link, _):
        yield link


@pytest.mark.parametrize("code", [c for c in ErrorCode if c not in (ErrorCode.BUSY, ErrorCode.UNKNOWN_SESSION)])
def test_a_refused_step_is_told_with_its_code_its_reason_and_the_cure(
    halves: Halves, tokenizer: Tokenizer, code: ErrorCode
) -> None:
    """CloudRefused, and the place in the cloud is given back."""
    with FalseCloud(Except(Step, Error(code, "so it is", "do that"))) as cloud, linked(cloud.endpoint) as (link, _):
        with pytest.raises(CloudRefused) as refused:
            reply(link, halves, tokenizer)
    assert refused.value.code == code and f"({code}): so it is; do that" in str(refused.value)
    assert is_a(cloud.asked[-1], Close)


def test_a_cloud_that_loses_every_session_is_given_up(halves: Halves, tokenizer: Tokenizer) -> None:
    """Opened again a few times, then the refusal is told instead of trying forever."""
    lost = Error(ErrorCode.UNKNOWN_SESSION, "no such session", "open again")
    with FalseCloud(Except(Step, lost)) as cloud, linked(cloud.endpoint) as (link, _):
        with pytest.raises(CloudRefused, match="unknown_session"):
            reply(link, halves, tokenizer)
    assert 2 <= sum(is_a(body, wire.Open) for body in cloud.asked) <= 5


def test_a_text_that_differs_from_the_ids_is_an_error(halves: Halves, tokenizer: Tokenizer) -> None:
    """The cloud says "B" of the ids of "A"."""
    final = Final("B" * 6, Usage(5, 6, 5))
    with FalseCloud(Except(wire.Finish, final)) as cloud, linked(cloud.endpoint) as (link, _):
        with pytest.raises(LinkError, match=r"differs from the ids.*tokenizer\.model"):
            reply(link, halves, tokenizer)


def test_ids_beyond_the_vocabulary_are_an_error_of_the_family(halves: Halves, tokenizer: Tokenizer) -> None:
    """Not an index error from the embedding."""
    from llama.errors import SplitLlamaError

    with FalseCloud(Except(Step, Tokens((ARGS.vocab_size,), 5, 1))) as cloud, linked(cloud.endpoint) as (link, _):
        with pytest.raises(SplitLlamaError, match=str(ARGS.vocab_size)):
            reply(link, halves, tokenizer)


def test_a_failure_in_the_middle_gives_the_slot_back(halves: Halves, tokenizer: Tokenizer) -> None:
    """An exception of the device's own, Ctrl-C among them: the cloud has no session afterwards."""
    with Served(halves, tokenizer) as served, linked(served.endpoint, 30) as (link, _):
        for failure in (KeyboardInterrupt, BrokenPipeError):

            def on_text(text: str, failure: type[BaseException] = failure) -> None:
                raise failure

            with pytest.raises(failure):
                reply(link, halves, tokenizer, 6, served.welcome, on_text)
            assert len(served.server.sessions) == 0


def test_rows_of_another_dtype_or_width_never_leave_the_device(halves: Halves) -> None:
    """The session compares with Welcome first."""
    with FalseCloud(lambda body: wire.encode(properly(body))) as cloud, linked(cloud.endpoint) as (link, _):
        with CloudSession(link, WELCOME, prompt_tokens=5, sampling=GREEDY, stop_ids=()) as session:
            for rows in (halves.rows(PROMPT).double(), halves.rows(PROMPT)[:, :8]):
                with pytest.raises(ValueError, match="dtype and width"):
                    session.begin_step(rows, 0, 1)
    assert not any(is_a(body, Step) for body in cloud.asked)


def test_a_connection_that_libzmq_has_given_up_is_made_anew_and_does_not_hold_a_device_for_ever() -> None:
    """A garbled greeting has come before the first request is sent: the next connection carries it, or the deadline."""
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NO SUCH MECHANISM".ljust(20, b"\0") + bytes(32)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address, held = f"tcp://127.0.0.1:{server.getsockname()[1]}", list[socket.socket]()

        def garble() -> None:
            with suppress(OSError):  # the server is closed
                while True:
                    held.append(server.accept()[0])
                    held[-1].sendall(greeting)

        garbling = threading.Thread(target=garble, daemon=True)
        garbling.start()
        with Link(address, deadline_s=1.0, on_notice=lambda text: None) as link:
            assert wait_until(lambda: bool(held))
            time.sleep(0.2)  # libzmq reads the greeting, and gives the connection up
            with pytest.raises(CloudUnreachable):
                link.hello()
        server.shutdown(socket.SHUT_RDWR)
    garbling.join()
    for each in held:
        each.close()
