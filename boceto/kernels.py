"""How numba compiles: once a machine where it can keep what it made, and else once a process."""

import contextlib
from collections.abc import Callable
from typing import Any

import numba


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """As numba.njit(cache=True, nogil=True), but a cache that cannot be written or read costs time and nothing else."""

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            made = numba.njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # There is no folder for a cache.
            return numba.njit(nogil=True, **options)(function)
        cache = made._cache  # noqa: SLF001 - there is no other way
        cache.load_overload, cache.save_overload = map(_or_none, (cache.load_overload, cache.save_overload))
        return made

    return compiled


def _or_none(call: Callable[..., Any]) -> Callable[..., Any]:
    def called(*words: Any) -> Any:
        with contextlib.suppress(Exception):
            return call(*words)
        return None

    return called
