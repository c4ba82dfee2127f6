"""The three programs as a person or a script uses them: what they say, where they say it, and how they end.

Cases that end before any process or socket matters call ``llama.command.run`` here, which is all that the programs do;
all others are processes, two at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import cloud_main
import edge_main
import split_checkpoint
from llama.chat import Message
from llama.checkpoint.halves import chat_format_of, read_half, tokenizer_of
from llama.client.link import Link
from llama.command import run
from llama.edge.generation import GeneratedReply, Timing
from llama.edge.wording import ending
from llama.errors import CloudRefused
from llama.sampling_params import SamplingParams
from llama.wire import Close, ErrorCode, Opened
from tests.processes import Cloud, cloud, edge, end, launch, wait_until
from tests.small_checkpoints import Tensors, read_back
from tests.support import ROOT, open_request, run_main
from tests.whole import generate, load_halves

pytestmark = pytest.mark.process

Splits = Callable[..., Path]
Ended = subprocess.CompletedProcess[str]
Main = Callable[..., None]

CANARY = "Zimtstern"  # in every prompt of this file, and to be found nowhere
QUESTION = f"My {CANARY} is cold: why?"
CONTEXT = 256
LONG = 8192  # a context that takes many seconds to fill,
ENDLESS = ("--temperature", 0)  # which only a reply without a stop token does

EDGE, CLOUD, SPLIT = edge_main.main, cloud_main.main, split_checkpoint.main


@pytest.fixture(scope="module")
def prompt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prompt of one message."""
    path = tmp_path_factory.mktemp("prompt") / "question.txt"
    path.write_text(QUESTION)
    return path


@pytest.fixture(scope="module")
def served(tiny_split: Splits) -> Iterator[Cloud]:
    """A cloud of the small model with two slots, for whoever leaves it as it was."""
    with cloud(tiny_split() / "cloud", "--max_seq_len", CONTEXT, "--max_batch_size", 2) as running:
        yield running


def device(out: Path, address: str, prompt_file: Path, *flags: object) -> list[object]:
    """A command line of the device's."""
    return ["edge_main.py", "--ckpt_dir", out / "edge", "--cloud", address, "--prompt_file", prompt_file, *flags]


def together(*commands: Sequence[object]) -> list[Ended]:
    """These processes, to their ends, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda command: run_main(*map(str, command), timeout=120), commands))


def answer(ended: Ended) -> dict[str, Any]:
    """What ``--json`` put on stdout: one object on one line, and nothing on stderr."""
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith("}\n") and ended.stdout.count("\n") == 1
    fields: dict[str, Any] = json.loads(ended.stdout)
    return fields


def without_timing(ended: Ended) -> dict[str, Any]:
    """The part of an answer that does not depend on the machine, nor on the dice of the run's id."""
    fields = answer(ended)
    del fields["timing"], fields["run_id"]
    return fields


def shown(text: str) -> str:
    """A text as a terminal gets it: no control characters but line ends and tabs."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "", text)


def assert_refused(code: int, out: str, err: str, *said: str, expected: int = 1) -> None:
    """An error is one line on stderr that says all of this and nothing of the prompt; stdout is empty."""
    assert (code, out) == (expected, ""), err
    assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
    assert CANARY not in err
    for text in said:
        assert text in err


# --- Refused before anything runs -----------------------------------------------------------------------------------


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """``refused(main, *flags, said=…, code=1)``: the program ends so, in this process."""

    def end_with_error(main: Main, *flags: object, said: str, code: int = 1) -> None:
        with pytest.raises(SystemExit) as ended:
            run(main, [str(flag) for flag in flags])
        assert isinstance(ended.value.code, int)
        assert_refused(ended.value.code, *capfd.readouterr(), said, expected=code)

    return end_with_error


def without_field(directory: Path) -> None:
    path = directory / "params.json"
    fields = json.loads(path.read_text())
    del fields["n_heads"]
    path.write_text(json.dumps(fields))


def emptied(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


MAKE = "create it with split_checkpoint.py"
TAKES = "--ckpt_dir takes a Meta directory (params.json), a Hugging Face directory (config.json) or a .gguf file"
DAMAGES: dict[
    str, tuple[Callable[[Path], object], str, str]
] = {  # what is done, what a half's program says, what SPLIT
    "missing": (shutil.rmtree, f"does not exist; {MAKE}", f"does not exist; {TAKES}"),
    "empty": (emptied, f"is empty; {MAKE}", f"is empty; {TAKES}"),
    "no shard": (
        lambda directory: (directory / "consolidated.00.pth").unlink(),
        "lacks consolidated.00.pth; copy it again, or split the checkpoint again",
        "lacks consolidated.00.pth; finish the download",
    ),
    "no field": (
        without_field,
        "missing required field `n_heads`; split the original checkpoint again",
        "missing required field `n_heads`; use the file as released",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_cannot_be_used_ends_each_program_in_one_line(
    damage: str, refused: Callable[..., None], tiny_split: Splits, golden: Path, prompt: Path, tmp_path: Path
) -> None:
    """Missing, empty, without a shard, without a field: what is wrong, in which directory, and the cure."""
    act, said_of_half, said_of_source = DAMAGES[damage]
    cases: list[tuple[Path, Main, tuple[object, ...]]] = [
        (tiny_split() / "edge", EDGE, ("--cloud", "tcp://127.0.0.1:1", "--prompt_file", prompt)),
        (tiny_split() / "cloud", CLOUD, ()),
        (golden / "tiny-llama3-mp2", SPLIT, ("--output_dir", tmp_path / "out")),
    ]
    for number, (source, main, flags) in enumerate(cases):
        directory = tmp_path / f"checkpoint {number}"
        shutil.copytree(source, directory)
        act(directory)
        said = said_of_source if main is SPLIT else said_of_half
        refused(main, "--ckpt_dir", directory, *flags, said=f"{directory}")
        refused(main, "--ckpt_dir", directory, *flags, said=said)
    assert not (tmp_path / "out").exists()


def test_shards_that_do_not_belong_together_end_the_split_in_one_line(
    refused: Callable[..., None], golden: Path, tmp_path: Path
) -> None:
    """One of two shards; a tensor of another shape."""
    directory = tmp_path / "checkpoint"
    shutil.copytree(golden / "tiny-llama3-mp2", directory)
    (directory / "consolidated.01.pth").unlink()
    flags = ("--ckpt_dir", directory, "--output_dir", tmp_path / "out")
    refused(SPLIT, *flags, said=f"{directory} has 1 shard(s) of a checkpoint of 2; finish the download")
    shutil.copy(golden / "tiny-llama3" / "consolidated.00.pth", directory)
    tensors = torch.load(directory / "consolidated.00.pth", weights_only=True)
    torch.save(tensors | {"norm.weight": torch.ones(3)}, directory / "consolidated.00.pth")
    refused(SPLIT, *flags, said="consolidated.00.pth: norm.weight has shape (3,), but")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("missing.txt", None, "no such file"),
        ("empty.txt", b"", "empty; write the question into it"),
        ("binary.txt", b"\x89PNG\r\n\x1a\n\xff" + CANARY.encode(), "save it as UTF-8"),
        ("NUL.txt", CANARY.encode("utf-16-le"), "save it as UTF-8"),
        ("cut.json", f'[{{"role": "user", "content": "{CANARY}"'.encode(), "not valid JSON"),
        ("other.json", f'{{"{CANARY}": 1}}'.encode(), 'a dialogue is a list of {"role": '),
        ("cut.toml", f'questions = ["{CANARY}"'.encode(), "not valid TOML"),
        ("other.toml", f'question = "{CANARY}"'.encode(), 'a sheet has questions = ["…", …]'),
        (f"{QUESTION.split()[0]}.docx", CANARY.encode(), ".txt, .json or .toml"),
        ("no suffix", CANARY.encode(), ".txt, .json or .toml"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_prompt_that_cannot_be_read_ends_the_device_in_one_line(
    name: str, data: bytes | None, said: str, refused: Callable[..., None], tiny_split: Splits, tmp_path: Path
) -> None:
    """The file's name, what is wrong with it, and nothing of what it holds; the cloud is not asked."""
    file = tmp_path / name
    if data is not None:
        file.write_bytes(data)
    flags = ("--ckpt_dir", tiny_split() / "edge", "--cloud", "tcp://127.0.0.1:1", "--prompt_file", file)
    refused(EDGE, *flags, said=f"prompt file {file}: ")
    refused(EDGE, *flags, said=said)


@pytest.mark.parametrize(
    ("main", "flag", "value", "said"),
    [
        (EDGE, "temperature", "-0.1", "between 0 (greedy) and 100"),
        (EDGE, "temperature", "nan", "between 0 (greedy) and 100"),
        (EDGE, "top_p", "1.5", "between 0 and 1"),
        (EDGE, "seed", "-1", "between 0 and 2**63-1"),
        (EDGE, "seed", str(2**63), "between 0 and 2**63-1"),
        (EDGE, "max_gen_len", "0", "must be 1 or more (got 0)"),
        (EDGE, "max_gen_len", "some", "must be a whole number (got 'some')"),
        (EDGE, "deadline", "0", "--deadline must be greater than 0 seconds (got 0)"),
        (EDGE, "deadline", "nan", "must be greater than 0 seconds (got nan)"),
        (EDGE, "threads", "0", "must be 1 to 4096"),
        (EDGE, "threads", str(10**10), "must be 1 to 4096"),
        (EDGE, "cloud", "localhost:5555", "write tcp://HOST:PORT"),
        (EDGE, "promt_file", "x.txt", "did you mean --prompt_file?"),
        (CLOUD, "max_seq_len", "1", "between 2 and this model's context of 8192"),
        (CLOUD, "max_seq_len", "8193", "between 2 and this model's context of 8192"),
        (CLOUD, "max_batch_size", "0", "must be between 1 and 65536 (got 0)"),
        (CLOUD, "max_batch_size", str(10**23), "must be between 1 and 65536"),
        (CLOUD, "kv_cache_gb", "nan", "must be a finite number of GiB greater than 0 (got nan)"),
        (CLOUD, "kv_cache_gb", "0.00000001", "(got 1e-08); raise it, or lower --max_seq_len"),
        (CLOUD, "max_waiting", "-1", "must be between 0 and 65536 (got -1)"),
        (CLOUD, "drain_s", "inf", "must be a finite number of seconds, 0 or more (got inf)"),
        (CLOUD, "threads", str(10**10), "must be 1 to 4096"),
        (CLOUD, "dtype", "int4", "must be one of float32, bfloat16, float16 (got int4)"),
        (CLOUD, "session_idle_s", "nan", "must be greater than 0 seconds (got nan)"),
        (CLOUD, "bind", "127.0.0.1:5555", "is not an address to listen on; write tcp://HOST:PORT"),
        (CLOUD, "bind", "tcp:/127.0.0.1:5555", "is not an address to listen on; write tcp://HOST:PORT"),
        (CLOUD, "bind", "http://0.0.0.0:80", "is not an address to listen on; write tcp://HOST:PORT"),
        (CLOUD, "bind", "tcp://:5555", "is not an address to listen on; write tcp://HOST:PORT"),
        (CLOUD, "bind", "tcp://127.0.0.1", "is not an address to listen on; write tcp://HOST:PORT"),
        (CLOUD, "bind", "tcp://[::1]:65536", "is not an address to listen on; write tcp://HOST:PORT"),
        (CLOUD, "bnid", "tcp://127.0.0.1:5555", "did you mean --bind?"),
        (CLOUD, "nosuch", "1", "unknown flag --nosuch; the flags are --ckpt_dir"),
        (CLOUD, "insecur", "1", "unknown flag --insecur; the flags are --ckpt_dir"),
        (SPLIT, "output", "x", "did you mean --output_dir?"),
    ],
)
def test_a_flag_that_cannot_be_is_a_wrong_command_line(
    main: Main, flag: str, value: str, said: str, refused: Callable[..., None], tiny_split: Splits, prompt: Path
) -> None:
    """Exit code 2; the line names the flag and what it takes. Everything else is in order."""
    flags: dict[str, object] = {"ckpt_dir": tiny_split() / ("edge" if main is EDGE else "cloud")}
    if main is EDGE:
        flags |= {"cloud": "tcp://127.0.0.1:1", "prompt_file": prompt}
    flags[flag] = value
    words = [f"--{name}={text}" for name, text in flags.items()]
    refused(main, *words, said=f"--{flag}", code=2)
    refused(main, *words, said=said, code=2)


@pytest.mark.parametrize("main", [EDGE, CLOUD])
def test_a_device_that_is_not_in_this_machine_is_named_with_those_that_could_be(
    main: Main, refused: Callable[..., None], tiny_split: Splits, prompt: Path
) -> None:
    """A mistyped one, one that torch knows and this product does not, and a GPU too many."""
    flags: tuple[object, ...] = ("--ckpt_dir", tiny_split() / "cloud")
    if main is EDGE:
        flags = ("--ckpt_dir", tiny_split() / "edge", "--cloud", "tcp://127.0.0.1:1", "--prompt_file", prompt)
    refused(main, *flags, "--device", "gpu", said="--device gpu is not a device; use cpu, cuda or mps")
    refused(main, *flags, "--device", "meta", said="--device meta is not supported; use cpu, cuda or mps")
    refused(main, *flags, "--device", "cuda:63", said="use --device cpu")


def test_from_a_shell_the_three_programs_refuse_alike(prompt: Path, tmp_path: Path) -> None:
    """A missing checkpoint, an unknown flag: exit codes 1 and 2, stdout empty, nothing written."""
    missing, out = tmp_path / "missing", tmp_path / "out"
    edge_ended, cloud_ended, split_ended = together(
        device(missing, "tcp://127.0.0.1:1", prompt),
        ["cloud_main.py", "--ckpt_dir", missing],
        ["split_checkpoint.py", "--ckpt_dir", missing, "--output_dir", out, "--split_leyer", 2],
    )
    for ended, directory in ((edge_ended, missing / "edge"), (cloud_ended, missing)):
        assert_refused(ended.returncode, ended.stdout, ended.stderr, f"{directory} does not exist; {MAKE}")
    said = "unknown flag --split_leyer; did you mean --split_layer?"
    assert_refused(split_ended.returncode, split_ended.stdout, split_ended.stderr, said, expected=2)
    assert list(tmp_path.iterdir()) == []


# --- Refused by what is there ---------------------------------------------------------------------------------------


def with_another_shape(out: Path, half: str, copy: Path) -> Path:
    """A copy of a half in which one matrix has lost half of its columns, and the manifest agrees."""
    shutil.copytree(out / half, copy / half)
    tensors: Tensors = read_back(out, half)[0]
    name = next(name for name in tensors if name.endswith("attention.wo.weight"))
    path, manifest = copy / half / "consolidated.00.pth", copy / half / "manifest.json"
    torch.save(tensors | {name: tensors[name][:, ::2].clone()}, path)
    fields = json.loads(manifest.read_text())
    fields["files"][path.name]["bytes"] = path.stat().st_size
    manifest.write_text(json.dumps(fields))
    return copy


def test_a_cloud_that_cannot_start_says_why_in_one_line(served: Cloud, tiny_split: Splits, tmp_path: Path) -> None:
    """A port in use, a wrong shape, another number of ranks."""
    out, damaged = tiny_split(), with_another_shape(tiny_split(), "cloud", tmp_path)
    cases: list[tuple[Path, str, str]] = [
        (
            out,
            served.address,
            f"cannot listen on {served.address}: the port is in use; stop the program that listens there, or choose",
        ),
        (
            damaged,
            "tcp://127.0.0.1:*",
            "layers.1.attention.wo.weight (64, 32) instead of (64, 64)); split the original",
        ),
        (tiny_split(ranks=2), "tcp://127.0.0.1:*", "divided for 2 rank(s), but 1 run; start 2 rank(s), or split again"),
    ]
    endings = together(*(["cloud_main.py", "--ckpt_dir", half / "cloud", "--bind", bind] for half, bind, _ in cases))
    for ended, (_, _, said) in zip(endings, cases, strict=True):
        assert_refused(ended.returncode, ended.stdout, ended.stderr, said)


def test_more_ranks_than_the_half_is_cut_for_are_refused_by_each_rank_in_one_line(
    tiny_split: Splits, tmp_path: Path
) -> None:
    """torchrun with 2 on a half for 1. What torchrun itself prints is its own; no traceback is of cloud_main.py."""
    log, half = tmp_path / "log", tiny_split() / "cloud"
    launcher = launch(log, "--ckpt_dir", half, ranks=2)
    try:
        assert launcher.wait(60) != 0
    finally:
        end(launcher)
    text = log.read_text()
    errors = [line for line in text.splitlines() if "error: " in line]
    assert f"{half} is divided for 1 rank(s), but 2 run; start 1 rank(s), or split again: python split_" in errors[0]
    assert "--cloud_model_parallel_size 2" in errors[0]
    assert "ready in" not in text and not re.search(r'File ".*cloud_main\.py", line', text)


def test_a_device_that_does_not_fit_its_cloud_says_why_in_one_line(
    served: Cloud, tiny_split: Splits, prompt: Path, tmp_path: Path
) -> None:
    """The half of another split, a tensor of another shape, a prompt as long as the context; the cloud says nothing."""
    long = tmp_path / "long.txt"
    long.write_text(QUESTION + " x" * (CONTEXT // 2))
    damaged = with_another_shape(tiny_split(), "edge", tmp_path)
    before = served.said()
    other, shape, length = together(
        device(tiny_split(k=2), served.address, prompt),
        device(damaged, served.address, prompt),
        device(tiny_split(), served.address, long, "--json", "--max_gen_len", 1),
    )
    for ended, *said in (
        (
            other,
            f"{tiny_split(k=2) / 'edge'} and the cloud at {served.address} are not from the same split; copy edge/",
        ),
        (shape, "layers.0.attention.wo.weight (64, 32) instead of (64, 64)); split the original checkpoint again"),
        (
            length,
            f"prompt and reply together may have {CONTEXT}; shorten it, or start the cloud with a larger --max_seq_l",
        ),
    ):
        assert_refused(ended.returncode, ended.stdout, ended.stderr, *said)
    assert served.said() == before


# --- The cloud goes, or the person does -----------------------------------------------------------------------------


def lines_of_a_lost_cloud(err: str, address: str, deadline_s: int) -> list[int]:
    """Checks what a device says about silence; gives the seconds of each notice.

    The notices name the address and when it will be given up; the first may be about the connection, and the last line
    is the error.
    """
    *notices, error = err.splitlines()
    broke = f"the connection to {address} broke; trying again as soon as it is back (giving up after {deadline_s} s)"
    notices = notices[1:] if notices[:1] == [broke] else notices
    assert error.startswith(f"error: no answer from {address} for ") and "check that cloud_main.py runs there" in error
    assert CANARY not in err
    pattern = re.compile(
        rf"no answer from {re.escape(address)} for (\d+) s; trying again \(giving up after {deadline_s} s\)"
    )
    found = [pattern.fullmatch(notice) for notice in notices]
    assert all(found), err
    return [int(match[1]) for match in found if match]


def test_a_cloud_that_is_not_there_is_asked_again_ever_less_often_until_the_deadline(
    tiny_split: Splits, prompt: Path
) -> None:
    """At 1 and 3 s of 5, told on stderr with the address; then one line with the cure. With --json just the same."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and never listens: connections are refused
        address = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
        command = device(tiny_split(), address, prompt, "--deadline", 5)
        endings = together(command, [*command, "--json"])
    for ended in endings:
        assert (ended.returncode, ended.stdout) == (1, "")
        seconds = lines_of_a_lost_cloud(ended.stderr, address, 5)
        assert 2 <= len(seconds) <= 3 and seconds == sorted(set(seconds))  # without back-off there would be four


def rest_of(process: subprocess.Popen[str]) -> tuple[str, str]:
    """The rest of stdout, and stderr, of a process whose stdout was read from already; waits for its end."""
    assert process.stdout and process.stderr
    streams = process.stdout.read(), process.stderr.read()
    process.wait(60)
    return streams


FULL = re.compile(r"the cloud is busy: all 2 slots are taken \(sessions in the queue: \d+\); trying again in 2\.0 s\n")


def free_places(address: str) -> int:
    """How many more devices the cloud takes, found out by taking all slots and giving them back."""
    with Link(address) as link:
        link.waits_when_busy = False
        fingerprint, sessions = link.hello().fingerprint, list[bytes]()
        with pytest.raises(CloudRefused) as refusal:
            while True:
                opened = link.ask(open_request(1, fingerprint=fingerprint))
                assert isinstance(opened, Opened)
                sessions.append(opened.session)
        assert refusal.value.code == ErrorCode.BUSY
        for session in sessions:
            link.ask(Close(session, 1))
        return len(sessions)


@contextlib.contextmanager
def two_in_mid_reply(
    running: Cloud, out: Path, prompt: Path, *flags: object
) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str], str]]:
    """A device that streams and one with --json, both within a long reply; and the first character of the one.

    The cloud must have two slots. The streaming device's rest of stdout is still to be read.
    """
    with (
        edge(out / "edge", running.address, prompt, "--plain", *flags) as streaming,
        edge(out / "edge", running.address, prompt, "--json", *flags) as silent,
    ):
        assert streaming.stdout
        first = streaming.stdout.read(1)
        # more than once: a slot that was given back is for some milliseconds neither free nor anybody's
        assert wait_until(lambda: all(free_places(running.address) == 0 for _ in range(3)), every_s=0.3)
        yield streaming, silent, first


def test_a_cloud_killed_in_mid_reply_ends_the_device_within_its_deadline(
    greedy_and_seeded: list[Ended], tiny_split: Splits, prompt: Path
) -> None:
    """SIGKILL: exit code 1, one line. What was streamed stays; with --json stdout is empty. It might have come back."""
    with (
        cloud(tiny_split() / "cloud", "--max_seq_len", LONG, "--max_batch_size", 2, "--max_waiting", 0) as running,
        two_in_mid_reply(running, tiny_split(), prompt, *ENDLESS, "--deadline", 2, "--restart_deadline", 3) as (
            streaming,
            silent,
            first,
        ),
    ):
        os.kill(running.pid, signal.SIGKILL)
        rest, said = rest_of(streaming)
        out, said_silently = rest_of(silent)
    assert (streaming.returncode, silent.returncode, out) == (1, 1, "")
    streamed, whole = first + rest, shown(answer(greedy_and_seeded[0])["text"])
    assert first and (streamed.startswith(whole) or whole.startswith(streamed))
    for text in (said, said_silently):
        lines_of_a_lost_cloud(FULL.sub("", text), running.address, 3)


@pytest.fixture(scope="module")
def two_slots(tiny_split: Splits) -> Iterator[Cloud]:
    """A cloud with two slots for long replies, and no queue."""
    flags = ("--max_seq_len", LONG, "--max_batch_size", 2, "--max_waiting", 0)
    with cloud(tiny_split() / "cloud", *flags) as running:
        yield running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_device_ended_in_mid_reply_frees_its_place(
    number: signal.Signals, two_slots: Cloud, tiny_split: Splits, prompt: Path
) -> None:
    """128 + the signal's number, no traceback, with --json nothing on stdout; the next device is served at once."""
    halves = tiny_split()
    with two_in_mid_reply(two_slots, halves, prompt, *ENDLESS) as (streaming, silent, _):
        for process in (streaming, silent):
            process.send_signal(number)
        said, (out, said_silently) = rest_of(streaming)[1], rest_of(silent)
    assert (streaming.returncode, silent.returncode, out) == (128 + number, 128 + number, "")
    word = "interrupted\n" if number == signal.SIGINT else ""
    assert [FULL.sub("", text) for text in (said, said_silently)] == [word] * 2
    (following,) = together(device(halves, two_slots.address, prompt, "--json", "--max_gen_len", 3))
    assert len(answer(following)["tokens"]) == 3  # and it was not told that the cloud is busy
    assert wait_until(lambda: free_places(two_slots.address) == 2)


SHORT = ("--deadline", 1, "--restart_deadline", 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_cloud_that_is_told_to_stop_in_mid_reply_stops_and_says_so(
    number: signal.Signals, tiny_split: Splits, prompt: Path
) -> None:
    """Plain python: exit code 0, "stopped" after "ready" and not a word more; the device ends with an error."""
    with (
        cloud(tiny_split() / "cloud", "--max_seq_len", LONG, "--drain_s", 0.1) as running,
        edge(tiny_split() / "edge", running.address, prompt, *ENDLESS, "--plain", *SHORT) as process,
    ):
        assert process.stdout and process.stdout.read(1)
        os.kill(running.pid, number)
        assert running.wait() == 0
        ready, stopped = running.said()
        assert ready.startswith("ready in ") and stopped == "stopped"
        _, said = rest_of(process)
        assert process.returncode == 1
        lines_of_a_lost_cloud(said, running.address, 1)


def test_a_cloud_that_gets_sigterm_lets_running_replies_end_and_exits_0(tiny_split: Splits, prompt: Path) -> None:
    """The device in mid reply gets all of it; then "stopped"."""
    halves = tiny_split()
    whole = ("--temperature", 0, "--max_gen_len", 400, "--plain")
    with cloud(halves / "cloud", "--max_seq_len", LONG) as running:
        (undisturbed,) = together(device(halves, running.address, prompt, *whole))
        with edge(halves / "edge", running.address, prompt, *whole) as process:
            assert process.stdout and (first := process.stdout.read(1))
            os.kill(running.pid, signal.SIGTERM)
            rest, said = rest_of(process)
        assert (process.returncode, first + rest) == (0, undisturbed.stdout), said
        assert running.wait() == 0 and running.said()[-1] == "stopped"


# --- A good run -----------------------------------------------------------------------------------------------------


def prompt_ids(out: Path, *dialog: Message) -> list[int]:
    half = read_half(out / "edge", "edge")
    return chat_format_of(half, tokenizer_of(half)).encode_dialog_prompt(dialog or [Message("user", QUESTION)])


GREEDY = ("--temperature", 0, "--max_gen_len", 150)
SEEDED = ("--temperature", 1, "--top_p", 1, "--seed", 5, "--max_gen_len", 100)


@pytest.fixture(scope="module")
def greedy_and_seeded(served: Cloud, tiny_split: Splits, prompt: Path) -> list[Ended]:
    """Two good runs with --json."""
    commands = (device(tiny_split(), served.address, prompt, "--json", *flags) for flags in (GREEDY, SEEDED))
    return together(*commands)


def test_json_is_one_object_with_all_there_is_to_know(greedy_and_seeded: list[Ended], tiny_split: Splits) -> None:
    """Exactly these fields, of their types; the tokens are the text, and the prompt is everything that was fed."""
    tokenizer = tokenizer_of(read_half(tiny_split() / "edge", "edge"))
    for ended, n in zip(greedy_and_seeded, (150, 100), strict=True):
        fields = answer(ended)
        assert fields.keys() == {
            "text", "text_sent", "tags_restored", "tags_left", "tokens", "prompt_tokens", "stop_reason", "timing",
            "offers", "copy", "run_id", "stays",
        }  # fmt: skip
        assert {type(id) for id in [*fields["tokens"], *fields["prompt_tokens"]]} == {int}
        assert fields["text_sent"] == tokenizer.decode(fields["tokens"])
        assert fields["text"] == shown(fields["text_sent"])
        assert (fields["tags_restored"], fields["tags_left"]) == (0, 0)
        assert fields["prompt_tokens"] == prompt_ids(tiny_split())
        assert (len(fields["tokens"]), fields["stop_reason"]) == (n, "max_gen_len")


def test_timing_answers_why_it_is_slow(greedy_and_seeded: list[Ended]) -> None:
    """Numbers of tokens, seconds, and per token the milliseconds and bytes of each place, which agree."""
    for ended in greedy_and_seeded:
        fields = answer(ended)
        timing = fields["timing"]
        counts = {"prompt_tokens", "reply_tokens", "prompt_sent_bytes", "shared_tokens", "reopened"}
        per_token = {f"{place}_ms_per_token" for place in ("device", "network", "cloud")}
        sizes = {"sent_bytes_per_token", "received_bytes_per_token"}
        assert timing.keys() == counts | per_token | sizes | {"time_to_first_token_s", "total_s", "tokens_per_s"}
        assert all(isinstance(value, int if name in counts else float) for name, value in timing.items())
        assert all(value > 0 or name in ("shared_tokens", "reopened") for name, value in timing.items())
        assert timing["prompt_tokens"] == len(fields["prompt_tokens"])
        assert timing["reply_tokens"] == len(fields["tokens"])
        assert timing["time_to_first_token_s"] <= timing["total_s"]
        assert sum(timing[name] for name in per_token) <= 1000 / timing["tokens_per_s"] * 1.001
        row_bytes = 64 * 4
        assert timing["prompt_sent_bytes"] > timing["prompt_tokens"] * row_bytes
        assert row_bytes < timing["sent_bytes_per_token"] < 2 * row_bytes


def test_without_json_the_text_streams_as_utf_8_and_one_line_of_timing_follows_on_stderr(
    served: Cloud, greedy_and_seeded: list[Ended], tiny_split: Splits, prompt: Path
) -> None:
    """The text of --json but for control characters, and a line end; in pieces that hold whole characters only.

    Also under a locale that knows no such characters.
    """
    text = answer(greedy_and_seeded[1])["text_sent"]
    assert any(character > "\x7f" and character != "\ufffd" for character in text)  # of several tokens of a byte each
    assert shown(text) != text
    locale = {"PYTHONIOENCODING": "ascii"}
    with edge(tiny_split() / "edge", served.address, prompt, "--plain", *SEEDED, env=locale) as process:
        assert process.stdout and process.stderr
        pieces = list(iter(lambda: os.read(process.stdout.fileno(), 1 << 16), b""))  # type: ignore[union-attr]
        stderr = process.stderr.read()
        assert process.wait(60) == 0
    assert len(pieces) > 3
    assert "".join(piece.decode() for piece in pieces) == shown(text) + "\n"
    fed, number = len(prompt_ids(tiny_split())), r"\d+(\.\d+)?"
    assert re.fullmatch(
        rf"cut off after 100 tokens: the limit of the sheet or of --max_gen_len\n"
        rf"{fed} prompt tokens, first token after {number} s; 100 tokens at {number} tokens/s; "
        rf"per token: device {number} ms, network {number} ms, cloud {number} ms, {number} bytes out, {number} in\n",
        stderr,
    )


def test_a_full_disk_behind_stdout_is_told_in_one_line(served: Cloud, tiny_split: Splits, prompt: Path) -> None:
    """Of the reply, of --json and of --help; nothing is added by Python at its end."""
    for flags in (("--max_gen_len", 3), ("--max_gen_len", 3, "--json"), ("--help",)):
        command = [sys.executable, *map(str, device(tiny_split(), served.address, prompt, *flags))]
        with Path("/dev/full").open("wb") as full:
            ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
        assert (ended.returncode, ended.stderr) == (
            1,
            "error: writing the output: No space left on device; free some room, or write to another disk\n",
        )


def test_on_a_screen_a_notice_begins_its_own_line() -> None:
    """The reply may have stopped anywhere; a terminal, or 2>&1, shows both streams, and a pipe only the reply."""
    script = (
        "from llama.edge.terminal import Terminal; t = Terminal(); t.show_text('half a'); t.notice('again');"
        "t.show_text(' line\\n'); t.notice('done')"
    )
    screen, device_end = os.openpty()
    with subprocess.Popen([sys.executable, "-c", script], stdout=device_end, stderr=device_end, cwd=ROOT) as process:
        assert process.wait(60) == 0
    os.close(device_end)
    assert os.read(screen, 1000).decode().replace("\r\n", "\n") == "half a\nagain\n line\ndone\n"
    os.close(screen)
    piped = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert (piped.stdout, piped.stderr) == ("half a line\n", "again\ndone\n")
    both = subprocess.check_output([sys.executable, "-c", script], stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    assert both == "half a\nagain\n line\ndone\n"


def test_the_same_command_gives_the_same_reply(
    served: Cloud, greedy_and_seeded: list[Ended], tiny_split: Splits, prompt: Path
) -> None:
    """Greedy twice, one seed twice; another seed gives another reply. One token more or less changes nothing else."""
    first = [without_timing(ended) for ended in greedy_and_seeded]
    flags = (GREEDY, SEEDED, (*SEEDED[:5], 6, *SEEDED[6:]), ("--temperature", 0, "--max_gen_len", 1))
    commands = [device(tiny_split(), served.address, prompt, "--json", *more) for more in flags]
    endings = together(*commands)
    greedy, seeded, other, one = (without_timing(ended) for ended in endings)
    assert [greedy, seeded] == first
    assert other["tokens"] != seeded["tokens"]
    assert one["tokens"] == greedy["tokens"][:1]
    timing = answer(endings[-1])["timing"]  # nothing was decoded: the only token came out of the prompt
    assert {name for name, value in timing.items() if value is None} == {
        "tokens_per_s", "device_ms_per_token", "network_ms_per_token", "cloud_ms_per_token",
        "sent_bytes_per_token", "received_bytes_per_token",
    }  # fmt: skip


def test_a_reply_ends_exactly_where_the_context_does(served: Cloud, tiny_split: Splits, prompt: Path) -> None:
    """Prompt and reply fill max_seq_len to the last token, whether --max_gen_len asks for more or is not given."""
    command = device(tiny_split(), served.address, prompt, "--json", "--temperature", 0)
    for fields in map(answer, together(command, [*command, "--max_gen_len", 1000])):
        assert fields["stop_reason"] == "max_seq_len"
        assert len(fields["prompt_tokens"]) + len(fields["tokens"]) == CONTEXT


@pytest.mark.parametrize(
    ("prompt_tokens", "tokens", "said"),
    [
        (CONTEXT // 2 - 1, CONTEXT // 2 + 1, "the reply fills the context of 256 tokens; limit it with --max_gen_len"),
        (CONTEXT // 2, CONTEXT // 2, "prompt and reply fill the context of 256 tokens; shorten the prompt, or start "),
    ],
)
def test_what_to_do_about_a_full_context_follows_from_what_has_filled_it(
    prompt_tokens: int, tokens: int, said: str
) -> None:
    """The reply by itself, or a prompt that is at least as long."""
    reply = GeneratedReply("", [1] * tokens, [1] * prompt_tokens, "max_seq_len", Timing())
    assert f"cut off: {said}" in str(ending(reply, CONTEXT))


def test_a_stop_token_ends_the_reply_also_when_it_is_the_last_one_allowed(
    served: Cloud, tiny_split: Splits, prompt: Path
) -> None:
    """It counts towards --max_gen_len, and is in neither the tokens nor the text."""
    torch.set_num_threads(1)  # the cloud's threads wait for the same cores
    out = tiny_split()
    half = read_half(out / "edge", "edge")
    stop_ids, model = chat_format_of(half, tokenizer_of(half)).stop_ids, load_halves(out)
    for seed in range(1000):  # one in a few: the small model says anything
        sampling = SamplingParams(temperature=1.0, top_p=1.0, seed=seed)
        tokens = generate(model, prompt_ids(out), sampling, 40, stop_ids=stop_ids, keep_logits=False).tokens
        if 5 < len(tokens) < 40:
            break
    n = len(tokens)
    flags = ("--json", "--temperature", 1, "--top_p", 1, "--seed", seed)
    limits: list[list[object]] = [[], ["--max_gen_len", n + 1], ["--max_gen_len", n]]
    found = map(answer, together(*(device(out, served.address, prompt, *flags, *limit) for limit in limits)))
    for fields, reason in zip(found, ("stop_token", "stop_token", "max_gen_len"), strict=True):
        assert (fields["tokens"], fields["stop_reason"]) == (tokens, reason)


def test_each_kind_of_prompt_file_is_fed_as_its_dialogue(served: Cloud, tiny_split: Splits, tmp_path: Path) -> None:
    """A text file with a byte order mark, a dialogue, a prompt sheet."""
    user, reply, system = Message("user", QUESTION), Message("assistant", "It is."), Message("system", "Be brief.")
    turns = [{"role": message.role, "content": message.content} for message in (user, reply, user)]
    sheet = (
        f'id = "sheet"\ntitle = "not fed"\nsystem = "Be brief."\n'
        f'examples = [{{user = "{QUESTION}", assistant = "It is."}}]\nquestions = ["One?", "{QUESTION}"]\n'
    )
    files: dict[str, tuple[bytes, list[Message]]] = {
        "a.txt": (b"\xef\xbb\xbf" + QUESTION.encode(), [user]),
        "a.json": (json.dumps(turns).encode(), [user, reply, user]),
        "a.toml": (sheet.encode(), [system, user, reply, Message("user", f"One?\n{QUESTION}")]),
    }
    for name, (data, _) in files.items():
        (tmp_path / name).write_bytes(data)
    commands = (device(tiny_split(), served.address, tmp_path / name, "--json", "--max_gen_len", 2) for name in files)
    for ended, (_, dialog) in zip(together(*commands), files.values(), strict=True):
        assert answer(ended)["prompt_tokens"] == prompt_ids(tiny_split(), *dialog)


def test_two_devices_at_once_answer_as_each_does_alone(
    served: Cloud, greedy_and_seeded: list[Ended], tiny_split: Splits, prompt: Path
) -> None:
    """One is held within its reply until the other is within its own; then both have the same cloud to their ends."""
    alone = [shown(answer(ended)["text"]) + "\n" for ended in greedy_and_seeded]
    with (
        edge(tiny_split() / "edge", served.address, prompt, "--plain", *GREEDY) as one,
        edge(tiny_split() / "edge", served.address, prompt, "--plain", *SEEDED) as other,
    ):
        assert one.stdout and other.stdout
        texts = [one.stdout.read(1)]
        one.send_signal(signal.SIGSTOP)
        texts.append(other.stdout.read(1))
        assert other.poll() is None
        one.send_signal(signal.SIGCONT)
        for i, process in enumerate((one, other)):
            rest, said = rest_of(process)
            assert process.returncode == 0 and said.count("\n") == 2  # cut off, and timing
            texts[i] += rest
    assert texts == alone


def test_nothing_of_a_prompt_reaches_the_clouds_log(served: Cloud, greedy_and_seeded: list[Ended]) -> None:
    """After all that this file has sent to one cloud, refused prompts among it, it said "ready", nothing of them."""
    assert all(ended.returncode == 0 for ended in greedy_and_seeded)
    (ready,) = served.said()
    assert ready.startswith("ready in ") and CANARY not in served.output()
