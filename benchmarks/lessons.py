"""What the tiny model learned from its lessons, and what it lost: every share that the judge gives.

    python -m minisd train lora word dreambooth dreambooth-lora --folder with
    python -m minisd train dreambooth --folder paper --prior 1 --prior-target data
    python -m minisd train dreambooth --folder without --prior 0
    python benchmarks/lessons.py with paper without --out minisd/tiny/weights/lessons.json

Captions of scenes that no training used; Euler ancestral, the usual scale. With --models the other
columns that the file has stay. Two sheets are painted beside the numbers, each row with the same
seeds: moon.png, six prompts at six scales of the LoRA, and dreambooth.png, six prompts after
DreamBooth by a LoRA, by all weights, and without its prior loss.
"""

import argparse
import json
import re
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from minisd.pipeline import Pipeline, save_png
from minisd.tiny import TINY
from minisd.tiny.captions import read
from minisd.tiny.fidelity import captions
from minisd.tiny.judge import judge
from minisd.tiny.lessons import LESSONS, held_out_captions, request
from minisd.tiny.scenes import ALIKE
from minisd.tiny.shapes import SHAPES
from minisd.tiny.train import result

KNOWN = {"one thing": 1, "two things": 2, "three things": 3, "things alike": ALIKE}
SAMPLER = "euler_a"  # as own_pictures has it


def pictures_right(pipe, texts, shapes, wanted, steps) -> str:
    """For the picture of each of these texts 1 if it is right in all that they say, 0 if not."""
    right = []
    for k in range(0, len(texts), 50):
        part = texts[k : k + 50]
        pictures = pipe.txt2img(part, seed=10_000 + k, steps=steps, sampler=SAMPLER).pictures()
        right += [
            judge(*pair, shapes).right for pair in zip(pictures, map(wanted, part), strict=True)
        ]
    return "".join(str(int(one)) for one in right)


MOONS = (
    "a red moon",
    "a large yellow moon on navy",
    "a blue moon left of a red square",
    "a large green moon on white",
    "a red circle on cream",
    "a pink moon below a green star",
)
SUBJECTS = (
    "a sks circle",
    "a sks circle left of a red star",
    "a circle",
    "a large red ring",
    "a small blue cross",
    "a green triangle above a pink star",
)
SEED = 4  # picture i has SEED + i; chosen so that DreamBooth's "a circle", of seed 6, is there:
# of its seeds 0 to 11 three, 8 to 10, leave it empty


def sheet(pipes, texts, steps: int) -> torch.Tensor:
    """A row of pictures for each model, a column for each text."""
    how = {"steps": steps, "seed": SEED, "sampler": SAMPLER}
    rows = [pipe.txt2img([*texts], **how).pictures() for pipe in pipes]
    return torch.cat([torch.cat([*row], 2) for row in rows], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the trainings")
    parser.add_argument("paper", type=Path, help="of DreamBooth's with its eq. 2 as it stands")
    parser.add_argument("without", type=Path, help="of DreamBooth's without the prior loss")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--captions", type=int, default=200, help="of each kind (200)")
    parser.add_argument("--seed", type=int, default=0, help="of the captions (0); the noise stays")
    parser.add_argument("--steps", type=int, default=30, help="of the sampler (30)")
    parser.add_argument("--models", nargs="+", help="only these columns; no sheets")
    given = parser.parse_args()
    n, told = given.captions, {}
    if given.models and given.out.exists():
        stored = json.loads(given.out.read_text())
        if (stored["captions"], stored["seed"], stored["steps"]) != (n, given.seed, given.steps):
            parser.error(f"{given.out} has other captions or steps: name another file")
        told = stored["right"]
    known = {kind: captions(things, "seen", n, given.seed) for kind, things in KNOWN.items()}
    circles = [re.sub("|".join(SHAPES), "circle", text) for text in known["one thing"]]
    models = {
        "before": (None, lambda: Pipeline.load(TINY)),
        "LoRA": ("lora", lambda: Pipeline.load(TINY, loras=[(result("lora", given.folder), 1)])),
        "word": ("word", lambda: Pipeline.load(TINY, embeddings=[result("word", given.folder)])),
        "no prior": ("dreambooth", lambda: Pipeline.load(result("dreambooth", given.without))),
        "eq. 2": ("dreambooth", lambda: Pipeline.load(result("dreambooth", given.paper))),
        "DreamBooth": ("dreambooth", lambda: Pipeline.load(result("dreambooth", given.folder))),
        "its LoRA": (
            "dreambooth-lora",
            lambda: Pipeline.load(TINY, loras=[(result("dreambooth-lora", given.folder), 1)]),
        ),
    }
    if odd := {*(given.models or ())} - {*models}:
        parser.error(f"no column is {', '.join(odd)}; there are {', '.join(models)}")
    for name in tqdm(given.models or models):
        taught, load = models[name]
        pipe, row = load(), {}
        lesson = LESSONS[taught or "lora"]
        if taught != "word":  # there each picture is as before, to the bit
            old = known | ({"a circle": circles} if taught != "lora" else {})  # DreamBooth's class
            for kind, texts in old.items():
                row[kind] = pictures_right(pipe, texts, lesson.shapes, read, given.steps)
        if taught:
            for things in (1, 2):
                kinds = {f"the new word, {things}": False}
                kinds |= {f"the new word held out, {things}": True} if lesson.held_out else {}
                for kind, held_out in kinds.items():
                    texts = held_out_captions(lesson, things, n, held_out, given.seed)
                    row[kind] = pictures_right(
                        pipe, texts, lesson.shapes, partial(request, lesson), given.steps
                    )
        told[name] = row
        told = {name: told[name] for name in models if name in told}
        shares = {
            name: {kind: right.count("1") / n for kind, right in row.items()}
            for name, row in told.items()
        }
        about = {"captions": n, "seed": given.seed, "steps": given.steps}
        about |= {"models": shares, "right": told}
        given.out.write_text(json.dumps(about, indent=1))
    if given.models:
        return
    moon = result("lora", given.folder)
    scales = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    pipes = [Pipeline.load(TINY, loras=[(moon, scale)] if scale else []) for scale in scales]
    save_png(given.out.with_name("moon.png"), sheet(pipes, MOONS, given.steps))
    pipes = [models[name][1]() for name in ("its LoRA", "DreamBooth", "no prior")]
    save_png(given.out.with_name("dreambooth.png"), sheet(pipes, SUBJECTS, given.steps))


if __name__ == "__main__":
    main()
