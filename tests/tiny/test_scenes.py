"""Scenes against what is said of them: splits, statistics, places, areas."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from minisd.tiny import scenes
from minisd.tiny.captions import caption
from minisd.tiny.scenes import (
    ALIKE,
    KINDS,
    LINES,
    OPPOSITE,
    SIZES,
    SPLITS,
    Scene,
    Thing,
    paint,
    random_scene,
)
from minisd.tiny.shapes import BACKGROUNDS, COLORS, PAINTS, SHAPES, cover
from minisd.training import rng

MANY = {split: [random_scene(rng(7, i), split=split) for i in range(200)] for split in SPLITS}
ALL = [scene for split in MANY.values() for scene in split]


# ---- what there is ------------------------------------------------------------------------


def test_splits_hold_out_what_they_say():
    assert {shape for shape, _ in scenes.HELD_OUT_COLORS} == set(SHAPES)
    for split, held in MANY.items():
        for scene in held:
            kinds = {thing[:2] for thing in scene.things}
            pairs = {frozenset(pair) for pair in itertools.combinations([k[0] for k in kinds], 2)}
            assert bool(kinds & scenes.HELD_OUT_COLORS) == (split == "colors")
            assert bool(pairs & scenes.HELD_OUT_SHAPES) == (split == "shapes")
            assert len(kinds) in (1, len(scene.things))  # all alike, or no two
            assert not {(thing.color, scene.background) for thing in scene.things} & scenes.UNSEEN


def kind_of(scene):
    alike = len(scene.things) > 1 and len({thing[:3] for thing in scene.things}) == 1
    return ALIKE if alike else len(scene.things)


def near(found, names, shares=None):
    """Each name is as frequent as it should be, within five standard deviations."""
    counts = Counter(found)
    assert set(counts) == set(names)
    for name in names:
        share = shares[name] if shares else 1 / len(names)
        assert abs(counts[name] / len(found) - share) < 5 * (share / len(found)) ** 0.5, name


def test_counts_relations_backgrounds_and_all_the_rest_are_as_frequent_as_they_should_be():
    seen = MANY["seen"] + [random_scene(rng(9, i)) for i in range(600)]
    near([kind_of(scene) for scene in seen], KINDS, KINDS)
    near([len(scene.things) for scene in seen if kind_of(scene) == ALIKE], (2, 3, 4))
    near([scene.relation for scene in seen if kind_of(scene) == 2], OPPOSITE)
    near([scene.relation for scene in seen if kind_of(scene) == 3], LINES)
    lined = [scene.relation is not None for scene in seen
             if kind_of(scene) == ALIKE and len(scene.things) == 3]  # fmt: skip
    near(lined, (True, False), {True: scenes.IN_LINE, False: 1 - scenes.IN_LINE})
    pairs = [scene for scene in seen if kind_of(scene) == 2]
    same = [len({thing.color for thing in scene.things}) == 1 for scene in pairs]
    near(same, (True, False), {True: 0.15 + 0.85 * 0.08, False: 0.85 * 0.92})
    near([scene.background for scene in seen], BACKGROUNDS)
    alone = [thing for scene in seen for thing in scene.things if kind_of(scene) in (1, 2)]
    for i, names in enumerate((SHAPES, PAINTS, SIZES)):
        near([thing[i] for thing in alone], names)
    assert {thing.color for i in range(99) for thing in random_scene(rng(i), colors=COLORS).things
            } == {*COLORS}  # fmt: skip
    for kind in KINDS:
        assert kind_of(random_scene(rng(1), kind)) == kind


def test_things_stay_in_the_picture_and_apart_and_stand_as_told():
    for scene in ALL[::2]:
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
        for first, second in itertools.combinations([covered > 0 for covered in covers], 2):
            beside = np.zeros_like(first)
            for step, axis in itertools.product((1, -1), (0, 1)):
                beside |= np.roll(first, step, axis)
            assert not ((first | beside) & second).any()
        if len(covers) > 2:
            assert {thing.size for thing in scene.things} == {"small"}
        if scene.relation:
            for first, second in itertools.pairwise(scene.things):
                dx, dy = first.x - second.x, first.y - second.y
                stands = {"left": -dx, "right": dx, "above": -dy, "below": dy}
                assert stands[scene.relation] == max(stands.values())
                least = 0.16 if len(covers) == 2 else 2 * scenes.ASIDE
                assert min(abs(dx), abs(dy)) <= least < max(abs(dx), abs(dy))


def test_the_same_key_is_the_same_picture():
    pictures = torch.stack([paint(random_scene(rng(3, i))) for i in range(20)])
    again = torch.stack([paint(random_scene(rng(3, i))) for i in range(20)])
    assert torch.equal(pictures, again) and len(pictures.flatten(1).unique(dim=0)) == 20


def test_this_scene_is_what_trainings_have_seen():
    """A change of these draws would make every trained model's world another one."""
    random = rng(1, 2, 4)
    scene = random_scene(random)
    assert caption(scene, random) == "there is a purple cross on a grey background"
    numbers = (0.11076986015109248, 0.8259421764379361, 0.41615188164990713, 3.5794057601395934)
    assert scene == Scene((Thing("cross", "purple", "small", *numbers),), "grey")


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
        if len(scene.things) > 1 or scene.background != "white":
            continue
        thing = scene.things[0]
        picture = (paint(scene).double().numpy() + 1) * 127.5
        channel = int(np.argmin(PAINTS[thing.color]))
        share = (255 - picture[channel]) / (255 - PAINTS[thing.color][channel])
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
        (lambda: random_scene(rng(0), 4), "the split 'seen' cannot have 4 things"),
        (lambda: random_scene(rng(0), 3, "colors"), "the split 'colors' cannot have 3 things"),
        (lambda: random_scene(rng(0), ALIKE, "shapes"), "'shapes' cannot have alike things"),
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
