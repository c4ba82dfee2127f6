"""The split changes nothing: the two halves give the uncut model's logits and tokens, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from llama import parallel
from llama.chat import Message
from llama.checkpoint.halves import chat_format_of, read_half, tokenizer_of
from llama.client.link import Link
from llama.edge.generation import CHUNK, GenerationSettings, generate_reply
from llama.model_args import ModelArgs
from llama.sampling_params import SamplingParams
from model_edge import EdgeTransformer
from tests.processes import ask, cloud
from tests.whole import Model, chunked_logits, generate, load_edge, load_halves, load_whole

GREEDY, SEEDED = SamplingParams(temperature=0), SamplingParams(temperature=0.8, top_p=0.9, seed=7)
TINY_CHUNK = 16  # so that small prompts have several
LENGTHS = [1, 2, TINY_CHUNK - 1, TINY_CHUNK, TINY_CHUNK + 1, 3 * TINY_CHUNK + 5]

# Largest difference that another chunking or other rows in the batch may make to a float32 logit, as a share of the
# largest logit. Sums are taken in another order then; 1.5e-6 and 2.4e-6 were measured.
TINY_BOUND, SMOLLM2_BOUND = 2e-6, 1e-5

Splits = Callable[..., Path]


def random_ids(length: int, vocab_size: int, seed: int = 0) -> list[int]:
    ids: list[int] = torch.randint(0, vocab_size, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return ids


def smollm2_prompt(out: Path, sentences: int) -> list[int]:
    """Ids of a user message of so many sentences, template included."""
    half = read_half(out / "edge", "edge")
    text = " ".join(f"Sentence {i}: the device keeps layer {i % 7}." for i in range(sentences)) or "Hi"
    return chat_format_of(half, tokenizer_of(half)).encode_dialog_prompt([Message("user", text)])


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference as a share of the largest logit."""
    return float((found - expected).abs().max() / expected.abs().max())


def test_the_embedding_table_may_stay_on_the_cpu_while_the_layers_are_elsewhere() -> None:
    """As with --device cuda or mps. Torch's meta device stands for the GPU: like one, it refuses tensors of the CPU."""
    parallel.start()
    with parallel.unfilled_weights(torch.bfloat16):
        edge = EdgeTransformer(ModelArgs(dim=64, n_layers=3, n_heads=4, vocab_size=10, multiple_of=32), 2)
    edge.tok_embeddings.weight = torch.nn.Parameter(torch.zeros(10, 64))
    edge.layers.to("meta")
    for ids, position in ([1, 2, 3], 0), ([4], 3):
        rows = edge(torch.tensor([ids]), [position], edge.new_cache(1, 8))
        assert (rows.device.type, rows.dtype, rows.shape) == ("meta", torch.bfloat16, (1, len(ids), 64))


# --- Bit for bit ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_every_split_layer_gives_the_uncut_models_bits(k: int, dtype: torch.dtype, tiny_split: Splits) -> None:
    """Logits at every position of prompts from 1 token to several chunks; the uncut model is read from another cut."""
    halves, whole = load_halves(tiny_split(k, dtype=dtype)), load_whole(tiny_split(k % 3 + 1, dtype=dtype))
    for length in LENGTHS:
        ids = random_ids(length, 516, seed=length)
        found, expected = (chunked_logits(model, ids, TINY_CHUNK) for model in (halves, whole))
        assert torch.equal(found, expected), f"{length} tokens"


@pytest.mark.long
@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "top-p"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_every_split_layer_says_what_the_uncut_model_says(
    k: int, dtype: torch.dtype, sampling: SamplingParams, tiny_split: Splits
) -> None:
    """24 tokens after prompts of every length, and the logits that each was chosen from."""
    halves, whole = load_halves(tiny_split(k, dtype=dtype)), load_whole(tiny_split(k % 3 + 1, dtype=dtype))
    for length in LENGTHS:
        prompt = random_ids(length, 516, seed=length)
        found, expected = (generate(model, prompt, sampling, 24, chunk=TINY_CHUNK) for model in (halves, whole))
        assert found.tokens == expected.tokens
        assert torch.equal(found.logits, expected.logits)
        assert len(set(found.tokens)) > 3  # not a model that says one thing whatever it is asked


@pytest.mark.parametrize("k", [1, 7, 29])
def test_smollm2_cut_anywhere_gives_the_uncut_models_bits(k: int, smollm2_split: Splits) -> None:
    """Logits at every position, of less than one chunk and of several; then 8 tokens greedy and top-p."""
    out = smollm2_split(k)
    halves, whole = load_halves(out), load_whole(smollm2_split(1))
    ids = smollm2_prompt(out, 80)
    assert len(ids) > 2 * CHUNK + 1
    for length in (1, CHUNK - 1, 2 * CHUNK + 1):
        assert torch.equal(chunked_logits(halves, ids[:length]), chunked_logits(whole, ids[:length])), length
    for sampling in (GREEDY, SEEDED):
        prompt = smollm2_prompt(out, 2)
        found, expected = (generate(model, prompt, sampling, 8) for model in (halves, whole))
        assert found.tokens == expected.tokens
        assert torch.equal(found.logits, expected.logits)


# --- Through sockets ------------------------------------------------------------------------------------------------


@pytest.mark.process
def test_a_small_models_cloud_says_what_the_uncut_model_says(tiny_split: Splits) -> None:
    """Every prompt length, greedy and top-p, over a socket to a real cloud, in fp32 and in bf16."""
    for k, dtype in ((2, torch.float32), (1, torch.bfloat16)):
        out = tiny_split(k, dtype=dtype)
        whole, edge = load_whole(out), load_edge(out)
        tokenizer = tokenizer_of(read_half(out / "edge", "edge"))
        with cloud(out / "cloud") as running, Link(running.address) as link:
            welcome = link.hello()
            for length in LENGTHS:
                prompt = random_ids(length, 516, seed=length)
                for sampling in (GREEDY, SEEDED):
                    reply = generate_reply(
                        prompt, edge=edge, link=link, welcome=welcome, tokenizer=tokenizer,
                        settings=GenerationSettings(sampling, stop_ids=(), max_gen_len=24, chunk=TINY_CHUNK),
                    )  # fmt: skip
                    assert reply.tokens == generate(whole, prompt, sampling, 24, chunk=TINY_CHUNK).tokens
                    assert (reply.stop_reason, reply.prompt_tokens) == ("max_gen_len", prompt)


def test_smollm2_in_two_processes_says_what_the_uncut_model_says(smollm2_split: Splits, tmp_path: Path) -> None:
    """edge_main.py and cloud_main.py: a short prompt greedy and top-p, and one of three chunks, stop token and all."""
    out = smollm2_split(1)
    whole, stop_ids = load_whole(out), (2,)
    half = read_half(out / "edge", "edge")
    tokenizer = tokenizer_of(half)
    chat = chat_format_of(half, tokenizer)
    long = " ".join(f"Sentence {i}: the device keeps layer {i % 7}." for i in range(60))
    cases: list[tuple[str, int, SamplingParams]] = [
        ("What is the capital of France?", 40, GREEDY),
        ("Name a colour.", 16, SEEDED),
        (long, 6, GREEDY),
    ]
    with cloud(out / "cloud") as running:
        for number, (text, max_gen_len, sampling) in enumerate(cases):
            file = tmp_path / f"{number}.txt"
            file.write_text(text)
            flags: list[Any] = ["--temperature", sampling.temperature, "--top_p", sampling.top_p]
            flags += ["--seed", sampling.seed, "--max_gen_len", max_gen_len]
            answer = ask(out / "edge", running.address, file, *flags)
            prompt = chat.encode_dialog_prompt([Message("user", text)])
            expected = generate(whole, prompt, sampling, max_gen_len, stop_ids=stop_ids, keep_logits=False).tokens
            assert (answer["prompt_tokens"], answer["tokens"]) == (prompt, expected)
            assert answer["text"] == tokenizer.decode(expected)
            assert answer["stop_reason"] == ("stop_token" if len(expected) < max_gen_len else "max_gen_len")
        assert len(prompt) > 2 * CHUNK


# --- By rounding only -----------------------------------------------------------------------------------------------


def logits_in_a_batch(model: Model, prompts: Sequence[Sequence[int]], following: torch.Tensor) -> torch.Tensor:
    """float32 ``(B, T, vocab)``: ids ``(B, T)`` fed one column at a time to slots that hold their prompts."""
    cache = model.new_cache(len(prompts), max(map(len, prompts)) + following.shape[1])
    for slot, prompt in enumerate(prompts):
        chunked_logits(model, prompt, cache=cache.slot(slot))
    columns = range(following.shape[1])
    return torch.cat(
        [model(following[:, i : i + 1], [len(p) + i for p in prompts], cache, 1) for i in columns], dim=1
    )  # fmt: skip


def largest_difference_by_chunks(model: Model, ids: Sequence[int], chunks: Sequence[int]) -> float:
    expected = chunked_logits(model, ids, len(ids))
    return max(difference(chunked_logits(model, ids, chunk), expected) for chunk in chunks)


def largest_difference_by_neighbours(model: Model, prompts: Sequence[Sequence[int]], steps: int) -> float:
    vocab_size = model.args.vocab_size
    following = torch.tensor([random_ids(steps, vocab_size, seed=row) for row in range(len(prompts))])
    together = logits_in_a_batch(model, prompts, following)
    alone = [
        logits_in_a_batch(model, [prompt], following[row : row + 1])[0] for row, prompt in enumerate(prompts)
    ]  # fmt: skip
    return max(difference(together[row], expected) for row, expected in enumerate(alone))


def test_the_size_of_chunks_moves_logits_by_rounding_only(
    tiny_split: Splits, smollm2_split: Splits, record_property: Callable[[str, object], None]
) -> None:
    """fp32: chunks of any size against the prompt in one piece, every position."""
    tiny = max(
        largest_difference_by_chunks(load_halves(tiny_split(2)), random_ids(150, 516, seed), [1, 7, 16, 64, 149])
        for seed in range(3)
    )
    real = largest_difference_by_chunks(load_halves(smollm2_split(1)), smollm2_prompt(smollm2_split(1), 9), [1, 32])
    record_property("largest difference", f"{tiny:.2g} (small model), {real:.2g} (SmolLM2)")
    assert tiny <= TINY_BOUND
    assert real <= SMOLLM2_BOUND


def test_neighbours_in_a_batch_move_logits_by_rounding_only(
    tiny_split: Splits, smollm2_split: Splits, record_property: Callable[[str, object], None]
) -> None:
    """fp32: rows of different ages in one forward against each row alone, several steps long."""
    tiny_model, ages = load_halves(tiny_split(2)), [1, 40, 7, 40, 129, 3]
    tiny = max(
        largest_difference_by_neighbours(tiny_model, [random_ids(age, 516, seed + age) for age in ages], 10)
        for seed in range(3)
    )
    out = smollm2_split(1)
    prompts = [smollm2_prompt(out, sentences) for sentences in (0, 6, 2)]
    real = largest_difference_by_neighbours(load_halves(out), prompts, 3)
    record_property("largest difference", f"{tiny:.2g} (small model), {real:.2g} (SmolLM2)")
    assert tiny <= TINY_BOUND
    assert real <= SMOLLM2_BOUND


@pytest.mark.long
def test_rows_of_one_age_share_a_forward_as_rows_of_different_ages_do(tiny_split: Splits) -> None:
    """fp32: the shorter way for rows that start together gives what the general one gives."""
    model = load_halves(tiny_split(2))
    prompts = [random_ids(20, 516, seed) for seed in range(4)]
    assert largest_difference_by_neighbours(model, prompts, 10) <= TINY_BOUND
