"""Claims about command lines: every flag is checked before anything runs, and text stays text."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from llama.command import run
from llama.errors import CheckpointError, CloudRefused
from llama.process_end import end_if_signalled, uninterrupted
from tests.support import ROOT

calls: list[dict[str, object]] = []


def program(
    ckpt_dir: str, title: str = "none", count: int | None = None, share: float = 0.5, json: bool = False
) -> None:
    """A program that says what it was called with.

    Args:
        ckpt_dir: where.
        title: what.
        count: how many.
        share: how much.
        json: how.
    """
    calls.append({"ckpt_dir": ckpt_dir, "title": title, "count": count, "share": share, "json": json})
    if ckpt_dir == "broken":
        raise CheckpointError("it is broken; mend it")
    if ckpt_dir == "interrupted":
        raise KeyboardInterrupt
    if ckpt_dir == "hostile":
        raise CloudRefused("busy", "line\nerror: two\x1b[2J\u202e", "wait")


@pytest.fixture(autouse=True)
def no_calls_yet() -> None:
    calls.clear()


def called_with(*argv: str) -> dict[str, object]:
    """The one call that these words lead to."""
    run(program, argv)
    (call,) = calls
    return call


def refusal(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    """The one line on stderr; nothing has run, and stdout is empty."""
    with pytest.raises(SystemExit) as ended:
        run(program, argv)
    out, err = capsys.readouterr()
    assert ended.value.code == code and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert code != 2 or not calls
    return err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("--ckpt_dir a", {"ckpt_dir": "a"}),
        ("--ckpt_dir=a", {"ckpt_dir": "a"}),
        ("--ckpt-dir a", {"ckpt_dir": "a"}),
        ("--ckpt_dir 42 --title 1e3", {"ckpt_dir": "42", "title": "1e3"}),
        ("--ckpt_dir None --title True", {"ckpt_dir": "None", "title": "True"}),
        ("--ckpt_dir [1,2] --title {'a':1}", {"ckpt_dir": "[1,2]", "title": "{'a':1}"}),
        ("--ckpt_dir a=b --title=c=d", {"ckpt_dir": "a=b", "title": "c=d"}),
        ("--ckpt_dir -x --title -", {"ckpt_dir": "-x", "title": "-"}),
        ("--ckpt_dir=-- --title=--json", {"ckpt_dir": "--", "title": "--json"}),
        ("--ckpt_dir=", {"ckpt_dir": ""}),
        ("--ckpt_dir a --count 3 --share 1", {"count": 3, "share": 1.0}),
        ("--ckpt_dir a --count -3 --share -1.5", {"count": -3, "share": -1.5}),
        ("--ckpt_dir a --share 1e-3", {"share": 0.001}),
        ("--ckpt_dir a", {"count": None, "share": 0.5, "json": False}),
        ("--json --ckpt_dir a", {"json": True, "ckpt_dir": "a"}),
        ("--ckpt_dir a --json", {"json": True}),
        ("--ckpt_dir a --json true", {"json": True}),
        ("--ckpt_dir a --json=no", {"json": False}),
        ("--ckpt_dir a --nojson", {"json": False}),
        ("--ckpt_dir a --no-json", {"json": False}),
        ("--ckpt_dir a --no_json", {"json": False}),
        ("--ckpt_dir a --json false --share -1e-3", {"json": False, "share": -0.001}),
    ],
)
def test_flags_arrive_as_the_types_that_are_declared(argv: str, expected: dict[str, object]) -> None:
    """Text as text whatever it looks like, also when it begins with a dash; numbers as numbers."""
    call = called_with(*argv.split(" "))
    assert {name: call[name] for name in expected} == expected
    assert all(type(call[name]) is type(value) for name, value in expected.items())


def test_text_with_blanks_quotes_and_line_ends_arrives_unchanged() -> None:
    """As a shell would hand it over."""
    text = "two words 'and' \"quotes\"\nand é ☕ \\ $HOME"
    assert called_with("--ckpt_dir", text, "--title", "") == {
        "ckpt_dir": text, "title": "", "count": None, "share": 0.5, "json": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--ckpt_dir a --titel x", "unknown flag --titel; did you mean --title?"),
        ("--ckp_dir a", "unknown flag --ckp_dir; did you mean --ckpt_dir?"),
        ("--ckpt_dir a --xyzzy", "unknown flag --xyzzy; the flags are --ckpt_dir, --title"),
        ("--ckpt_dir a --notitle", "unknown flag --notitle"),
        ("--ckpt_dir a --json --__class__ x", "unknown flag --__class__"),
        ("--ckpt_dir a --ckpt_dir b", "--ckpt_dir is given twice"),
        ("--ckpt_dir a --json --nojson", "--json is given twice"),
        ("--ckpt_dir a --ckpt-dir b", "--ckpt_dir is given twice"),
        ("--ckpt_dir a --nojson=true", "--nojson/--no_json: ignored explicit argument 'true'"),
        ("--ckpt_dir a --ti b", "unknown flag --ti; did you mean --title?"),
        ("--ckpt_dir", "--ckpt_dir: expected one argument; --help lists all flags"),
        ("--ckpt_dir a --count", "--count: expected one argument"),
        ("--ckpt_dir a --count --json", "--count: expected one argument"),
        ("--ckpt_dir a --count x", "--count must be a whole number (got 'x')"),
        ("--ckpt_dir a --count 1.5", "--count must be a whole number"),
        ("--ckpt_dir a --count=", "--count must be a whole number"),
        ("--ckpt_dir a --count None", "--count must be a whole number"),
        ("--ckpt_dir a --share half", "--share must be a number (got 'half')"),
        ("--ckpt_dir a --json x.txt", "--json is a switch: give true or false (got 'x.txt')"),
        ("a", "'a' belongs to no flag"),
        ("--ckpt_dir a b", "'b' belongs to no flag"),
        ("--ckpt_dir a -t b", "'-t' belongs to no flag"),
        ("--ckpt_dir a -- --trace", "'--' belongs to no flag"),
        ("--ckpt_dir a -", "'-' belongs to no flag"),
        ("", "'' belongs to no flag"),
        ("--title a", "the following arguments are required: --ckpt_dir"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line_before_anything_runs(
    capsys: pytest.CaptureFixture[str], argv: str, said: str
) -> None:
    """Exit code 2, the function is never called, and the line names the flag."""
    assert said in refusal(capsys, *argv.split(" "))


def test_no_flags_at_all_name_those_that_are_needed(capsys: pytest.CaptureFixture[str]) -> None:
    """And where to read about all of them."""
    text = refusal(capsys)
    assert "the following arguments are required: --ckpt_dir" in text and "--help" in text


@pytest.mark.parametrize("argv", ["--help", "-h", "--ckpt_dir a --help", "--ckpt_dir a --bogus 1 --help"])
def test_help_shows_the_flags_and_runs_nothing(capsys: pytest.CaptureFixture[str], argv: str) -> None:
    """Wherever it stands."""
    with pytest.raises(SystemExit) as ended:
        run(program, argv.split(" "))
    assert ended.value.code == 0 and not calls
    out, err = capsys.readouterr()
    assert "ckpt_dir" in out + err and "how many" in out + err


def test_help_has_every_flag_in_order_with_its_type_default_and_text_within_the_width_of_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A switch that is on has its negation listed, too."""
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit):
        run(program, ["--help"])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 60
    lines = [line.split() for line in text.splitlines() if line.startswith("  -")]
    assert [line[:2] for line in lines] == [
        ["--ckpt_dir", "TEXT"], ["--title", "TEXT"], ["--count", "N"], ["--share", "NUMBER"], ["--json", "[BOOL]"],
        ["-h,", "--help"],
    ]  # fmt: skip
    assert "what. (default: none)" in text and "how much. (default: 0.5)" in text and "(default: None)" not in text

    def switched(fast: bool = True) -> None:
        """Go.

        Args:
            fast: 100 % of it: as
                fast: as can be.
        """

    with pytest.raises(SystemExit):
        run(switched, ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--fast [BOOL] 100 % of it: as fast: as can be. (default: on) --nofast, --no_fast" in text


def test_an_error_of_the_family_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    """And a Ctrl-C is 130."""
    assert refusal(capsys, "--ckpt_dir", "broken", code=1) == "error: it is broken; mend it\n"
    with pytest.raises(SystemExit) as ended:
        run(program, ["--ckpt_dir", "interrupted"])
    assert ended.value.code == 130


def test_an_error_that_quotes_foreign_text_stays_one_line_without_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What a cloud says, or a file's name, neither adds a line nor steers the terminal."""
    text = refusal(capsys, "--ckpt_dir", "hostile", code=1)
    assert text.rstrip("\n").isprintable() and "error: two" in text


@pytest.mark.process
def test_a_reader_that_leaves_early_is_no_traceback() -> None:
    """``program | head -0``: exit code 1 and nothing on stderr."""
    code = (
        "import sys, time\n"
        "from llama.command import run\n"
        "def main() -> None:\n"
        "    'Write on.'\n"
        "    sys.stdin.read()\n"
        "    print('x' * 100000, flush=True)\n"
        "run(main, [])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_whose_exception_was_dropped_still_ends_the_work(number: signal.Signals, code: int) -> None:
    """Python drops what is raised inside a finaliser; work that asks between its steps ends all the same."""

    class Finalised:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def work() -> None:
        """Two steps."""
        finalised = Finalised()
        del finalised
        calls.append({"step": 1})
        end_if_signalled()
        calls.append({"step": 2})

    with pytest.raises(SystemExit) as ended:
        run(work, [])
    assert ended.value.code == code and calls == [{"step": 1}]


@pytest.mark.process
def test_as_the_first_process_of_a_container_a_program_ends_by_signals_while_it_imports() -> None:
    """For such a process the system ignores what it has no handler for."""
    isolated = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    works = (
        shutil.which("unshare") and not subprocess.run([*isolated, "true"], check=False, capture_output=True).returncode
    )
    if not works:
        pytest.skip("unshare --pid is not allowed here")
    program = "from llama import starting; starting.begin(); print('begun', flush=True); import time; time.sleep(60)"
    command = [*isolated, "sh", "-c", 'exec "$@"', "sh", sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        (child,) = psutil.Process(process.pid).children()
        child.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_section_that_must_not_be_interrupted_is_not_whichever_thread_gets_the_signal(
    number: signal.Signals, code: int
) -> None:
    """The main thread's mask holds nothing back that another thread takes; the work ends when the section does."""
    stop = threading.Event()

    def work() -> None:
        """A section within a section."""
        with uninterrupted():
            with uninterrupted():
                os.kill(os.getpid(), number)
                time.sleep(0.2)  # in which the other thread takes it, and Python asks this one to handle it
                calls.append({"step": 1})
            calls.append({"step": 2})
        calls.append({"step": 3})

    other = threading.Thread(target=stop.wait)
    other.start()
    try:
        with pytest.raises(SystemExit) as ended:
            run(work, [])
    finally:
        stop.set()
        other.join()
    assert ended.value.code == code and calls == [{"step": 1}, {"step": 2}]
