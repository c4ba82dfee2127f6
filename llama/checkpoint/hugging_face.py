"""Hugging Face directories: config.json, model.safetensors (or an index and its parts), tokenizer.json.

Knows: the tensor names that transformers' ``LlamaForCausalLM`` and ``LlamaModel`` save, which of them belong to the
model, tied embeddings, and the order of query and key rows. Their rotary pairs are half a head apart; Meta's are
adjacent.
Knows nothing about: config.json's fields (``llama_config``), the choice of files (``safetensors_files``), other
architectures, vocabularies (``vocabulary``), halves.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from llama.checkpoint import layout, shards, vocabulary
from llama.checkpoint.llama_config import model_args, read_config
from llama.checkpoint.safetensors_files import WeightFiles
from llama.checkpoint.signatures import refuse_misplaced
from llama.checkpoint.source import check_vocabulary, narrowed, prevailing_dtype
from llama.errors import CheckpointError
from llama.files import lies_there, shown

_PREFIX = "model."
_TOP = {
    layout.EMBEDDINGS: "model.embed_tokens.weight",
    layout.NORM: "model.norm.weight",
    layout.OUTPUT: "lm_head.weight",
}
_LAYER = {
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
_SIZES_SHOWN = 8
# Last parts of tensor names in quantised models, which store these beside, or instead of, weights.
_QUANTISED = {"qweight", "qzeros", "scales", "biases", "g_idx", "weight_scale", "weight_scale_inv", "input_scale"}
_QUANTISED |= {"weight_packed", "weight_shape", "absmax", "quant_map", "SCB", "weight_format"}
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}


def hugging_face_name(name: str) -> str:
    """Return the Hugging Face name of the tensor that Meta calls ``name``."""
    if name in _TOP:
        return _TOP[name]
    _, number, rest = name.split(".", 2)
    return f"model.layers.{number}.{_LAYER[rest.removesuffix('.weight')]}.weight"


def adjacent_pairs(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Reorder query or key rows ``(heads · head_dim, dim)`` from rotary pairs half a head apart to adjacent pairs."""
    return rows.view(-1, 2, head_dim // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


class HuggingFaceSource:
    """A directory as transformers saves it. See ``source.Source`` for the attributes.

    Args:
        directory: holds config.json, tokenizer.json and the safetensors files.
        rope_scaling_factor: overrides the factor of the scaled rotary embedding.
        chat_format: overrides the chat template; see ``templates``.

    Raises:
        CheckpointError: a part is missing, damaged, contradictory or not supported.
        TokenizerError: its tokenizer is not supported.
    """

    def __init__(
        self, directory: Path, rope_scaling_factor: float | None = None, chat_format: str | None = None
    ) -> None:
        self._directory, config_file = directory, directory / "config.json"
        config = read_config(config_file)
        self.args = model_args(config, config_file, rope_scaling_factor)
        self.context_length = config.max_position_embeddings
        layout.check_context_length(self.context_length, str(config_file))
        self._files = WeightFiles(directory, config.transformers_weights)
        layout.check_layers(self.args.n_layers, len(self._files.holder), str(config_file))
        self._stored = self._stored_names()
        self.tied = self._settle_tying(bool(config.tie_word_embeddings))
        self._check_tensors()
        self.dtype = self._prevailing_dtype()
        self.vocabulary = self._read_vocabulary(chat_format)
        check_vocabulary(self.vocabulary, self.args.vocab_size, str(directory))
        self.description = f"Hugging Face directory, {len(self._files.files)} file(s)"

    def rows(self, name: str) -> Iterator[torch.Tensor]:
        """Yield slabs of the tensor ``name`` in the files' dtype (float64 as float32); see ``source.Source``."""
        turned = name.endswith(("attention.wq.weight", "attention.wk.weight"))
        multiple = self.args.head_dim if turned else 1
        part = self._slice(hugging_face_name(name))
        shape = part.get_shape()
        row_bytes = (8 if part.get_dtype() == "F64" else 4) * (shape[1] if len(shape) > 1 else 1)
        for first, last in shards.slabs(0, shape[0], row_bytes, multiple):
            slab = narrowed(part[first:last], hugging_face_name(name), str(self._directory))
            yield adjacent_pairs(slab, self.args.head_dim) if turned else slab

    def _slice(self, name: str) -> Any:
        return self._files.slice(self._stored[name])

    def _stored_names(self) -> dict[str, str]:
        """Map transformers' tensor names to the names in the files.

        The two are equal, or the file's name lacks the prefix ``model.`` or has one too many. ``LlamaModel`` saves
        names without it; transformers accepts both (``core_model_loading.py``, ``rename_source_key``). Rotary tables
        follow from the configuration and are skipped.
        """
        known, stored = {hugging_face_name(name) for name in layout.tensor_shapes(self.args)}, dict[str, str]()
        unknown = list[str]()
        for found in sorted(self._files.holder):
            if found.removeprefix(_PREFIX) in known:
                name = found.removeprefix(_PREFIX)
            else:
                name = _PREFIX + found if _PREFIX + found in known else found
            if name in known:
                if name in stored:
                    raise CheckpointError(
                        f"{self._directory} holds one tensor under two names, "
                        f"{shown(stored[name])} and {shown(found)}; remove one"
                    )
                stored[name] = found
            elif not layout.is_rotary_table(found):
                unknown.append(found)
        if unknown:
            raise self._unknown(unknown)
        return stored

    def _unknown(self, names: list[str]) -> CheckpointError:
        """Return the error for tensors that the model does not have, by the kind of model they suggest."""
        file, name = self._files.holder[names[0]], shown(names[0])
        if any(found.rpartition(".")[2] in _QUANTISED for found in names):
            return CheckpointError(
                f"{file} holds {name}, so it is a quantised model, which is not supported; use the "
                f"release in bfloat16 or float16"
            )
        if any("lora_" in found for found in names):
            return CheckpointError(
                f"{file} holds {name}, part of an adapter; merge it into its model (merge_and_unload) and save that"
            )
        return CheckpointError(
            f"{file} holds a tensor that a Llama model of this config.json does not have: {name} "
            f"({len(names)} in all); use files and config.json of one Llama text model"
        )

    def _settle_tying(self, tied: bool) -> bool:
        """Return whether the embeddings serve as the output head, by transformers' rule.

        A separate head in the files counts even if config.json says tied. If tied files hold only the head, it serves
        as the embeddings, too.
        """
        head, embeddings = hugging_face_name(layout.OUTPUT), hugging_face_name(layout.EMBEDDINGS)
        if tied and head in self._stored and embeddings not in self._stored:
            self._stored[embeddings] = self._stored[head]
        if not tied and head not in self._stored and embeddings in self._stored:
            raise CheckpointError(
                f"{self._directory} lacks the tensor {head}, and its config.json does not say that the embeddings "
                f"serve as the head; get the file that holds it, or set tie_word_embeddings to true if they do"
            )
        return head not in self._stored

    def _check_tensors(self) -> None:
        """Check that the files have the model's tensors with the right shapes."""
        for name, shape in layout.tensor_shapes(self.args).items():
            name = hugging_face_name(name)
            if name not in self._stored:
                if self.tied and name == hugging_face_name(layout.OUTPUT):
                    continue
                raise CheckpointError(
                    f"{self._directory} lacks the tensor {name}; finish the download, or use files "
                    f"and config.json of one model{self._aside()}"
                )
            found = tuple(self._slice(name).get_shape())
            if found != shape:
                where = self._files.holder[self._stored[name]]
                raise CheckpointError(
                    f"{where}: {name} has shape {shown(str(found[:_SIZES_SHOWN]))}, config.json requires {shape}; use "
                    f"files and config.json of one model{self._aside()}"
                )

    def _aside(self) -> str:
        """Return a hint about the ignored index beside model.safetensors, for errors about tensors that do not fit."""
        index = self._files.passed_over
        return f" (model.safetensors is used, {index} beside it is ignored; move one of them away)" if index else ""

    def _prevailing_dtype(self) -> torch.dtype:
        def described(name: str) -> tuple[str, int, torch.dtype | str]:
            part = self._slice(name)
            dtype = part.get_dtype()
            return name, torch.Size(part.get_shape()).numel(), _DTYPES.get(dtype, dtype)

        names = layout.tensor_shapes(self.args).keys() - ({layout.OUTPUT} if self.tied else set())
        return prevailing_dtype((described(hugging_face_name(name)) for name in sorted(names)), str(self._directory))

    def _read_vocabulary(self, chat_format: str | None) -> vocabulary.Vocabulary:
        path = self._directory / "tokenizer.json"
        for name in (path.name, "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
            refuse_misplaced(self._directory / name)
        if not lies_there(path):
            other = "tokenizer.model" if lies_there(self._directory / "tokenizer.model") else "vocab.json"
            there = f" (its {other} is not read)" if lies_there(self._directory / other) else ""
            raise CheckpointError(
                f"{self._directory} lacks tokenizer.json{there}; get that file from the model's "
                f"page, or create it with transformers' save_pretrained"
            )
        return vocabulary.from_hugging_face(self._directory, chat_format, self.args.vocab_size)
