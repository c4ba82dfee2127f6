"""Encrypted owners of the record's rows: pseudonyms that need the cloud's private key to read.

The policy's table says what each party holds of a run, and a key is not in it. But rows over a limit are deleted from
the owner with the largest share, so the cloud must know which rows have the same owner. Each row therefore stores its
owner's pseudonym, encrypted with the row's id as associated data. The result is the same for the same owner and id, so
a replayed run finds its row. Without the secret, two rows do not show whether they have the same owner. With the
secret they do; with the list of public keys as well, they show which key it is.

The encryption follows RFC 5297 (SIV: a keyed digest of everything is both check and nonce). BLAKE2b, whose keyed form
is a MAC, replaces AES. Lengths in bytes: pseudonym 8, stored 16 + 8.
"""

from __future__ import annotations

import hashlib

from llama.keys import KeyPair

_TAG_BYTES, _NAME_BYTES = 16, 8
NOBODY = b""


def secret_of(own: KeyPair) -> bytes:
    """Return the record's secret (32 bytes), derived from the cloud's private key."""
    return hashlib.blake2b(own.secret.encode(), digest_size=32, person=b"run record").digest()


class Owners:
    """Encrypts and decrypts pseudonyms.

    Args:
        secret: from :func:`secret_of`. An empty one hides nothing from a reader who knows the public keys.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def pseudonym(self, owner: str) -> bytes:
        """Return the pseudonym of a public key; :data:`NOBODY` for an empty key."""
        return self._digest(owner.encode(), _NAME_BYTES, b"owner") if owner else NOBODY

    def sealed(self, owner: str, row_id: bytes) -> bytes:
        """Return the encrypted pseudonym for the row with that id; empty for an empty key."""
        if not owner:
            return b""
        name = self.pseudonym(owner)
        tag = self._digest(row_id + name, _TAG_BYTES, b"tag")
        return tag + self._padded(name, tag)

    def opened(self, sealed: bytes, row_id: bytes) -> bytes:
        """Return a row's pseudonym; :data:`NOBODY` if there is none, or another secret encrypted it."""
        if not (isinstance(sealed, bytes) and isinstance(row_id, bytes) and len(sealed) == _TAG_BYTES + _NAME_BYTES):
            return NOBODY
        tag = sealed[:_TAG_BYTES]
        name = self._padded(sealed[_TAG_BYTES:], tag)
        return name if self._digest(row_id + name, _TAG_BYTES, b"tag") == tag else NOBODY

    def _padded(self, name: bytes, tag: bytes) -> bytes:
        pad = self._digest(tag, _NAME_BYTES, b"pad")
        return (int.from_bytes(name, "big") ^ int.from_bytes(pad, "big")).to_bytes(_NAME_BYTES, "big")

    def _digest(self, data: bytes, size: int, what: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=size, key=self._secret, person=what).digest()
