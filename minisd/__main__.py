"""The command line: python -m minisd "a red circle to the left of a blue square"."""

import argparse
import os
import sys
import time
from pathlib import Path

from .arguments import read


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0, or what went wrong: 1 a mistake, 2 wrong arguments, 130 Ctrl-C."""
    written = []
    try:
        options = read(sys.argv[1:] if arguments is None else list(arguments))
        return info(options) if options.command == "info" else picture(options, written)
    except KeyboardInterrupt:
        return say(f"stopped, and {len(written) or 'nothing'} was written", 130)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        whole = type(error).__module__.startswith("minisd")  # which may tell how to mend it
        lines = str(error).splitlines() or [type(error).__name__]
        return say("\n".join(lines) if whole else lines[0], 1)


def say(sentence: str, code: int = 0) -> int:
    """A sentence on stderr, and the exit code."""
    print(f"minisd: {sentence}", file=sys.stderr)
    return code


def info(options: argparse.Namespace) -> int:
    """Print what a checkpoint is."""
    from .checkpoint import info

    print(info(options.checkpoint))
    return 0


def picture(options: argparse.Namespace, written: list[Path]) -> int:
    """Load, sample with a progress bar, decode, save, and say what it took.

    What can be refused without the model is refused before it is loaded.
    """
    start = time.perf_counter()
    check_out(options.out)
    check_range("zoom", 1 if options.zoom is None else options.zoom, 1, 64)
    check_range("n", options.n, 1, 1000)
    check_range("columns", getattr(options, "columns", 8), 2, 100)
    if options.command == "trajectory" and options.n != 1:
        raise ValueError("trajectory draws the way to one picture: leave --n out")
    import torch  # only now, so that a mistake in the arguments is told at once
    from tqdm import tqdm

    from .pictures import save_png
    from .pipeline import Pipeline
    from .settings import Settings, usual_sampler
    from .weights import TINY

    names = ("negative", "scale", "steps", "sampler", "eta", "rescale", "seed", "n")
    settings = {name: getattr(options, name) for name in names}
    Settings(**settings | {"sampler": options.sampler or "ddim"})
    given = open_given(options) if options.command in ("img2img", "inpaint") else []
    pipe = Pipeline.load(
        options.checkpoint or TINY,
        options.family,
        options.prediction,
        options.ema,
        getattr(torch, options.dtype),
        device=options.device,
        release=options.release,
        tile=options.tile,
    )
    size = pipe.size(options.size)
    settings["sampler"] = options.sampler or usual_sampler(pipe.config)
    if options.scale is None:
        settings["scale"] = 1.0 if pipe.config.context_dim is None else pipe.usual.scale
    for warning in [*pipe.warnings(options.prompt), *pipe.warnings(options.negative)]:
        say(warning)
    if options.negative and settings["scale"] == 1:
        say("at scale 1 there is no guidance, and the negative prompt is not read")
    if given:
        given = at_size(options.picture, given, size)
        if options.strength is not None:
            settings["strength"] = options.strength
        run = getattr(pipe, options.command)(*given, options.prompt, **settings)
    else:
        run = pipe.txt2img(options.prompt, size, **settings)
    steps = list(tqdm(run, total=len(run), unit="step", disable=options.quiet, leave=False))
    if options.command == "trajectory":
        pictures = strip(pipe, steps, options.columns)
    else:
        pictures = run.pictures()
    if options.command == "inpaint":  # a decoder's norms see all of a picture: what stays, stays
        pictures = torch.where(given[1] > 0, pictures, given[0])
    zoom = options.zoom or max(1, -(-256 // min(pictures.shape[2:])))
    pictures = pictures.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    said = {"prompt": options.prompt, **settings, "size": "{}x{}".format(*size)}
    said |= {"model": pipe.family, "dtype": options.dtype, "minisd": options.command}
    for i, one in enumerate(pictures):
        path = options.out
        if len(pictures) > 1:
            path = path.with_name(f"{path.stem}-{i}{path.suffix}")
        save_png(path, one, said | {"seed": options.seed + i})
        written.append(path)
        print(path)
    say(f"{time.perf_counter() - start:.1f} s{peak_memory(pipe.device)}")
    return 0


# ---- what is refused at once --------------------------------------------------------------


def check_range(name: str, value: int, least: int, most: int) -> None:
    """ValueError unless least <= value <= most."""
    if not least <= value <= most:
        raise ValueError(f"--{name} must be from {least} to {most}, got {value}")


def check_out(path: Path) -> None:
    """ValueError at once, and not after minutes, where a picture could not be written."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, got {path}")
    if not path.parent.is_dir():
        raise ValueError(f"--out: there is no directory {path.parent}")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"--out: {path} cannot be written")


# ---- pictures that are given --------------------------------------------------------------


def open_given(options: argparse.Namespace) -> list:
    """The picture, and for inpaint its mask (1, 3, h, w), as large as they are."""
    from .pictures import open_picture

    if not options.picture.exists() and Path(options.prompt).is_file():
        raise ValueError(f"the picture comes first, and then the prompt: got {options.picture}")
    if options.command == "img2img":
        return [open_picture(options.picture)]
    picture, mask = open_picture(options.picture), open_picture(options.mask)
    (h, w), (h_m, w_m) = picture.shape[2:], mask.shape[2:]
    if abs(h * w_m - w * h_m) > max(h * h_m, w * w_m) / 50:  # by more than rounding
        raise ValueError(
            f"the mask must have the picture's proportions: {options.mask} is {h_m} x {w_m}, "
            f"{options.picture} is {h} x {w}, height x width"
        )
    if not (mask.mean(1) > 0).any():
        raise ValueError(f"{options.mask} is dark everywhere, and white is what is painted anew")
    return [picture, mask]


def at_size(path: Path, given: list, size: tuple[int, int]) -> list:
    """Picture and mask cropped and resized to (h, w); the mask as 0 and 1. It says what it cuts."""
    from .pictures import fit

    h, w = given[0].shape[2:]
    if abs(h * size[1] - w * size[0]) > max(h * size[0], w * size[1]) / 50:
        say(f"{path} is {h} x {w}: its middle is taken, at {size[0]} x {size[1]} (--size)")
    picture, *mask = (fit(one, size) for one in given)
    return [picture, *((one.mean(1, keepdim=True) > 0).float() for one in mask)]


# ---- what comes out -----------------------------------------------------------------------


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


if __name__ == "__main__":
    sys.exit(main())
