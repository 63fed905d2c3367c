"""Draw the README's picture, docs/strip.png: a sentence, and the way from noise to a picture of it.

    python tools/readme_picture.py

The calls of notebook 00, by the model that ships, reduced to a palette.
"""

import io
import pathlib

import matplotlib

matplotlib.use("agg")

from PIL import Image  # noqa: E402

from minisd.pipeline import Pipeline  # noqa: E402
from minisd.teaching import viz  # noqa: E402
from minisd.tiny.weights import TINY  # noqa: E402

TARGET = pathlib.Path(__file__).parents[1] / "docs" / "strip.png"


def main() -> None:
    prompt, pipe = "a small green star above a large yellow ring", Pipeline.load(TINY)
    run = pipe.txt2img(prompt, steps=30, seed=1)
    frames = [step._replace(x=pipe.decode(step.x), x0=pipe.decode(step.x0)) for step in run]
    viz.setup()
    png = io.BytesIO()
    viz.page.publish = lambda picture, alt: png.write(picture)  # to a file, not to a page
    viz.denoising(frames, f"“{prompt}”", alt="")
    TARGET.parent.mkdir(exist_ok=True)
    picture = Image.open(png).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(TARGET, "PNG", optimize=True)
    print(
        f"{TARGET.name}: {picture.width} x {picture.height}, {TARGET.stat().st_size / 1e3:.0f} KB"
    )


if __name__ == "__main__":
    main()
