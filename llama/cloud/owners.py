"""What the record says of whose a row is: a pseudonym that only who has the cloud's private key can read.

What anybody holds of a run is the policy's table, and no key is in it. But what is over a limit goes from who has
most, so the cloud must know which rows are one owner's. A row therefore has its owner's pseudonym, encrypted with the
row's id as associated data. It is equal for the same owner and id, so that a run that is replayed finds its row. Of two
rows nobody without the secret can say whether they are one owner's; with it, anybody can, and who has the list of
public keys, too, knows whose.

The encryption is RFC 5297's construction (SIV: a keyed digest of all is both check and nonce), with BLAKE2b, whose
keyed form is a MAC, in AES's place. Lengths in bytes: pseudonym 8, stored 16 + 8.
"""

from __future__ import annotations

import hashlib

from llama.keys import KeyPair

_TAG_BYTES, _NAME_BYTES = 16, 8
NOBODY = b""


def secret_of(own: KeyPair) -> bytes:
    """The record's secret, which follows from the cloud's private key."""
    return hashlib.blake2b(own.secret.encode(), digest_size=32, person=b"run record").digest()


class Owners:
    """Seals and reads pseudonyms.

    Args:
        secret: of :func:`secret_of`. An empty one hides nothing from who knows the public keys.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def pseudonym(self, owner: str) -> bytes:
        """Of a public key; :data:`NOBODY` without one."""
        return self._digest(owner.encode(), _NAME_BYTES, b"owner") if owner else NOBODY

    def sealed(self, owner: str, row_id: bytes) -> bytes:
        """What stands in the row of that id; nothing without a key."""
        if not owner:
            return b""
        name = self.pseudonym(owner)
        tag = self._digest(row_id + name, _TAG_BYTES, b"tag")
        return tag + self._padded(name, tag)

    def opened(self, sealed: bytes, row_id: bytes) -> bytes:
        """The pseudonym in a row; :data:`NOBODY` where it is none, or was sealed with another secret."""
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


def key_hash(owner: str, run_id: bytes) -> bytes:
    """What files of version 3 say of an owner: a hash that tells apart, but not whose else a row is."""
    return hashlib.blake2b(owner.encode(), digest_size=16, salt=run_id).digest() if owner else b""
