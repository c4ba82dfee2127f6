"""Claims about the cloud's server: a real server with a small random model, with honest and hostile peers."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
import torch
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from llama import wire
from llama.sampling_params import SamplingParams
from llama.tokenizer import Tokenizer
from llama.wire import Close, Closed, Error, Final, Finish, Hello, Opened, Tokens, Welcome
from tests.processes import wait_until
from tests.support import (
    ARGS,
    GREEDY,
    MAX_ROWS,
    MAX_SEQ_LEN,
    Halves,
    Peer,
    Served,
    code_of,
    frames_of,
    listening_ports,
    open_request,
    step_of,
)  # fmt: skip
from tests.volumes import examples

PROMPT = [258, 84, 104, 101, 32]
QUICK = examples(0.6)


@pytest.fixture(scope="module")
def served(halves: Halves, tokenizer: Tokenizer) -> Iterator[Served]:
    with Served(halves, tokenizer) as served:
        yield served


@pytest.fixture(autouse=True)
def an_honest_run_still_works(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test with the shared server, check that a run of four tokens is right and that no slot is lost."""
    yield
    if "served" in request.fixturenames:
        served = request.getfixturevalue("served")
        assert served.run(PROMPT, 4) == served.halves.tokens(PROMPT, 4)
        assert len(served.server.sessions) == 0


@pytest.fixture
def peer(served: Served) -> Iterator[Peer]:
    with served.peer() as peer:
        yield peer


# ---- honest runs


@pytest.mark.parametrize("sampling", [GREEDY, SamplingParams(0.8, 0.95, seed=7)], ids=["greedy", "top-p"])
def test_a_run_over_the_wire_gives_the_tokens_of_the_halves_called_directly(
    served: Served, sampling: SamplingParams
) -> None:
    """Greedy and seeded, with the prompt in one chunk and in several."""
    for prompt, chunk in ((PROMPT, 16), (PROMPT * 7, 16), (PROMPT, 2), ([258], 16)):
        assert served.run(prompt, 12, sampling, chunk) == served.halves.tokens(prompt, 12, sampling, chunk)


def test_several_devices_at_once_get_the_tokens_that_each_gets_alone(served: Served) -> None:
    """Four devices, interleaved in any order that the server chooses."""
    prompts = [[258, *range(40 + i, 40 + 6 * i + 3)] for i in range(4)]
    with ThreadPoolExecutor(4) as devices:
        together = list(devices.map(lambda prompt: served.run(prompt, 16), prompts))
    assert together == [served.halves.tokens(prompt, 16) for prompt in prompts]


def test_going_back_to_a_position_equals_a_fresh_run(served: Served, peer: Peer) -> None:
    """A device sends other rows at an earlier position and continues.

    The ids are those of a run without the cut rows.
    """
    first, second = [258, 65, 66, 67, 68, 69], [258, 65, 66, 90, 91, 92]
    with served.session(peer, open_request(6)) as session:
        rows = served.halves.rows(first)
        peer.ask(step_of(session, 1, 0, rows), rows)
        rows = served.halves.rows(second)[3:]
        back = peer.ask(step_of(session, 2, 3, rows), rows)
        assert isinstance(back, Tokens)
        final = peer.ask(Finish(session, 3, 1))
    fresh = served.halves.tokens(second, 1, chunk=3)
    assert list(back.ids) == fresh
    assert isinstance(final, Final) and final.text == served.server.tokenizer.decode(fresh)


def test_several_wanted_rows_give_the_ids_that_single_steps_give(served: Served, peer: Peer) -> None:
    """``want`` of 4 on a known reply gives one id per row, with the right output indices."""
    sampling = SamplingParams(1.0, 1.0, seed=5)
    reply = served.halves.tokens(PROMPT, 4, sampling)
    with served.session(peer, open_request(len(PROMPT), sampling)) as session:
        rows = served.halves.rows([*PROMPT, *reply[:3]])
        tokens = peer.ask(step_of(session, 1, 0, rows, want=4), rows)
    assert isinstance(tokens, Tokens) and list(tokens.ids) == reply


def test_the_text_is_cut_before_the_first_stop_id_and_usage_counts_what_is_left(served: Served, peer: Peer) -> None:
    """A stop id among the resumed ids ends the text there."""
    with served.session(peer, open_request(5, stop_ids=(259,), resumed_ids=(72, 105, 259, 33))) as session:
        final = peer.ask(Finish(session, 1, 4))
    assert isinstance(final, Final)
    assert (final.text, final.usage.prompt_tokens, final.usage.output_tokens) == ("Hi", 5, 2)


def test_a_finished_sessions_row_of_the_cache_is_zeroed(served: Served, peer: Peer) -> None:
    """No rows of a device remain in the cache, also if it went back before it closed the session."""
    rows = served.halves.rows([*PROMPT, 70, 71])
    with served.session(peer, open_request(7)) as session:
        peer.ask(step_of(session, 1, 0, rows), rows)
        peer.ask(step_of(session, 2, 0, rows[:2], want=0), rows[:2])
        assert served.cache.keys_values.any()
    sessions = [served.open(peer, open_request()) for _ in range(4)]  # when all slots are free, each has been cleared
    for session in sessions:
        assert isinstance(peer.ask(Close(session, 1)), Closed)
    assert not served.cache.keys_values.any()


# ---- repeated requests


def test_a_resent_request_gets_the_same_reply_and_is_computed_once(served: Served, peer: Peer) -> None:
    """Step and Finish, from the same socket and from another one."""
    rows = served.halves.rows(PROMPT)
    with served.session(peer) as session:
        before = served.halves.cloud.steps
        step = frames_of(step_of(session, 1, 0, rows), rows)
        peer.send(*step)
        reply = peer.receive_bytes()
        with served.peer() as other:
            for asking in (peer, other, other):
                asking.send(*step)
                assert asking.receive_bytes() == reply
        assert served.halves.cloud.steps == before + 1
        finish = frames_of(Finish(session, 2, 1))
        peer.send(*finish)
        reply = peer.receive_bytes()
        peer.send(*finish)
        assert peer.receive_bytes() == reply
        assert isinstance(wire.decode_reply(reply), Final)


def test_a_request_resent_while_it_is_computed_is_answered_to_the_newest_asker_only(served: Served, peer: Peer) -> None:
    """It is computed once. The first socket gets no reply, the last one gets the ids."""
    rows = served.halves.rows(PROMPT)
    with served.session(peer) as session, served.peer() as second, served.peer() as third:
        frames, before = frames_of(step_of(session, 1, 0, rows), rows), served.halves.cloud.steps
        with served.halves.cloud.held():
            peer.send(*frames)
            assert served.halves.cloud.computing.wait(30)
            second.send(*frames)
            second_hello_answered(served)
            third.send(*frames)
            second_hello_answered(served)
        assert third.receive() == Tokens(tuple(served.halves.tokens(PROMPT, 1)), third_us(served, session), 1)
        assert not peer.socket.poll(0) and not second.socket.poll(0)
        assert served.halves.cloud.steps == before + 1


def second_hello_answered(served: Served) -> None:
    """Wait for two handshakes on two new sockets.

    The router is fair to its peers, so by then it has read the messages sent before.
    """
    for _ in range(2):
        with served.peer() as other:
            assert isinstance(other.ask(Hello(wire.VERSION)), Welcome)


def third_us(served: Served, session: bytes) -> int:
    """Return the computing time that the server has recorded for the session."""
    return served.server.sessions.find(session).compute_us


def test_other_bytes_under_a_used_number_and_gaps_are_out_of_sequence(served: Served, peer: Peer) -> None:
    """A refused request does not count: the cloud still accepts the right next one."""
    rows = served.halves.rows(PROMPT)
    with served.session(peer) as session:
        assert isinstance(peer.ask(step_of(session, 1, 0, rows), rows), Tokens)
        assert peer.refusal(step_of(session, 1, 0, rows, want=0), rows) == "out_of_sequence"
        assert peer.refusal(step_of(session, 1, 0, rows), rows + 1) == "out_of_sequence"
        assert peer.refusal(step_of(session, 3, 5, rows), rows) == "out_of_sequence"
        assert peer.refusal(Finish(session, 1, 0)) == "out_of_sequence"
        assert peer.refusal(Finish(session, 2**53, 0)) == "out_of_sequence"
        assert isinstance(peer.ask(Finish(session, 2, 1)), Final)


def test_the_next_request_is_refused_while_one_is_computed(served: Served, peer: Peer) -> None:
    """Reordered requests: number 2 arrives before number 1 is computed."""
    rows = served.halves.rows(PROMPT)
    with served.session(peer) as session, served.peer() as other:
        with served.halves.cloud.held():
            peer.send_request(step_of(session, 1, 0, rows), rows)
            assert served.halves.cloud.computing.wait(30)
            assert other.refusal(step_of(session, 2, 0, rows), rows) == "out_of_sequence"
            assert other.refusal(Finish(session, 2, 0)) == "out_of_sequence"
        assert isinstance(peer.receive(), Tokens)


def test_open_is_idempotent_by_run_id(served: Served, peer: Peer) -> None:
    """The same bytes give the same session. Other bytes give a new session and end the old one."""
    request = open_request()
    first = served.open(peer, request)
    assert peer.ask(request) == Opened(first)
    second = served.open(peer, msgspec.structs.replace(request, resumed_ids=(7, 8)))
    assert second != first
    assert peer.refusal(Finish(first, 1, 0)) == "unknown_session"
    assert isinstance(peer.ask(Finish(second, 1, 2)), Final)
    for session in (first, second, second):  # a resent Close is Closed again
        assert isinstance(peer.ask(Close(session, 1)), Closed)


# ---- long computations


def test_a_handshake_and_a_refusal_are_answered_while_a_long_step_computes(served: Served, peer: Peer) -> None:
    """So are Open and Close of other peers."""
    rows = served.halves.rows(PROMPT)
    with served.session(peer) as session, served.peer() as other:
        with served.halves.cloud.held():
            peer.send_request(step_of(session, 1, 0, rows), rows)
            assert served.halves.cloud.computing.wait(30)
            assert other.ask(Hello(wire.VERSION)) == served.welcome
            assert code_of(other.exchange(b"garbage")) == "bad_request"
            opened = other.ask(open_request())
            assert isinstance(opened, Opened)
            assert isinstance(other.ask(Close(opened.session, 1)), Closed)
            assert not peer.socket.poll(0)
        assert isinstance(peer.receive(), Tokens)


def test_close_during_a_step_is_answered_at_once_and_the_steps_asker_hears_that_the_session_is_gone(
    served: Served, peer: Peer
) -> None:
    """The slot is free only after the step: while all others are taken, Open is refused as busy until then."""
    rows = served.halves.rows(PROMPT)
    session = served.open(peer, open_request())
    others: list[bytes] = []
    with served.peer() as other:
        with served.halves.cloud.held():
            peer.send_request(step_of(session, 1, 0, rows), rows)
            assert served.halves.cloud.computing.wait(30)
            assert isinstance(other.ask(Close(session, 2)), Closed)
            assert other.refusal(Finish(session, 2, 0)) == "unknown_session"
            others = [served.open(other, open_request()) for _ in range(3)]
            assert other.refusal(open_request()) == "busy"
        assert code_of(peer.receive()) == "unknown_session"
        others.append(served.open(other, open_request()))
        for one in others:
            other.ask(Close(one, 1))


# ---- full clouds


def test_a_full_cloud_says_busy_and_when_to_ask_again(served: Served, peer: Peer) -> None:
    """``retry_after_s`` is set and positive. A closed session frees a slot."""
    sessions = [served.open(peer, open_request()) for _ in range(4)]
    refusal = peer.ask(open_request())
    assert isinstance(refusal, Error) and refusal.code == "busy"
    assert refusal.retry_after_s is not None and 0 < refusal.retry_after_s <= 2
    for session in sessions:
        peer.ask(Close(session, 1))
    peer.ask(Close(served.open(peer, open_request()), 1))


def test_a_cloud_whose_only_row_is_still_being_cleared_says_busy(halves: Halves, tokenizer: Tokenizer) -> None:
    """One slot, closed during a step: no session is open, no slot is free, and nothing fails."""
    rows = halves.rows(PROMPT)
    with Served(halves, tokenizer, slots=1) as small, small.peer() as peer, small.peer() as other:
        session = small.open(peer, open_request())
        with halves.cloud.held():
            peer.send_request(step_of(session, 1, 0, rows), rows)
            assert halves.cloud.computing.wait(30)
            other.ask(Close(session, 2))
            refusal = other.ask(open_request())
            assert isinstance(refusal, Error) and refusal.code == "busy"
            assert refusal.retry_after_s is not None and refusal.retry_after_s > 0
        assert isinstance(other.ask(Close(small.open(other, open_request()), 1)), Closed)


def test_a_device_that_vanished_loses_its_row_after_the_idle_timeout(halves: Halves, tokenizer: Tokenizer) -> None:
    """One slot: a device takes it and leaves in the middle of a reply. Then the next device gets it."""
    with Served(halves, tokenizer, slots=1, idle_timeout_s=0.2) as small, small.peer() as other:
        with small.peer() as gone:
            session = small.open(gone, open_request())
            rows = halves.rows(PROMPT)
            gone.ask(step_of(session, 1, 0, rows), rows)
            gone.send_request(step_of(session, 2, 5, rows[:1]), rows[:1])  # and never reads the reply
        assert small.run(PROMPT, 3) == halves.tokens(PROMPT, 3)
        assert other.refusal(Finish(session, 3, 1)) == "unknown_session"


def test_the_cloud_listens_on_the_bound_port_only(served: Served) -> None:
    """The kernel lists the listening ports of this process."""
    own = {int(served.endpoint.rpartition(":")[2])}
    # libzmq's own threads close the sockets of other tests, a moment later.
    assert wait_until(lambda: listening_ports(os.getpid()) == own), (listening_ports(os.getpid()), own)


# ---- malformed requests


@given(data=st.data())
@QUICK
def test_any_frames_at_all_get_a_typed_refusal(served: Served, peer: Peer, data: st.DataObject) -> None:
    """Random frames from a REQ peer get one reply each, always bad_request."""
    frames = data.draw(st.lists(st.binary(max_size=200), min_size=1, max_size=4))
    assert code_of(peer.exchange(*frames)) == "bad_request"


@given(position=st.integers(0, 200), byte=st.integers(0, 255))
@QUICK
def test_a_damaged_header_gets_a_typed_reply(served: Served, peer: Peer, position: int, byte: int) -> None:
    """One changed byte in a valid Step: the cloud refuses it as malformed or as a Step of an unknown session."""
    rows = served.halves.rows(PROMPT)
    header, tensor = frames_of(step_of(b"s" * 16, 1, 0, rows), rows)
    damaged = bytearray(header)
    damaged[position % len(damaged)] = byte
    assert code_of(peer.exchange(bytes(damaged), tensor)) in ("bad_request", "unknown_session")


@pytest.mark.parametrize(
    "frames",
    [
        [b"\x81\xa4type\xa5steal"],
        [msgspec.msgpack.encode({"type": "hello", "version": 1, "more": 1})],
        [msgspec.msgpack.encode({"type": "hello", "version": "1"})],
        [msgspec.msgpack.encode({"type": "welcome", "version": 1})],
        [msgspec.msgpack.encode({"type": "hello"})],
        [wire.encode(Hello(1)), b"rows"],
        [wire.encode(step_of(b"s" * 16, 1, 0, torch.zeros(1, 64)))],
        [wire.encode(Hello(1)), b"", b""],
        [b""],
        [b"\x81\xa4type\xa5hello" + b"\x00" * (wire.MAX_HEADER_BYTES - 20)],
        [b"\xdd\xff\xff\xff\xff"],
        [b"\x81" * 5000],
    ],
    ids=lambda frames: f"{frames[0][:24]!r} in {len(frames)}",
)
def test_what_is_not_a_request_of_this_protocol_is_a_bad_request(peer: Peer, frames: list[bytes]) -> None:
    """An unknown type or field, a wrong type, another number of frames, or deeply nested maps."""
    assert code_of(peer.exchange(*frames)) == "bad_request"


def test_another_protocol_version_and_another_checkpoint_are_refused_with_the_cure(peer: Peer) -> None:
    """Each with its own code and a sentence of advice."""
    for request, code in (
        (Hello(wire.VERSION - 1), "unsupported_version"),
        (open_request(fingerprint=b"x" * 32), "wrong_checkpoint"),
    ):
        reply = peer.ask(request)
        assert isinstance(reply, Error) and reply.code == code and reply.advice


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": float("nan")},
        {"temperature": -0.1},
        {"temperature": float("inf")},
        {"top_p": 1.01},
        {"top_p": float("nan")},
        {"resumed_ids": (ARGS.vocab_size,)},
        {"stop_ids": (ARGS.vocab_size,)},
        {"prompt_tokens": MAX_SEQ_LEN + 1},
        {"prompt_tokens": MAX_SEQ_LEN, "resumed_ids": (1,)},
    ],
    ids=str,
)
def test_settings_and_ids_out_of_range_are_refused_at_open(peer: Peer, changes: dict[str, object]) -> None:
    """No session is opened."""
    assert peer.refusal(open_request(**changes)) == "out_of_range"  # type: ignore[arg-type]


def test_requests_for_unknown_sessions_are_refused(served: Served, peer: Peer) -> None:
    """Step, Finish and Close for a session that never existed."""
    rows = served.halves.rows(PROMPT)
    assert peer.refusal(step_of(b"?" * 16, 1, 0, rows), rows) == "unknown_session"
    assert peer.refusal(Finish(b"?" * 16, 1, 0)) == "unknown_session"
    assert peer.refusal(Close(b"?" * 16, 1)) == "unknown_session"


def test_rows_of_another_dtype_width_or_length_are_a_wrong_tensor(served: Served, peer: Peer) -> None:
    """The refused step does not count, and nothing is computed."""
    rows = served.halves.rows(PROMPT)
    before = served.halves.cloud.steps
    with served.session(peer) as session:
        good = step_of(session, 1, 0, rows)
        replace = msgspec.structs.replace
        for step, frame in (
            (replace(good, dtype="float16"), bytes(5 * 64 * 2)),
            (replace(good, dtype="object"), bytes(5 * 64 * 4)),
            (replace(good, dim=32), bytes(5 * 32 * 4)),
            (replace(good, dim=0), b""),
            (good, b""),
            (good, bytes(5 * 64 * 4 - 1)),
            (good, bytes(5 * 64 * 4 + 4)),
        ):
            assert code_of(peer.exchange(wire.encode(step), frame)) == "wrong_tensor"
        assert served.halves.cloud.steps == before
        assert isinstance(peer.ask(good, rows), Tokens)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_rows_that_are_not_finite_are_refused_and_leave_the_run_as_it_was(
    served: Served, peer: Peer, bad: float
) -> None:
    """The refusal counts in the sequence. The same rows without the fault then give the right ids."""
    rows = served.halves.rows(PROMPT)
    with served.session(peer) as session:
        peer.ask(step_of(session, 1, 0, rows[:3], want=0), rows[:3])
        spoiled = rows[3:].clone()
        spoiled[-1, 5] = bad
        assert peer.refusal(step_of(session, 2, 3, spoiled), spoiled) == "not_finite"
        assert peer.refusal(step_of(session, 2, 3, rows[3:]), rows[3:]) == "out_of_sequence"
        tokens = peer.ask(step_of(session, 3, 3, rows[3:]), rows[3:])
    assert isinstance(tokens, Tokens) and list(tokens.ids) == served.halves.tokens(PROMPT, 1, chunk=3)


def test_logits_that_are_not_finite_are_refused_instead_of_sampled(tokenizer: Tokenizer) -> None:
    """A cloud half has one damaged weight.

    The step is refused and gets no ids. Steps that want none are not affected.
    """
    damaged = Halves(seed=1, spoil=lambda cloud: cloud.output.weight[7, 7].fill_(float("nan")))
    rows = damaged.rows(PROMPT)
    with Served(damaged, tokenizer) as served, served.peer() as peer:
        session = served.open(peer, open_request())
        assert isinstance(peer.ask(step_of(session, 1, 0, rows[:4], want=0), rows[:4]), Tokens)
        assert peer.refusal(step_of(session, 2, 4, rows[4:]), rows[4:]) == "not_finite"


def test_a_step_for_which_memory_is_lacking_is_refused_and_the_run_goes_on(tokenizer: Tokenizer) -> None:
    """The allocator fails once inside the model. Smaller chunks then give the right id."""
    halves = Halves(seed=1)
    rows = halves.rows(PROMPT)
    with Served(halves, tokenizer) as served, served.peer() as peer:
        session = served.open(peer, open_request())
        too_much = halves.cloud.register_forward_pre_hook(lambda *_: torch.empty(1 << 60) and None)
        assert peer.refusal(step_of(session, 1, 0, rows), rows) == "internal"
        too_much.remove()
        assert isinstance(peer.ask(step_of(session, 2, 0, rows[:3], want=0), rows[:3]), Tokens)
        tokens = peer.ask(step_of(session, 3, 3, rows[3:]), rows[3:])
    assert isinstance(tokens, Tokens) and list(tokens.ids) == halves.tokens(PROMPT, 1, chunk=3)


def test_logits_beyond_the_tokenizers_ids_are_never_chosen(golden: Path, tmp_path: Path) -> None:
    """Some checkpoints pad the vocabulary. Here the likeliest id is always one of two that are not tokens."""
    lines = (golden / "tiny-llama3" / "tokenizer.model").read_bytes().splitlines(keepends=True)
    (tmp_path / "tokenizer.model").write_bytes(b"".join(lines[:-2]))
    tokenizer, huge = Tokenizer(tmp_path / "tokenizer.model"), torch.randn(ARGS.dim) * 100
    halves = Halves(
        seed=1, spoil=lambda cloud: cloud.output.weight[tokenizer.n_words :].copy_(torch.stack([huge, -huge]))
    )
    assert halves.tokens(PROMPT, 1)[0] >= tokenizer.n_words
    with Served(halves, tokenizer) as served, served.peer() as peer:
        assert peer.refusal(open_request(resumed_ids=(tokenizer.n_words,))) == "out_of_range"
        assert all(token < tokenizer.n_words for token in served.run(PROMPT, 10))


def test_the_largest_finite_rows_get_a_typed_reply(served: Served, peer: Peer) -> None:
    """Their squares overflow inside the model. The next session in the same slot is not affected."""
    huge = torch.full((2, ARGS.dim), torch.finfo(torch.float32).max)
    with served.session(peer, open_request(2)) as session:
        assert peer.refusal(step_of(session, 1, 0, huge), huge) in ("not_finite", "Tokens")


def test_positions_wants_and_ends_out_of_range_are_refused(served: Served, peer: Peer) -> None:
    """A gap in the cache, positions beyond the context, too many rows, and wrong ids or ends.

    The wrong ids are those of the prompt and those after a gap. The wrong end is one that the reply has not reached.
    """
    many = torch.zeros(MAX_ROWS + 1, ARGS.dim)
    rows = served.halves.rows(PROMPT)
    with served.session(peer) as session:
        for step, tensor in (
            (step_of(session, 1, 1, rows), rows),
            (step_of(session, 1, 2**31 - 1, rows), rows),
            (step_of(session, 1, 0, many, want=0), many),
            (step_of(session, 1, 0, rows, want=2), rows),  # the first wanted row lies in the prompt
            (step_of(session, 1, 0, rows, want=6), rows),
            (step_of(session, 1, 0, rows[:3]), rows[:3]),
            (msgspec.structs.replace(step_of(session, 1, 0, rows), rows=2**31 - 1), rows),
        ):
            assert peer.refusal(step, tensor) == "out_of_range"
        assert peer.refusal(Finish(session, 1, 1)) == "out_of_range"
        assert isinstance(peer.ask(step_of(session, 1, 0, rows), rows), Tokens)
        assert peer.refusal(Finish(session, 2, 2)) == "out_of_range"
    with served.session(peer, open_request(MAX_SEQ_LEN)) as session:
        full = torch.zeros(MAX_ROWS, ARGS.dim)
        for i in range(MAX_SEQ_LEN // MAX_ROWS):
            assert isinstance(peer.ask(step_of(session, i + 1, i * MAX_ROWS, full, want=0), full), Tokens)
        assert peer.refusal(step_of(session, 5, MAX_SEQ_LEN, rows, want=0), rows) == "out_of_range"
        assert peer.refusal(step_of(session, 5, MAX_SEQ_LEN - 4, rows, want=0), rows) == "out_of_range"


def test_peers_that_are_no_REQ_are_ignored_or_answered_by_the_envelope_they_send(served: Served) -> None:
    """A DEALER without the empty frame gets no reply.

    With it, it gets replies like a REQ, also to requests in a row.
    """
    with served.peer(zmq.DEALER) as dealer:
        dealer.send(wire.encode(Hello(wire.VERSION)))
        dealer.send(b"x", b"y", b"z")
        dealer.send(b"")
        dealer.send(b"", wire.encode(Hello(wire.VERSION)))
        assert dealer.receive() == served.welcome
        dealer.send(b"", b"")
        dealer.send(b"", wire.encode(Hello(wire.VERSION)))
        assert [code_of(dealer.receive()) for _ in range(2)] == ["bad_request", "Welcome"]
        assert not dealer.socket.poll(0)


def test_a_frame_beyond_the_limit_costs_its_sender_the_connection_and_nobody_else_anything(served: Served) -> None:
    """The kernel delivers at most a few buffers of it. The cloud disconnects the peer."""
    with served.peer() as large:
        monitor = large.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        large.send(wire.encode(Hello(wire.VERSION)) + bytes(8 << 20))
        assert monitor.poll(30_000), "the connection is still there"
        large.socket.disable_monitor()


def test_raw_bytes_that_are_not_ZeroMQ_at_all_do_no_harm(served: Served) -> None:
    """An HTTP request and random bytes on the plain TCP port."""
    import socket

    host, port = served.endpoint.removeprefix("tcp://").split(":")
    for data in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"\xff" + bytes(8) + b"\x7f"):
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(data)


def test_a_crowd_of_peers_that_ask_and_leave_does_no_harm(served: Served) -> None:
    """Sixty sockets that send a request and close without reading the answer."""
    for i in range(60):
        with served.peer(zmq.DEALER) as peer:
            peer.send(b"", wire.encode(Hello(wire.VERSION)) if i % 2 else os.urandom(50))


# ---- any order of requests


@dataclass
class Known:
    """A session's state according to the contract, kept apart from the server's own bookkeeping."""

    id: bytes
    request: wire.Open
    seq: int = 0
    filled: int = 0
    outputs: int = 0
    last: tuple[list[bytes], bytes] | None = field(default=None, repr=False)


class AnyOrder(RuleBasedStateMachine):
    """Requests in any order to a server with two slots. Each answer must follow the contract."""

    served: Served

    @initialize()
    def connect(self) -> None:
        self.peer = self.served.peer()
        self.known: dict[int, Known] = {}
        self.gone: list[bytes] = []
        self.steps = self.served.halves.cloud.steps

    def teardown(self) -> None:
        for session in self.known.values():
            self.peer.ask(Close(session.id, 1))
        self.peer.__exit__()
        assert self.served.thread.is_alive()

    @rule(run=st.integers(0, 2), prompt=st.integers(1, 6), resumed=st.integers(0, 3))
    def open(self, run: int, prompt: int, resumed: int) -> None:
        request = open_request(prompt, run_id=bytes([run + 200]) * 16, resumed_ids=tuple(range(resumed)))
        known = self.known.get(run)
        if known is not None and known.request == request:
            assert self.peer.ask(request) == Opened(known.id)
            return
        if known is not None:
            self.gone.append(self.known.pop(run).id)
        if len(self.known) == 2:
            assert self.peer.refusal(request) == "busy"
            return
        self.known[run] = Known(self.served.open(self.peer, request), request, outputs=resumed)

    @precondition(lambda self: self.known)
    @rule(
        data=st.data(), delta=st.sampled_from([1, 1, 1, 1, 0, 2]), back=st.integers(-1, 3), rows=st.integers(1, 5),
        want=st.integers(0, 3), fault=st.sampled_from(["", "", "", "", "nan", "short", "dtype"]),
    )  # fmt: skip
    def step(self, data: st.DataObject, delta: int, back: int, rows: int, want: int, fault: str) -> None:
        known = data.draw(st.sampled_from(list(self.known.values())))
        prompt, position = known.request.prompt_tokens, max(0, known.filled - back)
        tensor = torch.randn(rows, ARGS.dim)
        if fault == "nan":
            tensor[0, 0] = float("nan")
        step = step_of(known.id, max(1, known.seq + delta), position, tensor, want)
        header, frame = frames_of(msgspec.structs.replace(step, dtype="float16") if fault == "dtype" else step, tensor)
        frames = [header, frame[:-1] if fault == "short" else frame]
        first = position + rows - want + 1 - prompt

        self.peer.send(*frames)
        raw = self.peer.receive_bytes()
        reply = wire.decode_reply(raw)
        if step.seq != known.seq + 1:
            expected = "out_of_sequence"
        elif position > known.filled or position + rows > MAX_SEQ_LEN or want > rows or (
            want and not 0 <= first <= known.outputs
        ):  # fmt: skip
            expected = "out_of_range"
        elif fault in ("short", "dtype"):
            expected = "wrong_tensor"
        else:
            expected = "not_finite" if fault == "nan" else "Tokens"
            known.seq, known.last = known.seq + 1, (frames, raw)
            known.filled = min(known.filled, position) if fault else position + rows
            self.steps += not fault
        assert code_of(reply) == expected
        if isinstance(reply, Tokens):
            assert len(reply.ids) == want and all(i < ARGS.vocab_size for i in reply.ids)
            known.outputs = max(known.outputs, first + want) if want else known.outputs
        assert self.served.halves.cloud.steps == self.steps

    @precondition(lambda self: any(k.last for k in self.known.values()))
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        known = data.draw(st.sampled_from([k for k in self.known.values() if k.last]))
        assert known.last is not None
        self.peer.send(*known.last[0])
        assert self.peer.receive_bytes() == known.last[1]
        assert self.served.halves.cloud.steps == self.steps

    @precondition(lambda self: self.known)
    @rule(data=st.data(), delta=st.sampled_from([1, 1, 2]), beyond=st.integers(-2, 1))
    def finish(self, data: st.DataObject, delta: int, beyond: int) -> None:
        known = data.draw(st.sampled_from(list(self.known.values())))
        end = max(0, known.outputs + beyond)
        frames = frames_of(Finish(known.id, known.seq + delta, end))
        self.peer.send(*frames)
        raw = self.peer.receive_bytes()
        if delta == 2:
            expected = "out_of_sequence"
        elif end > known.outputs:
            expected = "out_of_range"
        else:
            expected, known.seq, known.last = "Final", known.seq + 1, (frames, raw)
        assert code_of(wire.decode_reply(raw)) == expected

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(list(self.known)))
        known = self.known.pop(run)
        self.gone.append(known.id)
        assert isinstance(self.peer.ask(Close(known.id, known.seq + 1)), Closed)

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def ask_of_the_gone(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(self.gone))
        assert self.peer.refusal(Finish(session, 1, 0)) == "unknown_session"
        assert isinstance(self.peer.ask(Close(session, 1)), Closed)

    @rule(frames=st.lists(st.binary(max_size=50), min_size=1, max_size=3))
    def garbage(self, frames: list[bytes]) -> None:
        assert code_of(self.peer.exchange(*frames)) == "bad_request"


def test_requests_in_any_order_get_what_the_contract_says(halves: Halves, tokenizer: Tokenizer) -> None:
    """A model of the contract, written independently above, predicts each answer. Afterwards an honest run works."""
    from hypothesis.stateful import run_state_machine_as_test

    with Served(halves, tokenizer, slots=2) as served:
        machine = type("Machine", (AnyOrder,), {"served": served})
        run_state_machine_as_test(machine, settings=settings(examples(0.4), stateful_step_count=30))
        assert served.run(PROMPT, 4) == halves.tokens(PROMPT, 4)
        assert len(served.server.sessions) == 0


def test_stopping_waits_for_the_step_in_hand_and_delivers_its_answer(halves: Halves, tokenizer: Tokenizer) -> None:
    """The device gets its ids although the server was stopped in between."""
    rows = halves.rows(PROMPT)
    with Served(halves, tokenizer) as served, served.peer() as peer:
        session = served.open(peer, open_request())
        with halves.cloud.held():
            peer.send_request(step_of(session, 1, 0, rows), rows)
            assert halves.cloud.computing.wait(30)
            served.stop.set()
        assert isinstance(peer.receive(), Tokens)
        served.thread.join(30)
        assert not served.thread.is_alive()


def test_threads_of_a_stopped_server_are_gone(halves: Halves, tokenizer: Tokenizer) -> None:
    """Starting and stopping leaves no thread behind."""
    before = set(threading.enumerate())
    with Served(halves, tokenizer) as served:
        assert served.run(PROMPT, 1) == halves.tokens(PROMPT, 1)
    assert set(threading.enumerate()) <= before
