"""Pictures with captions, drawn by numpy: data for notebooks, small and free.

A shape is a signed distance function: how far a point is outside its outline, less than 0 inside.
Lengths are shares of the picture's side; x runs to the right and y downwards, both from 0 to 1.
"""

import itertools

import numpy as np
import torch
from torch import Tensor


def _box(u, v, width: float, height: float):
    return np.maximum(np.abs(u) - width, np.abs(v) - height)


def _triangle(u, v):
    return np.maximum(-v, np.abs(u) * np.sqrt(0.75) + v / 2) - 0.55


def _star(u, v):
    """Ten equal edges: fold the plane onto one wedge, and measure from the edge in it."""
    tip, notch, wedge = 1.15, 0.5, np.pi / 5
    angle = np.abs((np.arctan2(u, v) + wedge) % (2 * wedge) - wedge)
    radius = np.hypot(u, v)
    a, b = radius * np.cos(angle), radius * np.sin(angle)
    edge = np.array([notch * np.cos(wedge) - tip, notch * np.sin(wedge)])
    return ((a - tip) * edge[1] - b * edge[0]) / np.hypot(*edge)


def _crescent(u, v):
    """A disc without another one that lies over its right side."""
    return np.maximum(np.hypot(u, v) - 1.1, 0.75 - np.hypot(u - 0.8, v))


# Each is given u, v: to the right and upwards from its centre, in units of its size.
SHAPES = {
    "circle": lambda u, v: np.hypot(u, v) - 0.95,
    "square": lambda u, v: _box(u, v, 0.82, 0.82),
    "triangle": _triangle,
    "star": _star,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.75) - 0.25,
    "cross": lambda u, v: np.minimum(_box(u, v, 1.0, 0.32), _box(u, v, 0.32, 1.0)),
}
COLORS = {
    "red": (214, 39, 40),
    "orange": (255, 137, 14),
    "yellow": (240, 205, 30),
    "green": (44, 160, 44),
    "cyan": (23, 190, 207),
    "blue": (31, 80, 200),
    "purple": (128, 60, 170),
    "pink": (240, 130, 190),
}
NEW_SHAPES = {"crescent": _crescent}  # for lessons: not of the world
BACKGROUNDS = {
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "black": (0, 0, 0),
    "cream": (255, 236, 200),
    "navy": (20, 26, 74),
}
# What the tiny model's things are painted with; the notebooks' finite worlds have COLORS alone.
PAINTS = COLORS | {name: BACKGROUNDS[name] for name in ("white", "black")}


def cover(
    shape: str, size: float, x: float, y: float, pixels: int = 32, angle: float = 0.0
) -> np.ndarray:
    """How much of each pixel a shape covers, 0 to 1, its edge one pixel wide: (pixels, pixels)."""
    distance = known("shape", shape, SHAPES | NEW_SHAPES)
    if not size > 0:
        raise ValueError(f"size must be more than 0, got {size}")
    centres = (np.arange(pixels) + 0.5) / pixels
    right, up = (centres[None, :] - x) / size, (y - centres[:, None]) / size
    turn = np.deg2rad(angle)
    u, v = right * np.cos(turn) + up * np.sin(turn), up * np.cos(turn) - right * np.sin(turn)
    # A pixel is covered by half where the outline meets its centre, and wholly half a pixel inside.
    return np.clip(0.5 - distance(u, v) * size * pixels, 0, 1)


def draw(
    shape: str,
    color: str,
    size: float,
    x: float,
    y: float,
    background: str = "white",
    pixels: int = 32,
    angle: float = 0.0,
) -> Tensor:
    """One shape on a plain background, with smooth edges: (3, pixels, pixels) in -1..1.

    size is about the shape's radius, (x, y) its centre, angle in degrees, counter-clockwise.
    """
    paint = np.array(known("color", color, PAINTS), dtype=float)
    ground = np.array(known("background", background, BACKGROUNDS), dtype=float)
    covered = cover(shape, size, x, y, pixels, angle)
    picture = ground[:, None, None] * (1 - covered) + paint[:, None, None] * covered
    return torch.from_numpy(picture / 127.5 - 1).to(torch.get_default_dtype())


def world(pixels: int = 32) -> tuple[Tensor, list[str]]:
    """A finite world: every shape and colour on white, grey, black, at four places, with captions.

    Returns pictures (576, 3, pixels, pixels) and captions such as "an orange circle on white",
    which say nothing of the place.
    """
    places = [(0.36, 0.36), (0.64, 0.36), (0.36, 0.64), (0.64, 0.64)]
    grounds = ("white", "grey", "black")
    things = list(itertools.product(SHAPES, COLORS, grounds, places))
    pictures = [draw(s, c, 0.3, *place, b, pixels) for s, c, b, place in things]
    captions = [f"{'an' if c[0] in 'aeiou' else 'a'} {c} {s} on {b}" for s, c, b, _ in things]
    return torch.stack(pictures), captions


def words(text: str) -> set[str]:
    """The words of a text in small letters, without the articles."""
    return set(text.lower().split()) - {"a", "an"}


def fits(prompt: str, captions: list[str]) -> Tensor:
    """Which captions hold every word of the prompt: bool (len(captions),). "" fits them all."""
    found = torch.tensor([words(prompt) <= words(caption) for caption in captions])
    if not found.any():
        unknown = sorted(words(prompt) - words(" ".join(captions)))
        why = f"it has no word {', '.join(unknown)}" if unknown else "never all of these words"
        raise ValueError(f"nothing in this world is {prompt!r}: {why}")
    return found


def known(what: str, name: str, names: dict):
    """names[name]; ValueError with what there is if there is no such."""
    if name not in names:
        raise ValueError(f"there is no {what} {name!r}; there are {', '.join(names)}")
    return names[name]
