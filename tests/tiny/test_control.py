"""The tiny model's ControlNet: outlines, what its training promises, and the command."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from network_pairs import difference, randomise

from minisd.__main__ import main
from minisd.checkpoints import load, tensorfile
from minisd.checkpoints.control import load_control
from minisd.models import UNet, configs
from minisd.pipeline import Pipeline, open_picture, save_png
from minisd.pipeline.pictures import read_settings
from minisd.tiny import train
from minisd.tiny.control import Sketched, edges, measured, overlap, painted, silhouette
from minisd.tiny.scenes import Scene, Thing, paint, random_scene
from minisd.tiny.weights import TINY
from minisd.training import Run, Settings, rng

SHORT = Settings(steps=10, batch=2, rate=2e-3, warmup=0, decay=0.4, ema=0.9)
PROMPT = "a red circle"
HOW = ("--steps", "2", "--zoom", "1", "--quiet")


def scenes(n):
    return [random_scene(rng(77, i)) for i in range(n)]


# ---- outlines -----------------------------------------------------------------------------


def test_the_outline_of_a_square_is_its_border():
    """Inside and outside it is black, along the border white, whatever the colours."""
    x = np.arange(64)
    for color, ground in ((1.0, -1.0), (-0.2, 0.2)):
        picture = torch.full((1, 3, 64, 64), ground)
        picture[..., 20:40, 10:30] = color
        found = edges(picture)
        rows, columns = (((x >= a - 1) & (x <= b)) for a, b in ((20, 40), (10, 30)))
        inner = ((x >= 21) & (x <= 38))[:, None] & ((x >= 11) & (x <= 28))[None]
        wanted = rows[:, None] & columns[None] & ~inner
        white = found[0, 0].numpy() == 1
        for corner in ((19, 9), (19, 30), (40, 9), (40, 30)):  # where a faint edge is fainter
            white[corner] = wanted[corner] = False
        assert np.array_equal(white, wanted)
        assert {*found.unique().tolist()} == {-1.0, 1.0} and (found == found[:, :1]).all()
    assert (edges(torch.zeros(1, 3, 8, 8)) == -1).all()


def test_outlines_of_every_scene_lie_along_its_silhouettes():
    """Colours of the world stand out from its backgrounds, so no thing is lost: outlines go all
    around a silhouette, and stay within three pixels of its border."""
    for scene in scenes(40):
        mask = torch.from_numpy(silhouette(scene)).float()[None, None]
        border = F.max_pool2d(mask, 3, 1, 1) + F.max_pool2d(-mask, 3, 1, 1)
        white = (edges(paint(scene)[None])[:, :1] + 1) / 2
        assert (white * border).sum() > 0.9 * border.sum()
        assert (white <= F.max_pool2d(border, 5, 1, 2)).all()


def wider(mask: np.ndarray) -> np.ndarray:
    """A mask and all pixels that touch it."""
    return F.max_pool2d(torch.from_numpy(mask).float()[None], 3, 1, 1)[0].bool().numpy()


def test_a_picture_of_a_scene_is_painted_where_its_silhouette_is():
    """To a pixel, but for the tips of stars. Soft edges are painted, and so the share of a small
    star on black is 0.77."""
    shares = []
    for scene in scenes(40):
        found, true = painted(paint(scene)), silhouette(scene)
        assert not (true & ~wider(found)).any() and (found & ~wider(true)).sum() <= 4, scene
        shares.append(overlap(found, true))
    assert sum(shares) / len(shares) > 0.85
    left = Thing("circle", "red", "small", 0.1, 0.2, 0.5, 0.0)
    a, b = (silhouette(Scene((thing,), "white")) for thing in (left, left._replace(x=0.8)))
    assert overlap(a, a) == 1 and overlap(a, b) == 0
    half = np.zeros((64, 64), bool)
    half[:, :32] = True
    assert overlap(half, np.ones((64, 64), bool)) == 0.5
    assert overlap(half & ~half, half & ~half) == 1  # nothing and nothing


def test_drawings_themselves_are_right_and_overlap(monkeypatch):
    """In the place of a model: the scenes that were asked for, and then others."""
    how = {}

    class Painter:
        def txt2img(self, texts, hint=None, **settings):
            how.update(settings, hinted=hint is not None)
            self.keys = range(self.first, self.first + len(texts))
            self.first += len(texts)
            return self

        def pictures(self):
            return torch.stack([paint(random_scene(rng(7_000_000, 9, i), 1)) for i in self.keys])

    painter = Painter()
    painter.first = 0
    right, shared = measured(painter, 1, 6, batch=4)
    assert right == 1 and shared > 0.85 and how["seed"] == 9 and how["hinted"]
    painter.first = 20
    right, shared = measured(painter, 1, 6, led=False, batch=4)
    assert right < 0.5 and shared < 0.5 and not how["hinted"]


# ---- the training -------------------------------------------------------------------------


def small():
    """The tiny model, with a U-Net a third as wide, of random weights."""
    unet = UNet(configs.replace(configs.TINY, model_channels=16))
    randomise(unet)
    return load(TINY)._replace(unet=unet)


def content(path):
    return {key: value.read() for key, value in tensorfile.open_tensors(path)[0].items()}


@pytest.mark.equal_bits("a training that goes on is the one in one piece: docs/PROMISES.md")
def test_killed_after_each_of_ten_steps_it_ends_the_same(tmp_path):
    short = SHORT._replace(batch=1)
    whole = Run(Sketched(small()), short, tmp_path / "whole.safetensors")
    frozen = {k: v.clone() for k, v in whole.stage.unet.state_dict().items()}
    for _ in whole.go():
        pass
    whole.save()
    stage = Sketched(small())
    begun = {key: value.clone() for key, value in stage.network.state_dict().items()}
    for _ in range(10):
        stage.network.load_state_dict(begun)  # as a new process would find it
        run = Run(stage, short, tmp_path / "pieces.safetensors")
        next(run.go())
        run.save()
    a, b = content(whole.path), content(run.path)
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert len(a["losses"]) == 10
    now = whole.stage.unet.state_dict()
    assert all(torch.equal(now[key], value) for key, value in frozen.items())  # and it alone


def test_a_step_is_the_mean_over_its_samples_and_goes_down():
    """Two processes that share a batch draw what one does. A step against the gradient, which came
    through the frozen U-Net, lowers the loss."""
    stage = Sketched(load(TINY))
    whole = stage.loss(3, range(4))
    with torch.no_grad():
        halves = [stage.loss(3, range(rank, 4, 2)) for rank in (0, 1)]
        assert abs(whole - sum(halves) / 2) < 1e-5 * whole
    whole.backward()
    with torch.no_grad():
        for weight in stage.network.parameters():
            weight -= 0.01 * weight.grad
        after = stage.loss(3, range(4))
    assert after < whole - 1e-4
    stage.seed = 1
    assert abs(stage.loss(3, range(4)).detach() - after) > 1e-3


# ---- the command --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a ControlNet that a few steps have trained, and a sketch."""
    folder = tmp_path_factory.mktemp("control")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(train.SETTINGS, "control", SHORT._replace(steps=2, rate=0.02))
        assert main(["train", "control", "--folder", str(folder)]) == 0
    save_png(folder / "sketch.png", edges(paint(scenes(1)[0], 128)[None]))
    return folder


def run(folder, *words):
    try:
        return main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code


def test_a_picture_with_a_sketch_is_the_pipelines_and_is_made_again(folder, monkeypatch):
    monkeypatch.chdir(folder)
    net, sketch = "control-net.safetensors", open_picture("sketch.png", 64)
    words = ("--control", "sketch.png", "--control-net", net, "--out", "a.png")
    assert run(folder, PROMPT, *HOW, *words, "--control-scale", "0.7") == 0
    pipe = Pipeline.load(TINY, control_net=net)
    how = {"steps": 2, "hint": sketch}
    wanted = pipe.txt2img(PROMPT, **how, control_scale=0.7).pictures()
    plain = pipe.txt2img(PROMPT, steps=2).pictures()
    none = pipe.txt2img(PROMPT, **how, control_scale=0).pictures()
    assert (open_picture("a.png") - wanted).abs().max() <= 1.01 / 127.5
    assert (wanted - plain).abs().max() > 0.05 and difference(none, plain) < 1e-4
    two = pipe.txt2img([PROMPT, "a star"], **how, n=1, control_scale=0.7).pictures()
    assert difference(two[:1], wanted) < 1e-4
    assert run(folder, "again", "a.png", "--out", "b.png", "--quiet") == 0
    assert (open_picture("b.png") - open_picture("a.png")).abs().max() <= 1.01 / 127.5
    assert read_settings("a.png") == read_settings("b.png")
    save_png("sketch.png", -sketch)
    assert run(folder, "again", "a.png", "--out", "b.png", "--quiet") == 1
    save_png("sketch.png", sketch)
    words = ("--control", "sketch.png", "--control-net", net, "--out", "c.png", "--guess")
    assert run(folder, "img2img", "a.png", PROMPT, *HOW, *words) == 0


def test_it_leads_between_its_times_alone(folder):
    """Half of the steps with it and the rest without, as one run and as two."""
    pipe = Pipeline.load(TINY, control_net=folder / "control-net.safetensors")
    how = {"steps": 4, "sampler": "ddim", "scale": 3.0}  # t = 1000, 750, 500, 250
    lead = {"hint": open_picture(folder / "sketch.png", 64), "control_scale": 2.0}
    begun = pipe.txt2img(PROMPT, share=0.5, **how, **lead).latents()
    two = pipe.denoise(begun, PROMPT, 0.5, **how).latents()
    one = pipe.txt2img(PROMPT, **how, **lead, control_until=501).latents()
    assert difference(one, two) < 1e-5
    begun = pipe.txt2img(PROMPT, share=0.5, **how).latents()
    two = pipe.denoise(begun, PROMPT, 0.5, **how, **lead).latents()
    late = pipe.txt2img(PROMPT, **how, **lead, control_from=500).latents()
    assert difference(late, two) < 1e-5 and difference(late, one) > 0.01


def test_what_goes_wrong_is_told_in_a_sentence(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    net, sketch = ("--control-net", "control-net.safetensors"), ("--control", "sketch.png")
    for words, says in (
        (sketch, "a sketch leads by a ControlNet: tell both"),
        (net, "tell both, --control SKETCH.png --control-net FILE"),
        (("--guess",), "tell both"),
        (("--control-scale", "2"), "tell both"),
        (("--control-until", "200"), "tell both"),
        ((*net, *sketch, "--control-from", "0"), "a ControlNet goes from a time down to a time"),
        ((*net, *sketch, "--control-scale", "-1"), "control_scale must be at least 0"),
        ((*sketch, "--control-net", "no.safetensors"), "there is no file no.safetensors"),
        ((*sketch, "--control-net", TINY), "holds no ControlNet, but a checkpoint"),
        ((*net, "--control", "no.png"), "no such picture: no.png"),
        ((*net, *sketch, "--out", "sketch.png"), "is a picture that is given, and would be lost"),
        ((*net, "--control", net[1]), "cannot be read as a picture"),
    ):
        assert run(folder, PROMPT, *HOW, *words) == 1
        said = capsys.readouterr().err
        assert says in said and len(said.splitlines()) == 1, said
    assert run(folder, "upscale", "sketch.png", PROMPT, *net) == 2
    assert run(folder, PROMPT, "--checkpoint", net[1]) == 1
    assert "by --control-net or" in capsys.readouterr().err
    with pytest.raises(ValueError, match="there is none: tell control_net=FILE"):
        Pipeline.load(TINY).txt2img(PROMPT, hint=torch.zeros(1, 3, 64, 64))
    save_png("white.png", torch.ones(3, 64, 64))
    assert run(folder, PROMPT, *HOW, *net, "--control", "white.png", "--out", "d.png") == 0
    assert "learned white outlines on black" in capsys.readouterr().err


def test_the_exported_file_is_the_average_and_fits_its_model_alone(folder):
    average = content(folder / "control.safetensors")
    found = load_control(folder / "control-net.safetensors", configs.TINY).state_dict()
    for key, value in found.items():
        assert torch.equal(value, average[f"average.{key}"].half().float()), key
