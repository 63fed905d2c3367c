"""Rows of pictures, and the way from noise to one."""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle
from torch import Tensor

from .flip import flip
from .page import display

WIDEST = 9.6  # inches of a row, which is the width of a page


def shown(axis, picture: Tensor) -> None:
    """Draw a picture (3 or 1, h, w) with values -1..1, in a thin frame, or white ends nowhere."""
    picture = ((picture.detach().float().cpu() + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()
    axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.axis("off")
    frame = {"transform": axis.transAxes, "fill": False, "ec": "#cccccc", "clip_on": False}
    axis.add_patch(Rectangle((0, 0), 1, 1, lw=0.5, **frame))


def over(axis, picture: Tensor, weights: Tensor) -> None:
    """Draw a picture (3 or 1, h, w) in grey, and over it a map (a, b) of 0..1 in its own squares.

    Blue is 0 and yellow is 1: divide by the same number where maps are to be compared. White lines
    go round what differs from the background, the median of the picture's border.
    """
    shown(axis, picture.mean(0, keepdim=True))
    height, width = picture.shape[-2:]
    edges = (-0.5, width - 0.5, height - 0.5, -0.5)
    options = {"cmap": "viridis", "alpha": 0.85, "interpolation": "nearest", "extent": edges}
    axis.imshow(weights.detach().float().cpu().numpy(), vmin=0, vmax=1, **options)
    picture = picture.detach().float().cpu()
    border = torch.cat([picture[:, 0], picture[:, -1], picture[..., 0], picture[..., -1]], dim=1)
    away = (picture - border.median(dim=1).values[:, None, None]).norm(dim=0)
    if away.min() < 0.5 < away.max():
        line = {"colors": "white", "linewidths": 1.2, "antialiased": False}  # a light file
        axis.contour(away.numpy(), levels=[0.5], **line)


def strip(
    pictures: Tensor | Sequence[Tensor],
    titles: Sequence[str] = (),
    rows: int = 1,
    sides: Sequence[str] = (),
    headline: str = "",
    size: float = 1.6,
    *,
    alt: str,
) -> None:
    """Pictures (3 or 1, h, w) with values -1..1 in `rows` rows.

    titles: one for each column, or one for each picture. sides: a word to the left of each row.
    headline: a line above everything. size: inches for a picture; six of them fill the page, and
    more become smaller. alt: what one sees, in words (see `display`).
    """
    columns = len(pictures) // rows
    beside = 0.2 + 0.09 * max(map(len, sides), default=0) if sides else 0.0
    size = min(size, (WIDEST - beside) / columns)
    wrap = [textwrap.fill(title, max(12, round(size * 13))) for title in titles]
    lines = [1 + title.count("\n") for title in wrap] or [0]  # one column's, or every picture's
    above = 0.2 * sum(max(lines[k : k + columns]) for k in range(0, len(lines), columns))
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(size * columns + beside, size * rows + above + 0.35 * bool(headline)),
        squeeze=False,
        layout="constrained",
    )
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    for axis, picture in zip(axes.flat, pictures, strict=True):
        shown(axis, picture)
    for axis, title in zip(axes.flat, wrap, strict=False):
        axis.set_title(title, fontsize=10)
    for axis, side in zip(axes[:, 0], sides, strict=False):
        axis.text(-0.06, 0.5, side, transform=axis.transAxes, ha="right", va="center")
    if headline:
        figure.suptitle(headline)
    display(alt, figure)


def denoising(
    frames: Sequence, headline: str = "", columns: int = 6, size: float = 1.6, *, alt: str
) -> None:
    """The way from noise to picture, for frames of (t, x, x0): x_t above, predicted x0 below.

    More columns where more happens, which is early on.
    """
    last = len(frames) - 1
    some = [frames[round(last * (i / (columns - 1)) ** 1.5)] for i in range(columns)]
    pictures = [frame.x[0] for frame in some] + [frame.x0[0] for frame in some]
    titles, sides = [f"t = {frame.t}" for frame in some], ["$x_t$", "$\\hat x_0$"]
    strip(pictures, titles, 2, sides, headline, size, alt=alt)


def denoising_flip(frames: Sequence, *, alt: str, size: float = 2.4) -> None:
    """The same as a flip-book: x_t on the left, the predicted x0 on the right, a frame a step."""

    def draw(figure, frame):
        left, right = figure.subplots(1, 2)
        shown(left, frame.x[0])
        shown(right, frame.x0[0])
        left.set_title(f"$x_t$ at t = {frame.t}")
        right.set_title("predicted $x_0$")

    labels = [f"t = {frame.t}" for frame in frames]
    flip(draw, frames, labels, alt=alt, size=(2 * size, size + 0.3))
