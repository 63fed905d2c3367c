"""Drawn pictures against geometry, the world against its captions, and the painter on it."""

import math

import pytest
import torch

from minisd.tiny import shapes as data
from minisd.tiny.painter import paint

AREAS = {  # of the outlines in SHAPES, in units of size squared
    "circle": math.pi * 0.95**2,
    "square": 4 * 0.82**2,
    "triangle": 3 * math.sqrt(3) * 0.55**2,
    "star": 10 * 0.5 * 1.15 * 0.5 * math.sin(math.pi / 5),
    "ring": math.pi * (1.0**2 - 0.5**2),
    "cross": 2 * 4 * 1.0 * 0.32 - 4 * 0.32**2,
}


def covered(shape, size=0.3, pixels=256, angle=0.0, x=0.5, y=0.5):
    """The share of a white picture that is not white: red's blue channel goes from 255 to 40."""
    picture = data.draw(shape, "red", size, x, y, "white", pixels, angle)
    return float((1 - picture[2].double()).mean()) * 127.5 / (255 - 40)


@pytest.mark.parametrize("shape", data.SHAPES)
@pytest.mark.parametrize("angle", [0, 17])
def test_a_shape_covers_its_area(shape, angle):
    assert abs(covered(shape, angle=angle) / 0.3**2 - AREAS[shape]) < 0.01 * AREAS[shape]


def test_edges_are_smooth():
    fine = data.draw("circle", "red", 0.3, 0.4, 0.5, pixels=256)
    coarse = data.draw("circle", "red", 0.3, 0.4, 0.5, pixels=32)
    pooled = torch.nn.functional.avg_pool2d(fine, 8)
    assert (pooled - coarse).abs().max() < 0.2  # a hard edge is off by 0.8
    assert (pooled - coarse).abs().mean() < 0.005


def test_x_is_right_y_is_down_and_angles_turn_left():
    picture = data.draw("circle", "red", 0.1, 0.8, 0.2, "black", 64)
    row, column = divmod(int(picture[0].flatten(0).argmax()), 64)
    assert row < 20 and column > 44
    up = data.draw("triangle", "red", 0.3, 0.5, 0.5, pixels=64)
    left = data.draw("triangle", "red", 0.3, 0.5, 0.5, pixels=64, angle=90)
    assert torch.allclose(left, torch.rot90(up, 1, (1, 2)), atol=1e-5)


def test_colors_and_range():
    picture = data.draw("square", "cyan", 0.3, 0.5, 0.5, "grey")
    assert picture.shape == (3, 32, 32) and picture.dtype == torch.get_default_dtype()
    assert torch.allclose(picture[:, 16, 16], torch.tensor([23, 190, 207]) / 127.5 - 1, atol=1e-6)
    assert torch.allclose(picture[:, 0, 0], torch.tensor([128, 128, 128]) / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("cube", "red", 0.3, 0.5, 0.5), "no shape 'cube'; there are circle"),
        (("circle", "mauve", 0.3, 0.5, 0.5), "no color 'mauve'; there are red"),
        (("circle", "red", 0.3, 0.5, 0.5, "sky"), "no background 'sky'"),
        (("circle", "red", 0.0, 0.5, 0.5), "size must be more than 0"),
    ],
)
def test_mistakes_are_sentences(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        data.draw(*arguments)


def test_the_world_and_its_captions():
    pictures, captions = data.world(16)
    assert pictures.shape == (576, 3, 16, 16) and len(set(captions)) == 144
    assert len({tuple(p.flatten().tolist()) for p in pictures}) == 576
    assert "an orange ring on grey" in captions
    assert int(data.fits("a red circle", captions).sum()) == 3 * 4
    assert int(data.fits("circle", captions).sum()) == 8 * 3 * 4
    assert data.fits("", captions).all()
    assert (data.fits("A Circle ON red", captions) == data.fits("a red circle", captions)).all()
    with pytest.raises(ValueError, match="no word dog"):
        data.fits("a red dog", captions)
    with pytest.raises(ValueError, match="never all of these words"):
        data.fits("a red blue circle", captions)


@pytest.mark.parametrize("prompt", ["a blue star on white", "a ring", ""])
def test_the_painter_paints_what_it_was_told(prompt):
    pictures, captions = data.world()
    frames = paint(prompt, seed=3, scale=3.0, steps=20)
    gaps = (frames[-1].x0 - pictures).abs().flatten(1).max(1).values
    assert gaps.min() < 0.05 and data.fits(prompt, captions)[gaps.argmin()]
    assert [frame.t for frame in frames][:2] == [952, 902] and len(frames) == 20


def test_one_picture_of_a_kind_is_known_from_the_start():
    pictures, captions = data.world()
    frames = paint("a red circle on white", seed=0, scale=1.0, steps=10)
    four = pictures[data.fits("a red circle on white", captions)]
    blend = torch.linalg.lstsq(four.flatten(1).T, frames[0].x0.flatten()).solution
    assert torch.allclose(
        (blend[:, None] * four.flatten(1)).sum(0), frames[0].x0.flatten(), atol=1e-3
    )
