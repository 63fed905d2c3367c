"""What the tiny model's ControlNet does, and how its training came there: numbers and a sheet.

    python benchmarks/control.py minisd/tiny/weights/control.json  # some 15 minutes

Trains one as `minisd train control` does, and stores it on the way. The sheet, control.png beside
the numbers, has six outlines above, and a row of pictures for each stored one. Then: how often the
pictures are right and keep to the outlines, with it and without; what a sentence does that names
another shape than the outlines show; and what the outlines do without a sentence.
"""

import argparse
import copy
import json
import time
from pathlib import Path

import torch

from minisd.checkpoints import load
from minisd.checkpoints.control import save_control
from minisd.pipeline import Pipeline, save_png
from minisd.tiny import TINY
from minisd.tiny.captions import caption
from minisd.tiny.control import Sketched, edges, measured, overlap, painted, silhouette
from minisd.tiny.fidelity import HELD_OUT
from minisd.tiny.judge import judge, look
from minisd.tiny.scenes import paint, random_scene
from minisd.tiny.shapes import SHAPES
from minisd.tiny.train import SETTINGS
from minisd.training import Run, rng

STORED = (50, 100, 200, 300, 400)
SAMPLING = {"sampler": "euler_a", "steps": 30, "seed": 5}
ABOUT = (
    "The ControlNet of minisd train control, stored after `steps`: mean intersection over union of "
    "what is painted with what is outlined, and how many pictures the judge finds right, of `of`; "
    "control.png has six of them. `led`, of `pictures` of one and of two things: the share that is "
    "right, and the overlap. `contradicted`, of 50 outlines: in how many pictures there is one "
    "thing with the shape that the sentence names, or with the outlines' shape; how many have the "
    "outlined thing's color, which the sentence names; and the overlap."
)


def trained(folder: Path, settings) -> dict[int, Path]:
    """The files of the ControlNets after STORED steps, and what the training took."""
    files = {step: folder / f"control-{step}.safetensors" for step in STORED}
    if all(file.exists() for file in files.values()):
        return files
    run = Run(Sketched(load(TINY, "tiny")), settings, folder / "control.safetensors")
    used = time.process_time()
    for step, _ in run.go():
        if step in files:
            net = copy.deepcopy(run.stage.network)
            for name, weight in zip(run.names, run.average, strict=True):
                net.get_parameter(name).data = weight.clone()
            save_control(files[step], net.half())
    print(f"trained in {time.process_time() - used:.0f} s of the processor", flush=True)
    return files


def scenes(n: int, key: int, things=lambda i: 1):
    """n held-out scenes, and for each the generator that drew it, to go on with."""
    keys = [rng(HELD_OUT, key, i) for i in range(n)]
    found = [random_scene(random, things(i)) for i, random in enumerate(keys)]
    return found, keys


def outlines(found) -> torch.Tensor:
    return edges(torch.stack([paint(scene) for scene in found]))


def mean_overlap(pictures, found) -> float:
    """Of pictures with the scenes whose outlines they had."""
    pairs = zip(pictures, found, strict=True)
    return round(sum(overlap(painted(p), silhouette(s)) for p, s in pairs) / len(found), 3)


def on_the_way(files: dict[int, Path], n: int = 24) -> tuple[dict, torch.Tensor]:
    """Overlap and right pictures before the training and after each stored step, and the sheet."""
    found, keys = scenes(n, 9, lambda i: 1 + i % 2)
    texts, hint = [caption(*pair) for pair in zip(found, keys, strict=True)], outlines(found)
    told = {"of": n, "captions": texts[:6], "steps": [], "overlap": [], "right": []}
    rows = [hint[:6]]
    for step, file in ({0: None} | files).items():
        pipe, led = Pipeline.load(TINY, control_net=file), {"hint": hint} if file else {}
        pictures = pipe.txt2img(texts, **SAMPLING, **led).pictures()
        rows.append(pictures[:6])
        told["steps"].append(step)
        told["overlap"].append(mean_overlap(pictures, found))
        told["right"].append(sum(judge(*pair).right for pair in zip(pictures, texts, strict=True)))
    return told, torch.cat([torch.cat([*row], 2) for row in rows], 1)


def contradicted(pipe: Pipeline, n: int = 50) -> dict[str, dict[str, float]]:
    """What is seen where sentence and outlines name two shapes, and where there is no sentence."""
    found, keys = scenes(n, 10)
    things, hint, other = [scene.things[0] for scene in found], outlines(found), []
    for thing, random in zip(things, keys, strict=True):
        other.append([shape for shape in SHAPES if shape != thing.shape][random.integers(5)])
    texts = [
        f"a {thing.size} {thing.color} {shape} on {scene.background}"
        for thing, shape, scene in zip(things, other, found, strict=True)
    ]

    def seen(texts, **settings) -> dict[str, float]:
        pictures = pipe.txt2img(texts, hint=hint, **SAMPLING, **settings).pictures()
        alone = [view.things[0] if len(view.things) == 1 else None for view in map(look, pictures)]
        shapes = [thing and thing.shape for thing in alone]
        colors = [thing and thing.color for thing in alone]
        return {
            "the sentence's": sum(a == b for a, b in zip(shapes, other, strict=True)),
            "the outlines'": sum(a == b.shape for a, b in zip(shapes, things, strict=True)),
            "the color": sum(a == b.color for a, b in zip(colors, things, strict=True)),
            "overlap": mean_overlap(pictures, found),
        }

    return {
        "control scale 1": seen(texts),
        "control scale 0.5": seen(texts, control_scale=0.5),
        "no sentence, scale 1": seen([""] * n, scale=1.0),
        "no sentence, guess mode, scale 3": seen([""] * n, scale=3.0, guess=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("runs/control"))
    parser.add_argument("--pictures", type=int, default=100, help="of one and of two things (100)")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    files = trained(given.folder, SETTINGS["control"])
    told, sheet = on_the_way(files)
    save_png(given.out.with_suffix(".png"), sheet)
    pipe = Pipeline.load(TINY, control_net=files[STORED[-1]])
    led = {}
    for things in (1, 2):
        for way, flag in (("without", False), ("with", True)):
            right, share = measured(pipe, things, given.pictures, flag)
            led[f"{things}, {way}"] = [round(right, 3), round(share, 3)]
    told = {"about": ABOUT} | told | {"pictures": given.pictures, "led": led}
    told["contradicted"] = contradicted(pipe)
    given.out.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps({"led": led, "contradicted": told["contradicted"]}, indent=1))


if __name__ == "__main__":
    main()
