"""The arrays of numbers in the pickle of an array of objects, as numpy stores it; nothing of the pickle is run.

A pickle is a program: to load one that somebody else has made may do anything
(https://docs.python.org/3/library/pickle.html). `pickletools` lists its operations without running them. Here those
that build arrays are followed on a stack, and every other operation ends it. Arrays come one by one, and what is held
is bounded, whatever the file says.

Source: https://docs.python.org/3/library/pickletools.html, and `ndarray.__reduce__` of numpy.
"""

import pickletools
from collections.abc import Iterator
from typing import IO, Any, NamedTuple, cast

_NAMES = {
    "numpy.core.multiarray _reconstruct": "array",
    "numpy._core.multiarray _reconstruct": "array",
    "numpy ndarray": "class",
    "numpy dtype": "type",
    "_codecs encode": "bytes",  # So does Python 3 write bytes in protocol 2.
}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "EMPTY_LIST": []}
_VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES",
    "SHORT_BINUNICODE", "BINUNICODE",
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS, _GETS = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"BINGET", "LONG_BINGET"}
_IGNORED = {"PROTO", "FRAME", "STOP"}
_MOST = 10_000  # Values that are held at once; a pickle adds to a list by thousands.
_MOST_BYTES, _LONGEST = 1 << 22, 1 << 20  # Together, and of one value.
_SHORT = 64


class Foreign(Exception):  # noqa: N818 - not an error: why the rest of a pickle is not used
    """The pickle is of something else than arrays of numbers."""


class Numbers(NamedTuple):
    """An array as the pickle says it, unchecked: its shape, type (`<i2`), bytes, and whether columns stand first."""

    shape: Any
    type: str
    data: bytes
    by_column: bool


class _Name(str):
    """One of _NAMES."""

    __slots__ = ()


class _Type:
    """A `numpy.dtype`."""

    def __init__(self, code: Any) -> None:
        self.code, self.order = code, ""


class _Array:
    """A `numpy.ndarray`, whose content comes last."""


class Again(NamedTuple):
    """An array that stands in the pickle before: it is named by its place."""


def arrays(file: IO[bytes]) -> Iterator[Numbers | Again]:
    """The arrays of numbers of a pickle, in order.

    Raises:
        Foreign: there is something else in it, or it is broken.
    """
    machine = _Machine()
    try:
        for operation, argument, _ in pickletools.genops(cast("IO[bytes]", _Bounded(file))):
            found = machine.follow(operation.name, argument)
            if found is not None:
                yield found
    except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        raise Foreign(f"its pickle is broken: {error}") from error


class _Bounded:
    """A file of which no piece is read that no drawing has."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        if size > _LONGEST:
            raise Foreign(f"it has a value of {size:,} bytes, more than {_LONGEST:,}")
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline(_LONGEST)
        if b"\\" in line:
            raise Foreign(f"it has the name {line[:_SHORT]!r}")
        return line


class _Machine:
    """The stack of a pickle, its marks, and the values that it may refer to again."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._puts = self._bytes = 0

    def follow(self, name: str, argument: Any) -> Numbers | Again | None:
        """Follows one operation; returns the array that it completes, if it does."""
        if name in _VALUES:
            self._bytes += len(argument) if isinstance(argument, str | bytes) else 0
            self._push(argument)
        elif name in _CONSTANTS:
            self._push(_CONSTANTS[name])
        elif name in _PUTS:
            self._put(argument)
        elif name in _GETS and argument not in self._memo and argument <= self._puts:
            self._push(_Array())  # No value is noted for this place: it is an array's, or what follows fails.
            return Again()
        elif name in _GETS:
            self._push(self._memo[argument])
        elif name in _TUPLES:
            self._push(tuple(self._pop(_TUPLES[name])))
        elif name not in _IGNORED:
            return self._act(name, argument)
        return None

    def _act(self, name: str, argument: Any) -> Numbers | None:
        if name == "MARK":
            self._marks.append(len(self._stack))
            self._check_size()
        elif name == "TUPLE":
            self._push(tuple(self._pop_to_mark()))
        elif name in {"APPEND", "APPENDS"}:
            self._pop(1) if name == "APPEND" else self._pop_to_mark()
        elif name in {"GLOBAL", "STACK_GLOBAL"}:
            asked = argument or " ".join(self._pop(2))
            if asked not in _NAMES:
                raise Foreign(
                    f"it asks for {asked.replace(' ', '.')[:_SHORT]}, which is no part of an array of numbers"
                )
            self._push(_Name(_NAMES[asked]))
        elif name == "REDUCE":
            self._reduce(*self._pop(2))
        elif name == "BUILD":
            return self._build(*self._pop(1))
        else:
            raise Foreign(f"it has the operation {name}, and no array of numbers has")
        return None

    def _push(self, value: Any) -> None:
        self._stack.append(value)
        self._check_size()

    def _check_size(self) -> None:
        if max(len(self._stack), len(self._marks)) > _MOST or self._bytes > _MOST_BYTES:
            raise Foreign(f"it holds more than {_MOST:,} values or {_MOST_BYTES:,} bytes at once")

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise ValueError("its stack is empty")
        taken = self._stack[-count:]
        del self._stack[-count:]
        return taken

    def _pop_to_mark(self) -> list[Any]:
        start = self._marks.pop()
        taken = self._stack[start:]
        del self._stack[start:]
        return taken

    def _put(self, place: int | None) -> None:
        """Notes what may be asked for again: names, types and short texts, and no drawings."""
        value, self._puts = self._stack[-1], self._puts + 1
        is_long = isinstance(value, str | bytes) and len(value) > _SHORT
        if not is_long and not isinstance(value, tuple | _Array) and len(self._memo) < _MOST:
            self._memo[self._puts - 1 if place is None else place] = value

    def _reduce(self, name: Any, arguments: Any) -> None:
        if not isinstance(name, _Name):
            raise TypeError("it calls what is no name")
        if name == "array":
            self._push(_Array())
        elif name == "type":
            self._push(_Type(arguments[0]))
        elif name == "bytes":
            self._push(arguments[0].encode("latin-1"))
        else:
            raise TypeError("it calls a class")

    def _build(self, state: Any) -> Numbers | None:
        target = self._stack[-1]
        if isinstance(target, _Type):
            target.order = state[1]
        elif isinstance(target, _Array):
            _, shape, kind, by_column, data = state
            content = data.encode("latin-1") if isinstance(data, str) else data
            self._bytes = 0
            if isinstance(content, bytes):  # Else it is the array of the arrays.
                return Numbers(shape, f"{kind.order}{kind.code}", content, bool(by_column))
        else:
            raise TypeError("it fills what is no array")
        return None
