"""Scenes against what is said of them: captions read back, splits, statistics, places, areas."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from minisd.tiny import scenes
from minisd.tiny.scenes import (
    OPPOSITE,
    SIZES,
    SPLITS,
    Scene,
    Thing,
    caption,
    paint,
    random_scene,
    read,
)
from minisd.tiny.shapes import BACKGROUNDS, COLORS, SHAPES, cover
from minisd.training import rng

MANY = {split: [random_scene(rng(7, i), split=split) for i in range(200)] for split in SPLITS}
ALL = [scene for split in MANY.values() for scene in split]


def satisfies(scene, request):
    """Whether a scene is what a request asks for: some order of its things fits all that is said,
    and what stands left has the smaller x, what stands above the smaller y."""
    if request.background not in (None, scene.background):
        return False
    for things in itertools.permutations(scene.things):
        told = [
            said in (None, true)
            for thing, wanted in zip(things, request.things, strict=True)
            for said, true in zip(wanted, thing[:3], strict=True)
        ]
        dx, dy = things[0].x - things[-1].x, things[0].y - things[-1].y
        stands = {"left": -dx, "right": dx, "above": -dy, "below": dy}
        relation = request.relation
        if all(told) and (relation is None or stands[relation] == max(stands.values())):
            return True
    return False


def test_captions_are_read_back_to_what_their_scene_satisfies():
    kinds = Counter()
    for i, scene in enumerate(ALL):
        for text in {caption(scene, rng(8, i, j)) for j in range(4)}:
            request = read(text)
            assert len(request.things) == len(scene.things) and satisfies(scene, request), text
            assert scenes.unknown_words(text) == [] and "  " not in text and text == text.strip()
            kinds[request.relation, len(request.things)] += 1
            for thing in request.things:
                kinds[thing.color is None] += 1
                kinds[thing.size is None, "size"] += 1
            kinds[request.background is None, "background"] += 1
            assert not satisfies(scene, request._replace(background="no such"))
            if request.relation and len({thing.shape for thing in scene.things}) == 2:
                assert not satisfies(scene, request._replace(things=request.things[::-1]))
                assert not satisfies(scene, request._replace(relation=OPPOSITE[request.relation]))
    assert len(kinds) == 12  # relations and none, each left out or said
    assert 0.10 < kinds[True] / (kinds[True] + kinds[False]) < 0.20
    for what in ("size", "background"):
        assert abs(kinds[True, what] / (kinds[True, what] + kinds[False, what]) - 0.5) < 0.05


@pytest.mark.parametrize(
    "text, things, background, relation",
    [
        ("a circle", [("circle", None, None)], None, None),
        ("A small RED star, on navy.", [("star", "red", "small")], "navy", None),
        ("an orange ring under a large cross on a grey background",
         [("ring", "orange", None), ("cross", None, "large")], "grey", "below"),
        ("there is a square to the left of a pink square",
         [("square", None, None), ("square", "pink", None)], None, "left"),
        ("a blue cross and a star", [("cross", "blue", None), ("star", None, None)], None, None),
    ],
)  # fmt: skip
def test_captions_that_are_known(text, things, background, relation):
    request = read(text)
    assert [tuple(thing) for thing in request.things] == things
    assert (request.background, request.relation) == (background, relation)


@pytest.mark.parametrize("text", ["", "a red thing", "a circle, a star and a cross", "circles"])
def test_what_cannot_be_read_is_a_sentence(text):
    with pytest.raises(ValueError, match="a caption names one shape or two of circle, .*, got '"):
        read(text)


@pytest.mark.parametrize(
    "text, why",
    [
        ("no red circle", "no caption has the words no: they cannot be judged"),
        ("a brown circle", "the words brown"),
        ("a circle that is not red", "the words that, not"),
        ("three green circles and a ring", "the words three, circles"),
        ("a large white star on black", "backgrounds white, .*; got 'a large white star"),
        ("a black circle", "a caption is like"),
        ("a red circle on blue", "colors are red, .*; got 'a red circle on blue'"),
        ("a circle, red", "a caption is like"),
        ("a circle left of above a square", "a caption is like"),
        ("a small large ring", "a caption is like"),
        ("a circle a square", "a caption is like"),
    ],
)
def test_every_word_of_a_caption_is_read_or_refused(text, why):
    with pytest.raises(ValueError, match=why):
        read(text)


def test_unknown_words_are_told_in_their_order():
    text = 'A "mauve" circle (left of) some ring; on Navy, twice!'
    assert scenes.unknown_words(text) == ["mauve", "some", "twice"]


@pytest.mark.parametrize(
    "text, why",
    [
        ("a white star", "'white' is a color of backgrounds alone"),
        ("small black circle, on grey", "'black' is a color of backgrounds alone"),
        ("a grey large ring on grey", "'grey' is a color of backgrounds alone"),
        ("a red circle on blue", "'blue' is a color of things alone"),
        ("a red circle on a green background", "'green' is a color of things alone"),
        ("red background", "'red' is a color of things alone"),
        ("a blue background", "'blue' is a color of things alone"),
        ("on red", "'red' is a color of things alone"),
        ("a red", "no caption that it learned puts them so"),
        ("background background", "puts them so"),
        ("a circle above a square above a ring", "never saw more than two things"),
        ("a circle, red", "no caption that it learned puts them so"),
        ("a red and blue circle", "no caption that it learned puts them so"),
        ("a black background", "no caption that it learned puts them so"),
    ],
)
def test_a_role_that_a_word_does_not_have_is_told(text, why):
    assert scenes.unknown_words(text) == [] and why in scenes.misplaced(text)


def test_any_two_or_three_words_are_told_of_without_an_error():
    random = np.random.default_rng(1)
    words = sorted(scenes.WORDS)
    for first, second in itertools.product(words, words):
        assert isinstance(scenes.misplaced(f"{first} {second}"), str)
        assert isinstance(scenes.misplaced(f"{random.choice(words)} {first} {second}"), str)


def test_of_captions_and_single_words_nothing_is_said():
    random = np.random.default_rng(0)
    texts = [scenes.caption(scenes.random_scene(random), random) for _ in range(500)]
    for text in (*texts, *scenes.WORDS, "", "A red circle.", "red circle", "a mauve white star"):
        assert scenes.misplaced(text) == ""


# ---- what there is ------------------------------------------------------------------------


def test_splits_hold_out_what_they_say():
    assert {shape for shape, _ in scenes.HELD_OUT_COLORS} == set(SHAPES)
    for split, held in MANY.items():
        for scene in held:
            kinds = {thing[:2] for thing in scene.things}
            shapes = frozenset(shape for shape, _ in kinds)
            assert bool(kinds & scenes.HELD_OUT_COLORS) == (split == "colors")
            assert (shapes in scenes.HELD_OUT_SHAPES) == (split == "shapes")
            assert len(kinds) == len(scene.things)  # no two alike


def test_counts_relations_backgrounds_and_all_the_rest_are_as_frequent_as_they_should_be():
    seen = MANY["seen"] + [random_scene(rng(9, i)) for i in range(400)]
    assert abs(np.mean([len(scene.things) == 2 for scene in seen]) - 0.6) < 0.06
    assert all(len(scene.things) == 2 for scene in MANY["shapes"])
    for things in (1, 2):
        assert len(random_scene(rng(1), things).things) == things
    of_things = [thing for scene in seen for thing in scene.things]
    for names, found in (
        (OPPOSITE, [scene.relation for scene in seen if scene.relation]),
        (BACKGROUNDS, [scene.background for scene in seen]),
        (SIZES, [thing.size for thing in of_things]),
        (SHAPES, [thing.shape for thing in of_things]),
        (COLORS, [thing.color for thing in of_things]),
    ):
        counts, share = Counter(found), 1 / len(names)
        assert set(counts) == set(names)
        for name in names:  # five standard deviations
            assert abs(counts[name] / len(found) - share) < 5 * (share / len(found)) ** 0.5


def test_things_stay_in_the_picture_and_apart_and_stand_as_told():
    for scene in ALL[::3]:
        covers = [
            cover(thing.shape, thing.radius, thing.x, thing.y, 64, thing.angle)
            for thing in scene.things
        ]
        for thing, covered in zip(scene.things, covers, strict=True):
            low, high = SIZES[thing.size]
            boost = scenes.BOOST.get(thing.shape, 1)
            assert low * boost <= thing.radius <= high * boost and abs(thing.angle) <= 15
            fine = cover(thing.shape, thing.radius, thing.x, thing.y, 192, thing.angle)
            assert covered.max() == 1 and not fine[[0, -1]].any() and not fine[:, [0, -1]].any()
        if len(covers) == 2:
            first, second = (covered > 0 for covered in covers)
            beside = np.zeros_like(first)
            for step, axis in itertools.product((1, -1), (0, 1)):
                beside |= np.roll(first, step, axis)
            assert not ((first | beside) & second).any()
            dx, dy = (scene.things[0][k] - scene.things[1][k] for k in (4, 5))
            stands = {"left": -dx, "right": dx, "above": -dy, "below": dy}
            assert stands[scene.relation] == max(stands.values())
            assert min(abs(dx), abs(dy)) <= 0.16 < max(abs(dx), abs(dy))


def test_the_same_key_is_the_same_picture():
    pictures = torch.stack([paint(random_scene(rng(3, i))) for i in range(20)])
    again = torch.stack([paint(random_scene(rng(3, i))) for i in range(20)])
    assert torch.equal(pictures, again) and len(pictures.flatten(1).unique(dim=0)) == 20


def test_this_scene_is_what_trainings_have_seen():
    """A change of these draws would make every trained model's world another one."""
    random = rng(1, 2, 3)
    scene = random_scene(random)
    assert caption(scene, random) == "there is a small red cross on a black background"
    numbers = (0.10534264639236288, 0.7046635086208395, 0.4795145720394183, 6.335862404234938)
    assert scene == Scene((Thing("cross", "red", "small", *numbers),), "black")


# ---- how it is painted --------------------------------------------------------------------

AREAS = {  # in units of size squared
    "circle": np.pi * 0.95**2,
    "square": 4 * 0.82**2,
    "triangle": 3 * 3**0.5 * 0.55**2,
    "star": 5 * 1.15 * 0.5 * np.sin(np.pi / 5),
    "ring": np.pi * (1 - 0.5**2),
    "cross": 8 * 0.32 - 4 * 0.32**2,
}


def test_a_painted_thing_has_its_area_and_place():
    """The share of paint in white pixels, by the channel that changes most."""
    for scene in MANY["seen"]:
        if len(scene.things) == 2 or scene.background != "white":
            continue
        thing = scene.things[0]
        picture = (paint(scene).double().numpy() + 1) * 127.5
        channel = int(np.argmin(COLORS[thing.color]))
        share = (255 - picture[channel]) / (255 - COLORS[thing.color][channel])
        area = AREAS[thing.shape] * (thing.radius * 64) ** 2
        assert abs(share.sum() - area) < 0.03 * area, thing
        places = (np.arange(64) + 0.5) / 64
        x, y = share.sum(0) @ places / share.sum(), share.sum(1) @ places / share.sum()
        assert max(abs(x - thing.x), abs(y - thing.y)) < 0.3 / 64


def test_a_scene_is_its_things_on_its_background():
    things = (
        Thing("square", "cyan", "large", 0.17, 0.25, 0.5, 0.0),
        Thing("ring", "red", "large", 0.18, 0.75, 0.5, 0.0),
    )
    picture = ((paint(Scene(things, "navy", "left")) + 1) * 127.5).round().int()
    assert picture.shape == (3, 64, 64)
    for (row, column), color in {
        (32, 16): COLORS["cyan"],
        (32, 48): BACKGROUNDS["navy"],  # the ring's hole
        (32, 48 + 9): COLORS["red"],
        (2, 2): BACKGROUNDS["navy"],
    }.items():
        assert picture[:, row, column].tolist() == list(color)
    assert paint(Scene(things, "navy", "left"), 128).shape == (3, 128, 128)


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda: random_scene(rng(0), split="sizes"), "seen, colors, shapes, got 'sizes'"),
        (lambda: random_scene(rng(0), 3), "the split 'seen' cannot have 3 things"),
        (lambda: random_scene(rng(0), 0), "the split 'seen' cannot have 0 things"),
        (lambda: random_scene(rng(0), 1, "shapes"), "the split 'shapes' cannot have 1 things"),
        (lambda: paint(Scene((), "sky")), "no background 'sky'; there are white"),
        (lambda: paint(thing("cube", "red")), "no shape 'cube'; there are circle"),
        (lambda: paint(thing("star", "gold")), "no color 'gold'; there are red"),
    ],
)
def test_mistakes_are_sentences(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        wrong()


def thing(shape, color):
    return Scene((Thing(shape, color, "small", 0.1, 0.5, 0.5, 0.0),), "white")
