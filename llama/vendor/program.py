"""The third party's program: publishes its sheets, and collects its copies.

Used as::

    python -m llama.vendor --cloud tcp://127.0.0.1:5555 --vendor NAME                    (look at the oldest; keep them)
    python -m llama.vendor --cloud tcp://127.0.0.1:5555 --vendor NAME --follow --spool DIR        (a file each)
    python -m llama.vendor --cloud tcp://127.0.0.1:5555 --vendor NAME --follow --exec COMMAND     (a command each)
    python -m llama.vendor --cloud tcp://127.0.0.1:5555 --vendor NAME --follow >> FILE            (a line each)
    python -m llama.vendor --cloud … --vendor NAME --key_file NAME.key --cloud_key cloud.pub --publish cover.toml
    python -m llama.vendor --cloud … --vendor NAME --key_file NAME.key --cloud_key cloud.pub --withdraw cover

A copy is one JSON object in a line. It is ASCII only, so that it cannot steer a terminal. The program acknowledges a
copy once it is stored, and the cloud then erases it. Stored means on the disk, or taken by a command that ended with 0.
A pipe or a terminal stores nothing, so copies are not acknowledged there, unless ``--acknowledge`` allows their loss.
Each copy is stored at least once. If this program ends before the cloud has the acknowledgement, the next start
gets the same copy again, with the same ``run_id``.

Knows: the link, sheets. Does not know: the model, the person, the values behind tags, other third parties.
No part of a copy goes to stderr.
"""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import PurePath

from llama.bounds import INTERVAL, TIMEOUT
from llama.client.link import Link
from llama.client.notices import Notices
from llama.errors import CloudUnreachable, ProtocolMismatch, UsageError
from llama.keys import link_keys
from llama.sheets import parse_published, read_text
from llama.text.names import MAX_PARTY_NAME, is_party_name, is_prompt_id, name_rule
from llama.vendor.collector import Collector, Sink
from llama.vendor.command_sink import CommandSink
from llama.vendor.spool_sink import SpoolSink
from llama.vendor.stdout_sink import StdoutSink
from llama.wire import Publish, Published, Withdraw, Withdrawn

_STORE_THEM = "--spool DIR, --exec COMMAND or >> FILE stores them"

MOST_ONCE = 10_000  # copies that one start takes without --follow


def main(
    cloud: str,
    vendor: str,
    follow: bool = False,
    spool: str | None = None,
    exec: str | None = None,
    exec_timeout: float = 60.0,
    acknowledge: bool = False,
    publish: str | None = None,
    withdraw: str | None = None,
    deadline: float = 30.0,
    interval: float = 2.0,
    key_file: str | None = None,
    cloud_key: str | None = None,
) -> None:
    """Collect a third party's copies, store them and acknowledge them; or publish or withdraw a sheet.

    Args:
        cloud: Address of the cloud, tcp://HOST:PORT.
        vendor: Name of the third party, which is the name of its directory of sheets at the cloud.
        follow: Keep asking when nothing is left, and while the cloud is away, until Ctrl-C.
        spool: Directory that gets a file per copy, RUN_ID.json. It is made if it does not exist.
        exec: Command that gets each copy as a line on its standard input. No shell runs it. Exit code 0 means that the
            copy is stored. Otherwise the program tries again after 1, 2, 4 … at most 60 s, 5 times in all, or without
            end with --follow.
        exec_timeout: Seconds after which a try of --exec is stopped, and counts as failed.
        acknowledge: Also acknowledge what a pipe or a terminal has taken. The cloud then erases it, even if its reader
            loses it.
        publish: Sheet to publish, a file NAME.toml. It replaces an earlier one of that name. Requires --key_file and
            --cloud_key.
        withdraw: Name of a sheet to withdraw, without .toml. Devices no longer find it. Requires --key_file and
            --cloud_key.
        deadline: Seconds without an answer after which the program gives up.
        interval: Seconds between two requests for more copies.
        key_file: Private key of the vendor, NAME.key from llama.keys. The cloud must list the public key. Requires
            --cloud_key.
        cloud_key: Public key file of the cloud. The program talks to no other cloud, and the link is encrypted.
            Requires --key_file.
    """
    if not is_party_name(vendor):
        raise UsageError(
            f"--vendor must be the name of a directory of sheets, {name_rule(MAX_PARTY_NAME)} (got '{vendor}')"
        )
    TIMEOUT.check("deadline", deadline)
    INTERVAL.check("interval", interval)
    TIMEOUT.check("exec_timeout", exec_timeout)
    request = _request(vendor, publish, withdraw)
    if request is not None:
        _refuse_to_collect(follow=follow, spool=spool, exec=exec, acknowledge=acknowledge)
    keys = link_keys(key_file, cloud_key, "vendor")
    notices = Notices("vendor", cloud, follow=follow, keys=keys)
    if request is not None:
        if keys is None:
            raise UsageError(f"--{'withdraw' if publish is None else 'publish'} requires --key_file and --cloud_key")
        with Link(cloud, deadline_s=deadline, on_notice=notices.silence, keys=keys) as link:
            print(put(link, request), flush=True)
        return
    with (
        closing(_sink(spool, exec, exec_timeout, acknowledge, follow, notices)) as sink,
        Link(cloud, deadline_s=deadline, on_notice=notices.silence, keys=keys) as link,
    ):
        collector = Collector(link, vendor, sink, notices, busy_timeout_s=math.inf if follow else deadline)
        if sink.acknowledges:
            _collect_all(collector, follow, interval)
        else:
            _look_at_oldest(collector, sink.at_once)


def _refuse_to_collect(**flags: str | bool | None) -> None:
    """Refuse flags of collecting beside one that publishes or withdraws.

    Raises:
        UsageError: about the first such flag.
    """
    for name, value in flags.items():
        if value not in (None, False):
            raise UsageError(f"--{name} is for collecting; omit it to publish or withdraw a sheet")


def _collect_all(collector: Collector, follow: bool, interval_s: float) -> None:
    """Collect until nothing is left or ``MOST_ONCE`` copies came; with ``follow``, without end."""
    total = 0
    while follow or total < MOST_ONCE:
        try:
            came = collector.some()
        except CloudUnreachable as err:
            if not follow:
                raise
            collector.notices.unreachable(err)
            came = 0
        total += came
        if not (came or follow):
            return
        if not came:
            collector.link.pause(interval_s)


def _look_at_oldest(collector: Collector, at_once: int) -> None:
    """Collect once, and report that the copies were not acknowledged."""
    if number := collector.some():
        collector.notices.tell(
            f"nothing is acknowledged, so {'this copy comes' if number == 1 else 'these copies come'} again, and only "
            f"the oldest {at_once} are shown; {_STORE_THEM}, --acknowledge erases them at the cloud"
        )


def _sink(
    spool: str | None, command: str | None, timeout_s: float, acknowledge: bool, follow: bool, notices: Notices
) -> Sink:
    """Return the sink that stores the copies.

    Raises:
        UsageError: the flags exclude each other, or the directory or command cannot be used.
    """
    if spool is not None and command is not None:
        raise UsageError("--spool and --exec cannot be combined; omit one of them")
    if acknowledge and (spool is not None or command is not None):
        flag = "--exec" if spool is None else "--spool"
        raise UsageError(
            f"--acknowledge is for stdout only; {flag} acknowledges what it has stored, so omit --acknowledge"
        )
    if spool is not None:
        return SpoolSink(spool)
    if command is not None:
        return CommandSink(command, timeout_s=timeout_s, for_ever=follow, notices=notices)
    stdout = StdoutSink(may_lose=acknowledge)
    if follow and not stdout.acknowledges:
        raise UsageError(
            f"--follow requires storage, and stdout is not a file; {_STORE_THEM}; --acknowledge erases each copy at "
            f"the cloud once it is written, even if its reader loses it"
        )
    return stdout


def _request(vendor: str, publish: str | None, withdraw: str | None) -> Publish | Withdraw | None:
    """Return the checked request that the flags ask for; None means to collect.

    Raises:
        UsageError: both flags are given, or a name is malformed.
        PromptError: the file is not a sheet.
    """
    if publish is not None and withdraw is not None:
        raise UsageError("--publish and --withdraw cannot be combined; run one after the other")
    if withdraw is not None:
        if not is_prompt_id(f"{vendor}/{withdraw}"):
            raise UsageError(
                f"--withdraw must be a sheet's name without .toml, 1 to 80 of a-z, 0-9 and - (got '{withdraw}')"
            )
        return Withdraw(vendor, withdraw)
    if publish is None:
        return None
    file = PurePath(publish)
    if file.suffix != ".toml" or not is_prompt_id(f"{vendor}/{file.stem}"):
        raise UsageError(f"--publish must be a file NAME.toml, with NAME 1 to 80 of a-z, 0-9 and - (got '{publish}')")
    text = read_text(publish, "sheet")
    parse_published(text, f"sheet {publish}")
    return Publish(vendor, file.stem, text)


def put(link: Link, request: Publish | Withdraw) -> str:
    """Publish or withdraw a sheet, and return the result in words.

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
