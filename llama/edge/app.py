"""Builds the device's program from its configuration: one prompt, the page, a list of sheets, or the history.

Knows: the parts and their order. Does not know: the work of each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from llama.checkpoint.halves import Half
from llama.edge import terminal, wording
from llama.edge.cloud_connector import CloudConnector
from llama.edge.config import EdgeConfig, Resources, check_together, check_values
from llama.edge.device import Device
from llama.edge.forgetting import forget
from llama.edge.generation import EdgeHalf
from llama.edge.history import beside, history_of
from llama.edge.pipeline import RunPipeline, RunSettings
from llama.edge.sheet_source import SheetSource
from llama.edge.terminal_run import TerminalOptions, TerminalRun
from llama.errors import UsageError
from llama.process_end import end_if_signalled
from llama.wire import Welcome

PAGE_SHEET_DEADLINE_S = 5.0  # a person waits less long for a sheet on a page than for a program that starts

LoadHalfOn = Callable[[Half, Welcome, torch.device], EdgeHalf]
"""Loads the edge half in the dtype that the cloud names, onto a device."""


class Program(Protocol):
    """A program that is built and not begun."""

    def run(self) -> None:
        """Run it to its end."""


@dataclass(frozen=True)
class HistoryApp:
    """The program that prints the history, or has the cloud forget a run; it needs no model."""

    config: EdgeConfig
    resources: Resources

    def run(self) -> None:
        """Print the history, or have the cloud forget a run and say what came of it.

        Raises:
            SplitLlamaError: any error that ends the program.
        """
        config = self.config
        history = history_of(config.history, config.profile_file)
        if config.forget is None:
            where = config.history or beside(config.profile_file or "")
            terminal.show_history(history.entries() if history is not None else [], str(where), as_json=config.json)
            return
        cloud = _cloud(config, self.resources, config.deadline)
        assert cloud is not None
        print(wording.forgotten(forget(cloud, config.forget, history, end_if_signalled)))


@dataclass(frozen=True)
class EdgeApp:
    """The program that uses the model, built and not begun."""

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


def build(config: EdgeConfig, load: LoadHalfOn) -> Program:
    """Check the configuration, open the files it names, and build the program; nothing large is loaded yet.

    Raises:
        UsageError, KeysError, DeviceError: a flag cannot be used.
        CheckpointError, TokenizerError: ``--ckpt_dir`` is not an edge half, or is damaged.
    """
    check_values(config)
    resources = check_together(config)
    if config.show_history or config.forget is not None:
        return HistoryApp(config, resources)
    assert config.ckpt_dir is not None
    source = _source(config, resources)
    device = Device(config.ckpt_dir, lambda half, welcome: load(half, welcome, resources.device))
    settings = RunSettings(config.sampling, config.mode, config.max_gen_len, config.strict)
    cloud = _cloud(config, resources, config.deadline, config.restart_deadline)
    history = history_of(config.history, config.profile_file)
    return EdgeApp(config, RunPipeline(device, source, cloud, config.profile_file, settings, history))


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
