"""The device's parts, as edge_main.py builds them: a half, where its sheets come from, the page's controller.

Knows nothing about: what is asked of them.
"""

from __future__ import annotations

from pathlib import Path

import torch

import edge_main
from llama.edge.cloud_connector import CloudConnector
from llama.edge.device import Device
from llama.edge.pipeline import RunPipeline, RunSettings
from llama.edge.sheet_source import SheetSource
from llama.edge.web.controller import WebController
from llama.keys import LinkKeys
from llama.memory_ceiling import MemoryCeiling
from llama.sampling_params import SamplingParams

GREEDY = SamplingParams(temperature=0.0)


def device_of(ckpt_dir: Path | str) -> Device:
    """An edge half, on the CPU."""
    return Device(str(ckpt_dir), lambda half, welcome: edge_main.load(half, welcome, torch.device("cpu")))


def controller_of(
    device: Device,
    address: str,
    *,
    profile: Path | None = None,
    sheet_dir: Path | None = None,
    tokens: int | None = 8,
    deadline_s: float = 5.0,
    sheet_deadline_s: float = 5.0,
    keys: LinkKeys | None = None,
    ceiling: MemoryCeiling | None = None,
) -> WebController:
    """A page's controller; without ``sheet_dir``, the sheets are the cloud's. Close it."""
    source = SheetSource(
        CloudConnector(address, sheet_deadline_s, keys=keys, ceiling=ceiling),
        sheet_dir=None if sheet_dir is None else str(sheet_dir),
    )
    cloud = CloudConnector(address, deadline_s, keys=keys, ceiling=ceiling)
    settings = RunSettings(GREEDY, max_gen_len=tokens)
    return WebController(RunPipeline(device, source, cloud, None if profile is None else str(profile), settings))
