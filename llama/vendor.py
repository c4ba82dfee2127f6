"""The third party's program: publishes its sheets, and collects their deliveries.

Used as::

    python -m llama.vendor --cloud tcp://127.0.0.1:5555 --vendor NAME                    (what there is)
    python -m llama.vendor --cloud tcp://127.0.0.1:5555 --vendor NAME --follow >> FILE   (and what comes)
    python -m llama.vendor --cloud … --vendor NAME --key_file NAME.key --cloud_key cloud.pub --publish cover.toml
    python -m llama.vendor --cloud … --vendor NAME --key_file NAME.key --cloud_key cloud.pub --withdraw cover

Deliveries are printed, and only then acknowledged: on stdout one JSON object a line, ASCII only, so that nothing in it
can steer a terminal. Each is printed at least once: whatever ends this program before the cloud has the
acknowledgement, the next start prints the same line again, with the same ``run_id``. What a pipe has taken counts as
printed, what goes into a file as soon as the disk has it.

Knows: ``llama.wire``, the link, what a sheet is. Does not know: the model, the person, what tags stand for, other third
parties. Nothing of a delivery goes to stderr.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":  # until run() takes over: Ctrl-C while torch is imported ends quietly
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import errno
import json
import math
import os
import re
import select
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import PurePath

import msgspec

from llama.command import run
from llama.edge.link import Link
from llama.edge.notices import Notices
from llama.errors import CloudRefused, CloudUnreachable, ProtocolMismatch, UsageError
from llama.keys import link_keys
from llama.sheets import is_prompt_id, parse_published, read_text
from llama.wire import (
    Acknowledge,
    Acknowledged,
    Collect,
    Deliveries,
    Delivery,
    Publish,
    Published,
    Reply,
    Withdraw,
    Withdrawn,
)

_NAME = re.compile(r"[a-z0-9-]{1,40}")
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EROFS}  # said by file systems that have nothing to sync


def main(
    cloud: str,
    vendor: str,
    follow: bool = False,
    publish: str | None = None,
    withdraw: str | None = None,
    deadline: float = 30.0,
    interval: float = 2.0,
    key_file: str | None = None,
    cloud_key: str | None = None,
) -> None:
    """Print a third party's deliveries, one JSON object a line, and acknowledge them; or publish or withdraw a sheet.

    Args:
        cloud: address of cloud_main.py, tcp://HOST:PORT.
        vendor: whose deliveries and sheets: the name of its directory of sheets in the cloud.
        follow: go on when nothing is left, and while the cloud is away, until Ctrl-C.
        publish: a sheet, NAME.toml, that devices find from now on, new or in place of an earlier one.
        withdraw: NAME of a sheet that devices are to find no more.
        deadline: seconds of silence after which the cloud is given up.
        interval: seconds between one question for more and the next.
        key_file: the vendor's private key, NAME.key of llama.keys; the cloud must list it.
        cloud_key: the cloud's public key; no other cloud is spoken to, and nobody can listen.
    """
    if not _NAME.fullmatch(vendor):
        raise UsageError("--vendor is the name of a directory of sheets: 1 to 40 of a-z, 0-9 and -")
    if not deadline > 0:  # nor NaN
        raise UsageError(f"--deadline {deadline} is no time to wait; give seconds above 0")
    if not 0 < interval < math.inf:
        raise UsageError(f"--interval {interval}: give seconds above 0")
    request = _request(vendor, publish, withdraw)
    if request is not None and follow:
        raise UsageError("--follow collects; leave it away to publish or withdraw a sheet")
    keys = link_keys(key_file, cloud_key, "vendor")
    notices = Notices("vendor", cloud, follow=follow, keys=keys)
    if request is not None:
        if keys is None:
            raise UsageError("a cloud knows by its key whose a sheet is; give --key_file and --cloud_key")
        with Link(cloud, deadline_s=deadline, on_notice=notices.silence, keys=keys) as link:
            print(put(link, request), flush=True)
        return
    output = Output()
    with Link(cloud, deadline_s=deadline, on_notice=notices.silence, keys=keys) as link:
        collecting = Collecting(link, vendor, output, notices, patience_s=math.inf if follow else deadline)
        while True:
            try:
                came = collecting.some()
            except CloudUnreachable:
                if not follow:
                    raise
                came = False
            if not (came or follow):
                return
            if not came:
                link.pause(interval)


def _request(vendor: str, publish: str | None, withdraw: str | None) -> Publish | Withdraw | None:
    """What the flags ask for, looked through before anybody is asked; None is to collect.

    Raises:
        UsageError: both, or not a name.
        PromptError: not a sheet.
    """
    if publish is not None and withdraw is not None:
        raise UsageError("--publish and --withdraw exclude each other; one after the other")
    if withdraw is not None:
        if not is_prompt_id(f"{vendor}/{withdraw}"):
            raise UsageError("--withdraw is the name of a sheet, without .toml: 1 to 80 of a-z, 0-9 and -")
        return Withdraw(vendor, withdraw)
    if publish is None:
        return None
    file = PurePath(publish)
    if file.suffix != ".toml" or not is_prompt_id(f"{vendor}/{file.stem}"):
        raise UsageError("--publish is a file NAME.toml, whose name becomes the sheet's: 1 to 80 of a-z, 0-9 and -")
    text = read_text(publish, "sheet")
    parse_published(text, f"sheet {publish}")
    return Publish(vendor, file.stem, text)


def put(link: Link, request: Publish | Withdraw) -> str:
    """Publish a sheet, or withdraw it; what has become of it, in words.

    Raises:
        CloudUnreachable, CloudRefused, ProtocolMismatch: see ``Link.ask``.
    """
    link.hello()
    reply, prompt_id = link.ask(request), f"{request.vendor}/{request.name}"
    if isinstance(request, Publish) and reply == Published(prompt_id):
        says = parse_published(request.text, "sheet").id
        other = says not in ("", request.name, prompt_id)
        return f"published {prompt_id}" + (" (the file's name is its id; the one in it is not used)" if other else "")
    if isinstance(request, Withdraw) and isinstance(reply, Withdrawn):
        return f"withdrawn {prompt_id}"
    raise ProtocolMismatch(f"{link.address} answered {type(request).__name__} with another kind of reply")


class Collecting:
    """Deliveries on their way from the cloud to ``output``.

    Args:
        link: the connection.
        vendor: whose deliveries.
        output: where they go.
        notices: told when the cloud answers, and when it asks to be asked later.
        patience_s: how long a cloud may say that it is busy.
    """

    def __init__(self, link: Link, vendor: str, output: Output, notices: Notices, *, patience_s: float) -> None:
        self.link, self.vendor, self.output, self.notices, self.patience_s = link, vendor, output, notices, patience_s
        link.waits_when_busy = False  # done here, for as long as it takes and in this program's words
        self._printed = tuple[bytes, ...]()  # and not yet acknowledged
        self._arrived = tuple[bytes, ...]()  # what was acknowledged last
        self._greeted = False  # this cloud speaks our protocol; the one that comes after it need not

    def some(self) -> bool:
        """Print the deliveries of one answer, then acknowledge them. True if there were any.

        Raises:
            CloudUnreachable: no sign of life; the next call goes on where this one stopped, and repeats no line.
            CloudRefused, ProtocolMismatch: see ``Link.ask``.
        """
        if not self._greeted:
            self.link.hello()
            self._greeted = True
        try:
            self._acknowledge()
            reply = self._ask(Collect(self.vendor))
            if not isinstance(reply, Deliveries):
                raise ProtocolMismatch(f"{self.link.address} answered Collect with another kind of reply")
            run_ids = tuple(delivery.run_id for delivery in reply.deliveries)
            if set(run_ids) & set(self._arrived):  # or this would go on for ever
                raise ProtocolMismatch(f"{self.link.address} hands out again what was acknowledged; tell the provider")
            self.output.write(reply.deliveries)
            self._printed = run_ids
            self._acknowledge()
        except CloudUnreachable:
            self._greeted = False
            raise
        return bool(reply.deliveries)

    def _acknowledge(self) -> None:
        if self._printed and not isinstance(self._ask(Acknowledge(self.vendor, self._printed)), Acknowledged):
            raise ProtocolMismatch(f"{self.link.address} answered Acknowledge with another kind of reply")
        self._arrived, self._printed = self._printed or self._arrived, ()

    def _ask(self, request: Collect | Acknowledge) -> Reply:
        """The answer, also of a cloud that is busy at first."""
        give_up = time.monotonic() + self.patience_s
        while True:
            try:
                reply = self.link.ask(request)
                self.notices.answer()
                return reply
            except CloudRefused as err:
                hint = err.retry_after_s
                if hint is None or not math.isfinite(hint) or time.monotonic() > give_up:
                    raise
                self.notices.refusal(str(err))
                self.link.pause(min(max(hint, 0.1), 10.0))


class Output:
    """This process's stdout, as lines that are really written.

    Not ``print``: it says nothing where stdout is closed, and what it buffers may fail only after the acknowledgement.
    """

    def __init__(self) -> None:
        if sys.stdout is None:
            raise UsageError("stdout is closed, and deliveries are printed there; give it a file or a pipe")
        self._fd = sys.stdout.fileno()
        self._is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)
        # A line that an earlier run was killed in the middle of must not swallow the first one of ours.
        self._before = b"\n" if self._is_file and _ends_inside_a_line(self._fd) else b""

    def write(self, deliveries: Sequence[Delivery]) -> None:
        """Returns when all of them are written, and in a file are on the disk.

        Raises:
            OSError: not all of them are.
        """
        if not deliveries:
            return
        left = memoryview(self._before + b"".join(map(line_of, deliveries)))
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:  # a pipe that some parents leave so
                select.select([], [self._fd], [])
        self._before = b""
        if self._is_file:
            try:
                os.fsync(self._fd)
            except OSError as err:
                if err.errno not in _CANNOT_SYNC:
                    raise


def line_of(delivery: Delivery) -> bytes:
    """A delivery as one line of JSON, always the same for the same delivery."""
    fields = msgspec.structs.asdict(delivery)
    fields["run_id"] = delivery.run_id.hex()
    fields["offers"] = [msgspec.structs.asdict(offer) for offer in delivery.offers]
    return json.dumps(fields).encode() + b"\n"


def _ends_inside_a_line(fd: int) -> bool:
    """Whether a file has a last line without its end; where nobody may look, an empty line too many does no harm."""
    size = os.fstat(fd).st_size
    if not size:
        return False
    try:
        # The descriptor is most likely one that only writes.
        with open(f"/dev/fd/{fd}", "rb", buffering=0) as file:  # noqa: PTH123
            return os.pread(file.fileno(), 1, size - 1) != b"\n"
    except OSError:
        return True


if __name__ == "__main__":
    run(main)
