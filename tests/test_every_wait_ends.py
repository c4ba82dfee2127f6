"""Claims about clouds that fall silent at any message: who asks them ends in time, says why, and can be ended.

A real cloud stands behind each hostile one, so that all is honest until it turns. SOAK=1 ends real programs with Ctrl-C
at every message instead of at some.
"""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import edge_main
from llama import parallel, status, wire
from llama.client import link as link_module
from llama.client.link import Link
from llama.edge.generation import MAY_BE_HANDED_ON
from llama.edge.session import CLOSE_S
from llama.edge.web.controller import WebController
from llama.errors import CloudRefused, CloudUnreachable, ProtocolMismatch, RequestUnanswered, SplitLlamaError
from llama.wire import (
    Close,
    Collect,
    Error,
    ErrorCode,
    FetchSheet,
    Finish,
    Hello,
    ListSheets,
    Open,
    Opened,
    Request,
    Status,
    Step,
    Tokens,
)
from tests.hostile import Turning, dead, stalled
from tests.pages import controller_of, device_of
from tests.processes import Cloud, cloud, wait_until
from tests.support import Process, written
from tests.volumes import SOAK

pytestmark = pytest.mark.process

Splits = Callable[..., Path]
DEADLINE_S = 0.4
SLOW_S = 4.0  # that a busy machine may add to a bound
SHEETS = {
    "system.txt": "Be kind.",
    "gifts.toml": 'title = "Gifts"\nquestions = ["What would you give?"]\nmax_gen_len = 3',
    "insurer/cover.toml": 'title = "Cover"\nquestions = ["Which?"]',
}
MAX_DEADLINES, FINISH_DEADLINES = 4, 3  # fewer than the real ones, which tests/test_timeouts.py holds to the clock


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "MAX_DEADLINES", MAX_DEADLINES)
    monkeypatch.setattr(link_module, "FINISH_DEADLINES", FINISH_DEADLINES)


@pytest.fixture(scope="module")
def sheet_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("sheets"), SHEETS)


@pytest.fixture(scope="module")
def honest(tiny_split: Splits, sheet_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    record = tmp_path_factory.mktemp("record") / "runs.sqlite"
    flags = ("--sheet_dir", sheet_dir, "--record_file", record, "--max_batch_size", 64)
    with cloud(tiny_split() / "cloud", *flags) as running:
        yield running


@pytest.fixture(scope="module")
def ckpt_dir(tiny_split: Splits) -> str:
    parallel.start()  # which several threads must not do at once
    return str(tiny_split() / "edge")


def limit_s(at: type[Request], lives: bool) -> float:
    """What is said to be the longest wait."""
    if at is Close:
        return CLOSE_S
    if lives:
        return DEADLINE_S * (FINISH_DEADLINES if at is Finish else MAX_DEADLINES)
    return DEADLINE_S


Case = tuple[type[Request], bool]


def cases(*kinds: type[Request]) -> list[Case]:
    """Each kind of request with a cloud that goes on to say that it lives, and with one that does not."""
    return [(kind, lives) for kind in kinds for lives in (False, True) if kind is not Hello or not lives]


def together(claim: Callable[..., None], arguments: Sequence[tuple[Any, ...]], at_a_time: int = 32) -> None:
    """At the same time, since all that they do is to wait; the first failure is raised."""
    with ThreadPoolExecutor(at_a_time) as pool:
        for done in [pool.submit(claim, *each) for each in arguments]:
            done.result()


def turning(at: type[Request], lives: bool, upstream: str) -> Turning:
    return (stalled if lives else dead)(at, upstream)


# ---- they end by themselves


def test_every_program_ends_within_the_stated_time_whatever_the_cloud_falls_silent_at(
    honest: Cloud, ckpt_dir: str
) -> None:
    """Device, vendor and status; with one line that says so. An unanswered Close is no error, and is sent once."""

    def device(address: str, at: type[Request]) -> None:
        what: dict[str, Any] = {"list_sheets": True} if at is ListSheets else {"prompt_id": "gifts"}
        edge_main.main(ckpt_dir, address, deadline=DEADLINE_S, plain=True, temperature=0, **what)

    def collect(address: str, at: type[Request]) -> None:  # as llama.vendor does, which wants a stdout of its own
        with Link(address, deadline_s=DEADLINE_S) as link:
            link.hello()
            link.ask(Collect("insurer"))

    def look(address: str, at: type[Request]) -> None:
        status.main(address, deadline=DEADLINE_S)

    def ends(program: Callable[[str, type[Request]], None], at: type[Request], lives: bool) -> None:
        error = None
        with turning(at, lives, honest.address) as hostile:
            try:
                program(hostile.address, at)
            except SplitLlamaError as err:
                error = err
            assert hostile.turned_at is not None
            took_s = time.monotonic() - hostile.turned_at
        assert took_s < limit_s(at, lives) + SLOW_S, (at, lives, took_s)
        if at is Close:
            assert error is None and hostile.asked.count(Close) == 1
            return
        assert isinstance(error, RequestUnanswered if lives else CloudUnreachable), (at, lives, error)
        assert "\n" not in str(error) and hostile.address in str(error)
        assert ("says that it lives, but has not answered this request" in str(error)) is lives
        assert str(error).endswith(MAY_BE_HANDED_ON) is (at is Finish)

    together(ends, [
        *((device, *case) for case in cases(Hello, Open, Step, Finish, Close, FetchSheet, ListSheets)),
        *((collect, *case) for case in cases(Hello, Collect)),
        *((look, *case) for case in cases(Hello, Status)),
    ])  # fmt: skip


def test_a_page_s_run_ends_within_the_stated_time_and_another_may_begin(
    honest: Cloud, ckpt_dir: str, sheet_dir: Path
) -> None:
    """With one line of what has become of it."""

    def ends(at: type[Request], lives: bool) -> None:
        with turning(at, lives, honest.address) as hostile, controller(ckpt_dir, hostile, sheet_dir) as page:
            page.look_at("gifts")
            page.begin("gifts", agree=True)
            assert hostile.turned.wait(20)
            assert wait_until(lambda: over(page), limit_s(at, lives) + SLOW_S), (at, lives)
            run = page.state()["run"]
            if at is Close:
                assert run["phase"] == "done"
            else:
                assert run["phase"] == "failed" and hostile.address in run["error"] and "\n" not in run["error"]
                assert (MAY_BE_HANDED_ON in run["error"]) is (at is Finish)
            assert page.begin("gifts", agree=True)

    together(ends, cases(Hello, Open, Step, Finish, Close))


def test_a_cloud_that_never_says_the_same_thing_twice_does_not_hold_a_device_for_ever(
    honest: Cloud, ckpt_dir: str
) -> None:
    """Busy without end, in each way of being busy; replies to earlier requests; sessions lost again and again."""
    stopping = Error(ErrorCode.BUSY, link_module.STOPPING, "", 0.05)
    full, soon = Error(ErrorCode.BUSY, "full", "", 0.05), Error(ErrorCode.BUSY, "full", "", 0)
    late, never = Error(ErrorCode.BUSY, "full", "", 1e9), Error(ErrorCode.BUSY, "full", "", float("-inf"))
    lost = Error(ErrorCode.UNKNOWN_SESSION, "no such session", "")
    turns = 0

    def in_turns(request: Request) -> wire.Reply | None:
        nonlocal turns
        turns += 1
        return (stopping, full, None)[turns % 3]

    def ends(at: type[Request], answer: Callable[[Request], Any], error: type[SplitLlamaError], bound_s: float) -> None:
        with Turning(honest.address, at, answer, lives=True) as hostile:
            with pytest.raises(error) as reported:
                edge_main.main(ckpt_dir, hostile.address, prompt_id="gifts", plain=True, deadline=DEADLINE_S,
                               restart_deadline=2 * DEADLINE_S)  # fmt: skip
            assert hostile.turned_at is not None and "\n" not in str(reported.value)
            took_s = time.monotonic() - hostile.turned_at
        assert took_s < bound_s + SLOW_S, (at, took_s)

    in_all_s = (MAX_DEADLINES + 2) * DEADLINE_S
    together(ends, [
        (Open, lambda _: full, CloudRefused, DEADLINE_S),
        (Open, lambda _: soon, CloudRefused, DEADLINE_S),
        (Step, lambda _: late, CloudRefused, DEADLINE_S),
        (Finish, lambda _: never, CloudRefused, DEADLINE_S),
        (Open, lambda _: stopping, CloudRefused, 2 * DEADLINE_S),
        (Step, in_turns, SplitLlamaError, in_all_s),
        (Step, lambda _: lost, CloudRefused, 1.0),
        (Finish, lambda _: lost, CloudRefused, 1.0),
        (Step, lambda _: Tokens((65,), 5, 99), ProtocolMismatch, 1.0),
        (Step, lambda _: Opened(bytes(16)), ProtocolMismatch, 1.0),
        (Finish, lambda _: b"\x80" * 70_000, ProtocolMismatch, 1.0),
        (Hello, lambda _: b"\x80" * 70_000, ProtocolMismatch, 1.0),
    ])  # fmt: skip


# ---- they can be ended


@contextmanager
def controller(
    ckpt_dir: str, hostile: Turning, sheet_dir: Path | None, deadline_s: float = DEADLINE_S
) -> Iterator[WebController]:
    """A page's other side, whose sheets are at hand (or the cloud's)."""
    page = controller_of(
        device_of(ckpt_dir),
        hostile.address,
        sheet_dir=sheet_dir,
        tokens=None,
        deadline_s=deadline_s,
        sheet_deadline_s=deadline_s,
    )
    try:
        yield page
    finally:
        assert page.close()


def over(page: WebController) -> bool:
    return page.state()["run"]["phase"] in ("done", "failed", "stopped")


def test_stop_is_heard_at_every_message_and_another_run_may_begin_within_a_second(
    honest: Cloud, ckpt_dir: str, sheet_dir: Path
) -> None:
    """A run that the cloud was being told to finish is not called stopped; one that it has finished is done."""

    def stops(at: type[Request], lives: bool) -> None:
        with (
            turning(at, lives, honest.address) as hostile,
            controller(ckpt_dir, hostile, sheet_dir, deadline_s=60.0) as page,
        ):
            page.look_at("gifts")
            run_id = page.begin("gifts", agree=True)
            assert hostile.turned.wait(20)
            time.sleep(0.3)
            begun = time.monotonic()
            page.stop(run_id)
            assert wait_until(lambda: over(page), 1.0 + SLOW_S, every_s=0.01)
            took_s = time.monotonic() - begun
            run = page.state()["run"]
            wanted = {Finish: "failed", Close: "done"}.get(at, "stopped")
            assert run["phase"] == wanted, (at, lives, run["error"])
            assert (run["error"] or "").endswith(MAY_BE_HANDED_ON) is (at is Finish)
            assert page.begin("gifts", agree=True) != run_id
            times.append(took_s)

    times = list[float]()
    together(stops, cases(Hello, Open, Step, Finish, Close))
    print(f"stopped after {min(times):.2f} to {max(times):.2f} s")


def test_a_sheet_that_never_comes_holds_up_neither_the_page_nor_its_end(honest: Cloud, ckpt_dir: str) -> None:
    """It is waited for by who looks at it, and by nobody else."""
    with stalled(FetchSheet, honest.address) as hostile, ThreadPoolExecutor(1) as other:
        with controller(ckpt_dir, hostile, None, deadline_s=60.0) as page:
            looking = other.submit(page.look_at, "gifts")
            assert hostile.turned.wait(20)
            page.state()
            page.stop()
        with pytest.raises(link_module.Stopped):
            looking.result(1.0 + SLOW_S)


TERMINAL = cases(Hello, Open, Step, Finish, Close, FetchSheet) if SOAK else [(Step, True)]


def test_ctrl_c_ends_the_terminal_within_a_second_at_any_message(honest: Cloud, ckpt_dir: str) -> None:
    """Pressed once; exit code 130, no traceback; in Finish it is said what may have happened."""

    def ends(at: type[Request], lives: bool) -> None:
        with turning(at, lives, honest.address) as hostile:
            command = ("edge_main.py", "--ckpt_dir", ckpt_dir, "--cloud", hostile.address, "--prompt_id", "gifts")
            with Process(*command, "--plain", "--deadline", "60") as device:
                assert hostile.turned.wait(60)
                time.sleep(0.3)
                begun = time.monotonic()
                device.signal(signal.SIGINT)
                code = device.ended()
                times.append(time.monotonic() - begun)
            assert code == 130 and "Traceback" not in device.stderr, device.stderr
            assert device.stderr.endswith("interrupted\n")
            assert (MAY_BE_HANDED_ON in device.stderr) is (at in (Finish, Close))

    times = list[float]()
    for case in TERMINAL:
        ends(*case)
    print(f"ended after {min(times):.2f} to {max(times):.2f} s")
    assert max(times) < 1.0 + SLOW_S


PAGE: list[Case] = [*cases(Hello, Open, Step, Finish, Close), (FetchSheet, True)] if SOAK else [(Finish, True)]


def test_ctrl_c_ends_the_page_s_program_with_one_press(honest: Cloud, ckpt_dir: str, sheet_dir: Path) -> None:
    """Whatever its run, or who looks at a sheet, waits for."""

    def ends(at: type[Request], lives: bool) -> None:
        with ExitStack() as stack:
            hostile = stack.enter_context(turning(at, lives, honest.address))
            command = ["edge_main.py", "--ckpt_dir", ckpt_dir, "--cloud", hostile.address, "--web", "--deadline", "60"]
            if at is not FetchSheet:
                command += ["--sheet_dir", str(sheet_dir)]
            program = stack.enter_context(Process(*command))
            base, _, token = program.line_with("http://127.0.0.1:").strip().rpartition(": ")[2].partition("/#")

            def call(path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
                data = None if body is None else json.dumps(body).encode()
                request = urllib.request.Request(base + path, data, {"X-Token": token})
                with urllib.request.urlopen(request, timeout=60) as reply:
                    answer: dict[str, Any] = json.load(reply)
                return answer

            pool = stack.enter_context(ThreadPoolExecutor(1))
            if at is FetchSheet:
                pool.submit(call, "/api/sheet", {"prompt_id": "gifts"})
            else:
                seen = call("/api/sheet", {"prompt_id": "gifts"})["seen"]
                call("/api/run", {"prompt_id": "gifts", "seen": seen, "agree": True})
            assert hostile.turned.wait(60)
            time.sleep(0.3)
            begun = time.monotonic()
            program.signal(signal.SIGINT)
            code = program.ended()
            times.append(time.monotonic() - begun)
            assert code == 130 and "Traceback" not in program.stderr, program.stderr

    times = list[float]()
    for case in PAGE:
        ends(*case)
    print(f"ended after {min(times):.2f} to {max(times):.2f} s")
    assert max(times) < 2.0 + SLOW_S
