"""Which training records a run holds out for validation. The trainer and the evaluation agree on it."""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def held_out(seed: int, share: float, keys: Iterable[bytes]) -> NDArray[np.bool_]:
    """Returns bool[N]: which of the N keys belong to a `share` 0..1 of them.

    The hash of a key and the seed decides, whatever the other keys are.
    """
    secret = seed.to_bytes(8, "little")
    limit = round(share * 2**64)
    hashes = (hashlib.blake2b(key, digest_size=8, key=secret).digest() for key in keys)
    return np.fromiter((int.from_bytes(digest, "little") < limit for digest in hashes), bool)
