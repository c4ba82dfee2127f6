"""How much memory the device and the splitter take, for checkpoints of the released sizes.

    python -m tests.benchmarks.memory [--tokenizer .cache/llama3-tokenizer.model]

* ``edge_main.py`` with an edge half of Llama 3.1 8B's shape (embeddings and one layer), against a real cloud: a prompt
  of 512 tokens in the product's chunks, then some decoding. Counted is the largest resident set, mapped pages of the
  checkpoint included (VmHWM of proc(5)).
* ``split_checkpoint.py`` with a checkpoint of Llama 3.2 1B's shape, as Meta and as Hugging Face lay it out. Counted is
  the largest anonymous memory (RssAnon): pages of the files are the system's to take back.

Weights are random, the Llama 3 vocabulary is real. All files go to the directory for temporary ones (TMPDIR).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
import torch
from transformers import LlamaConfig
from transformers.convert_slow_tokenizer import TikTokenConverter

from llama.chat import Message
from llama.checkpoint import layout
from llama.checkpoint.halves import chat_format_of, read_half, tokenizer_of
from llama.checkpoint.hugging_face import hugging_face_name
from llama.command import run
from llama.edge.generation import CHUNK
from llama.errors import CheckpointError, SplitLlamaError, UsageError
from llama.model_args import ModelArgs
from llama.tokenizer import meta_special_tokens
from tests.benchmarks.reporting import Aimed, end_cleanly_on_sigterm, machine, progress, versions
from tests.processes import ROOT, cloud, edge
from tests.small_checkpoints import LLAMA_3_1_ROPE

# The fields of the releases' params.json. Two layers of the 8B's 32: one for the device, one for the cloud.
LLAMA_3_1_8B = {
    "dim": 4096,
    "n_layers": 2,
    "n_heads": 32,
    "n_kv_heads": 8,
    "vocab_size": 128256,
    "multiple_of": 1024,
    "ffn_dim_multiplier": 1.3,
    "norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "use_scaled_rope": True,
}
LLAMA_3_2_1B = LLAMA_3_1_8B | {
    "dim": 2048,
    "n_layers": 16,
    "multiple_of": 256,
    "ffn_dim_multiplier": 1.5,
}

DISK_BYTES = 8_000_000_000  # the largest source and its halves, and some room
PROMPT_TOKENS, REPLY_TOKENS = 512, 8
SAMPLED_EVERY_S = 0.01

Tensors = dict[str, torch.Tensor]
Params = dict[str, Any]


def main(tokenizer: str = str(ROOT / ".cache" / "llama3-tokenizer.model"), json: str | None = None) -> None:
    """Measure memory, and print a table.

    Args:
        tokenizer: Llama 3's tokenizer.model.
        json: file for all figures.
    """
    if not Path(tokenizer).is_file():
        raise UsageError(f"--tokenizer {tokenizer} does not exist; get it: make fixtures")
    end_cleanly_on_sigterm()
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < DISK_BYTES:
        raise SplitLlamaError(f"{tempfile.gettempdir()} has {free / 1e9:.1f} GB free, {DISK_BYTES / 1e9:.0f} GB are "
                              f"needed; make room, or set TMPDIR")  # fmt: skip
    print(machine(), versions(["torch", "safetensors"]), sep="\n", flush=True)
    progress(f"{tempfile.gettempdir()} has {free / 1e9:.0f} GB free; up to {DISK_BYTES / 1e9:.0f} GB are used for a "
             f"while")  # fmt: skip
    figures = [*_edge(Path(tokenizer)), *_splitter(Path(tokenizer))]
    print("\npeak memory, GB of 10⁹ bytes")
    for figure in figures:
        print(figure.line())
    if json is not None:
        Path(json).write_bytes(msgspec.json.format(msgspec.json.encode(figures)))


# --- The device -----------------------------------------------------------------------------------------------------


def _edge(tokenizer: Path) -> list[Aimed]:
    """edge_main.py in the checkpoint's own dtype and in float32, each in a fresh process against a fresh cloud."""
    with tempfile.TemporaryDirectory(prefix="split-llama-") as name:
        source, halves = Path(name) / "8B", Path(name) / "halves"
        progress("making an 8B-shaped checkpoint of two layers")
        _write_meta(source, LLAMA_3_1_8B, tokenizer, tied=False)
        progress("splitting it")
        _peaks(_split(source, halves))
        shutil.rmtree(source)
        prompt = _prompt(halves, Path(name))
        size = (halves / "edge" / "consolidated.00.pth").stat().st_size
        about = f"8B-shaped edge half ({size / 1e9:.2f} GB on disk)"
        return [
            _resident(halves, prompt, f"{about}, bfloat16", "bfloat16", aim=1.0),
            _resident(halves, prompt, f"{about}, float32", "float32", aim=None),
        ]


def _resident(halves: Path, prompt: Path, title: str, dtype: str, aim: float | None) -> Aimed:
    progress(f"asking it {PROMPT_TOKENS} tokens in {dtype}, {CHUNK} at a time")
    flags = ("--json", "--temperature", 0, "--max_gen_len", REPLY_TOKENS)
    with (
        cloud(halves / "cloud", "--dtype", dtype, "--max_batch_size", 1) as serving,
        edge(halves / "edge", serving.address, prompt, *flags) as device,
    ):
        peaks = _peaks(device)
        assert device.stdout is not None
        timing = msgspec.json.decode(device.stdout.read())["timing"]
    if (timing["prompt_tokens"], timing["reply_tokens"]) != (PROMPT_TOKENS, REPLY_TOKENS):
        raise SplitLlamaError(f"the device was fed {timing['prompt_tokens']} tokens and said {timing['reply_tokens']} "
                              f"instead of {PROMPT_TOKENS} and {REPLY_TOKENS}")  # fmt: skip
    progress(f"  of the resident set at most {peaks['RssAnon'] / 1e9:.2f} GB anonymous, "
             f"{peaks['RssFile'] / 1e9:.2f} GB of files")  # fmt: skip
    return Aimed(title, [peaks["VmHWM"] / 1e9], " GB", at_most=aim)


def _prompt(halves: Path, directory: Path) -> Path:
    """A file with one message that comes to PROMPT_TOKENS, template included."""
    half = read_half(halves / "edge", "edge")
    template = len(chat_format_of(half, tokenizer_of(half)).encode_dialog_prompt([Message("user", "the")])) - 1
    path = directory / "prompt.txt"
    path.write_text(" ".join(["the"] * (PROMPT_TOKENS - template)))
    return path


# --- The splitter ---------------------------------------------------------------------------------------------------


def _splitter(tokenizer: Path) -> list[Aimed]:
    """split_checkpoint.py on the same model in two layouts."""
    figures = []
    for kind, write in (("Meta", _write_meta), ("Hugging Face", _write_hugging_face)):
        with tempfile.TemporaryDirectory(prefix="split-llama-") as name:
            source = Path(name) / "1B"
            progress(f"making a 1B-shaped checkpoint, {kind}")
            write(source, LLAMA_3_2_1B, tokenizer)
            size = max(path.stat().st_size for path in source.iterdir())
            progress("splitting it")
            peaks = _peaks(_split(source, Path(name) / "halves"))
            title = f"splitting, 1B-shaped, {kind} ({size / 1e9:.2f} GB), anonymous"
            figures.append(Aimed(title, [peaks["RssAnon"] / 1e9], " GB", at_most=1.0))
    return figures


def _split(source: Path, halves: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "split_checkpoint.py")]
    return subprocess.Popen([*command, "--ckpt_dir", str(source), "--output_dir", str(halves)], cwd=ROOT)


def _peaks(process: subprocess.Popen[Any]) -> dict[str, int]:
    """The most bytes that /proc/PID/status gave for each field of memory until the process ended.

    Raises:
        CheckpointError: the process failed; it has said why.
    """
    peaks = {"VmHWM": 0, "RssAnon": 0, "RssFile": 0}
    try:
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            for field in peaks:
                found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
                peaks[field] = max(peaks[field], int(found[1]) * 1024 if found else 0)
            time.sleep(SAMPLED_EVERY_S)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        said = process.stderr.read() if process.stderr is not None else "see above"
        raise CheckpointError(f"the measured process ended with exit code {process.returncode}: {said}")
    return peaks


# --- Checkpoints of released shapes ---------------------------------------------------------------------------------


def _weights(params: Params) -> Tensors:
    """bfloat16 tensors of the model without its output head, filled with one random block over and over."""
    block = (torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()

    def filled(shape: tuple[int, ...]) -> torch.Tensor:
        if len(shape) == 1:  # a norm
            return torch.ones(shape, dtype=torch.bfloat16)
        tensor = torch.empty(shape, dtype=torch.bfloat16)
        for part in torch.split(tensor.view(-1), len(block)):
            part.copy_(block[: len(part)])
        return tensor

    shapes = layout.tensor_shapes(ModelArgs(**params))
    return {name: filled(shape) for name, shape in shapes.items() if name != layout.OUTPUT}


def _write_meta(directory: Path, params: Params, tokenizer: Path, tied: bool = True) -> None:
    """Meta's directory, one shard; a tied output head is there under its own name, but its bytes only once."""
    weights = _weights(params)
    weights[layout.OUTPUT] = weights[layout.EMBEDDINGS] if tied else weights[layout.EMBEDDINGS].clone()
    directory.mkdir()
    torch.save(weights, directory / "consolidated.00.pth")
    (directory / "params.json").write_bytes(msgspec.json.encode(params))
    shutil.copy(tokenizer, directory / "tokenizer.model")


def _write_hugging_face(directory: Path, params: Params, tokenizer: Path) -> None:
    """What transformers' converter makes of Meta's 1B: one safetensors file, tied."""
    args = ModelArgs(**params)
    config = LlamaConfig(
        hidden_size=args.dim, intermediate_size=args.hidden_dim, num_hidden_layers=args.n_layers,
        num_attention_heads=args.n_heads, num_key_value_heads=args.kv_heads, vocab_size=args.vocab_size,
        rms_norm_eps=args.norm_eps, max_position_embeddings=131072, tie_word_embeddings=True,
        rope_parameters=LLAMA_3_1_ROPE | {"factor": 32.0},
    )  # fmt: skip
    config.save_pretrained(directory)
    weights = {hugging_face_name(name): tensor for name, tensor in _weights(params).items()}
    safetensors.torch.save_file(weights, directory / "model.safetensors")
    converter = TikTokenConverter(  # type: ignore[no-untyped-call]
        str(tokenizer), extra_special_tokens=list(meta_special_tokens(128000))
    )
    converter.converted().save(str(directory / "tokenizer.json"))


if __name__ == "__main__":
    run(main)
