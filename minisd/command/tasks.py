"""The commands that make no picture: train, judge, grade, handout. Their options, and what they do.

Each command has two functions here: one names its options, and the other runs it. Both are short,
since the wings `tiny` and `teaching` do the work; they are imported only when a command needs them.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..tiny.weights import FAST, FAST_SETTINGS, TINY
from .terminal import on_screen, say, say_replaced, tell, uninterrupted
from .values import count, lora, number, positive, seed, weight

STAGES = ("kl", "vq", "text", "unet", "export", "distil")
LATER = ("control", "eye", "blur", "sharp", "export-vq", "export-sharp")  # only where named
LESSONS = ("lora", "word", "dreambooth", "dreambooth-lora")  # too

# ---- train --------------------------------------------------------------------------------

TRAIN = """
Train the tiny model, stage by stage, from nothing to the checkpoint that is shipped.

  kl      the autoencoder between pictures and latents
  vq      its decoder once more, behind a codebook: for the notebooks; needs kl
  text    the text encoder's warm-up
  unet    the U-Net with its text encoder; needs kl and text
  export  the weights of kl, text and unet in one checkpoint
  distil  a LoRA for that checkpoint, fast.safetensors: 8 calls or fewer instead of 60

Only where they are named. Of a finished model, the tiny one or that of --begin:

  control       a ControlNet that leads it by outlines, control-net.safetensors in the folder

For notebook 10 (blur against sharp, minutes) and 14:

  eye           a small classifier, whose layers the perceptual distance compares
  blur          a very small first stage, by the error of its pixels alone
  sharp         that one further, with perceptual distance and discriminator; needs eye and blur
  export-sharp  the weights of these three as tiny-sharp.safetensors, beside --out
  export-vq     vq's weights as tiny-vq.safetensors, beside --out

Each stage writes a run into the folder, with its losses as a picture beside it. When a stage is
started again, it goes on from there. On several processes:

  torchrun --nproc_per_node=2 -m minisd train unet

To train a finished model further, without the runs that made it:

  python -m minisd train unet export --begin tiny.safetensors --steps 20000

To distil a finished model:

  python -m minisd train distil --begin tiny.safetensors

To teach a finished model, this one or another, something new in a few minutes; what is learned is a
file in the folder:

  lora             moon.safetensors, a LoRA: "moon", a shape
  word             sun.safetensors, an embedding: "sun", a large yellow circle (textual inversion)
  dreambooth       sks-circle.safetensors, a checkpoint: "sks circle", a crescent, of five pictures
  dreambooth-lora  sks-circle-lora.safetensors, a LoRA: the same, and less of the rest is forgotten

  python -m minisd train lora
  python -m minisd "a red moon on cream" --lora runs/moon.safetensors
  python -m minisd "a sun above a red square" --embedding runs/sun.safetensors
  python -m minisd "a sks circle on black" --checkpoint runs/sks-circle.safetensors
  python -m minisd "a sks circle on black" --lora runs/sks-circle-lora.safetensors"""


def train_options(parser: argparse.ArgumentParser) -> None:
    """What `train` may be told."""
    add = parser.add_argument
    later = ", ".join((*LESSONS, *LATER))
    some = f"some of {', '.join(STAGES)}, which are the default, and of {later}"
    add("stages", nargs="*", metavar="stage", help=some)
    add("--folder", type=Path, default=Path("runs"), help="where runs are kept (%(default)s)")
    add("--steps", type=count, help="another number of steps than each stage's own")
    add("--scenes", type=count, default=80_000, help="that text and unet learn from (%(default)s)")
    add("--save-every", type=weight, default=60, metavar="SECONDS", help="(%(default)s)")
    said = "what vq, unet, control and lessons begin with, and distil learns from"
    add("--begin", type=Path, metavar="CHECKPOINT", help=said)
    said = "of the loss that keeps the rest, in lora, dreambooth and dreambooth-lora; "
    said += "0: without it (4; dreambooth-lora 10)"
    add("--prior", type=weight, metavar="WEIGHT", help=said)
    said = "what that loss compares with: what the model predicted before (%(default)s), or the "
    said += "data, which for DreamBooth are 200 pictures that the model paints"
    add("--prior-target", choices=("prediction", "data"), default="prediction", help=said)
    add("--seed", type=seed, default=0, help="of what they draw; another one for each --begin")
    add("--out", type=Path, default=Path("tiny.safetensors"), help="export's (%(default)s)")


def train(options: argparse.Namespace) -> int:
    """Train the stages that are named, or all of them; ValueError for what is none."""
    known = (*STAGES, *LESSONS, *LATER)
    if odd := [name for name in options.stages if name not in known]:
        raise ValueError(f"there is no stage {odd[0]!r:.40}; there are {', '.join(known)}")
    with uninterrupted():
        from ..tiny.train import export_path, result, train_stages
    names = ("steps", "scenes", "begin", "seed", "prior", "prior_target")
    settings = {name: getattr(options, name) for name in names}
    stages = options.stages or STAGES
    files = [
        path
        for name in stages
        if (path := result(name, options.folder) or export_path(name, options.out))
    ]
    before = [path for path in files if path.exists()]
    train_stages(stages, options.folder, options.out, save_every=options.save_every, **settings)
    for path in files:
        tell(sys.stdout, str(path))
    say_replaced(before)
    return 0


# ---- judge --------------------------------------------------------------------------------

JUDGE = """
Does the tiny model paint what its prompts say? Pictures of held-out captions are scored by the
judge, and the shares of correct pictures are printed as a table in Markdown, those that are wholly
right with their 95 % interval (Wilson's).

Captions come in eight groups: one thing or two, of combinations that training has seen, of shapes
in colours that it has not seen, and (two things) of shapes that it has not seen together; three
things in a line; two, three or four things alike; two things of which neither the place nor the
colour is said."""


def judge_options(parser: argparse.ArgumentParser) -> None:
    """What `judge` may be told."""
    add = parser.add_argument
    add("checkpoint", type=Path, nargs="?", default=TINY, help="the tiny model by default")
    add("--fast", action="store_true", help="the tiny model with its LoRA for few calls")
    add("--lora", type=lora, action="append", metavar="FILE:SCALE", help="on it; may be repeated")
    add("--captions", type=count, default=500, help="of each group (%(default)s)")
    add("--scale", type=number, help="of guidance; 1: none. The model's by default")
    add("--steps", type=count, help="30, or 8 with --fast")
    add("--sampler", help="by any name of docs/SAMPLERS.md; the model's by default")


def judge(options: argparse.Namespace) -> int:
    """Print the table, a row as soon as its group is painted."""
    with uninterrupted():
        from tqdm import tqdm

        from ..pipeline import Pipeline
        from ..tiny.fidelity import GROUPS, captions, shares, verdicts, wilson
        from ..tiny.judge import Verdict
        from .given import check_fast
    check_fast(options)
    loras = [*([(FAST, 1.0)] if options.fast else []), *(options.lora or ())]
    pipe, fields = Pipeline.load(options.checkpoint, loras=loras), vars(options)
    settings = FAST_SETTINGS if options.fast else {}
    told = {name: fields[name] for name in ("scale", "steps", "sampler")}
    settings = settings | {name: value for name, value in told.items() if value is not None}
    columns = ("right", *Verdict._fields)
    tell(sys.stdout, f"| things, split | {' | '.join(columns)} |")
    tell(sys.stdout, "|---" * (len(columns) + 1) + "|")
    for things, split in tqdm(GROUPS, disable=not on_screen(sys.stderr)):
        texts = captions(things, split, options.captions)
        said = verdicts(pipe, texts, **settings)
        found, ends = shares(said), wilson(sum(one.right for one in said), len(said))
        row = [f"{found[name]:.1%}" if name in found else "" for name in columns]
        row[0] += " ({:.0%} to {:.0%})".format(*ends)
        tell(sys.stdout, f"| {things}, {split} | {' | '.join(row)} |")
    return 0


# ---- grade --------------------------------------------------------------------------------

GRADE = """
Grade returned notebooks. This RUNS THE STUDENTS' CODE, with your rights, unless you give it less:
docs/TEACHING.md says how.

The submissions are notebooks and folders of them. Each is run in a fresh kernel, with limits, in an
empty folder. Then its functions are called, and their answers are judged. The folder of --out gets
index.html, table.csv (a line a submission) and answers.csv (a line an exercise); the same command
again goes on where an interrupted run stopped. Without --out the marks are only printed."""


def grade_options(parser: argparse.ArgumentParser) -> None:
    """What `grade` may be told."""
    add = parser.add_argument
    add("submissions", nargs="+", help="notebooks, and folders of notebooks")
    add("--out", type=Path, help="folder of the tables")
    add("--jobs", type=count, default=os.cpu_count() or 1, help="side by side (%(default)s)")
    add("--timeout", type=positive, default=180, help="seconds a notebook may run (%(default)s)")
    add("--memory", type=positive, default=4, help="GB for a kernel, where limited (%(default)s)")
    add("--user", help="run the notebooks as this user (you must be root)")


def grade(options: argparse.Namespace) -> int:
    """Grade what was handed in; 1 where the grader itself failed for some of it."""
    with uninterrupted():
        from ..teaching.grading.apart import try_users, users_of
        from ..teaching.grading.grade import grade_all, write
        from ..teaching.grading.jobs import Settings
        from ..teaching.grading.page import lines, unread_lines
        from ..teaching.grading.submission import collect

    submissions, unread = collect(options.submissions)
    given, out, users = [Path(path) for path in options.submissions], options.out, ()
    if out:
        inside = [path.resolve() for path in given]
        if not {out.resolve(), *out.resolve().parents}.isdisjoint(inside):
            raise ValueError("--out must lie outside of the folders that are graded")
        made_folder(out, 0o700 if options.user else 0o777)
    if options.user:
        users = users_of(options.user, options.jobs)
        try:
            if warning := try_users(users, [*given, *([out] if out else [])]):
                tell(sys.stderr, f"minisd: warning: {warning}")
        except ValueError as error:  # its command is to be copied, so that nothing is left out
            tell(sys.stderr, f"minisd: {error}")
            return 1
    settings = Settings(options.timeout, options.memory)
    with contextlib.nullcontext(out) if out else tempfile.TemporaryDirectory() as folder:
        try:
            rows = grade_all(submissions, Path(folder), options.jobs, settings, users)
            if out:
                write(rows, unread, out)
        except OSError as error:
            raise OSError(f"{error}; the same command goes on from here") from error
    if out:
        points = sum(row.points for row in rows)
        tell(sys.stdout, f"{len(rows)} submissions, {points} points: {out}/index.html")
    else:
        tell(sys.stdout, "\n".join(map(lines, rows)))
    if unread:
        tell(sys.stdout, unread_lines(unread))
    if failed := sum(row.unsure for row in rows):
        return say(f"the grader failed for {failed} of them: give the same command again", 1)
    return 0


# ---- handout ------------------------------------------------------------------------------

HANDOUT = """
Make a class's copies of notebooks. The functions that a `check` asks for are emptied to stubs (the
solutions notebooks may be given too), and the links to the solutions are taken out."""


def handout_options(parser: argparse.ArgumentParser) -> None:
    """What `handout` may be told."""
    add = parser.add_argument
    add("notebooks", nargs="+", type=Path)
    add("--out", type=Path, required=True, help="folder of the copies")
    add("--nbgrader", action="store_true", help="mark the cells for nbgrader")


def handout(options: argparse.Namespace) -> int:
    """Write the copies; nobody's file is written over."""
    with uninterrupted():
        from ..teaching.handout import copy_notebook

    made_folder(options.out)
    for path in options.notebooks:
        target = options.out / path.name
        told, warnings = copy_notebook(path, target, options.nbgrader)
        for warning in warnings:
            say(f"{path}: {warning}")
        tell(sys.stdout, f"{target}: {told}")
    return 0


def made_folder(path: Path, mode: int = 0o777) -> None:
    """The folder of --out, made where it is not there; ValueError where a file is in its place."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"--out names a folder, and {path} is a file")
    path.mkdir(mode, parents=True, exist_ok=True)


# ---- all of them --------------------------------------------------------------------------


class Task(NamedTuple):
    """A command: a line about it, a page about it, its options, and its work."""

    line: str
    page: str
    options: Callable[[argparse.ArgumentParser], None]
    work: Callable[[argparse.Namespace], int]


TASKS = {
    "train": Task("train the tiny model, from nothing or further", TRAIN, train_options, train),
    "judge": Task("how well a tiny model paints what it is told", JUDGE, judge_options, judge),
    "grade": Task("grade returned notebooks, which RUNS THEIR CODE", GRADE, grade_options, grade),
    "handout": Task("a class's copies of notebooks", HANDOUT, handout_options, handout),
}
