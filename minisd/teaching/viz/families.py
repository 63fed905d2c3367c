"""Stable Diffusion 1, 2 and XL as drawings: the way of a prompt, and the three side by side."""

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch, Rectangle

from ...models import configs
from ...models.configs import AutoencoderConfig, TextConfig, UNetConfig
from .boxes import arrow, box
from .page import display

SMALL = 9  # points, the smallest letters
BLUE, YELLOW, GREEN, WHITE, RED = "#dbe9f6", "#fdf3dc", "#dff0e4", "#ffffff", "#fbe3d6"
ORANGE, GREY = "#f3c08a", "#d9d9d9"
FAMILIES = {  # text encoders, U-Net, autoencoder; the side of a picture in pixels
    "SD 1": ((configs.CLIP_L,), configs.SD1, configs.KL_F8, 512),
    "SD 2 (768-v)": ((configs.OPENCLIP_H,), configs.SD2_V, configs.KL_F8, 768),
    "SDXL (base)": (
        (configs.CLIP_L_SDXL, configs.OPENCLIP_BIGG),
        configs.SDXL,
        configs.KL_F8_SDXL,
        1024,
    ),
}
ENCODERS = {
    configs.CLIP_L: "CLIP-L",
    configs.CLIP_L_SDXL: "CLIP-L",
    configs.OPENCLIP_H: "OpenCLIP-H",
    configs.OPENCLIP_BIGG: "OpenCLIP-bigG",
}
PREDICTED = {"eps": r"\epsilon", "v": "v", "x0": "x_0"}


def _box(axis, x, y, width, height, text="", color=BLUE, size=10.0):
    box(axis, x, y, text, width, height, color, size, zorder=1)  # bars and arrows go over it


def _arrow(axis, *corners, label="", at=(0.0, 0.0), align="center"):
    """An arrow along the corners, with its label's middle, left or right end at `at`."""
    arrow(axis, *corners)
    axis.text(*at, label, ha=align, va="center", fontsize=SMALL, color="#333333")


def prompt_flow(
    pictures: int = 3,
    text: TextConfig = configs.CLIP_L,
    unet: UNetConfig = configs.SD1,
    vae: AutoencoderConfig = configs.KL_F8,
    pixels: int = 512,
    *,
    alt: str,
) -> None:
    """Text to image as shapes: prompts and negative prompts in one batch, from tokens to pictures.

    The shapes come from the configs. The negative rows are the upper half of each box of the batch,
    as in the official order.
    """
    n, both, side = pictures, 2 * pictures, pixels // vae.factor
    width, latent = unet.model_channels, f"{unet.in_channels}, {side}, {side}"
    out, predicted = f"{unet.out_channels}, {side}, {side}", PREDICTED[unet.prediction]
    negative, positive = (f"{{{predicted}}}_{index}" for index in "uc")
    _, axis = plt.subplots(figsize=(9.6, 6.4))
    axis.set(xlim=(0, 96), ylim=(0, 64))
    axis.axis("off")

    def rows(x, y, width, upper, lower, height=10):
        """A box of two halves: negative rows above, positive rows below."""
        for sign, words, color in ((1, upper, RED), (-1, lower, GREEN)):
            _box(axis, x, y + sign * height / 4, width, height / 2, words, color, SMALL)

    rows(9.5, 57, 17, f'{n} negative: ""', f"{n} positive prompts")
    _box(axis, 38, 57, 15, 10, "text encoder\n(once)")
    rows(67, 57, 17, "negative rows", "positive rows")
    _arrow(axis, (18, 57), (30.5, 57), label="tokens", at=(24, 58.6))
    axis.text(24, 55.2, f"({both}, {text.length})", ha="center", va="center", fontsize=SMALL)
    _arrow(axis, (45.5, 57), (58.5, 57), label="context", at=(51.6, 58.6))
    shape = f"({both}, {text.length}, {text.width})"
    axis.text(52, 55.2, shape, ha="center", va="center", fontsize=SMALL)

    axis.add_patch(FancyBboxPatch((1, 14), 94, 32.5, "round,pad=0", fc=YELLOW, ec="#c9a227"))
    axis.text(2.5, 44.6, "the sampler's loop: every step", va="center", fontsize=10, style="italic")
    _box(axis, 11, 37.5, 17, 6.5, f"time t as\n{width} sinusoids", WHITE, SMALL)
    _box(axis, 34, 37.5, 13, 6.5, "time_embed", size=SMALL)
    _arrow(axis, (19.5, 37.5), (27.5, 37.5), label=f"({both}, {width})", at=(23.5, 39.2))
    shape = f"({both}, {4 * width})"
    _arrow(axis, (40.5, 37.5), (48.5, 37.5), (48.5, 32.5), label=shape, at=(45, 39.2))

    _box(axis, 8.5, 26, 13, 9, f"latents $x_t$\n({n}, {latent})", WHITE, SMALL)
    rows(29, 26, 17, f"$x_t$: {n} rows", f"$x_t$ again: {n} rows")
    _arrow(axis, (15, 26), (20.5, 26), label="twice", at=(17.6, 27.6))
    _box(axis, 50, 26, 13, 13, "U-Net", size=12)
    _arrow(axis, (37.5, 26), (43.5, 26))
    axis.text(29, 19.4, f"({both}, {latent})", ha="center", va="center", fontsize=SMALL)
    rows(67, 26, 13, f"${negative}$: negative", f"${positive}$: positive")
    _arrow(axis, (56.5, 26), (60.5, 26))
    axis.text(67, 19.4, f"({both}, {out})", ha="center", va="center", fontsize=SMALL)
    axis.text(67, 32.8, "chunk(2)", ha="center", va="center", fontsize=SMALL)
    _arrow(axis, (67, 52), (67, 42), (53, 42), (53, 32.5), label="", at=(60, 43))
    axis.text(68, 43.4, "cross-attention", ha="left", va="center", fontsize=SMALL)

    guidance = f"${negative} + g({positive} - {negative})$\n({n}, {out})"
    _box(axis, 86, 26, 15.5, 10, "guidance\n" + guidance, size=SMALL)
    _arrow(axis, (73.5, 26), (78.2, 26))
    _arrow(axis, (86, 21), (86, 16.3), (8.5, 16.3), (8.5, 21.5))
    step = f"a step: $x_s$ ({n}, {latent}) is the next $x_t$"
    axis.text(47, 17.4, step, ha="center", va="center", fontsize=SMALL)

    _box(axis, 37, 5.5, 15, 7, "decoder")
    _arrow(axis, (8.5, 14), (8.5, 5.5), (29.5, 5.5), label="after the last step:", at=(19, 8.8))
    axis.text(19, 7, f"$x_0$ ({n}, {latent})", ha="center", va="center", fontsize=SMALL)
    _box(axis, 67, 5.5, 17, 7, f"{n} pictures", WHITE)
    shape = f"({n}, 3, {pixels}, {pixels})"
    _arrow(axis, (44.5, 5.5), (58.5, 5.5), label=shape, at=(51.3, 7.2))
    display(alt)


def _text_lines(texts: tuple[TextConfig, ...]) -> str:
    def line(c):
        layer = "last" if c.layer == -1 else "penultimate"
        norm = "with norm" if c.norm else "no norm"
        name = ENCODERS.get(c, "text encoder")
        return f"{name}, {c.layers} layers, width {c.width}\n{layer} layer, {norm}"

    return "\n".join(line(c) for c in texts)


def families_side_by_side(families: dict[str, tuple] = FAMILIES, *, alt: str) -> None:
    """Each family as a column: text encoders, U-Net by level, vector, autoencoder, prediction.

    families: name -> (text configs, U-Net config, autoencoder config, pixels of a side). All
    numbers are read off the configs. A level's bar is as long as its channels are many. It is
    orange where the level has SpatialTransformers; "10 blocks" are the blocks in each of them.
    """
    _, axis = plt.subplots(figsize=(9.6, 8.0))
    axis.set(xlim=(0, 96), ylim=(1, 80))
    axis.axis("off")
    column = 96 / len(families)
    wide = column - 3
    most = max(c.model_channels * max(c.channel_mult) for _, c, _, _ in families.values())
    deepest = max(len(c.channel_mult) for _, c, _, _ in families.values())
    step = 6.2  # from one level to the next
    for k, (name, (texts, unet, vae, pixels)) in enumerate(families.items()):
        x = column * (k + 0.5)
        axis.text(x, 78, name, ha="center", va="center", fontsize=12, weight="bold")
        _box(axis, x, 69.5, wide, 11, _text_lines(texts), size=SMALL)
        context = f"context ({texts[0].length}, {unet.context_dim})"
        _arrow(axis, (x, 64), (x, 59), label=context, at=(x + 1, 61.5), align="left")

        top, side = 59.0, pixels // vae.factor
        bottom = top - 7 - step * (deepest + 2) + 2
        _box(axis, x, (top + bottom) / 2, wide, top - bottom, color=YELLOW)
        heads = f"{unet.heads} heads" if unet.heads else f"heads of width {unet.head_channels}"
        axis.text(x, top - 2.2, f"U-Net, {heads}", ha="center", va="center", fontsize=10)

        def row(place, words, share=0.0, color=WHITE, x=x, top=top):
            y, long = top - 7 - step * place, wide - 2
            axis.add_patch(Rectangle((x - long / 2, y - 2.3), long, 4.6, fc=WHITE))
            axis.add_patch(Rectangle((x - long / 2, y - 2.3), long * share, 4.6, fc=color))
            axis.text(x - long / 2 + 0.8, y, words, ha="left", va="center", fontsize=SMALL)

        levels = [*unet.channel_mult, unet.channel_mult[-1]]
        for level, mult in enumerate(levels):
            middle = level == len(levels) - 1
            factor = 2 ** (level - middle)
            channels = mult * unet.model_channels
            attends = middle or factor in unet.attention_factors
            blocks = unet.transformer_depth[level - middle] if attends else 0
            where = "middle" if middle else f"{side // factor} × {side // factor}"
            words = f"{where}: {channels} channels, {blocks or 'no'} block{'s' * (blocks != 1)}"
            color = ORANGE if blocks else GREY
            row(deepest if middle else level, words, channels / most, color)
        for level in range(len(unet.channel_mult), deepest):
            row(level, "no such level")
        numbers = unet.vector_dim
        vector = f"extra vector of {numbers} numbers" if numbers else "no extra vector"
        row(deepest + 1, vector, bool(numbers), GREEN)

        latent = f"({unet.out_channels}, {side}, {side})"
        words = f"predicts ${PREDICTED[unet.prediction]}$, {latent};\nthe sampler makes $x_0$ of it"
        end, at = (x - 9, bottom - 5), (x - 8, bottom - 2.5)
        _arrow(axis, (x - 9, bottom), end, label=words, at=at, align="left")
        words = f"decoder, {vae.factor} times the side\nscale factor {vae.scale_factor}"
        _box(axis, x, bottom - 8, wide, 6, words, size=SMALL)
        words, end, at = f"{pixels} × {pixels} pixels", (x - 9, bottom - 15), (x - 8, bottom - 13)
        _arrow(axis, (x - 9, bottom - 11), end, label=words, at=at, align="left")
    display(alt)
