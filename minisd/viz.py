"""For notebooks: show a function's source, and the pictures that come up more than once.

Everything that ends in a picture returns nothing and shows it; what a picture says is printed by
the notebook, because pictures are not compared when notebooks run as tests.
"""

import inspect
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from .schedules import log_snr


def setup() -> None:
    """One look for every notebook: small figures, thin axes, readable at 100 dots per inch."""
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
        display(Markdown(f"```python\n{inspect.getsource(function)}```"))


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
    axes[0].legend()
    plt.show()


def strip(pictures: Tensor | Sequence[Tensor], titles: Sequence[str] = (), rows: int = 1) -> None:
    """Pictures (3 or 1, h, w) with values -1..1, side by side, one title for each column."""
    columns = len(pictures) // rows
    size = min(1.3, 10 / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(size * columns, size * rows + 0.25 * bool(titles)), squeeze=False
    )
    for axis, picture in zip(axes.flat, pictures, strict=True):
        picture = ((picture.detach().float().cpu() + 1) / 2).clamp(0, 1).permute(1, 2, 0)
        axis.imshow(picture.squeeze(-1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.axis("off")
    for axis, title in zip(axes[0], titles, strict=False):
        axis.set_title(title, fontsize=8)
    plt.show()


def plot_paths(paths: Tensor, data: Tensor | None = None, title: str = "", axis=None) -> None:
    """2-D denoising trajectories: paths (steps, n, 2), from noise (grey) to the end (dark dots).

    data (m, 2), in light blue, is where they should arrive. With `axis`, draws there.
    """
    own = axis is None
    if own:
        _, axis = plt.subplots(figsize=(3.6, 3.6))
    if data is not None:
        axis.plot(*data.T, ".", ms=3, color="#9ecae1", zorder=0)
    axis.plot(paths[..., 0], paths[..., 1], "-", lw=0.6, color="#888888", alpha=0.7)
    axis.plot(*paths[0].T, ".", ms=3, color="#bbbbbb")
    axis.plot(*paths[-1].T, ".", ms=5, color="#08306b")
    axis.set(title=title, aspect="equal")
    if own:
        plt.show()


def plot_orders(errors: dict[str, dict[int, float]]) -> dict[str, float]:
    """Error against number of steps, log-log, for name -> {steps: error}; the fitted slopes.

    The slope is least squares over all points given; its negative is the order of the method.
    """
    orders = {}
    _, axis = plt.subplots(figsize=(5, 3.6))
    for name, of_steps in errors.items():
        steps = torch.tensor(list(of_steps), dtype=torch.float64)
        error = torch.tensor(list(of_steps.values()), dtype=torch.float64)
        x, y = steps.log() - steps.log().mean(), error.log()
        orders[name] = -float((x * y).sum() / (x * x).sum())
        axis.loglog(steps, error, "o-", ms=3, label=f"{name}: order {orders[name]:.1f}")
    axis.set(xlabel="steps", ylabel="max error")
    axis.legend()
    plt.show()
    return orders
