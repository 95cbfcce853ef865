"""The ledger of a run: a rolling hash of the keys of all records that it has used, in order.

Two runs with equal ledgers have seen the same records in the same order, whatever their sessions and replicas were.
"""

import hashlib
from collections.abc import Iterable

EMPTY = "0" * 32
_SIZE = 16


def digest(keys: Iterable[bytes]) -> bytes:
    """16 bytes over the keys of one step's records, in order."""
    hashed = hashlib.blake2b(digest_size=_SIZE)
    for key in keys:
        hashed.update(len(key).to_bytes(4, "little") + key)
    return hashed.digest()


def roll(ledger: str, step: bytes) -> str:
    """The ledger after one more step with the digest `step`; 32 hexadecimal digits."""
    return hashlib.blake2b(bytes.fromhex(ledger) + step, digest_size=_SIZE).hexdigest()
