"""Finds the ops of a SavedModel that reach files, the network or Python. Nothing of the model is loaded or run.

The numbers are those of fields in TensorFlow's saved_model.proto, meta_graph.proto, graph.proto, function.proto,
node_def.proto, attr_value.proto and saved_object_graph.proto; the wire format is that of protobuf.dev.
"""

import re
from collections.abc import Iterator

FILE = "saved_model.pb"
# Of TensorFlow 2.21's ops those that read or write files, talk to others, or run Python, by their names.
_OUTSIDE = re.compile(
    "File|Reader|Record|Sav|Restore|Checkpoint|Dataset|Iterator|Summary|ImportEvent|PyFunc|^Print|^Debug|DumpTensor|"
    "Send|Recv|Remote|Rpc|codeProto|ImmutableConst|TRT|LoadAnd|Vocab|Skipgram|FixedUnigram|feed|TPU|Collective|Nccl"
)
_VARINT, _LONG, _BYTES, _SHORT = 0, 1, 2, 5


def reaches_outside(model: bytes) -> list[str]:
    """Returns the ops that reach files, the network or Python, in a `saved_model.pb` that TensorFlow 2 loads and calls.

    It calls the functions of the model's objects, and the functions that these call, but not the saver's functions.

    Raises:
        ValueError: it is no SavedModel, or a SavedModel without objects.
    """
    graphs = list(_at(memoryview(model), 2))
    functions: dict[str, list[memoryview]] = {}
    for function in (found for graph in graphs for found in _at(graph, 2, 2, 1)):
        for name in _at(function, 1, 1):
            functions.setdefault(_text(name), []).extend(_at(function, 3))
    todo = [_text(name) for graph in graphs for name in _at(graph, 7, 2, 1)]
    if not todo:
        raise ValueError("it has no objects with functions, as SavedModels of TensorFlow 2 have")
    seen: set[str] = set()
    while todo:
        called = todo.pop()
        if called in seen:
            continue
        seen.add(called)
        for node in functions.get(called, ()):
            todo += [_text(op) for op in _at(node, 2)]
            todo += [_text(name) for place in ((10, 1), (1, 9, 1)) for name in _at(node, 5, 2, *place)]
    return sorted(name for name in seen - functions.keys() if _OUTSIDE.search(name))


def _text(name: memoryview) -> str:
    return bytes(name).decode()


def _at(message: memoryview, number: int, *below: int) -> Iterator[memoryview]:
    """Yields each text or message in the field `number`, or in the fields `below` these messages."""
    at = 0
    while at < len(message):
        key, at = _number(message, at)
        if key >> 32:
            raise ValueError("it is no protobuf message")
        if key & 7 == _VARINT:
            _, at = _number(message, at)
            continue
        if key & 7 not in {_LONG, _BYTES, _SHORT}:
            raise ValueError("it is no protobuf message")
        size, at = _number(message, at) if key & 7 == _BYTES else (8 if key & 7 == _LONG else 4, at)
        if at + size > len(message):
            raise ValueError("it is cut off")
        if key == number << 3 | _BYTES:
            yield from _at(message[at : at + size], *below) if below else (message[at : at + size],)
        at += size


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """Returns the varint at a place, and the place where it ends."""
    value = 0
    for place, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:  # noqa: PLR2004 - the last byte of a number
            return value, at + place + 1
    raise ValueError("it is cut off")
