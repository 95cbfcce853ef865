"""Reads the JSON documents that the programs hand each other into dataclasses, and says which field is wrong."""

import dataclasses
import hashlib
import json
import math
import re
import reprlib
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

CLASS = TypeVar("CLASS")
LARGEST = 2**53  # Up to it, a whole number is a float too. What is read is at most half of it: a run adds to it.
WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


_SEAL = re.compile(rb'"seal": "([0-9a-f]{32})"\n}\n\Z')
_BLANK = "0" * 32


def sealed(entry: Mapping[str, Any]) -> bytes:
    """`entry` as JSON that ends in a `seal`, a hash of every byte of it: see `parse_sealed`."""
    others = {name: value for name, value in entry.items() if name != "seal"}
    text = json.dumps({**others, "seal": _BLANK}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    before, _, after = text.rpartition(_BLANK)
    return (before + digest(text.encode()) + after).encode()


def parse_sealed(text: bytes, format: str, version: int) -> dict[str, Any]:
    """As `parse`, for what `sealed` wrote.

    Raises:
        ValueError: as there, or a byte is not as it was written.
    """
    found = parse(text, format, version)
    seal = _SEAL.search(text)
    if not seal:
        raise ValueError("it does not end in a seal")
    first, last = seal.span(1)
    if digest(text[:first] + _BLANK.encode() + text[last:]) != seal[1].decode():
        raise ValueError("it was changed: its seal does not match its bytes")
    return found


def digest(text: bytes) -> str:
    """32 hexadecimal digits over `text`."""
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def decode(text: bytes) -> dict[str, Any]:
    """The JSON object in `text`.

    Raises:
        ValueError: it is none.
    """
    try:
        entry = json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_distinct)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    found: dict[str, Any] = check(dict[str, Any], entry, "it")
    return found


def parse(text: bytes, format: str, version: int) -> dict[str, Any]:
    """The JSON object in `text`, which says its `format` and `version`.

    Raises:
        ValueError: it is none, or of another format or version.
    """
    found = decode(text)
    if (found.get("format"), found.get("version")) != (format, version):
        raise ValueError(
            f"its format is {found.get('format')!r} version {found.get('version')!r}, not {format!r} version {version}"
        )
    return found


def read(cls: type[CLASS], entry: object) -> CLASS:
    """The dataclass `cls` out of the JSON object `entry`, whose fields must have the annotated types.

    The types are int, float, str, bool, Any, dataclasses, and lists and mappings from str of these. An int is a float,
    a bool is no int. Fields that `cls` does not have are left out.

    Raises:
        ValueError: a field is missing or of another type; it names the field.
    """
    found: CLASS = check(cls, entry, "it")
    return found


def field(entry: Mapping[str, Any], name: str, kind: Any) -> Any:
    """What `entry` has at `name`, as a `kind`.

    Raises:
        ValueError: nothing, or it is none; it names the field.
    """
    if name not in entry:
        raise ValueError(f"{name} is missing")
    return check(kind, entry[name], name)


def check(kind: Any, value: Any, place: str) -> Any:
    """`value` as a `kind`, one of the types that `read` knows.

    Raises:
        ValueError: it is none; it names `place`.
    """
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _object(kind, value, place)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        items = _expect(value, list, place, "a list")
        return [check(arguments[0], item, f"{place}[{number}]") for number, item in enumerate(items)]
    if origin in {dict, Mapping}:
        entries = _expect(value, dict, place, "an object")
        return {name: check(arguments[1], item, _below(place, name)) for name, item in entries.items()}
    return _scalar(kind, value, place)


def _object(cls: Any, value: Any, place: str) -> Any:
    entries = _expect(value, dict, place, "an object")
    kinds = typing.get_type_hints(cls)
    values = {}
    for field in dataclasses.fields(cls):
        if field.name in entries:
            values[field.name] = check(kinds[field.name], entries[field.name], _below(place, field.name))
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{_below(place, field.name)} is missing")
    return cls(**values)


def _scalar(kind: type, value: Any, place: str) -> Any:
    if isinstance(value, bool) and kind is not bool:
        raise ValueError(f"{place} is {value}, not {WORDS[kind]}")
    _expect(value, (int, float) if kind is float else kind, place, WORDS[kind])
    try:
        if kind is float and not math.isfinite(value):
            raise ValueError(f"{place} is {value}, not a finite number")
        if kind is int and abs(value) > LARGEST / 2:  # Larger than any count, and too large for much that counts do.
            raise ValueError(f"{place} is too large")
        return kind(value)
    except OverflowError as error:
        raise ValueError(f"{place} is too large") from error


def _expect(value: Any, kind: Any, place: str, words: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{place} is {reprlib.repr(value)}, not {words}")  # noqa: TRY004 - bad data, no bad call
    return value


def _below(place: str, name: str) -> str:
    return name if place == "it" else f"{place}.{name}"


def within(lowest: float, highest: float, /, **values: float) -> None:
    """Makes sure that the values are between the two, or one of them; for a dataclass that reads its fields.

    Raises:
        ValueError: one is not; it names it.
    """
    for name, value in values.items():
        if not lowest <= value <= highest:
            raise ValueError(f"{name} is {value}, not a number from {lowest} to {highest}")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{reprlib.repr(text)} is too large")
    return number


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice")
    return entry


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
