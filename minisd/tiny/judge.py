"""The judge: does a picture show what its caption says? Geometry and colour, nothing learned.

It finds the background on the border, splits the rest into pieces that hang together, and reads off
each piece a colour (the nearest of the world's), a shape (the outline that fits best) and a size.
"""

from functools import cache
from itertools import permutations
from typing import NamedTuple

import numpy as np
from torch import Tensor

from .captions import Request, read
from .scenes import BOOST, PIXELS, SIZES, WORLD
from .shapes import BACKGROUNDS, PAINTS, cover

LEAST = 12  # pixels that make a thing, not a speck
AWAY = 45  # how far, of 441 from black to white, a thing's colour is from the background's
CLEAR = 60  # how far a colour may be from its name's
MIXED = 40  # how far a pixel may be from all mixtures of a thing's colour with the background's
FIT = 0.15  # the greatest share of its area by which a thing may miss its outline
LEAD = 0.06  # and by how much more it must miss any other's, or it is between two
FRAME = 1.0  # half a side, in square roots of a thing's area, of where outlines are compared
GRID = 28  # pixels along that
STRAIGHT = 0.12  # how far three things in a line may be from one line, of the picture's side
PAIRED = 6  # things of a picture that are paired with what is wanted; all are counted
BORDER = sum(SIZES["small"]) / 4 + sum(SIZES["large"]) / 4  # between small and large


class Found(NamedTuple):
    """A thing in a picture; None where it is like nothing of this world. (x, y) from 0 to 1."""

    shape: str | None
    color: str | None
    size: str | None
    x: float
    y: float


class Seen(NamedTuple):
    """All that a picture shows."""

    things: tuple[Found, ...]
    background: str | None


class Verdict(NamedTuple):
    """What of a caption is right in a picture; None for what the caption leaves open.

    relation: things stand along the right axis, three of them in a line; order: and in the right
    order, or the right one of three between the others.
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


def judge(picture: Tensor, text: str | Request, shapes: tuple[str, ...] = WORLD) -> Verdict:
    """Compare a picture (3, h, w) in -1..1 with its caption. shapes: all that there may be."""
    return verdict(look(picture, shapes), read(text, shapes) if isinstance(text, str) else text)


def verdict(seen: Seen, request: Request) -> Verdict:
    """Compare what was seen with what was asked for, things paired so that most is right.

    What they are weighs more than how they stand, so things that changed places are out of order.
    """
    wanted, n = request.things, len(request.things)
    things = [*seen.things[:PAIRED], *[None] * (n - len(seen.things))]
    pairings = (_compare(pairing, request) for pairing in permutations(things, n))
    best = max(pairings, key=_agreement)
    ground = None if request.background is None else seen.background == request.background
    return Verdict(len(seen.things) == len(wanted), *best, ground)


def _agreement(said: tuple) -> tuple[int, int]:
    """How much is right of (shape, color, size), and of (relation, order)."""
    return said[:3].count(True), said[3:].count(True)


def _compare(found: tuple[Found | None, ...], request: Request) -> tuple:
    """(shape, color, size, relation, order) for one pairing of things with what is wanted."""
    pairs = list(zip(found, request.things, strict=True))

    def same(field: str) -> bool | None:
        asked = [(thing, getattr(want, field)) for thing, want in pairs if getattr(want, field)]
        right = all(thing is not None and getattr(thing, field) == name for thing, name in asked)
        return right if asked else None

    relation = order = None
    if request.relation:
        standing = None not in found and _standing(found, request.relation)
        relation, order = standing or (False, False)
    return same("shape"), same("color"), same("size"), relation, order


def _standing(found: tuple[Found, ...], asked: str) -> tuple[bool, bool]:
    """Whether things stand along the axis that is asked for, and in that order."""
    places = np.array([(thing.x, thing.y) for thing in found])
    spread = np.ptp(places, axis=0)
    across = bool(spread[0] > spread[1])
    along, straight = places[:, 0 if across else 1], len(found) < 3 or spread.min() <= STRAIGHT
    if asked == "between":
        middle = (along[0] - along[1]) * (along[0] - along[2]) < 0
        return bool(straight), bool(straight and middle)
    relation = bool(straight) and across == (asked in ("left", "right"))
    steps = np.diff(along) if asked in ("left", "above") else -np.diff(along)
    return relation, bool(relation and (steps > 0).all())


# ---- looking ------------------------------------------------------------------------------


def look(picture: Tensor, shapes: tuple[str, ...] = WORLD) -> Seen:
    """What a picture (3, h, w) in -1..1 shows, of these shapes; nothing at all if it has a NaN."""
    if picture.ndim != 3 or len(picture) != 3 or min(picture.shape) < 3:
        raise ValueError(f"the judge looks at one picture (3, h, w), got {tuple(picture.shape)}")
    if not picture.is_floating_point():
        raise ValueError(f"the judge looks at numbers from -1 to 1, got {picture.dtype}")
    if picture.isnan().any():
        return Seen((), None)
    rgb = ((picture.detach().double().clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).cpu().numpy()
    border = np.ones(rgb.shape[:2], bool)
    border[2:-2, 2:-2] = False
    ground = np.median(rgb[border], axis=0)
    labels = pieces(np.linalg.norm(rgb - ground, axis=-1) > AWAY)
    masks = (labels == i for i in range(1, labels.max() + 1))
    things = [_read_off(rgb, ground, mask, shapes) for mask in masks if mask.sum() >= LEAST]
    return Seen(tuple(things), _named(ground, BACKGROUNDS))


def pieces(mask: np.ndarray) -> np.ndarray:
    """Number the parts of a mask that hang together by their sides, from 1; 0 where it is off."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    before = None
    while not np.array_equal(labels, before):  # each pixel takes the greatest number around it
        before, spread = labels, np.pad(labels, 1)
        around = (spread[:-2, 1:-1], spread[2:, 1:-1], spread[1:-1, :-2], spread[1:-1, 2:])
        labels = np.where(mask, np.maximum.reduce([labels, *around]), 0)
    return np.searchsorted(np.unique(labels[mask]), labels) + mask


def _read_off(rgb: np.ndarray, ground: np.ndarray, mask: np.ndarray, shapes: tuple) -> Found:
    """One piece as a thing."""
    core = mask & ~_grown(~mask)
    paint = np.median(rgb[core if core.sum() >= 4 else mask], axis=0)
    side, way = len(mask), paint - ground
    if np.linalg.norm(way) < MIXED:  # as many pixels on this side of the background as on that
        x, y = _middle(mask)
        return Found(None, None, None, x / side, y / side)
    # How much of each pixel is paint, and how far it is from any mixture of paint and background.
    share = ((rgb - ground) @ way / (way @ way)).clip(0)
    off = np.linalg.norm(rgb - ground - share[..., None] * way, axis=-1)
    color = _named(paint, PAINTS) if (off[mask] < MIXED).mean() > 0.9 else None
    covered = share.clip(0, 1) * _grown(mask)
    area, (x, y) = covered.sum(), _middle(covered)
    shape, lead, miss = _nearest_shape(_framed(covered, x, y, np.sqrt(area)), shapes)
    radius = np.sqrt(area / _templates(shapes)[1][shape]) / side / BOOST.get(shape, 1)
    size = "small" if radius < BORDER else "large"
    fits = miss < FIT and lead > LEAD
    return Found(shape if fits else None, color, size, x / side, y / side)


def _nearest_shape(patch: np.ndarray, kinds: tuple[str, ...]) -> tuple[str, float, float]:
    """The shape that a framed thing is nearest to, its lead before the next, and by how much of
    its area it misses the outline."""
    apart = np.abs(patch.astype(np.float32) - _templates(kinds)[0])
    misses = apart.mean((2, 3)).min(1) * (2 * FRAME) ** 2
    first, second = np.argsort(misses)[:2]
    return kinds[first], misses[second] - misses[first], misses[first]


def _framed(covered: np.ndarray, x: float, y: float, unit: float) -> np.ndarray:
    """The thing moved to the middle of a frame and scaled to an area of 1, by linear steps."""
    offsets = (np.arange(GRID) + 0.5) / GRID * 2 * FRAME - FRAME
    framed = np.pad(covered, 1)
    for axis, middle in enumerate((y, x)):
        places = (middle + offsets * unit + 0.5).clip(0, framed.shape[axis] - 1.001)
        whole = places.astype(int)
        part = np.expand_dims(places - whole, 1 - axis)
        framed = framed.take(whole, axis) * (1 - part) + framed.take(whole + 1, axis) * part
    return framed


@cache
def _templates(kinds: tuple[str, ...]) -> tuple[np.ndarray, dict[str, float]]:
    """Outlines in the frame (shapes, ways, GRID, GRID), and each shape's area at radius 1.

    The ways are the sizes, turns of -18 to 18 degrees, and edges as drawn or a pixel softer.
    """
    outlines, areas = [], {}
    for shape in kinds:
        areas[shape] = cover(shape, 0.4, 0.5, 0.5, 256).sum() / (0.4 * 256) ** 2
        for size in SIZES.values():
            for angle in range(-18, 19, 3):
                drawn = cover(shape, sum(size) / 2 * BOOST.get(shape, 1), 0.5, 0.5, PIXELS, angle)
                for edges in (drawn, _softened(drawn)):
                    outlines.append(_framed(edges, *_middle(drawn), np.sqrt(drawn.sum())))
    return np.array(outlines, np.float32).reshape(len(kinds), -1, GRID, GRID), areas


def _softened(covered: np.ndarray) -> np.ndarray:
    for axis in (0, 1):
        covered = (np.roll(covered, 1, axis) + 2 * covered + np.roll(covered, -1, axis)) / 4
    return covered


def _middle(covered: np.ndarray) -> tuple[float, float]:
    """x and y of the centre of gravity, in pixels."""
    rows, columns = (np.arange(n) + 0.5 for n in covered.shape)
    area = covered.sum()
    return float(covered.sum(0) @ columns / area), float(covered.sum(1) @ rows / area)


def _named(color: np.ndarray, names: dict) -> str | None:
    distance = {name: np.linalg.norm(color - np.array(rgb)) for name, rgb in names.items()}
    nearest = min(distance, key=distance.get)
    return nearest if distance[nearest] < CLEAR else None


def _grown(mask: np.ndarray) -> np.ndarray:
    """The mask and all pixels that have a side in common with it."""
    p = np.pad(mask, 1)
    return mask | p[:-2, 1:-1] | p[2:, 1:-1] | p[1:-1, :-2] | p[1:-1, 2:]
