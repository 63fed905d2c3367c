"""For notebooks: show a function's source, and the pictures that come up more than once.

Everything that ends in a picture returns nothing and shows it; what a picture says is printed by
the notebook, because pictures are not compared when notebooks run as tests.
"""

import dataclasses
import inspect
import math
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from itertools import cycle

import matplotlib
import matplotlib.pyplot as plt
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import Tensor

from ..schedules import log_snr


def setup() -> None:
    """One look for every notebook: small figures, thin axes, readable at 100 dots per inch.

    Where MPLBACKEND is set for a whole machine, as on many servers, a notebook would show no
    picture, so in a kernel that backend gives way to Jupyter's. One that you chose yourself stays.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    backend = str(matplotlib.get_backend(auto_select=False)).lower()
    told = {"agg", "none", os.environ.get("MPLBACKEND", "").lower()}  # none: it cannot be had here
    if hasattr(shell, "kernel") and backend in told and "inline" not in backend:
        shell.enable_matplotlib("inline")
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "figure.figsize": (6.4, 3.2),
            "figure.constrained_layout.use": True,
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "legend.frameon": False,
            "lines.linewidth": 1.6,
        }
    )


def show(*functions: Callable) -> None:
    """The source of each function, as it runs: a notebook that shows it fails when it changes."""
    from IPython.display import Markdown, display

    for function in functions:
        source = textwrap.dedent(inspect.getsource(function))  # a method's too
        display(Markdown(f"```python\n{source}```"))


def differences(**configs) -> None:
    """A table of the fields in which configs of one class differ, a column for each config."""
    from IPython.display import Markdown, display

    fields = [field.name for field in dataclasses.fields(next(iter(configs.values())))]
    values = {field: [getattr(config, field) for config in configs.values()] for field in fields}
    rows = [["", *configs], ["---"] * (len(configs) + 1)]
    rows += [[f"`{name}`", *map(str, row)] for name, row in values.items() if len({*row}) > 1]
    display(Markdown("\n".join("| " + " | ".join(row) + " |" for row in rows)))


def plot_schedules(schedules: dict[str, Tensor]) -> None:
    """β_t, ᾱ_t and log SNR(t) side by side, for a dict of name -> alpha_bar."""
    _, axes = plt.subplots(1, 3, figsize=(10, 2.8))
    for name, ab in schedules.items():
        t = torch.arange(1, len(ab))
        axes[0].plot(t, 1 - ab[1:] / ab[:-1], label=name)
        axes[1].plot(t, ab[1:])
        axes[2].plot(t, log_snr(ab[1:]))
    titles = ["$\\beta_t$, noise per step", "$\\bar\\alpha_t$, signal left", "$\\log$ SNR$(t)$"]
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlabel="t")
    axes[0].set_yscale("log")
    axes[2].set_ylim(bottom=-22)
    axes[0].legend()
    plt.show()


def strip(
    pictures: Tensor | Sequence[Tensor],
    titles: Sequence[str] = (),
    rows: int = 1,
    sides: Sequence[str] = (),
    headline: str = "",
    size: float = 1.3,
) -> None:
    """Pictures (3 or 1, h, w) with values -1..1 in `rows` rows, a title for each column.

    sides: a word to the left of each row; headline: a line above everything. size: inches for a
    picture, less where there are many columns.
    """
    columns = len(pictures) // rows
    size = min(size, 10 / columns)
    above = 0.25 * bool(titles) + 0.3 * bool(headline) - 0.2 * bool(sides)
    figure, axes = plt.subplots(
        rows, columns, figsize=(size * columns, size * rows + above), squeeze=False
    )
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    for axis, picture in zip(axes.flat, pictures, strict=True):
        picture = ((picture.detach().float().cpu() + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.axis("off")
        frame = {"transform": axis.transAxes, "fill": False, "ec": "#cccccc", "clip_on": False}
        axis.add_patch(Rectangle((0, 0), 1, 1, lw=0.5, **frame))  # or white ends nowhere
    for axis, title in zip(axes[0], titles, strict=False):
        axis.set_title(title, fontsize=8)
    for axis, side in zip(axes[:, 0], sides, strict=False):
        axis.text(-0.1, 0.5, side, transform=axis.transAxes, ha="right", va="center")
    if headline:
        figure.suptitle(headline)
    plt.show()


def denoising(frames: Sequence, headline: str = "", columns: int = 8, size: float = 1.3) -> None:
    """The way from noise to picture, for frames of (t, x, x0): x_t above, predicted x0 below.

    More columns where more happens, which is early on.
    """
    last = len(frames) - 1
    some = [frames[round(last * (i / (columns - 1)) ** 1.5)] for i in range(columns)]
    pictures = [frame.x[0] for frame in some] + [frame.x0[0] for frame in some]
    titles, sides = [f"t = {frame.t}" for frame in some], ["$x_t$", "$\\hat x_0$"]
    strip(pictures, titles, 2, sides, headline, size)


WALKS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")  # Okabe and Ito's


def plot_paths(
    paths: Tensor,
    data: Tensor | None = None,
    title: str = "",
    axis=None,
    colors: Sequence[str] = (),
) -> None:
    """2-D denoising trajectories: paths (steps, n, 2), from noise (grey) to the end (dark dots).

    data (m, 2), in light blue, is where they should arrive. With `colors` (WALKS, for example) each
    path has its own, faint where it begins, at a ring, and full where it ends, at a dot; the data
    are grey. With `axis`, draws there.
    """
    own = axis is None
    if own:
        _, axis = plt.subplots(figsize=(3.6, 3.6))
    if data is not None:
        axis.plot(*data.T, ".", ms=3, color="#cccccc" if colors else "#9ecae1", zorder=0)
    if not colors:
        axis.plot(paths[..., 0], paths[..., 1], "-", lw=0.6, color="#888888", alpha=0.7)
        axis.plot(*paths[0].T, ".", ms=3, color="#bbbbbb")
        axis.plot(*paths[-1].T, ".", ms=5, color="#08306b")
    opacity = torch.linspace(0.15, 1, len(paths) - 1).tolist()
    for path, color in zip(paths.transpose(0, 1), cycle(colors), strict=False):  # (steps, 2)
        segments = torch.stack([path[:-1], path[1:]], 1).tolist()
        shades = [to_rgba(color, alpha) for alpha in opacity]
        axis.add_collection(LineCollection(segments, colors=shades, linewidths=1))
        axis.plot(*path[0], "o", ms=4, mfc="none", color=color)
        axis.plot(*path[-1], "o", ms=4, color=color, mec="#222222", mew=0.6)
    axis.set(title=title, aspect="equal")
    if own:
        plt.show()


def plot_orders(
    errors: dict[str, dict[int, float]], fit: int | None = None, title: str = "", axis=None
) -> dict[str, float]:
    """Error against number of steps, log-log, for name -> {steps: error}; the fitted slopes.

    The slope is least squares over the last `fit` points given (all, by default); its negative is
    the order of the method. With `axis`, draws there.
    """
    orders, own = {}, axis is None
    if own:
        _, axis = plt.subplots(figsize=(5, 3.6))
    for name, of_steps in errors.items():
        steps = torch.tensor(list(of_steps), dtype=torch.float64)
        error = torch.tensor(list(of_steps.values()), dtype=torch.float64)
        x, y = steps[-fit if fit else None :].log(), error[-fit if fit else None :].log()
        x = x - x.mean()
        orders[name] = -float((x * y).sum() / (x * x).sum())
        axis.loglog(steps, error, "o-", ms=3, label=f"{name}: order {orders[name]:.1f}")
    axis.set(xlabel="steps", ylabel="max error", title=title)
    axis.legend()
    if own:
        plt.show()
    return orders


def heat_map(
    rows: dict[str, dict], form: str = "{:.2f}", title: str = "", xlabel: str = "", axis=None
) -> None:
    """Numbers as colours, name -> {column: number}: dark is low, bright is high, and the number is
    written in its cell. A cell that is missing stays white. With `axis`, draws there.
    """
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    table = torch.tensor([[row.get(c, math.nan) for c in columns] for row in rows.values()])
    own = axis is None
    if own:
        _, axis = plt.subplots(figsize=(2.2 + 0.75 * len(columns), 0.6 + 0.22 * len(rows)))
    image = axis.imshow(table, cmap="cividis", aspect="auto")
    for i, row in enumerate(table.tolist()):
        for j, value in enumerate(row):
            if not math.isnan(value):
                ink = "black" if image.norm(value) > 0.55 else "white"
                axis.text(j, i, form.format(value), ha="center", va="center", color=ink)
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    axis.set(title=title, xlabel=xlabel)
    axis.grid(False)
    axis.tick_params(length=0)
    if own:
        plt.show()


def system_map() -> None:
    """Stable Diffusion 1 as a map: what goes where, in which shape, and the notebook about it."""
    _, axis = plt.subplots(figsize=(10.5, 6.4))
    axis.set(xlim=(0, 100), ylim=(-12, 51))
    axis.axis("off")

    def box(x, y, text, notebooks="", color="#dbe9f6", width=13.0):
        corner = (x - width / 2, y - 3.5)
        style = "round,pad=0,rounding_size=1"
        axis.add_patch(FancyBboxPatch(corner, width, 7, style, fc=color, ec="#555555", lw=0.8))
        axis.text(x, y + 1.1 * bool(notebooks), text, ha="center", va="center")
        axis.text(x, y - 1.9, notebooks, ha="center", va="center", fontsize=7.5, color="#b03060")

    def arrow(*corners, label="", at=(0.0, 0.0), color="#222222", style="-"):
        axis.plot(*zip(*corners[:-1], strict=True), color=color, ls=style, lw=1.1)
        line = {"arrowstyle": "-|>", "color": color, "ls": style, "lw": 1.1, "shrinkA": 0}
        axis.annotate("", corners[-1], corners[-2], arrowprops=line)
        axis.text(*at, label, ha="center", va="center", fontsize=7.5, color="#333333")

    plain, training = "#ffffff", {"color": "#888888", "style": "--"}
    loop = FancyBboxPatch((22, 16), 55, 19, "round,pad=0", fc="#fdf3dc", ec="#c9a227", lw=0.8)
    axis.add_patch(loop)
    axis.text(76.3, 17.4, "the sampler's loop: 50 steps, t = 982, 962, ..., 2", ha="right")

    box(8, 46, "a sentence", color=plain)
    box(31, 46, "tokenizer", "notebook 12")
    box(54, 46, "text encoder", "notebook 12")
    arrow((14.5, 46), (24.5, 46), label="text", at=(19.5, 47.3))
    arrow((37.5, 46), (47.5, 46), label="(77,) numbers", at=(42.5, 47.3))
    arrow((54, 42.5), (54, 38), (31, 38), (31, 31.5))
    axis.text(55, 39.5, "(77, 768), and once more for no words", fontsize=7.5)

    box(8, 28, "noise $x_T$", color=plain)
    box(31, 28, "U-Net", "notebooks 08, 09")
    box(50, 28, "guidance", "notebook 09")
    box(68, 28, "a step to $x_s$", "notebooks 02-07, 14", width=15)
    arrow((14.5, 28), (24.5, 28), label="(4, 64, 64)", at=(18.2, 29.4))
    arrow((37.5, 28), (43.5, 28), label="$\\epsilon_u, \\epsilon_c$", at=(40.4, 29.3))
    arrow((56.5, 28), (60.5, 28), label="$\\tilde\\epsilon$", at=(58.3, 29.3))
    arrow((68, 24.5), (68, 20.5), (31, 20.5), (31, 24.5))
    axis.text(49.5, 21.7, "$x_s$ is the next $x_t$: (4, 64, 64)", ha="center", fontsize=7.5)
    arrow((75.5, 28), (83.5, 28), label="(4, 64, 64)", at=(80.2, 29.4))
    box(90, 28, "VAE decoder", "notebooks 10, 11")
    arrow((90, 31.5), (90, 42.5), label="(3, 512, 512)", at=(84.6, 37))
    box(90, 46, "a picture", color=plain)

    axis.text(1.5, 11, "only to train it:", style="italic", color="#555555")
    box(90, 5, "VAE encoder", "notebooks 10, 11", "#eeeeee")
    box(68, 5, "forward process", "notebook 01", "#eeeeee", width=15)
    box(45, 5, "U-Net", "notebooks 08, 13", "#eeeeee")
    box(20, 5, "loss", "notebook 03", "#eeeeee")
    arrow((96.5, 46), (98.7, 46), (98.7, 5), (96.5, 5), **training)
    arrow((83.5, 5), (75.5, 5), label="(4, 64, 64)", at=(79.7, 6.3), **training)
    arrow((60.5, 5), (51.5, 5), label="$x_t$ and t", at=(56.2, 6.3), **training)
    arrow((38.5, 5), (26.5, 5), label="$\\epsilon_\\theta$ (4, 64, 64)", at=(32.5, 6.4), **training)
    box(72, -7, "the picture's caption", color=plain, width=20)
    box(45, -7, "text encoder", "notebook 12", "#eeeeee")
    arrow((62, -7), (51.5, -7), label="text", at=(56.8, -5.6), **training)
    arrow((45, -3.5), (45, 1.5), **training)
    axis.text(44, -1.5, "(77, 768); no words in 10 % of cases", ha="right", fontsize=7.5)
    plt.show()
