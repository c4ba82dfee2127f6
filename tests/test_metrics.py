"""Claims about what the cloud counts and how it is looked at: over real sockets, and read as Prometheus reads it."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from llama import wire
from llama.cloud.metrics import Metrics, total
from llama.cloud.metrics_http import CONNECTION_S, MAX_CONNECTIONS, MAX_HEAD_BYTES, MetricsServer
from llama.cloud.sessions import EndReason, Session
from llama.errors import BindError, UsageError
from llama.local_http import listen
from llama.tokenizer import Tokenizer
from llama.wire import Close, ErrorCode, Finish, Hello, Tokens
from tests.processes import ask, cloud, wait_until
from tests.support import MAX_SEQ_LEN, Halves, Peer, Served, event_of, frames_of, open_request, run_main, step_of

PROMPT = [258, *b"The quick brown fox jumps"]
Values = dict[tuple[str, str], float]
"""By name, without ``split_llama_``, and by its label's value, if it has one."""


def get(address: str, path: str) -> tuple[int, str]:
    """Status and body of what is there."""
    try:
        with urllib.request.urlopen(address + path, timeout=30) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as err:
        return err.code, err.read().decode()


def values_at(address: str) -> Values:
    """All samples that ``/metrics`` has now."""
    status, text = get(address, "/metrics")
    assert status == 200
    values = Values()
    for family in text_string_to_metric_families(text):
        assert family.documentation and family.name.startswith("split_llama_")
        for sample in family.samples:
            values[sample.name.removeprefix("split_llama_"), "".join(sample.labels.values())] = sample.value
    return values


@dataclass
class Watched:
    served: Served
    address: str

    def come_to(self, **expected: float) -> None:
        """Until these, which have no labels, have their values: some are counted after the reply is sent."""
        seen = Values()

        def so() -> bool:
            seen.update(values_at(self.address))
            return all(seen[name, ""] == value for name, value in expected.items())

        assert wait_until(so, 20), {name: seen[name, ""] for name in expected}


@pytest.fixture
def watched(halves: Halves, tokenizer: Tokenizer) -> Iterator[Watched]:
    with watching(halves, tokenizer) as watched:
        yield watched


class watching:
    """A server, by default with two places, and room for two in line, and its monitoring."""

    def __init__(self, halves: Halves, tokenizer: Tokenizer, idle_timeout_s: float = 120.0, slots: int = 2) -> None:
        self.served = Served(halves, tokenizer, slots=slots, most_waiting=2, idle_timeout_s=idle_timeout_s)
        self.monitoring = MetricsServer(0, self.served.server.metrics.registry, self.served.server.health)

    def __enter__(self) -> Watched:
        self.served.__enter__()
        return Watched(self.served, self.monitoring.address)

    def __exit__(self, *_: object) -> None:
        self.served.__exit__()
        self.monitoring.close()


# ---- what is counted


def test_a_run_is_counted_to_the_row_and_the_token(watched: Watched) -> None:
    """A prompt of 26 rows in two chunks, nine tokens: eight decoding steps, each with its three times."""
    assert watched.served.run(PROMPT, 9) == watched.served.halves.tokens(PROMPT, 9)
    watched.come_to(
        prompt_tokens_total=len(PROMPT), tokens_total=9, sessions_opened_total=1, sessions_open=0,
        decode_away_seconds_count=8, decode_queue_seconds_count=8, decode_compute_seconds_count=8,
        decode_batch_size_count=8, decode_batch_size_sum=8, cache_filled_positions=0,
    )  # fmt: skip
    values = values_at(watched.address)
    assert values["sessions_ended_total", "closed"] == 1
    assert not any(values["refusals_total", code] for code in ErrorCode)
    for part in ("away", "queue", "compute"):
        assert values[f"decode_{part}_seconds_sum", ""] > 0


def test_bytes_are_those_of_the_messages(watched: Watched) -> None:
    """Both frames of a Step, and what is no request at all, too."""
    asked = [frames_of(Hello(wire.VERSION)), [b"nonsense"]]
    with watched.served.peer() as peer:
        answers = [_exchanged(peer, frames) for frames in asked]
        request = open_request(len(PROMPT))
        answers.append(_exchanged(peer, frames_of(request)))
        opened = wire.decode_reply(answers[-1])
        assert isinstance(opened, wire.Opened)
        rows = watched.served.halves.rows(PROMPT)[:16]
        step = step_of(opened.session, 1, 0, rows, want=0)
        answers.append(_exchanged(peer, frames_of(step, rows)))
    asked += [frames_of(request), frames_of(step, rows)]
    watched.come_to(
        received_bytes_total=sum(len(frame) for frames in asked for frame in frames),
        sent_bytes_total=sum(map(len, answers)),
    )


def _exchanged(peer: Peer, frames: list[bytes]) -> bytes:
    peer.send(*frames)
    return peer.receive_bytes()


def test_a_repeated_step_is_counted_once_but_for_its_bytes(watched: Watched) -> None:
    rows = watched.served.halves.rows(PROMPT[:10])
    with watched.served.peer() as peer, watched.served.session(peer, open_request(10)) as session:
        step = step_of(session, 1, 0, rows)
        for _ in range(3):
            assert isinstance(peer.ask(step, rows), Tokens)
        watched.come_to(tokens_total=1, prompt_tokens_total=10)
        assert values_at(watched.address)["received_bytes_total", ""] > 3 * rows.nbytes


def test_rows_of_a_reply_that_is_replayed_are_no_prompt(watched: Watched) -> None:
    """A session that was lost is opened again: the chunk has the prompt and three ids of the reply."""
    rows = watched.served.halves.rows([*PROMPT[:10], 65, 66, 67])
    with watched.served.peer() as peer:
        with watched.served.session(peer, open_request(10, resumed_ids=(65, 66, 67))) as session:
            assert isinstance(peer.ask(step_of(session, 1, 0, rows), rows), Tokens)
            watched.come_to(tokens_total=1, prompt_tokens_total=10, cache_filled_positions=13)


def test_how_full_the_cloud_is_is_told_as_it_is_now(watched: Watched) -> None:
    """Two places, both taken; one waits in line."""
    served, keys_values = watched.served, watched.served.cache.keys_values
    room = {"slots": 2, "cache_positions": 2 * MAX_SEQ_LEN, "cache_bytes": keys_values.nbytes}
    watched.come_to(**room, sessions_open=0, sessions_waiting=0, cache_filled_positions=0)
    with served.peer() as one, served.peer() as other, served.peer() as third:
        with served.session(one) as session, served.session(other):
            rows = served.halves.rows(PROMPT[:5])
            one.ask(step_of(session, 1, 0, rows), rows)
            third.send_request(open_request())
            watched.come_to(**room, sessions_open=2, sessions_waiting=1, cache_filled_positions=5)
        assert isinstance(third.receive(), wire.Opened)
    watched.come_to(**room, sessions_open=1, sessions_waiting=0, cache_filled_positions=0)


def test_steps_that_share_a_pass_are_seen_to(halves: Halves, tokenizer: Tokenizer) -> None:
    """Two rows arrive while another's chunk is held: their pass is one of two rows."""
    with watching(halves, tokenizer, slots=3) as watched, ExitStack() as stack:
        served, rows = watched.served, halves.rows(PROMPT[:5])
        peers = [stack.enter_context(served.peer()) for _ in range(3)]
        *decoding, chunk = [(peer, served.open(peer, open_request(4))) for peer in peers]
        for peer, session in decoding:
            peer.ask(step_of(session, 1, 0, rows[:4]), rows[:4])
        with halves.cloud.held():
            chunk[0].send_request(step_of(chunk[1], 1, 0, rows[:4]), rows[:4])
            assert halves.cloud.computing.wait(20)
            for peer, session in decoding:
                peer.send_request(step_of(session, 2, 4, rows[4:]), rows[4:])
            assert wait_until(lambda: served.server.jobs_waiting == 2)
        assert all(isinstance(peer.receive(), Tokens) for peer in peers)
        watched.come_to(decode_batch_size_count=1, decode_batch_size_sum=2, decode_compute_seconds_count=2)


def test_every_refusal_is_counted_under_its_code(watched: Watched) -> None:
    some = bytes(16)
    with watched.served.peer() as peer:
        refused = [
            peer.refusal(Hello(wire.VERSION + 1)),
            peer.refusal(open_request(fingerprint=bytes(32))),
            peer.refusal(open_request(MAX_SEQ_LEN + 1)),
            peer.refusal(Close(some, 1)),
            peer.refusal(Finish(some, 1, 0)),
            peer.refusal(wire.FetchSheet("gifts")),
        ]
        with watched.served.session(peer) as session:
            rows = torch.full((1, watched.served.welcome.dim), float("nan"))
            refused.append(peer.refusal(step_of(session, 1, 0, rows, want=0), rows))
        refused.append(wire.decode_reply(_exchanged(peer, [b"nonsense"])).code)  # type: ignore[union-attr]
    values = values_at(watched.address)
    counted = {code: values["refusals_total", code] for code in ErrorCode if values["refusals_total", code]}
    assert counted == {ErrorCode(code): refused.count(code) for code in refused}
    assert counted[ErrorCode.UNKNOWN_SESSION] == 2 and len(counted) == 7


def test_sessions_that_nobody_uses_are_counted_as_such(halves: Halves, tokenizer: Tokenizer) -> None:
    with watching(halves, tokenizer, idle_timeout_s=0.3) as watched, watched.served.peer() as peer:
        for _ in range(2):
            watched.served.open(peer, open_request())
        assert wait_until(lambda: values_at(watched.address)["sessions_ended_total", "idle"] == 2)


def test_no_label_and_no_name_is_anybodys_choice(watched: Watched) -> None:
    """After runs with names of all kinds the series are those that were there before."""
    before = set(values_at(watched.address))
    canary = "Zimtstern"
    ids = tuple(watched.served.server.tokenizer.encode(canary, bos=False, eos=False))
    with watched.served.peer() as peer:
        request = open_request(5, run_id=b"Zimtstern-Zimt16", prompt_id=canary, resumed_ids=ids)
        with watched.served.session(peer, request) as session:
            final = peer.ask(Finish(session, 1, len(ids)))
            assert isinstance(final, wire.Final) and final.text == canary
        for refused in (wire.FetchSheet(canary), wire.Collect("zimtstern"), Close(b"Zimtstern-Zimt16", 1)):
            peer.ask(refused)
    text = get(watched.address, "/metrics")[1]
    assert set(values_at(watched.address)) == before and "zimt" not in text.lower()
    labels = {label for name, label in before if not name.endswith("_bucket")}
    assert labels == {"", *ErrorCode, *EndReason}


# ---- whether it is well


def test_health_says_starting_then_ok_then_draining_then_stopping(halves: Halves, tokenizer: Tokenizer) -> None:
    """All but ok are 503s, which is what a balancer looks at."""
    place = watching(halves, tokenizer)

    def health() -> tuple[int, str]:
        return get(place.monitoring.address, "/healthz")

    assert health() == (503, "starting\n")
    with place as watched, watched.served.peer() as peer:
        assert health() == (200, "ok\n")
        watched.served.open(peer, open_request())
        watched.served.drain()
        assert health() == (503, "draining\n")
        watched.served.stop.set()
        assert health() == (503, "stopping\n")


@pytest.mark.long
def test_a_pass_that_does_not_end_is_seen(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """And forgotten once it has; an idle cloud is well."""
    monkeypatch.setattr("llama.cloud.server.STUCK_S", 2.0)
    served, rows = watched.served, watched.served.halves.rows(PROMPT[:5])
    with served.peer() as peer, served.session(peer) as session:
        with served.halves.cloud.held():
            peer.send_request(step_of(session, 1, 0, rows), rows)
            assert wait_until(lambda: get(watched.address, "/healthz") == (503, "stuck\n"))
        assert isinstance(peer.receive(), Tokens)
        assert wait_until(lambda: get(watched.address, "/healthz") == (200, "ok\n"))


@pytest.mark.long
def test_a_router_that_answers_nobody_is_seen(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when it waits for a disk that does not answer; and forgotten once it goes on."""
    monkeypatch.setattr("llama.cloud.server.STUCK_S", 2.0)
    goes_on, idle = threading.Event(), watched.served.server.sessions.idle

    def held() -> list[Session]:
        assert goes_on.wait(60)
        return idle()

    monkeypatch.setattr(watched.served.server.sessions, "idle", held)
    try:
        assert wait_until(lambda: get(watched.address, "/healthz") == (503, "stuck\n"))
    finally:
        goes_on.set()
    assert wait_until(lambda: get(watched.address, "/healthz") == (200, "ok\n"))
    assert watched.served.run(PROMPT, 3) == watched.served.halves.tokens(PROMPT, 3)


# ---- who looks


def connected(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def is_over(connection: socket.socket) -> bool:
    """Return whether the other end has closed the connection."""
    return bool(select.select([connection], [], [], 0)[0]) and connection.recv(1) == b""


@pytest.mark.long
def test_silent_connections_hold_nothing_up_and_are_bounded(watched: Watched) -> None:
    """Below the limit a scrape is answered at once. Above it connections are cut, until the silent ones time out."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with ExitStack() as stack:

        def silent(n: int) -> list[socket.socket]:
            return [stack.enter_context(connected(watched.address)) for _ in range(n)]

        first = silent(MAX_CONNECTIONS // 2)
        first[0].sendall(b"GET /metrics HTTP/1.1\r\n")
        began = time.monotonic()
        assert get(watched.address, "/healthz") == (200, "ok\n")
        assert time.monotonic() - began < CONNECTION_S / 2
        more = silent(3 * MAX_CONNECTIONS)
        ours = len(list(Path("/proc/self/fd").iterdir())) - before - len(first) - len(more)
        assert ours <= 2 * MAX_CONNECTIONS  # those just accepted, too
        over = set[socket.socket]()

        def cut(n: int) -> bool:
            over.update(connection for connection in {*first, *more} - over if is_over(connection))
            return len(over) >= n

        assert wait_until(lambda: cut(len(more) - MAX_CONNECTIONS // 2), CONNECTION_S / 2)
        assert watched.served.run(PROMPT, 3) == watched.served.halves.tokens(PROMPT, 3)

        def answered() -> bool:
            try:
                return get(watched.address, "/healthz") == (200, "ok\n")
            except OSError:  # cut off: all places are taken
                return False

        assert wait_until(answered)
        assert wait_until(lambda: cut(len(first) + len(more)))


@pytest.mark.long
def test_a_request_in_small_pieces_is_cut_off(watched: Watched) -> None:
    """However often a part of it comes."""
    with connected(watched.address) as connection:

        def ended() -> bool:
            try:
                connection.sendall(b"G")
                return is_over(connection)
            except OSError:
                return True

        began = time.monotonic()
        assert wait_until(ended)
        assert time.monotonic() - began > CONNECTION_S / 2


def test_the_server_leaves_signals_and_the_root_logger_alone(watched: Watched) -> None:
    """The handlers of the program stay, and no log line of a library gets out."""
    handlers, root = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)], logging.getLogger()
    logs = list(root.handlers), root.level
    other = MetricsServer(0, Metrics().registry, lambda: "ok")
    try:
        assert get(other.address, "/healthz") == (200, "ok\n")
        assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
        assert (list(root.handlers), root.level) == logs
    finally:
        other.close()


def test_a_failure_within_is_a_500_and_told_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    def fails() -> str:
        raise RuntimeError("Zimtstern")

    server = MetricsServer(0, Metrics().registry, fails)
    try:
        status, text = get(server.address, "/healthz")
    finally:
        server.close()
    assert status == 500 and "Zimtstern" not in text and capfd.readouterr() == ("", "")


def test_counts_from_many_threads_are_exact() -> None:
    metrics = Metrics()

    def count() -> None:
        for _ in range(2000):
            metrics.tokens.inc(2)
            metrics.decoded([0.5, 20.0], 0.25)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert total([metrics.tokens]) == 16000
    value = metrics.registry.get_sample_value
    assert value("split_llama_decode_batch_size_bucket", {"le": "1.0"}) == 0
    assert value("split_llama_decode_batch_size_bucket", {"le": "2.0"}) == 8000
    for part, seconds, below in (("queue", 8000 * 20.5, 8000), ("compute", 16000 * 0.25, 16000)):
        name = f"split_llama_decode_{part}_seconds"
        assert (value(f"{name}_count"), value(f"{name}_sum")) == (16000, seconds)
        assert value(f"{name}_bucket", {"le": "10.0"}) == below


def test_the_registry_has_no_metrics_but_these(watched: Watched) -> None:
    """None of the process, of Python or of the library, and no creation times."""
    names = {name for name, _ in values_at(watched.address)}
    assert not [name for name in names if name.endswith("_created") or name.startswith(("process_", "python_"))]
    assert {name for name in names if name.endswith("_total")} == {
        "received_bytes_total", "sent_bytes_total", "tokens_total", "prompt_tokens_total", "sessions_opened_total",
        "sessions_ended_total", "refusals_total",
    }  # fmt: skip


@pytest.mark.parametrize(
    "said",
    [b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST /metrics HTTP/1.1\r\n\r\n",
     b"GET /" + b"x" * 3 * MAX_HEAD_BYTES, b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 1000 + b"\r\n"],
    ids=["bytes", "no path", "version", "POST", "a long path", "many headers"],
)  # fmt: skip
def test_what_is_no_request_is_refused_and_told_nobody(
    said: bytes, watched: Watched, capfd: pytest.CaptureFixture[str]
) -> None:
    with connected(watched.address) as connection:
        try:
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(100)
        except OSError:  # it was read in part only
            answer = b""
    assert not answer.startswith(b"HTTP/1.1 200")
    assert get(watched.address, "/healthz") == (200, "ok\n") and capfd.readouterr() == ("", "")


OWN_NAMES = ("127.0.0.1", "127.0.0.1:9100", "localhost", "LocalHost:1", "[::1]", "[::1]:9100")
OTHER_NAMES = (
    "evil.example", "evil.example:9100", "127.0.0.1.evil.example", "127.0.0.1:9100.a", "localhost.evil.example",
    "127.0.0.2", "0.0.0.0", "", "::1", "a@127.0.0.1",
)  # fmt: skip


def test_whoever_asks_another_name_than_loopbacks_is_refused_in_a_line(watched: Watched) -> None:
    """As a page of the web does whose name means this machine (DNS rebinding): for every path, and nothing is told.
    HTTP/1.0's request without a name, which no browser sends, is answered."""
    asked = [([], 200), *(([name], 200) for name in OWN_NAMES), *(([name], 403) for name in OTHER_NAMES)]
    asked += [(["127.0.0.1", "evil.example"], 400), (["evil.example", "127.0.0.1"], 400), (["127.0.0.1"] * 2, 400)]
    for names, status in asked:
        head = "".join(f"Host: {name}\r\n" for name in names)
        for path in ("/metrics", "/healthz", "/"):
            with connected(watched.address) as connection:
                connection.sendall(f"GET {path} HTTP/1.0\r\n{head}\r\n".encode())
                answer = b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode()
            expected = 404 if (path, status) == ("/", 200) else status
            assert answer.startswith(f"HTTP/1.1 {expected} "), (names, answer[:80])
            if status == 403:
                assert answer.endswith("\r\n\r\nwrong host name; use 127.0.0.1, localhost or [::1]\n"), names


def test_other_paths_are_not_there_and_a_head_has_no_body(watched: Watched) -> None:
    for path in ("/", "/metrics/", "/metrics/x"):
        assert get(watched.address, path) == (404, "no such page; use /metrics or /healthz\n")
    with connected(watched.address) as connection:
        connection.sendall(b"HEAD /healthz HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(1000), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\n")


def test_once_closed_nobody_listens(halves: Halves, tokenizer: Tokenizer) -> None:
    place = watching(halves, tokenizer)  # kept, or the socket would be closed for being forgotten
    with place as watched:
        assert get(watched.address, "/healthz")[0] == 200
    with pytest.raises(ConnectionRefusedError):
        connected(watched.address)


def test_a_port_that_cannot_be_had_is_told_with_its_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            BindError, match=rf"--metrics_port {port}: .*in use\)\. Stop the program that listens there"
        ):
            MetricsServer(port, Metrics().registry, lambda: "ok")
        with pytest.raises(BindError, match=rf"^--port {port}: cannot listen on 127.0.0.1:{port} "):  # the page's
            listen("--port", port)
    with pytest.raises(UsageError, match=r"--metrics_port must be 1 to 65535, .*\(got 65536\)"):
        MetricsServer(65536, Metrics().registry, lambda: "ok")


# ---- the program


@pytest.mark.process
def test_a_cloud_that_is_asked_to_can_be_watched(tiny_split: Callable[..., Path], tmp_path: Path) -> None:
    """A device's run is counted as it says itself, no word of it is to be found, and the end is not held up by a
    connection that stays open."""
    canary, out, prompt = "Zimtstern", tiny_split(), tmp_path / "prompt.txt"
    prompt.write_text(f"What is a {canary}?")
    with cloud(out / "cloud", "--metrics_port", 0) as running:
        (ready,) = [event_of(line) for line in running.output().splitlines() if "event=ready" in line]
        address = ready["metrics"]
        answer = ask(out / "edge", running.address, prompt, "--temperature", 0, "--max_gen_len", 6)
        assert wait_until(lambda: values_at(address)["sessions_ended_total", "closed"] == 1)
        values, (status, text) = values_at(address), get(address, "/metrics")
        with connected(address) as idle:
            idle.sendall(b"GET /metrics")
            os.kill(running.pid, signal.SIGTERM)
            assert running.wait() == 0
        said = running.output()
    assert values["tokens_total", ""] == len(answer["tokens"])
    assert values["prompt_tokens_total", ""] == len(answer["prompt_tokens"])
    assert status == 200 and canary.lower() not in (text + said).lower()
    assert json.dumps(answer["text_sent"])[1:-1] not in text + said
    assert [event_of(line)["event"] for line in said.splitlines() if line.startswith("time=")] == [
        "ready", "session_opened", "session_ended", "draining", "stopped",
    ]  # fmt: skip


@pytest.mark.process
def test_a_metrics_port_in_use_is_told_before_the_model_is_loaded(tiny_split: Callable[..., Path]) -> None:
    """In one line."""
    command = ("cloud_main.py", "--ckpt_dir", str(tiny_split() / "cloud"), "--bind", "tcp://127.0.0.1:*")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = run_main(*command, "--metrics_port", str(port))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"error: --metrics_port {port}: cannot listen on 127.0.0.1:{port}")
    assert ended.stderr.count("\n") == 1
