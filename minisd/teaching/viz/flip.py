"""A flip-book: frames with a slider and a play button, which needs no kernel and no package.

What is stored is one PNG, a sheet of all frames, and below it a few lines of HTML that do not hold
the picture. Where a front end runs their script, the script takes the sheet apart and shows one
frame at a time: in a notebook that you ran or trust, in VS Code, in Colab, in a page that nbconvert
made. Elsewhere, on GitHub for example, one sees the sheet itself: all frames, in order.
"""

import io
import json
import zlib
from collections.abc import Callable, Sequence
from html import escape

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from .page import publish

SCRIPT = """
(() => {
  const it = ITEMS;
  const find = (box) => [...document.images].filter((image) =>
    image.naturalWidth == it.sheet[0] && image.naturalHeight == it.sheet[1] &&
    box.compareDocumentPosition(image) & Node.DOCUMENT_POSITION_PRECEDING).pop();
  const build = (box, sheet) => {
    const [columns, rows] = [it.sheet[0] / it.frame[0], it.sheet[1] / it.frame[1]];
    const view = box.appendChild(document.createElement("div"));
    view.setAttribute("role", "img");
    view.setAttribute("aria-label", it.alt);
    view.style.cssText = `width:100%;aspect-ratio:${it.frame[0]}/${it.frame[1]};` +
      `background:url("${sheet.src}") 0 0/${100 * columns}% ${100 * rows}%`;
    const bar = box.appendChild(document.createElement("div"));
    bar.style.cssText = "display:flex;gap:8px;align-items:center;padding:4px 0";
    const play = bar.appendChild(document.createElement("button"));
    const slider = bar.appendChild(document.createElement("input"));
    const label = bar.appendChild(document.createElement("span"));
    Object.assign(slider, {type: "range", min: 0, max: it.labels.length - 1, value: 0});
    slider.setAttribute("aria-label", "frame");
    slider.style.flex = "1";
    label.style.cssText = "min-width:9em;font-size:14px;font-variant-numeric:tabular-nums";
    play.style.cssText = "min-width:5em;padding:2px 8px;cursor:pointer";
    box.dataset.lmSuppressShortcuts = "true";  // or JupyterLab takes the arrow keys,
    box.onkeydown = (event) => event.stopPropagation();  // and the focus
    let timer = 0;
    const draw = () => {
      const k = Number(slider.value), [x, y] = [k % columns, Math.floor(k / columns)];
      view.style.backgroundPosition =
        `${columns > 1 ? 100 * x / (columns - 1) : 0}% ${rows > 1 ? 100 * y / (rows - 1) : 0}%`;
      label.textContent = it.labels[k];
      slider.setAttribute("aria-valuetext", it.labels[k]);
      play.textContent = timer ? "\u25a0 stop" : "\u25b6 play";
    };
    const stop = () => { clearInterval(timer); timer = 0; draw(); };
    play.onclick = () => {
      if (timer) return stop();
      if (slider.value == slider.max) slider.value = 0;
      timer = setInterval(() => {
        slider.value = Number(slider.value) + 1;
        slider.value == slider.max ? stop() : draw();
      }, it.pause);
      draw();
    };
    slider.oninput = () => { stop(); };
    sheet.style.display = "none";
    draw();
  };
  const wait = (left) => {
    for (const box of document.querySelectorAll("." + it.name + ":empty")) {
      const sheet = find(box);
      if (sheet) build(box, sheet);
      else if (left) return setTimeout(wait, 100, left - 1);
    }
  };
  wait(100);
})();
"""


def flip(
    draw: Callable,
    values: Sequence,
    labels: Sequence[str],
    *,
    alt: str,
    size: tuple[float, float] = (6.4, 3.6),
    columns: int = 4,
    seconds: float = 0.4,
) -> None:
    """Frames one after another: draw(figure, value) draws one, and its label names it.

    size: a frame's inches, at 100 dots each. columns: of the sheet. seconds: a frame's time when it
    plays. alt: what is seen to move, in words. Draw the label's number into the frame as well where
    the sheet would be a riddle without it. Keep the sheet below 110 KB: some 16 to 24 frames.
    """
    if len(values) != len(labels):
        raise ValueError(f"a label for each frame: got {len(values)} frames, {len(labels)} labels")
    frames = []
    for value in values:
        figure = Figure(figsize=size, dpi=100, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        draw(figure, value)
        canvas.draw()
        frames.append(np.asarray(canvas.buffer_rgba())[..., :3])
    height, width, _ = frames[0].shape
    columns = min(columns, len(frames))
    rows = -(-len(frames) // columns)
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for k, frame in enumerate(frames):
        y, x = k // columns * height, k % columns * width
        sheet[y : y + height, x : x + width] = frame
    png = io.BytesIO()
    Image.fromarray(sheet).save(png, "PNG")
    plt.close("all")

    items = {"alt": alt, "labels": list(labels), "frame": [width, height]}
    items |= {"sheet": [columns * width, rows * height], "pause": round(1000 * seconds)}
    items["name"] = f"flip-{zlib.crc32(json.dumps(items).encode()):08x}"
    script = SCRIPT.replace("ITEMS", json.dumps(items).replace("</", "<\\/"))
    style = f"width:{width}px;max-width:100%"
    box = f'<div class="{escape(items["name"])}" style="{style}"></div><script>{script}</script>'
    publish(png.getvalue(), alt + f" ({len(frames)} frames: {labels[0]} to {labels[-1]}.)", box)
