"""The short way to convolve gives what the definition gives; large networks on a CPU take it."""

import copy
import os
import subprocess
import sys

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from network_pairs import difference, draw, pair
from torch import nn

from minisd.models.blocks import ResBlock
from minisd.pipeline import Pipeline, threads, winograd
from minisd.pipeline.winograd import Winograd, conv3x3, shortened, transforms
from minisd.tiny.weights import TINY


def exact(x, weight, bias=None):
    """F.conv2d in float64."""
    bias = bias if bias is None else bias.double()
    return F.conv2d(x.double(), weight.double(), bias, padding=1)


def apart(a, b) -> float:
    return float((a - b).abs().max() / b.abs().max())


@settings(max_examples=40)
@given(*[st.integers(1, k) for k in (3, 7, 6, 21, 19)], st.booleans(), st.integers(0, 22))
def test_any_shape(b, c, o, h, w, biased, bits):
    x, weight, bias = draw(b, c, h, w), draw(o, c, 3, 3, seed=1), draw(o, seed=2)
    bias = bias if biased else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "BAND", 1 << bits)  # 0: a row of tiles at a time
        found = conv3x3(x, weight, bias)
    error, size = found - exact(x, weight, bias), weight.abs().sum((1, 2, 3)).max() * x.abs().max()
    assert found.shape == (b, o, h, w) and error.abs().max() < 2e-6 * size


@pytest.mark.parametrize("c, o, side", [(320, 320, 64), (640, 640, 32), (512, 512, 64)])
def test_rounding_at_full_width(c, o, side):
    """Up to 1e-5 of the largest output where the usual way has some 3e-7; on average 2e-6."""
    x, weight = draw(1, c, side, side), draw(o, c, 3, 3, seed=1) * (9 * c) ** -0.5
    wanted = exact(x, weight)
    error = conv3x3(x, weight).double() - wanted
    assert error.abs().max() < 1e-5 * wanted.abs().max()
    assert error.std() < 3e-6 * wanted.std()
    channels_last = x.contiguous(memory_format=torch.channels_last)
    assert apart(conv3x3(channels_last, weight), wanted) < 1e-5


def test_a_tile_by_the_formula():
    """The three matrices alone, on one tile and one kernel, against the definition."""
    b_t, g, a_t = (m.double() for m in transforms())
    d, kernel = draw(6, 6).double(), draw(3, 3, seed=1).double()
    y = (a_t @ ((g @ kernel.flatten()) * (b_t @ d.flatten()))).view(4, 4)
    wanted = F.conv2d(d[None, None], kernel[None, None])[0, 0]
    assert apart(y, wanted) < 1e-6


def test_gradients():
    x, weight = draw(2, 5, 9, 10).requires_grad_(), draw(4, 5, 3, 3, seed=1).requires_grad_()
    wanted = torch.autograd.grad(exact(x, weight).square().sum(), (x, weight))
    found = torch.autograd.grad(conv3x3(x, weight).square().sum(), (x, weight))
    assert all(apart(a, b) < 1e-5 for a, b in zip(found, wanted, strict=True))


@pytest.fixture
def everywhere(monkeypatch):
    """Every convolution of 3 x 3 takes the short way, however narrow; .count says how many did."""
    calls, whole = [], winograd.conv3x3
    monkeypatch.setattr(winograd, "TILES", 1)
    monkeypatch.setattr(winograd, "CHANNELS", 1)
    monkeypatch.setattr(winograd, "conv3x3", lambda *a: calls.append(a[0].shape) or whole(*a))
    return calls


@pytest.mark.parametrize("name", ["sd1", "sdxl", "kl f8", "vq f4"])
@torch.no_grad()
def test_networks_agree_with_diffusers(name, everywhere):
    made = pair(name)
    keys = made.ours.state_dict().keys()
    ours = shortened(made.ours.eval())
    assert [*map(type, ours.modules())].count(Winograd) > 10 and ours.state_dict().keys() == keys
    found, wanted = made.run(ours, *made.inputs), made.run_theirs(made.theirs, *made.inputs)
    assert difference(found, wanted) < 1e-5 and len(everywhere) > 10


@torch.no_grad()
def test_what_is_no_such_convolution_stays(monkeypatch):
    taken, whole = [], winograd.conv3x3
    monkeypatch.setattr(winograd, "conv3x3", lambda x, *a: taken.append(x.shape) or whole(x, *a))
    layers = nn.ModuleList(
        [
            nn.Conv2d(64, 64, 3, padding=1),
            nn.Conv2d(64, 64, 3, padding=1, stride=2),
            nn.Conv2d(64, 64, 3),
            nn.Conv2d(64, 64, 3, padding=2, dilation=2),
            nn.Conv2d(64, 64, 3, padding=1, groups=2),
            nn.Conv2d(64, 64, 3, padding=1, padding_mode="circular"),
            nn.Conv2d(64, 64, 1),
            nn.Conv2d(4, 320, 3, padding=1),
            nn.Conv2d(320, 4, 3, padding=1),
            ResBlock(64, 64, 64),
        ]
    )
    short = shortened(copy.deepcopy(layers))
    assert [type(layer) is Winograd for layer in short] == [True, *[False] * 9]
    assert sum(type(layer) is Winograd for layer in short.modules()) == 3
    for a, b in zip(layers[:8], short, strict=False):
        x = draw(1, a.in_channels, 40, 40)  # 100 tiles
        assert apart(b(x), a(x)) < 1e-5
        assert type(b) is not Winograd or taken == [x.shape]
        b(x[..., :8, :8])  # 4 tiles do not pay
        assert len(taken) == 1
    x = draw(1, 64, 40, 40).double()
    assert apart(short.double()[0](x), layers.double()[0](x)) < 1e-12 and len(taken) == 1


def test_who_takes_it(monkeypatch, everywhere):
    """Networks in float32 on a CPU, if they are large."""
    tiny = Pipeline.load(TINY)
    assert not any(tiny.takes_short_way(name) for name in ("unet", "vae", "text"))
    wanted = tiny.txt2img("a red star", seed=1, steps=3)
    wanted = wanted.latents(), wanted.pictures()
    assert not everywhere
    monkeypatch.setattr(threads, "SMALL", 0)
    for dtype, short in ((torch.float32, True), (torch.float64, False), (torch.bfloat16, False)):
        assert Pipeline.load(TINY, dtype=dtype).takes_short_way("unet") == short
    assert Pipeline.load(TINY, dtype=torch.float16).takes_short_way("vae")  # runs in float32
    assert not Pipeline.load(TINY, device="meta").takes_short_way("unet")
    for lean in (False, True):
        pipe = Pipeline.load(TINY, lean=lean)
        run = pipe.txt2img("a red star", seed=1, steps=3)
        assert apart(run.latents(), wanted[0]) < 1e-4 and apart(run.pictures(), wanted[1]) < 1e-3
        assert everywhere and any(isinstance(m, Winograd) for m in pipe._placed["unet"].modules())
        everywhere.clear()


@pytest.mark.parametrize("kernels", ["default", "avx2"])
def test_older_processors(kernels):
    """With the kernels that torch and oneDNN have for them."""
    code = """
import torch
from minisd.pipeline.winograd import conv3x3
draw = torch.Generator().manual_seed(0)
x, w = torch.randn(1, 64, 40, 40, generator=draw), torch.randn(64, 64, 3, 3, generator=draw)
wanted = torch.conv2d(x.double(), w.double(), padding=1)
print(float((conv3x3(x, w) - wanted).abs().max() / wanted.abs().max()))
"""
    older = {"ATEN_CPU_CAPABILITY": kernels, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | older, capture_output=True, text=True
    )
    assert float(done.stdout) < 1e-5, done.stderr
