"""Scenes: the world of the tiny model. One to four shapes on a plain background, placed and drawn.

A Scene says what stands where, and `paint` draws it. `captions` has it in words.
"""

from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .shapes import BACKGROUNDS, PAINTS, SHAPES, cover, known

PIXELS = 64
SIZES = {"small": (0.1, 0.115), "large": (0.165, 0.185)}  # least and greatest radius
REACH = {"circle": 0.95, "square": 1.02, "triangle": 1.1, "star": 1.15, "ring": 1.0, "cross": 1.06}
REACH["crescent"] = 1.1
BOOST = {"star": 1.1}  # a small star needs more pixels to be one
EDGE = 0.015  # the least room between a thing and the picture's side
GAP, ALIKE_GAP = 0.04, 0.08  # and between two things, beyond their reach
ASIDE = 0.04  # how far a thing may be from the line on which it stands
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
LINES = ("left", "above")  # how each thing of a row, or of a column, stands to the next
ALIKE = "alike"  # a scene of two, three or four things of one shape, color and size
KINDS = {1: 0.15, 2: 0.35, 3: 0.25, ALIKE: 0.25}  # how many things, and the share of such scenes
SAME = 0.15  # the share of pairs that have one color for both
IN_LINE = 0.3  # the share of three things alike that stand in a line
# Never in a training picture: these shapes in these colours, and these two shapes together.
HELD_OUT_COLORS = {
    ("circle", "purple"),
    ("square", "cyan"),
    ("triangle", "pink"),
    ("star", "blue"),
    ("ring", "orange"),
    ("cross", "green"),
}
HELD_OUT_SHAPES = {
    frozenset(("circle", "cross")),
    frozenset(("square", "star")),
    frozenset(("triangle", "ring")),
}
SPLITS = {"seen": tuple(KINDS), "colors": (1, 2), "shapes": (2,)}  # and the kinds there are of each
UNSEEN = {("white", "white"), ("white", "cream"), ("black", "black"), ("black", "navy")}
WORLD = tuple(SHAPES)


class Thing(NamedTuple):
    """A shape in a scene: radius and centre as shares of the side, angle in degrees."""

    shape: str
    color: str
    size: str
    radius: float
    x: float
    y: float
    angle: float

    @property
    def reach(self) -> float:
        """How far it goes from its centre to any side, turned as things are."""
        return self.radius * REACH[self.shape]


class Scene(NamedTuple):
    """What a picture shows. relation: how the first of two things stands to the second, or each of
    three in a line to the next."""

    things: tuple[Thing, ...]
    background: str
    relation: str | None = None


def random_scene(
    rng: np.random.Generator,
    things: int | str | None = None,
    split: str = "seen",
    colors: Iterable[str] = PAINTS,
) -> Scene:
    """A scene of a kind of KINDS, or of any: 1, 2 or 3 things, or ALIKE.

    split "seen" holds none of the held-out combinations, "colors" a held-out shape and colour,
    "shapes" two shapes that are held out together. colors: those that things may have.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if things is not None and things not in SPLITS[split]:
        raise ValueError(f"a scene of the split {split!r} cannot have {things} things")
    kind = things or pick(rng, {kind: KINDS[kind] for kind in SPLITS[split]})
    while True:
        background, kinds = one(rng, BACKGROUNDS), _kinds(rng, kind, [*colors])
        hidden = UNSEEN & {(color, background) for _, color in kinds}
        if _split(kinds) == split and not hidden:
            break
    sizes, relation = _sizes(rng, kind, len(kinds)), _relation(rng, kind, len(kinds))
    while True:
        placed = tuple(_place(rng, *what, size) for what, size in zip(kinds, sizes, strict=True))
        if len(kinds) == 3 and relation:
            return Scene(_in_line(rng, placed, relation), background, relation)
        if not all(map(inside, placed)):
            continue
        if apart(placed, ALIKE_GAP) if relation is None else stands(*placed) == relation:
            return Scene(placed, background, relation)


def paint(scene: Scene, pixels: int = PIXELS) -> Tensor:
    """The scene as a picture: float32 (3, pixels, pixels) in -1..1, edges one pixel wide."""
    ground = np.array(known("background", scene.background, BACKGROUNDS), dtype=float)
    picture = np.broadcast_to(ground[:, None, None], (3, pixels, pixels))
    for thing in scene.things:
        color = np.array(known("color", thing.color, PAINTS), dtype=float)[:, None, None]
        covered = cover(thing.shape, thing.radius, thing.x, thing.y, pixels, thing.angle)
        picture = picture * (1 - covered) + color * covered
    return torch.from_numpy(picture / 127.5 - 1).float()


# ---- what there is ------------------------------------------------------------------------


def one(rng: np.random.Generator, names: Iterable):
    """One of the names, each as likely."""
    names = list(names)
    return names[rng.integers(len(names))]


def pick(rng: np.random.Generator, shares: dict):
    """One of the keys, each as likely as its share."""
    until = np.cumsum(list(shares.values()))
    return list(shares)[np.searchsorted(until, rng.random() * until[-1], side="right")]


def _kinds(rng: np.random.Generator, kind: int | str, colors: list[str]) -> list[tuple[str, str]]:
    """The shape and the color of each thing."""
    if kind == ALIKE:
        return [(one(rng, SHAPES), one(rng, colors))] * int(rng.integers(2, 5))
    if kind == 2 and rng.random() < SAME:
        color = one(rng, colors)
        return [(str(shape), color) for shape in rng.choice(WORLD, 2, replace=False)]
    while True:
        kinds = [(one(rng, SHAPES), one(rng, colors)) for _ in range(kind)]
        if len(set(kinds)) == kind:
            return kinds


def _sizes(rng: np.random.Generator, kind: int | str, count: int) -> list[str]:
    """Three things and more are small, or there is no room for them."""
    if count > 2:
        return ["small"] * count
    return [one(rng, SIZES)] * count if kind == ALIKE else [one(rng, SIZES) for _ in range(count)]


def _relation(rng: np.random.Generator, kind: int | str, count: int) -> str | None:
    if kind == 2:
        return one(rng, OPPOSITE)
    in_line = kind == 3 or (count == 3 and rng.random() < IN_LINE)
    return one(rng, LINES) if in_line else None


def _split(kinds: list[tuple[str, str]]) -> str | None:
    """The split a scene belongs to; None for one that is held out twice."""
    colors = any(kind in HELD_OUT_COLORS for kind in kinds)
    together = {shape for shape, _ in kinds}
    shapes = any(pair <= together for pair in HELD_OUT_SHAPES)
    return {(0, 0): "seen", (1, 0): "colors", (0, 1): "shapes"}.get((colors, shapes))


# ---- where it stands ----------------------------------------------------------------------


def _place(rng, shape, color, size) -> Thing:
    radius = rng.uniform(*SIZES[size]) * BOOST.get(shape, 1)
    x, y, angle = rng.random(), rng.random(), rng.uniform(-15, 15)
    return Thing(shape, color, size, radius, x, y, angle)


def _in_line(rng, things: tuple[Thing, ...], relation: str) -> tuple[Thing, ...]:
    """The things one after another to the right, or downwards: any way to do so is as likely."""
    reaches, n = np.array([thing.reach for thing in things]), len(things)
    begin = EDGE + np.cumsum(2 * reaches + GAP) - reaches - GAP  # as near to the start as they go
    room = 1 - 2 * EDGE - 2 * reaches.sum() - GAP * (n - 1)
    along = begin + room * np.sort(rng.random(n))
    least = reaches.max() + EDGE + ASIDE
    aside = rng.uniform(least, 1 - least) + rng.uniform(-ASIDE, ASIDE, n)
    x, y = (along, aside) if relation == "left" else (aside, along)
    return tuple(
        thing._replace(x=float(a), y=float(b)) for thing, a, b in zip(things, x, y, strict=True)
    )


def inside(thing: Thing) -> bool:
    """A thing is wholly in the picture, with some room."""
    least = thing.reach + EDGE
    return all(least <= place <= 1 - least for place in (thing.x, thing.y))


def apart(things: Iterable[Thing], gap: float = GAP) -> bool:
    """Each two things keep apart."""
    return all(
        np.hypot(a.x - b.x, a.y - b.y) >= a.reach + b.reach + gap
        for a, b in combinations(things, 2)
    )


def stands(first: Thing, second: Thing) -> str | None:
    """How first stands to second, if it is clear and they keep apart."""
    dx, dy = first.x - second.x, first.y - second.y
    if not apart((first, second)) or min(abs(dx), abs(dy)) > 0.16:
        return None
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"
