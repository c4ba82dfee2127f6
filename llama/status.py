"""The operator's program: the state of a cloud now, and its counts since its start.

Used as::

    python -m llama.status --cloud tcp://127.0.0.1:5555                    (without keys, on the cloud's machine)
    python -m llama.status --cloud tcp://10.0.0.5:5555 --key_file ops.key --cloud_key cloud.pub [--json] [--follow]

Exit code 0 if the cloud has answered, 1 if it has not.

Knows: ``llama.wire``, the link. Does not know: the model, sessions.
"""

from __future__ import annotations

from llama import starting

if __name__ == "__main__":
    starting.begin()

import os
import sys
from datetime import timedelta

import msgspec

from llama.bounds import INTERVAL, TIMEOUT
from llama.client.link import Link
from llama.client.notices import Notices
from llama.command import run
from llama.errors import CloudUnreachable, ProtocolMismatch
from llama.keys import link_keys
from llama.wire import Status, StatusReport

LONGEST_S = 10**12  # some 30,000 years; longer times cannot be written
_CLEAR = "\x1b[H\x1b[J"  # a terminal's screen, from its top


def main(
    cloud: str,
    json: bool = False,
    follow: bool = False,
    interval: float = 2.0,
    deadline: float = 5.0,
    key_file: str | None = None,
    cloud_key: str | None = None,
) -> None:
    """Print the state of a cloud.

    Args:
        cloud: Address of the cloud, tcp://HOST:PORT.
        json: Print each report as a line with one JSON object.
        follow: Keep asking, also while the cloud is away, until Ctrl-C.
        interval: Seconds between two requests.
        deadline: Seconds without an answer after which the program gives up. If heartbeats arrive but the request stays
            unanswered, it gives up after 10 times as long.
        key_file: Private key of the operator, NAME.key from llama.keys. The cloud must list the public key. Requires
            --cloud_key.
        cloud_key: Public key file of the cloud. The program talks to no other cloud, and the link is encrypted.
            Requires --key_file.
    """
    TIMEOUT.check("deadline", deadline)
    INTERVAL.check("interval", interval)
    keys = link_keys(key_file, cloud_key, "operator")
    notices = Notices("status", cloud, follow=follow, keys=keys)
    screen = sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    before = _CLEAR if follow and not json and screen else ""
    with Link(cloud, deadline_s=deadline, on_notice=notices.silence, keys=keys) as link:
        while True:
            try:
                report = status_of(link)
                notices.answer()
                print(before + (in_json(report) if json else in_words(report, cloud)), flush=True)
            except CloudUnreachable as err:
                if not follow:
                    raise
                notices.unreachable(err)
            if not follow:
                return
            link.pause(interval)


def status_of(link: Link) -> StatusReport:
    """Return the cloud's report.

    Raises:
        CloudUnreachable, CloudRefused, ProtocolMismatch: see ``Link.ask``.
    """
    link.hello()  # each time: a restarted cloud may be another release
    report = link.ask(Status())
    if not isinstance(report, StatusReport):
        raise ProtocolMismatch(f"{link.address} answered Status with another kind of reply")
    return report


def in_json(report: StatusReport) -> str:
    """Return a report as one JSON object. ``slots`` is ``places`` on the wire."""
    fields = {"slots" if name == "places" else name: value for name, value in msgspec.structs.asdict(report).items()}
    return msgspec.json.encode(fields).decode()


def in_words(report: StatusReport, address: str) -> str:
    """Return a report for people, in five lines."""
    filled = 100 * report.cached / report.cache if report.cache else 0.0
    state = "draining: begins nothing new" if report.draining else "serving"
    return "\n".join(
        (
            f"{address}  {state}, up {timedelta(seconds=min(report.up_s, LONGEST_S))}",
            f"sessions  {report.sessions:,} of {report.places:,} slots, {report.waiting:,} waiting",
            f"cache     {report.cached:,} of {report.cache:,} positions filled ({filled:.0f} %)",
            f"tokens    {report.tokens:,} handed out since the start",
            f"refusals  {report.refusals:,} since the start",
        )
    )


if __name__ == "__main__":
    run(main)
