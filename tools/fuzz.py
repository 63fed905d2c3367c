"""Random command lines, damaged files and odd pictures: whatever comes in, a sentence comes out.

    python tools/fuzz.py [lines N] [files N] [pictures N] [--seed S]

Each case runs in this process, in an empty folder, with the tiny model and one step. A case fails
if an exception leaves the command line, if it runs for longer than a minute, if a mistake leaves a
new or changed file behind, or if what is given back is not what an independent reading gives.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import sys
import tempfile
import traceback

import numpy as np
import torch
from PIL import Image, ImageOps

from minisd.__main__ import main as command_line
from minisd.checkpoints import CheckpointError
from minisd.pipeline import Pipeline, open_picture
from minisd.tiny import TINY

SECONDS = 60


class Late(BaseException):
    """A case took too long."""


def late(*_):
    raise Late


def state(folder: pathlib.Path) -> dict[str, str]:
    """Every file of a folder with a digest of its bytes."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
    }


def run(words: list[str]) -> tuple[int | str, str]:
    """A line's exit code, or the traceback of what left it; and all that it printed."""
    said = io.StringIO()
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            code = command_line(words)
    except SystemExit as stop:
        code = stop.code
    except Late:
        code = f"still ran after {SECONDS} s"
    except BaseException:
        code = traceback.format_exc()
    finally:
        signal.alarm(0)
    return code, said.getvalue()


# ---- command lines ------------------------------------------------------------------------

PROMPTS = ["a red ring", "", "ü☃", "a\udcff", "a\0b", "x" * 5000, "(red:1.3) BREAK", "-", "--"]
PROMPTS += ["a blue star right of a small green square on navy", "<lora:x:0.8>", "\u202eabc", "\n"]
COMMANDS = ["txt2img", "img2img", "inpaint", "trajectory", "info", "again", "depth2img", "upscale"]
COMMANDS += ["", "infos", "--help", "train"]
MADE: list[bytes] = []  # a picture by minisd itself
FILES = ["p.png", "mask.png", "dark.png", "cut.png", "text.txt", "none.png", "folder", "wide.jpg"]
FILES += ["bad.safetensors", "made.png", "link.png", "", "/dev/null", "p.png/x"]
VALUES = [
    "0",
    "1",
    "2",
    "-3",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "x",
    "",
    "64",
    "64x80",
    "9" * 30,
    "1e400",
]
VALUES += [
    "0x10",
    "١",
    "64x64x64",
    "16",
    "1e-320",
    "True",
    "None",
    "🙂",
    "red",
    "ddim",
    "plms",
    "v",
]
OPTIONS = {
    "--scale": VALUES,
    "--steps": ["1", "2", "3", *VALUES],
    "--seed": VALUES,
    "--size": ["64", "64x80", "32", *VALUES],
    "--n": ["1", "2", *VALUES[:8]],
    "--eta": VALUES,
    "--sampler": ["ddim", "DPM++ 2M Karras", "Euler a", "lms sgm", "unipc", "eulr", "karras", ""],
    "--grid": ["ldm", "karras", "SGM Uniform", "turbo", "ays", "karas", ""],
    "--order": VALUES,
    "--churn": VALUES,
    "--guide-from": VALUES,
    "--guide-until": VALUES,
    "--refiner": ["bad.safetensors", "folder", "none", str(TINY), ""],
    "--share": VALUES,
    "--negative": PROMPTS,
    "--strength": ["0.5", "1", *VALUES],
    "--zoom": ["1", "2", *VALUES],
    "--tile": ["8", "16", *VALUES],
    "--columns": ["2", *VALUES],
    "--rescale": VALUES,
    "--out": ["o.png", "p.png", "folder", "no/such.png", "o.jpg", "é☆.png", "y" * 251 + ".png", ""],
    "--dtype": ["float32", "bfloat16", "float16", "auto", "float64"],
    "--device": ["cpu", "cuda", "mps", "hpu", "meta", "cpu:7", "gpu"],
    "--family": ["tiny", "sd1", "sdxl", ""],
    "--prediction": ["v", "eps", "x0"],
    "--checkpoint": ["bad.safetensors", "folder", "none", "p.png", str(TINY), ""],
    "--quiet": [None],
    "--ema": [None],
    "--release": [None],
    "--guidance_scale": ["3"],
    "--help": [None],
}


def furnish(folder: pathlib.Path) -> None:
    """The files that command lines are given."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / "p.png")
    Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(folder / "wide.jpg")
    mask = np.zeros((64, 64), np.uint8)
    Image.fromarray(mask).save(folder / "dark.png")
    mask[16:40, 16:40] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    (folder / "cut.png").write_bytes((folder / "p.png").read_bytes()[:200])
    (folder / "text.txt").write_text("a red ring")
    (folder / "bad.safetensors").write_bytes(TINY.read_bytes()[:5000])
    (folder / "folder").mkdir()
    (folder / "link.png").symlink_to("p.png")
    made = folder / "made.png"
    if not MADE:
        run(["a red ring", "--steps", "1", "--out", str(made)])
        MADE.append(made.read_bytes())
    made.write_bytes(MADE[0])


USUAL = {
    "img2img": ["p.png"],
    "inpaint": ["p.png", "mask.png"],
    "depth2img": ["p.png", "mask.png"],
    "upscale": ["p.png"],
    "again": ["made.png"],
    "info": [str(TINY)],
}
GOOD = {
    "--scale": "1.5 2 0 3e1",
    "--steps": "1 2 7",
    "--seed": "0 3 123456789012",
    "--size": "64 48x80 64X64",
    "--n": "1 2",
    "--eta": "0 0.5",
    "--sampler": "ddim plms pndm ddpm heun unipc euler_a dpmpp_2m_sde",
    "--grid": "ldm sgm trailing uniform",
    "--order": "1 2 3",
    "--churn": "0 2.5",
    "--guide-from": "900 1000",
    "--guide-until": "0 200",
    "--refiner": str(TINY),
    "--share": "0.5",
    "--strength": "0.5 1",
    "--zoom": "1 2",
    "--tile": "8 16",
    "--columns": "2 5",
    "--rescale": "0.5",
    "--out": "o.png é☆.png p.png link.png",
    "--dtype": "float32 bfloat16",
    "--family": "tiny",
    "--prediction": "v",
    "--checkpoint": str(TINY),
}


def a_line(draw: random.Random) -> list[str]:
    """One line: mostly sensible, with a few words wrong, lost, doubled or in another order."""
    odd = draw.choice([0, 0.05, 0.3])  # how often a word is a wrong one
    command = draw.choice([*USUAL, "txt2img", "trajectory", ""])
    command = draw.choice(COMMANDS) if draw.random() < odd else command
    words = [command] if command or draw.random() < odd else []
    words += [draw.choice(FILES) if draw.random() < odd else f for f in USUAL.get(command, [])]
    if command not in ("info", "again"):
        words += [draw.choice(PROMPTS) if draw.random() < 2 * odd + 0.2 else "a red ring"]
        words += ["--steps", draw.choice(["1", "2"])]
    for option in draw.sample(list(OPTIONS), draw.randint(0, 3)):
        good = GOOD.get(option, "").split()
        value = draw.choice(OPTIONS[option] if draw.random() < 2 * odd or not good else good)
        if good or draw.random() < 2 * odd + 0.1:
            words += [option] if value is None else [option, value]
    if words and draw.random() < odd:
        words.pop(draw.randrange(len(words)))
    if draw.random() < odd:
        draw.shuffle(words)
    return words


def lines(count: int, draw: random.Random) -> list[str]:
    """What went wrong with `count` random command lines."""
    wrong, codes = [], {}
    for _ in range(count):
        with in_a_folder() as folder:
            furnish(folder)
            before, words = state(folder), a_line(draw)
            code, said = run(words)
            codes[code if isinstance(code, int) else "?"] = codes.get(code, 0) + 1
            after = state(folder)
            new = {name for name in after if after[name] != before.get(name)}
            lost = {name for name in before if name not in after}
            if code not in (0, 1, 2, 130) or "Traceback" in said:
                wrong.append(f"{words!r}: {code} {said}")
            elif code and (new or lost) or lost or any(".part" in name for name in new):
                wrong.append(f"{words!r}: exit code {code}, changed {new}, lost {lost}")
            elif code and len([part for part in said.splitlines() if part]) == 0:
                wrong.append(f"{words!r}: exit code {code} without a word")
            elif "--out" not in words and new & set(before):
                wrong.append(f"{words!r}: {new & set(before)} was overwritten")
            else:
                for name in new:
                    with Image.open(folder / name) as image:
                        image.load()
    print(f"lines: exit codes {codes}")
    return wrong


# ---- damaged checkpoint files -------------------------------------------------------------


def parts_of(data: bytes) -> tuple[dict, bytes]:
    """A safetensors file's header and numbers."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def whole(header: dict, numbers: bytes) -> bytes:
    """The file of a header and numbers."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


# No reader can know that these are not what was meant: the file is whole, and a value a usual one.
UNSEEN = ("scale_factor", "dtype 'BF16'")
STRANGE = [None, True, -1, 0, 1.5, "x", [], {}, [1, 2], "9" * 400, 10**30, 1e308, float("nan"), ""]
STRANGE += [2**63, [0, 2**63], "F8_E4M3", "BF16", "gelu", 10_000, -2, [True], ["a"], {"a": 1}]


def damage(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    """The bytes with one thing wrong, and what."""
    kind = draw.choice(["cut", "flip", "insert", "entry", "config", "tokenizer", "name", "number"])
    if kind == "cut":
        return data[: draw.randrange(len(data))], kind
    if kind in ("flip", "insert"):
        (length,) = struct.unpack("<Q", data[:8])
        i = draw.randrange(8 + length)
        new = bytes([draw.randrange(256)])
        return data[:i] + new + data[i + (kind == "flip") :], kind
    header, numbers = parts_of(data)
    names = [name for name in header if name != "__metadata__"]
    name = draw.choice(names)
    if kind == "entry":
        field = draw.choice(["dtype", "shape", "data_offsets"])
        header[name][field] = value = draw.choice([*STRANGE, [1], [3, 3], [0, 10], [5, 2]])
        return whole(header, numbers), f"{name} {field} {value!r:.40}"
    if kind == "name":
        new = draw.choice(["x", "", name + "x", name.upper(), "model." + name, "lora_a." + name])
        header[new] = header.pop(name)
        return whole(header, numbers), f"{name} is {new}"
    if kind == "number":
        start = header[name]["data_offsets"][0]
        value = draw.choice([float("nan"), float("inf"), -float("inf")])
        bad = np.float16(value).tobytes()
        return whole(header, numbers[:start] + bad + numbers[start + 2 :]), f"{name} {value}"
    key = "minisd" if kind == "config" else "minisd.tokenizer"
    said = json.loads(header["__metadata__"][key])
    if kind == "config" and draw.random() < 0.9:
        part = said["parts"][draw.choice(list(said["parts"]))]
        field = draw.choice([*part["config"], "module", "prefix"])
        inside = part if field in ("module", "prefix") else part["config"]
    else:
        inside, field = said, draw.choice(list(said))
    inside[field] = value = draw.choice(STRANGE)
    header["__metadata__"][key] = json.dumps(said)
    return whole(header, numbers), f"{key} {field} {value!r:.40}"


def files(count: int, draw: random.Random) -> list[str]:
    """What went wrong with `count` damaged copies of the tiny model's file."""
    data, wrong, loaded = TINY.read_bytes(), [], 0
    true = Pipeline.load(TINY).txt2img("a red ring", steps=2).pictures()
    for _ in range(count):
        with in_a_folder() as folder:
            bad, what = damage(data, draw)
            (folder / "x.safetensors").write_bytes(bad)
            for words in (["info", "x.safetensors"], None):
                signal.signal(signal.SIGALRM, late)
                signal.alarm(SECONDS)
                try:
                    if words:
                        code, said = run(words)
                        if code not in (0, 1) or "Traceback" in said:
                            wrong.append(f"info, {what}: {code} {said}")
                        continue
                    picture = Pipeline.load("x.safetensors").txt2img("a red ring", steps=2)
                    other = (picture.pictures() - true).abs().max() > 0.02
                    if other and not any(word in what for word in UNSEEN):
                        wrong.append(f"{what}: another picture, without a word")
                    loaded += 1
                except CheckpointError:
                    pass
                except ValueError as error:  # told too, if later
                    if type(error) is not ValueError:
                        wrong.append(f"{what}: {traceback.format_exc()}")
                except BaseException:
                    wrong.append(f"{what}: {traceback.format_exc()}")
                finally:
                    signal.alarm(0)
    print(f"files: {count} damaged, {loaded} of them load and give the same picture")
    return wrong


# ---- odd pictures -------------------------------------------------------------------------

MODES = [
    "1",
    "L",
    "LA",
    "P",
    "RGB",
    "RGBA",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "I;16",
]
SUFFIXES = [".png", ".jpg", ".tiff", ".webp", ".bmp", ".gif", ".ppm", ".tga"]


def a_picture(draw: random.Random, folder: pathlib.Path) -> pathlib.Path | None:
    """A random picture in a random mode and format; None where Pillow cannot write it."""
    rng = np.random.default_rng(draw.randrange(2**32))
    h, w = draw.choice([(1, 1), (1, 300), (64, 64), (65, 33), (200, 128), (7, 7)])
    pixels = rng.integers(0, 256, (h, w, 4), dtype=np.uint8)
    if draw.random() < 0.5:
        pixels[:, :, 3] = draw.choice([0, 128, 255])
    mode, path = draw.choice(MODES), folder / ("odd" + draw.choice(SUFFIXES))
    try:
        image = Image.fromarray(pixels)
        if mode == "I;16":
            image = Image.fromarray(rng.integers(0, 65536, (h, w), dtype=np.uint16))
        elif mode == "F":
            image = Image.fromarray(rng.random((h, w), dtype=np.float32))
        else:
            image = (
                image.convert("RGB").convert(mode)
                if mode in ("LAB", "HSV")
                else image.convert(mode)
            )
        options = {}
        if draw.random() < 0.2:
            exif = Image.Exif()
            exif[0x0112] = draw.randint(1, 8)
            options["exif"] = exif
        if mode in ("P", "L", "RGB") and path.suffix == ".png" and draw.random() < 0.3:
            options["transparency"] = 7 if mode != "RGB" else (1, 2, 3)
        image.save(path, **options)
    except (OSError, ValueError, KeyError, TypeError, SystemError):
        return None
    if draw.random() < 0.15:
        data = path.read_bytes()
        path.write_bytes(data[: draw.randrange(len(data))])
    return path


def expected(path: pathlib.Path) -> np.ndarray | None:
    """Another reading of the same file, by Pillow alone, on white; None for modes it clips."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode in ("F",) or image.mode.startswith("I"):
            return None
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return np.asarray(Image.alpha_composite(white, image).convert("RGB"), np.float64)


def pictures(count: int, draw: random.Random) -> list[str]:
    """What went wrong with `count` odd pictures: read, and given as picture and as mask."""
    wrong, done, refused = [], 0, 0
    while done < count:
        with in_a_folder() as folder:
            furnish(folder)
            path = a_picture(draw, folder)
            if path is None:
                continue
            done += 1
            try:
                with Image.open(path) as image:
                    what = f"{image.mode} {image.format} {image.size}"
            except (OSError, SyntaxError, ValueError):
                what = f"damaged {path.suffix}"
            try:
                ours = ((open_picture(path)[0].permute(1, 2, 0).double() + 1) * 127.5).numpy()
                other = expected(path)
                if other is not None and (
                    ours.shape != other.shape or np.abs(ours - other).max() > 1.01
                ):
                    gap = (
                        "another shape" if ours.shape != other.shape else np.abs(ours - other).max()
                    )
                    wrong.append(f"{what}: read differently, {gap}")
                if other is None and not 0 <= ours.mean() <= 255:
                    wrong.append(f"{what}: out of range")
            except ValueError:
                refused += 1
            except BaseException:
                wrong.append(f"{what}: {traceback.format_exc()}")
            for words in (
                ["img2img", path.name, "a red ring", "--steps", "2"],
                ["inpaint", "p.png", path.name, "a red ring", "--steps", "1"],
            ):
                before = state(folder)
                code, said = run([*words, "--out", "o.png", "--zoom", "1"])
                if code not in (0, 1) or "Traceback" in said:
                    wrong.append(f"{words[0]}, {what}: {code} {said}")
                elif code and state(folder) != before:
                    wrong.append(f"{words[0]}, {what}: exit code {code} and files changed")
                (folder / "o.png").unlink(missing_ok=True)
    print(f"pictures: {count} odd ones, {refused} refused by open_picture")
    return wrong


@contextlib.contextmanager
def in_a_folder():
    """An empty folder to work in, gone afterwards."""
    before, folder = os.getcwd(), pathlib.Path(tempfile.mkdtemp())
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", help="lines 500 files 500 pictures 100 by default")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    words = given.kinds or "lines 500 files 500 pictures 100".split()
    torch.set_num_threads(1)
    wrong = []
    for kind, count in zip(words[::2], words[1::2], strict=True):
        work = {"lines": lines, "files": files, "pictures": pictures}[kind]
        wrong += [f"{kind}: {one}" for one in work(int(count), random.Random(given.seed))]
    print("\n".join(wrong) or "nothing went wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
