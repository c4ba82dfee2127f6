"""Meta's reference's numbers, through the split: from one shard and from two, in fp32 and in bf16."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from llama.checkpoint.halves import read_half, tokenizer_of
from llama.checkpoint.opening import open_source
from llama.checkpoint.splitting import split
from llama.client.link import Link
from llama.edge.generation import GenerationSettings, generate_reply
from tests.processes import ask, cloud
from tests.references import BF16_BOUND, LENGTH, Reference, reference, stop_ids
from tests.support import GREEDY
from tests.whole import chunked_logits, generate, load_edge, load_halves

FP32_BOUND = 1e-5
CHUNKS = [1, 16, 256]

Halves = Callable[[str, int], Path]


@pytest.fixture(scope="module")
def halves(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Halves:
    """``halves(source, k)``: a directory of tests/data cut after layer k-1."""
    base = tmp_path_factory.mktemp("golden")

    def made(source: str, k: int) -> Path:
        out = base / f"{source}-k{k}"
        if not out.exists():
            split(open_source(golden / source), out, split_layer=k)
        return out

    return made


SOURCES = pytest.mark.parametrize("source", ["tiny-llama3", "tiny-llama3-mp2"])
SPLITS = pytest.mark.parametrize("k", [1, 2])


# --- fp32 -----------------------------------------------------------------------------------------------------------


@SOURCES
@SPLITS
def test_fp32_logits_are_the_references_however_the_prompt_is_cut(
    source: str, k: int, golden: Path, halves: Halves, record_property: Callable[[str, object], None]
) -> None:
    """Within 1e-5 at every position, fed whole, 16 at a time and one by one."""
    model, expected = load_halves(halves(source, k), torch.float32), reference(golden, "fp32")
    largest = max(
        float((chunked_logits(model, ids, chunk) - logits).abs().max())
        for ids, logits in zip(expected.tokens, expected.logits, strict=True)
        for chunk in CHUNKS
    )
    record_property("largest difference", f"{largest:.2g}")
    assert largest <= FP32_BOUND


@SOURCES
@SPLITS
def test_fp32_replies_are_the_references(source: str, k: int, golden: Path, halves: Halves) -> None:
    """24 greedy tokens after each text, or none where the reference stops at once."""
    out, expected = halves(source, k), reference(golden, "fp32")
    model = load_halves(out, torch.float32)
    for ids, greedy in zip(expected.tokens, expected.greedy, strict=True):
        assert generate(model, ids, GREEDY, LENGTH, stop_ids=stop_ids(out)).tokens == greedy
    assert sorted({len(greedy) for greedy in expected.greedy}) == [0, LENGTH]


@pytest.mark.process
@pytest.mark.parametrize(("source", "k"), [("tiny-llama3", 2), ("tiny-llama3-mp2", 1)])
def test_fp32_replies_over_a_socket_are_the_references(
    source: str, k: int, golden: Path, halves: Halves, tmp_path: Path
) -> None:
    """Every text to a real cloud; then edge_main.py with the dialogue, to which the reference says nothing at all."""
    out, expected = halves(source, k), reference(golden, "fp32")
    edge, tokenizer = load_edge(out, torch.float32), tokenizer_of(read_half(out / "edge", "edge"))
    with cloud(out / "cloud", "--dtype", "float32") as running:
        with Link(running.address) as link:
            welcome = link.hello()
            for ids, greedy in zip(expected.tokens, expected.greedy, strict=True):
                reply = generate_reply(
                    ids, edge=edge, link=link, welcome=welcome, tokenizer=tokenizer,
                    settings=GenerationSettings(GREEDY, stop_ids=stop_ids(out), max_gen_len=LENGTH),
                )  # fmt: skip
                assert reply.tokens == greedy
                assert reply.stop_reason == ("max_gen_len" if greedy else "stop_token")
        said = json.loads((golden / "tiny-llama3" / "golden-fp32.json").read_text())
        dialog = [("system", "be brief"), ("user", "  hi "), ("assistant", "hello"), ("user", "the end")]
        file = tmp_path / "dialog.json"
        file.write_text(json.dumps([{"role": role, "content": content} for role, content in dialog]))
        answer = ask(out / "edge", running.address, file, "--temperature", 0, "--max_gen_len", LENGTH)
        assert (answer["prompt_tokens"], answer["tokens"]) == (said["chat"], said["chat_greedy_24"])
        assert answer["stop_reason"] == "stop_token"


# --- bf16 -----------------------------------------------------------------------------------------------------------


def bf16_results(out: Path, prompts: list[list[int]]) -> tuple[list[list[npt.NDArray[np.float32]]], list[list[int]]]:
    """Logits of every prompt, in chunks of every size, and the replies; float32."""
    model = load_halves(out, torch.bfloat16)
    logits = [[chunked_logits(model, ids, chunk).numpy() for chunk in CHUNKS] for ids in prompts]
    return logits, [generate(model, ids, GREEDY, LENGTH, stop_ids=stop_ids(out)).tokens for ids in prompts]


def largest_bf16_difference(expected: Reference, found: list[list[npt.NDArray[np.float32]]]) -> float:
    return max(
        float((torch.from_numpy(logits) - wanted).abs().max())
        for wanted, of_text in zip(expected.logits, found, strict=True)
        for logits in of_text
    )


@pytest.mark.long
@SOURCES
@SPLITS
def test_bf16_is_the_references_bit_for_bit_where_dot_products_are_summed_alike(
    source: str, k: int, golden: Path, halves: Halves, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All logits and replies, however the prompt is cut, on CPUs with AVX512-BF16 and no AMX.

    A CPU with AMX is told to do without it. One without AVX512-BF16 sums in another order; the logits are then within
    0.06.
    """
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")  # read when torch starts
    expected = reference(golden, "bf16")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        logits, replies = process.submit(bf16_results, halves(source, k), expected.tokens).result()
    has_avx512_bf16 = "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    assert largest_bf16_difference(expected, logits) <= (0 if has_avx512_bf16 else BF16_BOUND)
    assert replies == expected.greedy


@SOURCES
@SPLITS
def test_bf16_on_any_cpu_is_the_references_but_for_a_last_place(
    source: str, k: int, golden: Path, halves: Halves, record_property: Callable[[str, object], None]
) -> None:
    """Whatever this CPU's instructions: logits within 0.06, and the same replies.

    Not bit for bit with AMX (which torch uses where it is), nor with AVX2 alone: at most 0.055 measured there.
    """
    expected = reference(golden, "bf16")
    logits, replies = bf16_results(halves(source, k), expected.tokens)
    record_property("largest difference", f"{largest_bf16_difference(expected, logits):.2g}")
    assert largest_bf16_difference(expected, logits) <= BF16_BOUND
    assert replies == expected.greedy
