"""Claims about ``docs/protocol.md``: its tables are those of the contract, and its examples its bytes."""

from __future__ import annotations

import re
import struct
from typing import get_args

import pytest

from docs import protocol_tables
from llama import wire
from llama.cloud.auth import check_role
from llama.keys import Identity
from llama.wire import Hello, Refused, Step, Tokens

PAGE = protocol_tables.PAGE.read_text(encoding="utf-8")
SESSION = bytes(range(16, 32))
EXAMPLES = {
    "Hello": wire.encode(Hello(wire.VERSION)),
    "Step": wire.encode(Step(SESSION, 1, 0, 1, "float32", 1, 2)),
    "rows": struct.pack("<2f", 1.0, -0.5),
    "Tokens": wire.encode(Tokens((198,), 1500, 1)),
    "prefix": wire.prefix_id(bytes(range(32)), [1, 2]),
}


def dumps_of(page: str) -> dict[str, bytes]:
    """The hexdumps of a page, by name: the bytes in each line's first column."""
    found = re.findall(r"^```hexdump (\w+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return {name: bytes.fromhex("".join(line[:48] for line in text.splitlines())) for name, text in found}


def test_the_tables_are_those_of_the_contract() -> None:
    assert protocol_tables.render(PAGE) == PAGE, "docs/protocol.md is stale; run: make docs"


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_the_contract_encodes(name: str) -> None:
    assert dumps_of(PAGE)[name] == EXAMPLES[name]


def test_every_example_is_checked_and_is_a_request_or_a_reply() -> None:
    assert dumps_of(PAGE).keys() == EXAMPLES.keys()
    assert wire.decode_request(EXAMPLES["Step"]) == Step(SESSION, 1, 0, 1, "float32", 1, 2)
    assert wire.decode_reply(EXAMPLES["Tokens"]) == Tokens((198,), 1500, 1)


def test_every_field_and_every_code_is_described_and_nothing_else() -> None:
    for message in {*protocol_tables.REQUESTS, *protocol_tables.REPLIES, *protocol_tables.PARTS}:
        assert set(protocol_tables.descriptions(message)) == set(message.__struct_fields__), message
    for codes in (wire.ErrorCode, wire.DeliveryStatus):
        described = protocol_tables.descriptions(codes)
        assert list(described) == [code.name for code in codes]
    assert all(" The client " in text for text in protocol_tables.descriptions(wire.ErrorCode).values())


def test_every_request_and_reply_stands_in_the_table_of_requests() -> None:
    assert [*protocol_tables.SENDERS] == [*get_args(wire.Request)]
    answers = [reply for _, reply in protocol_tables.SENDERS.values()]
    assert [*answers, wire.Error] == [*get_args(wire.Reply)]


@pytest.mark.parametrize("request_type", protocol_tables.REQUESTS, ids=lambda each: each.__name__)
def test_the_roles_are_those_that_the_cloud_checks(request_type: type) -> None:
    """Each request with the key of each role, under the key's own name."""
    fields: tuple[str, ...] = request_type.__struct_fields__  # type: ignore[attr-defined]
    request = request_type(**dict.fromkeys(fields, "insurer"))  # of which the check looks at the vendor alone
    allowed = []
    for role in ("device", "vendor", "operator"):
        try:
            check_role(Identity("insurer", role, "0" * 40), request)
            allowed.append(role)
        except Refused:
            pass
    assert tuple(allowed) == protocol_tables.SENDERS[request_type][0]


def test_the_version_of_the_page_is_the_contracts() -> None:
    assert f"**version {wire.VERSION}**" in PAGE


def test_a_page_without_a_marker_is_refused() -> None:
    with pytest.raises(ValueError, match=r"protocol\.md must have one marker"):
        protocol_tables.render(PAGE.replace("<!-- generated: errors -->", ""))
