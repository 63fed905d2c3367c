"""The command line: python -m minisd "a red circle to the left of a blue square"."""

import argparse
import os
import resource
import sys
import time
from pathlib import Path

COMMANDS = ("txt2img", "img2img", "inpaint", "trajectory", "info")
EXAMPLES = """
  minisd "a small green star above a large yellow ring" --seed 3
  minisd "a circle" --negative red --n 4
  minisd trajectory "a purple star on black" --out strip.png
  minisd img2img drawing.png "a blue cross on white" --strength 0.6
  minisd inpaint picture.png mask.png "a red ring"
  minisd "a fox in the snow" --checkpoint sd-v1-4.safetensors
  minisd info sd-v1-4.safetensors

Without --checkpoint the tiny model that comes with minisd paints: one or two coloured shapes.
"""


def parser() -> argparse.ArgumentParser:
    """All commands and their options; txt2img is the one that needs no name."""
    whole = argparse.ArgumentParser(
        prog="minisd",
        description="A picture from a sentence.",
        epilog=f"examples:{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(dest="command", metavar=f"{{{','.join(COMMANDS)}}}")
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--checkpoint", type=Path, help=".safetensors file or diffusers folder")
    model.add_argument("--family", help="sd1, sd2, sdxl, ...; recognised where it can be")
    model.add_argument("--prediction", choices=("eps", "v"), help="what SD 2's U-Net predicts")
    model.add_argument("--ema", action="store_true", help="take the averaged weights, if there")
    model.add_argument("--device", default="cpu", help="cpu, cuda, mps")
    model.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    model.add_argument("--release", action="store_true", help="hold one network at a time")
    model.add_argument("--tile", type=int, help="decode by tiles of so many latents")
    how = argparse.ArgumentParser(add_help=False)
    how.add_argument("--negative", default="", help="what the picture should not show")
    how.add_argument("--scale", type=float, help="guidance scale; 1: none. The model's by default")
    how.add_argument("--steps", type=int, default=50)
    how.add_argument("--sampler", default="plms", help="plms, ddim, s_pndm, pndm, ddpm")
    how.add_argument("--eta", type=float, default=0.0, help="0 to 1, of ddim")
    how.add_argument("--rescale", type=float, default=0.0, help="0 to 1, against pale guidance")
    how.add_argument("--seed", type=int, default=0, help="of the first picture; seed + 1 is next")
    how.add_argument("--n", type=int, default=1, help="how many pictures")
    how.add_argument("--out", type=Path, default=Path("minisd.png"), help="minisd.png by default")
    how.add_argument("--zoom", type=int, help="repeat pixels; by default to at least 256 a side")
    how.add_argument("--quiet", action="store_true", help="no progress bar")
    new = argparse.ArgumentParser(add_help=False)
    new.add_argument("--size", type=side, help="512, or 512x768: height x width")
    old = argparse.ArgumentParser(add_help=False)
    old.add_argument("--strength", type=float, help="0 to 1: how much is painted anew")
    every = {"parents": [model, how]}
    text = commands.add_parser("txt2img", parents=[model, how, new], help="(needs no name)")
    text.add_argument("prompt")
    path = commands.add_parser("trajectory", parents=[model, how, new], help="x_t above, x0 below")
    path.add_argument("prompt")
    path.add_argument("--columns", type=int, default=8)
    again = commands.add_parser("img2img", parents=[*every["parents"], old], help="repaint")
    again.add_argument("picture", type=Path)
    again.add_argument("prompt")
    part = commands.add_parser("inpaint", parents=[*every["parents"], old], help="repaint a part")
    part.add_argument("picture", type=Path)
    part.add_argument("mask", type=Path, help="white where it is painted anew")
    part.add_argument("prompt")
    tell = commands.add_parser("info", help="what a checkpoint is, from its headers")
    tell.add_argument("checkpoint", type=Path)
    return whole


def side(text: str) -> int | tuple[int, int]:
    """512 or 512x768, as a size."""
    numbers = tuple(int(part) for part in text.lower().split("x"))
    if len(numbers) > 2:
        raise ValueError(text)
    return numbers if len(numbers) == 2 else numbers[0]


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0, or what went wrong: 1 a mistake, 2 wrong arguments, 130 Ctrl-C."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] not in (*COMMANDS, "-h", "--help"):
        words = ["txt2img", *words]
    options = parser().parse_args(words)
    if options.command is None:
        parser().print_help()
        return 2
    try:
        return info(options) if options.command == "info" else picture(options)
    except KeyboardInterrupt:
        return say("stopped, and nothing was written", 130)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        return say(str(error).splitlines()[0] if str(error) else type(error).__name__, 1)


def say(sentence: str, code: int) -> int:
    """A sentence on stderr, and the exit code."""
    print(f"minisd: {sentence}", file=sys.stderr)
    return code


def info(options) -> int:
    """Print what a checkpoint is."""
    from .checkpoint import info

    print(info(options.checkpoint))
    return 0


def picture(options) -> int:
    """Load, sample with a progress bar, decode, save, and say what it took."""
    check_out(options.out)
    check_range("zoom", 1 if options.zoom is None else options.zoom, 1, 64)
    check_range("n", options.n, 1, 1000)
    check_range("columns", getattr(options, "columns", 8), 2, 100)
    import torch  # only now, so that a mistake in the arguments is told at once
    from tqdm import tqdm

    from .pictures import open_picture, save_png
    from .pipeline import Pipeline
    from .weights import TINY

    start = time.perf_counter()
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
    for warning in [*pipe.warnings(options.prompt), *pipe.warnings(options.negative)]:
        say(warning, 0)
    how = ("negative", "scale", "steps", "sampler", "eta", "rescale", "seed", "n")
    settings = {name: getattr(options, name) for name in how}
    if options.command in ("txt2img", "trajectory"):
        run = pipe.txt2img(options.prompt, options.size, **settings)
    else:
        if options.strength is not None:
            settings["strength"] = options.strength
        size = pipe.usual.size
        given = [open_picture(options.picture, size)]
        if options.command == "inpaint":
            given.append((open_picture(options.mask, size).mean(1, keepdim=True) > 0).float())
        run = getattr(pipe, options.command)(*given, options.prompt, **settings)
    steps = list(tqdm(run, total=len(run), unit="step", disable=options.quiet, leave=False))
    if options.command == "trajectory":
        pictures = strip(pipe, steps, options.columns)
    else:
        pictures = run.pictures()
    zoom = options.zoom or max(1, -(-256 // min(pictures.shape[2:])))
    pictures = pictures.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    said = {"prompt": options.prompt, **settings, "model": pipe.family, "minisd": options.command}
    for i, one in enumerate(pictures):
        path = options.out
        if len(pictures) > 1:
            path = path.with_name(f"{path.stem}-{i}{path.suffix}")
        save_png(path, one, said | {"seed": options.seed + i})
        print(path)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**20 if sys.platform != "darwin" else 2**30
    )
    say(f"{seconds:.1f} s, at most {peak:.2f} GiB of memory", 0)
    return 0


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


def strip(pipe, steps, columns: int):
    """The first picture's way, (1, 3, h, w): x_t above, the x0 predicted from it below."""
    import torch

    chosen = [round(i * (len(steps) - 1) / (columns - 1)) for i in range(columns)]
    chosen = [steps[i] for i in dict.fromkeys(chosen)]
    rows = [pipe.decode(torch.cat([getattr(s, name)[:1] for s in chosen])) for name in ("x", "x0")]
    rows = [torch.nn.functional.pad(row, (2, 2, 2, 2), value=1.0) for row in rows]
    return torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)[None]


if __name__ == "__main__":
    sys.exit(main())
