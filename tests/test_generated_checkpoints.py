"""Generated checkpoints say, cut in two, what transformers makes of the same directory.

SOAK=1 compares forty-eight, which have every choice of every aspect; without it six.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from llama.chat import Message
from llama.checkpoint.halves import chat_format_of, read_half, tokenizer_of
from llama.checkpoint.opening import open_source
from llama.checkpoint.splitting import split
from llama.sampling_params import SamplingParams
from tests.generated_checkpoints import ASPECTS, Recipe, recipes
from tests.volumes import SOAK
from tests.whole import generate, load_halves

pytestmark = pytest.mark.process

COUNT, TOKENS = 48, 16
GREEDY = SamplingParams(temperature=0)
RELATIVE_BOUND = 1e-4


def theirs(directory: Path) -> LlamaForCausalLM:
    """The model that transformers reads from a directory, in float32; none of its weights made up."""
    loader: Any = LlamaForCausalLM
    model, info = loader.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    model.train(False)
    assert isinstance(model, LlamaForCausalLM)
    return model


def greedy(model: LlamaForCausalLM, prompt: list[int], count: int) -> tuple[list[int], torch.Tensor]:
    """Tokens and the logits ``(count, vocab)`` that each was the largest of."""
    ids, seen = list(prompt), list[torch.Tensor]()
    for _ in range(count):
        with torch.no_grad():
            seen.append(model(torch.tensor([ids])).logits[0, -1])
        ids.append(int(seen[-1].argmax()))
    return ids[len(prompt) :], torch.stack(seen)


QUESTION = "hello world <think> kado Nusantara untuk ibu ab "
MADE = pytest.mark.parametrize("recipe", recipes(COUNT if SOAK else COUNT // 8), ids=str)


@MADE
def test_a_generated_checkpoint_answers_a_question_as_transformers_does(recipe: Recipe, tmp_path: Path) -> None:
    """Ids of the dialogue, and 16 greedy tokens or as many as there are before an end that the files name."""
    directory = recipe.write(tmp_path / "hf")
    split(open_source(directory), tmp_path / "out", dtype=torch.float32)
    half = read_half(tmp_path / "out" / "edge", "edge")
    chat, library = chat_format_of(half, tokenizer_of(half)), PreTrainedTokenizerFast.from_pretrained(directory)
    turns = [{"role": "user", "content": QUESTION}]
    expected = library.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    ids = chat.encode_dialog_prompt([Message("user", QUESTION)])
    assert ids == expected
    ours = generate(load_halves(tmp_path / "out"), ids, GREEDY, TOKENS, stop_ids=chat.stop_ids).tokens
    model: Any = theirs(directory)
    said = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=TOKENS, pad_token_id=0)[0].tolist()
    stops = model.generation_config.eos_token_id
    stops = [] if stops is None else stops if isinstance(stops, list) else [stops]
    assert ours == [id for id in said[len(ids) :] if id not in stops]


@MADE
def test_a_generated_checkpoint_says_what_transformers_says(
    recipe: Recipe, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """16 greedy tokens equal, and fp32 logits within 1e-4 of the largest one; margins are recorded."""
    directory = recipe.write(tmp_path / "hf")
    split(open_source(directory), tmp_path / "out", dtype=torch.float32)
    prompt = torch.randint(0, 260, (40,), generator=torch.Generator().manual_seed(recipe.number)).tolist()
    ours = generate(load_halves(tmp_path / "out"), prompt, GREEDY, TOKENS)
    tokens, logits = greedy(theirs(directory), prompt, TOKENS)
    difference = float((ours.logits - logits).abs().max() / logits.abs().max())
    best = logits.topk(2).values
    record_property("largest difference", f"{difference:.2g}")
    record_property("closest decision", f"{float((best[:, 0] - best[:, 1]).min()):.2g}")
    assert ours.tokens == tokens, (difference, best[:, 0] - best[:, 1])
    assert difference <= RELATIVE_BOUND


def test_the_generated_checkpoints_have_every_choice_of_every_aspect() -> None:
    """And no two are alike."""
    made = recipes(COUNT)
    for aspect, choices in ASPECTS.items():
        assert {recipe.choices[aspect] for recipe in made} == set(choices)
    assert len({tuple(recipe.choices.values()) for recipe in made}) == COUNT
