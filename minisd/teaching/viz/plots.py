"""Plots that come up more than once. With `axis`, each draws there, else in a figure of its own."""

import math
from collections.abc import Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from torch import Tensor

from ...schedules import log_snr
from .page import COLORS, display


def plot_schedules(schedules: dict[str, Tensor], *, alt: str) -> None:
    """β_t, ᾱ_t and log SNR(t) side by side, for a dict of name -> alpha_bar."""
    _, axes = plt.subplots(1, 3, figsize=(9.6, 3.2))
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
    display(alt)


WALKS = COLORS[:-1]


def plot_paths(
    paths: Tensor,
    data: Tensor | None = None,
    title: str = "",
    axis=None,
    colors: Sequence[str] = (),
    *,
    alt: str = "",
) -> None:
    """2-D denoising trajectories: paths (steps, n, 2), from noise (grey) to the end (dark dots).

    data (m, 2), in light blue, is where they should arrive. With `colors` (WALKS, for example) each
    path has its own, faint where it begins, at a ring, and full where it ends, at a dot; the data
    are grey. With `axis`, draws there.
    """
    own = axis is None
    if own:
        _, axis = plt.subplots(figsize=(5, 5))
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
        display(alt)


def plot_orders(
    errors: dict[str, dict[int, float]],
    fit: int | None = None,
    title: str = "",
    axis=None,
    *,
    alt: str = "",
) -> dict[str, float]:
    """Error against number of steps, log-log, for name -> {steps: error}; the fitted slopes.

    The slope is least squares over the last `fit` points given (all, by default); its negative is
    the order of the method. With `axis`, draws there.
    """
    orders, own = {}, axis is None
    if own:
        _, axis = plt.subplots(figsize=(6.4, 4.4))
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
        display(alt)
    return orders


def heat_map(
    rows: dict[str, dict],
    form: str = "{:.2f}",
    title: str = "",
    xlabel: str = "",
    axis=None,
    *,
    alt: str = "",
) -> None:
    """Numbers as colours, name -> {column: number}: dark is low, bright is high, and the number is
    written in its cell. A cell that is missing stays white. With `axis`, draws there.
    """
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    table = torch.tensor([[row.get(c, math.nan) for c in columns] for row in rows.values()])
    own = axis is None
    if own:
        _, axis = plt.subplots(figsize=(2.8 + 0.85 * len(columns), 0.8 + 0.27 * len(rows)))
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
        display(alt)
