"""What a second attack from outside found; each is a claim that did not hold when it was written."""

from __future__ import annotations

import base64
import json
import os
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch
import zmq

from llama import status, wire
from llama.checkpoint.opening import open_source
from llama.checkpoint.shards import open_pth
from llama.client.link import Link
from llama.client.notices import Notices
from llama.cloud.backup import CATALOGUE, MANIFEST, RECORD, back_up
from llama.cloud.importing import import_products
from llama.cloud.restore import restore
from llama.cloud.run_store import Run, RunStore
from llama.edge.cloud_connector import CloudConnector
from llama.edge.sheet_source import SheetSource
from llama.errors import BackupError, CheckpointError, SplitLlamaError
from llama.text.dates import utc
from llama.vendor.collector import Collector
from llama.vendor.spool_sink import SpoolSink
from llama.vendor.stdout_sink import StdoutSink
from llama.wire import Acknowledged, Collect, Deliveries, Delivery, Error, ErrorCode, Hello, Welcome
from tests.small_checkpoints import random_llama, write_hugging_face
from tests.support import ROOT

MIB, SECONDS = 500, 2.0
MERSENNE = 2**61 - 1  # modulo which Python hashes whole numbers


# ---- checkpoints


def opened(path: Path) -> dict[str, float]:
    """Seconds of computing and MiB at the most, of a process of its own that opens it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile_opener"], cwd=ROOT, input=json.dumps({"path": str(path), "half": False}),
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def pth(path: Path, pickled: bytes, storage: bytes = b"") -> Path:
    """A ``.pth`` file with one storage, aligned."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        info = zipfile.ZipInfo("archive/data/0")
        pad = 68 + -(archive.start_dir + 30 + len(info.filename) + 68) % 64
        info.extra = struct.pack("<HH", 0x4B50, pad - 4) + bytes(pad - 4)
        archive.writestr(info, storage)
    return path


def test_whole_numbers_that_hash_alike_do_not_hold_up_the_reading_of_a_pickle(tmp_path: Path) -> None:
    """To put n of them into a dict takes n² steps; 37,000 have room in a pickle, and there may be 64 files."""
    keys = b"".join(b"\x8a\x0a" + (MERSENNE * i).to_bytes(10, "little", signed=True) + b"N" for i in range(1, 37_000))
    path, began = pth(tmp_path / "consolidated.00.pth", b"\x80\x02}(" + keys + b"u."), time.process_time()
    with pytest.raises(CheckpointError):
        open_pth(path)
    assert time.process_time() - began < SECONDS


def test_a_tensor_that_is_stored_negated_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    """The sign is in the seventh argument of ``_rebuild_tensor_v2``: read so, or refused."""
    path = tmp_path / "consolidated.00.pth"
    torch.save({"a": torch._neg_view(torch.arange(4.0))}, path)
    try:
        found = open_pth(path)
    except CheckpointError:
        return
    assert torch.equal(found["a"], torch.load(path, weights_only=True)["a"])


@pytest.mark.process
def test_many_links_to_one_small_shard_are_refused_soon(tmp_path: Path) -> None:
    """Each is read step by step, 17,000 tensors of one number, before anybody looks at what they are called."""
    fields = {"dim": 64, "n_layers": 2, "n_heads": 8, "multiple_of": 32, "norm_eps": 1e-5, "vocab_size": 520}
    (tmp_path / "params.json").write_text(json.dumps(fields))
    (tmp_path / "tokenizer.model").write_bytes(
        b"".join(b"%s %d\n" % (base64.b64encode(bytes([i])), i) for i in range(256))
    )
    saved = b"X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuM\x00\x40"
    body = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x00(" + saved + b"tQq\x01K\x01\x85q\x02\x89q\x03}q\x04}("
    for i in range(17_000):
        body += b"X" + struct.pack("<I", len(b"%x" % i)) + b"%x" % i + b"h\x00(h\x01K\x00h\x02h\x02h\x03h\x04tR"
    shard = pth(tmp_path / "consolidated.00.pth", body + b"u.", bytes(1 << 16))
    for i in range(1, 16):
        os.link(shard, tmp_path / f"consolidated.{i:02d}.pth")
    assert opened(tmp_path)["computed"] < SECONDS


@pytest.mark.process
def test_many_links_to_one_safetensors_file_do_not_fill_the_memory(tmp_path: Path) -> None:
    """A header of 3 MiB takes 13 MiB and 0.1 s; an index may list 512 files."""
    fields = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8,
              "vocab_size": 10, "rms_norm_eps": 1e-5, "max_position_embeddings": 100, "model_type": "llama",
              "architectures": ["LlamaForCausalLM"]}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(fields))
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"{i:x}": empty for i in range(60_000)}, separators=(",", ":")).encode()
    (tmp_path / "0.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    for i in range(1, 60):
        os.link(tmp_path / "0.safetensors", tmp_path / f"{i}.safetensors")
    names = {f"t{i}": f"{i}.safetensors" for i in range(60)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    answer = opened(tmp_path)
    assert answer["mib"] < MIB and answer["computed"] < SECONDS, answer


@pytest.mark.process
def test_one_long_text_in_a_gguf_does_not_fill_the_memory(tmp_path: Path) -> None:
    """120 MiB of it, of which the disk has 4 KiB; one sign makes each of its letters four bytes."""
    size, key = 120 << 20, b"general.architecture"
    begin = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key
    with (tmp_path / "m.gguf").open("wb") as file:
        file.write(begin + struct.pack("<IQ", 8, size) + "😀".encode())
        file.truncate(file.tell() + size)
    assert opened(tmp_path / "m.gguf")["mib"] < MIB


@pytest.mark.process
def test_one_long_text_in_a_tokenizer_does_not_fill_the_memory(tmp_path: Path) -> None:
    """What is shown of it is written out whole before it is cut: sixteen bytes for each of its own."""
    write_hugging_face(tmp_path, random_llama(), "1GB")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "😀" + "\x7f" * (60 << 20)}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False))
    assert opened(tmp_path)["mib"] < MIB


def test_an_index_that_says_another_file_than_the_one_that_is_read_is_refused(tmp_path: Path) -> None:
    """A tensor in two files is not silently that of the last one."""
    from safetensors.torch import load_file, save_file

    write_hugging_face(tmp_path, random_llama())
    index = tmp_path / "model.safetensors.index.json"
    where = json.loads(index.read_text())["weight_map"]
    name = "model.norm.weight"
    other = next(file for file in sorted(set(where.values()), reverse=True) if file != where[name])
    tensors = load_file(tmp_path / other)
    save_file(tensors | {name: torch.zeros(64)}, tmp_path / other, {"format": "pt"})
    stated = load_file(tmp_path / where[name])[name]
    try:
        source = open_source(tmp_path)
    except CheckpointError:
        return
    assert torch.equal(torch.cat(list(source.rows("norm.weight"))), stated)


# ---- a hostile cloud


@contextmanager
def saying(answer: Callable[[wire.Request], wire.Reply]) -> Iterator[str]:
    """A cloud that says whatever it likes; its address."""
    context, stop = zmq.Context(), threading.Event()
    front = context.socket(zmq.ROUTER)
    front.bind("tcp://127.0.0.1:*")

    def work() -> None:
        while not stop.is_set():
            if front.poll(20):
                peer, _, *body = front.recv_multipart()
                request = wire.decode_request(body[0])
                reply = WELCOME if isinstance(request, Hello) else answer(request)
                front.send_multipart([peer, b"", wire.encode(reply)])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield front.getsockopt_string(zmq.LAST_ENDPOINT)
    finally:
        stop.set()
        thread.join()
        context.destroy(linger=0)


WELCOME = Welcome(wire.VERSION, bytes(32), "float32", 1, 1, 1, 1)


def test_a_report_with_any_numbers_is_told_in_words() -> None:
    """Every count that a StatusReport may hold."""
    report = wire.StatusReport(2**53, 2**31 - 1, 2**31 - 1, 2**31 - 1, 2**53, 2**53, 2**53, 2**53)
    assert "up" in status.in_words(report, "tcp://127.0.0.1:1")


def test_a_busy_clouds_words_do_not_steer_the_terminal_while_sheets_are_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``edge_main.py --list_sheets``, ``--prompt_id`` and the page's look at a sheet print them on stderr."""
    with saying(lambda _: Error(ErrorCode.BUSY, "\x1b[2J\x1b]0;mine\x07\nerror: not ours", "", 0.1)) as address:
        with pytest.raises(SplitLlamaError):
            SheetSource(CloudConnector(address, 0.5), on_notice=lambda text: print(text, file=sys.stderr)).entries()
    assert capsys.readouterr().err.replace("\n", "").isprintable()


def test_a_cloud_that_hands_out_two_copies_in_turn_does_not_hold_a_vendor_for_ever(tmp_path: Path) -> None:
    """Without ``--follow`` it ends when nothing is left; what was acknowledged once is not taken twice."""
    given = 0

    def answer(request: wire.Request) -> wire.Reply:
        nonlocal given
        if not isinstance(request, Collect):
            return Acknowledged()
        given += 1
        return Deliveries((Delivery(bytes([given % 2]) * 16, "v/x", "now", "sheet", "text"),))

    with saying(answer) as address, closing(SpoolSink(str(tmp_path / "spool"))) as spool, Link(address) as link:
        notices = Notices("vendor", address, follow=False, keys=None)
        collector = Collector(link, "v", spool, notices, busy_timeout_s=1.0)
        with pytest.raises(SplitLlamaError):
            for _ in range(20):
                assert collector.some()


# ---- copies


@contextmanager
def stdout_to(path: Path, flags: int) -> Iterator[StdoutSink]:
    """The sink, with that file as the process's stdout."""
    fd, before = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600), sys.stdout
    sys.stdout = os.fdopen(fd, "w")
    try:
        yield StdoutSink(may_lose=False)
    finally:
        sys.stdout.close()
        sys.stdout = before


def a_copy(number: int) -> Delivery:
    return Delivery(bytes([number]) * 16, "v/x", "now", "sheet", f"reply {number}")


def test_what_goes_into_a_file_that_was_removed_is_not_stored(tmp_path: Path) -> None:
    """A consumer takes ``copies.jsonl`` away and removes it; the vendor, ``>> copies.jsonl``, goes on acknowledging."""
    path = tmp_path / "copies.jsonl"
    with stdout_to(path, os.O_APPEND) as sink:
        sink.store([a_copy(1)])
        path.rename(tmp_path / "taken")
        (tmp_path / "taken").unlink()
        with pytest.raises((OSError, SplitLlamaError)):
            sink.store([a_copy(2)])


def test_two_programs_that_write_into_one_file_keep_each_others_copies(tmp_path: Path) -> None:
    """``> FILE`` instead of ``>> FILE``: each writes where it was; refused, or both are there."""
    path = tmp_path / "copies.jsonl"
    try:
        with stdout_to(path, 0) as one:
            if one.acknowledges:
                one.store([a_copy(1)])
            with stdout_to(path, 0) as two:
                if two.acknowledges:
                    two.store([a_copy(2)])
                acknowledged = [each for each, sink in ((1, one), (2, two)) if sink.acknowledges]
    except SplitLlamaError:
        return
    assert all(f"reply {each}" in path.read_text() for each in acknowledged)


def test_a_clock_that_jumps_ahead_for_a_moment_loses_no_copy(tmp_path: Path) -> None:
    """A machine without a battery begins in 1970, and is set right when a copy waits."""
    now = 1e6
    with closing(RunStore(tmp_path / "runs.sqlite", clock=lambda: now)) as record:
        run = Run(bytes(16), "v/x", utc(now), utc(now), 1, 1, 1, "text", copy="queued")
        assert record.write(run, "v", Delivery(run.run_id, "v/x", utc(now), "sheet", "text")) == "queued"
        now = 1.79e9
        assert [each.run_id for each in record.collect("v", 64)] == [run.run_id]


# ---- back-ups


@pytest.fixture
def a_backup(tmp_path: Path) -> Path:
    RunStore(tmp_path / "runs.sqlite").close()
    (tmp_path / "p.jsonl").write_text(json.dumps({
        "id": "p", "vendor": "toko-a", "title": "Teapot", "description": "For two.", "price": 5000,
        "url": "https://toko-a.example/p",
    }))  # fmt: skip
    import_products(tmp_path / "p.jsonl", tmp_path / "products.sqlite")
    back_up({RECORD: tmp_path / "runs.sqlite", CATALOGUE: tmp_path / "products.sqlite"}, tmp_path / "backup")
    return tmp_path / "backup"


def restored(*flags: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llama.cloud.restore", *map(str, flags)], cwd=ROOT, capture_output=True, text=True,
        timeout=8,
    )  # fmt: skip


@pytest.mark.process
def test_a_manifest_does_not_steer_the_terminal(a_backup: Path) -> None:
    manifest = json.loads((a_backup / MANIFEST).read_text())
    (a_backup / MANIFEST).write_text(json.dumps(manifest | {"made_at": "\x1b[2Jnow"}))
    said = restored("--backup_dir", a_backup, "--record_file", a_backup.with_name("new.sqlite"))
    assert said.stderr.replace("\n", "").isprintable()


@pytest.mark.process
@pytest.mark.parametrize("name", [MANIFEST, RECORD])
def test_a_pipe_in_a_back_up_is_refused(a_backup: Path, name: str) -> None:
    (a_backup / name).unlink()
    os.mkfifo(a_backup / name)
    assert restored("--backup_dir", a_backup, "--record_file", a_backup.with_name("new.sqlite")).returncode == 1


def test_a_file_of_a_back_up_is_read_no_further_than_it_was_long(a_backup: Path) -> None:
    """A link to ``/dev/zero``, or what somebody has appended to, would fill the disk."""
    place = a_backup.with_name("new.sqlite")
    with (a_backup / RECORD).open("ab") as file:
        file.truncate(1 << 30)  # the disk has none of it
    began = time.monotonic()
    with pytest.raises(BackupError):
        restore(a_backup, {RECORD: place})
    assert time.monotonic() - began < SECONDS


def test_no_file_is_restored_under_a_name_that_sqlite_takes_for_anothers_log(a_backup: Path) -> None:
    """The next cloud empties and removes it."""
    record, catalogue = a_backup.with_name("new.sqlite"), a_backup.with_name("new.sqlite-wal")
    with pytest.raises(SplitLlamaError):
        restore(a_backup, {RECORD: record, CATALOGUE: catalogue})
