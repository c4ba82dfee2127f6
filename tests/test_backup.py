"""Claims about back-ups: real files and command lines, a real cloud with eight devices at work."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from llama import wire
from llama.checkpoint.halves import read_half, tokenizer_of
from llama.client.link import Link
from llama.cloud.backup import CATALOGUE, MANIFEST, RECORD, back_up
from llama.cloud.catalogue import Catalogue
from llama.cloud.importing import import_products
from llama.cloud.owners import Owners, secret_of
from llama.cloud.run_store import Run, RunStore
from llama.edge.generation import GenerationSettings, generate_reply
from llama.keys import LinkKeys, read_key
from llama.text.dates import utc
from llama.wire import DeliveryStatus
from tests.devices import Watched
from tests.processes import cloud, wait_until
from tests.support import GREEDY, ROOT, Keys, run_main, written
from tests.volumes import SOAK
from tests.whole import load_edge

pytestmark = pytest.mark.process

Splits = Callable[..., Path]

DEVICES = 8
FILLED_MB = 900 if SOAK else 40
SHEETS = {"system.txt": "Be kind.", "insurer/short.toml": 'questions = ["Which cover?"]'}
PRODUCT = ('{"id": "p", "vendor": "toko-a", "title": "Teapot", "description": "For two.", "price": 5000, '
           '"url": "https://toko-a.example/p"}\n')  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite"


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    (tmp_path / "products.jsonl").write_text(PRODUCT)
    import_products(tmp_path / "products.jsonl", tmp_path / "products.sqlite")
    return tmp_path / "products.sqlite"


def a_run(number: int, text: str = "a reply") -> Run:
    now = utc(time.time())
    return Run(number.to_bytes(16, "big"), "insurer/short", now, now, 1, 1, 1, text, copy="queued")


def finish(record: RunStore, number: int) -> None:
    run = a_run(number)
    record.write(run, "insurer", wire.Delivery(run.run_id, run.prompt_id, run.finished_at, "sheet", run.text))


def fill(path: Path, megabytes: int) -> None:
    """A record with so much in it; each run of a million letters."""
    RunStore(path).close()
    with closing(sqlite3.connect(path)) as db, db:
        now = utc(time.time())
        db.executemany(
            "INSERT INTO runs VALUES (NULL, ?, x'', 1000000, '', ?, ?, 1, 1, 1, ?, '[]', 'none')",
            ((os.urandom(16), now, now, "x" * 1_000_000) for _ in range(megabytes)),
        )


def backed_up(output_dir: Path, *flags: object) -> subprocess.CompletedProcess[str]:
    """The command line, to its end."""
    return run_main("-m", "llama.cloud.backup", *map(str, flags), "--output_dir", str(output_dir), timeout=600)


def restored(backup_dir: Path, *flags: object) -> subprocess.CompletedProcess[str]:
    return run_main("-m", "llama.cloud.restore", "--backup_dir", str(backup_dir), *map(str, flags), timeout=600)


def runs_in(path: Path) -> dict[bytes, str]:
    """Ids and texts, read without any code of the product's."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return dict(db.execute("SELECT run_id, text FROM runs WHERE prompt_id <> '' ORDER BY number").fetchall())


def of(directory: Path) -> list[str]:
    """Names in it."""
    return sorted(file.name for file in directory.iterdir())


# ---- while a cloud is at work


class Devices:
    """Threads, each with a key, that finish one run after the other until they are stopped."""

    def __init__(self, out: Path, address: str, keys: Sequence[LinkKeys]) -> None:
        self.address, self.edge = address, load_edge(out)
        self.tokenizer = tokenizer_of(read_half(out / "edge", "edge"))
        self.finished, self.failures = dict[bytes, str](), list[BaseException]()
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._work, args=(each,)) for each in keys]

    def __enter__(self) -> Devices:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def so_far(self) -> dict[bytes, str]:
        """Runs whose device has been told that they are finished, and their texts."""
        with self._lock:
            return dict(self.finished)

    def _work(self, keys: LinkKeys) -> None:
        try:
            prompt = self.tokenizer.encode("Which cover?", bos=True, eos=False)
            while not self._stop.is_set():
                link = Watched(self.address, deadline_s=60, on_notice=lambda words: None, keys=keys)
                with link:
                    reply = generate_reply(
                        prompt, edge=self.edge, link=link, welcome=link.hello(), tokenizer=self.tokenizer,
                        settings=GenerationSettings(GREEDY, stop_ids=(), max_gen_len=2), prompt_id="insurer/short",
                    )  # fmt: skip
                    assert reply.copy is DeliveryStatus.QUEUED
                    with self._lock:
                        self.finished[link.run_id] = reply.text
        except BaseException as err:
            self.failures.append(err)


def test_a_back_up_made_while_eight_devices_run_has_every_run_that_was_said_to_be_finished(
    tiny_split: Splits, tmp_path: Path, path: Path, catalogue: Path
) -> None:
    """No run fails or goes without its copy meanwhile. A new cloud on what is restored hands out every copy.

    With the cloud's key the rows still say which are one device's.
    """
    out, sheets, keys = tiny_split(), written(tmp_path / "sheets", SHEETS), Keys(tmp_path)
    phones, insurer = [keys.make(f"phone-{number}") for number in range(DEVICES)], keys.make("insurer", "vendor")
    fill(path, FILLED_MB)
    flags = ("--max_seq_len", 256, "--sheet_dir", sheets, "--threads", 1, "--max_batch_size", DEVICES,
             "--key_file", tmp_path / "cloud.key", "--allow_dir", keys.allowed)  # fmt: skip
    with (
        cloud(out / "cloud", *flags, "--record_file", path, "--catalogue", catalogue) as running,
        Devices(out, running.address, phones) as devices,
    ):
        assert wait_until(lambda: len(devices.finished) >= 5 * DEVICES or bool(devices.failures))
        before = devices.so_far()
        ended = backed_up(tmp_path / "copy", "--record_file", path, "--catalogue", catalogue)
        meanwhile = len(devices.so_far()) - len(before)
        assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
        assert wait_until(lambda: len(devices.finished) >= len(before) + meanwhile + 2 * DEVICES)
        reported = running.said()
    assert not devices.failures, devices.failures
    assert not [line for line in reported if "level=" in line], reported
    assert meanwhile > 0
    again = tmp_path / "again"
    again.mkdir()
    new = ("--record_file", again / "r.sqlite", "--catalogue", again / "p.sqlite")
    assert restored(tmp_path / "copy", *new).returncode == 0
    kept = runs_in(again / "r.sqlite")
    assert {run_id: kept.get(run_id) for run_id in before} == before
    assert kept.items() <= devices.finished.items()
    print(f"{len(before)} runs before, {meanwhile} during a back-up ({ended.stderr.strip()}), {len(kept)} in it")
    with cloud(out / "cloud", *flags, *new) as running, Link(running.address, keys=insurer) as link:
        came = dict[bytes, str]()
        while deliveries := collected(link):
            came |= {delivery.run_id: delivery.text for delivery in deliveries}
            link.ask(wire.Acknowledge("insurer", tuple(delivery.run_id for delivery in deliveries)))
    assert came == kept
    owners = Owners(secret_of(read_key(str(tmp_path / "cloud.key"), "cloud")))
    with closing(sqlite3.connect(again / "r.sqlite")) as db:
        for table in ("runs", "deliveries"):
            rows = db.execute(f"SELECT owner, run_id FROM {table} WHERE owner <> x''").fetchall()
            whose = {owners.opened(owner, run_id) for owner, run_id in rows}
            assert whose == {owners.pseudonym(phone.own.identity.public) for phone in phones} and len(rows) == len(kept)


def collected(link: Link) -> tuple[wire.Delivery, ...]:
    reply = link.ask(wire.Collect("insurer"))
    assert isinstance(reply, wire.Deliveries)
    return reply.deliveries


def test_a_back_up_is_one_moment_and_ends_however_fast_a_record_is_written(path: Path, tmp_path: Path) -> None:
    """A writer without a pause: the copy has all that was written before it began, and nothing but what came first."""
    written_so_far, stop, failures, without_end = [0], threading.Event(), list[BaseException](), 20_000
    fill(path, 40)  # ten pieces: between them something was written

    def write() -> None:
        try:
            with closing(RunStore(path)) as record:
                while not stop.is_set() and written_so_far[0] < without_end:
                    finish(record, written_so_far[0])
                    written_so_far[0] += 1
        except BaseException as err:
            failures.append(err)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            assert wait_until(lambda at=written_so_far[0] + 20: written_so_far[0] > at or bool(failures))  # type: ignore[misc]
            before = written_so_far[0]
            back_up({RECORD: path}, tmp_path / f"copy{number}")
            kept = list(runs_in(tmp_path / f"copy{number}" / RECORD))
            assert kept == [a_run(n).run_id for n in range(len(kept))] and len(kept) >= before
            with closing(RunStore(tmp_path / f"copy{number}" / RECORD)) as record:
                assert [d.run_id for d in record.collect("insurer", 1_000_000, 1 << 40)] == kept
    finally:
        stop.set()
        writer.join()
    assert not failures and written_so_far[0] < without_end


def test_a_back_up_of_what_a_killed_cloud_left_has_its_last_runs_and_leaves_it_as_it_is(
    path: Path, tmp_path: Path
) -> None:
    """They stand in the companion file, which is not tidied up by the way."""
    writes_and_dies = (
        "import os, sys; from tests.test_backup import *\n"
        "record = RunStore(sys.argv[1])\n"
        "for number in range(3): finish(record, number)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", writes_and_dies, str(path)], cwd=ROOT, check=False)
    left = {file.name: file.read_bytes() for file in (path, path.with_name("runs.sqlite-wal"))}
    assert backed_up(tmp_path / "copy", "--record_file", path).returncode == 0
    assert left == {name: (tmp_path / name).read_bytes() for name in left}
    assert list(runs_in(tmp_path / "copy" / RECORD)) == [a_run(number).run_id for number in range(3)]


# ---- what is written


def test_a_back_up_is_for_its_owner_only_and_restores_to_files_that_open(
    path: Path, catalogue: Path, tmp_path: Path
) -> None:
    """Under a umask that forbids nothing; both files, or one of them."""
    with closing(RunStore(path)) as record:
        finish(record, 1)
    before = os.umask(0)
    try:
        ended = backed_up(tmp_path / "copy", "--record_file", path, "--catalogue", catalogue)
        assert ended.returncode == 0 and ended.stderr.startswith(f"{tmp_path}/copy: runs.sqlite, products.sqlite; ")
        assert of(tmp_path / "copy") == [MANIFEST, CATALOGUE, RECORD]
        new = tmp_path / "new"
        new.mkdir()
        ended = restored(tmp_path / "copy", "--record_file", new / "r", "--catalogue", new / "p")
        assert ended.returncode == 0 and ended.stderr.startswith(f"{new}/r, {new}/p: as of 20")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o700
    files = [*(tmp_path / "copy").iterdir(), *new.iterdir()]
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * 5
    with closing(RunStore(new / "r")) as record, closing(Catalogue(new / "p")) as products:
        assert len(record.collect("insurer", 9)) == 1 and products.size == 1
    assert restored(tmp_path / "copy", "--catalogue", tmp_path / "only").returncode == 0
    assert (tmp_path / "only").read_bytes() == (tmp_path / "copy" / CATALOGUE).read_bytes()


def test_what_was_acknowledged_after_the_back_up_is_handed_out_again(path: Path, tmp_path: Path) -> None:
    """At least once, not at most; what was acknowledged before is not."""
    with closing(RunStore(path)) as record:
        for number in range(3):
            finish(record, number)
        record.acknowledge("insurer", [a_run(0).run_id])
        back_up({RECORD: path}, tmp_path / "copy")
        record.acknowledge("insurer", [a_run(1).run_id])
        assert [d.run_id for d in record.collect("insurer", 9)] == [a_run(2).run_id]
    assert restored(tmp_path / "copy", "--record_file", tmp_path / "new").returncode == 0
    with closing(RunStore(tmp_path / "new")) as record:
        assert [d.run_id for d in record.collect("insurer", 9)] == [a_run(1).run_id, a_run(2).run_id]
        finish(record, 0)
        assert len(record.collect("insurer", 9)) == 2


@pytest.fixture
def large(path: Path) -> Iterator[Path]:
    """A record that takes a while."""
    fill(path, 80)
    yield path
    path.unlink()


def begun(large: Path, target: Path) -> subprocess.Popen[str]:
    """A back-up that copies right now."""
    command = [sys.executable, "-m", "llama.cloud.backup", "--record_file", str(large), "--output_dir", str(target)]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stderr=subprocess.PIPE)
    unfinished = target.with_name(f".{target.name}.partial") / RECORD
    assert wait_until(lambda: unfinished.exists() or process.poll() is not None, every_s=0.001)
    assert process.poll() is None
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_back_up_that_is_interrupted_leaves_nothing(large: Path, tmp_path: Path, number: int, code: int) -> None:
    """Ctrl-C and SIGTERM."""
    with begun(large, tmp_path / "copy") as process:
        process.send_signal(number)
        assert process.wait(60) == code
    assert of(tmp_path) == ["runs.sqlite"] or of(tmp_path) == ["runs.sqlite", "runs.sqlite-shm", "runs.sqlite-wal"]


def test_what_a_killed_back_up_leaves_is_taken_over_by_the_next_but_not_while_it_runs(
    large: Path, tmp_path: Path
) -> None:
    """SIGKILL; two at a time."""
    with begun(large, tmp_path / "copy") as process:
        process.send_signal(signal.SIGSTOP)
        ended = backed_up(tmp_path / "copy", "--record_file", large)
        assert ended.returncode == 1
        assert ended.stderr == (
            f"error: another process is writing {tmp_path / 'copy'} right now; wait until it is done\n"
        )
        process.kill()
    assert (tmp_path / ".copy.partial").exists() and not (tmp_path / "copy").exists()
    assert backed_up(tmp_path / "copy", "--record_file", large).returncode == 0
    assert of(tmp_path / "copy") == [MANIFEST, RECORD] and not (tmp_path / ".copy.partial").exists()


# ---- what is refused


def damage(path: Path, at: float = 0.6) -> None:
    """Some bytes that were something else."""
    with path.open("r+b") as file:
        file.seek(int(path.stat().st_size * at))
        file.write(b"\x7f" * 600)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("missing", "is not a file; give --record_file the cloud's own"),
        ("text", "cannot be copied: file is not a database"),
        ("another", "is not a run record but another program's database"),
        ("empty", "is empty; give --record_file the cloud's own"),
        ("damaged", "is damaged; restore an earlier back-up"),
        ("older version", "has version 1, and this program reads version 2; use another --record_file"),
        ("newer version", "has version 3, and this program reads version 2; use another --record_file"),
    ],
)
def test_what_is_no_record_is_not_backed_up(path: Path, tmp_path: Path, source: str, said: str) -> None:
    """One line, and nothing is left."""
    if source == "text":
        path.write_text("Dear diary\n" * 400)
    elif source == "another":
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE notes (text)")
    elif source == "empty":
        path.touch()
    elif source != "missing":
        with closing(RunStore(path)) as record:
            for number in range(200):
                finish(record, number)
        if source == "damaged":
            damage(path)
        else:
            with closing(sqlite3.connect(path)) as db:
                db.execute(f"PRAGMA user_version = {1 if source == 'older version' else 3}")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    ended = backed_up(tmp_path / "copy", "--record_file", path)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert said in ended.stderr and str(path) in ended.stderr
    assert {file: file.read_bytes() for file in tmp_path.iterdir() if file.suffix == ".sqlite"} == before


def test_no_back_up_is_written_over(path: Path, tmp_path: Path) -> None:
    """Nor any other file or directory, nor a link that leads nowhere."""
    RunStore(path).close()
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("runs.sqlite", "directory", "link"):
        ended = backed_up(tmp_path / name, "--record_file", path)
        assert ended.returncode == 1
        assert ended.stderr == (f"error: {tmp_path / name} exists and is not overwritten; give --output_dir "
                                f"another name\n")  # fmt: skip
    assert of(tmp_path) == ["directory", "link", "runs.sqlite"]


def test_a_restore_writes_over_nothing_and_takes_nothing_that_is_damaged(
    path: Path, catalogue: Path, tmp_path: Path
) -> None:
    """Neither file, if one cannot be: a file of that name, a log beside it, another digest, a file that is lacking."""
    with closing(RunStore(path)) as record:
        for number in range(200):
            finish(record, number)
    back_up({RECORD: path, CATALOGUE: catalogue}, tmp_path / "copy")
    back_up({RECORD: path}, tmp_path / "lacking")
    new = tmp_path / "new"
    new.mkdir()
    both = ("--record_file", new / "r", "--catalogue", new / "p")

    def refused(backup: str, *flags: object) -> str:
        there = of(new)
        ended = restored(tmp_path / backup, *flags)
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1) and of(new) == there
        return ended.stderr

    for name, flag in (("r", "record_file"), ("p", "catalogue"), ("r-wal", "record_file"), ("p-journal", "catalogue")):
        (new / name).write_text("mine")
        assert f"{new / name} exists and is not overwritten; move it away, or give --{flag} another path" in (
            refused("copy", *both)
        )
        assert (new / name).read_text() == "mine"
        (new / name).unlink()
    assert "has no products.sqlite; omit --catalogue" in refused("lacking", *both)
    assert "nothing was restored" in refused("copy", "--record_file", new / "r", "--catalogue", new / "no" / "p")
    assert "is not a back-up: its manifest.json is missing" in refused("new", *both)
    (tmp_path / "copy" / CATALOGUE).write_bytes((tmp_path / "copy" / CATALOGUE).read_bytes() + b"\0")
    assert "products.sqlite has changed since the back-up; use another back-up" in refused("copy", *both)
    damage(tmp_path / "lacking" / RECORD)
    assert "runs.sqlite has changed since the back-up" in refused("lacking", "--record_file", new / "r")
    assert of(new) == []


@pytest.mark.parametrize(
    ("program", "flags", "said"),
    [
        ("backup", ("--output_dir", "x"), "--record_file or --catalogue is required"),
        (
            "backup", ("--record_file", "x"),
            "the following arguments are required: --output_dir; --help lists all flags",
        ),
        ("restore", ("--backup_dir", "x"), "--record_file or --catalogue is required"),
        (
            "restore", ("--backup_dir", "x", "--record_file", "y", "--catalogue", "./y"),
            "--record_file and --catalogue are the same file; give --catalogue another path",
        ),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_told_in_one_line(program: str, flags: tuple[str, ...], said: str) -> None:
    """Exit code 2, and nothing is done."""
    ended = run_main("-m", f"llama.cloud.{program}", *flags)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"error: {said}\n")
