"""split_checkpoint.py: what it writes, that it is the source and nothing else, and that it leaves no half-done work."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llama.checkpoint import layout
from llama.checkpoint.halves import read_half
from llama.checkpoint.opening import open_source
from llama.checkpoint.shards import ShardedTensors
from llama.checkpoint.splitting import TensorDigest, fingerprint, split
from llama.checkpoint.writing import PthFile
from llama.errors import CheckpointError
from llama.model_args import ModelArgs
from tests.small_checkpoints import cut_along, params, read_back, same, weights, whole, write_gguf, write_meta
from tests.volumes import examples

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def tokenizer(golden: Path) -> Path:
    return golden / "tiny-llama3" / "tokenizer.model"


def command(*flags: object) -> list[str]:
    return [sys.executable, str(ROOT / "split_checkpoint.py"), *map(str, flags)]


def run(*flags: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*flags), capture_output=True, text=True, timeout=120)


def hidden(directory: Path) -> list[str]:
    """What lies beside the results that should not."""
    return sorted(path.name for path in directory.iterdir() if path.name.startswith("."))


# --- What is written ------------------------------------------------------------------------------------------------


@pytest.mark.process
def test_the_command_writes_two_directories_in_metas_layout(golden: Path, tmp_path: Path) -> None:
    """params.json, tokenizer.model, consolidated.NN.pth and a manifest with the true size and SHA-256 of each."""
    out = tmp_path / "deep" / "out"
    flags = ("--ckpt_dir", golden / "tiny-llama3", "--output_dir", out, "--split_layer", 2)
    done = run(*flags, "--cloud_model_parallel_size", 2)
    assert (done.returncode, done.stdout) == (0, "")
    assert "verified; fingerprint" in done.stderr and "Traceback" not in done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["cloud", "edge"]
    for half, ranks in (("edge", 1), ("cloud", 2)):
        names = {"params.json", "tokenizer.model", *(f"consolidated.{rank:02d}.pth" for rank in range(ranks))}
        assert {path.name for path in (out / half).iterdir()} == names | {"manifest.json"}
        listed = json.loads((out / half / "manifest.json").read_text())["files"]
        assert listed.keys() == names
        for name, entry in listed.items():
            data = (out / half / name).read_bytes()
            assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        said = json.loads((out / half / "params.json").read_text())["split"]
        fingerprint = said.pop("fingerprint")
        assert re.fullmatch("[0-9a-f]{64}", fingerprint)
        expected = {"format": 1, "half": half, "split_layer": 2, "dtype": "bfloat16", "model_parallel_size": ranks}
        assert said == expected
    assert hidden(out.parent) == []


def test_the_files_are_sound_zip_archives_of_exactly_their_tensors(golden: Path, tmp_path: Path) -> None:
    """Python's zipfile finds every CRC-32 right, and a file is no larger than torch itself would make it."""
    split(open_source(golden / "tiny-llama3"), tmp_path / "out")
    for half in ("edge", "cloud"):
        path = tmp_path / "out" / half / "consolidated.00.pth"
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
        torch.save({k: t.clone() for k, t in torch.load(path, weights_only=True).items()}, tmp_path / path.name)
        assert path.stat().st_size == (tmp_path / path.name).stat().st_size


@pytest.mark.parametrize("split_layer", [1, 2])
def test_every_tensor_is_in_exactly_one_half(split_layer: int, golden: Path, tmp_path: Path) -> None:
    """The edge has the embeddings and the first layers, the cloud all else, and together they are the release."""
    split(open_source(golden / "tiny-llama3"), tmp_path / "out", split_layer=split_layer)
    edge = read_back(tmp_path / "out", "edge")[0]
    assert {name.split(".")[0] for name in edge} == {"tok_embeddings", "layers"}
    assert {int(name.split(".")[1]) for name in edge if name.startswith("layers")} == set(range(split_layer))
    released = torch.load(golden / "tiny-llama3" / "consolidated.00.pth", weights_only=True)
    assert same(whole(tmp_path / "out"), released)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("shards", [1, 2, 4])
def test_any_number_of_shards_becomes_any_number_of_ranks(
    shards: int, ranks: int, tokenizer: Path, tmp_path: Path
) -> None:
    """The ranks' tensors put together are the whole ones; the fingerprint knows nothing of either number."""
    p = params()
    source = open_source(write_meta(tmp_path / "x", p, weights(p), tokenizer, shards))
    fingerprint = split(source, tmp_path / "out", cloud_model_parallel_size=ranks)
    halves = [read_half(tmp_path / "out" / half, half) for half in ("edge", "cloud")]
    assert [half.fingerprint for half in halves] == [fingerprint] * 2
    expected = weights(p)
    if ranks == 8:  # 4 key/value heads: each on two adjacent ranks
        for name, tensor in expected.items():
            if name.split(".")[-2] in ("wk", "wv") and not name.startswith("layers.0."):
                expected[name] = tensor.view(4, 8, 64).repeat_interleave(2, 0).reshape(64, 64)
    assert same(whole(tmp_path / "out"), expected)
    one = split(open_source(write_meta(tmp_path / "y", p, weights(p), tokenizer)), tmp_path / "one")
    assert one == fingerprint


def test_each_rank_gets_an_equal_part_of_every_tensor_that_meta_cuts(tokenizer: Path, tmp_path: Path) -> None:
    """The dimension is the one of the releases, by the tests' own table."""
    p = params()
    source = open_source(write_meta(tmp_path / "x", p, weights(p), tokenizer))
    split(source, tmp_path / "out", cloud_model_parallel_size=4)
    for rank, shard in enumerate(read_back(tmp_path / "out", "cloud")):
        for name, tensor in shard.items():
            along, full = cut_along(name), weights(p)[name]
            assert torch.equal(tensor, full if along is None else full.chunk(4, along)[rank]), name


def test_the_fingerprint_changes_with_whatever_makes_another_model(tokenizer: Path, tmp_path: Path) -> None:
    """One weight, one hyperparameter, one token, the dtype or the cut: each gives another fingerprint."""
    p, tensors = params(), weights(params())
    prints: dict[str, bytes] = {}

    def record(name: str, **options: int | torch.dtype) -> None:
        prints[name] = split(open_source(tmp_path / "x"), tmp_path / f"out {name}", **options)  # type: ignore[arg-type]

    write_meta(tmp_path / "x", p, tensors, tokenizer)
    record("plain")
    record("cut", split_layer=2)
    record("dtype", dtype=torch.float32)
    write_meta(tmp_path / "x", p | {"norm_eps": 1e-6}, tensors, tokenizer)
    record("eps")
    write_meta(tmp_path / "x", p | {"use_scaled_rope": True}, tensors, tokenizer)
    record("scaled")
    write_meta(tmp_path / "x", p, tensors, tokenizer)
    lines = tokenizer.read_bytes().splitlines(keepends=True)
    (tmp_path / "x" / "tokenizer.model").write_bytes(b"".join(lines[:-1]))
    record("tokenizer")
    tensors["layers.1.ffn_norm.weight"][5] += 1
    write_meta(tmp_path / "x", p, tensors, tokenizer)
    record("weight")
    assert len(set(prints.values())) == len(prints) == 7


def test_the_fingerprint_covers_what_the_rank_file_does_not_say(smollm2_gguf: Path) -> None:
    """The pattern and the special tokens count; the chat format, which changes no id's meaning, does not."""
    source = open_source(smollm2_gguf)
    digests = {"norm.weight": TensorDigest((576,), torch.float32, bytes(32))}
    own = source.vocabulary
    specials = (own.special_tokens or {}) | {"<another>": 16}
    found = [
        fingerprint(source.args, vocabulary, 1, digests)
        for vocabulary in (
            own,
            dataclasses.replace(own, pattern=None),
            dataclasses.replace(own, special_tokens=specials),
            dataclasses.replace(own, chat_format="llama3", default_system=None),
        )
    ]
    assert found[0] == found[3]
    assert len(set(found)) == 3


def test_one_fingerprint_for_the_same_model_however_it_is_written(tokenizer: Path, tmp_path: Path) -> None:
    """multiple_of and the multiplier count only by the width they make; a stored copy of tied embeddings not at all."""
    p = params(n_layers=2)
    tensors = weights(p)
    tensors["output.weight"] = tensors["tok_embeddings.weight"]
    tied = {name: tensor for name, tensor in tensors.items() if name != "output.weight"}
    prints = {
        split(open_source(write_meta(tmp_path / name, fields, stored, tokenizer)), tmp_path / f"out {name}")
        for name, fields, stored in (
            ("a", p, tensors),
            ("b", p, tied),
            ("c", p | {"multiple_of": 192, "ffn_dim_multiplier": 1.1}, tensors),
        )
    }
    assert len(prints) == 1


# --- The regions, for every shape -----------------------------------------------------------------------------------


@st.composite
def models_and_ranks(draw: st.DrawFn) -> tuple[ModelArgs, int, int]:
    """A small model and two numbers of ranks that fit it."""
    kv_heads = draw(st.sampled_from([1, 2, 3, 4, 6]))
    heads, head_dim = kv_heads * draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([2, 4]))
    vocab, multiple_of = 24 * draw(st.integers(1, 3)), 24 * draw(st.integers(1, 3))
    args = ModelArgs(heads * head_dim, 2, heads, kv_heads, vocab, multiple_of)
    fitting = [n for n in range(1, 25) if layout.fits(args, n)]
    return args, draw(st.sampled_from(fitting)), draw(st.integers(1, 2))


@examples(0.3)
@given(models_and_ranks())
def test_cutting_and_putting_together_gives_the_tensor_back(case: tuple[ModelArgs, int, int]) -> None:
    """For every tensor of random models: the ranks' regions cover it, are equally large, and read back as it was."""
    args, ranks, split_layer = case
    for name, shape in layout.tensor_shapes(args).items():
        tensor = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)
        regions = [layout.region(name, shape, args, rank, ranks) for rank in range(ranks)]
        shards = [{name: tensor[region].clone()} for region in regions]
        files = [Path(f"{rank}.pth") for rank in range(ranks)]
        assert len({layout.region_shape(region) for region in regions}) == 1
        assert torch.equal(torch.cat(list(ShardedTensors(files, shards, {name: regions}).rows(name))), tensor)
        assert layout.half_of(name, split_layer) in ("edge", "cloud")


@examples(0.2)
@given(
    st.dictionaries(
        st.text("abc.", min_size=1, max_size=5), st.lists(st.integers(0, 5), min_size=1, max_size=2), min_size=1
    ),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.integers(1, 3),
)
def test_a_file_filled_piece_by_piece_is_what_torch_would_have_saved(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, list[int]], dtype: torch.dtype, step: int
) -> None:
    """Any names and shapes, empty ones included, in pieces of any size: torch loads the tensors, zip the check sums."""
    tensors = {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    path = tmp_path_factory.mktemp("pth") / "x.pth"
    with PthFile(path, {name: tuple(shape) for name, shape in shapes.items()}, dtype) as file:
        for name, tensor in tensors.items():
            for first in range(0, len(tensor), step):
                file.append(name, tensor[first : first + step])
        file.finish()
    assert same(torch.load(path, weights_only=True), tensors)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_a_file_takes_no_more_and_no_less_than_its_tensors(tmp_path: Path) -> None:
    """Too much data, or too little at the end, is a mistake of the program and stops it."""
    with PthFile(tmp_path / "x.pth", {"a": (2, 3), "b": (1,)}, torch.float32) as file:
        file.append("a", torch.ones(2, 3))
        with pytest.raises(ValueError, match="more data than a"):
            file.append("a", torch.ones(1))
        with pytest.raises(ValueError, match="not filled: b"):
            file.finish()


# --- What is refused ------------------------------------------------------------------------------------------------


def test_a_rank_count_that_divides_nothing_is_refused_with_the_counts_that_fit(golden: Path, tmp_path: Path) -> None:
    """4 heads, 2 key/value heads, width 224, 514 tokens: only 1 and 2 fit; nothing is written."""
    source = open_source(golden / "tiny-llama3")
    for ranks in (3, 4, 0, -1):
        with pytest.raises(CheckpointError, match=rf"among {ranks} ranks; counts that fit: 1, 2$"):
            split(source, tmp_path / "out", cloud_model_parallel_size=ranks)
    assert list(tmp_path.iterdir()) == []


def test_three_ranks_fit_smollm2_and_two_do_not(smollm2_gguf: Path, tmp_path: Path) -> None:
    """9 heads and 3 key/value heads: the counts named are 1, 3 (9 does not divide the feed-forward width)."""
    source = open_source(smollm2_gguf)
    layout.check_ranks(source.args, 3)
    with pytest.raises(CheckpointError, match=r"counts that fit: 1, 3$"):
        split(source, tmp_path / "out", cloud_model_parallel_size=2)


@pytest.mark.process
@pytest.mark.parametrize(
    ("flags", "code", "complaint"),
    [
        (["--split_layer", "3"], 1, "split layer of a model of 3 layers must be 1 to 2 (got 3)"),
        (["--split_layer", "0"], 1, "split layer of a model of 3 layers must be 1 to 2 (got 0)"),
        (["--split_layer", "one"], 2, "--split_layer must be a whole number (got 'one')"),
        (["--dtype", "int4"], 2, "--dtype must be one of float32, bfloat16, float16"),
        (["--rope_scaling_factor", "32"], 1, "omit --rope_scaling_factor"),
        (["--split_layers", "1"], 2, "did you mean --split_layer?"),
    ],
)
def test_a_flag_that_does_not_fit_is_refused_in_one_line(
    flags: list[str], code: int, complaint: str, golden: Path, tmp_path: Path
) -> None:
    """Non-zero exit, nothing on stdout, no traceback, nothing written."""
    done = run("--ckpt_dir", golden / "tiny-llama3", "--output_dir", tmp_path / "out", *flags)
    assert (done.returncode, done.stdout) == (code, "")
    assert complaint in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
def test_a_missing_source_is_refused_in_one_line(tmp_path: Path) -> None:
    """One line on stderr, and it says what --ckpt_dir takes."""
    done = run("--ckpt_dir", tmp_path / "missing", "--output_dir", tmp_path / "out")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "does not exist; --ckpt_dir takes" in done.stderr


def test_an_output_in_use_is_refused_and_left_as_it_is(golden: Path, tmp_path: Path) -> None:
    """A directory with anything in it, a file, or a place that cannot be written; an empty directory is taken."""
    source, out = open_source(golden / "tiny-llama3"), tmp_path / "out"
    out.mkdir()
    split(source, out)
    before = (out / "edge" / "manifest.json").read_bytes()
    with pytest.raises(CheckpointError, match=r"out exists already; delete it or choose another --output_dir"):
        split(source, out, split_layer=2)
    assert (out / "edge" / "manifest.json").read_bytes() == before
    with pytest.raises(CheckpointError, match=r"params\.json exists already"):
        split(source, out / "edge" / "params.json")
    with pytest.raises(CheckpointError, match="cannot be used for --output_dir"):
        split(source, out / "edge" / "params.json" / "below")


def test_halves_that_do_not_fit_on_the_disk_are_refused_before_anything_is_written(
    golden: Path, tmp_path: Path
) -> None:
    """A checkpoint of 10 TB by its shapes (the file itself is sparse): the sizes are named."""
    p = params(n_layers=2, dim=1 << 20, n_heads=1 << 13, n_kv_heads=1 << 13, multiple_of=1)
    args = ModelArgs(**{key: value for key, value in p.items() if key not in ("vocab_size",)}, vocab_size=520)
    needed = sum(torch.Size(shape).numel() for shape in layout.tensor_shapes(args).values()) * 4

    class Huge:
        """A source of which only the shapes are ever asked."""

        description, context_length, dtype, tied = "", 1, torch.float32, False
        vocabulary = open_source(golden / "tiny-llama3").vocabulary

    Huge.args = args  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=rf"GB free, but {needed / 1e9:.1f} GB are needed; make room"):
        split(Huge(), tmp_path / "out")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


# --- What goes wrong on the way -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_split_leaves_nothing(stop: signal.Signals, smollm2_gguf: Path, tmp_path: Path) -> None:
    """A signal while SmolLM2 is being written: exit code of that signal, no traceback, no file, no directory."""
    process = subprocess.Popen(
        command("--ckpt_dir", smollm2_gguf, "--output_dir", tmp_path / "new" / "out"), stderr=subprocess.PIPE, text=True
    )
    cloud = tmp_path / "new" / ".out.partial" / "cloud" / "consolidated.00.pth"
    while not cloud.exists():
        assert process.poll() is None, "it ended before it was interrupted"
        time.sleep(0.005)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[stop]
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("linked", [False, True])
def test_what_only_looks_like_a_killed_splits_remains_is_left_alone(linked: bool, golden: Path, tmp_path: Path) -> None:
    """A directory with something else in it, and a link to one: refused, and nothing in it touched."""
    partial = tmp_path / ".out.partial"
    held = tmp_path / "precious" if linked else partial
    (held / ("edge" if linked else "photos")).mkdir(parents=True)
    if linked:
        partial.symlink_to(held)
    with pytest.raises(CheckpointError, match="in the way"):
        split(open_source(golden / "tiny-llama3"), tmp_path / "out")
    assert len(list(held.iterdir())) == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("norm_eps", 0),
        ("norm_eps", -1e-5),
        ("rope_theta", 0),
        ("n_heads", 64),
        ("n_heads", 128),
        ("n_kv_heads", 0),
        ("ffn_dim_multiplier", 1e308),
        ("dim", 10**400),
    ],
)
def test_numbers_that_nothing_can_be_computed_with_are_refused(
    field: str, value: float, golden: Path, tmp_path: Path
) -> None:
    """By the splitter, before anything is written."""
    source = shutil.copytree(golden / "tiny-llama3", tmp_path / "source")
    params = json.loads((source / "params.json").read_text())
    (source / "params.json").write_text(json.dumps(params | {field: value}))
    with pytest.raises(CheckpointError):
        split(open_source(source), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_a_killed_split_left_is_taken_over_by_the_next(smollm2_gguf: Path, golden: Path, tmp_path: Path) -> None:
    """SIGKILL leaves a partial directory but no result; while another process writes it, a second one is refused."""
    process = subprocess.Popen(command("--ckpt_dir", smollm2_gguf, "--output_dir", tmp_path / "out"), stderr=-3)
    partial = tmp_path / ".out.partial"
    while not (partial / "cloud").exists():
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.005)
    with pytest.raises(CheckpointError, match="another process is writing"):
        split(open_source(golden / "tiny-llama3"), tmp_path / "out")
    process.kill()
    process.wait(60)
    assert partial.exists() and not (tmp_path / "out").exists()
    split(open_source(golden / "tiny-llama3"), tmp_path / "out")
    assert not partial.exists()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cloud", "edge"]


def test_a_byte_that_the_disk_changed_is_found_before_it_says_done(golden: Path, tmp_path: Path) -> None:
    """A tensor altered between writing and reading back: refused, and nothing is left."""

    def damage(stage: str, done: int, total: int) -> None:
        if stage == "writing" and done == total:
            path = tmp_path / ".out.partial" / "edge" / "consolidated.00.pth"
            with path.open("r+b") as file:
                file.seek(path.stat().st_size // 2)
                before = file.read(64)
                file.seek(-64, os.SEEK_CUR)
                file.write(bytes(byte ^ 1 for byte in before))

    with pytest.raises(CheckpointError, match=r"verification failed: .* reads back differently"):
        split(open_source(golden / "tiny-llama3"), tmp_path / "out", progress=damage)
    assert list(tmp_path.iterdir()) == []


def test_values_that_float16_cannot_hold_are_refused_by_tensor(tokenizer: Path, tmp_path: Path) -> None:
    """Infinity would be written instead; the cure is named."""
    tensors = weights(params())
    tensors["layers.1.feed_forward.w2.weight"][3, 3] = 1e5
    source = open_source(write_meta(tmp_path / "source", params(), tensors, tokenizer))
    with pytest.raises(CheckpointError, match=r"layers\.1\.feed_forward\.w2\.weight has values .* --dtype bfloat16"):
        split(source, tmp_path / "out", dtype=torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.process
def test_a_limit_on_the_size_of_files_is_found_out_before_anything_is_written(golden: Path, tmp_path: Path) -> None:
    """Where it is the process's, with the cure."""
    limited = f"ulimit -f 64; exec {' '.join(command())} --ckpt_dir {golden / 'tiny-llama3'}"
    done = subprocess.run(
        ["sh", "-c", f"{limited} --output_dir {tmp_path / 'out'}"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "may write at most" in done.stderr and done.stderr.endswith("raise the limit (ulimit -f)\n")
    assert "writing" not in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", ["writing", "checksums"])
def test_a_disk_that_takes_no_more_is_told_in_one_line_and_nothing_is_left(
    stage: str, golden: Path, tmp_path: Path
) -> None:
    """A write that the system refuses when the work has begun (here by a limit that comes then) ends it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(doing: str, done: int, total: int) -> None:
        if doing == stage:
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))

    try:
        with pytest.raises(CheckpointError, match=r"out failed: .*; no files were left behind"):
            split(open_source(golden / "tiny-llama3"), tmp_path / "out", progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_counted_to_the_end_in_each_stage(golden: Path, tmp_path: Path) -> None:
    """Writing, verifying and check sums each end at their total, and never count backwards."""
    seen: dict[str, list[tuple[int, int]]] = {}
    split(
        open_source(golden / "tiny-llama3"),
        tmp_path / "out",
        progress=lambda stage, done, total: seen.setdefault(stage, []).append((done, total)),
    )
    assert list(seen) == ["writing", "verifying", "checksums"]
    for counts in seen.values():
        assert counts == sorted(counts)
        assert counts[-1][0] == counts[-1][1] > 0


# --- What it costs --------------------------------------------------------------------------------------------------


@pytest.mark.process
def test_memory_stays_small_where_one_tensor_is_large(tokenizer: Path, tmp_path: Path) -> None:
    """Embeddings of 0.54 GB as float32, twice: anonymous memory stays below 0.45 GB, of which torch is a third."""
    p = params(dim=2048, n_layers=2, n_heads=32, n_kv_heads=8, multiple_of=256, vocab_size=65536)
    args = ModelArgs(**p)
    write_meta(tmp_path / "x", p, {}, tokenizer)
    with PthFile(tmp_path / "x" / "consolidated.00.pth", layout.tensor_shapes(args), torch.bfloat16):
        pass  # laid out and left empty: a sparse file of zeros
    flags = ("--ckpt_dir", tmp_path / "x", "--output_dir", tmp_path / "out", "--dtype", "float32")
    process, peak = subprocess.Popen(command(*flags), stderr=subprocess.DEVNULL), 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        found = re.search(r"RssAnon:\s+(\d+) kB", status)
        peak = max(peak, int(found[1]) * 1024 if found else 0)
        time.sleep(0.005)
    assert process.wait() == 0
    assert 50e6 < peak < 450e6


@pytest.mark.long
def test_a_gguf_is_never_dequantised_as_a_whole(tmp_path: Path) -> None:
    """Slabs of a tensor of 96 MB are at most 32 MiB, and a multiple of no whole head is cut."""
    p = params(vocab_size=24 * 1024, dim=1024, n_layers=1, multiple_of=64, n_heads=8)
    source = open_source(write_gguf(tmp_path / "x.gguf", p, weights(p, torch.float32)))
    slabs = list(source.rows("tok_embeddings.weight"))
    assert len(slabs) == 3
    assert max(slab.nbytes for slab in slabs) <= 32 << 20
    assert torch.equal(torch.cat(slabs), weights(p, torch.float32)["tok_embeddings.weight"])
