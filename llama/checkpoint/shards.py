"""Read tensors that are divided among ``consolidated.NN.pth`` files as whole tensors.

Knows: the regions of ``layout``.
Knows nothing about: torch's file format (``pth_reading``), params.json, tokenizers, halves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from llama.checkpoint.layout import Region, region_shape
from llama.checkpoint.pth_reading import (
    ForeignContents,
    NotAStateDict,
    OldFormat,
    OtherByteOrder,
    OtherProtocol,
    read_state_dict,
)
from llama.checkpoint.signatures import misplaced, other_format
from llama.checkpoint.source import narrowed, unreadable
from llama.checkpoint.zip_records import Compressed
from llama.errors import CheckpointError
from llama.files import can_open

SLAB_BYTES = 32 << 20  # large enough for full disk speed, small enough to hold several copies
_AGAIN = "torch.save(torch.load(FILE, map_location='cpu', weights_only=True), NEW)"


def open_pth(path: Path) -> dict[str, torch.Tensor]:
    """Return the state dict in ``path``, memory-mapped and private: bytes are read only when accessed.

    Raises:
        CheckpointError: the file cannot be opened, is damaged, or does not hold tensors by name.
    """
    try:
        return read_state_dict(path)
    except ForeignContents:
        reason = "holds more than tensors and is not loaded; use the file as released"
    except OldFormat:
        reason = f"has the format of torch before 1.6, which is not supported; save it again: {_AGAIN}"
    except Compressed:
        reason = f"is a compressed or encrypted archive, which torch does not write; save it again: {_AGAIN}"
    except OtherProtocol:
        reason = "uses another pickle protocol than torch's (2), which is not supported; save it with the default"
    except OtherByteOrder:
        reason = f"was written on a big-endian machine, which is not supported; save it again on another: {_AGAIN}"
    except NotAStateDict:
        reason = "does not hold a state dict (tensors by name); use the file as released"
    except OSError as err:
        raise unreadable(path, err) from None
    except Exception:  # damage can raise anything: KeyError, struct.error, BadZipFile, …
        if not can_open():
            raise CheckpointError(
                f"{path} cannot be opened: too many open files; raise the limit (ulimit -n)"
            ) from None
        known = misplaced(path, binary=True) or other_format(path, "torch")
        reason = known or "is damaged or incomplete; download or create it again"
    raise CheckpointError(f"{path} {reason}")


def slabs(start: int, stop: int, row_bytes: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of runs of rows ``start … stop-1``: about ``SLAB_BYTES``, a multiple of ``multiple`` rows."""
    step = max(1, SLAB_BYTES // (row_bytes * multiple)) * multiple
    for first in range(start, stop, step):
        yield first, min(first + step, stop)


class ShardedTensors:
    """Whole tensors, read slab by slab from files that each hold a region.

    Args:
        files: the files of ranks 0, 1, … in order.
        shards: their state dicts, in the same order.
        regions: for each tensor, the region that each rank holds; ranks may hold the same region.

    Raises:
        CheckpointError: a file lacks a tensor, or its shape differs from the region's.
    """

    def __init__(
        self,
        files: Sequence[Path],
        shards: Sequence[Mapping[str, torch.Tensor]],
        regions: Mapping[str, Sequence[Region]],
    ) -> None:
        self._files, self._shards, self._regions = files, shards, regions
        for name, held in regions.items():
            for file, shard, region in zip(files, shards, held, strict=True):
                if name not in shard:
                    raise CheckpointError(
                        f"{file} lacks the tensor {name}; use the files of one release, with its params.json"
                    )
                if tuple(shard[name].shape) != region_shape(region):
                    raise CheckpointError(
                        f"{file}: {name} has shape {tuple(shard[name].shape)}, but the hyperparameters and "
                        f"{len(files)} file(s) require {region_shape(region)}; the files do not belong together, use "
                        "those of one release"
                    )

    def rows(self, name: str) -> Iterator[torch.Tensor]:
        """Yield the tensor ``name`` in slabs along its first dimension, in the files' dtype (float64 as float32).

        Raises:
            CheckpointError: ranks that should hold the same values differ.
        """
        regions = self._regions[name]
        for start, stop in sorted({(region[0].start, region[0].stop) for region in regions}):
            holders = [rank for rank, region in enumerate(regions) if region[0].start == start]
            row = self._shards[holders[0]][name][0]
            row_bytes = row.numel() * row.element_size() * len(holders)
            for first, last in slabs(start, stop, row_bytes):
                yield self._slab(name, holders, first - start, last - start)

    def _slab(self, name: str, holders: Sequence[int], first: int, last: int) -> torch.Tensor:
        """Return rows ``first … last-1`` of the ``holders``' parts side by side; equal columns once."""
        pieces: dict[int, torch.Tensor] = {}
        for rank in holders:
            column = self._regions[name][rank][-1].start if len(self._regions[name][rank]) > 1 else 0
            piece = self._shards[rank][name][first:last]
            if column not in pieces:
                pieces[column] = piece
            elif not torch.equal(pieces[column], piece):
                raise CheckpointError(
                    f"{self._files[rank]}: {name} should equal the one in {self._files[holders[0]].name} but does not; "
                    "the files do not belong together; use those of one release"
                )
        slab = torch.cat([pieces[column] for column in sorted(pieces)], dim=-1) if len(pieces) > 1 else pieces[0]
        return narrowed(slab, name, str(self._files[holders[0]]))
