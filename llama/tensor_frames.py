"""Conversion of hidden states to and from the second frame of a Step: the part of the contract that needs torch.

The format is defined in ``llama.wire``: ``rows × dim`` numbers of Welcome's dtype, little-endian, row by row. Programs
that send no hidden states (a vendor's, an operator's) import ``llama.wire`` only.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from llama.dtypes import DTYPE_NAMES
from llama.wire import ErrorCode, Refused, Step

_CURE = "send rows as Welcome describes them"


def hidden_to_frame(hidden: torch.Tensor) -> memoryview:
    """Return the bytes of hidden states ``(T, dim)``. On the CPU they are the tensor's memory, not a copy."""
    if sys.byteorder != "little":
        raise NotImplementedError("hidden states are sent little-endian; this machine is big-endian")
    buffer: Any = hidden.cpu().contiguous().view(torch.uint8).numpy()
    return memoryview(buffer).cast("B")


def hidden_from_frame(step: Step, frame: Any, *, dtype: torch.dtype, dim: int) -> torch.Tensor:
    """Read a Step's hidden states ``(T, dim)``. Dtype, width and length are checked before any allocation.

    Raises:
        Refused: ``wrong_tensor`` if dtype, width or length differ from the header or the model.
    """
    if step.dtype != DTYPE_NAMES[dtype] or step.dim != dim:
        expected = f"rows of {DTYPE_NAMES[dtype]} × {dim} expected, but the header has another dtype or width"
        raise Refused(ErrorCode.WRONG_TENSOR, expected, _CURE)
    wanted = step.rows * dim * dtype.itemsize
    if len(frame) != wanted:
        raise Refused(ErrorCode.WRONG_TENSOR, f"{wanted} bytes of rows expected, but {len(frame)} received", _CURE)
    return torch.frombuffer(bytearray(frame), dtype=dtype).view(step.rows, dim)
