"""Where results go: found out before the work, then put there whole, whatever kind of place it is."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import split_checkpoint
from llama import placing
from llama.checkpoint import splitting
from llama.checkpoint.halves import read_half
from llama.checkpoint.opening import open_source
from llama.checkpoint.splitting import split
from llama.cloud import restore as restoring
from llama.cloud.backup import CATALOGUE, RECORD, back_up
from llama.cloud.importing import import_products
from llama.cloud.restore import restore
from llama.cloud.run_store import RunStore
from llama.command import run
from llama.disk import give_name
from llama.errors import BackupError, CatalogueError, CheckpointError
from tests.support import ROOT, exit_code, run_main
from tests.volumes import SOAK

OUTPUT = placing.OutputSpec("--output_dir", CheckpointError, frozenset({"edge", "cloud"}))
NOBODY = 65534
LONGEST = "n" * 255  # bytes of a name


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system than the tests' own."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev or not os.access(memory, os.W_OK):
        pytest.skip("/dev/shm is not another file system here")
    directory = memory / f"placing-{os.getpid()}"
    directory.mkdir()
    yield directory
    subprocess.run(["rm", "-rf", str(directory)], check=True)


@contextlib.contextmanager
def mounted(directory: Path, *options: str) -> Iterator[Path]:
    """A file system of its own at a directory."""
    done = subprocess.run(["mount", *options, str(directory)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this user may not mount: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def assert_halves(out: Path) -> None:
    """Both are there and sound, and nothing else is."""
    assert [name for name in names(out) if name != "lost+found"] == ["cloud", "edge"]
    assert read_half(out / "edge", "edge").fingerprint == read_half(out / "cloud", "cloud").fingerprint


# --- Every kind of place --------------------------------------------------------------------------------------------


def a_link_to_a_directory(base: Path) -> tuple[Path, Path]:
    (base / "real").mkdir()
    (base / "link").symlink_to("real")
    return base / "link", base / "real"


def a_dangling_link(base: Path) -> tuple[Path, Path]:
    (base / "link").symlink_to("not" + "/yet")
    return base / "link", base / "not" / "yet"


def a_link_to_a_link(base: Path) -> tuple[Path, Path]:
    (base / "second").symlink_to("real")
    (base / "link").symlink_to("second")
    return base / "link", base / "real"


def a_name_as_long_as_can_be(base: Path) -> tuple[Path, Path]:
    return base / LONGEST, base / LONGEST


def a_way_back(base: Path) -> tuple[Path, Path]:
    return base / "x" / ".." / "out", base / "out"


def an_empty_directory(base: Path) -> tuple[Path, Path]:
    (base / "out").mkdir(0o750)
    return base / "out", base / "out"


def an_empty_disk(base: Path) -> tuple[Path, Path]:
    (base / "out" / "lost+found").mkdir(parents=True)
    return base / "out", base / "out"


PLACES = [
    a_link_to_a_directory, a_dangling_link, a_link_to_a_link, a_name_as_long_as_can_be, a_way_back, an_empty_directory,
    an_empty_disk,
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_halves_are_put_where_the_name_leads(place: object, golden: Path, tmp_path: Path) -> None:
    """And nothing is left beside them; a link stays a link, and a directory the one that it was."""
    output, real = place(tmp_path)  # type: ignore[operator]
    before = real.stat() if real.exists() else None
    linked = output.is_symlink()
    split(open_source(golden / "tiny-llama3"), output)
    assert_halves(real)
    assert output.is_symlink() == linked
    assert before is None or (real.stat().st_ino, real.stat().st_mode) == (before.st_ino, before.st_mode)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_the_current_directory_is_a_place(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``.`` and as its own name with a slash; whoever stands in it still does."""
    for number, output in enumerate((".", "./", f"{tmp_path / '2'}/", f"../{3}")):
        here = tmp_path / str(number)
        here.mkdir()
        monkeypatch.chdir(here)
        split(open_source(golden / "tiny-llama3"), Path(output))
        assert_halves(Path())


@pytest.mark.process
def test_a_link_to_another_file_system_is_followed(golden: Path, tmp_path: Path, other_file_system: Path) -> None:
    """Into a directory that is there, and one that is not yet."""
    (other_file_system / "there").mkdir()
    for name in ("there", "new"):
        (tmp_path / name).symlink_to(other_file_system / name)
        split(open_source(golden / "tiny-llama3"), tmp_path / name)
        assert_halves(other_file_system / name)
    assert names(tmp_path) == ["new", "there"]


@pytest.mark.process
def test_a_mount_point_is_filled(golden: Path, tmp_path: Path) -> None:
    """It cannot be renamed over, nor is anything on its file system outside it."""
    out = tmp_path / "out"
    out.mkdir()
    with mounted(out, "-t", "tmpfs", "tmpfs"):
        split(open_source(golden / "tiny-llama3"), out)
        assert_halves(out)


@pytest.mark.process
def test_an_empty_directory_will_do_below_one_that_is_read_only(golden: Path, tmp_path: Path) -> None:
    """As a volume is in a container whose root is read-only."""
    above, held = tmp_path / "above", tmp_path / "held"
    (above / "out").mkdir(parents=True)
    held.mkdir()
    with mounted(above, "--bind", str(above)):
        with mounted(above / "out", "--bind", str(held)):
            subprocess.run(["mount", "-o", "remount,ro,bind", str(above)], check=True)
            with pytest.raises(CheckpointError, match="beside cannot be used for --output_dir: Read-only file system"):
                split(open_source(golden / "tiny-llama3"), above / "beside")
            split(open_source(golden / "tiny-llama3"), above / "out")
            assert_halves(above / "out")


@pytest.mark.process
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_whoever_may_write_into_the_directory_only_can(other_file_system: Path) -> None:
    """Its parent may be another's; and a directory that may not be written into is told before the work."""
    above = other_file_system / "above"
    out, closed = above / "out", above / "closed"
    for directory in (out, closed):
        directory.mkdir(parents=True)
    os.chown(out, NOBODY, -1)
    os.seteuid(NOBODY)
    try:
        with placing.appearing(out, OUTPUT) as partial:
            (partial / "edge").mkdir()
            (partial / "cloud").mkdir()
        for output in (closed, above / "new", above / "new" / "below"):
            with pytest.raises(CheckpointError, match="cannot be used for --output_dir: Permission denied"):
                placing.check(output, OUTPUT)
    finally:
        os.seteuid(0)
    assert names(out) == ["cloud", "edge"] and names(above) == ["closed", "out"] and names(closed) == []


# --- What cannot be a place is told before the work -----------------------------------------------------------------


def cannot(output: Path, source: Path) -> str:
    """What is said before the checkpoint is opened; nothing is left of having tried."""
    before = sorted(output.parent.rglob("*")) if output.parent.is_dir() else []
    with pytest.raises(CheckpointError) as reported:
        splitting.check_output(output, source)
    assert (sorted(output.parent.rglob("*")) if output.parent.is_dir() else []) == before
    return str(reported.value)


def test_what_cannot_be_a_place_is_told_before_the_checkpoint_is_opened(golden: Path, tmp_path: Path) -> None:
    """A file, a full directory, links in a circle, a name that is too long, below a file, the checkpoint itself."""
    source = golden / "tiny-llama3"
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "round").symlink_to("and")
    (tmp_path / "and").symlink_to("round")
    for name, said in {
        "file": "exists already",
        "full": "exists already",
        "round": "Too many levels of symbolic links",
        "n" * 256: "File name too long",
        "file/below": "Not a directory",
        "\udcff/out": "its path or this locale is not UTF-8",
    }.items():
        reported = cannot(tmp_path / name, source)
        assert said in reported and str(tmp_path / name) in reported and "--output_dir" in reported
    for output in (source, golden, source / "."):
        assert cannot(output, source) == f"{output} holds the checkpoint itself; choose another --output_dir"


def test_the_command_tells_of_the_place_first(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Before a checkpoint, which is not even there."""
    (tmp_path / "full" / "mine").mkdir(parents=True)
    flags = ("--ckpt_dir", str(tmp_path / "none"), "--output_dir", str(tmp_path / "full"))
    assert exit_code(split_checkpoint.main, *flags) == 1
    said = capfd.readouterr()
    assert (
        said.out == ""
        and said.err.startswith(f"error: {tmp_path / 'full'} exists already")
        and said.err.count("\n") == 1
    )


@pytest.mark.process
def test_inside_the_checkpoint_is_a_place_that_leaves_the_checkpoint_whole(golden: Path, tmp_path: Path) -> None:
    """It opens as before."""
    source = tmp_path / "source"
    subprocess.run(["cp", "-r", str(golden / "tiny-llama3"), str(source)], check=True)
    splitting.check_output(source / "out", source)
    first = split(open_source(source), source / "out")
    assert_halves(source / "out")
    assert split(open_source(source), source / "again") == first


@pytest.mark.process
def test_too_little_room_there_is_found_out_although_there_is_enough_beside_it(golden: Path, tmp_path: Path) -> None:
    """The room of the place itself counts."""
    out = tmp_path / "out"
    out.mkdir()
    with mounted(out, "-t", "tmpfs", "-o", "size=256k", "tmpfs"):
        with pytest.raises(CheckpointError, match=r"out: its file system has 0\.000[0-9]+ GB free, .* make room"):
            split(open_source(golden / "tiny-llama3"), out)
        assert names(out) == []
    with mounted(out, "-t", "tmpfs", "-o", "nr_inodes=4", "tmpfs"):
        with pytest.raises(CheckpointError, match=r"out: its file system has room for \d files, but 10 are needed"):
            split(open_source(golden / "tiny-llama3"), out)
        assert names(out) == []


def test_a_file_larger_than_a_file_system_holds_is_found_out(tmp_path: Path) -> None:
    """As 4 GB are on FAT; here it is what any file system has as a bound."""
    with pytest.raises(CheckpointError, match=r"a file of \S+ GB is needed, but its file system allows none so large"):
        placing.check_room(tmp_path, tmp_path, OUTPUT, needed=0, largest=2**63 - 1, files=0)
    assert names(tmp_path) == []


@pytest.mark.process
@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("call", ["rename", "flock"])
def test_a_file_system_that_cannot_rename_is_found_out_and_one_without_locks_will_do(
    call: str, there: bool, tmp_path: Path
) -> None:
    """As the kernel says it of some network file systems."""
    if there:
        (tmp_path / "out").mkdir()
    traced, error = ("rename,renameat,renameat2", "EXDEV") if call == "rename" else ("flock", "ENOLCK")
    traps = ["-f", "-o", "/dev/null", "-e", f"trace={traced}", "-e", f"inject={traced}:error={error}"]
    script = (
        "import sys; from pathlib import Path; from llama import placing; from llama.errors import CheckpointError;"
        "placing.check(Path(sys.argv[1]), placing.OutputSpec('--output_dir', CheckpointError))"
    )
    command = ["strace", *traps, sys.executable, "-c", script, str(tmp_path / "out")]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("strace is not installed")
    if "ptrace" in done.stderr:
        pytest.skip("this user may not trace")
    if call == "flock":
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert "out cannot be used for --output_dir: Invalid cross-device link; choose another place" in done.stderr
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["out"] * there


# --- Whole or not at all --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True])
def test_what_is_interrupted_leaves_nothing_and_nobody_else_writes_there(there: bool, tmp_path: Path) -> None:
    """A directory that was there is as empty as it was; meanwhile a second run is refused."""
    if there:
        (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        with placing.appearing(tmp_path / "out", OUTPUT) as partial:
            (partial / "edge").mkdir()
            (partial / "edge" / "consolidated.00.pth").write_text("half")
            with pytest.raises(CheckpointError, match="another process is writing"):
                placing.check(tmp_path / "out", OUTPUT)
            raise KeyboardInterrupt
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["out"] * there


def written_and_killed(out: Path, kill_at: int) -> bool:
    """Results are written by a process that is killed at a step, before or after it is done; whether it was."""
    child = os.fork()
    if not child:
        left = kill_at

        def step(function: Callable[..., object]) -> Callable[..., object]:
            def stepped(*args: object, **named: object) -> object:
                nonlocal left
                result: object = None
                for happens in (False, True):
                    if happens:
                        result = function(*args, **named)
                    left -= 1
                    if not left:
                        os.kill(os.getpid(), signal.SIGKILL)
                return result

            return stepped

        for name in ("mkdir", "rename", "rmdir", "unlink"):
            setattr(os, name, step(getattr(os, name)))
        try:
            write(out, "first")
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def write(out: Path, content: str) -> None:
    with placing.appearing(out, OUTPUT) as partial:
        for part in ("edge", "cloud"):
            (partial / part).mkdir()
            (partial / part / "file").write_text(content)


@pytest.mark.process
@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_is_killed_at_any_step_leaves_what_the_next_one_takes_over(there: bool, tmp_path: Path) -> None:
    """Each part is whole where it is, both are but for one moment; then the next run writes all of it anew."""
    torn = 0
    for kill_at in itertools.count(1):
        out = tmp_path / str(kill_at) / "out"
        out.mkdir(parents=True) if there else out.parent.mkdir()
        killed = written_and_killed(out, kill_at)
        parts = sorted({"edge", "cloud"} & {path.name for path in out.iterdir()}) if out.exists() else []
        assert all((out / part / "file").read_text() == "first" for part in parts)
        if parts == ["cloud", "edge"]:
            with pytest.raises(CheckpointError, match="exists already"):
                write(out, "second")
        else:
            torn += bool(parts)
            write(out, "second")
            assert {path.name: (path / "file").read_text() for path in out.iterdir()} == {
                "cloud": "second",
                "edge": "second",
            }
            assert names(out.parent) == ["out"]
        if not killed:
            break
    assert kill_at > 10 and torn == 2 * there  # after the one rename, and before the other


def test_what_was_killed_between_two_renames_is_taken_over(golden: Path, tmp_path: Path) -> None:
    """One half is in its place, the other is not yet. What only looks like it is left alone."""
    source, out = open_source(golden / "tiny-llama3"), tmp_path / "out"
    split(source, out)
    (out / ".partial").mkdir()
    with pytest.raises(CheckpointError, match="exists already"):  # this one was whole
        split(source, out)
    (out / "edge").rename(out / ".partial" / "edge")
    split(source, out)
    assert_halves(out)
    (out / "edge").rename(out / "elsewhere")
    (out / ".partial").mkdir()
    with pytest.raises(CheckpointError, match="exists already"):
        split(source, out)
    assert names(out) == [".partial", "cloud", "elsewhere"]


def test_a_rename_that_fails_at_the_end_undoes_the_one_before(tmp_path: Path) -> None:
    """Somebody puts something in the way while the work runs: it stays, and nothing of ours does."""
    with pytest.raises(OSError) as failed:
        with placing.appearing(tmp_path, OUTPUT) as partial:
            for name in ("edge", "cloud"):
                (partial / name).mkdir()
            (tmp_path / "edge").write_text("somebody's")
    assert failed.value.errno in (errno.ENOTDIR, errno.EEXIST)
    assert names(tmp_path) == ["edge"] and (tmp_path / "edge").read_text() == "somebody's"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_between_the_last_renames_leaves_both_or_neither(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another thread takes it, as one of torch's may."""
    rename, stop = Path.rename, threading.Event()

    def signalled(path: Path, to: Path) -> Path:
        moved = rename(path, to)
        if to == tmp_path / "cloud":
            os.kill(os.getpid(), number)
            time.sleep(0.2)
        return moved

    def work() -> None:
        """Two results."""
        with placing.appearing(tmp_path, OUTPUT) as partial:
            for name in ("edge", "cloud"):
                (partial / name).mkdir()

    monkeypatch.setattr(Path, "rename", signalled)
    other = threading.Thread(target=stop.wait)
    other.start()
    try:
        with pytest.raises(SystemExit):
            run(work, [])
    finally:
        stop.set()
        other.join()
    assert names(tmp_path) == ["cloud", "edge"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_between_two_names_leaves_both_files_of_a_restore_or_neither(
    number: signal.Signals, record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes when the record has its name and the catalogue does not yet."""
    (tmp_path / "products.jsonl").write_text(PRODUCT)
    import_products(tmp_path / "products.jsonl", tmp_path / "products.sqlite")
    back_up({RECORD: record, CATALOGUE: tmp_path / "products.sqlite"}, tmp_path / "copy")
    (tmp_path / "new").mkdir()

    def signalled(unfinished: Path, path: Path) -> None:
        give_name(unfinished, path)
        os.kill(os.getpid(), number)
        time.sleep(0.1)

    monkeypatch.setattr(restoring, "give_name", signalled)
    new = tmp_path / "new"
    flags = ("--record_file", str(new / "runs"), "--catalogue", str(new / "products"))
    assert exit_code(restoring.main, "--backup_dir", str(tmp_path / "copy"), *flags) == 128 + number
    assert names(new) == ["products", "runs"]


def test_what_another_run_has_finished_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run looks while the first one's results are half in place, and goes on when they are whole."""
    looked, go_on, said = threading.Event(), threading.Event(), list[str]()
    rename, held, main = Path.rename, placing._held, threading.current_thread()

    def slow(*args: Any) -> Any:
        if threading.current_thread() is not main:
            looked.set()
            go_on.wait(10)
        return held(*args)

    def renamed(path: Path, to: Path) -> Path:
        moved = rename(path, to)
        if threading.current_thread() is main and to == tmp_path / "cloud":
            second.start()
            looked.wait(0.5)
        return moved

    def write(text: str) -> None:
        try:
            with placing.appearing(tmp_path, OUTPUT) as partial:
                for name in ("edge", "cloud"):
                    (partial / name).mkdir()
                    (partial / name / "file").write_text(text)
        except CheckpointError as err:
            said.append(str(err))

    second = threading.Thread(target=write, args=("second",))
    monkeypatch.setattr(placing, "_held", slow)
    monkeypatch.setattr(Path, "rename", renamed)
    write("first")
    go_on.set()
    second.join()
    assert [(tmp_path / name / "file").read_text() for name in names(tmp_path)] == ["first", "first"]
    assert said == [f"another process is writing {tmp_path} right now; wait until it is done"]


def two_runs_at_once(base: Path, there: bool, rounds: int) -> set[str]:
    """What the one is told that is not the first, in so many rounds; one of the two always is."""
    for number in range(rounds):
        (base / "outs" / str(number)).mkdir(parents=True) if there else (base / "outs").mkdir(exist_ok=True)
    runs = []
    for which in ("first", "second"):
        child = os.fork()
        if not child:
            with (base / which).open("w") as reported:
                for number in range(rounds):
                    out = base / "outs" / str(number)
                    try:
                        with placing.appearing(out, OUTPUT) as partial:
                            for name in ("edge", "cloud"):
                                (partial / name).mkdir()
                                (partial / name / "file").write_text(which)
                    except Exception as err:
                        reported.write(str(err).replace(str(out), "OUT") + "\n")
            os._exit(0)
        runs.append(child)
    for child in runs:
        os.waitpid(child, 0)
    for out in (base / "outs").iterdir():
        assert names(out) == ["cloud", "edge"]
        assert (out / "edge" / "file").read_text() == (out / "cloud" / "file").read_text()
    assert not [name for name in names(base / "outs") if name.startswith(".")]
    return {line for which in ("first", "second") for line in (base / which).read_text().splitlines()}


@pytest.mark.process
@pytest.mark.parametrize("there", [False, True])
def test_of_two_runs_at_once_one_is_told_of_the_other(there: bool, tmp_path: Path) -> None:
    """That it writes right now, or has written; never that the place is of no use."""
    said = two_runs_at_once(tmp_path, there, 5000 if SOAK else 300)
    assert said <= {
        "another process is writing OUT right now; wait until it is done",
        "OUT exists already; delete it or choose another --output_dir",
    }


def test_a_trial_leaves_nothing(tmp_path: Path) -> None:
    """Also of the directories above."""
    placing.check(tmp_path / "a" / "b" / "c", OUTPUT)
    placing.check(tmp_path, OUTPUT)
    assert names(tmp_path) == []


# --- The other programs that work before they write -----------------------------------------------------------------


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """An empty record."""
    path = tmp_path / "sources" / "runs.sqlite"
    path.parent.mkdir()
    RunStore(path).close()
    return path


def test_a_back_up_goes_to_the_longest_name_and_below_a_link(record: Path, tmp_path: Path) -> None:
    """For its owner only."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for target in (tmp_path / LONGEST, tmp_path / "link" / "copy"):
        assert back_up({RECORD: record}, target) > 0
        assert names(target) == ["manifest.json", "runs.sqlite"] and stat.S_IMODE(target.stat().st_mode) == 0o700
    assert names(tmp_path / "real") == ["copy"]


@pytest.mark.process
def test_a_back_up_without_room_is_refused_before_anything_is_copied(record: Path, tmp_path: Path) -> None:
    """By the room where it goes; a restore likewise, and for both of its files together."""
    back_up({RECORD: record}, tmp_path / "copy")
    (tmp_path / "small").mkdir()
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=16k", "tmpfs"):
        with pytest.raises(BackupError, match=r"copy: its file system has .* GB free"):
            back_up({RECORD: record}, tmp_path / "small" / "copy")
        with pytest.raises(BackupError, match=r"runs\.sqlite: its file system has .* choose another --record_file"):
            restore(tmp_path / "copy", {RECORD: tmp_path / "small" / "runs.sqlite"})
        assert names(tmp_path / "small") == []


def test_a_restore_finds_out_each_of_its_places_before_it_copies(record: Path, tmp_path: Path) -> None:
    """A name that is too long for what SQLite puts beside it, a directory that is not there, a file in the way."""
    back_up({RECORD: record}, tmp_path / "copy")
    (tmp_path / "file").touch()
    for target in ("n" * 256, LONGEST, "none/runs.sqlite", "file/runs.sqlite"):
        with pytest.raises(BackupError, match=r"nothing was restored|File name too long"):
            restore(tmp_path / "copy", {RECORD: tmp_path / target})
    assert names(tmp_path) == ["copy", "file", "sources"]
    longest = tmp_path / ("n" * (255 - len("-journal")))
    restore(tmp_path / "copy", {RECORD: longest})
    RunStore(longest).close()


PRODUCT = '{"id": "a", "vendor": "v", "title": "Cup", "price": 1}\n'


@pytest.mark.process
def test_a_catalogue_that_cannot_be_replaced_is_told_before_a_line_is_read(tmp_path: Path) -> None:
    """A single file that is mounted, as into a container, cannot be renamed over; a bad line is not even looked at."""
    products, catalogue = tmp_path / "products.jsonl", tmp_path / "products.sqlite"
    products.write_text(PRODUCT)
    import_products(products, catalogue)
    products.write_text("no product\n")
    with mounted(catalogue, "--bind", str(catalogue)):
        with pytest.raises(CatalogueError, match="it is a mount point, which cannot be replaced; mount its directory"):
            import_products(products, catalogue)
    assert names(tmp_path) == ["products.jsonl", "products.sqlite"]


def test_a_catalogue_has_a_name_as_long_as_can_be(tmp_path: Path) -> None:
    """Also where a link leads to it, which stays one."""
    (tmp_path / "products.jsonl").write_text(PRODUCT)
    (tmp_path / "link").symlink_to(LONGEST)
    assert import_products(tmp_path / "products.jsonl", tmp_path / "link") == 1
    assert (tmp_path / "link").is_symlink() and (tmp_path / LONGEST).is_file()
    with contextlib.closing(sqlite3.connect(tmp_path / LONGEST)) as db:
        assert db.execute("SELECT count(*) FROM products").fetchone() == (1,)


@pytest.mark.process
@pytest.mark.parametrize(
    ("output", "said"), [("s3://bucket/o", "a URL"), ("file:///tmp/o", "a URL"), ("~/o", "expands ~ only")]
)
def test_what_is_no_path_here_is_refused_and_not_made(output: str, said: str, tmp_path: Path) -> None:
    """It would be a directory of an odd name beside the one that was meant."""
    ended = run_main("split_checkpoint.py", f"--ckpt_dir={tmp_path}", f"--output_dir={output}")
    assert ended.returncode == 1 and said in ended.stderr and ended.stderr.count("\n") == 1
    assert not (ROOT / output.split("/")[0]).exists()
