"""Claims about one run of the device, step by step, without a socket: real halves, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from llama import wire
from llama.client.link import Stopped
from llama.edge.cloud_connector import CloudConnector
from llama.edge.consent import ConsentState
from llama.edge.device import Device
from llama.edge.pipeline import CloudMet, ReplyBegins, ReplyComplete, ReplyText, RunEvent, RunPipeline, RunSettings
from llama.edge.sheet_source import SheetSource
from llama.privacy.policy import DataKind
from llama.sampler import sample
from llama.wire import Close, Final, Finish, Hello, Open, Opened, Reply, Request, Step, Tokens, Usage, Welcome
from tests.pages import GREEDY, device_of
from tests.support import written
from tests.whole import load_halves

FILES = {
    "gifts.toml": 'asks_for = ["name"]\nquestions = ["For {name}"]\nmax_gen_len = 4',
    "profile.toml": 'name = "Sari"',
}


class CloudInProcess:
    """Stands where a connector and its link stand: answers each request at once, from the cloud's half."""

    bytes_sent = bytes_received = 0
    silent, while_waiting, address = False, None, "here"

    def __init__(self, device: Device, out: Path) -> None:
        self.device, self.cloud = device, load_halves(out).cloud
        self.cache, self.ids = self.cloud.new_cache(1, 512), list[int]()
        self.asked = list[type[Request]]()

    def link(self, *_: object) -> CloudInProcess:
        return self

    def __enter__(self) -> CloudInProcess:
        return self

    def __exit__(self, *_: object) -> None: ...

    def growing(self) -> Any:
        return nullcontext()

    def hello(self) -> Welcome:
        half = self.device.half
        return Welcome(wire.VERSION, half.fingerprint, "float32", half.args.dim, half.split_layer, 512, 64)

    def ask(self, request: Request) -> Reply:
        self.asked.append(type(request))
        if isinstance(request, Finish):
            return Final(self.device.tokenizer.decode(self.ids[: request.end]), Usage(1, request.end, 1))
        return Opened(bytes(16))

    def begin(self, step: Step, hidden: memoryview) -> None:
        self.asked.append(Step)
        states = torch.frombuffer(bytearray(hidden), dtype=torch.float32).view(1, step.rows, step.dim)
        logits = self.cloud(states, [step.position], self.cache, 1)
        self.ids += [sample(logits[0, 0], GREEDY, len(self.ids))] * step.want
        self.answer = Tokens(tuple(self.ids[-1:]) * step.want, 1, step.seq)

    def finish(self) -> Tokens:
        return self.answer

    def tell(self, request: Request, within_s: float) -> None:
        self.asked.append(type(request))


@pytest.fixture
def pipeline(tiny_split: Callable[..., Path], tmp_path: Path) -> RunPipeline:
    written(tmp_path, FILES)
    device = device_of(tiny_split() / "edge")
    cloud = cast(CloudConnector, CloudInProcess(device, tiny_split()))
    source = SheetSource(None, prompt_file=str(tmp_path / "gifts.toml"))
    return RunPipeline(device, source, cloud, str(tmp_path / "profile.toml"), RunSettings(GREEDY))


def test_a_run_is_its_steps_in_order_and_says_each_as_an_event(pipeline: RunPipeline) -> None:
    """Nothing is asked of the cloud before ``run``; the pieces of text are the reply; who saw what is a table."""
    cloud = cast(CloudInProcess, pipeline.cloud)
    preview = pipeline.prepare(pipeline.find(""), pipeline.read_profile())
    request = pipeline.consent(preview)
    assert (request.state(), request.levels) == (ConsentState.NEEDED, {"name": "secret"})
    request.remember()
    assert pipeline.consent(preview).state() is ConsentState.GIVEN and cloud.asked == []
    events = list[RunEvent]()
    result = pipeline.run(preview, events.append)
    assert [type(e) for e in events if not isinstance(e, ReplyText)] == [CloudMet, ReplyBegins, ReplyComplete]
    assert "".join(e.text for e in events if isinstance(e, ReplyText)) == result.text
    assert (cloud.asked[0], cloud.asked[-2:], len(result.reply.tokens)) == (Open, [Finish, Close], 4)
    holds = [cell.content for cell in result.views()[DataKind.PROFILE]]
    assert holds == ["name: Sari", None, None] and "Sari" not in preview.prepared.outgoing.text


def test_whoever_drives_a_run_ends_it_by_raising(pipeline: RunPipeline) -> None:
    """From the last event on, or from a check; it is closed, and never finished."""
    cloud = cast(CloudInProcess, pipeline.cloud)
    preview = pipeline.prepare(pipeline.find(""), pipeline.read_profile())

    def stop(event: RunEvent | None = None) -> None:
        if event is None or isinstance(event, ReplyComplete):
            raise Stopped

    for how in ((stop,), (lambda event: None, stop)):
        with pytest.raises(Stopped):
            pipeline.run(preview, *how)
    assert Finish not in cloud.asked and Hello not in cloud.asked and cloud.asked[-1] is Close
