"""What is said of scenes: `caption` says one in one of many ways, `read` understands it again.

So the judge can compare a picture with its sentence, and a prompt that the tiny model cannot
understand is told: `unknown_words` of its words, `misplaced` of how they stand.
"""

import re
from collections.abc import Collection
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..text.tokenizer import PUNCTUATION
from .scenes import OPPOSITE, SIZES, UNSEEN, WORLD, Scene, Thing, one, pick
from .shapes import BACKGROUNDS, PAINTS, SHAPES

RELATIONS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
ORDERS = {
    "in a row": "left",
    "from left to right": "left",
    "in a column": "above",
    "from top to bottom": "above",
}
NUMBERS = {"two": 2, "three": 3, "four": 4}
OPENINGS = ("", "", "there is ", "a picture of ")
BARE = (" without background", " with no background", " no background")  # so the picture is white
LONGEST = 22  # words: a row of the tiny model has 24 tokens, with its start and end


class Wanted(NamedTuple):
    """A thing as a caption asks for it; None where the caption leaves it open."""

    shape: str
    color: str | None = None
    size: str | None = None


class Request(NamedTuple):
    """What a caption asks for; None where it leaves it open.

    relation: as a Scene's; or "between", for the first of three between the others.
    """

    things: tuple[Wanted, ...]
    background: str | None = None
    relation: str | None = None


class Manner(NamedTuple):
    """How scenes are told: the shares of what is said."""

    colors: float = 0.85
    sizes: float = 1.0  # of those that would be said, half or fewer
    joined: float = 0.1  # of two things, by "and", which leaves open where they are
    order: float = 0.4  # of three in a line: their order, what is between, or no more than a list
    between: float = 0.35


# ---- a scene in words ---------------------------------------------------------------------

BRIEF = Manner(joined=0.4, order=0.25, between=0.25)
SHAPES_ALONE = BRIEF._replace(colors=0.0, sizes=0.2)


def training_caption(scene: Scene, rng: np.random.Generator) -> str:
    """The scene as the training has it told: with places and colors less often, as people ask.

    How many things there are, and which is where, a network learns the more slowly the less the
    sentence says of it: "a circle and a square" takes more practice than "a red circle left of a
    blue square".
    """
    return caption(scene, rng, SHAPES_ALONE if rng.random() < 0.25 else BRIEF)


def caption(scene: Scene, rng: np.random.Generator, manner: Manner = Manner()) -> str:  # noqa: B008
    """The scene in words, one of many ways: some leave out colour, size, place or background."""
    while True:
        text = _opening(scene, rng) + _things(scene, rng, manner) + _ground(scene, rng)
        if len(text.split()) <= LONGEST:
            return text


def plural(shape: str) -> str:
    """circle -> circles, cross -> crosses."""
    return shape + ("es" if shape.endswith("s") else "s")


def _opening(scene: Scene, rng: np.random.Generator) -> str:
    opening = one(rng, OPENINGS)
    return opening.replace("is", "are") if _alike(scene) and "there" in opening else opening


def _alike(scene: Scene) -> bool:
    return len(scene.things) > 1 and len({thing[:3] for thing in scene.things}) == 1


def _things(scene: Scene, rng: np.random.Generator, manner: Manner) -> str:
    things, relation = list(scene.things), scene.relation
    if _alike(scene):
        number = {n: name for name, n in NUMBERS.items()}[len(things)]
        said = [*_adjectives(things[0], rng, manner), plural(things[0].shape)]
        order = f" {_order(relation, rng)}" if relation and rng.random() < 0.6 else ""
        return " ".join([number, *said]) + order
    if len(things) == 3:
        return _three(things, relation, rng, manner)
    if len(things) == 2 and rng.random() < 0.5:
        things, relation = things[::-1], OPPOSITE[relation]
    said = [_noun(thing, rng, manner) for thing in things]
    how = "and" if rng.random() < manner.joined else one(rng, RELATIONS.get(relation, ("",)))
    return f" {how} ".join(said)


def _three(things: list[Thing], relation: str, rng: np.random.Generator, manner: Manner) -> str:
    """Three things in a line: in their order, by the one in the middle, or no more than a list."""
    said = [_noun(thing, rng, manner, size=0.15) for thing in things]
    ways = {"order": manner.order, "between": manner.between}
    way = pick(rng, ways | {"list": 1 - sum(ways.values())})
    if way == "between":
        ends = [said[0], said[2]]
        rng.shuffle(ends)
        return f"{said[1]} between {' and '.join(ends)}"
    if way == "list":
        rng.shuffle(said)
    listed = f"{said[0]}, {said[1]} and {said[2]}"
    return f"{listed} {_order(relation, rng)}" if way == "order" else listed


def _order(relation: str, rng: np.random.Generator) -> str:
    return one(rng, [order for order, stands in ORDERS.items() if stands == relation])


def _ground(scene: Scene, rng: np.random.Generator) -> str:
    if rng.random() >= 0.5:
        return ""
    if scene.background == "white" and rng.random() < 0.3:
        return one(rng, BARE)
    return one(rng, (f" on {scene.background}", f" on a {scene.background} background"))


def _noun(thing: Thing, rng: np.random.Generator, manner: Manner, size: float = 0.5) -> str:
    words = [*_adjectives(thing, rng, manner, size), thing.shape]
    return f"{_article(words[0])} {' '.join(words)}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _adjectives(
    thing: Thing, rng: np.random.Generator, manner: Manner, size: float = 0.5
) -> list[str]:
    """Its size and its color, each said or not."""
    sized, colored = rng.random() < size * manner.sizes, rng.random() < manner.colors
    return [thing.size] * sized + [thing.color] * colored


# ---- a caption understood -----------------------------------------------------------------

RELATION = {phrase: name for name, phrases in RELATIONS.items() for phrase in (*phrases, name)}
WORDS = {*SHAPES, *PAINTS, *SIZES, *BACKGROUNDS, *NUMBERS, *map(plural, SHAPES)}
WORDS |= set(" ".join([*OPENINGS, *RELATION, *ORDERS, *BARE]).split())
WORDS |= {"a", "an", "and", "on", "are", "between"}


def _any(names) -> str:
    return f"(?:{'|'.join(filter(None, names))})"


@cache
def _forms(shapes: tuple[str, ...]) -> tuple[re.Pattern, ...]:
    """What captions of things of these shapes look like: of one, of two, of three, of some alike.

    The groups a, b and c are things, `many` is of things alike.
    """
    adjectives = rf"(?:{_any(SIZES)} )?(?:{_any(PAINTS)} )?"
    thing = rf"(?:an? )?{adjectives}{_any(shapes)}"
    a, b, c = (rf"(?P<{name}>{thing})" for name in "abc")
    order = rf"(?: (?P<order>{_any(ORDERS)}))?"
    forms = (
        rf"{a}(?: (?P<how>and|{'|'.join(RELATION)}) {b})?",
        rf"{a} (?P<how>between) {b} and {c}",
        rf"{a} (?:and )?{b} and {c}{order}",
        rf"(?P<number>two|four) (?P<many>{adjectives}{_any(map(plural, shapes))})",
        rf"(?P<number>three) (?P<many>{adjectives}{_any(map(plural, shapes))}){order}",
    )
    ground = rf"(?: on (?:an? )?(?P<ground>{_any(BACKGROUNDS)})(?: background)?"
    ground += rf"|(?P<bare>{_any(BARE)}))?"
    openings = _any([*OPENINGS, "there are "])
    return tuple(re.compile(rf"{openings}?{form}{ground}") for form in forms)


@cache
def _wanted(shapes: tuple[str, ...]) -> re.Pattern:
    of = "|".join(f"{shape}|{plural(shape)}" for shape in shapes)
    return re.compile(rf"(?:an? )?(?:({'|'.join(SIZES)}) )?(?:({'|'.join(PAINTS)}) )?({of})")


def read(text: str, shapes: tuple[str, ...] = WORLD) -> Request:
    """What a caption of this world, or of one with other shapes, asks for.

    ValueError if any word of it cannot be read.
    """
    words, said = _words(text), {*shapes, *map(plural, shapes)}
    if not any(word in said for word in words):
        raise ValueError(f"a caption names a shape, one of {', '.join(shapes)}; got {text!r}")
    if unknown := [word for word in unknown_words(text) if word not in said]:
        raise ValueError(f"no caption has the words {', '.join(unknown)}: they cannot be judged")
    for form in _forms(shapes):
        if match := form.fullmatch(" ".join(words)):
            return _request(match.groupdict(), shapes)
    raise ValueError(
        "a caption is like 'a large red ring left of a small star on white' or 'three green "
        f"circles'; colors are {', '.join(PAINTS)}, backgrounds {', '.join(BACKGROUNDS)}; "
        f"got {text!r}"
    )


def _request(found: dict[str, str | None], shapes: tuple[str, ...]) -> Request:
    """What the groups of one of the forms ask for."""
    things = [found[name] for name in ("a", "b", "c") if found.get(name)]
    things = things or [found["many"]] * NUMBERS[found["number"]]
    singular = {plural(shape): shape for shape in shapes}
    wanted = []
    for thing in things:
        size, color, shape = _wanted(shapes).fullmatch(thing).groups()
        wanted.append(Wanted(singular.get(shape, shape), color, size))
    how, order = found.get("how"), found.get("order")
    relation = ORDERS.get(order) or (how if how == "between" else RELATION.get(how))
    return Request(tuple(wanted), "white" if found["bare"] else found["ground"], relation)


def _words(text: str) -> list[str]:
    return text.lower().translate(str.maketrans(dict.fromkeys(PUNCTUATION, " "))).split()


# ---- a prompt that is no caption ----------------------------------------------------------


def unknown_words(text: str) -> list[str]:
    """The words that no caption of this world holds, in their order."""
    return [word for word in _words(text) if word not in WORDS]


OTHER = {  # what people say, and the model's word for it
    **dict.fromkeys(("big", "huge"), "large"),
    **dict.fromkeys(("little", "tiny"), "small"),
    **dict.fromkeys(("disc", "disk", "ball", "dot"), "circle"),
    **dict.fromkeys(("plus", "x"), "cross"),
    **dict.fromkeys(("beneath", "underneath"), "below"),
    "donut": "ring",
    "gray": "grey",
    "violet": "purple",
    "2": "two",
    "3": "three",
    "4": "four",
}


def misplaced(text: str, learned: Collection[str] = ()) -> str:
    """What a model of this world will not make of a prompt whose words it knows, in a sentence.

    "" where there is nothing to say: for a caption, a word alone, and where words are unknown;
    unless they are other words for those it knows. learned: words that it was taught since, for
    shapes.
    """
    said = _words(text)
    words = _as_shapes(said, learned)
    text = " ".join(words)
    if other := list(dict.fromkeys(word for word in words if word in OTHER)):
        return "the model knows " + ", ".join(f"{OTHER[word]!r} for {word!r}" for word in other)
    if len(words) < 2 or unknown_words(text):
        return ""
    try:
        request = read(text)
        return _never(request) or ("" if words != said else _vague(request, words))
    except ValueError:
        return _out_of_place(words)


def _as_shapes(words: list[str], learned: Collection[str]) -> list[str]:
    """ "a sun on navy" as "a circle on navy", and "a sks circle" as "a circle"."""
    return [
        "circle" if word in learned else word
        for word, after in pairwise([*words, ""])
        if word not in learned or after not in SHAPES
    ]


def _never(request: Request) -> str:
    """What is wrong with a caption that can be read, and of which there is no scene."""
    for _, color, _ in request.things:
        if (color, request.background) in UNSEEN:
            return (
                f"a {color} thing on {request.background} can hardly be seen, and the model never "
                "saw one: try another background"
            )
    if len(request.things) > 2 and any(thing.size == "large" for thing in request.things):
        return (
            "three things or four are small in all that the model saw: there is no room for larger "
            "ones"
        )
    return ""


def _vague(request: Request, words: list[str]) -> str:
    """What to say more of in a caption of which there are scenes, and few in the training.

    Not for learned words, which may stand for a color too.
    """
    counted = request.relation or {*NUMBERS} & {*words}
    if len(request.things) == 1 or counted:
        return ""
    if len({*request.things}) == 1:
        shape, color, size = request.things[0]
        number = {n: name for name, n in NUMBERS.items()}[len(request.things)]
        asked = " ".join(word for word in (number, size, color, plural(shape)) if word)
        return f"things that are alike are counted in what the model learned, as in {asked!r}"
    if not all(thing.color for thing in request.things):
        return (
            "without places and without all colors the model often mixes things up: say where they "
            "are, as in 'a circle left of a square', or name the color of each"
        )
    return ""


def _out_of_place(words: list[str]) -> str:
    """Why words that are known make no caption."""
    things = [word for word in words if word in SHAPES]
    many = [word for word in words if word in map(plural, SHAPES)]
    for before, word in pairwise(words):
        of_things = word in (*PAINTS, *SIZES, *things, *many)
        if before in BACKGROUNDS and before not in PAINTS and of_things:
            return (
                f"{before!r} is a color of backgrounds alone, and the model never saw a {before} "
                f"thing: things are {', '.join(PAINTS)}"
            )
    ground = rf".*\b(?:on|with) (?:an? |the )?({'|'.join(PAINTS)})|(?:.*\b)?(\w+) background"
    match = re.fullmatch(ground, " ".join(words))
    color = match and (match[1] or match[2])
    if color in PAINTS and color not in BACKGROUNDS:
        return (
            f"{color!r} is a color of things alone, and the model never saw {_article(color)} "
            f"{color} background: backgrounds are {', '.join(BACKGROUNDS)}"
        )
    if any(word == "no" and after != "background" for word, after in pairwise([*words, ""])):
        return (
            "the model knows 'no' before 'background' alone: what shall not be there is named by "
            "--negative"
        )
    if many and (things or len(many) > 1):
        return (
            "several things of a kind are alone in what the model learned, as in 'three green "
            "circles': nothing else stands beside them"
        )
    if many and not any(word in NUMBERS for word in words):
        return f"say how many {many[0]}: the model learned two, three and four"
    if many and {"row", "column", "left", "right", "top", "bottom"} & {*words}:
        if "three" in words:
            return (
                f"three things alike in a line are said like 'three green {many[0]} in a row' or "
                f"'three green {many[0]} from top to bottom' in what the model learned"
            )
        return "of things alike only three stand in a row or a column in what the model learned"
    if len(things) == 3:
        return (
            "three things are said like 'a red ring, a star and a blue cross from left to right' "
            "or 'a star between a red ring and a blue cross' in what the model learned"
        )
    if len(things) > 3:
        return (
            "the model never saw more than three things that are not alike, and will leave some "
            "out or mix them"
        )
    return (
        "the model knows these words, and no caption that it learned puts them so: one is like "
        "'a large red ring left of a small star on white'"
    )
