"""Claims about limits: a peer's rates, the treatment of peers that exceed them, and the cloud's memory ceiling."""

from __future__ import annotations

import math
import mmap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import zmq
from hypothesis import given
from hypothesis import strategies as st

import cloud_main
from llama import wire
from llama.checkpoint.halves import read_half, tokenizer_of
from llama.client.link import Link
from llama.cloud.rate_limit import MAX_KNOWN, RateLimiter, RateLimits
from llama.edge.generation import GeneratedReply, GenerationSettings, generate_reply
from llama.errors import MemoryCeilingReached, UsageError
from llama.memory_ceiling import MemoryCeiling, own_memory
from llama.tokenizer import Tokenizer
from llama.wire import Error, Hello, Tokens, Welcome
from tests.processes import ANY_PORT, cloud, end, launch
from tests.raw import MORE, flood_with_frames, joined
from tests.support import (
    ARGS,
    GREEDY,
    MAX_ROWS,
    MAX_SEQ_LEN,
    Halves,
    Keys,
    Served,
    code_of,
    frames_of,
    run_main,
    step_of,
)
from tests.whole import load_edge

PROMPT = [258, 84, 104, 101, 32]
HELLO = Hello(wire.VERSION)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# ---- the rate limiter


def test_who_stays_within_the_limit_never_waits_and_who_does_not_waits_exactly_as_long_as_said() -> None:
    """100 bytes a second. 200 of them, the allowance of two seconds, may come at once."""
    clock = Clock()
    limiter = RateLimiter(100, math.inf, 10, clock)
    for _ in range(50):
        assert limiter.wait_s("one", 10) == 0
        clock.now += 0.1
    assert [limiter.wait_s("one", 50) for _ in range(4)] == [0, 0, 0, 0]
    wait_s = limiter.wait_s("one", 50)
    assert wait_s == pytest.approx(0.5) and limiter.wait_s("other", 50) == 0
    clock.now += 0.9 * wait_s
    assert limiter.wait_s("one", 50) == pytest.approx(0.1 * wait_s)  # a refused request costs nothing
    clock.now += 0.1 * wait_s + 1e-9
    assert limiter.wait_s("one", 50) == 0


def test_a_few_of_the_largest_messages_come_at_once_however_low_the_limit_is() -> None:
    """Otherwise a device could never send a chunk of a prompt."""
    limiter = RateLimiter(1, 0.001, 1000, Clock())
    assert [limiter.wait_s("one", 1000) > 0 for _ in range(5)] == [False] * 4 + [True]


@given(
    asked=st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["a", "b"]), st.integers(0, 100)), max_size=60),
    bytes_s=st.sampled_from([10.0, 50.0, math.inf]), requests_s=st.sampled_from([1.0, 5.0, math.inf]),
)  # fmt: skip
def test_in_no_time_span_does_a_peer_get_more_than_the_burst_and_its_rate(
    asked: list[tuple[float, str, int]], bytes_s: float, requests_s: float
) -> None:
    """The test sums up the sizes between each pair of accepted requests."""
    clock, let_through = Clock(), list[tuple[float, str, int]]()
    limiter = RateLimiter(bytes_s, requests_s, 100, clock)
    for later, peer, size in asked:
        clock.now += later
        if limiter.wait_s(peer, size) == 0:
            let_through.append((clock.now, peer, size))
    for i, (begin, peer, _) in enumerate(let_through):
        for j in range(i, len(let_through)):
            span = [size for _, its, size in let_through[i : j + 1] if its == peer]
            seconds = let_through[j][0] - begin
            assert sum(span) <= max(2 * bytes_s, 400) + bytes_s * seconds + 1e-6 or bytes_s == math.inf
            assert len(span) <= max(2 * requests_s, 4) + requests_s * seconds + 1e-6 or requests_s == math.inf


def test_however_many_peers_come_only_so_many_are_remembered() -> None:
    """These are the last ones."""
    limiter = RateLimiter(1, 1, 1, Clock())
    for i in range(3 * MAX_KNOWN):
        limiter.wait_s(i.to_bytes(4, "big"), 4)
        assert len(limiter) <= MAX_KNOWN
    assert limiter.wait_s((3 * MAX_KNOWN - 1).to_bytes(4, "big"), 4) > 0


def test_the_ceiling_is_looked_at_now_and_then_and_says_how_much_there_is() -> None:
    """It is not checked at each message, since a check asks the system."""
    clock, asked, used = Clock(), 0, 1 << 30

    def ask() -> int:
        nonlocal asked
        asked += 1
        return used

    ceiling = MemoryCeiling(2 << 30, clock, ask)
    for _ in range(100):
        ceiling.check()
    assert asked == 1
    clock.now, used = clock.now + 1, 3 << 30
    with pytest.raises(MemoryCeilingReached, match=r"3\.00 GiB.*2\.00.*--max_memory_gb.*start it again") as reported:
        ceiling.check()
    assert reported.value.exit_code == 3


def test_a_processs_own_memory_is_what_it_wrote_to() -> None:
    """To within a tenth. The test asks no allocator, since an allocator may have had the memory before."""
    before = own_memory()
    with mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        block.write(b"x" * len(block))
        after = own_memory()
        assert before is not None and after is not None
        assert after - before == pytest.approx(len(block), rel=0.1)


# ---- at the router


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


@pytest.fixture
def served(halves: Halves, tokenizer: Tokenizer) -> Iterator[Served]:
    """A cloud that allows 20 requests a second, 40 at once. Another connection gets its tokens after each test."""
    with Served(halves, tokenizer, limits=RateLimits(requests_s=20)) as served:
        yield served
        assert served.run(PROMPT, 4) == halves.tokens(PROMPT, 4)
        assert len(served.server.sessions) == 0


@pytest.mark.long
def test_a_connection_beyond_its_rate_is_told_when_to_ask_again_and_nothing_is_computed(served: Served) -> None:
    """The refused step does not count. Sent again unchanged, it is computed once."""
    rows = served.halves.rows(PROMPT)
    with served.peer() as peer, served.session(peer) as session:
        while isinstance(refused := peer.ask(HELLO), Welcome):
            pass
        assert isinstance(refused, Error) and refused.code == "busy"
        assert refused.retry_after_s is not None and 0 < refused.retry_after_s < 0.1
        steps = served.halves.cloud.steps
        while isinstance(reply := peer.ask(step_of(session, 1, 0, rows), rows), Error):
            assert reply.code == "busy" and served.halves.cloud.steps == steps
            assert reply.retry_after_s is not None
            time.sleep(reply.retry_after_s)  # a connection that ignores it 40 times is closed
        assert isinstance(reply, Tokens) and served.halves.cloud.steps == steps + 1


def test_rows_beyond_the_rate_are_not_even_read(halves: Halves, tokenizer: Tokenizer) -> None:
    """The largest steps, for a session that does not exist."""
    rows = torch.zeros(MAX_ROWS, ARGS.dim)
    with Served(halves, tokenizer, limits=RateLimits(bytes_s=1000)) as served, served.peer() as peer:
        codes = list[str]()
        while "busy" not in codes:
            codes.append(peer.refusal(step_of(bytes(16), 1, 0, rows), rows))
        assert codes[0] == "unknown_session"
        largest = wire.RequestDecoder(MAX_SEQ_LEN).max_header_bytes + rows.nbytes
        assert len(codes) == pytest.approx(4 * largest / rows.nbytes, rel=0.1)
        assert served.run(PROMPT, 4) == halves.tokens(PROMPT, 4)


def test_a_keys_rate_is_that_of_all_its_connections_and_of_no_other_key(
    halves: Halves, tokenizer: Tokenizer, keys: Keys
) -> None:
    """Eight connections take turns. Together they get the rate of one key."""
    greedy, modest = keys.make("greedy"), keys.make("modest")
    with Served(halves, tokenizer, keys=keys.of_the_cloud(), limits=RateLimits(requests_s=20)) as served:
        peers = [served.peer(keys=greedy) for _ in range(8)]
        codes = [code_of(peers[i % 8].ask(HELLO)) for i in range(200)]
        assert codes[:40] == ["Welcome"] * 40 and "busy" in codes[40:]
        assert served.run(PROMPT, 8, keys=modest) == halves.tokens(PROMPT, 8)
        for peer in peers:
            peer.__exit__()


@pytest.mark.long
def test_a_device_beyond_its_rate_waits_and_gets_the_very_tokens(halves: Halves, tokenizer: Tokenizer) -> None:
    """A reply of 50 tokens at a rate of 10 requests a second, with a burst of 20."""
    reported = list[str]()
    with (
        Served(halves, tokenizer, limits=RateLimits(requests_s=10)) as served,
        Link(served.endpoint, on_notice=reported.append) as link,
    ):
        reply = _reply(link, halves, served.welcome, tokenizer, 50)
        assert reply.tokens == halves.tokens(PROMPT, 50)
        assert reply.timing.reopened == 0 and any("trying again in" in line for line in reported)


def test_who_goes_on_sending_beyond_its_rate_is_disconnected_and_may_come_back(served: Served) -> None:
    """A device waits a tenth of a second before it asks again; this peer does not wait.

    Its next connection works as usual.
    """
    with served.peer(zmq.DEALER) as flooder:
        flooder.socket.setsockopt(zmq.RECONNECT_IVL, -1)
        monitor = flooder.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        sent = 0
        while not monitor.poll(0):
            if flooder.socket.poll(5, zmq.POLLOUT):
                flooder.send(b"", *frames_of(HELLO))
                sent += 1
            assert sent < 100_000
        flooder.socket.disable_monitor()
    with served.peer() as again:
        assert again.ask(HELLO) == served.welcome


def test_a_message_of_very_many_frames_costs_its_sender_the_connection_and_no_memory(served: Served) -> None:
    """A message of 300,000 frames. As Python objects they would take 60 MB, all at the same time."""
    with served.peer() as peer:  # the cloud answers it while it reads and drops the frames
        with joined(served.endpoint) as raw:
            raw.settimeout(20)  # less than libzmq's heartbeat timeout
            raw.sendall(MORE * 300_000 + b"\x00\x00")
            assert peer.ask(HELLO) == served.welcome
            while raw.recv(1 << 16):
                pass


# ---- the ceiling


def _reply(
    link: Link, halves: Halves, welcome: Welcome, tokenizer: Tokenizer, n: int,
    on_text: Callable[[str], None] = lambda text: None,
) -> GeneratedReply:  # fmt: skip
    return generate_reply(
        PROMPT, edge=halves.edge, link=link, welcome=welcome, tokenizer=tokenizer,
        settings=GenerationSettings(GREEDY, stop_ids=(), max_gen_len=n), on_text=on_text,
    )  # fmt: skip


@pytest.mark.process
def test_a_flood_of_frames_ends_the_cloud_with_one_line_and_its_next_start_goes_on_with_the_reply(
    tiny_split: Callable[..., Path], tmp_path: Path
) -> None:
    """The cloud ends during a reply of 30 tokens, and none is lost.

    The message never ends, so libzmq never hands it to the cloud.
    """
    out, n, flags = tiny_split(), 30, ("--max_memory_gb", 1)
    half, tokenizer = load_edge(out), tokenizer_of(read_half(out / "edge", "edge"))
    with cloud(out / "cloud", *flags) as first, Link(first.address, deadline_s=120, on_notice=lambda _: None) as link:

        def reply(on_text: Callable[[str], None] = lambda text: None) -> GeneratedReply:
            return generate_reply(
                PROMPT, edge=half, link=link, welcome=link.hello(), tokenizer=tokenizer,
                settings=GenerationSettings(GREEDY, stop_ids=(), max_gen_len=n), on_text=on_text,
            )  # fmt: skip

        undisturbed, pieces = reply(), list[str]()
        starts = []

        def on_text(text: str) -> None:
            pieces.append(text)
            if len(pieces) == 10:
                flooder = threading.Thread(target=flood_with_frames, args=(first.address, 1 << 26))
                flooder.start()
                assert first.wait() == 3
                flooder.join()
                starts.append(launch(tmp_path / "log", "--ckpt_dir", out / "cloud", *flags, bind=first.address))

        try:
            got = reply(on_text)
        finally:
            for start in starts:
                end(start)
        assert (got.tokens, got.text) == (undisturbed.tokens, undisturbed.text)
        assert got.timing.reopened == 1
        (error,) = [line for line in first.said() if "ready in" not in line]
        assert error.startswith("error: this cloud uses 1.") and error.endswith("devices then continue their replies")


@pytest.mark.process
def test_a_cache_has_all_its_memory_from_the_start() -> None:
    """So filling it stays within the ceiling, which is set when the cloud is ready. The test runs in a new process."""
    ended = run_main("-c", """
import torch
from llama.memory_ceiling import own_memory
from llama.kv_cache import KVCache
from llama.model_args import ModelArgs
before = own_memory()
cache = KVCache.allocate(4, ModelArgs(dim=64, n_layers=4, n_heads=4), batch_size=16, max_seq_len=16384,
                         dtype=torch.float32, device=torch.device("cpu")).keys_values
print(own_memory() - before, cache.nbytes)
""")  # fmt: skip
    grown, size = map(int, ended.stdout.split())
    assert grown > 0.9 * size > 1e8


@pytest.mark.process
def test_limits_that_cannot_be_are_refused_in_one_line(tiny_split: Callable[..., Path]) -> None:
    """A ceiling below the memory of a ready cloud is refused."""
    half = str(tiny_split() / "cloud")
    with pytest.raises(UsageError, match=r"--max_mb_s_per_key must be greater than 0, or inf for no limit \(got 0\)"):
        cloud_main.main(half, max_mb_s_per_key=0)
    with pytest.raises(
        UsageError, match=r"--max_requests_s_per_key must be greater than 0, or inf for no limit \(got nan\)"
    ):
        cloud_main.main(half, max_requests_s_per_key=math.nan)
    ended = run_main("cloud_main.py", "--ckpt_dir", half, "--bind", ANY_PORT, "--max_memory_gb", "0.01")
    assert ended.returncode == 2
    assert (
        ended.stderr.startswith("error: --max_memory_gb is too small: the idle cloud uses 0.")
        and ended.stderr.count("\n") == 1
    )
    assert ended.stderr.endswith("(got 0.01); raise it, or lower --kv_cache_gb\n")
