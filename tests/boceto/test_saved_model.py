import pytest

from boceto import saved_model


def field(number, *parts):
    """A protobuf field that holds texts or messages."""
    body = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    return bytes([number << 3 | 2, len(body)]) + body


def node(op, *called):
    return field(3, field(2, op), *(field(5, field(1, "f"), field(2, field(10, field(1, name)))) for name in called))


def model(objects, **functions):
    """A SavedModel whose objects have these functions; each function is its nodes."""
    library = field(2, *(field(1, field(1, field(1, name)), *nodes) for name, nodes in functions.items()))
    return field(2, field(2, library), field(7, *(field(2, field(1, name)) for name in objects)))


def test_what_is_called_counts_and_what_only_the_saver_calls_does_not():
    save = [node("SaveV2")]
    assert (
        saved_model.reaches_outside(model(["serve"], serve=[node("Conv2D"), node("ReadVariableOp")], save=save)) == []
    )
    hidden = model(["a"], a=[node("If", "b")], b=[node("PartitionedCall", "save"), node("Print")], save=save)
    assert saved_model.reaches_outside(hidden) == ["Print", "SaveV2"]
    assert saved_model.reaches_outside(model(["a"], a=[node("b")], b=[node("PyFunc"), node("a")])) == ["PyFunc"]


@pytest.mark.parametrize("damaged", [b"", b"\x12\x05a", b"\x0b", b"\xff" * 12, b"a model", model([], serve=[])])
def test_what_is_no_saved_model_of_tensorflow_2_is_refused(damaged):
    with pytest.raises(ValueError, match=r"it (is|has)"):
        saved_model.reaches_outside(damaged)
