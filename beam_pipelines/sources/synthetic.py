"""Drawings by rule with hand-like jitter, in QuickDraw's stroke form: for trials and tests, without any input.

A drawing is a pure function of (seed, class, number).
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from beam_pipelines.settings import Settings
from beam_pipelines.sources import Drawing, InputPart, Item
from boceto.errors import SettingsError
from boceto.simplified import pack_simplified

Points = NDArray[np.float64]
PART = 512
MOST = 10_000_000  # A class's drawings, 20,000 parts; QuickDraw's largest class has a third of a million.
SPARE = 8  # Drawings beyond those wanted, in case two come out the same.
_POINTS_A_LINE = 12


class Pen:
    """The random choices of one drawing: uniform numbers from its key alone."""

    def __init__(self, seed: int, category: str, number: int) -> None:
        key = hashlib.blake2b(f"{seed}/{category}/{number}".encode(), digest_size=16).digest()
        self._bits = np.random.Generator(np.random.Philox(key=np.frombuffer(key, np.uint64)))

    def between(self, low: float, high: float) -> float:
        """A number from low to high."""
        return low + (high - low) * float(self._bits.random())

    def whole(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return min(high, int(self.between(low, high + 1)))

    def many(self, count: int, low: float, high: float) -> Points:
        """float64[count, 2] from low to high."""
        return low + (high - low) * self._bits.random((count, 2))


def _line(*corners: tuple[float, float]) -> Points:
    """A stroke through the corners, with points between them that can tremble."""
    ends = np.array(corners, np.float64)
    shares = np.linspace(0, 1, _POINTS_A_LINE, endpoint=False)[:, None]
    sides = [start + shares * (end - start) for start, end in itertools.pairwise(ends)]
    return np.concatenate([*sides, ends[-1:]])


def _arc(x: float, y: float, radius_x: float, radius_y: float, start: float = 0, turns: float = 1) -> Points:  # noqa: PLR0913, PLR0917
    """A stroke along an ellipse, from angle `start` (radians) over `turns` of it."""
    angles = [start + math.tau * turns * step / 40 for step in range(41)]
    return np.array([(x + radius_x * math.cos(angle), y + radius_y * math.sin(angle)) for angle in angles])


def _polygon(pen: Pen, corners: int, radius: float = 1) -> list[tuple[float, float]]:
    first = pen.between(-0.2, 0.2) - math.pi / 2
    angles = [first + math.tau * corner / corners for corner in range(corners + 1)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def _closed(pen: Pen, x: float, y: float, radius: float) -> Points:
    """A circle as hands draw it: it begins anywhere and ends a little early or late."""
    return _arc(x, y, radius, radius * pen.between(0.8, 1.2), pen.between(0, math.tau), pen.between(0.94, 1.05))


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return _line((left, top), (right, top), (right, bottom), (left, bottom), (left, top))


def _arrow(pen: Pen) -> list[Points]:
    head = pen.between(0.25, 0.5)
    return [_line((-1, 0), (1, 0)), _line((1 - head, -head), (1, 0), (1 - head, head))]


def _cup(pen: Pen) -> list[Points]:
    narrow, handle = pen.between(0, 0.25), pen.between(0.25, 0.4)
    body = _line((-0.8, -0.8), (-0.8 + narrow, 0.8), (0.5 - narrow, 0.8), (0.5, -0.8), (-0.8, -0.8))
    return [body, _arc(0.45, 0, handle, handle * 1.2, -math.pi / 2, 0.5)]


def _envelope(pen: Pen) -> list[Points]:
    depth = pen.between(-0.1, 0.25)
    return [_box(-1, -0.65, 1, 0.65), _line((-1, -0.65), (0, depth), (1, -0.65))]


def _face(pen: Pen) -> list[Points]:
    eyes, smile = pen.between(0.3, 0.45), pen.between(0.1, 0.45)
    mouth = _arc(0, 0.3, 0.45, smile, math.pi * pen.between(0.0, 0.1), 0.45)
    return [_closed(pen, 0, 0, 1), _closed(pen, -eyes, -0.3, 0.1), _closed(pen, eyes, -0.3, 0.1), mouth]


def _fish(pen: Pen) -> list[Points]:
    slim, tail = pen.between(0.35, 0.6), pen.between(0.3, 0.5)
    body = _arc(-0.2, 0, 0.8, slim, 0, pen.between(0.95, 1.02))
    return [body, _line((0.6, 0), (1, -tail), (1, tail), (0.6, 0)), _closed(pen, -0.65, -slim / 4, 0.07)]


def _flower(pen: Pen) -> list[Points]:
    petals = pen.whole(5, 7)
    places = _polygon(pen, petals, 0.55)[:-1]
    return [_closed(pen, 0, 0, 0.25), *(_closed(pen, x, y, 0.3) for x, y in places), _line((0, 0.8), (0, 1.9))]


def _grid(pen: Pen) -> list[Points]:
    lines = pen.whole(2, 3)
    places = [-1 + 2 * (line + 1) / (lines + 1) for line in range(lines)]
    return [_line((at, -1), (at, 1)) for at in places] + [_line((-1, at), (1, at)) for at in places]


def _heart(pen: Pen) -> list[Points]:
    wide = pen.between(0.85, 1.15)
    angles = [math.tau * step / 48 for step in range(49)]
    lobes = [
        (wide * 16 * math.sin(t) ** 3, -13 * math.cos(t) + 5 * math.cos(2 * t) + 2 * math.cos(3 * t) + math.cos(4 * t))
        for t in angles
    ]
    return [np.array(lobes) / 16]


def _house(pen: Pen) -> list[Points]:
    roof, door = pen.between(0.5, 1.0), pen.between(-0.5, 0.2)
    walls = _box(-0.8, -0.2, 0.8, 1)
    return [
        walls,
        _line((-1, -0.2), (0, -0.2 - roof), (1, -0.2)),
        _line((door, 1), (door, 0.4), (door + 0.35, 0.4), (door + 0.35, 1)),
    ]


def _ladder(pen: Pen) -> list[Points]:
    rungs, half = pen.whole(4, 7), pen.between(0.25, 0.4)
    heights = [-1 + 2 * (rung + 0.7) / rungs for rung in range(rungs)]
    return [
        _line((-half, -1), (-half, 1)),
        _line((half, -1), (half, 1)),
        *(_line((-half, y), (half, y)) for y in heights),
    ]


def _lightning(pen: Pen) -> list[Points]:
    reach = pen.between(0.4, 0.7)
    return [_line((0.2, -1), (-reach, 0.1), (0, 0.05), (-0.3, 1), (reach, -0.2), (0.1, -0.15), (0.5, -1), (0.2, -1))]


def _spiral(pen: Pen) -> list[Points]:
    turns, first = pen.between(2.2, 4), pen.between(0, math.tau)
    angles = [math.tau * turns * step / 90 for step in range(91)]
    return [np.array([(a / 25 * math.cos(a + first), a / 25 * math.sin(a + first)) for a in angles])]


def _square(pen: Pen) -> list[Points]:
    tall = pen.between(0.85, 1.15)
    return [_box(-1, -tall, 1, tall)]


def _star(pen: Pen) -> list[Points]:
    corners = _polygon(pen, 5)[:-1]
    return [_line(*(corners[index * 2 % 5] for index in range(6)))]


def _sun(pen: Pen) -> list[Points]:
    rays = pen.whole(7, 11)
    inner, outer = _polygon(pen, rays, 0.62)[:-1], _polygon(pen, rays, 1.0)[:-1]
    return [_closed(pen, 0, 0, 0.5), *(_line(a, b) for a, b in zip(inner, outer, strict=True))]


def _tree(pen: Pen) -> list[Points]:
    tiers, trunk = pen.whole(2, 3), pen.between(0.1, 0.2)
    cones = [
        _line(
            (-0.4 - 0.2 * tier, -0.4 + 0.5 * tier),
            (0, -1 + 0.45 * tier),
            (0.4 + 0.2 * tier, -0.4 + 0.5 * tier),
            (-0.4 - 0.2 * tier, -0.4 + 0.5 * tier),
        )
        for tier in range(tiers)
    ]
    foot = -0.4 + 0.5 * (tiers - 1)
    return [*cones, _line((-trunk, foot), (-trunk, foot + 0.5), (trunk, foot + 0.5), (trunk, foot))]


def _wave(pen: Pen) -> list[Points]:
    waves, height, rows = pen.between(2, 3.5), pen.between(0.15, 0.25), pen.whole(1, 2)
    steps = [-1 + 2 * step / 60 for step in range(61)]
    return [np.array([(x, 0.6 * row + height * math.sin(math.pi * waves * x)) for x in steps]) for row in range(rows)]


def _zigzag(pen: Pen) -> list[Points]:
    teeth, height = pen.whole(4, 7), pen.between(0.3, 0.6)
    return [_line(*((-1 + 2 * tooth / teeth, height * (-1) ** tooth) for tooth in range(teeth + 1)))]


RULES: dict[str, Callable[[Pen], list[Points]]] = {
    "arrow": _arrow,
    "circle": lambda pen: [_closed(pen, 0, 0, 1)],
    "cross": lambda pen: [_line((-1, pen.between(-0.2, 0.2)), (1, 0)), _line((pen.between(-0.2, 0.2), -1), (0, 1))],
    "cup": _cup,
    "envelope": _envelope,
    "face": _face,
    "fish": _fish,
    "flower": _flower,
    "grid": _grid,
    "heart": _heart,
    "house": _house,
    "ladder": _ladder,
    "lightning": _lightning,
    "spiral": _spiral,
    "square": _square,
    "star": _star,
    "sun": _sun,
    "tree": _tree,
    "triangle": lambda pen: [_line(*_polygon(pen, 3))],
    "wave": _wave,
    "zigzag": _zigzag,
}


def _by_hand(pen: Pen, lines: list[Points]) -> list[Points]:
    """Leans, stretches and bends the whole drawing, and makes each stroke tremble, drift and run either way."""
    angle, lean = pen.between(-0.35, 0.35), pen.between(-0.3, 0.3)
    wide, tall = pen.between(0.6, 1.4), pen.between(0.6, 1.4)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    frame = np.array([[wide, 0.0], [lean, tall]]) @ turn
    drawn = []
    for line in lines:
        moved = line @ frame + pen.many(1, -0.1, 0.1)
        knots = np.linspace(0, 1, 5)
        along = np.linspace(0, 1, len(line))
        drift = pen.many(5, -0.16, 0.16)
        bend = np.stack([np.interp(along, knots, drift[:, axis]) for axis in range(2)], axis=1)
        moved = moved + bend + pen.many(len(line), -0.02, 0.02)
        drawn.append(moved[::-1] if pen.between(0, 1) < 0.3 else moved)  # noqa: PLR2004 - a third of people's strokes
    return drawn


def draw(seed: int, category: str, number: int) -> bytes:
    """One drawing as packed strokes (`boceto.strokes`)."""
    pen = Pen(seed, category, number)
    return pack_simplified(_by_hand(pen, RULES[category](pen)))


def plan(settings: Settings) -> list[InputPart]:
    """As many drawings a class as are wanted and a few more, or `settings.synthetic_drawings`, in parts.

    Raises:
        SettingsError: they are more than MOST, or without an end.
    """
    if not settings.train_per_class and not settings.synthetic_drawings:
        raise SettingsError(
            "prepare.train_per_class = 0 takes all drawings, and the synthetic source has no end; "
            "give --synthetic-drawings too"
        )
    count = settings.synthetic_drawings or settings.wanted + SPARE
    if count > MOST:
        raise SettingsError(f"prepare: {count:,} synthetic drawings a class are too many; ask for at most {MOST:,}")
    return [
        InputPart(f"{category} {first}", category, first=first, stop=min(first + PART, count))
        for category in sorted(RULES)
        for first in range(0, count, PART)
    ]


def read(part: InputPart, settings: Settings) -> Iterator[Item]:
    """The drawings of one part, in order."""
    for number in range(part.first, part.stop):
        yield Drawing(draw(settings.seed, part.category, number), f"{part.category}/{number}")
