"""Claims about third parties' deliveries, from the end of a run to the line that the third party's program prints.

Real processes: cloud_main.py, edge_main.py, ``python -m llama.vendor``, killed between any two steps.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import select
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama import wire
from llama.checkpoint.halves import read_half, tokenizer_of
from llama.client.link import Link
from llama.cloud.importing import import_products
from llama.cloud.provider import ProviderServices
from llama.cloud.run_store import RunStore
from llama.command import run
from llama.edge.generation import GenerationSettings, generate_reply
from llama.sampling_params import SamplingParams
from llama.sheets import read_all
from llama.tokenizer import Tokenizer
from llama.vendor.collector import line_of
from llama.vendor.program import main
from llama.wire import Close, Delivery, DeliveryStatus, Final, Finish, Open, Opened
from tests import canaries
from tests.devices import Watched
from tests.processes import Cloud, cloud, wait_until
from tests.support import ROOT, Halves, Served, run_main
from tests.whole import load_edge

pytestmark = pytest.mark.process

Splits = Callable[..., Path]

SYSTEM = "You serve this shop alone. The zimtstern rule: never sell two of a kind to the same person."
PARTIES = ["insurer", *(f"toko-{letter}" for letter in "abcde")]
PIPE = 4096  # bytes that a pipe takes before its writer waits
LARGE = "# " + "a sheet of more than a pipe takes " * 200 + "\n"
ASKED = ["name", "phone", "email", "birth_date", "address", "employer", "income", "diagnosis", "spouse", "nik", "notes"]
FIELDS = {"run_id", "prompt_id", "finished_at", "prompt", "text", "offers", "withheld"}


def write_sheets(directory: Path) -> Path:
    """The provider's system prompt, and per third party a sheet, a large one, and one that asks for much."""
    directory.mkdir()
    (directory / "system.txt").write_text(SYSTEM)
    for party in PARTIES:
        (directory / party).mkdir()
        (directory / party / "short.toml").write_text(f'questions = ["Short, says {party}."]')
        (directory / party / "large.toml").write_text(f'{LARGE}questions = ["Large, says {party}."]')
        question = json.dumps("; ".join(f"{name}: {{{name}}}" for name in ASKED))
        (directory / party / "much.toml").write_text(f"questions = [{question}]\nasks_for = {json.dumps(ASKED)}")
    return directory


@pytest.fixture(scope="module")
def sheet_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sheets(tmp_path_factory.mktemp("deliveries") / "sheets")


def product_of(party: str) -> dict[str, Any]:
    """The same teapot, whoever sells it."""
    return {
        "id": f"{party}-teapot",
        "vendor": party,
        "title": "Porcelain teapot",
        "description": "A teapot for two.",
        "price": 345_000,
        "url": f"https://{party}.example/teapot",
    }


class Provider:
    """A cloud that can be killed, and started again at the same address with the same record."""

    def __init__(self, out: Path, sheet_dir: Path, record: Path) -> None:
        self.out, self.sheets, self.record = out, sheet_dir, record
        products, catalogue = record.with_name("products.jsonl"), record.with_name("products.sqlite")
        products.write_text("\n".join(json.dumps(product_of(party)) for party in PARTIES))
        import_products(products, catalogue)
        self._flags = (
            "--max_seq_len",
            4096,
            "--sheet_dir",
            sheet_dir,
            "--record_file",
            record,
            "--catalogue",
            catalogue,
            "--threads",
            1,
        )
        with socket.socket() as reserve:
            reserve.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{reserve.getsockname()[1]}"
        self._stack = ExitStack()
        self.running: Cloud | None = None

    def start(self) -> None:
        started = cloud(self.out / "cloud", *self._flags, bind=self.address)
        self.running = self._stack.enter_context(started)

    def kill(self) -> None:
        if self.running is not None:
            os.kill(self.running.pid, signal.SIGKILL)
            self.running.wait()
            self.running = None
        self._stack.close()

    def restart(self) -> None:
        self.kill()
        self.start()

    def signal(self, number: int) -> None:
        """Returns when a stop has stopped it: a thread may run on for a moment."""
        assert self.running is not None
        os.kill(self.running.pid, number)
        if number == signal.SIGSTOP:
            tasks = Path(f"/proc/{self.running.pid}/task")
            assert wait_until(
                lambda: all((task / "stat").read_text().split(")")[1][1] == "T" for task in tasks.iterdir())
            )

    def outbox(self, party: str) -> list[int]:
        """For each delivery, whether it is acknowledged."""
        with closing(sqlite3.connect(f"file:{self.record}?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT acknowledged FROM deliveries WHERE vendor = ? ORDER BY number", (party,))
            return [acknowledged for (acknowledged,) in rows]


@pytest.fixture(scope="module")
def a_provider(tiny_split: Splits, sheet_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    provider = Provider(tiny_split(), sheet_dir, tmp_path_factory.mktemp("record") / "runs.sqlite")
    try:
        yield provider
    finally:
        provider.kill()


@pytest.fixture
def provider(a_provider: Provider) -> Provider:
    """Running, whatever the test before did to it; with empty outboxes."""
    if a_provider.running is None:
        a_provider.start()
    with Link(a_provider.address) as link:
        for party in PARTIES:
            while (got := link.ask(wire.Collect(party))) != wire.Deliveries(()):
                assert isinstance(got, wire.Deliveries)
                link.ask(wire.Acknowledge(party, tuple(d.run_id for d in got.deliveries)))
    return a_provider


@pytest.fixture
def record(tmp_path: Path) -> Iterator[RunStore]:
    with closing(RunStore(tmp_path / "runs.sqlite")) as record:
        yield record


@pytest.fixture
def served(halves: Halves, tokenizer: Tokenizer, sheet_dir: Path, record: RunStore) -> Iterator[Served]:
    """A cloud in a thread, where nothing is killed."""
    services = ProviderServices.of(tokenizer, store=record, directory=read_all(str(sheet_dir)))
    with Served(halves, tokenizer, services=services) as served:
        yield served


def finish(address: str, prompt_id: str, reply: str | Sequence[int], run_id: bytes | None = None) -> bytes:
    """The id of a run, once the device has its Final. The device has the reply already, as after a lost session."""
    run_id = run_id or os.urandom(16)
    ids = tuple(reply.encode() if isinstance(reply, str) else reply)  # every byte is a token
    with Link(address, on_notice=lambda words: None) as link:
        welcome = link.hello()
        opened = link.ask(
            Open(
                run_id=run_id,
                fingerprint=welcome.fingerprint,
                prompt_tokens=1,
                temperature=0.0,
                top_p=0.9,
                seed=1,
                stop_ids=(),
                prompt_id=prompt_id,
                resumed_ids=ids,
            )
        )
        assert isinstance(opened, Opened)
        final = link.ask(Finish(opened.session, 1, len(ids)))
        assert isinstance(final, Final) and final.copy in (DeliveryStatus.QUEUED, DeliveryStatus.WITHHELD)
        link.ask(Close(opened.session, 2))
    return run_id


def printed_by(address: str, party: str) -> list[dict[str, Any]]:
    """What a third party's program writes into a file when it is run once; it says nothing else and ends well."""
    return [json.loads(line) for line in written_by(address, party).splitlines()]


def written_by(address: str, party: str) -> bytes:
    """The file's content, as it is."""
    with tempfile.TemporaryDirectory() as directory, (Path(directory) / "out.jsonl").open("a+b") as file:
        command = [sys.executable, "-m", "llama.vendor", "--cloud", address, "--vendor", party]
        ended = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.PIPE, check=False)
        assert (ended.returncode, ended.stderr) == (0, b"")
        file.seek(0)
        return file.read()


def left(address: str, party: str) -> list[bytes]:
    """Ids of what the cloud would hand out next."""
    with Link(address) as link:
        reply = link.ask(wire.Collect(party))
    assert isinstance(reply, wire.Deliveries)
    return [delivery.run_id for delivery in reply.deliveries]


class Program:
    """The third party's program at work; its stdout is a pipe that takes little and is read only when a test does.

    Args:
        command: flags of the program.
    """

    def __init__(self, *command: str) -> None:
        self.pipe, end = os.pipe()
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, PIPE)
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llama.vendor", *command], cwd=ROOT, stdout=end, stderr=self.errors
        )
        os.close(end)
        self._read = b""

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.pipe)
        self.errors.close()

    def wait_until_it_waits(self) -> None:
        """Its pipe is full: a delivery has been collected, and is not all printed."""

        def full() -> bool:
            (there,) = struct.unpack("i", fcntl.ioctl(self.pipe, termios.FIONREAD, b"\0" * 4))
            assert self.process.poll() is None, self.said()
            return int(there) == PIPE

        assert wait_until(full)

    def line(self) -> bytes:
        """The next whole line."""
        while b"\n" not in self._read:
            assert select.select([self.pipe], [], [], 60)[0], self.said()
            piece = os.read(self.pipe, 1 << 16)
            assert piece, f"it ended; {self.said()}"
            self._read += piece
        line, _, self._read = self._read.partition(b"\n")
        return line + b"\n"

    def rest(self) -> bytes:
        """Whatever else comes until it ends."""
        while piece := os.read(self.pipe, 1 << 16):
            self._read += piece
        return self._read

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> int:
        """Ctrl-C; its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def said(self) -> str:
        """All of its stderr so far."""
        self.errors.seek(0)
        return self.errors.read().decode()


def following(address: str, party: str) -> Program:
    """Goes on, and gives a cloud that is away up every second; what its pipe has taken is acknowledged."""
    flags = ("--follow", "--acknowledge", "--interval", "0.2", "--deadline", "1")
    return Program("--cloud", address, "--vendor", party, *flags)


# ---- what arrives


def test_a_device_run_of_a_vendors_sheet_is_printed_by_its_program_and_by_no_other(
    provider: Provider, tmp_path: Path
) -> None:
    """The device's program with a profile, then the third party's: reply, sheet and ids, each once."""
    person = canaries.person("en", 5)
    (tmp_path / "profile.toml").write_text(canaries.as_toml(person.profile))
    ran = run_main(
        "edge_main.py",
        "--ckpt_dir",
        str(provider.out / "edge"),
        "--cloud",
        provider.address,
        "--prompt_id",
        "insurer/much",
        "--profile_file",
        str(tmp_path / "profile.toml"),
        "--yes",
        "--json",
        "--max_gen_len",
        "24",
    )
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert printed_by(provider.address, "toko-a") == []
    assert all(left(provider.address, party) == [] for party in PARTIES if party != "insurer")
    (delivery,) = printed_by(provider.address, "insurer")
    assert set(delivery) == FIELDS
    assert (delivery["prompt_id"], delivery["text"]) == ("insurer/much", answer["text_sent"])
    assert (delivery["withheld"], delivery["offers"]) == (False, [])
    assert delivery["prompt"] == (provider.sheets / "insurer" / "much.toml").read_text()
    assert len(bytes.fromhex(delivery["run_id"])) == 16
    assert abs(datetime.fromisoformat(delivery["finished_at"]).timestamp() - time.time()) < 120
    assert left(provider.address, "insurer") == []

    # What the device fed, recited by a model that says all that it was told, is the most that can arrive.
    tokenizer = tokenizer_of(read_half(provider.out / "edge", "edge"))
    fed = tokenizer.decode(answer["prompt_tokens"])
    assert SYSTEM in fed and "[NAME_1]" in fed
    finish(provider.address, "insurer/much", fed)
    finish(provider.address, "insurer/much", fed.replace(SYSTEM, ""))
    recited = written_by(provider.address, "insurer").decode()
    withheld, reported = map(json.loads, recited.splitlines())
    assert (withheld["withheld"], withheld["text"], withheld["offers"]) == (True, "", [])
    assert reported["text"] == fed.replace(SYSTEM, "") and "[NAME_1]" in reported["text"]
    for output in (json.dumps(delivery), ran.stderr, recited):
        assert canaries.leaks(output, person.canaries) == []
        assert "zimtstern" not in output.casefold()


def test_offers_come_with_it_and_none_of_another_partys(provider: Provider) -> None:
    """All sell the same product; each gets its own only, as an object with all its fields."""
    for party in ("toko-a", "toko-b"):
        finish(provider.address, f"{party}/short", "1. A porcelain teapot\n2. A mug\n")
        (delivery,) = printed_by(provider.address, party)
        (offer,) = delivery["offers"]
        assert set(offer) == {"product", "vendor", "title", "price", "url", "item", "matched"}
        made = product_of(party)
        assert [offer[name] for name in ("vendor", "title", "price", "url")] == [
            made[name] for name in ("vendor", "title", "price", "url")
        ]
        assert offer["product"] == made["id"] and "teapot" in " ".join(offer["matched"])


def test_a_line_is_json_in_printable_ascii_with_every_field(served: Served) -> None:
    """Also of a reply that would steer a terminal; offers are whole objects."""
    reply = "\x1b[2J\x1b]0;owned\x07\u202e\u2028\u0085\x7f é"
    run_id = finish(served.endpoint, "insurer/short", reply)
    printed = written_by(served.endpoint, "insurer").decode("ascii")
    assert printed[:-1].isprintable() and printed.endswith("}\n")
    (delivery,) = [json.loads(line) for line in printed.splitlines()]
    assert (delivery["text"], delivery["run_id"], set(delivery)) == (reply, run_id.hex(), FIELDS)


@given(
    text=st.text(),
    prompt=st.text(),
    withheld=st.booleans(),
    offers=st.lists(st.builds(wire.Offer, st.text(), st.just("toko-a"), st.text(), st.integers(0, 2**53))),
)
def test_every_delivery_is_one_line_from_which_it_can_be_read_again(
    text: str, prompt: str, withheld: bool, offers: list[wire.Offer]
) -> None:
    """And the same line each time."""
    delivery = Delivery(bytes(16), "insurer/short", "2026-11-25T09:30:00Z", prompt, text, tuple(offers), withheld)
    line = line_of(delivery)
    assert line == line_of(delivery) and line.count(b"\n") == 1 and line[:-1].decode("ascii").isprintable()
    read = json.loads(line)
    assert (read["text"], read["prompt"], read["withheld"]) == (text, prompt, withheld)
    assert [wire.Offer(**{**o, "matched": tuple(o["matched"])}) for o in read["offers"]] == offers


def test_many_deliveries_are_printed_in_the_order_of_their_runs(served: Served) -> None:
    """More than one answer holds."""
    ran = [finish(served.endpoint, "insurer/short", f"reply {i}").hex() for i in range(wire.MAX_COLLECTED + 6)]
    assert [delivery["run_id"] for delivery in printed_by(served.endpoint, "insurer")] == ran
    assert left(served.endpoint, "insurer") == []


# ---- an output that takes no more


def test_what_could_not_be_printed_is_not_acknowledged(served: Served, tmp_path: Path) -> None:
    """A full disk, a reader that has left, a stdout that is closed; nothing of the delivery goes to stderr."""
    run_id = finish(served.endpoint, "insurer/large", "zimtstern")
    command = f"{sys.executable} -m llama.vendor --cloud {served.endpoint} --vendor insurer"
    for shell, code, said in (
        (
            f"{command} > /dev/full",
            1,
            "error: writing the output: No space left on device; free some room, or write to another disk\n",
        ),
        (f"{{ {command}; echo $? > {tmp_path}/code; }} | true; exit $(cat {tmp_path}/code)", 1, ""),
        (
            f"{command} >&-",
            2,
            "error: stdout is closed, but copies are printed there; redirect it to a file or a pipe\n",
        ),
        (
            f"ulimit -f 4; trap '' XFSZ; {command} >> {tmp_path}/short",
            1,
            "error: writing the output: File too large; raise the limit on file size (ulimit -f), or write to a "
            "file system that allows larger files\n",
        ),
    ):
        ended = subprocess.run(["sh", "-c", shell], cwd=ROOT, text=True, capture_output=True, check=False)
        assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", said), shell
        assert left(served.endpoint, "insurer") == [run_id], shell
    assert [delivery["run_id"] for delivery in printed_by(served.endpoint, "insurer")] == [run_id.hex()]


@pytest.mark.parametrize("left", ["", "whole\n", "torn"])
def test_a_file_that_ends_inside_a_line_swallows_no_delivery(served: Served, tmp_path: Path, left: str) -> None:
    """As after a kill or a power cut; a line that is whole gets no empty one after it."""
    out = tmp_path / "out.jsonl"
    out.write_text(left)
    run_id = finish(served.endpoint, "insurer/short", "the reply")
    command = [sys.executable, "-m", "llama.vendor", "--cloud", served.endpoint, "--vendor", "insurer"]
    with out.open("ab") as file:
        assert subprocess.run(command, cwd=ROOT, stdout=file, check=False).returncode == 0
    *before, line = out.read_text().splitlines()
    assert before == left.splitlines() and json.loads(line)["run_id"] == run_id.hex()


def test_a_pipe_that_must_not_be_waited_for_gets_every_line(served: Served) -> None:
    """Some parents leave their pipes so; the reader is slow."""
    ran = [finish(served.endpoint, "insurer/large", f"reply {i}").hex() for i in range(30)]
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    command = [sys.executable, "-m", "llama.vendor", "--cloud", served.endpoint, "--vendor", "insurer"]
    with subprocess.Popen(command, cwd=ROOT, stdout=writing) as program, os.fdopen(reading) as lines:
        os.close(writing)
        assert wait_until(lambda: struct.unpack("i", fcntl.ioctl(reading, termios.FIONREAD, b"\0" * 4))[0] > PIPE)
        assert [json.loads(line)["run_id"] for line in lines] == ran
    assert program.returncode == 0


def test_a_cloud_that_repeats_what_was_acknowledged_is_not_followed_for_ever(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lines would fill the disk."""
    finish(served.endpoint, "insurer/short", "the reply")
    monkeypatch.setattr(RunStore, "acknowledge", lambda *_: None)
    ended = run_main("-m", "llama.vendor", "--cloud", served.endpoint, "--vendor", "insurer", "--acknowledge")
    assert ended.returncode == 1 and ended.stdout.count("\n") == 1
    assert "repeats copies that were acknowledged" in ended.stderr and ended.stderr.count("\n") == 1


def test_a_reader_that_leaves_after_one_line_loses_none(served: Served) -> None:
    """``--acknowledge | head -1`` of more than a pipe takes: none of what came with the line is acknowledged."""
    ran = [finish(served.endpoint, "insurer/large", f"reply {i}").hex() for i in range(30)]
    command = f"{sys.executable} -m llama.vendor --cloud {served.endpoint} --vendor insurer --acknowledge | head -1"
    ended = subprocess.run(["sh", "-c", command], cwd=ROOT, text=True, capture_output=True, check=False)
    assert json.loads(ended.stdout)["run_id"] == ran[0] and ended.stderr == ""
    assert len(left(served.endpoint, "insurer")) == 30


# ---- clouds that are away, or are none


def test_following_it_survives_a_cloud_that_is_away_and_prints_what_comes(provider: Provider) -> None:
    """Started before the cloud, which is killed and comes back. It says so once each time; Ctrl-C ends it with 130."""
    provider.kill()
    with following(provider.address, "insurer") as program:
        assert wait_until(lambda: "no answer from" in program.said())
        time.sleep(2.5)  # several deadlines
        provider.start()
        first = finish(provider.address, "insurer/short", "first")
        assert json.loads(program.line())["run_id"] == first.hex()
        provider.restart()
        second = finish(provider.address, "insurer/short", "second")
        assert json.loads(program.line())["run_id"] == second.hex()
        assert wait_until(lambda: provider.outbox("insurer")[-2:] == [1, 1])
        assert program.interrupt() == 130
        assert program.rest() == b""
        *notices, last = program.said().splitlines()
    silence = f"vendor: no answer from {provider.address}; trying until one comes; if that cloud has keys, "
    silence += "give --key_file and --cloud_key"
    answer = "vendor: {} answers again"
    assert last == "interrupted"
    assert notices in ([silence, answer.format(provider.address)] * n for n in (1, 2))


def test_not_following_it_ends_in_one_line_when_nobody_answers() -> None:
    """With the address."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
        ended = run_main("-m", "llama.vendor", "--cloud", address, "--vendor", "insurer", "--deadline", "1")
    assert (ended.returncode, ended.stdout) == (1, "")
    notice, error = ended.stderr.splitlines()
    assert notice.startswith(f"vendor: no answer from {address}")
    assert error.startswith(f"error: no answer from {address}")
    assert error.endswith("; and if that cloud has keys, give --key_file and --cloud_key")


def test_a_cloud_that_keeps_no_deliveries_is_told_in_one_line(halves: Halves, tokenizer: Tokenizer) -> None:
    """Also when following: it will not get any."""
    with Served(halves, tokenizer) as served:
        for flags in ((), ("--follow", "--acknowledge")):
            ended = run_main("-m", "llama.vendor", "--cloud", served.endpoint, "--vendor", "insurer", *flags)
            assert (ended.returncode, ended.stdout) == (1, "")
            said = "this cloud keeps no deliveries; start it with --sheet_dir and --record_file"
            assert ended.stderr == f"error: the cloud refused (not_served): {said}\n"


def test_a_cloud_that_cannot_use_its_outbox_is_asked_again(
    served: Served, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its file is locked by another program for a while; nothing is lost and nothing comes twice."""
    run_id = finish(served.endpoint, "insurer/short", "the reply")
    with closing(sqlite3.connect(tmp_path / "runs.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with following(served.endpoint, "insurer") as program:
            reported = 'event=outbox_failed message="deliveries could not be read: database is locked"'
            assert wait_until(lambda: reported in capfd.readouterr().err)
            other.execute("ROLLBACK")
            assert json.loads(program.line())["run_id"] == run_id.hex()
            assert wait_until(lambda: left(served.endpoint, "insurer") == [])
            assert program.interrupt() == 130
            refused, answers, last = program.said().splitlines()
    assert refused == (
        "vendor: the cloud refused (internal): the cloud's outbox cannot be used; try again later; trying again"
    )
    assert (answers, last) == (f"vendor: {served.endpoint} answers again", "interrupted")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ("--vendor", "Insurer"),
            "--vendor must be the name of a directory of sheets, 1 to 40 of a-z, 0-9 and - (got 'Insurer')",
        ),
        (("--vendor", "insurer", "--deadline", "0"), "--deadline must be greater than 0 seconds (got 0)"),
        (
            ("--vendor", "insurer", "--interval", "nan"),
            "--interval must be a finite number of seconds greater than 0 (got nan)",
        ),
        (("--vendor", "insurer", "--folow"), "unknown flag --folow; did you mean --follow?"),
        ((), "the following arguments are required: --vendor; --help lists all flags"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line_and_asks_nobody(
    flags: tuple[str, ...], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2."""
    with pytest.raises(SystemExit) as ended:
        run(main, ["--cloud", "tcp://127.0.0.1:9", *flags])
    assert ended.value.code == 2 and capfd.readouterr() == ("", f"error: {said}\n")


def test_the_help_names_the_program_as_it_is_started() -> None:
    """A module's is ``-m``, a file's its name."""
    for command, usage in (
        (("-m", "llama.vendor"), "usage: python -m llama.vendor --cloud CLOUD --vendor VENDOR [flags]"),
        (("cloud_main.py",), "usage: python cloud_main.py --ckpt_dir CKPT_DIR [flags]"),
    ):
        assert usage in run_main(*command, "--help").stdout.splitlines()


def test_a_vendor_needs_no_model() -> None:
    """Nothing of the model, of the boundary or of the cloud is loaded, nor torch."""
    loaded = set(run_main("-c", "import sys, llama.vendor.program; print(*sys.modules)").stdout.split())
    assert {name for name in loaded if name.startswith(("llama", "model_", "fairscale", "torch", "numpy"))} == {
        "llama",
        "llama.addresses",
        "llama.bounds",
        "llama.vendor.collector",
        "llama.command",
        "llama.disk",
        "llama.client",
        "llama.client.connection",
        "llama.client.link",
        "llama.client.notices",
        "llama.client.timeouts",
        "llama.client.wording",
        "llama.errors",
        "llama.vendor.command_sink",
        "llama.files",
        "llama.keys",
        "llama.listing",
        "llama.memory_ceiling",
        "llama.process_end",
        "llama.vendor.stdout_sink",
        "llama.sheets",
        "llama.vendor.spool_sink",
        "llama.starting",
        "llama.text",
        "llama.text.decoding",
        "llama.text.names",
        "llama.text.printable",
        "llama.toml",
        "llama.vendor",
        "llama.vendor.program",
        "llama.wire",
    }


# ---- kills, between every two steps of: finished, collected, printed, acknowledged


def test_killed_after_the_run_was_finished(provider: Provider) -> None:
    """The cloud, as soon as the device has its Final."""
    run_id = finish(provider.address, "toko-a/short", "the reply")
    provider.kill()
    provider.start()
    (delivery,) = printed_by(provider.address, "toko-a")
    assert (delivery["run_id"], delivery["text"]) == (run_id.hex(), "the reply")


@pytest.mark.parametrize("victim", ["cloud", "vendor"])
def test_killed_after_it_was_collected(provider: Provider, victim: str) -> None:
    """In the middle of printing. The one that lives on prints it whole; the one that comes after prints it again."""
    run_id = finish(provider.address, "toko-b/large", "the reply")
    with following(provider.address, "toko-b") as program:
        program.wait_until_it_waits()
        assert provider.outbox("toko-b")[-1] == 0
        if victim == "cloud":
            provider.restart()
            line = program.line()
        else:
            program.kill()
            torn = program.rest()
            line = written_by(provider.address, "toko-b")
            assert len(torn) == PIPE and line.startswith(torn) and line.count(b"\n") == 1
        assert json.loads(line)["run_id"] == run_id.hex()
        assert wait_until(lambda: provider.outbox("toko-b")[-1] == 1)
    assert left(provider.address, "toko-b") == []


@pytest.mark.parametrize("victim", ["cloud", "vendor", "both"])
def test_killed_after_it_was_printed(provider: Provider, victim: str) -> None:
    """The cloud is held before the acknowledgement can arrive.

    A vendor that lives on repeats no line; one that comes after repeats the same bytes, if it repeats any.
    """
    run_id = finish(provider.address, "toko-c/large", "the reply")
    with following(provider.address, "toko-c") as program:
        program.wait_until_it_waits()
        provider.signal(signal.SIGSTOP)
        line = program.line()
        assert json.loads(line)["run_id"] == run_id.hex() and provider.outbox("toko-c")[-1] == 0
        if victim != "cloud":
            program.kill()
        if victim == "vendor":
            provider.signal(signal.SIGCONT)
        else:
            provider.restart()
        if victim == "cloud":
            assert wait_until(lambda: provider.outbox("toko-c")[-1] == 1)
            assert program.interrupt() == 130
        assert program.rest() == b""
    repeated = written_by(provider.address, "toko-c")
    assert repeated in {"cloud": [b""], "vendor": [b"", line], "both": [line]}[victim]
    assert provider.outbox("toko-c")[-1] == 1
    assert left(provider.address, "toko-c") == []


@pytest.mark.parametrize("victim", ["cloud", "vendor"])
def test_killed_after_it_was_acknowledged(provider: Provider, victim: str) -> None:
    """It never comes again, also when the device replays the run."""
    run_id = finish(provider.address, "toko-d/short", "the reply")
    with following(provider.address, "toko-d") as program:
        assert json.loads(program.line())["run_id"] == run_id.hex()
        assert wait_until(lambda: provider.outbox("toko-d")[-1] == 1)
        if victim == "cloud":
            provider.restart()
        else:
            program.kill()
        finish(provider.address, "toko-d/short", "another reply", run_id=run_id)
        assert left(provider.address, "toko-d") == []
        if victim == "cloud":
            assert program.interrupt() == 130
        assert program.rest() == b""


def test_interrupted_while_it_prints_it_loses_nothing(provider: Provider) -> None:
    """Ctrl-C, with nobody reading: it ends at once."""
    run_id = finish(provider.address, "toko-e/large", "the reply")
    with following(provider.address, "toko-e") as program:
        program.wait_until_it_waits()
        assert program.interrupt() == 130 and program.said() == "interrupted\n"
    assert provider.outbox("toko-e")[-1] == 0
    assert [delivery["run_id"] for delivery in printed_by(provider.address, "toko-e")] == [run_id.hex()]


# ---- all of it at once


class Devices:
    """Threads that ask for runs of third parties' sheets, one after the other, until there have been enough."""

    def __init__(self, provider: Provider, runs: int, threads: int) -> None:
        self.provider, self.finished = provider, dict[bytes, tuple[str, str]]()  # run: party, text of the Final
        self.edge = load_edge(provider.out)
        self.tokenizer = tokenizer_of(read_half(provider.out / "edge", "edge"))
        self.reopened, self.failures = 0, list[BaseException]()
        self._left = list(range(runs))
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def busy(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        try:
            while True:
                with self._lock:
                    if not self._left:
                        return
                    number = self._left.pop()
                self._ask(number)
        except BaseException as err:
            self.failures.append(err)

    def _ask(self, number: int) -> None:
        party = PARTIES[1 + number % 5]
        prompt = self.tokenizer.encode(f"{SYSTEM} canary-{number:03}", bos=True, eos=False)
        link = Watched(self.provider.address, deadline_s=60, on_notice=lambda words: None)
        with link:
            reply = generate_reply(
                prompt,
                edge=self.edge,
                link=link,
                welcome=link.hello(),
                tokenizer=self.tokenizer,
                settings=GenerationSettings(SamplingParams(temperature=1.0, seed=number), stop_ids=(), max_gen_len=12),
                prompt_id=f"{party}/short",
            )
            assert reply.copy == DeliveryStatus.QUEUED
            with self._lock:
                self.finished[link.run_id] = (party, reply.text)
                self.reopened += reply.timing.reopened


def test_a_hundred_runs_arrive_at_the_right_vendor_whoever_is_killed(
    tiny_split: Splits, sheet_dir: Path, tmp_path: Path
) -> None:
    """Five third parties; cloud and programs are killed at random moments, the same in every test run.

    Every run whose device got its Final arrives, whole, with nothing that a third party may not have; repeats are the
    same bytes, and none comes after an acknowledgement that the cloud has kept.
    """
    dice, kills = random.Random(7), Counter[str]()
    provider = Provider(tiny_split(), sheet_dir, tmp_path / "runs.sqlite")
    files = {party: tmp_path / f"{party}.jsonl" for party in PARTIES[1:]}
    running = dict[str, subprocess.Popen[bytes]]()

    def start(party: str) -> None:
        command = [sys.executable, "-m", "llama.vendor", "--cloud", provider.address, "--vendor", party]
        command += ["--follow", "--interval", "0.1", "--deadline", "2"]
        with files[party].open("ab") as out, (tmp_path / "errors").open("ab") as errors:
            running[party] = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=errors)

    def has_printed(party: str) -> None:
        """Back as soon as it prints something, which it has then hardly acknowledged; or after a moment."""
        before, give_up = files[party].stat().st_size, time.monotonic() + 0.5
        while files[party].stat().st_size == before and time.monotonic() < give_up:
            time.sleep(0.0005)

    try:
        provider.start()
        for party in files:
            start(party)
        devices = Devices(provider, runs=100, threads=2)
        while devices.busy():
            time.sleep(dice.uniform(0.05, 0.9))
            if dice.random() < 0.3 and kills["cloud"] < 4:
                provider.restart()
                kills["cloud"] += 1
            elif kills["vendor"] < 12:
                party = dice.choice(list(files))
                if dice.random() < 0.6:
                    has_printed(party)
                running[party].kill()
                running[party].wait()
                start(party)
                kills["vendor"] += 1
        assert not devices.failures, devices.failures
        assert wait_until(lambda: all(set(provider.outbox(party)) <= {1} for party in files))
        for party, process in running.items():
            process.send_signal(signal.SIGINT)
            assert process.wait(60) in (130, -signal.SIGINT), party  # the latter while it still loads
    finally:
        provider.kill()
        for process in running.values():
            process.kill()
            process.wait()

    assert len(devices.finished) == 100
    lines = {party: [line for line in path.read_bytes().splitlines() if line] for party, path in files.items()}
    torn = repeats = 0
    arrived = dict[bytes, tuple[str, bytes]]()
    for party, printed in lines.items():
        for line in printed:
            try:
                delivery = json.loads(line)
            except ValueError:
                torn += 1
                continue
            run_id = bytes.fromhex(delivery["run_id"])
            repeats += run_id in arrived
            assert arrived.setdefault(run_id, (party, line)) == (party, line)
            assert devices.finished[run_id] == (party, delivery["text"])
            assert {offer["vendor"] for offer in delivery["offers"]} <= {party}
            assert set(delivery) == FIELDS and not delivery["withheld"] and delivery["prompt_id"] == f"{party}/short"
            assert delivery["prompt"] == f'questions = ["Short, says {party}."]'
            assert b"zimtstern" not in line and b"canary" not in line
    print(f"kills {dict(kills)}, reopened {devices.reopened}, repeats {repeats}, torn lines {torn}")
    assert set(arrived) == set(devices.finished)
    assert kills["cloud"] >= 2 and kills["vendor"] >= 3
    assert not [word for word in (b"zimtstern", b"canary") if word in (tmp_path / "errors").read_bytes()]
