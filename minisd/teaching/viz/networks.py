"""The networks as drawings. Every shape in them is read off the module itself, as it runs."""

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from .boxes import INK, arrow, box
from .page import GREEN, PINK, RED, display

PLAIN, CONV, NORM, ATTENTION = "#ffffff", "#dbe9f6", "#eeeeee", "#a9cfe8"
RESIZE, PANEL, ZERO = "#fbe3b0", "#f7f7f7", "#f3d3e4"


def shapes(module: nn.Module, *inputs: Tensor) -> dict[str, tuple]:
    """The shape, without the batch, of what each part of a module returns, by the part's name."""
    found, hooks = {}, []
    for name, part in module.named_modules():

        def note(part, inputs, output, name=name):
            if isinstance(output, Tensor):
                found[name] = tuple(output.shape[1:])

        hooks.append(part.register_forward_hook(note))
    try:
        module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


# ---- a page, boxes and arrows; every length is in tenths of an inch ---------------------------


def _page(height: float):
    """An axis as large as the figure: 96 wide, (0, 0) at the lower left."""
    figure = plt.figure(figsize=(9.6, height / 10), layout="none")
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, 96), ylim=(0, height))
    axis.axis("off")
    return axis


def _text(axis, x, y, text, size=10, color=INK, **more):
    style = {"ha": "center", "va": "center"} | more
    axis.text(x, y, text, fontsize=size, color=color, **style)


def _box(axis, x, y, text, width, height=5.0, color=CONV, size=10):
    box(axis, x, y, text, width, height, color, size)


def _panel(axis, left, bottom, right, top, title, below=False):
    """A frame behind boxes, with the official name of what is in it."""
    size = right - left, top - bottom
    axis.add_patch(Rectangle((left, bottom), *size, fc=PANEL, ec="#999999", lw=0.8, ls=":"))
    _text(axis, (left + right) / 2, bottom - 1.3 if below else top + 1.3, title, 10, "#555555")


def _plus(axis, x, y):
    axis.plot(x, y, "o", ms=15, mfc="white", mec=INK, mew=1)
    _text(axis, x, y - 0.05, "+", 13)


def _of(shape: tuple) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def _stage(axis, left, bottom, width, height, color, resized):
    """A box of the ladder, with a yellow edge above where the size changes after the rest."""
    look = {"ec": "#555555", "lw": 0.8}
    axis.add_patch(Rectangle((left, bottom), width, height, fc=color, **look))
    if resized and color != RESIZE:
        edge = (left, bottom + 0.84 * height)
        axis.add_patch(Rectangle(edge, width, 0.16 * height, fc=RESIZE, **look))


# ---- the drawings -------------------------------------------------------------------------


def resblock(block: nn.Module, x: Tensor, emb: Tensor, *, alt: str) -> None:
    """A ResBlock of the U-Net, with the shapes that x and emb have in it (on meta, for example)."""
    at = shapes(block, x, emb)
    axis, y = _page(36.5), 16.0
    _panel(axis, 13.5, y - 5, 41, y + 4, "in_layers", below=True)
    _panel(axis, 52.5, y - 5, 80, y + 4, "out_layers", below=True)
    _panel(axis, 34.5, y + 11, 62.5, y + 17, "emb_layers")
    _box(axis, 5.9, y, f"$x$\n{_of(tuple(x.shape[1:]))}", 10.6, color=PLAIN)
    for left, last in ((18.5, CONV), (57.5, ZERO)):
        _box(axis, left, y, "Group\nNorm", 7.5, color=NORM)
        _box(axis, left + 8.7, y, "SiLU", 6, color=NORM)
        _box(axis, left + 17.2, y, "conv\n3 × 3", 7.5, color=last)
        arrow(axis, (left + 3.75, y), (left + 5.7, y))
        arrow(axis, (left + 11.7, y), (left + 13.4, y))
    _box(axis, 17, y + 14, f"time\n{_of(tuple(emb.shape[1:]))}", 10, color=PLAIN)
    _box(axis, 40, y + 14, "SiLU", 7, 4.4, color=NORM)
    _box(axis, 53.5, y + 14, "linear", 9, 4.4)
    arrow(axis, (22, y + 14), (36.5, y + 14), color=RED)
    arrow(axis, (43.5, y + 14), (49, y + 14), color=RED)
    arrow(axis, (53.5, y + 11.8), (53.5, y + 7.5), (47, y + 7.5), (47, y + 1.3), color=RED)
    time = at["emb_layers"]
    _text(axis, 55, y + 8.2, f"{_of(time)}: one number for each channel,", 10, ha="left")
    _text(axis, 55, y + 6.0, "added at all pixels alike", 10, ha="left")
    arrow(axis, (11.2, y), (14.75, y))
    arrow(axis, (39.45, y), (45.8, y))
    arrow(axis, (48.2, y), (53.75, y))
    arrow(axis, (78.45, y), (81.7, y))
    arrow(axis, (84.1, y), (85.1, y))
    _box(axis, 90.4, y, f"$y$\n{_of(at[''])}", 10.6, color=PLAIN)
    _plus(axis, 47, y)
    _plus(axis, 82.9, y)
    _text(axis, 27.2, y + 5.6, f"out: {_of(at['in_layers.2'])}", 10)
    _text(axis, 73.5, y - 3.4, "begins at 0", 10, "#555555")
    same = isinstance(block.skip_connection, nn.Identity)
    skip = "$x$ itself" if same else "conv 1 × 1: the width changes"
    arrow(axis, (6, y - 2.5), (6, 3.5), (82.9, 3.5), (82.9, y - 1.3), color=GREEN, width=1.8)
    _box(axis, 45, 3.5, f"skip_connection: {skip}", 38, 4.4)
    display(alt)


def spatial_transformer(module: nn.Module, x: Tensor, context: Tensor, *, alt: str) -> None:
    """A SpatialTransformer above, and its BasicTransformerBlock below, with the shapes in them."""
    at = shapes(module, x, context)
    axis, y, z = _page(50), 39.0, 16.0
    block = "transformer_blocks.0"
    tokens = _of(at[block])
    # the transformer: to tokens, the block, back to a picture, a residual line around all
    picture = _of(tuple(x.shape[1:]))
    _box(axis, 6.2, y, f"$x$\n{picture}", 11, color=PLAIN)
    _box(axis, 18, y, "Group\nNorm", 7.5, color=NORM)
    _box(axis, 28.5, y, "proj_in\nconv 1 × 1", 9.5, color=CONV)
    _box(axis, 48, y, "BasicTransformerBlock", 19, color=ATTENTION)
    _box(axis, 69.5, y, "proj_out\nconv 1 × 1", 9.5, color=ZERO)
    _box(axis, 89.8, y, f"$y$\n{_of(at[''])}", 11, color=PLAIN)
    for a, b in ((11.7, 14.25), (21.75, 23.75), (33.25, 38.5), (57.5, 64.75), (74.25, 78.3)):
        arrow(axis, (a, y), (b, y))
    arrow(axis, (80.7, y), (84.3, y))
    arrow(axis, (6.2, y + 2.5), (6.2, y + 6), (79.5, y + 6), (79.5, y + 1.3), color=GREEN)
    _plus(axis, 79.5, y)
    _text(axis, 36, y + 4.1, "pixels to tokens", 10)
    _text(axis, 60.8, y + 4.1, "tokens to pixels", 10)
    _text(axis, 70.5, y - 3.9, "begins at 0", 10, "#555555")
    _text(axis, 43, y + 7.4, "residual line around everything", 10, GREEN)
    # the block
    bottom, top = 8.0, 26.6
    axis.add_patch(Rectangle((11, bottom), 75.5, top - bottom, fc=PANEL, ec="#999999", ls=":"))
    _text(axis, 12, top - 1.7, "BasicTransformerBlock", 10, "#555555", ha="left")
    for x0, x1 in ((38.5, 11), (57.5, 86.5)):
        axis.plot([x0, x1], [y - 2.5, top], ":", color="#999999", lw=0.8)
    _text(axis, 5.3, z, f"tokens\n{tokens}", 10)
    _text(axis, 91.6, z, f"tokens\n{tokens}", 10)
    names = {
        "attn1": "attn1\nself-\nattention",
        "attn2": "attn2\ncross-\nattention",
        "ff": "ff\nGEGLU,\nlinear",
    }
    for k, (name, text) in enumerate(names.items()):
        left = 13.6 + 24.5 * k
        start = left - 4 if k == 0 else left - 1.4
        _box(axis, left + 4, z, f"Layer\nNorm {k + 1}", 6.6, color=NORM)
        _box(axis, left + 14.2, z, text, 11.4, 6.6, CONV if name == "ff" else ATTENTION)
        arrow(axis, (start, z), (left + 0.7, z))
        arrow(axis, (left + 7.3, z), (left + 8.5, z))
        arrow(axis, (left + 19.9, z), (left + 20.7, z))
        mid = left + 21.9
        up = z + 5.2
        arrow(axis, (left - 0.9, z), (left - 0.9, up), (mid, up), (mid, z + 1.3), color=GREEN)
        _plus(axis, mid, z)
    arrow(axis, (85.7, z), (87.3, z))
    inner = at[f"{block}.ff.net.0"]
    _text(axis, 27.8, z - 4, "queries, keys, values:\nthe tokens", 10, va="top")
    _text(axis, 51.0, z - 4, "queries:\nthe tokens", 10, va="top", ha="right")
    _text(axis, 76.8, z - 4, f"inside:\n{_of(inner)}", 10, va="top")
    _box(axis, 52.3, 3.5, f"text {_of(tuple(context.shape[1:]))}: keys and values", 30, 4.4, PLAIN)
    arrow(axis, (52.3, 5.7), (52.3, z - 3.3), color=PINK, width=1.8)
    display(alt)


def unet_ladder(net: nn.Module, x: Tensor, index: Tensor, context: Tensor, *, alt: str) -> None:
    """The U-Net: input blocks, the middle and output blocks with their channels and sizes, the
    skips, and where the time and the text go in."""
    before = {}

    def entering(name):
        def hook(stage, inputs):
            before[name] = tuple(inputs[0].shape[1:])

        return hook

    down, up = len(net.input_blocks), len(net.output_blocks)
    stages = {f"input_blocks.{k}": stage for k, stage in enumerate(net.input_blocks)}
    stages["middle_block"] = net.middle_block
    stages |= {f"output_blocks.{k}": stage for k, stage in enumerate(net.output_blocks)}
    hooks = [s.register_forward_pre_hook(entering(name)) for name, s in stages.items()]
    try:
        after = shapes(net, x, index, context)
    finally:
        for hook in hooks:
            hook.remove()

    axis, high = _page(66), 7.2
    sides = sorted({after[n][1] for n in stages}, reverse=True)
    level_y = {side: 57.4 - 12.6 * k for k, side in enumerate(sides)}
    at = {n: (before if n.startswith("output") else after)[n][1] for n in stages}
    column, columns = -1.0, {}
    for name, last in zip(stages, [None, *stages], strict=False):
        column += 1 if last is None or at[name] == at[last] else 0.75  # a new level: closer
        columns[name] = column
    pitch = min(91.2 / (column + 1), 7)
    width = pitch - 0.12
    where, time_at, text_at = {}, {s: [] for s in sides}, {s: [] for s in sides}
    for k, (name, stage) in enumerate(stages.items()):
        side = at[name]
        cx, cy = 4.1 + pitch * (columns[name] + 0.5), level_y[side]
        where[name] = cx, cy, side
        kinds = [type(layer).__name__ for layer in stage]
        attends, timed = "SpatialTransformer" in kinds, "ResBlock" in kinds
        resized = "Upsample" in kinds or "Downsample" in kinds
        fill = ATTENTION if attends else CONV if timed else RESIZE if resized else PLAIN
        _stage(axis, cx - width / 2, cy - high / 2, width, high, fill, resized)
        short = f"i{k}" if k < down else "M" if k == down else f"o{k - down - 1}"
        _text(axis, cx, cy + 1.3, short, weight="bold")
        _text(axis, cx, cy - 0.7, before[name][0])
        _text(axis, cx, cy - 2.6, after[name][0])
        if timed:
            time_at[side].append(cx - 0.7)
        if attends:
            text_at[side].append(cx + 0.7)
    for k in range(down):  # the skips, each at its own height
        (x0, y0, side), (x1, _, _) = (
            where[f"input_blocks.{k}"],
            where[f"output_blocks.{up - 1 - k}"],
        )
        mates = [n for n in where if n.startswith("input") and where[n][2] == side]
        lift = y0 + high / 2 + 0.7 * (len(mates) - mates.index(f"input_blocks.{k}"))
        axis.plot([x0, x0, x1], [y0 + high / 2, lift, lift], color=GREEN, lw=1.1)
        arrow(axis, (x1, lift), (x1, y0 + high / 2), color=GREEN, width=1.1)
    names = list(stages)
    for one, two in zip(names, names[1:], strict=False):  # from one level to the next
        (x0, y0, _), (x1, y1, _) = where[one], where[two]
        if y1 < y0:
            arrow(axis, (x0, y0 - high / 2), (x0, y1), (x1 - width / 2, y1))
        elif y1 > y0:
            arrow(axis, (x0 + width / 2, y0), (x1, y0), (x1, y1 - high / 2))
    _text(axis, 50, 64.6, "skips", color=GREEN)
    time_trunk, text_trunk = 0.8, 95.5
    for side, y in level_y.items():
        rail = y - high / 2 - 1.5
        _text(axis, 1.3, y, f"{side}²", ha="left")
        if time_at[side]:
            axis.plot([time_trunk, max(time_at[side])], [rail, rail], color=RED, lw=1)
            for cx in time_at[side]:
                arrow(axis, (cx, rail), (cx, y - high / 2), color=RED, width=1)
        if text_at[side]:
            rail -= 1.0
            axis.plot([min(text_at[side]), text_trunk], [rail, rail], color=PINK, lw=1, ls="--")
            for cx in text_at[side]:
                arrow(axis, (cx, rail), (cx, y - high / 2), color=PINK, width=1)
    last = level_y[sides[-1]] - high / 2
    first = level_y[sides[0]] - high / 2
    axis.plot([time_trunk] * 2, [9.2, first - 1.5], color=RED, lw=1)
    axis.plot([text_trunk] * 2, [9.2, first - 2.5], color=PINK, lw=1, ls="--")
    emb, width_in = after["time_embed"], net.config.model_channels
    _box(axis, 17, 9.2, f"time index\n({width_in},) → time_embed → {_of(emb)}", 30, 5, PLAIN, 10)
    axis.plot([time_trunk, 2], [9.2, 9.2], color=RED, lw=1)
    _box(axis, 82, 9.2, f"text\n{_of(tuple(context.shape[1:]))}", 20, 5, PLAIN, 10)
    axis.plot([92, text_trunk], [9.2, 9.2], color=PINK, lw=1, ls="--")
    _text(axis, 50, last - 5.2, "in each box: name,\nchannels in, channels out", 10, va="top")
    legend = {
        "ResBlock": (CONV, False),
        "ResBlock and transformer": (ATTENTION, False),
        "half the size": (RESIZE, False),
        "yellow edge: then twice the size": (ATTENTION, True),
    }
    cx = 3.0
    for text, look in legend.items():
        _stage(axis, cx, 1.2, 2.6, 2.8, *look)
        _text(axis, cx + 3.4, 2.6, text, ha="left")
        cx += 7 + 0.78 * len(text)
    display(alt)


def autoencoder(vae: nn.Module, x: Tensor, *, alt: str) -> None:
    """The first stage as an hourglass, and below it what happens where it is narrowest."""
    into = shapes(vae.encoder, x)
    moments = shapes(vae.quant_conv, torch.empty(1, *into["conv_out"], device=x.device))[""]
    z = torch.empty(1, vae.config.embed_dim, *moments[1:], device=x.device)
    mixed = shapes(vae.post_quant_conv, z)[""]
    out = shapes(vae.decoder, torch.empty(1, *mixed, device=x.device))
    levels = len(vae.encoder.down)
    ends = {}  # what a level returns: its last part that changes the picture
    for k in range(levels):
        last = len(vae.encoder.down[k].block) - 1
        ends[f"down.{k}"] = into.get(f"down.{k}.downsample", into[f"down.{k}.block.{last}"])
        last = len(vae.decoder.up[k].block) - 1
        ends[f"up.{k}"] = out.get(f"up.{k}.upsample", out[f"up.{k}.block.{last}"])
    left = [("picture", tuple(x.shape[1:])), ("conv_in", into["conv_in"])]
    left += [(f"down.{k}", ends[f"down.{k}"]) for k in range(levels)]
    left += [("mid", into["mid"]), ("conv_out", into["conv_out"])]
    right = [("conv_in", out["conv_in"]), ("mid", out["mid"])]
    right += [(f"up.{k}", ends[f"up.{k}"]) for k in reversed(range(levels))]
    right += [("conv_out", out["conv_out"])]

    axis, y, pitch, width = _page(51), 34.0, 5.5, 3.4
    largest = x.shape[-1]

    def tall(shape):
        return 24.0 * (shape[-1] / largest) ** 0.45

    def bars(parts, start, shade):
        for k, (name, shape) in enumerate(parts):
            cx, h = start + pitch * k, tall(shape)
            corner = (cx - width / 2, y - h / 2)
            fill = PLAIN if name == "picture" else ATTENTION if name == "mid" else shade
            axis.add_patch(Rectangle(corner, width, h, fc=fill, ec="#555555", lw=0.8))
            _text(axis, cx, y, name, 10, rotation=90)
            _text(axis, cx, 19.6, shape[0], 10)
            _text(axis, cx, 17.4, f"{shape[1]}²", 10)
            if k:
                arrow(axis, (cx - pitch + width / 2, y), (cx - width / 2, y), width=1)

    bars(left, 8.6, CONV)
    start = 96 - 4.4 - pitch * (len(right) - 1)
    bars(right, start, RESIZE)
    _text(axis, 0.6, 19.6, "channels", 10, ha="left")
    _text(axis, 0.6, 17.4, "size", 10, ha="left")
    _text(axis, 25, y + 14.3, "encoder", 12, weight="bold")
    _text(axis, 74, y + 14.3, "decoder", 12, weight="bold")
    end = 8.6 + pitch * (len(left) - 1)
    # the neck, drawn large below
    low, boxes = (
        7.0,
        [
            (10, f"quant_conv\nmoments {_of(moments)}", 16, CONV),
            (30.4, f"mean {_of(tuple(z.shape[1:]))}\nlog variance, clamped", 18.4, PLAIN),
            (50, "sample\n$z=\\mu_q+\\sigma_q\\,\\epsilon$", 13.4, RESIZE),
            (67, f"× {vae.config.scale_factor:g}\n{_of(tuple(z.shape[1:]))}", 12.6, ZERO),
            (86.3, f"÷ {vae.config.scale_factor:g}\npost_quant_conv", 15.4, CONV),
        ],
    )
    for cx, text, wide, color in boxes:
        _box(axis, cx, low, text, wide, 5.6, color, 10)
    for (a, _, wa, _), (b, _, wb, _) in zip(boxes, boxes[1:], strict=False):
        last = b == boxes[-1][0]
        arrow(axis, (a + wa / 2, low), (b - wb / 2, low), style="--" if last else "-")
    top = low + 2.8
    arrow(
        axis,
        (end + width / 2, y),
        (end + width / 2 + 1.2, y),
        (end + width / 2 + 1.2, 13.6),
        (10, 13.6),
        (10, top),
    )
    arrow(
        axis,
        (86.3, top),
        (86.3, 13.6),
        (start - width / 2 - 1.2, 13.6),
        (start - width / 2 - 1.2, y),
        (start - width / 2, y),
    )
    _text(axis, 50, 1.6, f"noise $\\epsilon$ {_of(tuple(z.shape[1:]))}", 10)
    arrow(axis, (50, 2.6), (50, low - 2.8))
    _text(axis, 75.5, 1.6, "here the diffusion works", 10, "#555555")
    display(alt)
