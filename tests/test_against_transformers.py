"""Through the split, what Hugging Face transformers computes: logits of every family, greedy replies of SmolLM2.

transformers gets the weights from its own files, or from the GGUF by the gguf library; never from the halves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import LlamaForCausalLM

from llama.chat import Message
from llama.checkpoint.halves import chat_format_of, read_half, tokenizer_of
from llama.checkpoint.opening import open_source
from llama.checkpoint.splitting import split
from llama.edge.generation import CHUNK
from llama.sampling_params import SamplingParams
from tests.small_checkpoints import LLAMA_3_1_ROPE, gguf_name, random_llama, write_hugging_face
from tests.volumes import SOAK
from tests.whole import chunked_logits, generate, load_halves

GREEDY = SamplingParams(temperature=0)
RELATIVE_BOUND = 1e-4
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 500000.0}


def random_ids(length: int) -> list[int]:
    ids: list[int] = torch.randint(0, 264, (length,), generator=torch.Generator().manual_seed(1)).tolist()
    return ids


def theirs(model: LlamaForCausalLM, ids: list[int]) -> torch.Tensor:
    """float32 logits ``(len(ids), vocab)``."""
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([ids])).logits[0]
    return logits


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference as a share of the largest logit."""
    return float((found - expected).abs().max() / expected.abs().max())


# --- Families -------------------------------------------------------------------------------------------------------

# Small models in each family's proportions. Their feed-forward widths follow Meta's rule: 2/3 of 4 · 128 is 341, times
# the family's multiplier, rounded up to the family's multiple.
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama 2": {  # every head has its own keys and values; multiple of 256
        "num_key_value_heads": 4,
        "intermediate_size": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "Llama 3": {"intermediate_size": 1024, "rope_parameters": PLAIN_ROPE},  # 1.3, multiple of 1024
    "Llama 3.1": {"intermediate_size": 1024, "rope_parameters": LLAMA_3_1_ROPE},
    "Llama 3.2": {  # 1.5, multiple of 256
        "intermediate_size": 512,
        "rope_parameters": LLAMA_3_1_ROPE | {"factor": 32.0},
        "tie_word_embeddings": True,
    },
}
ORIGINAL_CONTEXT = 8192  # of Llama 3, which the scaling stretches


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_the_halves_of_a_hugging_face_directory_give_transformers_logits(
    family: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """fp32 within 1e-4 of the largest logit at every position, with scaled rotary embeddings past the original context.

    Without its scaling, the same transformers model gives other logits by far: had we dropped it, this would fail.
    """
    shape = FAMILIES[family] | {"hidden_size": 128, "max_position_embeddings": 131072}
    scaled, tied = "factor" in shape["rope_parameters"], shape.get("tie_word_embeddings", False)
    model = random_llama(**shape)
    source = open_source(write_hugging_face(tmp_path / "hf", model))
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 1
    assert (source.tied, source.args.use_scaled_rope) == (tied, scaled)
    split(source, tmp_path / "out", split_layer=2)
    ids = random_ids(ORIGINAL_CONTEXT + 300 if scaled else 600)
    expected, found = theirs(model, ids), chunked_logits(load_halves(tmp_path / "out"), ids)
    record_property("largest difference", f"{difference(found, expected):.2g}")
    assert difference(found, expected) <= RELATIVE_BOUND
    if scaled:
        unscaled = LlamaForCausalLM(type(model.config)(**(model.config.to_dict() | {"rope_parameters": PLAIN_ROPE})))
        unscaled.load_state_dict(model.state_dict())
        unscaled.train(False)
        assert difference(theirs(unscaled, ids)[ORIGINAL_CONTEXT:], expected[ORIGINAL_CONTEXT:]) > 0.1


# --- SmolLM2 --------------------------------------------------------------------------------------------------------

REPLY = 128

PROMPTS: dict[str, str] = {
    "one word": "Hello",
    "question": "What is the capital of France?",
    "Indonesian": "Sebutkan tiga hadiah untuk tukang kebun yang suka jazz, anggaran Rp 300.000.",
    "Indonesian story": "Ceritakan dongeng pendek tentang Si Kancil dan buaya di sungai.",
    "French": "Explique en deux phrases pourquoi le ciel est bleu.",
    "Spanish": "¿Cuáles son los ingredientes de una tortilla española?",
    "German": "Nenne drei Gründe, früh aufzustehen.",
    "Russian": "Напиши короткое стихотворение о зиме.",
    "Chinese": "请用一句话介绍长城。",
    "Japanese": "日本の四季について教えてください。",
    "Arabic": "ما هي عاصمة مصر؟",
    "Hindi": "भारत की राजधानी क्या है?",
    "Python": "Write a Python function that returns the n-th Fibonacci number.",
    "code to explain": "What does this do?\n\n```c\nfor (int i = 0; i < n; ++i)\n\tsum += a[i] * b[i];\n```",
    "numbers": "Continue: 1, 1, 2, 3, 5, 8, 13, 21,",
    "arithmetic": "What is 1234 + 5678, and what is 17.5% of 2,400?",
    "JSON": '{"name": "Budi", "age": 31, "likes": ["kopi", "jazz"]} Turn this into a sentence.',
    "emoji": "🎁🌱🎷 What do these three have in common? 🤔",
    "whitespace": "a\n\n\n    b\t\tc   \n\nWhat are the letters above?",
    "list": "Interests: gardening, cooking, jazz. Budget: Rp 300.000. Give three short numbered gifts.",
    "long": "Summarise.\n" + " ".join(f"On day {day} it rained {day * 7 % 11} mm in Bogor." for day in range(1, 41)),
}


def transformers_names(layer: int) -> dict[str, str]:
    """transformers' name of each of a layer's tensors, by Meta's."""
    names = {
        "attention.wq": "self_attn.q_proj",
        "attention.wk": "self_attn.k_proj",
        "attention.wv": "self_attn.v_proj",
        "attention.wo": "self_attn.o_proj",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    return {f"layers.{layer}.{ours}.weight": f"model.layers.{layer}.{name}.weight" for ours, name in names.items()}


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> LlamaForCausalLM:
    """transformers' SmolLM2: the GGUF's values as the gguf library reads them."""
    stored = {
        t.name: torch.tensor(gguf.dequantize(t.data, t.tensor_type)) for t in gguf.GGUFReader(smollm2_gguf).tensors
    }
    state = {
        "model.embed_tokens.weight": stored["token_embd.weight"],
        "lm_head.weight": stored["token_embd.weight"],
        "model.norm.weight": stored["output_norm.weight"],
    }
    for layer in range(30):
        for ours, name in transformers_names(layer).items():
            tensor = stored[gguf_name(ours)]
            if name.endswith(("q_proj.weight", "k_proj.weight")):  # as its converter of Meta's weights permutes them
                tensor = tensor.view(-1, 32, 2, 576).transpose(1, 2).reshape(tensor.shape)
            state[name] = tensor
    model = random_llama(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
    )
    model.load_state_dict(state)
    return model


@dataclass(frozen=True)
class Replied:
    """Ids of a prompt, and what the halves replied: 128 ids and the logits ``(128, vocab)`` of each."""

    prompt: list[int]
    tokens: list[int]
    logits: torch.Tensor


@pytest.fixture(scope="module")
def reply(smollm2_split: Callable[..., Path]) -> Callable[[str], Replied]:
    """``reply(text)``: 128 greedy tokens of the halves; stop tokens are followed by more, as by any other token."""
    out = smollm2_split(1)
    model, half = load_halves(out), read_half(out / "edge", "edge")
    chat = chat_format_of(half, tokenizer_of(half))

    def replied(text: str) -> Replied:
        prompt = chat.encode_dialog_prompt([Message("user", text)])
        generated = generate(model, prompt, GREEDY, REPLY)
        return Replied(prompt, generated.tokens, generated.logits)

    return replied


@pytest.mark.parametrize("name", PROMPTS if SOAK else [*PROMPTS][::11])
def test_smollm2_says_what_transformers_says(
    name: str,
    smollm2: LlamaForCausalLM,
    reply: Callable[[str], Replied],
    record_property: Callable[[str, object], None],
) -> None:
    """128 greedy tokens, and fp32 logits within 1e-4 of the largest one at each of them.

    transformers is asked once, for what follows every prefix of our reply: where that is always our next token, its own
    greedy decoding says the same, token after token by induction. (The test below lets it decode.)
    """
    ours = reply(PROMPTS[name])
    expected = theirs(smollm2, [*ours.prompt, *ours.tokens[:-1]])[-REPLY:]
    best_two = expected.topk(2).values
    record_property("largest difference", f"{difference(ours.logits, expected):.2g}")
    record_property("closest decision", f"{float((best_two[:, 0] - best_two[:, 1]).min()):.2g}")
    assert len(ours.tokens) == REPLY
    assert ours.tokens == expected.argmax(-1).tolist()
    assert difference(ours.logits, expected) <= RELATIVE_BOUND


def test_smollm2_says_what_transformers_own_generate_says(
    smollm2: LlamaForCausalLM, reply: Callable[[str], Replied]
) -> None:
    """Decoded by transformers one greedy token at a time, after a prompt of several of our chunks; at length, 128."""
    count = REPLY if SOAK else 32
    ours = reply(PROMPTS["long"])
    model: Any = smollm2  # its own annotation of generate does not type-check
    model.generation_config.eos_token_id = None  # it goes on after a stop token, as ours does here
    prompt = torch.tensor([ours.prompt])
    decoded = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=count, pad_token_id=0
    )
    assert len(ours.prompt) > 2 * CHUNK
    assert decoded[0, len(ours.prompt) :].tolist() == ours.tokens[:count]
