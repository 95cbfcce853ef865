"""The order of the records: a pure function of (seed, epoch), without memory, buffer or state.

It is ours since a resumed run needs any batch of any epoch by its number alone, and the same under later versions of
the libraries: NumPy's `Generator.permutation` holds an epoch in memory, and may change between versions (NEP 19).
The shuffle of tf.data needs a buffer of records, and an iterator whose state each checkpoint would have to hold.

Position p of a run, counted from 0 over all its epochs, belongs to epoch p // N and to batch p // B: batches run on
across the end of an epoch, so all are full and an epoch uses every record exactly once. An epoch's permutation is a
Feistel network over the smallest even number of bits that holds N; a number outside of 0..N-1 goes through it again
until it is inside (cycle walking: Black and Rogaway, Ciphers with arbitrary finite domains, 2002).
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boceto.kernels import kernel

ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014)."""
    x = (x ^ (x >> _SHIFTS[0])) * _MIX[0]
    x = (x ^ (x >> _SHIFTS[1])) * _MIX[1]
    return x ^ (x >> _SHIFTS[2])


def _keys(count: int, *parts: Any) -> NDArray[np.uint64]:
    """uint64[count] out of `parts`."""
    hashed = hashlib.shake_128("/".join(map(str, parts)).encode()).digest(8 * count)
    return np.frombuffer(hashed, "<u8").astype(np.uint64)


@kernel()
def _permute(  # pragma: no cover - compiled
    numbers: NDArray[np.uint64], count: np.uint64, half: np.uint64, keys: NDArray[np.uint64]
) -> None:
    """Replaces each of `numbers`, uint64[P], by its image under the permutation of 0..count-1; all are uint64."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    for at in range(numbers.size):
        x = numbers[at]
        while True:
            left, right = x >> half, x & mask
            for key in keys:
                y = right * _GOLDEN + key
                y = (y ^ (y >> _SHIFTS[0])) * _MIX[0]
                y = (y ^ (y >> _SHIFTS[1])) * _MIX[1]
                y ^= y >> _SHIFTS[2]
                left, right = right, left ^ (y & mask)
            x = (left << half) | right
            if x < count:
                break
        numbers[at] = x


def permuted(seed: int, epoch: int, count: int, positions: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """int[P] positions in an epoch, 0 <= p < `count` -> int64[P] records, in the epoch's order."""
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    numbers = positions.astype(np.uint64)
    _permute(numbers, np.uint64(count), np.uint64(half), _keys(ROUNDS, "order", seed, epoch))
    return numbers.astype(np.int64)


def rows(seed: int, start: int, stop: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions `start` to `stop` of a run over `count` records -> (epochs int64[P], records int64[P])."""
    positions = np.arange(start, stop, dtype=np.int64)
    epochs = positions // count
    parts = [permuted(seed, epoch, count, positions[epochs == epoch] % count) for epoch in np.unique(epochs).tolist()]
    return epochs, np.concatenate(parts)


def draws(
    seed: int, epochs: NDArray[np.int64], records: NDArray[np.int64], count: int, use: str = "draw"
) -> NDArray[np.uint64]:
    """uint64[P, count], random bits, each a function of (seed, epoch, record), of its column and of its `use`."""
    lanes = _keys(count, use, seed)
    return _mixed(_mixed(epochs.astype(np.uint64) * _GOLDEN + records.astype(np.uint64))[:, None] ^ lanes)


def uniform(seed: int, epochs: NDArray[np.int64], records: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    """float32[P, count] in [0, 1), as `draws`."""
    mixed = draws(seed, epochs, records, count)
    return ((mixed >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)).astype(np.float32)
