"""The judge: does a picture show what its caption says? Geometry and colour, nothing learned.

It finds the background on the border, splits the rest into pieces that hang together, and reads off
each piece a colour (the nearest of the world's), a shape (the outline that fits best) and a size.
"""

from functools import cache
from itertools import permutations
from typing import NamedTuple

import numpy as np
from torch import Tensor

from .data import BACKGROUNDS, COLORS, SHAPES, cover
from .scenes import BOOST, PIXELS, SIZES, Request, read

LEAST = 12  # pixels that make a thing, not a speck
CLEAR = 60  # how far, of 441 from black to white, a colour may be from its name's
FIT = 0.2  # the greatest share of its area by which a thing may miss its outline
GRID = 28  # pixels along the frame in which outlines are compared
BORDER = sum(SIZES["small"]) / 4 + sum(SIZES["large"]) / 4  # between small and large


class Found(NamedTuple):
    """A thing in a picture; None where it is like nothing of this world. (x, y) from 0 to 1."""

    shape: str | None
    color: str | None
    size: str
    x: float
    y: float


class Seen(NamedTuple):
    """All that a picture shows."""

    things: tuple[Found, ...]
    background: str | None


class Verdict(NamedTuple):
    """What of a caption is right in a picture; None for what the caption leaves open.

    relation: two things stand along the right axis; order: and in the right order.
    """

    count: bool
    shape: bool
    color: bool | None
    size: bool | None
    relation: bool | None
    order: bool | None
    background: bool | None

    @property
    def right(self) -> bool:
        """Nothing that the caption says is wrong."""
        return False not in self

    def __str__(self) -> str:
        wrong = [name for name, good in self._asdict().items() if good is False]
        return "all right" if not wrong else f"wrong: {', '.join(wrong)}"


def judge(picture: Tensor, text: str | Request) -> Verdict:
    """Compare a picture (3, h, w) in -1..1 with its caption."""
    return verdict(look(picture), read(text) if isinstance(text, str) else text)


def verdict(seen: Seen, request: Request) -> Verdict:
    """Compare what was seen with what was asked for, things paired so that most is right."""
    wanted, n = request.things, len(request.things)
    things = [*seen.things, *[None] * (n - len(seen.things))]
    pairings = (_compare(pairing, request) for pairing in permutations(things, n))
    best = max(pairings, key=lambda said: sum(good is True for good in said))
    ground = None if request.background is None else seen.background == request.background
    return Verdict(len(seen.things) == len(wanted), *best, ground)


def _compare(found: tuple[Found | None, ...], request: Request) -> tuple:
    """(shape, color, size, relation, order) for one pairing of things with what is wanted."""
    pairs = list(zip(found, request.things, strict=True))

    def same(field: str) -> bool | None:
        asked = [(thing, getattr(want, field)) for thing, want in pairs if getattr(want, field)]
        return (
            all(thing and getattr(thing, field) == name for thing, name in asked) if asked else None
        )

    relation = order = None
    if request.relation:
        relation = order = False
        if None not in found:
            dx, dy = found[0].x - found[1].x, found[0].y - found[1].y
            across = request.relation in ("left", "right")
            relation = (abs(dx) > abs(dy)) == across
            along = dx if across else dy
            order = relation and (along < 0) == (request.relation in ("left", "above"))
    return same("shape"), same("color"), same("size"), relation, order


# ---- looking ------------------------------------------------------------------------------


def look(picture: Tensor) -> Seen:
    """What a picture (3, h, w) in -1..1 shows."""
    if picture.ndim != 3 or len(picture) != 3 or min(picture.shape) < 3:
        raise ValueError(f"the judge looks at one picture (3, h, w), got {tuple(picture.shape)}")
    rgb = ((picture.detach().double().clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).cpu().numpy()
    edge = np.concatenate([rgb[:2].reshape(-1, 3), rgb[-2:].reshape(-1, 3)])
    edge = np.concatenate([edge, rgb[:, :2].reshape(-1, 3), rgb[:, -2:].reshape(-1, 3)])
    ground = np.median(edge, axis=0)
    away = np.linalg.norm(rgb - ground, axis=-1)
    labels = pieces(away > 45)
    found = [_read_off(rgb, ground, labels == i) for i in range(1, labels.max() + 1)]
    return Seen(tuple(thing for thing in found if thing), _named(ground, BACKGROUNDS))


def pieces(mask: np.ndarray) -> np.ndarray:
    """Number the parts of a mask that hang together by their sides, from 1; 0 where it is off."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        spread = np.pad(labels, 1)
        around = (spread[:-2, 1:-1], spread[2:, 1:-1], spread[1:-1, :-2], spread[1:-1, 2:])
        grown = np.where(mask, np.maximum.reduce([labels, *around]), 0)
        if (grown == labels).all():
            return np.unique(labels, return_inverse=True)[1].reshape(mask.shape) + (
                labels.min() > 0
            )
        labels = grown


def _read_off(rgb: np.ndarray, ground: np.ndarray, mask: np.ndarray) -> Found | None:
    """One piece as a thing, or None for a speck."""
    if mask.sum() < LEAST:
        return None
    core = mask & _inner(mask)
    core = core if core.sum() >= 4 else mask
    paint = np.median(rgb[core], axis=0)
    even = np.linalg.norm(rgb[core] - paint, axis=-1) < CLEAR
    color = _named(paint, COLORS) if even.mean() > 0.75 else None
    # How much of each pixel is paint: where it lies between the ground's colour and the paint's.
    way = paint - ground
    near = mask | _around(mask)
    covered = np.clip((rgb - ground) @ way / (way @ way), 0, 1) * near
    area, side, (x, y) = covered.sum(), len(mask), _middle(covered)
    patch = _framed(covered, x, y, np.sqrt(area))
    misses = {
        name: min(np.abs(patch - outline).mean() for outline in outlines)
        for name, (outlines, _) in _templates().items()
    }
    shape = min(misses, key=misses.get)
    radius = np.sqrt(area / _templates()[shape][1]) / side / BOOST.get(shape, 1)
    miss = misses[shape] * (2 * FRAME) ** 2  # in shares of the area
    size = "small" if radius < BORDER else "large"
    return Found(shape if miss < FIT else None, color, size, float(x / side), float(y / side))


FRAME = 1.0  # half the frame's side, in square roots of the thing's area


def _framed(covered: np.ndarray, x: float, y: float, unit: float) -> np.ndarray:
    """The thing moved to the middle of a frame and scaled to an area of 1, by linear steps."""
    offsets = (np.arange(GRID) + 0.5) / GRID * 2 * FRAME - FRAME
    rows, columns = y + offsets * unit - 0.5, x + offsets * unit - 0.5
    padded = np.pad(covered, 1)
    for axis, places in ((0, rows), (1, columns)):
        places = np.clip(places + 1, 0, padded.shape[axis] - 1.001)
        whole = places.astype(int)
        part = places - whole
        part = part[:, None] if axis == 0 else part[None]
        padded = padded.take(whole, axis) * (1 - part) + padded.take(whole + 1, axis) * part
    return padded


@cache
def _templates() -> dict[str, tuple[list[np.ndarray], float]]:
    """Each shape's outlines in the frame, turned by -24 to 24 degrees, and its area at radius 1."""
    templates = {}
    for shape in SHAPES:
        outlines = []
        for size in (sum(SIZES["small"]) / 2, sum(SIZES["large"]) / 2):
            radius = size * BOOST.get(shape, 1)
            for angle in range(-24, 25, 4):
                drawn = cover(shape, radius, 0.5, 0.5, PIXELS, angle)
                outlines.append(_framed(drawn, *_middle(drawn), np.sqrt(drawn.sum())))
        templates[shape] = outlines, cover(shape, 0.4, 0.5, 0.5, 256).sum() / (0.4 * 256) ** 2
    return templates


def _middle(covered: np.ndarray) -> tuple[float, float]:
    """x and y of the centre of gravity, in pixels."""
    rows, columns = (np.arange(n) + 0.5 for n in covered.shape)
    area = covered.sum()
    return (covered.sum(0) @ columns) / area, (covered.sum(1) @ rows) / area


def _named(color: np.ndarray, names: dict) -> str | None:
    distance = {name: np.linalg.norm(color - np.array(rgb)) for name, rgb in names.items()}
    nearest = min(distance, key=distance.get)
    return nearest if distance[nearest] < CLEAR else None


def _around(mask: np.ndarray) -> np.ndarray:
    p = np.pad(mask, 1)
    return np.logical_or.reduce([p[:-2, 1:-1], p[2:, 1:-1], p[1:-1, :-2], p[1:-1, 2:]])


def _inner(mask: np.ndarray) -> np.ndarray:
    return ~_around(~mask)
