"""The quicker forms of layers give what their formulas give, values and gradients, in float64."""

import copy

import pytest
import torch
from network_pairs import PAIRS, draw, randomise
from pipeline_pairs import ours
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from minisd.models import autoencoder, blocks, clip
from minisd.models.lora import add_lora
from minisd.pipeline import Pipeline, speed, threads
from minisd.pipeline.precision import Widened, widened
from minisd.tiny.weights import TINY

# how many pixels are few: none, so that pictures are doubled by cases; all, for matrix products
PIXELS = {"none": 0, "all": 1 << 30, "two of 4 x 4": 32}

FORMS = (speed.Product, *speed.FORMS.values())


def gap(a, b):
    """The largest difference, in terms of the largest value."""
    pairs = [(x.detach(), y.detach()) for x, y in zip(a, b, strict=True)]
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in pairs)


def drawn(module):
    randomise(module)
    return module.double()


@pytest.fixture(params=PIXELS)
def pixels(request, monkeypatch):
    monkeypatch.setattr(speed, "FEW", PIXELS[request.param])
    monkeypatch.setattr(speed, "ROWS", 6)


@pytest.mark.parametrize("name", PAIRS)
def test_a_network_gives_what_its_formulas_give(name, pixels):
    pair = PAIRS[name]()
    plain = drawn(pair.ours)
    quick = speed.quickened(copy.deepcopy(plain))
    inputs = [a.double() if a.is_floating_point() else a for a in pair.inputs]
    kinds = {type(part) for part in quick.modules()}
    assert kinds & set(FORMS) or name.startswith(("clip", "openclip", "bert"))
    results = []
    for network in (plain, quick):
        out = [a for a in pair.run(network, *inputs) if a is not None]
        sum((a * a).sum() for a in out).backward()
        grads = {key: w.grad for key, w in network.named_parameters() if w.grad is not None}
        with torch.inference_mode():
            alone = [a for a in pair.run(network, *inputs) if a is not None]
        results.append((out, grads, alone))
    (out, grads, _), (out_quick, grads_quick, alone) = results
    assert gap(out_quick, out) < 1e-11 and gap(alone, out) < 1e-11
    assert grads.keys() == grads_quick.keys()
    largest = max(float(g.abs().max()) for g in grads.values())
    assert max(float((grads[key] - grads_quick[key]).abs().max()) for key in grads) < 1e-9 * largest
    assert plain.state_dict().keys() == quick.state_dict().keys()


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 3), (6, 6)])
@pytest.mark.parametrize("form", ["doubling", "product", "parts", "in place"])
def test_a_layer(form, size, monkeypatch):
    """Of every size, against the layer itself; its input stays as it is."""
    monkeypatch.setattr(speed, "FEW", 10**6 if form == "product" else 0)
    monkeypatch.setattr(speed, "ROWS", 4)
    plain = {
        "doubling": lambda: blocks.Upsample(8),
        "product": lambda: nn.Sequential(nn.Conv2d(8, 5, 3, padding=1)),
        "parts": lambda: blocks.FeedForward(8),
        "in place": lambda: autoencoder.Block(8, 16, groups=4),
    }[form]()
    plain = drawn(plain)
    quick = speed.quickened(copy.deepcopy(plain))
    x = draw(3, 8, *size).double()
    x = x.flatten(2).transpose(1, 2) if form == "parts" else x
    before = x.clone()
    with torch.inference_mode():
        assert gap([quick(x)], [plain(x)]) < 1e-12
    assert x.equal(before)


def test_quick_gelu():
    x = draw(1000) * 5
    assert gap([speed._quick_gelu(x.clone())], [clip.quick_gelu(x)]) < 1e-6
    encoder = clip.Layer(clip.TextConfig(8, 1, 2, vocabulary=10))
    assert speed.quickened(encoder).activation is speed._quick_gelu
    encoder = clip.Layer(clip.TextConfig(8, 1, 2, vocabulary=10, activation="gelu"))
    assert speed.quickened(encoder).activation is not speed._quick_gelu


def test_four_ninths_of_the_multiplications():
    """On 64 x 64 pixels, of which one row and column more are computed in each case."""
    counts = []
    for layer in (blocks.Upsample(16), speed.quickened(blocks.Upsample(16))):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            layer(draw(1, 16, 64, 64))
        counts.append(counter.get_total_flops())
    assert counts[1] == pytest.approx(4 / 9 * (65 / 64) ** 2 * counts[0], rel=0.01)


class OnADevice(TorchFunctionMode):
    """Refuses new tensors for which no device is named: they would be on the CPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        new = func in (torch.tensor, torch.empty, torch.zeros, torch.ones, torch.arange)
        if new and (kwargs or {}).get("device") is None:
            raise TypeError(f"{func.__name__} names no device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("side", (4, 32))
def test_it_may_go_to_another_device(side):
    layer = speed.quickened(nn.Sequential(blocks.Upsample(8), autoencoder.Block(8, 8, groups=4)))
    x = draw(1, 8, side, side)
    with OnADevice():
        assert layer(x).shape == (1, 8, 2 * side, 2 * side)


def test_only_plain_convolutions_become_products():
    odd = [
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, padding=1, stride=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    ]
    speed.quickened(nn.Sequential(*odd))
    assert all(type(layer) is nn.Conv2d for layer in odd)


def test_a_lora_on_a_doubling_acts(pixels):
    """Its layer is then no convolution whose weights could be added."""
    plain = nn.Sequential(blocks.Upsample(8))
    add_lora(plain, 2, ["conv"])
    plain = drawn(plain)
    quick = speed.quickened(copy.deepcopy(plain))
    x = draw(2, 8, 4, 4).double()
    assert gap([quick(x)], [plain(x)]) < 1e-12
    plain[0].conv.scale = 0.0
    assert gap([quick(x)], [plain(x)]) > 1e-2


@pytest.mark.parametrize("kept", (torch.float16, torch.bfloat16))
def test_weights_that_stay_in_16_bits_are_widened_once(kept, pixels, monkeypatch):
    reads, widen = [], Widened.forward
    monkeypatch.setattr(Widened, "forward", lambda s, w: reads.append(0) or widen(s, w))
    upsample, block = blocks.Upsample(8), autoencoder.Block(8, 16, groups=4)
    layers, feed = nn.Sequential(upsample, block), blocks.FeedForward(8)
    for plain, x in ((layers, draw(2, 8, 4, 4)), (feed, draw(2, 16, 8))):
        randomise(plain)
        plain, x = plain.to(kept), x.double()
        quick = widened(speed.quickened(copy.deepcopy(plain)), torch.float64)
        reads.clear()  # registering reads each weight too
        with torch.no_grad():
            assert gap([quick(x)], [plain.double()(x)]) < 1e-12
        assert len(reads) == len([*plain.parameters()])


def test_which_networks(monkeypatch):
    """Large ones, in float32, on a CPU; and the picture is the same within a level of 255."""

    def forms(pipe, name="unet"):
        with pipe.part(name) as network:
            return {type(part) for part in network.modules()} & {speed.Product, speed.Doubling}

    def picture(pipe):
        return pipe.txt2img("a red fox", 64, steps=3, seed=1, sampler="ddim").pictures()

    assert not forms(Pipeline.load(TINY))
    before = picture(ours("sd1"))
    monkeypatch.setattr(threads, "SMALL", 0)
    model = copy.deepcopy(ours("sd1").checkpoint), ours("sd1").tokenizers
    for dtype in (torch.bfloat16, torch.float64):
        assert not forms(Pipeline(*model, dtype=dtype))
    pipe = Pipeline(*model)
    assert forms(pipe) == {speed.Product, speed.Doubling}
    assert gap([picture(pipe)], [before]) < 1e-4


@pytest.mark.filterwarnings("ignore:Dynamo")
@pytest.mark.parametrize("name", ("unet", "vae"))
def test_a_network_of_a_pipeline_may_be_compiled(name, monkeypatch):
    """By `part`, as notebook 16 says; here by a compiler that runs the graphs as they are."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    def picture():
        return pipe.txt2img("a red fox", 64, steps=3, seed=1, sampler="ddim").pictures()

    monkeypatch.setattr(threads, "SMALL", 0)
    pipe = Pipeline(copy.deepcopy(ours("sd1").checkpoint), ours("sd1").tokenizers)
    before = picture()
    with pipe.part(name) as network:
        (network if name == "unet" else network.decoder).compile(backend=backend)
    assert gap([picture()], [before]) < 1e-4 and graphs
