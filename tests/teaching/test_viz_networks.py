"""The drawings of the networks: their numbers are those of the modules, of any settings."""

from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from torch import nn

from minisd.models import AutoencoderKL, UNet
from minisd.models.blocks import ResBlock, SpatialTransformer
from minisd.models.configs import KL_F4, KL_F8, SD1, SD2
from minisd.teaching.viz import networks

SMALL = replace(
    SD1, model_channels=64, channel_mult=(1, 2), res_blocks=1, attention_factors=(2,), heads=4
)


@pytest.fixture
def drawn(monkeypatch):
    """draw(name, *inputs) -> the axis of a drawing, laid out."""
    monkeypatch.setattr(networks, "display", lambda alt: None)

    def draw(name, *inputs):
        getattr(networks, name)(*inputs, alt="a network, as boxes")
        plt.gcf().canvas.draw()
        return plt.gca()

    yield draw
    plt.close("all")


def meta(*shape):
    return torch.empty(shape, device="meta")


def unet(config, side=64):
    with torch.device("meta"):
        net = UNet(config)
    return net, meta(1, 4, side, side), meta(1), meta(1, 77, config.context_dim)


def resblock(channels, out, side):
    with torch.device("meta"):
        block = ResBlock(channels, 1280, out)
    return block, meta(1, channels, side, side), meta(1, 1280)


def transformer(channels, side, context_dim):
    with torch.device("meta"):
        module = SpatialTransformer(channels, 8, channels // 8, 1, context_dim)
    return module, meta(1, channels, side, side), meta(1, 77, context_dim)


def vae(config, side=512):
    with torch.device("meta"):
        return AutoencoderKL(config), meta(1, 3, side, side)


def texts(axis):
    return [text.get_text() for text in axis.texts if text.get_text()]


def test_shapes_are_those_that_the_parts_return():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.Flatten(), nn.Linear(8 * 9, 5))
    found = networks.shapes(net, torch.zeros(2, 3, 7, 7))
    assert found == {"0": (8, 3, 3), "1": (72,), "2": (5,), "": (5,)}


def test_no_hook_is_left_behind_even_by_a_wrong_input():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU())
    networks.shapes(net, torch.zeros(1, 3, 7, 7))
    with pytest.raises(RuntimeError, match="channels"):
        networks.shapes(net, torch.zeros(1, 4, 7, 7))
    assert not any(part._forward_hooks for part in net.modules())


def ladder(config, side):
    """(name, level's side, channels in, channels out) of each stage, by counting."""
    width, mult = config.model_channels, config.channel_mult
    skips, rows, inside = [width], [("i0", side, config.in_channels, width)], width
    for level, m in enumerate(mult):
        for into in [inside] + [m * width] * (config.res_blocks - 1):
            rows.append((f"i{len(rows)}", side, into, m * width))
            skips.append(m * width)
        inside = m * width
        if level < len(mult) - 1:
            side //= 2
            rows.append((f"i{len(rows)}", side, inside, inside))
            skips.append(inside)
    rows.append(("M", side, inside, inside))
    number = 0
    for m in reversed(mult):
        for _ in range(config.res_blocks + 1):
            rows.append((f"o{number}", side, inside + skips.pop(), m * width))
            inside, number = m * width, number + 1
        side *= 2
    return rows


def in_boxes(axis):
    """(name, in, out) as written, by the text in bold and the two below it, with its place."""
    found = {}
    for k, text in enumerate(axis.texts):
        if text.get_weight() == "bold":
            place, numbers = text.get_position(), axis.texts[k + 1 : k + 3]
            assert all(number.get_position()[0] == place[0] for number in numbers)
            found[text.get_text()] = place, *(int(number.get_text()) for number in numbers)
    return found


@pytest.mark.parametrize(
    ("config", "side"), [(SD1, 64), (SD2, 96), (SMALL, 16)], ids=["SD 1", "SD 2", "small"]
)
def test_the_ladder_has_the_channels_and_sizes_of_its_settings(drawn, config, side):
    axis = drawn("unet_ladder", *unet(config, side))
    found, wanted = in_boxes(axis), ladder(config, side)
    assert {name: numbers for name, (_, *numbers) in found.items()} == {
        name: [into, out] for name, _, into, out in wanted
    }
    heights = {}  # the stages of one size stand in one row, and lower rows are smaller
    for name, size, _, _ in wanted:
        heights.setdefault(size, set()).add(found[name][0][1])
    rows = [heights[size] for size in sorted(heights, reverse=True)]
    assert all(len(row) == 1 for row in rows)
    assert [max(row) for row in rows] == sorted((max(row) for row in rows), reverse=True)
    assert {f"{size}²" for size in heights} <= set(texts(axis))
    emb = 4 * config.model_channels
    assert f"time index\n({config.model_channels},) → time_embed → ({emb},)" in texts(axis)
    assert f"text\n(77, {config.context_dim})" in texts(axis)


def test_a_stage_with_a_transformer_is_told_by_its_colour_and_twice_the_size_by_an_edge(drawn):
    net, *inputs = unet(SD1)
    axis = drawn("unet_ladder", net, *inputs)
    stages = [*net.input_blocks, net.middle_block, *net.output_blocks]
    boxes = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
    for stage, (name, ((x, y), *_)) in zip(stages, in_boxes(axis).items(), strict=True):
        kinds = {type(layer).__name__ for layer in stage}
        here = [b for b in boxes if b.get_x() < x < b.get_x() + b.get_width()]
        colors = [
            to_hex(b.get_facecolor()) for b in here if abs(b.get_y() + b.get_height() / 2 - y) < 4
        ]
        fill = (
            networks.ATTENTION
            if "SpatialTransformer" in kinds
            else networks.CONV
            if "ResBlock" in kinds
            else networks.RESIZE
            if "Downsample" in kinds
            else networks.PLAIN
        )
        edge = [networks.RESIZE] if "Upsample" in kinds else []
        assert colors == [fill, *edge], name
    assert {"ResBlock and transformer", "yellow edge: then twice the size"} <= set(texts(axis))


@pytest.mark.parametrize(("channels", "out", "side"), [(320, 640, 32), (1280, 1280, 16)])
def test_a_resblock_has_the_shapes_of_its_block(drawn, channels, out, side):
    found = texts(drawn("resblock", *resblock(channels, out, side)))
    assert f"$x$\n({channels}, {side}, {side})" in found
    assert f"out: ({out}, {side}, {side})" in found
    assert f"$y$\n({out}, {side}, {side})" in found
    assert f"({out},): one number for each channel," in found
    skip = "$x$ itself" if channels == out else "conv 1 × 1: the width changes"
    assert f"skip_connection: {skip}" in found


@pytest.mark.parametrize(("channels", "side", "context"), [(320, 64, 768), (640, 32, 1024)])
def test_a_transformer_has_the_shapes_of_its_module(drawn, channels, side, context):
    found = texts(drawn("spatial_transformer", *transformer(channels, side, context)))
    assert f"$x$\n({channels}, {side}, {side})" in found
    assert found.count(f"tokens\n({side**2}, {channels})") == 2
    assert f"inside:\n({side**2}, {4 * channels})" in found
    assert f"text (77, {context}): keys and values" in found


@pytest.mark.parametrize("config", [KL_F8, KL_F4], ids=["f = 8", "f = 4"])
def test_an_autoencoder_has_the_channels_and_sizes_of_its_settings(drawn, config):
    axis = drawn("autoencoder", *vae(config))
    width, mult, c = config.channels, config.channel_mult, config.embed_dim
    last, low = len(mult) - 1, 512 // config.factor
    down = [(f"down.{k}", m * width, 512 >> min(k + 1, last)) for k, m in enumerate(mult)]
    up = [(f"up.{k}", mult[k] * width, 512 >> max(k - 1, 0)) for k in range(last, -1, -1)]
    inner = mult[-1] * width
    wanted = [("picture", 3, 512), ("conv_in", width, 512), *down]
    wanted += [("mid", inner, low), ("conv_out", 2 * config.z_channels, low)]
    wanted += [("conv_in", inner, low), ("mid", inner, low), *up, ("conv_out", 3, 512)]
    found = [
        (name.get_text(), int(channels.get_text()), int(size.get_text().removesuffix("²")))
        for name, channels, size in zip(axis.texts, axis.texts[1:], axis.texts[2:], strict=False)
        if name.get_rotation() == 90
    ]
    found = [row for row in found if row[0]]
    assert found == wanted
    assert f"quant_conv\nmoments ({2 * c}, {low}, {low})" in texts(axis)
    assert f"× {config.scale_factor:g}\n({c}, {low}, {low})" in texts(axis)


ALL = {
    "resblock": lambda: resblock(320, 640, 32),
    "spatial_transformer": lambda: transformer(320, 64, 768),
    "unet_ladder": lambda: unet(SD1),
    "autoencoder": lambda: vae(KL_F8),
}


@pytest.mark.parametrize("name", ALL)
def test_letters_are_large_enough_and_on_the_page(drawn, name):
    axis = drawn(name, *ALL[name]())
    page = axis.figure.bbox
    for text in axis.texts:
        if text.get_text():
            box = text.get_window_extent()
            assert text.get_fontsize() >= 10, text.get_text()
            assert box.x0 >= page.x0 and box.x1 <= page.x1, text.get_text()
            assert box.y0 >= page.y0 and box.y1 <= page.y1, text.get_text()


@pytest.mark.parametrize("name", ALL)
def test_a_drawing_needs_its_words(name):
    with pytest.raises(TypeError, match="alt"):
        getattr(networks, name)(*ALL[name]())
    plt.close("all")
