"""Stable Diffusion as a drawing."""

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

from . import boxes
from .page import display


def system_map(*, alt: str) -> None:
    """Stable Diffusion 1 as a map: what goes where, in which shape, and the notebook about it."""
    _, axis = plt.subplots(figsize=(10.5, 6.4))
    axis.set(xlim=(0, 100), ylim=(-12, 51))
    axis.axis("off")

    def box(x, y, text, notebooks="", color="#dbe9f6", width=13.0):
        boxes.box(axis, x, y, text + "\n" * bool(notebooks), width, 7, color, 11, 1, zorder=1)
        axis.text(x, y - 1.9, notebooks, ha="center", va="center", fontsize=7.5, color="#b03060")

    def arrow(*corners, label="", at=(0.0, 0.0), **look):
        boxes.arrow(axis, *corners, width=1.1, **look)
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
    display(alt)
