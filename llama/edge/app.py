"""Builds the device's program from its configuration, and runs it: a list of sheets, the page, or one prompt.

Knows: the parts and their order. Does not know: the work of each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from llama.checkpoint.halves import Half
from llama.edge import terminal
from llama.edge.cloud_connector import CloudConnector
from llama.edge.config import EdgeConfig, Resources, check_together, check_values
from llama.edge.device import Device
from llama.edge.generation import EdgeHalf
from llama.edge.pipeline import RunPipeline, RunSettings
from llama.edge.sheet_source import SheetSource
from llama.edge.terminal_run import TerminalOptions, TerminalRun
from llama.errors import UsageError
from llama.process_end import end_if_signalled
from llama.wire import Welcome

PAGE_SHEET_DEADLINE_S = 5.0  # a person waits less long for a sheet on a page than for a program that starts

LoadHalfOn = Callable[[Half, Welcome, torch.device], EdgeHalf]
"""Loads the edge half in the dtype that the cloud names, onto a device."""


@dataclass(frozen=True)
class EdgeApp:
    """The device's program, built and not begun."""

    config: EdgeConfig
    pipeline: RunPipeline

    def run(self) -> None:
        """List the sheets, serve the page, or run one prompt, as the configuration says.

        Raises:
            SplitLlamaError: any error that ends the program.
        """
        if self.config.list_sheets:
            terminal.show_sheets(self.pipeline.source.entries(end_if_signalled))
        elif self.config.web:
            self._serve_page()
        else:
            self._run_in_terminal()

    def _serve_page(self) -> None:
        from llama.edge.web.app import serve  # imports a web server, which only --web needs
        from llama.edge.web.controller import WebController

        serve(WebController(self.pipeline, self.config.prompt_id or ""), self.config.port or 0)

    def _run_in_terminal(self) -> None:
        config = self.config
        if config.prompt_id is None and config.prompt_file is None:
            raise UsageError("--prompt_id or --prompt_file is required; --list_sheets lists the sheets")
        options = TerminalOptions(config.dry_run, config.yes, config.plain, config.json)
        TerminalRun(self.pipeline, options).run(config.prompt_id or "")


def build(config: EdgeConfig, load: LoadHalfOn) -> EdgeApp:
    """Check the configuration, open the files it names, and build the program; nothing large is loaded yet.

    Raises:
        UsageError, KeysError, DeviceError: a flag cannot be used.
        CheckpointError, TokenizerError: ``--ckpt_dir`` is not an edge half, or is damaged.
    """
    check_values(config)
    resources = check_together(config)
    source = _source(config, resources)
    device = Device(config.ckpt_dir, lambda half, welcome: load(half, welcome, resources.device))
    settings = RunSettings(config.sampling, config.mode, config.max_gen_len)
    cloud = _cloud(config, resources, config.deadline, config.restart_deadline)
    return EdgeApp(config, RunPipeline(device, source, cloud, config.profile_file, settings))


def _source(config: EdgeConfig, resources: Resources) -> SheetSource:
    deadline_s = min(config.deadline, PAGE_SHEET_DEADLINE_S) if config.web else config.deadline
    return SheetSource(
        _cloud(config, resources, deadline_s),
        prompt_file=config.prompt_file,
        sheet_dir=config.sheet_dir,
        on_notice=lambda text: print(text, file=sys.stderr),
    )


def _cloud(
    config: EdgeConfig, resources: Resources, deadline_s: float, restart_deadline_s: float | None = None
) -> CloudConnector | None:
    if config.cloud is None:
        return None
    return CloudConnector(config.cloud, deadline_s, restart_deadline_s, resources.keys, resources.ceiling)
