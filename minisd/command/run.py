"""What the commands for pictures do: a picture, or what a checkpoint is. The rest is in `tasks`."""

import argparse
import inspect
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .. import __version__
from ..tiny.weights import FAST, FAST_SETTINGS, TINY
from .arguments import read
from .given import (
    as_tensor,
    at_size,
    check,
    fingerprints,
    open_control,
    open_given,
    picture_size,
    repeated,
    targets,
)
from .tasks import TASKS
from .terminal import on_screen, say, say_replaced, tell, uninterrupted


def run(words: list[str], written: list[Path]) -> int:
    """Run a line's command; the exit code. `written` grows by each picture that is saved."""
    options = read(words)
    if options.command in TASKS:
        return TASKS[options.command].work(options)
    if options.command == "info":
        return info(options)
    return picture(repeated(options) if options.command == "again" else options, written)


def info(options: argparse.Namespace) -> int:
    """Print what a checkpoint is."""
    with uninterrupted():
        from ..checkpoints.embedding import describe_embedding
        from ..checkpoints.loading import info
        from ..checkpoints.lora import describe
    about = info(options.checkpoint)
    tell(sys.stdout, str(about))
    if "LoRA" in about.parts:
        tell(sys.stdout, describe(options.checkpoint))
    if "inversion" in about.parts:
        tell(sys.stdout, describe_embedding(options.checkpoint))
    return 0


def picture(options: argparse.Namespace, written: list[Path]) -> int:
    """Load, sample with a progress bar, decode, save, and say what it took.

    What can be refused without the model is refused before it is loaded, and what has been sampled
    is saved before a word is printed.
    """
    start = time.perf_counter()
    check(options)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch: large pages, sooner there
    with uninterrupted():  # only now, so that a mistake in the arguments is told at once
        import torch
        from PIL import Image  # noqa: F401 - as the two others, which it interrupts as badly
        from tqdm import tqdm

        from ..pipeline import Pipeline
        from ..pipeline.memory import keep_freed
        from ..pipeline.settings import Settings

    keep_freed()
    fields, told = vars(options), inspect.signature(Settings).parameters
    settings = {name: fields[name] for name in told if fields.get(name) is not None}
    settings = (FAST_SETTINGS if options.fast else {}) | settings
    images, sketch = open_given(options), open_control(options)
    asked = Settings(**settings, hint=sketch)
    how = {"device": options.device, "release": options.release, "tile": options.tile}
    how["dtype"] = "auto" if options.dtype == "auto" else getattr(torch, options.dtype)
    model = (options.checkpoint or TINY, options.family, options.prediction, options.ema)
    loras = [*([(FAST, 1.0)] if options.fast else []), *(options.lora or ())]
    changes = {"loras": loras, "embeddings": options.embedding or ()}
    changes["control_net"] = fields.get("control_net")
    pipe, others = Pipeline.load(*model, **changes, **how), {}
    how["dtype"] = pipe.dtype
    if refiner := fields.get("refiner"):
        others["refiner"] = Pipeline.load(refiner, **how)
        settings["share"] = 0.8 if options.share is None else options.share
    size, prompted = (
        picture_size(pipe, options, images, sketch),
        pipe.config.context_dim is not None,
    )
    settled = pipe.settled(asked)
    settings |= {name: getattr(settled, name) for name in ("scale", "steps", "sampler", "grid")}
    settings |= {name: told for name, told in settled.options().items() if name in fields}
    for told in notes(options, pipe, settled):
        say(told)
    given = at_size(options, images, size)
    if sketch:
        others["hint"] = as_tensor("picture", sketch, size)
    way = getattr(pipe, "txt2img" if options.command == "trajectory" else options.command)
    usual = inspect.signature(way).parameters
    for name in {"strength", "level"} & {*usual}:
        told = getattr(options, name)
        settings[name] = usual[name].default if told is None else told
    about = {"minisd": options.command, "version": __version__, "torch": torch.__version__}
    about |= {"dtype": plain(pipe.dtype), "model": pipe.family, "size": "{}x{}".format(*size)}
    about |= fingerprints(options)
    if options.lora:
        about["lora"] = "\n".join(f"{path}:{scale}" for path, scale in options.lora)
    if options.embedding:
        about["embedding"] = "\n".join(map(str, options.embedding))
    words = [*given, options.prompt if prompted else "", *([] if given else [size])]
    run = way(*words, **settings, **others)
    if len(run) != int(settled.steps * settings.get("strength", 1) + 1e-9):
        say(f"--steps {settled.steps} takes {len(run)} steps: the grid's times lie evenly apart")
    hidden = options.quiet or not on_screen(sys.stderr)
    steps = list(tqdm(run, total=len(run), unit="step", disable=hidden, leave=False))
    if options.command == "trajectory":
        pictures = strip(pipe, steps, options.columns)
    else:
        pictures = run.pictures()
    if options.command == "inpaint":  # a decoder's norms see all of a picture: what stays, stays
        pictures = torch.where(given[1] >= 0.5, pictures, given[0])
    save(pictures, options, settings | about | {"taken": len(run)}, written)
    say(f"{time.perf_counter() - start:.1f} s{peak_memory(pipe.device)}")
    return 0


def notes(options: argparse.Namespace, pipe, settings) -> Iterator[str]:
    """What the user should know of these options with this model, in sentences."""
    from ..pipeline.settings import official_times, times
    from ..tiny.captions import WORDS, misplaced

    prompted, scale = pipe.config.context_dim is not None, settings.scale
    grid = (pipe.config, settings.steps, pipe.family, settings.grid)
    taken, official = times(*grid)[0], official_times(*grid)[0]
    if taken != official:
        yield (
            f"--steps {settings.steps} begins at t = {taken}, where x is noise; the official grid "
            f"would begin at t = {official}, where x already holds a picture"
        )
    if options.prompt and not prompted:
        yield "this model has no prompt, and yours is not read"
    if prompted:
        yield from pipe.warnings(options.prompt)
        learned = pipe.words - WORDS
        if pipe.family == "tiny" and (odd := misplaced(options.prompt, learned)):
            yield odd
        yield from (f"of --negative: {said}" for said in pipe.warnings(options.negative))
    if options.negative and scale == 1:
        yield "at scale 1 there is no guidance, and the negative prompt is not read"
    if prompted and scale == 0:
        yield "at scale 0 only the negative prompt is read; without guidance the scale is 1"
    side = pipe.usual.size // pipe.first_stage.factor
    if options.tile and options.tile < side:
        yield f"the decoder learned {side} x {side} latents; in smaller tiles it paints differently"
    yield from precision_notes(options.dtype, pipe)


def precision_notes(asked: str, pipe) -> Iterator[str]:
    """What it is computed in, and what that costs, where --dtype leaves a choice or costs time."""
    from ..pipeline.precision import bits_of, slower

    runs, cpu = plain(pipe.dtype), pipe.device.type == "cpu"
    stored = bits_of(pipe.checkpoint.unet)
    if asked == "auto" and runs != "float32":
        times = f": it takes {slower(pipe.dtype):.1f} of float32's time here" if cpu else ""
        yield f"--dtype auto is {runs}, as the file has it{times}"
    elif asked == "auto" and stored.itemsize == 2 and pipe.is_lean("unet"):
        times = f"{plain(stored)} takes {slower(stored):.1f} times as long on this processor"
        yield f"--dtype auto is float32: {times}"
    elif cpu and runs in ("bfloat16", "float16") and (times := slower(pipe.dtype)) > 1.2:
        yield (
            f"{runs} takes {times:.1f} times as long as float32 on this processor: --dtype float32 "
            "is faster, and needs no more memory for a large file of 16 bits"
        )
    if pipe.is_lean("unet"):
        yield (
            f"the weights stay {plain(stored)}, as the file has them, and each layer's are turned "
            f"to {runs} as it runs"
        )


def plain(dtype) -> str:
    """A dtype's name as --dtype takes it."""
    return str(dtype).removeprefix("torch.")


# ---- what comes out -----------------------------------------------------------------------


def save(pictures, options: argparse.Namespace, settings: dict, written: list[Path]) -> None:
    """Each picture into its file, with all that makes it again; then their names are printed."""
    from ..pipeline.pictures import save_png

    zoom = options.zoom or max(1, -(-256 // min(pictures.shape[2:])))
    said = vars(options) | settings | {"zoom": zoom}
    said = {name: value for name, value in said.items() if value is not None and value is not False}
    for name in ("command", "out", "quiet", "n", "release"):
        said.pop(name, None)
    replaced = []
    for i, (path, one) in enumerate(zip(targets(options), pictures, strict=True)):
        replaced += [str(path)] if os.path.lexists(path) else []
        one = one.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
        save_png(path, one, said | {"seed": options.seed + i})
        written.append(path)
    for path in written:
        tell(sys.stdout, str(path))
    say_replaced(replaced)


def strip(pipe, steps, columns: int):
    """The first picture's way, (1, 3, h, w): x_t above, the x0 predicted from it below."""
    import torch

    chosen = [round(i * (len(steps) - 1) / (columns - 1)) for i in range(columns)]
    chosen = [steps[i] for i in dict.fromkeys(chosen)]
    rows = [pipe.decode(torch.cat([getattr(s, name)[:1] for s in chosen])) for name in ("x", "x0")]
    rows = [torch.nn.functional.pad(row, (2, 2, 2, 2), value=1.0) for row in rows]
    return torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)[None]


def peak_memory(device) -> str:
    """The most memory that this process held, and its GPU; nothing where the system cannot tell."""
    try:
        import resource
    except ImportError:  # Windows
        said = ""
    else:
        unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB elsewhere
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        said = f", at most {peak:.2f} GiB of memory"
    if device.type == "cuda":
        import torch

        said += f", {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB of the GPU's"
    return said
