"""Small checkpoints of the kinds that people elsewhere reported as going wrong, with the right ids and tokens.

The values are those of transformers 5.24: ``apply_chat_template``, then greedy ``generate`` with the directory's own
generation_config.json, in float32.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from llama.chat import Message
from llama.checkpoint.halves import chat_format_of, read_half, tokenizer_of
from llama.checkpoint.opening import open_source
from llama.checkpoint.splitting import split
from llama.errors import CheckpointError
from llama.sampling_params import SamplingParams
from tests.chat_templates import CHATML, GENERATION
from tests.support import ROOT
from tests.whole import generate, load_halves

DATA = ROOT / "tests" / "data" / "reports"
QUESTION = "hello world <think> kado Nusantara untuk ibu "
BEGIN, END_OF_TEXT, EOM, EOT, IM_START, IM_END = 276, 277, 280, 281, 282, 283
HEADERS = (
    "{% for m in messages %}{% set c = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
    " + m['content'] | trim + '<|eot_id|>' %}{% if loop.first %}{% set c = bos_token + c %}{% endif %}{{ c }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
OWN_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ bos_token + '<|start_header_id|>system<|end_header_id|>\n\n"
    "Jawab singkat.<|eot_id|>' }}{% endif %}"
) + HEADERS.replace("{% if loop.first %}", "{% if loop.first and m['role'] == 'system' %}")
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2,
    "num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 8, "hidden_act": "silu", "model_type": "llama",
    "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "vocab_size": 284,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "dtype": "float32",
}  # fmt: skip


def checkpoint(
    directory: Path, template: str = HEADERS, end: str = "<|eot_id|>", weights: str = "model.safetensors",
    ends: int | list[int] | None = None, **config: Any,
) -> Path:  # fmt: skip
    directory.mkdir()
    id = EOT if end == "<|eot_id|>" else IM_END
    named = {"bos_token": "<|begin_of_text|>", "eos_token": end, "tokenizer_class": "TokenizersBackend"}
    files: dict[str, dict[str, Any]] = {
        "config.json": CONFIG | {"bos_token_id": BEGIN, "eos_token_id": id} | config,
        "generation_config.json": {"bos_token_id": BEGIN, "eos_token_id": id if ends is None else ends},
        "tokenizer_config.json": named,
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
    (directory / "chat_template.jinja").write_text(template)
    shutil.copy(DATA / "tokenizer.json", directory)
    shutil.copy(DATA / weights, directory / "model.safetensors")
    return directory


def old_shards_beside_a_new_file(directory: Path) -> Path:
    made = checkpoint(directory, weights="another.safetensors")
    for path in DATA.glob("model*-*"):
        shutil.copy(path, made)
    shutil.copy(DATA / "model.safetensors.index.json", made)
    return made


def index_left_behind(directory: Path) -> Path:
    made = checkpoint(directory, weights="another.safetensors")
    shutil.copy(DATA / "model.safetensors.index.json", made)
    return made


def changed_tensors(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    made = checkpoint(directory)
    tensors = safetensors.torch.load_file(made / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, made / "model.safetensors", {"format": "pt"})
    return made


def cached_cosines(directory: Path) -> Path:
    names = [f"model.layers.{n}.self_attn.rotary_emb.{kind}_cached" for n in range(2) for kind in ("cos", "sin")]
    return changed_tensors(directory, lambda tensors: tensors.update({name: torch.ones(4, 8) for name in names}))


def one_in_float64(directory: Path) -> Path:
    return changed_tensors(
        directory, lambda tensors: tensors.update({"model.norm.weight": tensors["model.norm.weight"].double()})
    )


def stray_params_json(directory: Path) -> Path:
    made = checkpoint(directory)
    params = {"dim": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "vocab_size": 284, "multiple_of": 32}
    (made / "params.json").write_text(json.dumps(params | {"norm_eps": 1e-5, "rope_theta": 10000.0}))
    return made


def config_defaults(directory: Path) -> Path:
    return checkpoint(directory, rms_norm_eps=..., max_position_embeddings=...)


def of_chatml(template: str) -> Callable[[Path], Path]:
    return lambda directory: checkpoint(directory, template, end="<|im_end|>")


PLAIN, OTHER, IN_CHATML = [16, 66, 259, 232, 66, 259], [28, 15, 280, 97, 93, 274], [203, 211, 14, 66, 58, 49]


@pytest.mark.process
@pytest.mark.parametrize(
    ("make", "count", "first", "tokens"),
    [
        (old_shards_beside_a_new_file, 56, BEGIN, OTHER),
        (index_left_behind, 56, BEGIN, OTHER),
        (of_chatml("{{ bos_token }}" + CHATML), 54, BEGIN, [74, 259, 210, 232, 66, 58]),
        (lambda directory: checkpoint(directory, OWN_SYSTEM), 79, BEGIN, [95, 238, 205, 96, 54, 203]),
        (of_chatml(GENERATION), 53, IM_START, IN_CHATML),
        (of_chatml(CHATML.replace("'<|im_end|>'", "eos_token")), 53, IM_START, IN_CHATML),
        (cached_cosines, 56, BEGIN, PLAIN),
        (stray_params_json, 56, BEGIN, PLAIN),
        (one_in_float64, 56, BEGIN, PLAIN),
        (config_defaults, 56, BEGIN, PLAIN),
        (
            lambda directory: checkpoint(
                directory, weights="ends-with-eom.safetensors", ends=[END_OF_TEXT, EOM, EOT]
            ), 56, BEGIN, [],
        ),
        (lambda directory: DATA / "llama3.gguf", 56, BEGIN, PLAIN),
    ],
    ids=[
        "old shards beside a new file", "an index left behind", "ChatML with a BOS", "a system message of its own",
        "training spans", "the end by name", "cached cosines", "a stray params.json", "float64", "fields left out",
        "an answer that <|eom_id|> ends", "an older name of the pre-tokeniser",
    ],
)  # fmt: skip
def test_a_checkpoint_answers_as_its_own_model(
    make: Callable[[Path], Path], count: int, first: int, tokens: list[int], tmp_path: Path
) -> None:
    split(open_source(make(tmp_path / "given")), tmp_path / "out")
    half = read_half(tmp_path / "out" / "edge", "edge")
    chat = chat_format_of(half, tokenizer_of(half))
    ids = chat.encode_dialog_prompt([Message("user", QUESTION)])
    assert (len(ids), ids[0]) == (count, first)
    sampling = SamplingParams(temperature=0)
    assert generate(load_halves(tmp_path / "out"), ids, sampling, 6, stop_ids=chat.stop_ids).tokens == tokens


def test_a_tensor_of_an_unknown_type_is_called_by_its_name_and_number() -> None:
    with pytest.raises(CheckpointError, match=r"type-41\.gguf has the tensor blk\.0\.ffn_up\.weight in type 41 "):
        open_source(DATA / "type-41.gguf")
