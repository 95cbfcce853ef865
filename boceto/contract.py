"""Reads the programs' JSON documents into dataclasses; an error names the wrong field.

No library does it with the value and the place in every error (decision 24).
"""

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
LARGEST = 2**53  # Up to 2^53 a float can be every whole number. A file has at most half of it: a run adds to it.
WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
_SEAL = re.compile(rb'"seal": "([0-9a-f]{32})"\n}\n\Z')
_BLANK = "0" * 32


def sealed(entry: Mapping[str, Any]) -> bytes:
    """Returns `entry` as JSON that ends in a `seal`, a hash of all its bytes, for `parse_sealed`."""
    others = {name: value for name, value in entry.items() if name != "seal"}
    text = json.dumps({**others, "seal": _BLANK}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    before, _, after = text.rpartition(_BLANK)
    return (before + digest(text.encode()) + after).encode()


def parse_sealed(text: bytes, format: str, version: int) -> dict[str, Any]:
    """Parses the text that `sealed` returned, as `parse` does.

    Raises:
        ValueError: as `parse`, or the bytes do not match the seal.
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
    """Returns BLAKE2b of `text` as 32 hexadecimal digits."""
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def decode(text: bytes) -> dict[str, Any]:
    """Returns the JSON object in `text`.

    Raises:
        ValueError: the text is no JSON object, or an object in it has a name twice.
    """
    try:
        entry = json.loads(text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=_distinct)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    found: dict[str, Any] = check(dict[str, Any], entry, "it")
    return found


def parse(text: bytes, format: str, version: int) -> dict[str, Any]:
    """Returns the JSON object in `text`, which must have this `format` and `version`.

    Raises:
        ValueError: as `decode`, or the format or the version is another.
    """
    found = decode(text)
    if (found.get("format"), found.get("version")) != (format, version):
        raise ValueError(
            f"its format is {found.get('format')!r} version {found.get('version')!r}, not {format!r} version {version}"
        )
    return found


def read(cls: type[CLASS], entry: object) -> CLASS:
    """Returns the dataclass `cls` with the fields of the JSON object `entry`; other fields of `entry` are ignored.

    Raises:
        ValueError: a field is missing, or is not of its annotated type, as in `check`; the message names the field.
    """
    found: CLASS = check(cls, entry, "it")
    return found


def field(entry: Mapping[str, Any], name: str, kind: Any) -> Any:
    """Returns the field `name` of `entry` as a `kind`.

    Raises:
        ValueError: the field is missing or is not a `kind`; the message names the field.
    """
    if name not in entry:
        raise ValueError(f"{name} is missing")
    return check(kind, entry[name], name)


def check(kind: Any, value: Any, place: str) -> Any:
    """Returns `value` as a `kind`.

    A kind is int, float, str, bool, Any, a dataclass, or a list or a mapping from str of these. A whole number is also
    a float; true and false are no numbers.

    Raises:
        ValueError: `value` is not a `kind`; the message names `place`.
    """
    if kind is Any:
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        items = _expect(value, list, place, "a list")
        return [check(arguments[0], item, f"{place}[{number}]") for number, item in enumerate(items)]
    if origin in {dict, Mapping}:
        entries = _expect(value, dict, place, "an object")
        return {name: check(arguments[1], item, _below(place, name)) for name, item in entries.items()}
    if not dataclasses.is_dataclass(kind):
        return _scalar(kind, value, place)
    entries, kinds, values = _expect(value, dict, place, "an object"), typing.get_type_hints(kind), {}
    for each in dataclasses.fields(kind):
        if each.name in entries:
            values[each.name] = check(kinds[each.name], entries[each.name], _below(place, each.name))
        elif each.default is each.default_factory is dataclasses.MISSING:
            raise ValueError(f"{_below(place, each.name)} is missing")
    return typing.cast("Any", kind)(**values)


def _scalar(kind: type, value: Any, place: str) -> Any:
    if isinstance(value, bool) and kind is not bool:
        raise ValueError(f"{place} is {value}, not {WORDS[kind]}")
    _expect(value, (int, float) if kind is float else kind, place, WORDS[kind])
    if kind is int and abs(value) > LARGEST / 2:  # A sum of two counts must be exact as a float.
        raise ValueError(f"{place} is too large")
    try:
        found = kind(value)
    except OverflowError as error:
        raise ValueError(f"{place} is too large") from error
    if kind is float and not math.isfinite(found):
        raise ValueError(f"{place} is {value}, not a finite number")
    return found


def _expect(value: Any, kind: Any, place: str, words: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{place} is {reprlib.repr(value)}, not {words}")  # noqa: TRY004 - bad data, no bad call
    return value


def _below(place: str, name: str) -> str:
    return name if place == "it" else f"{place}.{name}"


def within(lowest: float, highest: float, /, **values: float) -> None:
    """Checks that all values are from `lowest` to `highest`.

    Raises:
        ValueError: a value is outside; the message names the value.
    """
    for name, value in values.items():
        if not lowest <= value <= highest:
            raise ValueError(f"{name} is {value}, not a number from {lowest} to {highest}")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{reprlib.repr(text)} is no finite number")
    return number


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice")
    return entry
