"""Does the tiny model do as it is told? Pictures of held-out captions, scored by the judge.

Captions come in eight groups: one thing or two, of combinations that training has seen, of shapes
in colours that it has not, and (two things) of shapes that it has not seen together; three things
in a line; two, three or four things alike; two things of which neither the place nor the colour is
said, as in "a ring and a small star". `minisd judge` prints the table.
"""

import math
from collections.abc import Sequence

from ..pipeline import Pipeline
from ..training import rng
from .captions import SHAPES_ALONE, Manner, caption
from .judge import Verdict, judge
from .scenes import ALIKE, random_scene

GROUPS = (
    (1, "seen"),
    (1, "colors"),
    (2, "seen"),
    (2, "colors"),
    (2, "shapes"),
    (3, "seen"),
    (ALIKE, "seen"),
    (2, "listed"),
)
LISTED = SHAPES_ALONE._replace(joined=1.0)
HELD_OUT = 7_000_000  # keys of random numbers that no training uses


def captions(things: int | str, split: str, n: int, seed: int = 0) -> list[str]:
    """n captions of one group, the same for the same seed."""
    manner, found = Manner(), []
    if split == "listed":
        manner, split = LISTED, "seen"
    for i in range(n):
        random = rng(HELD_OUT, seed, i)
        found.append(caption(random_scene(random, things, split), random, manner))
    return found


def verdicts(pipe: Pipeline, texts: Sequence[str], batch: int = 50, **settings) -> list[Verdict]:
    """The judge's word on a picture of each caption; settings are txt2img's. Seed: one each."""
    said, seed = [], settings.pop("seed", 0)
    for start in range(0, len(texts), batch):
        part = list(texts[start : start + batch])
        pictures = pipe.txt2img(part, seed=seed + start, **settings).pictures()
        said += [judge(*pair) for pair in zip(pictures, part, strict=True)]
    return said


def shares(said: Sequence[Verdict]) -> dict[str, float]:
    """Of all verdicts the share that is right, and of each part among those that speak of it."""
    parts = {"right": [verdict.right for verdict in said]}
    for name in Verdict._fields:
        parts[name] = [getattr(v, name) for v in said if getattr(v, name) is not None]
    return {name: sum(good) / len(good) for name, good in parts.items() if good}


def wilson(right: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval (1927, JASA 22) of a share: all p from which it is at most z deviations.

        |right/of - p| <= z √(p (1 - p) / of)

    1.96 deviations are 95 %. ValueError unless 0 <= right <= of and of > 0.
    """
    if not 0 <= right <= of or not of:
        raise ValueError(f"a share is of at least one, got {right} of {of}")
    share, whole = right / of, 1 + z**2 / of
    middle = (share + z**2 / (2 * of)) / whole
    half = z * math.sqrt(share * (1 - share) / of + (z / (2 * of)) ** 2) / whole
    return max(middle - half, 0.0), min(middle + half, 1.0)
