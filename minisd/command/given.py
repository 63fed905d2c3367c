"""The files that a command line names: pictures that are given, and where the results go.

What can be refused without a model is refused here, before one is loaded.
"""

import argparse
import hashlib
import os
import stat
from itertools import count
from pathlib import Path

from ..tiny.weights import FAST, TINY
from .arguments import GIVEN, again, read
from .terminal import say, uninterrupted

MOST = 2**26  # pixels of a file: 8192 x 8192


def check(options: argparse.Namespace) -> None:
    """ValueError for what is wrong whatever the model is."""
    for name in ("prompt", "negative"):
        text = getattr(options, name)
        if "\0" in text or not text.isprintable() and "\\ud" in ascii(text):
            raise ValueError(f"the {name} must be UTF-8 text without zero bytes, got {text!r:.80}")
    check_range("zoom", 1 if options.zoom is None else options.zoom, 1, 64)
    check_range("n", options.n, 1, 1000)
    check_range("columns", getattr(options, "columns", 8), 2, 100)
    check_range("tile", 64 if options.tile is None else options.tile, 4, 8192)
    if options.command == "trajectory" and options.n != 1:
        raise ValueError("trajectory draws the way to one picture: leave --n out")
    share, refiner = (getattr(options, name, None) for name in ("share", "refiner"))
    if share is not None and (not 0 < share < 1 or refiner is None):
        raise ValueError(f"--share must be between 0 and 1, and needs --refiner, got {share}")
    if options.size is not None:
        check_pixels(options, options.size)
    given = [getattr(options, name) for name in GIVEN.get(options.command, ())]
    check_control(options)
    given += [options.control] if getattr(options, "control", None) else []
    for path in targets(options):
        check_out(path, given)
    check_fast(options)
    for path, _ in options.lora or ():
        if not path.is_file():
            raise ValueError(
                f"--lora: there is no file {path}; a scale follows it as in {path}:0.8"
            )

    for path in options.embedding or ():
        if not path.is_file() or not str(path).isprintable():
            raise ValueError(f"--embedding: there is no file {path}")


def check_control(options: argparse.Namespace) -> None:
    """ValueError unless a sketch and a ControlNet are both there, or neither is."""
    sketch, net = (getattr(options, name, None) for name in ("control", "control_net"))
    told = [getattr(options, f"control_{name}", None) for name in ("scale", "from", "until")]
    how = getattr(options, "guess", False) or told != [None] * 3
    if (sketch is None) != (net is None) or how and net is None:
        raise ValueError(
            "a sketch leads by a ControlNet: tell both, --control SKETCH.png --control-net FILE"
        )
    if net is not None and not net.exists():
        raise ValueError(f"--control-net: there is no file {net}")


def check_fast(options: argparse.Namespace) -> None:
    """ValueError where --fast is asked of another model than the one it was distilled from."""
    if options.fast and options.checkpoint not in (None, TINY):
        raise ValueError(
            f"--fast is distilled from the tiny model that comes with minisd, not from "
            f"{options.checkpoint}: leave one of them out, or give --lora a LoRA of that model's, "
            "with --sampler lcm --steps 8 --scale 1"
        )


def check_range(name: str, value: int, least: int, most: int) -> None:
    """ValueError unless least <= value <= most."""
    if not least <= value <= most:
        raise ValueError(f"--{name} must be from {least} to {most}, got {value}")


def check_pixels(options: argparse.Namespace, size: int | tuple[int, int]) -> None:
    """ValueError where a picture's file would be larger than is written."""
    (h, w), zoom = (size, size) if isinstance(size, int) else size, options.zoom or 1
    times = {"upscale": 16, "trajectory": 2 * getattr(options, "columns", 0)}
    if h * w * zoom**2 * times.get(options.command, 1) > MOST:
        raise ValueError(f"--size {h}x{w} and --zoom {zoom} make a file of over {MOST:,} pixels")


def check_out(path: Path, given: list[Path]) -> None:
    """ValueError at once, and not after minutes, where a picture could not be written."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, got {path}")
    real = Path(os.path.realpath(path))  # where a symbolic link leads
    try:
        mode = real.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG | 0o200  # as it will be
    except OSError as error:
        raise ValueError(f"--out: {path} cannot be written: {error.strerror}") from None
    if not real.parent.is_dir():
        raise ValueError(f"--out: there is no directory {real.parent}")
    if not stat.S_ISREG(mode) or not mode & 0o222 or not os.access(real.parent, os.W_OK):
        raise ValueError(f"--out: {path} cannot be written")
    if any(real == Path(os.path.realpath(one)) for one in given):
        raise ValueError(f"--out: {path} is a picture that is given, and would be lost")


def targets(options: argparse.Namespace) -> list[Path]:
    """Where the pictures go: --out, or the first of minisd.png, minisd-1.png, ... that is free."""
    names = (Path(f"minisd-{i}.png" if i else "minisd.png") for i in count())
    for path in [options.out] if options.out else names:
        paths = [path]
        if options.n > 1:
            paths = [path.with_name(f"{path.stem}-{i}{path.suffix}") for i in range(options.n)]
        if options.out or not any(map(os.path.lexists, paths)):
            return paths


# ---- pictures that are given --------------------------------------------------------------


def open_given(options: argparse.Namespace) -> dict:
    """The pictures that are given as PIL images, by name; ValueError where one does not serve."""
    from ..pipeline.pictures import read_image

    paths = {name: getattr(options, name) for name in GIVEN.get(options.command, ())}
    if not all(map(os.path.exists, paths.values())) and os.path.isfile(options.prompt):
        names, s = " and the ".join(paths), "" if len(paths) > 1 else "s"
        raise ValueError(f"the {names} come{s} first, and then the prompt: got {options.prompt}")
    images = {name: read_image(path) for name, path in paths.items()}
    for name, image in images.items():
        h, w = image.height, image.width
        (h_p, w_p), path = (images["picture"].height, images["picture"].width), paths[name]
        if apart((h, w), (h_p, w_p)):
            raise ValueError(
                f"the {name} must have the picture's proportions: {path} is {h} x {w}, "
                f"{paths['picture']} is {h_p} x {w_p}, height x width"
            )
        size = tuple(max(1, round(side * min(1, 1024 / max(h, w)))) for side in (h, w))
        try:
            seen = as_tensor(name, image, size)
        except ValueError as error:
            raise ValueError(f"{path} cannot be used as a {name}: {error}") from None
        if name == "mask":
            tell_mask(path, image, float((seen >= 0.5).float().mean()))
    return images


def open_control(options: argparse.Namespace):
    """The sketch of --control as a PIL image, or None. It says where a sketch may be a negative."""
    from ..pipeline.pictures import as_picture, read_image

    path = getattr(options, "control", None)
    if path is None:
        return None
    sketch = read_image(path)
    if as_picture(sketch, 64).mean() > 0.6:
        say(f"{path} is bright nearly everywhere; ControlNets learned white outlines on black")
    return sketch


def apart(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Do the proportions differ by more than rounding?"""
    (h, w), (h_o, w_o) = size, other
    return abs(h * w_o - w * h_o) > max(h * h_o, w * w_o) / 50


def tell_mask(path: Path, image, share: float) -> None:
    """ValueError for a mask that asks for nothing, a sentence where it may ask for too much."""
    if share == 0:
        raise ValueError(f"{path} is dark everywhere, and white is what is painted anew")
    clear = image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < 255
    if clear or share > 0.95:
        shows = "has transparent parts" if clear else "is white nearly everywhere"
        say(f"{path} {shows}: {share:.0%} of the picture is painted anew")


def picture_size(pipe, options: argparse.Namespace, images: dict, sketch=None) -> tuple[int, int]:
    """(h, w) of what is painted, or, for upscale, of what is painted larger: as large as it is.
    A sketch has its proportions followed where no size and no picture is given."""
    if options.command != "upscale":
        follow = sketch is not None and not images and options.size is None
        size = pipe.size(pipe.size_of_hint(sketch) if follow else options.size)
    else:
        unit, image = 2 ** (len(pipe.config.channel_mult) - 1), images["picture"]
        near = [max(unit, side // unit * unit) for side in (image.height, image.width)]
        size = pipe.size(near if options.size is None else options.size, factor=1)
    check_pixels(options, size)
    return size


def at_size(options: argparse.Namespace, images: dict, size: tuple[int, int]) -> list:
    """What is given as tensors, cropped and resized to (h, w). It says what it cuts."""
    if images and apart((h := images["picture"].height, w := images["picture"].width), size):
        cut = f"its middle is taken, at {size[0]} x {size[1]} (--size)"
        say(f"{options.picture} is {h} x {w}: {cut}")
    return [as_tensor(name, image, size) for name, image in images.items()]


def as_tensor(name: str, image, size: tuple[int, int]):
    """A PIL image at a size, as what is given under that name: a picture, a mask, or depths."""
    from ..pipeline import pictures

    return getattr(pictures, f"as_{name}")(image, size)


# ---- the same again -----------------------------------------------------------------------


def fingerprints(options: argparse.Namespace) -> dict[str, str]:
    """What tells whether a file has changed: a picture's SHA-256, a LoRA's, an embedding's, and a
    checkpoint's size."""
    said, models = {}, {"checkpoint": options.checkpoint or TINY}
    models |= {name: getattr(options, name, None) for name in ("refiner", "control_net")}
    for name, path in models.items():
        if path is not None:
            files = path.rglob("*.safetensors") if path.is_dir() else [path]
            said[f"{name} bytes"] = str(sum(file.stat().st_size for file in files))
    for name in GIVEN.get(options.command, ()):
        said[f"{name} sha256"] = digest(getattr(options, name))
    if getattr(options, "control", None):
        said["control sha256"] = digest(options.control)
    if options.fast:
        said["fast sha256"] = digest(FAST)
    if options.lora:
        said["lora sha256"] = " ".join(digest(path) for path, _ in options.lora)
    if options.embedding:
        said["embedding sha256"] = " ".join(map(digest, options.embedding))
    return said


def digest(path: Path) -> str:
    """A file's SHA-256; ValueError where there is none."""
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not there")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def repeated(options: argparse.Namespace) -> argparse.Namespace:
    """The options that a picture's own settings tell, as if they had been typed again."""
    with uninterrupted():
        from ..pipeline.pictures import read_settings
    said = read_settings(options.picture)
    try:
        made = read(again(said))
        for name, now in fingerprints(made).items():
            if said.get(name) != now:
                files = vars(made) | {"fast": FAST, "checkpoint": made.checkpoint or TINY}
                file = files[name.split()[0]]
                if name in ("lora sha256", "embedding sha256"):  # one for each file
                    files = [path for path, _ in made.lora or ()]
                    files = made.embedding if name.startswith("embedding") else files
                    each = zip(files, now.split(), said.get(name, "").split(), strict=False)
                    file = next((told for told, a, b in each if a != b), files[-1])
                raise ValueError(f"{file} is not what it was when the picture was made")
    except (ValueError, OSError) as error:
        raise ValueError(f"{options.picture} cannot be made again: {error}") from None
    made.out, made.quiet = options.out, options.quiet
    if made.out:
        check_out(made.out, [options.picture])
    return made
