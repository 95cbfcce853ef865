"""The paths of SVG as Bézier curves, and these as lines.

Source: https://www.w3.org/TR/SVG11/paths.html#PathData and https://www.w3.org/TR/SVG11/coords.html#TransformAttribute.
Every piece of a path becomes a cubic curve, straight lines too. While a path is read, a point is x + iy.
"""

import itertools
import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Curve = tuple[complex, complex, complex, complex]
_TAKES = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "Z": 0}  # Numbers behind a command.
_LETTERS = "".join(_TAKES)
_PIECE = re.compile(rf"([{_LETTERS}])([^{_LETTERS}]*)", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_TRANSFORM = re.compile(r"(translate|scale|matrix)\s*\(([^()]*)\)")
_BETWEEN = " \t\r\n,"
_SHOWN = 20
_MOST_HALVINGS = 10


def strokes_of(path: str) -> list[list[Curve]]:
    """The text of a path (`M 10 20 C …`) -> its strokes. A move alone draws nothing.

    Raises:
        ValueError: the text is no path, or has an arc.
    """
    path = path.strip(_BETWEEN)
    if path and path[0] not in "Mm":
        raise ValueError(f"it begins with {path[:_SHOWN]!r}, and not with M")
    pen = _Pen()
    for letter, text in _PIECE.findall(path):
        numbers, takes = _numbers(text), _TAKES[letter.upper()]
        if len(numbers) % takes if takes and numbers else takes or numbers:
            raise ValueError(f"{letter} has {len(numbers)} numbers, and takes {takes}")
        groups = [numbers[at : at + takes] for at in range(0, len(numbers), takes)] if takes else [numbers]
        # The pairs behind that of a move are lines.
        letters = itertools.chain(letter, itertools.repeat({"M": "L", "m": "l"}.get(letter, letter)))
        for each, group in zip(letters, groups, strict=False):
            pen.follow(each, group)
    return [stroke for stroke in pen.strokes if stroke]


def _numbers(text: str) -> list[float]:
    if rest := _NUMBER.sub(" ", text).strip(_BETWEEN):
        raise ValueError(f"{rest[:_SHOWN]!r} is neither a number nor one of the commands {_LETTERS}")
    return [float(number) for number in _NUMBER.findall(text)]


class _Pen:
    """Where a path is, where its stroke began, and the last control point of the curve before."""

    def __init__(self) -> None:
        self.strokes: list[list[Curve]] = [[]]
        self._at = self._start = self._control = 0j
        self._before = ""

    def follow(self, letter: str, numbers: list[float]) -> None:
        """Follows one command with the numbers that it takes."""
        command, base = letter.upper(), self._at if letter.islower() else 0j
        points = [base + complex(x, y) for x, y in zip(numbers[::2], numbers[1::2], strict=False)]
        if command == "M":
            self.strokes.append([])
            self._at = self._start = points[0]
        elif command == "Z":
            self._line(self._start)
            self.strokes.append([])
        elif command == "H":
            self._line(complex(numbers[0] + base.real, self._at.imag))
        elif command == "V":
            self._line(complex(self._at.real, numbers[0] + base.imag))
        elif command == "L":
            self._line(points[0])
        else:
            self._curve(command, points)
        self._before = command

    def _line(self, end: complex) -> None:
        third = (end - self._at) / 3
        self._add(self._at + third, end - third, end)

    def _curve(self, command: str, points: list[complex]) -> None:
        *controls, end = points
        if command in "ST":  # Its first control point is the last one mirrored, behind a curve of the same kind.
            mirrors = self._before in {"S": "CS", "T": "QT"}[command]
            controls.insert(0, 2 * self._at - self._control if mirrors else self._at)
        if command in "QT":
            (control,) = controls
            self._add(self._at + (control - self._at) * 2 / 3, end + (control - end) * 2 / 3, end)
        else:
            first, second = controls
            self._add(first, second, end)
        self._control = controls[-1]

    def _add(self, first: complex, second: complex, end: complex) -> None:
        self.strokes[-1].append((self._at, first, second, end))
        self._at = end


def matrix_of(transform: str) -> NDArray[np.float64]:
    """`translate(87.5,1) scale(2)` -> float64[3, 3], which a column (x, y, 1) is multiplied by.

    Raises:
        ValueError: there is something else in it.
    """
    if rest := _TRANSFORM.sub(" ", transform).strip(_BETWEEN):
        raise ValueError(f"{rest[:_SHOWN]!r} is neither translate, nor scale, nor matrix")
    found = np.identity(3)
    for name, text in _TRANSFORM.findall(transform):
        numbers = _numbers(text)
        match name, len(numbers):
            case "translate", 1 | 2:
                rows = [1, 0, 0, 1, *numbers, 0][:6]
            case "scale", 1 | 2:
                rows = [numbers[0], 0, 0, numbers[-1], 0, 0]
            case "matrix", 6:
                rows = numbers
            case _:
                raise ValueError(f"{name} has {len(numbers)} numbers")
        local = np.identity(3)
        local[:2] = np.reshape(rows, (3, 2)).T
        found = found @ local
    return found


def moved(stroke: list[Curve], matrix: NDArray[np.float64]) -> NDArray[np.complex128]:
    """The curves of a stroke, complex128[S, 4], where a matrix takes them."""
    points = np.array(stroke, np.complex128)
    xs, ys = (row[0] * points.real + row[1] * points.imag + row[2] for row in matrix[:2])
    return xs + 1j * ys


def points_of(curves: Iterable[Curve], tolerance: float) -> NDArray[np.float64]:
    """A stroke of curves -> float64[N, 2]: points on it, between which straight lines stay within `tolerance`."""
    (first, *_), *_ = stroke = list(curves)
    points = [first]
    for curve in stroke:
        points += _ends(curve, tolerance, _MOST_HALVINGS)
    return np.array(points, np.complex128).view(np.float64).reshape(-1, 2)


def _ends(curve: Curve, tolerance: float, halvings: int) -> list[complex]:
    """The ends of the pieces of a curve, halved (de Casteljau) until the control points of each are near its chord:
    the curve lies between its points.
    """
    start, first, second, end = curve
    if not halvings or max(_distance(first, start, end), _distance(second, start, end)) <= tolerance:
        return [end]
    left, top, right = (start + first) / 2, (first + second) / 2, (second + end) / 2
    low, high = (left + top) / 2, (top + right) / 2
    middle = (low + high) / 2
    halves = (start, left, low, middle), (middle, high, right, end)
    return [point for half in halves for point in _ends(half, tolerance, halvings - 1)]


def _distance(point: complex, start: complex, end: complex) -> float:
    """Of a point from the line between two."""
    side, away = end - start, point - start
    square = abs(side) ** 2
    share = min(1.0, max(0.0, (away * side.conjugate()).real / square)) if square else 0.0
    return abs(away - share * side)
