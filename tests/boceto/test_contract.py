from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from boceto import contract


@dataclass(frozen=True)
class Inner:
    sizes: list[int]
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    ready: bool
    parts: Mapping[str, Inner]
    free: Mapping[str, Any]


GOOD = {"name": "a", "ready": True, "parts": {"x": {"sizes": [1, 2], "share": 1}}, "free": {"a": [None]}}


def test_a_document_becomes_its_dataclass():
    read = contract.read(Outer, GOOD | {"newer": 1})
    assert read == Outer("a", True, {"x": Inner([1, 2], 1.0)}, {"a": [None]})
    assert isinstance(read.parts["x"].share, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 5}, "name is 5, not a text"),
        ({"ready": 1}, "ready is 1, not true or false"),
        ({"parts": []}, r"parts is \[\], not an object"),
        ({"parts": {"x": {}}}, "parts.x.sizes is missing"),
        ({"parts": {"x": {"sizes": [1, True]}}}, r"parts.x.sizes\[1\] is True, not a whole number"),
        ({"parts": {"x": {"sizes": 5}}}, "parts.x.sizes is 5, not a list"),
        ({"parts": {"x": {"sizes": [], "share": float("inf")}}}, "parts.x.share is inf, not a finite number"),
        ({"parts": {"x": {"sizes": [], "share": 10**400}}}, "parts.x.share is too large"),
        ({"free": 5}, "free is 5, not an object"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        contract.read(Outer, GOOD | change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", r"it is \[\], not an object"),
        (b"\xff", "invalid start byte"),
        (b'{"format": NaN}', "'NaN' is no finite number"),
        (b'{"parts": [{"a": 1, "b": 2, "a": 1}]}', "it has 'a' twice"),
        (b'{"format": "f", "version": 2}', "its format is 'f' version 2, not 'f' version 1"),
        (b"{}", "its format is None"),
    ],
)
def test_what_is_no_document_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        contract.parse(text, "f", 1)
    assert contract.parse(b'{"format": "f", "version": 1}', "f", 1) == {"format": "f", "version": 1}
