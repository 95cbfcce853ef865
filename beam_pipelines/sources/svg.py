"""Drawings as SVG files, one folder a class: the strokes of TU-Berlin's sketches, and others that are drawn by paths.

Source: Eitz, Hays and Alexa 2012, https://cybertron.cg.tu-berlin.de/eitz/projects/classifysketch (`sketches_svg.zip`):
paths of Bézier curves in the order in which they were drawn, in groups that move and scale them. They are placed as in
Google's simplified form, 0..255 from the top left. A drawing with text, shapes, images or arcs is refused.
"""

from collections.abc import Iterator
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from beam_pipelines.settings import Settings
from beam_pipelines.sources import Drawing, InputPart, Item, _pictures
from beam_pipelines.sources._paths import matrix_of, moved, points_of, strokes_of
from boceto import storage
from boceto.entry import MAX_RAW, Refusal
from boceto.errors import SettingsError
from boceto.inputs import normal
from boceto.simplified import EXTENT, pack_placed
from boceto.stores import Entry

MAX_BYTES = 1 << 22
MAX_CURVES = 1 << 14  # TU-Berlin's sketches have some hundreds.
TOLERANCE = 0.5  # Of a line from its curve, of 255.
_SPACE = "http://www.w3.org/2000/svg"
_UNSEEN = {"title", "desc", "metadata", "defs", "style"}
_DEEPEST = 64


def plan(settings: Settings) -> list[InputPart]:
    """The SVG files below `settings.input`, a part a class: the folder that they are in.

    Raises:
        SettingsError: there are none, or one is in no folder.
    """
    found: dict[str, dict[str, Entry]] = {}
    for name, entry in _pictures.files(settings).items():
        if name.lower().endswith(".svg"):
            category = name.rpartition("/")[0].rpartition("/")[2]
            if not category:
                raise SettingsError(f"prepare.input: {name} is in no folder of a class; give a folder of such folders")
            found.setdefault(category, {})[name] = entry
    if not found:
        raise SettingsError(f"prepare.input = {settings.input!r}: no .svg file there; give a folder that has some")
    return [_pictures.part("", category, entries) for category, entries in sorted(found.items())]


def read(part: InputPart, settings: Settings) -> Iterator[Item]:
    """The drawings of one class, in order."""
    for number, url in enumerate(part.urls, 1):
        name = normal(storage.relative(url, settings.input))
        try:
            yield Drawing(ink_of(_content(url)), name)
        except Refusal as refusal:
            yield refusal.of(number, "")._replace(file=name)


def _content(url: str) -> bytes:
    data = _pictures.content(url, MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise Refusal("too_large", f"the file has more than {MAX_BYTES:,} bytes")
    return data


def ink_of(data: bytes) -> bytes:
    """The text of an SVG file -> packed strokes (`boceto.strokes`).

    Raises:
        Refusal: with the reason.
    """
    strokes = _Reader().read(data)
    if not strokes:
        raise Refusal("no_strokes", "the file has no path")
    if sum(map(len, strokes)) > MAX_CURVES:
        raise Refusal("too_many_points", f"the drawing has more than {MAX_CURVES:,} curves")
    every = np.concatenate(strokes)
    if not (abs(every) < MAX_RAW).all():
        raise Refusal("out_of_range", f"a point is beyond {MAX_RAW:g}")
    extent = max(np.ptp(every.real), np.ptp(every.imag))
    if not extent:
        raise Refusal("one_point", "all points are one")
    try:
        return pack_placed([points_of(stroke.tolist(), TOLERANCE * extent / EXTENT) for stroke in strokes])
    except ValueError:
        raise Refusal("too_many_points", "a stroke has too many points") from None


class _Reader:
    """Follows the elements of one file, without a tree of them. Nothing that it names is opened, no entity is made."""

    def __init__(self) -> None:
        self._strokes: list[NDArray[np.complex128]] = []
        self._matrices = [np.identity(3)]  # Of the elements that are open, and of the page.
        self._unseen = 0
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.StartElementHandler, self._parser.EndElementHandler = self._start, self._end
        self._parser.EntityDeclHandler = _refuse_entity

    def read(self, data: bytes) -> list[NDArray[np.complex128]]:
        """The strokes of a file, complex128[S, 4] each."""
        try:
            self._parser.Parse(data, True)
        except (expat.ExpatError, LookupError, ValueError) as error:
            raise Refusal("broken_svg", str(error)) from None
        return self._strokes

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        space, _, tag = name.rpartition(" ")
        depth, line = len(self._matrices) - 1, self._parser.CurrentLineNumber
        if self._unseen or space not in {"", _SPACE} or tag in _UNSEEN:
            self._unseen += 1
            return
        if tag not in {"g", "path"} if depth else tag != "svg":
            raise Refusal("unsupported_svg", f"line {line}: <{tag[:_DEEPEST]}> is not read; draw it with paths")
        if depth == _DEEPEST:
            raise Refusal("unsupported_svg", f"line {line}: groups are nested deeper than {_DEEPEST}")
        try:
            with np.errstate(all="ignore"):  # What is not finite is refused in the end.
                matrix = self._matrices[-1] @ matrix_of(attributes.get("transform", ""))
                strokes = strokes_of(attributes.get("d", "")) if tag == "path" else []
                self._strokes += [moved(stroke, matrix) for stroke in strokes]
        except ValueError as error:
            raise Refusal("unsupported_svg", f"line {line}: <{tag}>: {error}") from None
        self._matrices.append(matrix)

    def _end(self, _: str) -> None:
        if self._unseen:
            self._unseen -= 1
        else:
            self._matrices.pop()


def _refuse_entity(name: str, *_: object) -> None:
    raise Refusal("unsupported_svg", f"the file defines the entity {name!r}, which may unfold to any size")
