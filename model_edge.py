"""The device's half of the model: token embeddings and layers ``0 … k-1``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llama import parallel
from llama.checkpoint.halves import Half, load_weights
from llama.kv_cache import KVCache
from llama.model import TransformerLayers
from llama.model_args import ModelArgs
from llama.parallel import VocabParallelEmbedding
from llama.stages import StageClock


class EdgeTransformer(TransformerLayers):
    """Model part from token ids to the hidden states after layer k-1. Only that tensor leaves the device.

    Args:
        args: Meta's hyperparameters of the whole model.
        split_layer: k, the number of layers on the device, ``1 … n_layers-1``.
    """

    def __init__(self, args: ModelArgs, split_layer: int) -> None:
        super().__init__(args, range(split_layer))
        self.tok_embeddings = VocabParallelEmbedding(args.vocab_size, args.dim)

    @torch.inference_mode()
    def forward(
        self, tokens: torch.Tensor, start_pos: Sequence[int], cache: KVCache, clock: StageClock | None = None
    ) -> torch.Tensor:
        """Turn int64 ids ``(B, T)`` at positions ``start_pos[b] …`` into the hidden states to send, ``(B, T, dim)``.

        The embedding table is memory-mapped from the checkpoint. It (and ``tokens``) may be on another device than the
        layers, and it may have another dtype: only the rows that are looked up are moved and cast. ``clock`` is stopped
        after the embeddings and after each layer.
        """
        h = self.tok_embeddings(tokens).to(self.first_weight)  # to the device and dtype of the layers
        if clock is not None:
            clock.stop()
        return self.run_layers(h, start_pos, cache, clock)


def load_edge(half: Half, dtype: torch.dtype, device: torch.device) -> EdgeTransformer:
    """Return the half in ``dtype``, loaded and prepared. Embeddings stay in the file and are looked up there.

    Raises:
        CheckpointError: the files are damaged.
    """
    with parallel.unfilled_weights(dtype):
        model = EdgeTransformer(half.args, half.split_layer)
    load_weights(model, half, rank=0, world_size=1, dtype=dtype, device=device, keep_mapped=True)
    model.prepare(for_good=True)
    return model
