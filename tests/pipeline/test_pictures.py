"""Pictures and masks as people have them: every kind of file is read right or refused in words."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from minisd.pipeline import Pipeline
from minisd.pipeline.pictures import as_depth, as_mask, as_picture, fit, open_picture
from minisd.tiny.weights import TINY

LEVEL = 153  # 0.6 of white, exactly


def levels(h=8, w=12):
    """Bytes (h, w, 3) that differ everywhere."""
    return np.random.default_rng(3).integers(0, 256, (h, w, 3), dtype=np.uint8)


def flat(mode, color, **more):
    return Image.new(mode, (12, 8), color, **more)


def palette(transparent=None):
    image = flat("RGB", (LEVEL, LEVEL, LEVEL)).convert("P", palette=Image.Palette.ADAPTIVE)
    if transparent is not None:
        image.info["transparency"] = transparent
    return image


HALF = LEVEL * 128 / 255 + 127  # on white, half transparent
KINDS = [  # an image, the file it goes into, the level from 0 to 255 that is meant
    (lambda: flat("1", 1), "a.png", 255),
    (lambda: flat("L", LEVEL), "a.png", LEVEL),
    (lambda: flat("L", LEVEL), "a.jpg", LEVEL),
    (lambda: flat("LA", (LEVEL, 128)), "a.png", HALF),
    (lambda: palette(), "a.png", LEVEL),
    (lambda: palette(0), "a.png", 255),
    (lambda: flat("RGB", (LEVEL,) * 3), "a.webp", LEVEL),
    (lambda: flat("RGB", (LEVEL,) * 3), "a.bmp", LEVEL),
    (lambda: flat("RGBA", (LEVEL,) * 3 + (128,)), "a.png", HALF),
    (lambda: flat("RGBA", (LEVEL,) * 3 + (0,)), "a.png", 255),
    (lambda: flat("I;16", LEVEL * 257), "a.png", LEVEL),
    (lambda: flat("I;16", LEVEL * 257), "a.tif", LEVEL),
    (lambda: flat("I;16", LEVEL * 257), "a.pgm", LEVEL),
    (lambda: flat("F", 0.6), "a.tif", LEVEL),
    (lambda: flat("CMYK", (0, 0, 0, 255 - LEVEL)), "a.jpg", LEVEL),
    (lambda: flat("YCbCr", (LEVEL, 128, 128)), "a.jpg", LEVEL),
    (lambda: flat("F", 200.0), "a.tif", "floats must run from 0 to 1, got 200 to 200"),
    (lambda: flat("F", float("nan")), "a.tif", "floats must run from 0 to 1"),
    (lambda: flat("I", 70000), "a.tif", "8 bits, 16 bits or floats, got int32"),
    (lambda: flat("I", 100), "a.tif", "8 bits, 16 bits or floats, got int32"),
]


@pytest.mark.parametrize("image, name, meant", KINDS, ids=range(len(KINDS)))
def test_every_kind_is_read_right_or_refused(image, name, meant, tmp_path):
    path = tmp_path / name
    image().save(path)
    if isinstance(meant, str):
        with pytest.raises(ValueError, match=meant):
            open_picture(path)
        return
    opened = open_picture(path)
    assert opened.shape == (1, 3, 8, 12)
    assert ((opened + 1) * 127.5 - meant).abs().max() <= 2  # JPEG's own rounding
    read = as_picture(Image.open(path))  # the image itself, as a library hands it over
    assert torch.equal(read, opened)


@pytest.mark.parametrize("kind", ["directory", "pipe", "text", "cut"])
def test_what_is_no_picture_is_refused_at_once(kind, tmp_path):
    path = tmp_path / "a.png"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        Image.fromarray(levels()).save(path)
        path.write_bytes(path.read_bytes()[:150] if kind == "cut" else b"hello")
    with pytest.raises(ValueError, match="is no picture file|cannot be read as a picture"):
        open_picture(path)


def test_arrays_and_images_are_the_tensor_that_they_look_like():
    rgb = levels()
    expected = torch.from_numpy(rgb).permute(2, 0, 1)[None] / 127.5 - 1
    alike = [
        Image.fromarray(rgb),
        rgb,
        rgb.astype(np.uint16) * 257,
        rgb / 255.0,
        (rgb / 255).astype(np.float32),
        expected,
    ]
    for source in alike:
        assert (as_picture(source) - expected).abs().max() < 1e-6
    both = as_picture([Image.fromarray(rgb), rgb])
    assert (both - expected).abs().max() < 1e-6 and both.shape == (2, 3, 8, 12)
    assert (as_picture(np.stack([rgb, rgb])) - expected).abs().max() < 1e-6
    grey = as_picture(rgb[..., 0])
    assert (grey - expected[:, :1]).abs().max() < 1e-6 and grey.shape == (1, 3, 8, 12)
    for wrong in (rgb.astype(np.int64), b"a.png", None, rgb[..., :2], rgb[:0], rgb[0, 0, 0]):
        with pytest.raises(ValueError, match="a picture must be a tensor"):
            as_picture(wrong)
    with pytest.raises(ValueError, match="must run from 0 to 1, got -1"):
        as_picture(2 * (rgb / 255) - 1)


def test_a_pipeline_takes_them_as_it_takes_tensors():
    pipe = Pipeline.load(TINY)
    rgb = levels(32, 32)
    expected = torch.from_numpy(rgb).permute(2, 0, 1)[None] / 127.5 - 1
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 16:] = 255
    m = torch.from_numpy(mask).float() / 255
    how = {"steps": np.int64(2), "seed": np.int32(3), "n": np.uint8(1)}

    def close(a, b):
        assert (a.latents() - b.latents()).abs().max() < 1e-4

    for source in (Image.fromarray(rgb), rgb, rgb / 255):
        close(pipe.img2img(source, "a", **how), pipe.img2img(expected, "a", steps=2, seed=3))
    whole = pipe.inpaint(expected, m, "a", steps=2)
    for masked in (Image.fromarray(mask), mask, mask / 255, mask > 0, (mask > 0).astype(int)):
        close(pipe.inpaint(Image.fromarray(rgb), masked, "a", steps=2), whole)
    close(pipe.invert(rgb, strength=0.5, steps=4), pipe.invert(expected, strength=0.5, steps=4))


def test_a_given_picture_mask_or_depth_may_be_a_file(tmp_path):
    grey = Image.fromarray(np.random.default_rng(1).integers(0, 256, (8, 8), np.uint8))
    grey.save(path := tmp_path / "grey.png")
    for read in (as_picture, as_mask, as_depth):
        for size in (None, 4):
            same = read(path, size), read(str(path), size)
            assert all((one - read(grey, size)).abs().max() < 1e-6 for one in same)


def test_depths_of_any_unit_and_kind():
    depth = np.random.default_rng(0).random((8, 8), np.float32)
    near = 2 * (depth - depth.min()) / (depth.max() - depth.min()) - 1
    for source in (depth, 1000 * depth, Image.fromarray(7 * depth + 2), near.astype(np.float64)):
        assert (as_depth(source)[..., :, :] - torch.from_numpy(near)).abs().max() < 1e-5
    grey = np.rint(depth * 255).astype(np.uint8)
    for source in (Image.fromarray(grey), Image.fromarray(grey).convert("RGB"), grey):
        assert (as_depth(source) - torch.from_numpy(near)).abs().max() < 0.02


# ---- masks --------------------------------------------------------------------------------

STROKES = np.zeros((16, 16), np.uint8)
STROKES[4:12, 4:12] = 255
FULL = np.full((16, 16), 255, np.uint8)
DARK = 0 * FULL
STRIPES = np.where(np.arange(16) % 2, FULL, DARK)
SQUARE = STROKES > 0


def rgba(color, alpha):
    return Image.fromarray(np.dstack([color] * 3 + [alpha]))


MASKS = {
    "white strokes on black": (Image.fromarray(STROKES), SQUARE),
    "the same, opaque": (rgba(STROKES, FULL), SQUARE),
    "the same, of one bit": (Image.fromarray(STROKES).convert("1"), SQUARE),
    "the same, of 16 bits": (Image.fromarray(STROKES.astype(np.uint16) * 257), SQUARE),
    "white strokes, black below what is transparent": (rgba(STROKES, STROKES), SQUARE),
    "white strokes, white below what is transparent": (rgba(FULL, STROKES), SQUARE),
    "grey and alpha": (Image.fromarray(np.dstack([FULL, STROKES])), SQUARE),
    "a hole in black": (rgba(DARK, 255 - STROKES), SQUARE),
    "a hole in black, white below it": (rgba(STROKES, 255 - STROKES), SQUARE),
    "a hole in a dark picture": (rgba(STRIPES // 3, 255 - STROKES), SQUARE),
    "strokes of both kinds": (rgba(STRIPES, STROKES), "it is painted anew"),
    "a hole in a picture": (rgba(STRIPES, 255 - STROKES), "save it without transparency"),
    "nothing at all": (rgba(FULL, DARK), SQUARE & False),
    "black strokes seen by their holes": (rgba(DARK, STROKES), ~SQUARE),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_says_what_it_shows(name):
    image, meant = MASKS[name]
    if isinstance(meant, str):
        with pytest.raises(ValueError, match=meant):
            as_mask(image)
        return
    mask = as_mask(image)
    assert mask.shape == (1, 1, 16, 16) and np.array_equal(mask[0, 0].numpy() >= 0.5, meant)
    fitted = as_mask(image, (32, 32))
    assert fitted.min() >= 0 and fitted.max() <= 1
    assert abs(float((fitted >= 0.5).float().mean()) - meant.mean()) < 0.05


def test_a_thin_mask_is_painted_or_refused():
    """Lines of 1 to 4 pixels at every place: what is painted anew covers them."""
    pipe, picture = Pipeline.load(TINY), torch.zeros(1, 3, 32, 32)
    for width in (1, 2, 3):
        for place in range(3, 9):
            mask = torch.zeros(32, 32)
            mask[:, place : place + width] = 1
            run = pipe.inpaint(picture, mask, "a", steps=1, sample=False, scale=1)
            kept = (run.latents() - pipe.to_latent(picture)).abs().amax((0, 1, 2)) < 1e-5
            covered = F.max_pool2d(mask[None], 4)[0].amax(0) > 0
            assert torch.equal(~kept, covered)
    with pytest.raises(ValueError, match="nothing to paint anew"):
        pipe.inpaint(picture, torch.zeros(32, 32), "a")


# ---- photographs --------------------------------------------------------------------------


def photograph(h, w):
    """Waves of all lengths, edges, and a little grain: bytes (h, w, 3)."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float32) / max(h, w)
    channels = [np.sin(f * x) * np.cos(1.3 * f * y + f) for f in (9, 31, 80)]
    picture = np.stack(channels, 2) + (x[..., None] > 0.4) * 0.3
    picture += np.random.default_rng(1).normal(0, 0.05, picture.shape)
    return np.clip(128 + 80 * picture, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("h, w, size", [(700, 900, (64, 64)), (901, 633, (64, 96)), (300, 300, 64)])
def test_a_reduced_photograph_is_the_picture_that_it_would_be(h, w, size):
    pixels = photograph(h, w)
    slow = fit(torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 127.5 - 1, size)
    assert (as_picture(Image.fromarray(pixels), size) - slow).abs().max() <= 2 / 127.5


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak as Linux counts it")
def test_a_large_photograph_costs_no_gigabytes(tmp_path):
    """12 million pixels, held on their side, to 64 x 64."""
    said = Image.Exif()
    said[0x0112] = 6
    photo = Image.fromarray(np.tile(photograph(750, 1000), (4, 4, 1)))
    photo.save(tmp_path / "a.jpg", exif=said)
    code = """if True:
        import resource, sys
        from PIL import Image
        from minisd.pipeline.pictures import open_picture
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        before = peak()
        assert open_picture(sys.argv[1], 64).shape == (1, 3, 64, 64)
        print(peak() - before)"""
    out = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.jpg"], capture_output=True, text=True, check=True
    )
    assert float(out.stdout) < 0.125 and out.stderr == ""


def test_a_very_large_picture_is_read_without_a_warning(tmp_path, monkeypatch):
    Image.fromarray(levels()).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)  # of 96; twice as many would be refused
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_picture(tmp_path / "a.png").shape == (1, 3, 8, 12)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        open_picture(tmp_path / "a.png")
