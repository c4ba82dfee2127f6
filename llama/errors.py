"""The family of all errors that a person sees.

    SplitLlamaError            one line: what was wrong, where, and what to do; exit code 1
    ├── UsageError             a flag that does not exist or does not parse; exit code 2
    ├── CheckpointError        a directory, file, tensor or field of a checkpoint
    ├── TokenizerError         a tokenizer file, or a dialogue that cannot be encoded
    ├── PromptError            a prompt file, or a prompt that does not fit
    ├── ProfileError           the person's profile
    ├── HistoryError           the person's history of runs
    ├── PrivacyRefused         the gate stopped something that must not leave the device
    │   └── Declined           the person has not agreed
    ├── DeviceError            a torch device or dtype this machine does not have
    ├── BindError              an address the cloud cannot listen on
    ├── MemoryCeilingReached   the program has more memory than it may; exit code 3
    ├── KeysError              a key file, or the directory of allowed keys
    ├── RecordError            the file of finished runs
    ├── CatalogueError         the partner catalogue, or the file of products that it is made from
    ├── BackupError            a back-up of these, or its destination
    └── LinkError              the device's side of the network
        ├── CloudUnreachable   no answer before the deadline
        │   └── RequestUnanswered   the cloud lives, but a request was not answered in time
        ├── ProtocolMismatch   the peer answered, but not in this protocol
        └── CloudRefused       the cloud answered with a typed error (``code``)

A message never holds personal data: it may name a file, a field, a flag, a shape or an address, never text from a
prompt.
"""

from __future__ import annotations


class SplitLlamaError(Exception):
    """Base of the family: its message is complete and is printed without a traceback."""

    exit_code = 1


class UsageError(SplitLlamaError):
    """The command line itself is wrong; nothing has been run."""

    exit_code = 2


class CheckpointError(SplitLlamaError):
    """A checkpoint directory, or something in it, is missing, damaged or of another kind than expected."""


class TokenizerError(SplitLlamaError):
    """A tokenizer file cannot be used, or a dialogue cannot be written in the model's chat format."""


class PromptError(SplitLlamaError):
    """The prompt file cannot be read, or the prompt does not fit the model's context."""


class ProfileError(SplitLlamaError):
    """The profile cannot be read, or a field of it cannot be used."""


class HistoryError(SplitLlamaError):
    """The history of runs cannot be read or written. If it was to be written before a run, nothing was sent."""


class PrivacyRefused(SplitLlamaError):
    """Nothing was sent: the gate found a secret in the prompt, or there was no one to give consent."""


class Declined(PrivacyRefused):
    """Nothing was sent: the person did not agree. That is a choice, not an error, and is not reported as one."""


class DeviceError(SplitLlamaError):
    """The torch device or dtype asked for is not available here."""


class BindError(SplitLlamaError):
    """The cloud cannot listen on the address it was given."""


class MemoryCeilingReached(SplitLlamaError):
    """The program ends because it has more memory than it may; a restart continues its work."""

    exit_code = 3


class KeysError(SplitLlamaError):
    """A key file, or the directory of allowed keys, is invalid, unreadable, not writable, or open to others."""


class RecordError(SplitLlamaError):
    """The file of finished runs is invalid, of another version, or cannot be read or written."""


class CatalogueError(SplitLlamaError):
    """The partner catalogue, or the file of products to import, is invalid, of another version, or faulty."""


class BackupError(SplitLlamaError):
    """A back-up cannot be written, is invalid or damaged, or would overwrite existing files when restored."""


class LinkError(SplitLlamaError):
    """Something between the device and the cloud went wrong."""


class CloudUnreachable(LinkError):
    """No answer from the cloud within the deadline."""


class RequestUnanswered(CloudUnreachable):
    """The cloud sends heartbeats, but has not answered a request within so many deadlines."""


class ProtocolMismatch(LinkError):
    """The peer answered, but its bytes are not this protocol (or not this version of it)."""


class CloudRefused(LinkError):
    """The cloud answered with a typed error.

    Args:
        code: one of ``llama.wire.ErrorCode``.
        message: the problem.
        advice: the remedy.
        retry_after_s: seconds after which the same request may succeed, or None.
    """

    def __init__(self, code: str, message: str, advice: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"the cloud refused ({code}): {message}; {advice}" if advice else f"{code}: {message}")
        self.code = code
        self.retry_after_s = retry_after_s
