"""Claims about the wire: its bytes are pinned, and no bytes do anything but what they say."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llama import wire
from llama.dtypes import DTYPES
from llama.tensor_frames import hidden_from_frame, hidden_to_frame
from llama.wire import (
    Acknowledge,
    Acknowledged,
    Close,
    Closed,
    Collect,
    Deliveries,
    Delivery,
    DeliveryStatus,
    Error,
    ErrorCode,
    FetchSheet,
    Final,
    Finish,
    Forget,
    Forgotten,
    Hello,
    ListSheets,
    Offer,
    Open,
    Opened,
    Publish,
    Published,
    Refused,
    SheetEntry,
    Sheets,
    SheetText,
    Stages,
    Status,
    StatusReport,
    Step,
    Tokens,
    Usage,
    Welcome,
    Withdraw,
    Withdrawn,
)  # fmt: skip

RUN, FINGERPRINT, SESSION = bytes(range(16)), bytes(range(32)), bytes(range(16, 32))
OFFER = Offer("tea-1", "daun-seduh", "Teh", 285000, "https://daun.example/1", "A tea set", ("tea",))

# Version 3 of the protocol. A change of any of these bytes is another version.
GOLDEN: list[tuple[Any, dict[str, Any], str]] = [
    (
        Hello(1),
        {"type": "hello", "version": 1},
        "82a474797065a568656c6c6fa776657273696f6e01",
    ),
    (
        Open(RUN, FINGERPRINT, 5, 0.5, 1.0, 1, (128001, 128009), "gift", (7,), FINGERPRINT),
        {
            "type": "open",
            "run_id": RUN,
            "fingerprint": FINGERPRINT,
            "prompt_tokens": 5,
            "temperature": 0.5,
            "top_p": 1.0,
            "seed": 1,
            "stop_ids": [128001, 128009],
            "prompt_id": "gift",
            "resumed_ids": [7],
            "prefix": FINGERPRINT,
        },
        "8ba474797065a46f70656ea672756e5f6964c410000102030405060708090a0b0c0d0e0fab66696e6765727072696e74c420000102030405"
        "060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1fad70726f6d70745f746f6b656e7305ab74656d7065726174757265cb3fe0"
        "000000000000a5746f705f70cb3ff0000000000000a47365656401a873746f705f69647392ce0001f401ce0001f409a970726f6d70745f69"
        "64a467696674ab726573756d65645f6964739107a6707265666978c420000102030405060708090a0b0c0d0e0f101112131415161718191a"
        "1b1c1d1e1f",
    ),
    (
        Step(SESSION, 1, 300, 1, "bfloat16", 1, 576),
        {
            "type": "step",
            "session": SESSION,
            "seq": 1,
            "position": 300,
            "want": 1,
            "dtype": "bfloat16",
            "rows": 1,
            "dim": 576,
        },
        "88a474797065a473746570a773657373696f6ec410101112131415161718191a1b1c1d1e1fa373657101a8706f736974696f6ecd012ca477"
        "616e7401a56474797065a862666c6f61743136a4726f777301a364696dcd0240",
    ),
    (
        Finish(SESSION, 2, 0),
        {"type": "finish", "session": SESSION, "seq": 2, "end": 0},
        "84a474797065a666696e697368a773657373696f6ec410101112131415161718191a1b1c1d1e1fa373657102a3656e6400",
    ),
    (
        Close(SESSION, 3),
        {"type": "close", "session": SESSION, "seq": 3},
        "83a474797065a5636c6f7365a773657373696f6ec410101112131415161718191a1b1c1d1e1fa373657103",
    ),
    (
        Welcome(1, FINGERPRINT, "float32", 576, 1, 2048, 256),
        {
            "type": "welcome",
            "version": 1,
            "fingerprint": FINGERPRINT,
            "dtype": "float32",
            "dim": 576,
            "split_layer": 1,
            "max_seq_len": 2048,
            "max_rows": 256,
        },
        "88a474797065a777656c636f6d65a776657273696f6e01ab66696e6765727072696e74c420000102030405060708090a0b0c0d0e0f101112"
        "131415161718191a1b1c1d1e1fa56474797065a7666c6f61743332a364696dcd0240ab73706c69745f6c6179657201ab6d61785f7365715f"
        "6c656ecd0800a86d61785f726f7773cd0100",
    ),
    (
        Opened(SESSION, 9),
        {"type": "opened", "session": SESSION, "cached": 9},
        "83a474797065a66f70656e6564a773657373696f6ec410101112131415161718191a1b1c1d1e1fa663616368656409",
    ),
    (
        Tokens((128009,), 1500, 3),
        {"type": "tokens", "ids": [128009], "compute_us": 1500, "seq": 3},
        "84a474797065a6746f6b656e73a369647391ce0001f409aa636f6d707574655f7573cd05dca373657103",
    ),
    (
        Final("é", Usage(5, 1, 9)),
        {"type": "final", "text": "é", "usage": {"prompt_tokens": 5, "output_tokens": 1, "compute_us": 9}},
        "83a474797065a566696e616ca474657874a2c3a9a5757361676583ad70726f6d70745f746f6b656e7305ad6f75747075745f746f6b656e73"
        "01aa636f6d707574655f757309",
    ),
    (
        Step(SESSION, 1, 300, 1, "bfloat16", 1, 576, True),
        {
            "type": "step",
            "session": SESSION,
            "seq": 1,
            "position": 300,
            "want": 1,
            "dtype": "bfloat16",
            "rows": 1,
            "dim": 576,
            "times": True,
        },
        "89a474797065a473746570a773657373696f6ec410101112131415161718191a1b1c1d1e1fa373657101a8706f736974696f6ecd012ca477"
        "616e7401a56474797065a862666c6f61743136a4726f777301a364696dcd0240a574696d6573c3",
    ),
    (
        ListSheets(),
        {"type": "listsheets"},
        "81a474797065aa6c697374736865657473",
    ),
    (
        FetchSheet("insurer/cover"),
        {"type": "fetchsheet", "prompt_id": "insurer/cover"},
        "82a474797065aa66657463687368656574a970726f6d70745f6964ad696e73757265722f636f766572",
    ),
    (
        Collect("insurer", 8),
        {"type": "collect", "vendor": "insurer", "limit": 8},
        "83a474797065a7636f6c6c656374a676656e646f72a7696e7375726572a56c696d697408",
    ),
    (
        Acknowledge("insurer", (RUN,)),
        {"type": "acknowledge", "vendor": "insurer", "run_ids": [RUN]},
        "83a474797065ab61636b6e6f776c65646765a676656e646f72a7696e7375726572a772756e5f69647391c410000102030405060708090a0b"
        "0c0d0e0f",
    ),
    (
        Tokens((128009,), 1500, 3, Stages(1, (2, 3), 4, 5)),
        {
            "type": "tokens",
            "ids": [128009],
            "compute_us": 1500,
            "seq": 3,
            "stages": {"queue_us": 1, "layers_us": [2, 3], "head_us": 4, "sample_us": 5},
        },
        "85a474797065a6746f6b656e73a369647391ce0001f409aa636f6d707574655f7573cd05dca373657103a673746167657384a87175657565"
        "5f757301a96c61796572735f7573920203a7686561645f757304a973616d706c655f757305",
    ),
    (
        Final("é", Usage(5, 1, 9), (OFFER,), DeliveryStatus.QUEUED),
        {
            "type": "final",
            "text": "é",
            "usage": {"prompt_tokens": 5, "output_tokens": 1, "compute_us": 9},
            "offers": [
                {
                    "product": "tea-1",
                    "vendor": "daun-seduh",
                    "title": "Teh",
                    "price": 285000,
                    "url": "https://daun.example/1",
                    "item": "A tea set",
                    "matched": ["tea"],
                }
            ],
            "copy": "queued",
        },
        "85a474797065a566696e616ca474657874a2c3a9a5757361676583ad70726f6d70745f746f6b656e7305ad6f75747075745f746f6b656e73"
        "01aa636f6d707574655f757309a66f66666572739187a770726f64756374a57465612d31a676656e646f72aa6461756e2d7365647568a574"
        "69746c65a3546568a57072696365ce00045948a375726cb668747470733a2f2f6461756e2e6578616d706c652f31a46974656da941207465"
        "6120736574a76d61746368656491a3746561a4636f7079a6717565756564",
    ),
    (
        Sheets((SheetEntry("insurer/cover", "Cover", ("trip",)),)),
        {"type": "sheets", "sheets": [{"prompt_id": "insurer/cover", "title": "Cover", "asks_for": ["trip"]}]},
        "82a474797065a6736865657473a67368656574739183a970726f6d70745f6964ad696e73757265722f636f766572a57469746c65a5436f76"
        "6572a861736b735f666f7291a474726970",
    ),
    (
        SheetText("insurer/cover", "x", "y"),
        {"type": "sheettext", "prompt_id": "insurer/cover", "text": "x", "system": "y"},
        "84a474797065a9736865657474657874a970726f6d70745f6964ad696e73757265722f636f766572a474657874a178a673797374656da179",
    ),
    (
        Deliveries((Delivery(RUN, "insurer/cover", "2026-11-25T09:30:00Z", "x", "[NAME_1]", (OFFER,)),)),
        {
            "type": "deliveries",
            "deliveries": [
                {
                    "run_id": RUN,
                    "prompt_id": "insurer/cover",
                    "finished_at": "2026-11-25T09:30:00Z",
                    "prompt": "x",
                    "text": "[NAME_1]",
                    "offers": [
                        {
                            "product": "tea-1",
                            "vendor": "daun-seduh",
                            "title": "Teh",
                            "price": 285000,
                            "url": "https://daun.example/1",
                            "item": "A tea set",
                            "matched": ["tea"],
                        }
                    ],
                }
            ],
        },
        "82a474797065aa64656c69766572696573aa64656c697665726965739186a672756e5f6964c410000102030405060708090a0b0c0d0e0fa9"
        "70726f6d70745f6964ad696e73757265722f636f766572ab66696e69736865645f6174b4323032362d31312d32355430393a33303a30305a"
        "a670726f6d7074a178a474657874a85b4e414d455f315da66f66666572739187a770726f64756374a57465612d31a676656e646f72aa6461"
        "756e2d7365647568a57469746c65a3546568a57072696365ce00045948a375726cb668747470733a2f2f6461756e2e6578616d706c652f31"
        "a46974656da9412074656120736574a76d61746368656491a3746561",
    ),
    (
        Acknowledged(),
        {"type": "acknowledged"},
        "81a474797065ac61636b6e6f776c6564676564",
    ),
    (
        Publish("insurer", "cover", "é"),
        {"type": "publish", "vendor": "insurer", "name": "cover", "text": "é"},
        "84a474797065a77075626c697368a676656e646f72a7696e7375726572a46e616d65a5636f766572a474657874a2c3a9",
    ),
    (
        Withdraw("insurer", "cover"),
        {"type": "withdraw", "vendor": "insurer", "name": "cover"},
        "83a474797065a87769746864726177a676656e646f72a7696e7375726572a46e616d65a5636f766572",
    ),
    (Status(), {"type": "status"}, "81a474797065a6737461747573"),
    (
        Published("insurer/cover"),
        {"type": "published", "prompt_id": "insurer/cover"},
        "82a474797065a97075626c6973686564a970726f6d70745f6964ad696e73757265722f636f766572",
    ),
    (Withdrawn(), {"type": "withdrawn"}, "81a474797065a977697468647261776e"),
    (
        Forget(RUN),
        {"type": "forget", "run_id": RUN},
        "82a474797065a6666f72676574a672756e5f6964c410000102030405060708090a0b0c0d0e0f",
    ),
    (Forgotten(), {"type": "forgotten"}, "81a474797065a9666f72676f7474656e"),
    (
        Forgotten(True),
        {"type": "forgotten", "collected": True},
        "82a474797065a9666f72676f7474656ea9636f6c6c6563746564c3",
    ),
    (
        StatusReport(300, 2, 8, 1, 70, 16384, 5, 0, True),
        {
            "type": "statusreport",
            "up_s": 300,
            "sessions": 2,
            "places": 8,
            "waiting": 1,
            "cached": 70,
            "cache": 16384,
            "tokens": 5,
            "refusals": 0,
            "draining": True,
        },
        "8aa474797065ac7374617475737265706f7274a475705f73cd012ca873657373696f6e7302a6706c6163657308a777616974696e6701a663"
        "616368656446a56361636865cd4000a6746f6b656e7305a87265667573616c7300a8647261696e696e67c3",
    ),
    (Closed(), {"type": "closed"}, "81a474797065a6636c6f736564"),
    (
        Error(ErrorCode.BUSY, "full", "wait", 2.0),
        {"type": "error", "code": "busy", "message": "full", "advice": "wait", "retry_after_s": 2.0},
        "85a474797065a56572726f72a4636f6465a462757379a76d657373616765a466756c6ca6616476696365a477616974ad72657472795f6166"
        "7465725f73cb4000000000000000",
    ),
]
REQUESTS = (
    Hello, Open, Step, Finish, Close, ListSheets, FetchSheet, Collect, Acknowledge, Publish, Withdraw, Forget,
    Status,
)  # fmt: skip


def decode(message: Any, header: bytes) -> Any:
    """By the side that would receive it."""
    return wire.decode_request(header) if isinstance(message, REQUESTS) else wire.decode_reply(header)


@pytest.mark.parametrize(("message", "fields", "golden"), GOLDEN, ids=[type(m).__name__ for m, _, _ in GOLDEN])
def test_every_message_has_the_bytes_that_version_3_pins(message: Any, fields: dict[str, Any], golden: str) -> None:
    """Encoded, read as plain MessagePack, and decoded again."""
    assert wire.encode(message).hex() == golden
    assert msgspec.msgpack.decode(bytes.fromhex(golden)) == fields
    assert decode(message, bytes.fromhex(golden)) == message


def test_the_golden_bytes_cover_every_message_and_error_code() -> None:
    """Nothing may be added without pinning it; the codes are part of the protocol too."""
    kinds = {type(message) for message, _, _ in GOLDEN}
    assert kinds == set(wire.Request.__args__) | set(wire.Reply.__args__)
    assert sorted(ErrorCode) == sorted([
        "bad_request", "unsupported_version", "wrong_checkpoint", "busy", "unknown_session", "out_of_sequence",
        "wrong_tensor", "not_finite", "out_of_range", "run_under_way", "unknown_sheet", "bad_sheet", "not_served",
        "not_allowed", "internal",
    ])  # fmt: skip
    assert wire.VERSION == 3


def test_fields_with_a_default_may_be_left_out_and_the_order_is_free() -> None:
    """What another language's MessagePack library may write."""
    fields = {"code": "busy", "message": "full", "type": "error"}
    assert wire.decode_reply(msgspec.msgpack.encode(fields)) == Error(ErrorCode.BUSY, "full")


COUNTS, SEQS = st.integers(0, 2**31 - 1), st.integers(1, 2**53)
IDS = st.binary(min_size=16, max_size=16)
MICROS = st.integers(0, 2**53)
TIMES = st.lists(MICROS, max_size=5).map(tuple)
LABELS = st.text(max_size=200)
VENDORS = st.from_regex(r"[a-z0-9-]{1,40}", fullmatch=True)
SHEET_NAMES = st.from_regex(r"[a-z0-9-]{1,80}", fullmatch=True)
OFFERS = st.lists(
    st.builds(
        Offer, LABELS, VENDORS, LABELS, MICROS, st.sampled_from(("", "https://x.example/1")), LABELS, st.tuples(LABELS)
    ),
    max_size=12,
).map(tuple)
DELIVERIES = st.builds(Delivery, IDS, LABELS, LABELS, st.text(), st.text(), OFFERS, st.booleans())
MESSAGES = st.one_of(
    st.builds(Hello, COUNTS),
    st.builds(
        Open, IDS, st.binary(min_size=32, max_size=32), st.integers(1, 2**31 - 1), st.floats(allow_nan=False),
        st.floats(allow_nan=False), st.integers(0, 2**63 - 1), st.lists(COUNTS, max_size=64).map(tuple),
        st.text(max_size=200), st.lists(COUNTS, max_size=200).map(tuple),
        st.binary(max_size=32),
    ),
    st.builds(
        Step, IDS, SEQS, COUNTS, st.integers(0, 64), st.text(), st.integers(1, 2**31 - 1), COUNTS, st.booleans()
    ),
    st.builds(Finish, IDS, SEQS, COUNTS),
    st.builds(Close, IDS, SEQS),
    st.builds(Welcome, COUNTS, st.binary(min_size=32, max_size=32), st.text(), COUNTS, COUNTS, COUNTS, COUNTS),
    st.builds(Opened, IDS, COUNTS),
    st.builds(
        Tokens, st.lists(COUNTS).map(tuple), MICROS, SEQS, st.none() | st.builds(Stages, MICROS, TIMES, MICROS, MICROS)
    ),
    st.builds(Final, st.text(), st.builds(Usage, COUNTS, COUNTS, MICROS), OFFERS, st.sampled_from(DeliveryStatus)),
    st.just(Closed()),
    st.just(ListSheets()),
    st.builds(FetchSheet, LABELS),
    st.builds(Collect, VENDORS, st.integers(1, 64)),
    st.builds(Acknowledge, VENDORS, st.lists(IDS, max_size=64).map(tuple)),
    st.builds(Sheets, st.lists(st.builds(SheetEntry, LABELS, LABELS, st.tuples(LABELS)), max_size=5).map(tuple)),
    st.builds(SheetText, LABELS, st.text(), st.text()),
    st.builds(Deliveries, st.lists(DELIVERIES, max_size=3).map(tuple)),
    st.just(Acknowledged()),
    st.builds(Publish, VENDORS, SHEET_NAMES, st.text()),
    st.builds(Withdraw, VENDORS, SHEET_NAMES),
    st.builds(Forget, st.binary(min_size=16, max_size=16)),
    st.builds(Forgotten, st.booleans()),
    st.sampled_from([Status(), Withdrawn()]),
    st.builds(Published, LABELS),
    st.builds(StatusReport, MICROS, COUNTS, COUNTS, COUNTS, MICROS, MICROS, MICROS, MICROS, st.booleans()),
    st.builds(
        Error, st.sampled_from(ErrorCode), st.text(), st.text(), st.none() | st.floats(allow_nan=False, min_value=0)
    ),
)  # fmt: skip


@given(MESSAGES)
def test_every_message_comes_back_as_it_was(message: Any) -> None:
    """Encode, decode, equal, for any values that the fields admit."""
    assert decode(message, wire.encode(message)) == message


def must_not_crash(header: bytes) -> None:
    """Both decoders: a message of theirs, Refused with bad_request, or ValueError."""
    try:
        request = wire.decode_request(header)
        assert isinstance(request, REQUESTS)
    except Refused as refused:
        assert refused.error.code == ErrorCode.BAD_REQUEST
    try:
        reply = wire.decode_reply(header)
        assert not isinstance(reply, REQUESTS)
    except ValueError:
        pass


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_and_nothing_else(header: bytes) -> None:
    """Not one exception of another kind."""
    must_not_crash(header)


@given(st.sampled_from([bytes.fromhex(golden) for _, _, golden in GOLDEN]), st.data())
def test_damaged_headers_are_refused_or_are_another_valid_message(header: bytes, data: st.DataObject) -> None:
    """Bytes changed, cut off, put in or taken out."""
    damaged = bytearray(header)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(damaged) - 1)))
        kind = data.draw(st.sampled_from(["change", "cut", "insert", "delete"]))
        if kind == "change" and damaged:
            damaged[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del damaged[at:]
        elif kind == "insert":
            damaged[at:at] = data.draw(st.binary(max_size=5))
        else:
            del damaged[at : at + 1]
    must_not_crash(bytes(damaged))


MSGPACK_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=5,
)


@given(st.sampled_from([fields for _, fields, _ in GOLDEN]), st.data())
def test_fields_of_wrong_types_and_ranges_are_refused(fields: dict[str, Any], data: st.DataObject) -> None:
    """A valid MessagePack map with any value in any field; the wrong type tag among them."""
    field = data.draw(st.sampled_from(sorted(fields)))
    must_not_crash(msgspec.msgpack.encode(fields | {field: data.draw(MSGPACK_VALUES)}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("session", "sixteen letters!"),
        ("session", bytes(15)),
        ("session", bytes(17)),
        ("seq", 0),
        ("seq", -1),
        ("seq", 2**53 + 1),
        ("seq", 1.0),
        ("seq", True),
        ("seq", "1"),
        ("position", -1),
        ("position", 2**31),
        ("want", 65),
        ("want", -1),
        ("rows", 0),
        ("rows", -1),
        ("rows", 2**31),
        ("dim", -1),
        ("dtype", b"float32"),
        ("dtype", None),
        ("type", "welcome"),
        ("type", ["step"]),
        ("__class__", "os.system"),
    ],
)
def test_a_step_with_this_field_is_refused(field: str, value: object) -> None:
    """Strict types, strict bounds, no unknown fields; and the text does not repeat the value."""
    fields = next(fields for message, fields, _ in GOLDEN if isinstance(message, Step))
    with pytest.raises(Refused) as refused:
        wire.decode_request(msgspec.msgpack.encode(fields | {field: value}))
    assert refused.value.error.code == ErrorCode.BAD_REQUEST
    assert "welcome" not in refused.value.error.message


def test_a_header_beyond_a_mebibyte_is_refused_unread() -> None:
    """Even a valid one."""
    header = msgspec.msgpack.encode({"type": "hello", "version": 1, "x": bytes(wire.MAX_HEADER_BYTES)})
    with pytest.raises(Refused, match="bytes; the most is"):
        wire.decode_request(header)


def test_headers_that_promise_much_allocate_little() -> None:
    """Arrays and maps of 2³²-1 announced entries, and nesting a thousand deep."""
    tracemalloc.start()
    for bomb in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
        base = wire.encode(Open(RUN, FINGERPRINT, 5, 0.5, 1.0, 1, (), "", ()))
        must_not_crash(bomb)
        must_not_crash(base[:-1] + bomb)
        must_not_crash(base[:-1] + bomb + b"\x01" * 1000)
    must_not_crash(b"\x91" * 100_000)
    must_not_crash(b"\x81\xa1a" * 100_000)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


@given(dtype=st.sampled_from(sorted(DTYPES)), rows=st.integers(1, 5), dim=st.integers(1, 9), seed=st.integers(0, 99))
def test_rows_come_back_bit_for_bit(dtype: str, rows: int, dim: int, seed: int) -> None:
    """Any bit pattern, NaN payloads and negative zeros included, in each of the three dtypes."""
    kind = DTYPES[dtype]
    bits = torch.randint(0, 256, (rows, dim * kind.itemsize), dtype=torch.uint8,
                         generator=torch.Generator().manual_seed(seed))  # fmt: skip
    frame = hidden_to_frame(bits.view(kind))
    assert bytes(frame) == bits.numpy().tobytes()
    back = hidden_from_frame(Step(SESSION, 1, 0, 0, dtype, rows, dim), frame, dtype=kind, dim=dim)
    assert back.dtype == kind and torch.equal(back.view(torch.uint8), bits)


def test_rows_go_little_endian_row_after_row_whatever_their_strides() -> None:
    """1.0 and -2.0 as IEEE 754 says; a transposed tensor is laid out as it reads."""
    rows = torch.tensor([[1.0, 3.0], [-2.0, 4.0]]).T[:1]
    assert bytes(hidden_to_frame(rows)).hex() == "0000803f000000c0"
    assert bytes(hidden_to_frame(rows.bfloat16())).hex() == "803f00c0"


@pytest.mark.parametrize(
    ("changes", "length"),
    [
        ({"dtype": "float16"}, 2 * 8 * 4),
        ({"dtype": "float64"}, 2 * 8 * 8),
        ({"dtype": "__import__('os')"}, 2 * 8 * 4),
        ({"dim": 4}, 2 * 4 * 4),
        ({"dim": 2**31 - 1}, 2 * 8 * 4),
        ({"rows": 3}, 2 * 8 * 4),
        ({"rows": 2**31 - 1}, 2 * 8 * 4),
        ({}, 0),
        ({}, 2 * 8 * 4 - 1),
        ({}, 2 * 8 * 4 + 1),
    ],
    ids=str,
)
def test_rows_of_another_dtype_shape_or_length_are_refused_before_anything_is_allocated(
    changes: dict[str, Any], length: int
) -> None:
    """wrong_tensor, with the cure, and without memory for what the header announces."""
    step = msgspec.structs.replace(Step(SESSION, 1, 0, 0, "float32", 2, 8), **changes)
    frame = bytes(length)
    tracemalloc.start()
    with pytest.raises(Refused) as refused:
        hidden_from_frame(step, frame, dtype=torch.float32, dim=8)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert refused.value.error.code == ErrorCode.WRONG_TENSOR and refused.value.error.advice
