"""THE CONTRACT: every message that crosses the network, byte by byte.

Any ZeroMQ REQ client, in any language, that follows this page can be a device, a third party that publishes its sheets
and collects its deliveries, or an operator who looks how the cloud does.

**Transport.** The client has a REQ socket, the cloud binds a ROUTER (which REQ peers see as a REP). One request, one
reply. A message is one or two frames::

    [header]            all but Step
    [header, rows]      Step

``header`` is a MessagePack map with the key ``type`` and the fields of the class of that name below: all of them
(those shown with a default may be left out), and no others. ``bytes`` fields are MessagePack *bin*, never *str*. A
header is at most 1 MiB, and for a given cloud at most what its longest honest request needs
(:class:`RequestDecoder`).

``rows`` is the tensor's raw buffer, ``rows × dim`` numbers of ``dtype``, little-endian, row after row, nothing before
or after. Dtype and width are those of ``Welcome``.

**A run.** Hello → Welcome; Open → Opened; Step → Tokens, many times; Finish → Final; Close → Closed. Anything may be
answered with Error instead. Connections carry no state: a request may arrive on a fresh socket at any time.

===========  ===========================================================  ==========================================
request      asks                                                         reply
===========  ===========================================================  ==========================================
Hello        who are you                                                  Welcome
Open         cache room for one run; idempotent by ``run_id``             Opened, with the session
Step         compute rows ``position …``; next ids of the last ``want``   Tokens
Finish       outputs ``0 … end-1`` are the reply: its text, and offers    Final
Close        give the room back                                           Closed
ListSheets   which prompt sheets there are                                Sheets
FetchSheet   one of them                                                  SheetText
Collect      a third party's deliveries that it has not acknowledged      Deliveries
Acknowledge  these have arrived: forget them                              Acknowledged
Publish      a third party's sheet, new or in place of the one there is   Published, with its prompt id
Withdraw     take one of them away                                        Withdrawn
Status       how the cloud does                                           StatusReport
===========  ===========================================================  ==========================================

From ListSheets on none needs a session, and all may be repeated at will; a Withdraw that is repeated finds no such
sheet any more: ``unknown_sheet``.

**A delivery** is a third party's copy of a run of its sheet. It is handed out again and again until it is acknowledged;
``run_id`` tells a repeat.

**Output index.** With a prompt of P tokens, the id sampled from the row at position p is output ``p + 1 - P``.
``resumed_ids`` fills outputs ``0 …`` when a lost session is opened again.

**seq** counts the requests of a session: 1, 2, 3 … A repeat with the same bytes gets the same reply, and nothing runs
twice; with other bytes, or with a gap, ``out_of_sequence``. A refused request does not count, except those that
fail while they are worked on: ``not_finite``, and ``internal`` of a Step or Finish.

**prefix.** What a prompt begins with may be the same for everybody: the provider's own words. Its id is SHA-256 of the
fingerprint and of the token ids, each as four bytes, little-endian. A cloud that has computed it answers Open with
``cached``, their number: the rows that follow are sent from there on. Any other answers 0, and all rows are sent.

**position** may lie before what is cached: the cache is cut back to it first.

**Errors.** ``code`` is one of :class:`ErrorCode`; ``advice`` is one sentence for the person; ``retry_after_s`` is there
when waiting helps.

Never pickled, never evaluated: the header is decoded into typed structs, the rows into numbers
(``llama.tensor_frames``, which alone needs torch).
"""

from __future__ import annotations

import enum
import hashlib
import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Union, get_args

import msgspec
from msgspec import Meta

from llama.text.names import PARTY_NAME, SHEET_NAME
from llama.text.printable import NOT_IN_LINKS

VERSION = 3
MAX_HEADER_BYTES = 1 << 20
OTHER_HEADER_BYTES = 8 << 10  # of a request, without the ids of an Open and the text of a Publish
MAX_REASON = 300  # characters of why a header was refused; it may hold a field's name, which the peer has chosen
MAX_CONTEXT = 1 << 20  # tokens
MAX_TEXT = 16 << 20  # characters of a reply or a sheet
MAX_ADVICE = 4000  # characters of an Error's message, and of its advice
MAX_STOP_IDS = 64
MAX_WANT = 64
SESSION_BYTES = 16
RUN_ID_BYTES = 16
FINGERPRINT_BYTES = 32
PREFIX_ID_BYTES = 32
MAX_OFFERS = 12  # of one reply
MAX_SHEETS = 1000  # that are listed
MAX_SHEET_BYTES = 64 << 10  # of one that is published, as UTF-8
MAX_COLLECTED = 64  # deliveries in one answer

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # of one number

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Seq = Annotated[int, Meta(ge=1, le=2**53)]
Micros = Annotated[int, Meta(ge=0, le=2**53)]
Total = Annotated[int, Meta(ge=0, le=2**53)]  # of what happened since the start
SessionId = Annotated[bytes, Meta(min_length=SESSION_BYTES, max_length=SESSION_BYTES)]
RunId = Annotated[bytes, Meta(min_length=RUN_ID_BYTES, max_length=RUN_ID_BYTES)]
Fingerprint = Annotated[bytes, Meta(min_length=FINGERPRINT_BYTES, max_length=FINGERPRINT_BYTES)]
PrefixId = Annotated[bytes, Meta(max_length=PREFIX_ID_BYTES)]  # of prefix_id, or empty
PromptId = Annotated[str, Meta(max_length=200)]
VendorName = Annotated[str, Meta(pattern=rf"\A{PARTY_NAME}\Z")]  # 1 to 40 of a-z, 0-9 and -
SheetName = Annotated[str, Meta(pattern=rf"\A{SHEET_NAME}\Z")]  # 1 to 80 of them; in a third party's directory
Words = Annotated[str, Meta(max_length=500)]
LongText = Annotated[str, Meta(max_length=MAX_TEXT)]
# http(s) or empty; no white space, control characters or signs that would end it, such as quotes and brackets.
WebLink = Annotated[str, Meta(max_length=2000, pattern=rf"\A(https?://[^{NOT_IN_LINKS}]+)?\Z")]


class ErrorCode(enum.StrEnum):
    """Why a request was refused."""

    BAD_REQUEST = "bad_request"  # not this protocol: undecodable, unknown type or field, wrong frame count
    UNSUPPORTED_VERSION = "unsupported_version"
    WRONG_CHECKPOINT = "wrong_checkpoint"  # the device's half and the cloud's are not of the same split
    BUSY = "busy"  # no cache room now; see retry_after_s
    UNKNOWN_SESSION = "unknown_session"  # closed, idled out or the cloud restarted: open again with resumed_ids
    OUT_OF_SEQUENCE = "out_of_sequence"
    WRONG_TENSOR = "wrong_tensor"  # dtype, shape or length of the rows
    NOT_FINITE = "not_finite"  # NaN or infinity in the rows, or in what they were computed to
    OUT_OF_RANGE = "out_of_range"  # a position, want, end, id or setting outside its bounds
    UNKNOWN_SHEET = "unknown_sheet"
    BAD_SHEET = "bad_sheet"  # what was published is no sheet, or is too large
    NOT_SERVED = "not_served"  # this cloud was started without what the request needs
    NOT_ALLOWED = "not_allowed"  # the peer's key is not listed any more, or not for such a request
    INTERNAL = "internal"  # the cloud's own fault


class WireMessage(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type", tag=str.lower
):
    """Base of all messages: immutable, tagged with the lower-case class name, strict."""


class _MessagePart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of what messages are made of."""


class Hello(WireMessage, frozen=True):
    """Who are you; also the heartbeat asked for when a reply is late."""

    version: Count  # of this protocol


class Welcome(WireMessage, frozen=True):
    """What the cloud serves."""

    version: Count
    fingerprint: Fingerprint  # of the split checkpoint, llama.checkpoint
    dtype: Annotated[str, Meta(max_length=32)]  # of the rows: a key of DTYPE_BYTES
    dim: Count  # width of a row
    split_layer: Count
    max_seq_len: Count  # prompt and reply together
    max_rows: Count  # rows per Step


class Open(WireMessage, frozen=True):
    """Ask for a slot for one run. The same ``run_id`` with the same bytes gets the same session."""

    run_id: RunId  # random; also what a delivery is known by
    fingerprint: Fingerprint
    prompt_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    temperature: float
    top_p: float
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    stop_ids: Annotated[tuple[Count, ...], Meta(max_length=MAX_STOP_IDS)]
    prompt_id: PromptId = ""  # which prompt sheet, if one
    # Outputs so far, when a lost session is opened again; no more than the cloud's context.
    resumed_ids: Annotated[tuple[Count, ...], Meta(max_length=MAX_CONTEXT)] = ()
    prefix: PrefixId = b""  # what the prompt begins with, if others' may begin so, too


class Opened(WireMessage, frozen=True):
    """The session: whoever knows it owns it; with keys, only together with the key that it was opened with."""

    session: SessionId
    cached: Count = 0  # positions that are filled already: those of the prefix, where the cloud has it


class Step(WireMessage, frozen=True):
    """Rows at ``position …``, with the frame that holds them."""

    session: SessionId
    seq: Seq
    position: Count
    want: Annotated[int, Meta(ge=0, le=MAX_WANT)]  # how many of the last rows need a next token
    dtype: Annotated[str, Meta(max_length=32)]
    rows: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    dim: Count
    times: bool = False  # say where the time went


class Stages(_MessagePart, frozen=True):
    """Where the time of one Step went, in microseconds; on several ranks, the first one's."""

    queue_us: Micros  # behind others' requests
    layers_us: Annotated[tuple[Micros, ...], Meta(max_length=1024)]  # each of the cloud's layers, in order
    head_us: Micros  # final norm and output head
    sample_us: Micros  # the choice of the next ids


class Tokens(WireMessage, frozen=True):
    """One id per wanted row."""

    ids: Annotated[tuple[Count, ...], Meta(max_length=MAX_WANT)]
    compute_us: Micros  # time from the request's arrival to this reply
    seq: Seq  # of the Step: by it, a reply that comes twice is not taken for the next one's
    stages: Stages | None = None  # if asked for


class Finish(WireMessage, frozen=True):
    """The reply is outputs ``0 … end-1``."""

    session: SessionId
    seq: Seq
    end: Count


class Usage(_MessagePart, frozen=True):
    """What the run cost."""

    prompt_tokens: Count
    output_tokens: Count
    compute_us: Micros


class Offer(_MessagePart, frozen=True):
    """A product of the partner catalogue that fits the reply."""

    product: Words  # its id in the catalogue
    vendor: VendorName
    title: Words
    price: Annotated[int, Meta(ge=0, le=2**53)]  # whole rupiah
    url: WebLink = ""
    item: Words = ""  # the recommended item that it answers; empty where the reply has no list
    matched: Annotated[tuple[Words, ...], Meta(max_length=64)] = ()  # words that both have


class DeliveryStatus(enum.StrEnum):
    """What became of the third party's copy."""

    NONE = "none"  # not a third party's sheet
    QUEUED = "queued"
    WITHHELD = "withheld"  # the reply quotes the provider's system prompt: the third party is told only that
    FAILED = "failed"  # the cloud could not write it down


class Final(WireMessage, frozen=True):
    """The reply as text, cut before the first stop id, and what the provider makes of it."""

    text: LongText
    usage: Usage
    offers: Annotated[tuple[Offer, ...], Meta(max_length=MAX_OFFERS)] = ()
    copy: DeliveryStatus = DeliveryStatus.NONE


class Close(WireMessage, frozen=True):
    """Give the slot back."""

    session: SessionId
    seq: Seq


class Closed(WireMessage, frozen=True):
    """Done; also said of a session that was closed before."""


class ListSheets(WireMessage, frozen=True):
    """Which prompt sheets there are."""


class SheetEntry(_MessagePart, frozen=True):
    """A sheet of the provider's directory; ``NAME``, or ``PARTY/NAME`` for a third party's."""

    prompt_id: PromptId
    title: Words
    asks_for: Annotated[tuple[Words, ...], Meta(max_length=64)] = ()


class Sheets(WireMessage, frozen=True):
    """All sheets, by prompt id."""

    sheets: Annotated[tuple[SheetEntry, ...], Meta(max_length=MAX_SHEETS)]


class FetchSheet(WireMessage, frozen=True):
    """One sheet."""

    prompt_id: PromptId


class SheetText(WireMessage, frozen=True):
    """A sheet as it stands in the provider's directory."""

    prompt_id: PromptId
    text: LongText  # TOML; llama.sheets
    system: LongText = ""  # the provider's own system prompt


class Collect(WireMessage, frozen=True):
    """The oldest deliveries of ``vendor`` that are not acknowledged."""

    vendor: VendorName
    limit: Annotated[int, Meta(ge=1, le=MAX_COLLECTED)] = MAX_COLLECTED


class Delivery(_MessagePart, frozen=True):
    """A third party's copy of one run of its sheet."""

    run_id: RunId
    prompt_id: PromptId
    finished_at: Words  # UTC, ISO 8601
    prompt: LongText  # the third party's sheet
    text: LongText = ""  # the reply, with tags for what the third party need not know
    offers: Annotated[tuple[Offer, ...], Meta(max_length=MAX_OFFERS)] = ()
    withheld: bool = False  # text and offers are kept back: the reply quotes the provider's system prompt


class Deliveries(WireMessage, frozen=True):
    """Oldest first; empty when there are none, and fewer than asked for when they are large."""

    deliveries: Annotated[tuple[Delivery, ...], Meta(max_length=MAX_COLLECTED)]


class Acknowledge(WireMessage, frozen=True):
    """These have arrived."""

    vendor: VendorName
    run_ids: Annotated[tuple[RunId, ...], Meta(max_length=MAX_COLLECTED)]


class Acknowledged(WireMessage, frozen=True):
    """They will not be handed out again."""


class Publish(WireMessage, frozen=True):
    """A third party's sheet, new or in place of the one of that name. Only with keys: ``vendor`` is the key's name."""

    vendor: VendorName
    name: SheetName
    text: Annotated[str, Meta(max_length=MAX_SHEET_BYTES)]  # TOML; llama.sheets


class Published(WireMessage, frozen=True):
    """It is written down, and devices find it from now on."""

    prompt_id: PromptId


class Withdraw(WireMessage, frozen=True):
    """Take one of ``vendor``'s sheets away; runs that have begun with it are still delivered. Only with keys."""

    vendor: VendorName
    name: SheetName


class Withdrawn(WireMessage, frozen=True):
    """Devices do not find it any more."""


class Status(WireMessage, frozen=True):
    """How does the cloud do. With keys an operator's alone is answered; without, who asks on the cloud's machine."""


class StatusReport(WireMessage, frozen=True):
    """The cloud at this moment, and what has happened since its start."""

    up_s: Total  # seconds since the start
    sessions: Count  # that are open
    places: Count  # slots of the KV cache
    waiting: Count  # in line for a slot
    cached: Total  # positions of the cache that sessions have filled
    cache: Total  # positions that it has
    tokens: Total  # ids handed out
    refusals: Total  # requests that were answered with an Error, but for those that wait in line
    draining: bool = False  # no session is opened any more; the cloud stops when the last one has ended


class Error(WireMessage, frozen=True):
    """A request was refused."""

    code: ErrorCode
    message: Annotated[str, Meta(max_length=MAX_ADVICE)]
    advice: Annotated[str, Meta(max_length=MAX_ADVICE)] = ""
    retry_after_s: float | None = None


Request = (
    Hello | Open | Step | Finish | Close | ListSheets | FetchSheet | Collect | Acknowledge | Publish | Withdraw | Status
)
Reply = (
    Welcome
    | Opened
    | Tokens
    | Final
    | Closed
    | Sheets
    | SheetText
    | Deliveries
    | Acknowledged
    | Published
    | Withdrawn
    | StatusReport
    | Error
)

_encoder = msgspec.msgpack.Encoder()
_reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply, strict=True)


class Refused(Exception):
    """A request that the cloud answers with ``error``; raised wherever the fault is found."""

    def __init__(self, code: ErrorCode, message: str, advice: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.error = Error(code, message, advice, retry_after_s)


def prefix_id(fingerprint: bytes, ids: Sequence[int]) -> bytes:
    """Under which name a prefix is known: SHA-256 of the fingerprint and of the ids, four bytes each, little-endian."""
    return hashlib.sha256(fingerprint + b"".join(i.to_bytes(4, "little") for i in ids)).digest()


def encode(message: Request | Reply) -> bytes:
    """The header frame of a message."""
    return _encoder.encode(message)


class RequestDecoder:
    """Decodes the requests to one cloud.

    What is longer than that cloud could use is refused by its length, before any of it is decoded: a header by its
    bytes, a sequence by the number that stands in front of it.

    Args:
        max_seq_len: the cloud's context; no Open has more ``resumed_ids``. None is that of any cloud.

    Attributes:
        max_header_bytes: of any request.
    """

    def __init__(self, max_seq_len: int | None) -> None:
        self.max_header_bytes = MAX_HEADER_BYTES
        requests: Any = Request
        if max_seq_len is not None:
            # An id has at most five bytes; a sheet is what else may be long.
            self.max_header_bytes = min(MAX_HEADER_BYTES, OTHER_HEADER_BYTES + max(MAX_SHEET_BYTES, 5 * max_seq_len))
            resumed_ids = Annotated[tuple[Count, ...], Meta(max_length=max_seq_len)]
            bounded_open = msgspec.defstruct(
                "Open", [("resumed_ids", resumed_ids, ())], bases=(Open,), frozen=True, module=__name__
            )
            requests = Union[bounded_open, *(kind for kind in get_args(Request) if kind is not Open)]
        self._decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(requests, strict=True)

    def decode(self, header: bytes) -> Request:
        """The request in a header frame.

        Raises:
            Refused: ``bad_request``; the text names the field, never its value.
        """
        if len(header) > self.max_header_bytes:
            raise Refused(
                ErrorCode.BAD_REQUEST,
                f"a header of {len(header)} bytes; the most is {self.max_header_bytes}",
                "see llama/wire.py for the protocol",
            )
        try:
            return self._decoder.decode(header)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
            reason = "not a MessagePack map"
            if isinstance(err, msgspec.ValidationError):
                reason = re.sub(r"value ['\"].*['\"]", "value", str(err), flags=re.DOTALL)
            raise Refused(
                ErrorCode.BAD_REQUEST, f"header: {reason[:MAX_REASON]}", "see llama/wire.py for the protocol"
            ) from None


_any_decoder = RequestDecoder(None)


def decode_request(header: bytes) -> Request:
    """The request in a header frame, to whatever cloud. Raises as :meth:`RequestDecoder.decode`."""
    return _any_decoder.decode(header)


def decode_reply(header: bytes) -> Reply:
    """The reply in a header frame.

    Raises:
        ValueError: the bytes are not a reply of this protocol.
    """
    try:
        return _reply_decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise ValueError(str(err)) from None


def check_settings(request: Open) -> None:
    """What the field types of Open cannot say.

    Raises:
        Refused: ``out_of_range``.
    """
    if not (math.isfinite(request.temperature) and 0 <= request.temperature <= 100):
        raise Refused(ErrorCode.OUT_OF_RANGE, "temperature must lie between 0 and 100", "0 is greedy, 0.6 usual")
    if not 0 <= request.top_p <= 1:
        raise Refused(ErrorCode.OUT_OF_RANGE, "top_p must lie between 0 and 1", "0.9 is usual")


def check_ids(ids: Sequence[int], vocab_size: int, field: str) -> None:
    """Every id is in the vocabulary.

    Raises:
        Refused: ``out_of_range``.
    """
    if ids and max(ids) >= vocab_size:
        raise Refused(ErrorCode.OUT_OF_RANGE, f"{field} holds an id beyond the vocabulary of {vocab_size}")
