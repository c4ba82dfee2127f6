"""A half's directory: what it says is read back, what does not fit is refused, and its weights reach the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from llama import parallel
from llama.chat import Message
from llama.checkpoint.halves import Half, chat_format_of, load_weights, read_half, tokenizer_of
from llama.checkpoint.opening import open_source
from llama.checkpoint.splitting import split
from llama.errors import CheckpointError
from model_cloud import CloudTransformer
from model_edge import EdgeTransformer
from tests.small_checkpoints import params, read_back, weights, write_meta

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def halves(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/data/tiny-llama3 cut after its first layer, the cloud for two ranks; nobody writes to it."""
    out = tmp_path_factory.mktemp("halves") / "out"
    split(open_source(golden / "tiny-llama3"), out, cloud_model_parallel_size=2)
    return out


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """SmolLM2 cut after its first layer."""
    out = tmp_path_factory.mktemp("smollm2") / "out"
    split(open_source(smollm2_gguf), out)
    yield out
    shutil.rmtree(out)


def edge_model(half: Half, dtype: torch.dtype) -> EdgeTransformer:
    parallel.start()
    with parallel.unfilled_weights(dtype):
        return EdgeTransformer(half.args, half.split_layer)


def load_edge(out: Path, dtype: torch.dtype, keep_mapped: bool) -> EdgeTransformer:
    half = read_half(out / "edge", "edge")
    model = edge_model(half, dtype)
    load_weights(model, half, rank=0, world_size=1, dtype=dtype, device=CPU, keep_mapped=keep_mapped)
    return model


# --- What it says ---------------------------------------------------------------------------------------------------


def test_a_half_says_all_that_its_process_needs(halves: Path, golden: Path) -> None:
    """Both halves give the same model, cut, fingerprint and tokenizer; only the number of ranks differs."""
    edge, cloud = read_half(halves / "edge", "edge"), read_half(str(halves / "cloud"), "cloud")
    released = json.loads((golden / "tiny-llama3" / "params.json").read_text())
    assert {name: getattr(edge.args, name) for name in released} == released
    assert (edge.args, edge.fingerprint, edge.split_layer) == (cloud.args, cloud.fingerprint, 1)
    assert (edge.model_parallel_size, cloud.model_parallel_size) == (1, 2)
    assert (edge.dtype, edge.context_length, len(edge.fingerprint)) == (torch.bfloat16, 8192, 32)
    assert (edge.special_tokens, edge.pattern, edge.chat_format, edge.default_system) == (None, None, "llama3", None)


def test_tokenizer_and_chat_format_give_the_references_ids(halves: Path, golden: Path) -> None:
    """Text and dialogue of the golden file encode as Meta's own code encodes them."""
    expected = json.loads((golden / "tiny-llama3" / "golden-fp32.json").read_text())
    half = read_half(halves / "edge", "edge")
    tokenizer = tokenizer_of(half)
    assert [tokenizer.encode(text, bos=True, eos=False) for text in expected["texts"]] == expected["tokens"]
    dialog = [("system", "be brief"), ("user", "  hi "), ("assistant", "hello"), ("user", "the end")]
    messages = [Message(role, content) for role, content in dialog]
    assert chat_format_of(half, tokenizer).encode_dialog_prompt(messages) == expected["chat"]


def test_smollm2s_own_tokens_and_system_message_come_along(smollm2: Path) -> None:
    """Ids as its vocabulary numbers them, ChatML with the model's default system message, `<|im_end|>` as only stop."""
    half = read_half(smollm2 / "edge", "edge")
    tokenizer = tokenizer_of(half)
    chat = chat_format_of(half, tokenizer)
    ids = chat.encode_dialog_prompt([Message("user", "hi")])
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    text = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(ids) == text
    assert (ids[0], chat.stop_ids) == (1, (2,))


# --- Weights --------------------------------------------------------------------------------------------------------


def test_weights_are_cast_only_where_asked_and_need_no_gradient(halves: Path) -> None:
    """bf16 on disk: bit for bit in a bf16 model, exactly widened in a float32 one."""
    stored = read_back(halves, "edge")[0]
    for dtype in (torch.bfloat16, torch.float32):
        model = load_edge(halves, dtype, keep_mapped=False)
        assert not any(parameter.requires_grad for parameter in model.parameters())
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, stored[name].to(dtype)) and tensor.dtype == dtype


def mapped_file(tensor: torch.Tensor) -> str:
    """The file that a tensor's memory is mapped from, by the kernel's own account, or nothing."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, _, _, _, _, *path = line.split(maxsplit=5)
        first, last = (int(address, 16) for address in addresses.split("-"))
        if first <= tensor.data_ptr() < last:
            return path[0] if path else ""
    return ""


def test_only_the_embeddings_stay_in_the_file_and_only_if_asked(smollm2: Path) -> None:
    """Mapped from the half's file in its own dtype; layers are in memory, so nothing is read at the first token."""
    path = str(smollm2 / "edge" / "consolidated.00.pth")
    for dtype in (torch.float32, torch.bfloat16):  # the file's own, and another
        kept, read = load_edge(smollm2, dtype, True), load_edge(smollm2, dtype, False)
        assert mapped_file(kept.tok_embeddings.weight) == path
        assert kept.tok_embeddings.weight.dtype == torch.float32
        for parameter in (*kept.layers.parameters(), *read.parameters()):
            assert parameter.dtype == dtype
            assert mapped_file(parameter) != path


def test_a_rank_loads_its_own_file(halves: Path) -> None:
    """Rank 1 of 2 gets the second half of each row-cut weight and all of each norm (here in plain modules)."""
    half = read_half(halves / "cloud", "cloud")
    shards = read_back(halves, "cloud")

    class Names(torch.nn.Module):
        """A module with the state dict of a rank; fairscale's own layers would need a second process."""

        def __init__(self) -> None:
            super().__init__()
            for name, tensor in shards[0].items():
                *path, last = name.split(".")
                module: torch.nn.Module = self
                for part in path:
                    if part not in dict(module.named_children()):
                        module.add_module(part, torch.nn.Module())
                    module = module.get_submodule(part)
                module.register_parameter(last, torch.nn.Parameter(torch.empty_like(tensor)))

    for rank in range(2):
        model = Names()
        load_weights(model, half, rank=rank, world_size=2, dtype=half.dtype, device=CPU, keep_mapped=False)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, shards[rank][name])
    assert not torch.equal(shards[0]["output.weight"], shards[1]["output.weight"])


def test_another_number_of_ranks_is_refused_with_the_command_that_reshards(halves: Path) -> None:
    """Both numbers and a command line for the number that runs."""
    half = read_half(halves / "cloud", "cloud")
    parallel.start()
    with parallel.unfilled_weights(half.dtype):
        model = CloudTransformer(half.args, half.split_layer)
    with pytest.raises(CheckpointError) as refusal:
        load_weights(model, half, rank=0, world_size=1, dtype=half.dtype, device=CPU, keep_mapped=False)
    message = str(refusal.value)
    assert "divided for 2 rank(s), but 1 run" in message
    assert (
        "split_checkpoint.py --ckpt_dir SOURCE --output_dir OUT --split_layer 1 --cloud_model_parallel_size 1"
        in message
    )
    assert "\n" not in message


def test_tensors_that_do_not_fit_the_model_are_named(halves: Path, tmp_path: Path) -> None:
    """Missing, unexpected and wrongly shaped ones in one line; the manifest is brought up to date, as if by hand."""
    out = tmp_path / "out"
    shutil.copytree(halves, out)
    path = out / "edge" / "consolidated.00.pth"
    stored = read_back(out, "edge")[0]
    del stored["layers.0.ffn_norm.weight"]
    stored["layers.7.ffn_norm.weight"] = torch.ones(64)
    stored["layers.0.attention.wo.weight"] = torch.ones(64, 32)
    torch.save(stored, path)
    edit(out / "edge" / "manifest.json", lambda m: m["files"][path.name].update(bytes=path.stat().st_size))
    with pytest.raises(CheckpointError) as refusal:
        load_edge(out, torch.float32, keep_mapped=True)
    message = str(refusal.value)
    assert "missing: layers.0.ffn_norm.weight" in message
    assert "unexpected: layers.7.ffn_norm.weight" in message
    assert "wrong shape: layers.0.attention.wo.weight (64, 32) instead of (64, 64)" in message
    assert "\n" not in message


# --- What is refused ------------------------------------------------------------------------------------------------


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def damages() -> list[Any]:
    """What can be wrong with a half (whose directory is given), and what must be said."""

    def params_with(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
        return lambda d: edit(d / "params.json", change)

    def wipe(directory: Path) -> None:
        for path in directory.iterdir():
            path.unlink()

    shard = "consolidated.00.pth"
    cases: dict[str, tuple[Callable[[Path], object], str]] = {
        "no directory": (shutil.rmtree, "does not exist; create it with split_checkpoint.py"),
        "empty": (wipe, "is empty; create it with split_checkpoint.py"),
        "no params": (lambda d: (d / "params.json").unlink(), "has no params.json, so it is not a half"),
        "no shard": (lambda d: (d / shard).unlink(), f"lacks {shard}; copy it again"),
        "no tokenizer": (lambda d: (d / "tokenizer.model").unlink(), r"lacks tokenizer\.model; copy it again"),
        "no manifest": (
            lambda d: (d / "manifest.json").unlink(),
            r"manifest\.json cannot be read: No such file or directory; copy the dir",
        ),
        "short shard": (
            lambda d: (d / shard).write_bytes(b"PK"),
            f"{shard} has 2 bytes instead of [0-9]+; copy it again",
        ),
        "binary params": (lambda d: (d / "params.json").write_bytes(b"\x80\xff"), r"params\.json is not JSON"),
        "list as params": (lambda d: (d / "params.json").write_text("[]"), "Expected `object`, got `array`"),
        "no dim": (params_with(lambda p: p.pop("dim")), "missing required field `dim`"),
        "dim as text": (params_with(lambda p: p.update(dim="64")), r"Expected `int`, got `str` - at `\$\.dim`"),
        "dim of 0": (params_with(lambda p: p.update(dim=0)), "a size is not 1 to"),
        "no fingerprint": (params_with(lambda p: p["split"].pop("fingerprint")), "required field `fingerprint`"),
        "odd fingerprint": (params_with(lambda p: p["split"].update(fingerprint="xyz")), "not 64 hexadecimal digits"),
        "odd dtype": (params_with(lambda p: p["split"].update(dtype="int4")), "dtype 'int4' is not one of float32"),
        "future": (params_with(lambda p: p["split"].update(format=2)), "split format 2 is not supported"),
        "odd cut": (params_with(lambda p: p["split"].update(split_layer=3)), "of 3 layers must be 1 to 2"),
        "odd ranks": (params_with(lambda p: p["split"].update(model_parallel_size=3)), "counts that fit: 1, 2"),
        "more ranks": (params_with(lambda p: p["split"].update(model_parallel_size=2)), r"params\.json has \d+ bytes"),
        "odd heads": (params_with(lambda p: p.update(n_heads=7)), "n_heads and n_kv_heads do not divide"),
        "unlisted": (lambda d: edit(d / "manifest.json", lambda m: m["files"].pop(shard)), f"does not list {shard}"),
        "no split": (
            params_with(lambda p: p.pop("split")),
            r"is a whole checkpoint; split it first: python split_c",
        ),
    }
    return [pytest.param(damage, complaint, id=name) for name, (damage, complaint) in cases.items()]


@pytest.mark.parametrize(("damage", "complaint"), damages())
def test_a_half_that_cannot_be_used_is_refused_in_one_line(
    damage: Callable[[Path], object], complaint: str, halves: Path, tmp_path: Path
) -> None:
    """Files missing, cut short or malformed, and fields that cannot be: what, where, and what to do."""
    directory = tmp_path / "half"
    shutil.copytree(halves / "edge", directory)
    read_half(directory, "edge")
    damage(directory)
    with pytest.raises(CheckpointError, match=complaint) as refusal:
        read_half(directory, "edge")
    assert "\n" not in str(refusal.value) and "half" in str(refusal.value)


def test_the_wrong_directory_is_refused_with_the_right_one(halves: Path, golden: Path) -> None:
    """The other half, the directory above both, a file, a checkpoint that was never split."""
    for directory, expect, complaint in (
        (halves / "edge", "cloud", f"is the edge half, but the cloud half is needed; use {halves / 'cloud'}$"),
        (halves, "edge", f"holds both halves; use {halves / 'edge'}$"),
        (halves / "edge" / "params.json", "edge", "is a file; give the edge directory"),
        (golden / "tiny-llama3", "edge", f"--ckpt_dir {golden / 'tiny-llama3'} --output_dir OUT"),
    ):
        with pytest.raises(CheckpointError, match=complaint):
            read_half(directory, expect)


def test_halves_of_different_splits_can_be_told_apart(golden: Path, tmp_path: Path) -> None:
    """Cut elsewhere, or from other weights: each half by itself is sound, but the fingerprints differ."""
    p = params()
    tokenizer = golden / "tiny-llama3" / "tokenizer.model"
    for seed in (0, 1):
        source = open_source(write_meta(tmp_path / f"source {seed}", p, weights(p, seed=seed), tokenizer))
        for split_layer in (1, 2):
            split(source, tmp_path / f"{seed} {split_layer}", split_layer=split_layer)
    names = ("0 1", "0 2", "1 1", "1 2")
    assert len({read_half(tmp_path / name / "edge", "edge").fingerprint for name in names}) == len(names)
