"""Small Hugging Face checkpoints that differ in many ways at once, for comparisons with transformers.

Each is a choice in every aspect of ``ASPECTS``: sizes, rotary settings, tying, names, dtypes, leftovers among tensors
and files, fields left out. An aspect is a table of functions that change a :class:`Draft`; they are called in the
table's order, and to add an aspect (or a choice) is to add an entry. What a choice means is transformers' to say, never
this file's.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from tests import chat_templates
from tests.chat_templates import CHATML
from tests.small_checkpoints import LLAMA_3_1_ROPE, Tensors, write_tokenizer_json

LLAMA_3_1_SCALING = {key: value for key, value in LLAMA_3_1_ROPE.items() if key != "rope_theta"}
INDEX = "model.safetensors.index.json"
BOS, IM_START, IM_END, FREE = 257, 258, 259, 260  # ids of the small tokenizer; four are free
NAMES = {BOS: "<|endoftext|>", IM_START: "<|im_start|>", IM_END: "<|im_end|>"}


@dataclass
class Draft:
    """A checkpoint before it is written.

    Attributes:
        directory: where it is to lie; a layout may change it.
        config: what config.json will hold.
        seed: of the random weights.
        tensors: by the names in the files.
        after: what else is to be done once the tokenizer has been written, in this order.
    """

    directory: Path
    config: dict[str, Any]
    seed: int
    tensors: Tensors = field(default_factory=dict)
    after: list[Callable[[Draft], None]] = field(default_factory=list)


Choice = Callable[[Draft], None]


@dataclass(frozen=True)
class Recipe:
    """What one generated checkpoint is: the name of a choice in each aspect."""

    number: int
    choices: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.number}: " + "; ".join(self.choices.values())

    def write(self, directory: Path) -> Path:
        """Write it; returns where it lies."""
        directory.mkdir(parents=True)
        draft = Draft(directory, {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, self.number)
        for aspect, chosen in self.choices.items():
            ASPECTS[aspect][chosen](draft)
        write_tokenizer_json(draft.directory)
        for finish in draft.after:
            finish(draft)
        return draft.directory


def recipes(count: int) -> list[Recipe]:
    """The first ``count``, always the same; each choice of an aspect comes once before any of it comes again."""
    orders = dict[str, list[str]]()
    for aspect, choices in ASPECTS.items():
        chance, order = random.Random(aspect), list[str]()
        while len(order) < count:
            order += chance.sample(list(choices), len(choices))
        orders[aspect] = order
    return [Recipe(n, {aspect: order[n] for aspect, order in orders.items()}) for n in range(count)]


# ---- Sizes, and the weights that follow from them


def sizes(dim: int, hidden: int, layers: int, heads: int, kv_heads: int | None, **more: Any) -> Choice:
    def choose(draft: Draft) -> None:
        draft.config |= {
            "hidden_size": dim, "intermediate_size": hidden, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": 264,
            "rms_norm_eps": 1e-5, "max_position_embeddings": 512, "hidden_act": "silu", "attention_bias": False,
            "mlp_bias": False, "head_dim": dim // heads,
        } | more  # fmt: skip
        draft.tensors = random_weights(draft.config, draft.seed)

    return choose


def random_weights(config: Mapping[str, Any], seed: int) -> Tensors:
    """float32 tensors under the names that ``LlamaForCausalLM`` has, large enough that each of them counts."""
    dim, hidden, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads = config["num_attention_heads"]
    kv_dim = dim // heads * (config["num_key_value_heads"] or heads)
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * 0.2

    def norm() -> torch.Tensor:
        return 1 + torch.randn(dim, generator=generator) * 0.1

    tensors = {"model.embed_tokens.weight": matrix(vocab, dim)}
    for layer in range(config["num_hidden_layers"]):
        tensors |= {
            f"model.layers.{layer}.{name}": tensor
            for name, tensor in {
                "self_attn.q_proj.weight": matrix(dim, dim),
                "self_attn.k_proj.weight": matrix(kv_dim, dim),
                "self_attn.v_proj.weight": matrix(kv_dim, dim),
                "self_attn.o_proj.weight": matrix(dim, dim),
                "mlp.gate_proj.weight": matrix(hidden, dim),
                "mlp.up_proj.weight": matrix(hidden, dim),
                "mlp.down_proj.weight": matrix(dim, hidden),
                "input_layernorm.weight": norm(),
                "post_attention_layernorm.weight": norm(),
            }.items()
        }
    return tensors | {"model.norm.weight": norm(), "lm_head.weight": matrix(vocab, dim)}


# ---- config.json


def fields(**changes: Any) -> Choice:
    """These fields of config.json have these values."""
    return lambda draft: draft.config.update(changes)


def without(*names: str, **changes: Any) -> Choice:
    """config.json lacks these fields."""

    def choose(draft: Draft) -> None:
        for name in names:
            draft.config.pop(name, None)
        draft.config |= changes

    return choose


# ---- Tensors


def tied(*, head: str) -> Choice:
    """The configuration says that the embeddings serve as the head; ``head`` says what the files hold."""

    def choose(draft: Draft) -> None:
        draft.config["tie_word_embeddings"] = True
        embeddings = "model.embed_tokens.weight"
        if head == "none":
            del draft.tensors["lm_head.weight"]
        elif head == "equal":
            draft.tensors["lm_head.weight"] = draft.tensors[embeddings].clone()
        elif head == "alone":
            del draft.tensors[embeddings]

    return choose


def renamed(rename: Callable[[str], str]) -> Choice:
    def choose(draft: Draft) -> None:
        draft.tensors = {rename(name): tensor for name, tensor in draft.tensors.items()}

    return choose


def every_other_bare(name: str) -> str:
    return name.removeprefix("model.") if len(name) % 2 else name


def cast(dtype: torch.dtype, norms: torch.dtype | None = None) -> Choice:
    def choose(draft: Draft) -> None:
        draft.tensors = {
            name: tensor.to(norms if norms is not None and "norm" in name else dtype)
            for name, tensor in draft.tensors.items()
        }

    return choose


def tables(*names: str) -> Choice:
    """Rotary tables among the tensors, of other settings than the model's: nobody may use them."""

    def choose(draft: Draft) -> None:
        for name in names:
            for layer in range(draft.config["num_hidden_layers"] if "{}" in name else 1):
                draft.tensors[name.format(layer)] = torch.full((7, 2), 3.0)

    return choose


# ---- The tokenizer, and what files say of dialogues


def edited(name: str, change: Callable[[dict[str, Any]], object]) -> Choice:
    """A JSON file of the directory, in the end; empty before, if there is none."""

    def finish(draft: Draft) -> None:
        path = draft.directory / name
        found = json.loads(path.read_text()) if path.exists() else {}
        change(found)
        path.write_text(json.dumps(found))

    return lambda draft: draft.after.append(finish)


def template(source: str, *, inside: bool = False) -> Choice:
    """The chat template, in a file of its own or inside ``tokenizer_config.json``; and the tokens that it names."""
    named = {"bos_token": NAMES[BOS], "eos_token": NAMES[IM_END], "tokenizer_class": "PreTrainedTokenizerFast"}
    if inside:
        return edited("tokenizer_config.json", lambda config: config.update(named, chat_template=source))

    def finish(draft: Draft) -> None:
        (draft.directory / "chat_template.jinja").write_text(source)

    def choose(draft: Draft) -> None:
        edited("tokenizer_config.json", lambda config: config.update(named))(draft)
        draft.after.append(finish)

    return choose


def added(*tokens: tuple[str, str]) -> Choice:
    """More added tokens, each with the flags that are set, as one text."""

    def change(tokenizer: dict[str, Any]) -> None:
        names = ("special", "lstrip", "rstrip", "single_word", "normalized")
        known = {token["content"]: token for token in tokenizer["added_tokens"]}
        for number, (text, flags) in enumerate(tokens, start=FREE):
            id = tokenizer["model"]["vocab"].get(text, number)
            known[text] = {"id": id, "content": text} | {name: name in flags.split() for name in names}
        tokenizer["added_tokens"] = sorted(known.values(), key=lambda token: token["id"])

    return edited("tokenizer.json", change)


def ends(generation: object = None, config: object = None) -> Choice:
    """What generation_config.json and config.json say of the ends of a reply; None is no such file, or no word."""

    def choose(draft: Draft) -> None:
        if config is not None:
            draft.config["eos_token_id"] = config
        if generation is not None:
            edited("generation_config.json", lambda found: found.update(eos_token_id=generation))(draft)

    return choose


# ---- Files


def save(tensors: Tensors, path: Path) -> None:
    safetensors.torch.save_file({k: t.contiguous() for k, t in tensors.items()}, path, {"format": "pt"})


def parts_of(tensors: Tensors, count: int) -> dict[str, Tensors]:
    """The tensors in ``count`` files, by the files' names."""
    names = [f"model-{n + 1:05}-of-{count:05}.safetensors" for n in range(count)]
    return {name: dict(list(tensors.items())[n::count]) for n, name in enumerate(names)}


def save_parts(tensors: Tensors, directory: Path, count: int, *, index: bool = True, files: bool = True) -> None:
    """As ``save_pretrained`` writes a large model: the files, and the index that says what is in which."""
    parts = parts_of(tensors, count)
    for name, part in parts.items():
        if files:
            save(part, directory / name)
    weight_map = {tensor: name for name, part in parts.items() for tensor in part}
    if index:
        (directory / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def another(draft: Draft) -> Tensors:
    """Another model of the same shapes, whose words would be others."""
    return {name: tensor.flip(0) * 1.5 for name, tensor in draft.tensors.items()}


def one_file(draft: Draft) -> None:
    (draft.directory / "config.json").write_text(json.dumps(draft.config))
    save(draft.tensors, draft.directory / "model.safetensors")


def several_files(draft: Draft) -> None:
    (draft.directory / "config.json").write_text(json.dumps(draft.config))
    save_parts(draft.tensors, draft.directory, 3)


def one_file_and_an_old_index(draft: Draft) -> None:
    one_file(draft)
    save_parts(another(draft), draft.directory, 2, files=False)


def one_file_and_an_old_model(draft: Draft) -> None:
    one_file(draft)
    save_parts(another(draft), draft.directory, 2)


def several_files_and_old_ones(draft: Draft) -> None:
    save_parts(another(draft), draft.directory, 5)
    several_files(draft)


def beside_pickles(draft: Draft) -> None:
    one_file(draft)
    torch.save(another(draft), draft.directory / "pytorch_model.bin")


def several_beside_pickles(draft: Draft) -> None:
    several_files(draft)
    torch.save(another(draft), draft.directory / "pytorch_model.bin")


def named_in_the_config(draft: Draft) -> None:
    draft.config["transformers_weights"] = "weights.safetensors"
    one_file(draft)
    (draft.directory / "model.safetensors").rename(draft.directory / "weights.safetensors")
    save(another(draft), draft.directory / "model.safetensors")


def beside_other_layouts(draft: Draft) -> None:
    """What some repositories also hold: the weights in their maker's own layout, a variant, a stray params.json."""
    one_file(draft)
    for name in ("consolidated.safetensors", "model.fp16.safetensors", "adapter_model.safetensors"):
        save(another(draft), draft.directory / name)
    (draft.directory / "params.json").write_text('{"dim": 8, "n_layers": 1}')


def hub_cache(draft: Draft) -> None:
    """A snapshot of links to blobs, as the hub's cache has it."""
    several_files(draft)
    blobs, snapshot = draft.directory / "blobs", draft.directory / "snapshots" / ("0" * 40)
    blobs.mkdir()
    snapshot.mkdir(parents=True)

    def link_all(draft: Draft) -> None:
        for path in [path for path in snapshot.iterdir() if not path.is_symlink()]:
            shutil.move(path, blobs / f"{hash(path.name):x}")
            path.symlink_to(Path("../../blobs") / f"{hash(path.name):x}")

    for path in [path for path in draft.directory.iterdir() if path.is_file()]:
        shutil.move(path, snapshot / path.name)
    draft.directory = snapshot
    draft.after.append(link_all)


ASPECTS: dict[str, dict[str, Choice]] = {
    "sizes": {
        "two heads": sizes(16, 32, 2, 2, 1),
        "a head each": sizes(64, 176, 3, 4, 4),
        "heads in fours": sizes(64, 96, 2, 8, 2),
        "one key head": sizes(32, 72, 4, 4, 1),
        "padded vocabulary": sizes(48, 128, 2, 6, 3, vocab_size=320),
        "narrow feed-forward": sizes(96, 64, 2, 6, 2),
        "heads unsaid": sizes(32, 88, 2, 2, None, head_dim=None),
    },
    "rotary": {
        "unsaid": fields(),
        "new": fields(rope_parameters={"rope_type": "default", "rope_theta": 500000.0}),
        "new, a whole number": fields(rope_parameters={"rope_type": "default", "rope_theta": 300}),
        "new, scaled": fields(rope_parameters=LLAMA_3_1_ROPE),
        "new, scaled by 32": fields(rope_parameters=LLAMA_3_1_ROPE | {"factor": 32}),
        "old": fields(rope_theta=300.0, rope_scaling=None),
        "old, scaled": fields(rope_theta=500000.0, rope_scaling=LLAMA_3_1_SCALING),
        "old, scaled, as type": fields(
            rope_theta=500000.0, rope_scaling={**LLAMA_3_1_SCALING, "type": "llama3", "rope_type": "llama3"}
        ),
        "oldest, scaled": fields(
            rope_theta=500000.0,
            rope_scaling={"type": "llama3", **{k: v for k, v in LLAMA_3_1_SCALING.items() if k != "rope_type"}},
        ),
        "old, default": fields(rope_theta=300.0, rope_scaling={"type": "default"}),
        "old theta beside new": fields(rope_theta=300.0, rope_parameters={"rope_type": "default", "rope_theta": 9e4}),
        "old theta for new": fields(rope_theta=300.0, rope_parameters={"rope_type": "default"}),
        "old scaling beside new": fields(
            rope_theta=300.0, rope_scaling=LLAMA_3_1_SCALING, rope_parameters={"rope_theta": 9e4}
        ),
        "old default beside new scaling": fields(rope_scaling={"rope_type": "default"}, rope_parameters=LLAMA_3_1_ROPE),
        "old and empty beside new": fields(rope_scaling={}, rope_theta=9e4, rope_parameters={"rope_theta": 300.0}),
        "scaled by nothing": fields(rope_theta=300.0, rope_scaling={"type": "linear", "factor": 1.0}),
        "theta in the old scaling": fields(rope_theta=9e4, rope_scaling=LLAMA_3_1_SCALING | {"rope_theta": 300.0}),
        "original context outside": fields(
            rope_theta=300.0, original_max_position_embeddings=8192, max_position_embeddings=131072,
            rope_scaling=LLAMA_3_1_SCALING | {"original_max_position_embeddings": 4096},
        ),
        "original context unsaid": fields(
            rope_theta=300.0, max_position_embeddings=8192,
            rope_scaling={k: v for k, v in LLAMA_3_1_SCALING.items() if k != "original_max_position_embeddings"},
        ),
    },
    "tying": {
        "untied": fields(tie_word_embeddings=False),
        "untied, unsaid": fields(),
        "tied": tied(head="none"),
        "tied, stored twice": tied(head="equal"),
        "tied, but another head": tied(head="another"),
        "tied, head stored": tied(head="alone"),
    },
    "dtype": {
        "float32": cast(torch.float32),
        "bfloat16": cast(torch.bfloat16),
        "float16": cast(torch.float16),
        "float64": cast(torch.float64),
        "float32 norms": cast(torch.bfloat16, norms=torch.float32),
    },
    "names": {
        "LlamaForCausalLM's names": fields(),
        "LlamaModel's names": renamed(lambda name: name.removeprefix("model.")),
        "some of each": renamed(every_other_bare),
        "one model. too many": renamed("model.{}".format),
    },
    "leftovers": {
        "no leftovers": fields(),
        "inv_freq": tables("model.layers.{}.self_attn.rotary_emb.inv_freq"),
        "cosines": tables(
            "model.layers.{}.self_attn.rotary_emb.cos_cached", "model.layers.{}.self_attn.rotary_emb.sin_cached"
        ),
        "the model's inv_freq": tables("model.rotary_emb.inv_freq", "rotary_emb.original_inv_freq"),
    },
    "fields": {
        "all fields": fields(),
        "default epsilon and context": without("rms_norm_eps"),
        "no booleans": without("attention_bias", "mlp_bias", "hidden_act"),
        "no model_type": without("model_type", "head_dim"),
        "no architectures": without("architectures"),
        "swish": fields(hidden_act="swish", head_dim=None, partial_rotary_factor=None),
        "other fields": fields(
            pretraining_tp=4, use_cache=False, sliding_window=1 << 20, layer_types=None, auto_map={}
        ),
    },
    "template": {
        "ChatML": template(CHATML),
        "a BOS": template("{{ bos_token }}" + CHATML),
        "trimmed": template(CHATML.replace("m['content']", "m['content'] | trim"), inside=True),
        "its own system message": template(chat_templates.OWN_SYSTEM + CHATML, inside=True),
        "training spans": template(chat_templates.GENERATION),
        "its end by name": template(CHATML.replace("'<|im_end|>'", "eos_token")),
        "a reply that is begun": template(CHATML.replace("assistant\n", "assistant\n<think>\n")),
        "roles in words": template(chat_templates.VICUNA, inside=True),
        "no newline": template(CHATML.replace("+ '\n' }}{% endfor", "}}{% endfor")),
        "what it looks for": template("{% if 'kado' in messages[-1].content %}{{ 'gift' }}{% endif %}" + CHATML),
    },
    "added tokens": {
        "special tokens": fields(),
        "a word": added(("<think>", "normalized")),
        "a word of its own": added(("<think>", ""), ("world", "single_word"), ("Nusantara", "normalized")),
        "words that take in spaces": added(("kado", "lstrip"), ("ibu", "rstrip lstrip"), ("<pad>", "special rstrip")),
        "a word of the vocabulary": added(("ab", ""), ("o", "single_word")),
    },
    "ends": {
        "one": ends(generation=IM_END, config=IM_END),
        "several": ends(generation=[BOS, IM_END, 65, 120], config=IM_END),
        "one more in config.json": ends(generation=[IM_END, BOS], config=[IM_END, BOS, 97]),
        "config.json's": ends(config=[IM_END, 97, 98, 99]),
        "nobody's": ends(),
    },
    "files": {
        "one file": one_file,
        "several files": several_files,
        "one file, an old index": one_file_and_an_old_index,
        "one file, an old model": one_file_and_an_old_model,
        "several files, old ones": several_files_and_old_ones,
        "beside pickles": beside_pickles,
        "several beside pickles": several_beside_pickles,
        "named in the config": named_in_the_config,
        "beside other layouts": beside_other_layouts,
        "hub cache": hub_cache,
    },
}  # fmt: skip
