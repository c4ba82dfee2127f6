"""Cuts a Llama checkpoint in two: the device's half and the cloud's.

The command line and its progress bar; the work itself is in ``llama.checkpoint``.
"""

from __future__ import annotations

from llama import starting

if __name__ == "__main__":
    starting.begin()

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from llama import screen
from llama.checkpoint import splitting
from llama.checkpoint.opening import open_source
from llama.command import end_if_signalled, run
from llama.errors import UsageError
from llama.wire import DTYPES


def main(
    ckpt_dir: str,
    output_dir: str,
    split_layer: int = 1,
    cloud_model_parallel_size: int = 1,
    dtype: str | None = None,
    rope_scaling_factor: float | None = None,
    chat_format: str | None = None,
) -> None:
    """Cut a Llama checkpoint into OUTPUT_DIR/edge and OUTPUT_DIR/cloud.

    Args:
        ckpt_dir: a Meta directory, a Hugging Face directory or a .gguf file.
        output_dir: where the halves go; must not exist yet, or be empty; a link is followed.
        split_layer: number of layers that the device computes.
        cloud_model_parallel_size: number of ranks (GPUs) that the cloud's half is cut for.
        dtype: float32, bfloat16 or float16; without it the source's own, float32 for GGUF.
        rope_scaling_factor: overrules the factor of Llama 3.1's scaled rotary embedding.
        chat_format: template, llama3 or chatml; without it the checkpoint's own chat template, if it has one. llama3
            is what Meta's code writes: no dates and no system message of its own.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"--dtype must be one of {', '.join(DTYPES)}, not '{dtype}'")
    started = time.monotonic()
    splitting.check_output(Path(output_dir), Path(ckpt_dir))
    source = open_source(Path(ckpt_dir), rope_scaling_factor, chat_format)
    _say(f"{ckpt_dir}: {source.description}, {source.args.n_layers} layers")
    with _progress_bar() as progress:
        fingerprint = splitting.split(
            source,
            Path(output_dir),
            split_layer=split_layer,
            cloud_model_parallel_size=cloud_model_parallel_size,
            dtype=None if dtype is None else DTYPES[dtype],
            progress=progress,
        )
    _say(
        f"{output_dir}: edge has layers 0-{split_layer - 1}, cloud {split_layer}-{source.args.n_layers - 1}; verified; "
        f"fingerprint {fingerprint.hex()[:16]}; {time.monotonic() - started:.1f} s"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _progress_bar() -> Iterator[splitting.Progress]:
    """A bar per stage on a terminal; elsewhere a line when a stage begins."""
    console = screen.console(sys.stderr)
    bars = screen.has_bars(console)
    stages: dict[str, TaskID] = {}
    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not bars) as bar:

        def show(stage: str, done: int, total: int) -> None:
            end_if_signalled()
            if stage not in stages:
                stages[stage] = bar.add_task(stage, total=total)
                if not bars:
                    _say(f"{stage} ({total / 1e6:.0f} MB)")
            bar.update(stages[stage], completed=done)

        yield show


if __name__ == "__main__":
    run(main)
