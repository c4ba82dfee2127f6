"""Claims about how a cloud says how it does: the numbers, who may ask, and the operator's program."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from llama.cloud.auth import is_local
from llama.status import in_words, main
from llama.tokenizer import Tokenizer
from llama.wire import Close, Finish, Status, StatusReport, Tokens
from tests.processes import wait_until
from tests.support import (
    MAX_SEQ_LEN,
    Halves,
    Keys,
    Peer,
    Process,
    Served,
    code_of,
    exit_code,
    open_request,
    run_main,
    step_of,
)

PROMPT = [258, 84, 104, 101, 32]


@pytest.fixture
def served(halves: Halves, tokenizer: Tokenizer) -> Iterator[Served]:
    with Served(halves, tokenizer, slots=2, most_waiting=2) as served:
        yield served


def status(served: Served) -> StatusReport:
    with served.peer() as peer:
        report = peer.ask(Status())
    assert isinstance(report, StatusReport)
    return report


def until(served: Served, is_so: Callable[[StatusReport], bool]) -> StatusReport:
    """The first report of which it holds; what others send is on its way meanwhile."""
    while not is_so(report := status(served)):
        assert served.thread.is_alive()
    return report


# ---- the numbers


def test_the_report_counts_sessions_positions_tokens_and_refusals(served: Served) -> None:
    """From nothing, through a run, to nothing but what counts since the start."""
    room = 2 * MAX_SEQ_LEN
    served.server.metrics.started -= 3600
    first = status(served)
    assert msgspec.structs.replace(first, up_s=0) == StatusReport(0, 0, 2, 0, 0, room, 0, 0) and first.up_s >= 3600
    rows = served.halves.rows([*PROMPT, 65])
    with served.peer() as peer:
        with served.session(peer, open_request(len(PROMPT))) as session:
            for seq, begin, end, want in ((1, 0, 3, 0), (2, 3, 4, 0), (3, 4, 6, 2)):
                chunk = rows[begin:end]
                assert isinstance(peer.ask(step_of(session, seq, begin, chunk, want), chunk), Tokens)
            assert peer.refusal(Finish(session, 4, 9)) == "out_of_range"
            assert peer.refusal(Finish(bytes(16), 1, 0)) == "unknown_session"
            report = status(served)
            assert (report.sessions, report.cached, report.tokens, report.refusals) == (1, 6, 2, 2)
            repeated = step_of(session, 3, 4, rows[4:], 2)
            assert isinstance(peer.ask(repeated, rows[4:]), Tokens)
            assert status(served).tokens == 2  # the same answer once more
    report = status(served)
    assert (report.sessions, report.cached, report.tokens, report.refusals) == (0, 0, 2, 2)


def test_refusals_of_what_the_cloud_has_worked_on_count_too(served: Served) -> None:
    """Rows that are not finite, a sheet that is not there; a peer that sends no request at all."""
    rows = served.halves.rows(PROMPT)
    with served.peer() as peer:
        with served.session(peer, open_request(len(PROMPT))) as session:
            assert peer.refusal(step_of(session, 1, 0, rows), rows / 0) == "not_finite"
            assert status(served).refusals == 1
        assert code_of(peer.exchange(b"nonsense")) == "bad_request"
        assert status(served).refusals == 2
        assert peer.refusal(Status()) == "StatusReport"
    assert status(served).refusals == 2


@pytest.mark.long
def test_who_waits_in_line_is_counted_and_is_not_refused(served: Served) -> None:
    """Being asked to ask again is no refusal; one who is turned away is."""
    with (
        served.peer() as one,
        served.peer() as two,
        served.peer() as three,
        served.peer() as four,
        served.peer() as five,
    ):
        sessions = [served.open(peer, open_request()) for peer in (one, two)]
        three.send_request(third := open_request())
        until(served, lambda report: report.waiting == 1)
        assert code_of(three.receive()) == "busy"  # after a while: its turn is kept
        three.send_request(third)
        four.send_request(open_request())
        assert until(served, lambda report: report.waiting == 2).refusals == 0
        assert five.refusal(open_request()) == "busy"
        assert (status(served).waiting, status(served).refusals) == (2, 1)
        for session in sessions:
            assert one.refusal(Close(session, 1)) == "Closed"
        assert until(served, lambda report: report.waiting == 0).sessions == 2


def test_it_is_answered_at_once_while_a_step_computes_and_while_the_cloud_drains(served: Served) -> None:
    """The I/O thread never computes; and the operator sees that it drains."""
    rows = served.halves.rows(PROMPT)
    with served.peer() as peer:
        session = served.open(peer, open_request(len(PROMPT)))
        with served.halves.cloud.held():
            peer.send_request(step_of(session, 1, 0, rows), rows)
            assert served.halves.cloud.computing.wait(20)
            assert (status(served).sessions, status(served).tokens, status(served).draining) == (1, 0, False)
            served.drain()
            assert status(served).draining
        assert isinstance(peer.receive(), Tokens)
        assert peer.refusal(Close(session, 2)) == "Closed"


# ---- who may ask


@pytest.mark.parametrize(
    ("address", "is_so"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.5", False),
        ("::ffff:10.0.0.5", False),
        ("0.0.0.0", False),
        ("fe80::1", False),
        ("", False),
        ("localhost", False),
    ],
)
def test_loopback_is_told_from_all_other_addresses(address: str, is_so: bool) -> None:
    """What libzmq says of a peer; where it says nothing, the peer is somebody else."""
    assert is_local(address) is is_so


def test_without_keys_only_the_clouds_own_machine_is_told(halves: Halves, tokenizer: Tokenizer) -> None:
    """Who comes over the network, even from the same machine, is refused with the cure; everything else it may ask."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nothing_sent:
        try:
            nothing_sent.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine is on no network")
        own = nothing_sent.getsockname()[0]
    with Served(halves, tokenizer, address="tcp://0.0.0.0:*") as served:
        port = served.endpoint.rpartition(":")[2]
        with Peer(f"tcp://{own}:{port}") as over_the_network, Peer(f"tcp://127.0.0.1:{port}") as here:
            assert over_the_network.refusal(Status()) == "not_allowed"
            assert here.refusal(Status()) == "StatusReport"
            assert over_the_network.refusal(Close(bytes(16), 1)) == "unknown_session"


# ---- the program


def operator(*flags: str) -> int:
    """The operator's program, in this process."""
    return exit_code(main, *flags)


def test_the_program_prints_the_report_in_words_or_as_json(served: Served, capfd: pytest.CaptureFixture[str]) -> None:
    """One screenful, or one line with every field."""
    with served.peer() as peer, served.session(peer):
        assert operator("--cloud", served.endpoint) == 0
        out, err = capfd.readouterr()
        first, *lines = out.splitlines()
        assert err == "" and first.startswith(f"{served.endpoint}  serving, up 0:00:")
        assert lines == [
            "sessions  1 of 2 slots, 0 waiting",
            f"cache     0 of {2 * MAX_SEQ_LEN} positions filled (0 %)",
            "tokens    0 handed out since the start",
            "refusals  0 since the start",
        ]
        assert operator("--cloud", served.endpoint, "--json") == 0
        (line,) = capfd.readouterr().out.splitlines()
        names = {"slots" if name == "places" else name for name in StatusReport.__struct_fields__}
        assert set(json.loads(line)) == names and json.loads(line)["slots"] == 2


def test_a_report_in_words_is_for_people() -> None:
    """Days, thousands, a share of the cache, also of none; that it drains."""
    words = in_words(StatusReport(90_061, 12, 256, 3, 131_072, 524_288, 1_234_567, 8, True), "tcp://10.0.0.5:5555")
    assert words.splitlines() == [
        "tcp://10.0.0.5:5555  draining: begins nothing new, up 1 day, 1:01:01",
        "sessions  12 of 256 slots, 3 waiting",
        "cache     131,072 of 524,288 positions filled (25 %)",
        "tokens    1,234,567 handed out since the start",
        "refusals  8 since the start",
    ]
    assert "(0 %)" in in_words(StatusReport(0, 0, 0, 0, 0, 0, 0, 0), "x")


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--deadline", "0"), 2, "--deadline must be greater than 0 seconds (got 0)"),
        (("--interval", "inf"), 2, "--interval must be a finite number of seconds greater than 0 (got inf)"),
        (
            ("--key_file", "ops.key"),
            2,
            "--key_file requires --cloud_key",
        ),
        (("--deadline", "0.2"), 1, "no answer from {} for 0 s; check that cloud_main.py runs there"),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(
    flags: tuple[str, ...], code: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """2 for the command line, 1 where nobody answers."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
        assert operator("--cloud", address, *flags) == code
    out, err = capfd.readouterr()
    assert out == "" and err.splitlines()[-1].startswith(f"error: {said.format(address)}")


@pytest.mark.process
def test_an_operator_needs_no_model() -> None:
    """Nothing of the model, of the boundary or of the cloud is loaded, nor torch."""
    loaded = set(run_main("-c", "import sys, llama.status; print(*sys.modules)").stdout.split())
    assert {name for name in loaded if name.startswith(("llama", "model_", "fairscale", "torch", "numpy"))} == {
        "llama",
        "llama.addresses",
        "llama.bounds",
        "llama.command",
        "llama.disk",
        "llama.client",
        "llama.client.connection",
        "llama.client.link",
        "llama.client.notices",
        "llama.client.timeouts",
        "llama.client.wording",
        "llama.errors",
        "llama.files",
        "llama.keys",
        "llama.memory_ceiling",
        "llama.process_end",
        "llama.starting",
        "llama.status",
        "llama.text",
        "llama.text.decoding",
        "llama.text.names",
        "llama.text.printable",
        "llama.toml",
        "llama.wire",
    }


@pytest.mark.process
def test_an_operator_with_its_key_follows_a_cloud_and_others_are_refused(
    halves: Halves, tokenizer: Tokenizer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """While the cloud is away the program says once what to look at, and goes on when it is back."""
    keys = Keys(tmp_path)
    keys.make("ops", "operator")
    keys.make("phone")
    keys.make("stranger", "operator", listed=False)
    flags = (
        "--json",
        "--interval",
        "0.1",
        "--deadline",
        "0.5",
        "--cloud_key",
        str(tmp_path / "cloud.pub"),
        "--key_file",
    )
    with ExitStack() as stack:
        with Served(halves, tokenizer, keys=keys.of_the_cloud()) as served:
            address = served.endpoint
            assert operator("--cloud", address, *flags, str(tmp_path / "phone.key")) == 1
            assert "role device, and operator is needed" in capfd.readouterr().err
            assert operator("--cloud", address, *flags, str(tmp_path / "stranger.key")) == 1
            assert "also that this key is in the cloud's --allow_dir" in capfd.readouterr().err
            ops = ("-m", "llama.status", "--cloud", address, *flags, str(tmp_path / "ops.key"), "--follow")
            program = stack.enter_context(Process(*ops))
            report = json.loads(program.line_with("up_s"))
            assert (report["sessions"], report["slots"], report["draining"]) == (0, 4, False)
        reported = program.line_with("no answer")
        time.sleep(1.5)  # several deadlines
        before = len(program.out)
        with Served(halves, tokenizer, keys=keys.of_the_cloud(), address=address):
            back = program.line_with("answers again")
            assert wait_until(lambda: len(program.out) > before)
            program.signal(signal.SIGINT)
            assert program.ended() == 130, program.stderr
    check = "that this key is in the cloud's --allow_dir, and that --cloud_key is that cloud's"
    assert reported == f"status: no answer from {address}; trying until one comes; check {check}\n"
    assert back == f"status: {address} answers again\n" and program.stderr.startswith(reported + back)
