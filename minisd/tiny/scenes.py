"""Captioned scenes: the world of the tiny model. One or two shapes, drawn, and said in words.

A Scene says what stands where; `paint` draws it, `caption` says it in one of several ways, and
`read` understands a caption again, so that the judge can compare a picture with its sentence.
"""

import re
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..text.tokenizer import PUNCTUATION
from .shapes import BACKGROUNDS, COLORS, SHAPES, cover, known

PIXELS = 64
SIZES = {"small": (0.1, 0.115), "large": (0.165, 0.185)}  # least and greatest radius
REACH = {"circle": 0.95, "square": 1.02, "triangle": 1.1, "star": 1.15, "ring": 1.0, "cross": 1.06}
REACH["crescent"] = 1.1
BOOST = {"star": 1.1}  # a small star needs more pixels to be one
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
RELATIONS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
OPENINGS = ("", "", "there is ", "a picture of ")
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
SPLITS = ("seen", "colors", "shapes")
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
    """What a picture shows. relation: how the first of two things stands to the second."""

    things: tuple[Thing, ...]
    background: str
    relation: str | None = None


class Wanted(NamedTuple):
    """A thing as a caption asks for it; None where the caption leaves it open."""

    shape: str
    color: str | None = None
    size: str | None = None


class Request(NamedTuple):
    """What a caption asks for; None where it leaves it open."""

    things: tuple[Wanted, ...]
    background: str | None = None
    relation: str | None = None


# ---- scenes -------------------------------------------------------------------------------


def random_scene(rng: np.random.Generator, things: int | None = None, split: str = "seen") -> Scene:
    """A scene of one or two things (six in ten have two).

    split "seen" holds none of the held-out combinations, "colors" a held-out shape and colour,
    "shapes" two shapes that are held out together.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if things not in (None, 1, 2) or (split == "shapes" and things == 1):
        raise ValueError(f"a scene of the split {split!r} cannot have {things} things")
    count = things or (2 if split == "shapes" or rng.random() < 0.6 else 1)
    while True:
        kinds = [(_one(rng, SHAPES), _one(rng, COLORS)) for _ in range(count)]
        if len(set(kinds)) == count and _split(kinds) == split:
            break
    sizes = [_one(rng, SIZES) for _ in kinds]
    background, relation = _one(rng, BACKGROUNDS), _one(rng, OPPOSITE) if count == 2 else None
    while True:
        placed = tuple(_place(rng, *kind, size) for kind, size in zip(kinds, sizes, strict=True))
        if all(inside(thing) for thing in placed) and (
            relation is None or stands(*placed) == relation
        ):
            return Scene(placed, background, relation)


def paint(scene: Scene, pixels: int = PIXELS) -> Tensor:
    """The scene as a picture: float32 (3, pixels, pixels) in -1..1, edges one pixel wide."""
    ground = np.array(known("background", scene.background, BACKGROUNDS), dtype=float)
    picture = np.broadcast_to(ground[:, None, None], (3, pixels, pixels))
    for thing in scene.things:
        color = np.array(known("color", thing.color, COLORS), dtype=float)[:, None, None]
        covered = cover(thing.shape, thing.radius, thing.x, thing.y, pixels, thing.angle)
        picture = picture * (1 - covered) + color * covered
    return torch.from_numpy(picture / 127.5 - 1).float()


def _split(kinds) -> str | None:
    """The split a scene belongs to; None for one that is held out twice."""
    colors = any(kind in HELD_OUT_COLORS for kind in kinds)
    shapes = frozenset(shape for shape, _ in kinds) in HELD_OUT_SHAPES
    return {(0, 0): "seen", (1, 0): "colors", (0, 1): "shapes"}.get((colors, shapes))


def _one(rng: np.random.Generator, names):
    return list(names)[rng.integers(len(names))]


def _place(rng, shape, color, size) -> Thing:
    radius = rng.uniform(*SIZES[size]) * BOOST.get(shape, 1)
    x, y, angle = rng.random(), rng.random(), rng.uniform(-15, 15)
    return Thing(shape, color, size, radius, x, y, angle)


def inside(thing: Thing) -> bool:
    """A thing is wholly in the picture, with some room."""
    return all(thing.reach + 0.015 <= place <= 0.985 - thing.reach for place in (thing.x, thing.y))


def stands(first: Thing, second: Thing) -> str | None:
    """How first stands to second, if it is clear and they keep apart."""
    dx, dy = first.x - second.x, first.y - second.y
    if np.hypot(dx, dy) < first.reach + second.reach + 0.04 or min(abs(dx), abs(dy)) > 0.16:
        return None
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


# ---- captions -----------------------------------------------------------------------------


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """The scene in words, one of many ways: some leave out colour, size, place or background."""
    things, relation = list(scene.things), scene.relation
    if len(things) == 2 and rng.random() < 0.5:
        things, relation = things[::-1], OPPOSITE[relation]
    said = [_noun(thing, rng) for thing in things]
    how = "and" if rng.random() < 0.1 else _one(rng, RELATIONS.get(relation, ("",)))
    ground = ""
    if rng.random() < 0.5:
        ground = _one(rng, (f" on {scene.background}", f" on a {scene.background} background"))
    return _one(rng, OPENINGS) + f" {how} ".join(said) + ground


def _noun(thing: Thing, rng: np.random.Generator) -> str:
    size = [thing.size] if rng.random() < 0.5 else []
    color = [thing.color] if rng.random() < 0.85 else []
    words = [*size, *color, thing.shape]
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"


RELATION = {phrase: name for name, phrases in RELATIONS.items() for phrase in (*phrases, name)}
WORDS = {*SHAPES, *COLORS, *SIZES, *BACKGROUNDS, *" ".join([*OPENINGS, *RELATION]).split()}
WORDS |= {"a", "an", "and", "on", "background"}


@cache
def _caption(shapes: tuple[str, ...]) -> re.Pattern:
    """What captions of things of these shapes look like."""
    colors = "|".join(COLORS)
    thing = rf"(?:an? )?(?:({'|'.join(SIZES)}) )?(?:({colors}) )?({'|'.join(shapes)})"
    ground = rf" on (?:an? )?({'|'.join(BACKGROUNDS)})(?: background)?"
    return re.compile(
        rf"(?:{'|'.join(filter(None, OPENINGS))})?{thing}"
        rf"(?: (and|{'|'.join(RELATION)}) {thing})?(?:{ground})?"
    )


def unknown_words(text: str) -> list[str]:
    """The words that no caption of this world holds, in their order."""
    return [word for word in _words(text) if word not in WORDS]


def misplaced(text: str) -> str:
    """What a model of this world will not make of a prompt whose words it knows, in a sentence.

    "" where there is nothing to say: for a caption, a word alone, and where words are unknown.
    """
    words = _words(text)
    if len(words) < 2 or unknown_words(text):
        return ""
    for before, word in pairwise(words):
        if before in BACKGROUNDS and word in (*COLORS, *SIZES, *SHAPES):
            return (
                f"{before!r} is a color of backgrounds alone, and the model never saw a {before} "
                f"thing: things are {', '.join(COLORS)}"
            )
    ground = rf".*\bon (?:an? )?({'|'.join(COLORS)})(?: background)?|(?:an? )?(\w+) background"
    match = re.fullmatch(ground, " ".join(words))
    color = match and (match[1] or match[2])
    if color in COLORS:
        return (
            f"{color!r} is a color of things alone, and the model never saw a {color} "
            f"background: backgrounds are {', '.join(BACKGROUNDS)}"
        )
    if sum(word in SHAPES for word in words) > 2:
        return "the model never saw more than two things, and will leave some out or mix them"
    try:
        read(text)
    except ValueError:
        return (
            "the model knows these words, and no caption that it learned puts them so: one is like "
            "'a large red ring left of a small star on white'"
        )
    return ""


def read(text: str, shapes: tuple[str, ...] = WORLD) -> Request:
    """What a caption of this world, or of one with other shapes, asks for.

    ValueError if any word of it cannot be read.
    """
    words = _words(text)
    if not 1 <= sum(word in shapes for word in words) <= 2:
        raise ValueError(f"a caption names one shape or two of {', '.join(shapes)}, got {text!r}")
    if unknown := [word for word in unknown_words(text) if word not in shapes]:
        raise ValueError(f"no caption has the words {', '.join(unknown)}: they cannot be judged")
    match = _caption(shapes).fullmatch(" ".join(words))
    if match is None:
        raise ValueError(
            "a caption is like 'a large red ring left of a small star on white'; colors are "
            f"{', '.join(COLORS)}, backgrounds {', '.join(BACKGROUNDS)}; got {text!r}"
        )
    size, color, shape, how, size_2, color_2, shape_2, background = match.groups()
    things = [Wanted(shape, color, size)] + [Wanted(shape_2, color_2, size_2)] * (how is not None)
    return Request(tuple(things), background, RELATION.get(how))


def _words(text: str) -> list[str]:
    return text.lower().translate(str.maketrans(dict.fromkeys(PUNCTUATION, " "))).split()
