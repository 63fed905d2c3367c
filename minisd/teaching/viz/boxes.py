"""What the drawings are made of: boxes with rounded corners, and arrows along corners."""

from matplotlib.patches import FancyBboxPatch

INK, EDGE = "#222222", "#555555"


def box(axis, x, y, text, width, height, color, size=10.0, rounding=0.8, zorder=3.0) -> None:
    """A box with its middle at (x, y), and a text in it. It covers what has a lower zorder."""
    corner, style = (x - width / 2, y - height / 2), f"round,pad=0,rounding_size={rounding}"
    look = {"fc": color, "ec": EDGE, "lw": 0.8, "zorder": zorder}
    axis.add_patch(FancyBboxPatch(corner, width, height, style, **look))
    axis.text(x, y, text, ha="center", va="center", fontsize=size, color=INK, zorder=zorder + 1)


def arrow(axis, *corners, color=INK, style="-", width=1.2) -> None:
    """A line through the corners, with a head at the last one."""
    axis.plot(*zip(*corners[:-1], strict=True), color=color, ls=style, lw=width)
    line = {"arrowstyle": "-|>", "color": color, "ls": style, "lw": width}
    axis.annotate("", corners[-1], corners[-2], arrowprops=line | {"shrinkA": 0, "shrinkB": 0})
