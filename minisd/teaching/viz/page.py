"""What a page of a notebook shows: the source of a function, a table, a figure with its words."""

import base64
import dataclasses
import inspect
import io
import os
import sys
import textwrap
from collections.abc import Callable
from html import escape

import matplotlib
import matplotlib.pyplot as plt

from .source import narrow

# Okabe and Ito's colours, which people with colour-blindness can tell apart.
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#e69f00", "#009e73", "#cc79a7"
RED, SKY, BLACK = "#d55e00", "#56b4e9", "#222222"
COLORS = (BLUE, ORANGE, GREEN, PINK, RED, SKY, BLACK)
UNSEEN = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)"
# JupyterLab gives a picture no `alt`, and a screen reader would spell out its data.
WORDS = """<script>
for (const words of document.querySelectorAll(".minisd-words")) {
  const all = [...words.closest(".jp-OutputArea")?.querySelectorAll("img") ?? []];
  const before = all.filter((it) => words.compareDocumentPosition(it) & 2).pop();
  if (before && !before.alt) { before.alt = words.textContent; words.ariaHidden = "true"; }
}
</script>"""


def setup() -> None:
    """One look for every notebook: figures as wide as the page, with letters that can be read.

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
            "figure.figsize": (9, 3.6),
            "figure.constrained_layout.use": True,
            "font.size": 11,
            "axes.titlesize": 12,
            "axes.prop_cycle": plt.cycler(color=COLORS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "legend.frameon": False,
            "lines.linewidth": 1.6,
        }
    )


def publish(png: bytes, alt: str, html: str = "") -> None:
    """Put a PNG on the page, with words for those who cannot see it, and `html` below.

    The words go where screen readers, other front ends and a plain terminal look for them: the
    picture's `alt`, a line of HTML that is not drawn, and text/plain. When a notebook runs as a
    test, the picture is not compared, and the words are.
    """
    from IPython.display import HTML, display, publish_display_data

    data = {"image/png": base64.b64encode(png).decode(), "text/plain": alt}
    publish_display_data(data, {"image/png": {"alt": alt}})
    words = f'<div class="minisd-words" style="{UNSEEN}">{escape(alt)}</div>{WORDS}'
    display(HTML(words + html, metadata={}))


def display(alt: str, figure=None) -> None:
    """Show a figure, by default the current one, and close it. alt: what it shows, in words.

    A good `alt` says what the axes are and what one sees: "ᾱ over t for three schedules; the cosine
    stays above 0.5 until t = 497, the other two fall earlier."
    """
    figure = figure or plt.gcf()
    png = io.BytesIO()
    figure.savefig(png, format="png")
    plt.close(figure)
    publish(png.getvalue(), alt)


def show(*functions: Callable) -> None:
    """The source of each function, in lines that fit; a test fails when what is shown changes."""
    from IPython.display import Markdown, display

    for function in functions:
        source = narrow(textwrap.dedent(inspect.getsource(function)))  # a method's too
        display(Markdown(f"```python\n{source}```"))


def differences(**configs) -> None:
    """A table of the fields in which configs of one class differ, a column for each config."""
    from IPython.display import Markdown, display

    fields = [field.name for field in dataclasses.fields(next(iter(configs.values())))]
    values = {field: [getattr(config, field) for config in configs.values()] for field in fields}
    rows = [["", *configs], ["---"] * (len(configs) + 1)]
    rows += [[f"`{name}`", *map(str, row)] for name, row in values.items() if len({*row}) > 1]
    display(Markdown("\n".join("| " + " | ".join(row) + " |" for row in rows)))
