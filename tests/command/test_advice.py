"""What the command line says: advice that works when it is followed to the letter, pictures that
are never lost, files that are not overwritten in silence, and no traceback whatever it is told.
"""

import io
import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from minisd.__main__ import main
from minisd.checkpoints.loading import Checkpoint, save
from minisd.command import given, terminal
from minisd.command.arguments import THEIRS, parsers, read
from minisd.models.autoencoder import AutoencoderKL
from minisd.models.bert import BERTText
from minisd.models.configs import AutoencoderConfig, TextConfig, UNetConfig
from minisd.models.unet import UNet
from minisd.pipeline import Pipeline, precision, threads
from minisd.pipeline.conditioning import prompt_warnings, tokenizer_metadata
from minisd.pipeline.menu import GRIDS, SAMPLERS
from minisd.pipeline.networks import Networks
from minisd.pipeline.pictures import open_picture, read_settings, save_png
from minisd.samplers import Step
from minisd.schedules import ldm_uniform_times
from minisd.text.tokenizer import Tokenizer, train_merges
from minisd.tiny.weights import TINY

ONE = ("--steps", "1")
PROMPT = "a red circle"


@pytest.fixture(autouse=True)
def a_folder_with_pictures(tmp_path, monkeypatch):
    """In a folder of its own with a picture, masks and depths."""
    monkeypatch.chdir(tmp_path)
    grey = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(np.dstack([grey] * 3)).save("p.png")
    Image.fromarray(grey).save("depth.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[16:32, 16:48] = 255
    Image.fromarray(mask).save("m.png")
    Image.fromarray(np.dstack([grey] * 3 + [mask])).save("both.png")
    Image.fromarray(0 * mask).save("dark.png")


def run(*words):
    try:
        return main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code


def told(capsys):
    return capsys.readouterr().err


class Quick:
    """A run whose pictures are grey at once."""

    def __init__(self, count, size, steps):
        self.count, self.size, self.steps = count, size, steps

    def __len__(self):
        return self.steps

    def __iter__(self):
        z = torch.zeros(self.count, 4, *(side // 4 for side in self.size))
        return iter([Step(1, z, z, z)] * 2)

    def pictures(self):
        return torch.zeros(self.count, 3, *self.size)


@pytest.fixture
def quick(monkeypatch):
    """The tiny model with its sampling left out, where it would begin."""

    def run(self, told, x, grid, **_):
        return Quick(told.count, [4 * side for side in x.shape[2:]], len(grid) - 1)

    pipe = Pipeline.load(TINY)
    monkeypatch.setattr(Pipeline, "load", lambda *_, **__: pipe)
    monkeypatch.setattr(Pipeline, "_run", run)
    monkeypatch.setattr(pipe, "decode", lambda z: torch.zeros(len(z), 3, 64, 64), raising=False)


# ---- advice -------------------------------------------------------------------------------

VALUES = {"--checkpoint": TINY, "--out": "o.png", "--sampler": "ddim", "--size": 64}
VALUES |= {
    "--grid": "karras",
    "--dtype": "float32",
    "--negative": "red",
    "--eta": 0,
    "--rescale": 0,
}


@pytest.mark.parametrize("option", re.findall(r"(?<= )\w+(?![\w: ]*:)", THEIRS) + ["setps", "sead"])
def test_an_option_of_other_programs_is_told_by_its_name_here(option, capsys):
    line = ["img2img" if re.match("control|hint", option) else "upscale", "p.png", PROMPT]
    for spelt in (f"--{option}", f"--{option.upper().replace('_', '-')}")[option in "hw" :]:
        assert run(*line, spelt, 1) == 2
        meant = re.search(rf"no {spelt}; (--[\w-]+(?: \w+)?), perhaps\?", told(capsys))[1]
        value = [] if " " in meant else [str(VALUES.get(meant, 1))]
        read([*line, *meant.split(), *value])  # SystemExit where it does not exist


def test_what_other_programs_name_stands_alone_here(capsys, quick):
    assert run("--prompt", PROMPT, *ONE) == 2 and "prompt stands alone" in told(capsys)
    assert run("p.png", PROMPT, "--init-img", *ONE) == 2
    assert "minisd img2img picture.png" in told(capsys)
    assert run(PROMPT, *ONE) == 0 and run("img2img", "p.png", PROMPT, "--steps", 2) == 0


ADVICE = [  # what fails, what it is told, and what follows from that to the letter
    (["a", "red", "ring"], "prompt of several words goes in quotes", ["a red ring"]),
    (["infos", TINY], "info, perhaps", ["info", TINY]),
    ([PROMPT, "--sampler", "eulr"], "nearest are euler, euler_a", [PROMPT, "--sampler", "euler_a"]),
    ([PROMPT, "--sampler", "?"], "there are ddim, plms", [PROMPT, "--sampler", "plms"]),
    ([PROMPT, "--grid", "kras"], "nearest are karras", [PROMPT, "--grid", "karras", "--steps", 2]),
    (
        [PROMPT, "--sampler", "Euler Karras", "--grid", "sgm"],
        "name one of them",
        [PROMPT, "--sampler", "Euler", "--grid", "sgm"],
    ),
    ([PROMPT, "--grid", "karras", "--steps", 1], "at least 2 steps", [PROMPT, "--steps", 2]),
    ([PROMPT, "--share", 0.5], "needs --refiner", [PROMPT, "--share", 0.5, "--refiner", TINY]),
    (
        [PROMPT, "--refiner", TINY, "--share", 1.5],
        "between 0 and 1",
        [PROMPT, "--refiner", TINY, "--share", 0.5],
    ),
    (
        [PROMPT, "--churn", 2, "--sampler", "lms"],
        "those that do are euler, heun",
        [PROMPT, "--churn", 2, "--sampler", "heun"],
    ),
    ([PROMPT, "--size", 50], "multiples of 16", [PROMPT, "--size", 3 * 16]),
    ([PROMPT, "--size", "big"], "no size like 512", [PROMPT, "--size", 64]),
    ([PROMPT, "--size", "x"], "512x768, height first", [PROMPT, "--size", "64x32"]),
    ([PROMPT, "--steps", 0], "at least 1", [PROMPT, "--steps", 1]),
    ([PROMPT, "--steps", 2000], "at most T=1000", None),
    ([PROMPT, "--n", 0], "from 1 to 1000", [PROMPT, "--n", 1]),
    ([PROMPT, "--tile", 3], "from 4 to 8192", [PROMPT, "--tile", 4]),
    ([PROMPT, "--zoom", 65], "from 1 to 64", [PROMPT, "--zoom", 64, "--size", 16]),
    (
        [PROMPT, "--eta", 0.5, "--sampler", "plms"],
        "those that do are ddim",
        [PROMPT, "--eta", 0.5, "--sampler", "ddim"],
    ),
    ([PROMPT, "--seed", 2**63], "from 0 to 2^63 - 1", [PROMPT, "--seed", 2**63 - 1]),
    ([PROMPT, "--out", "a.jpg"], "must end in .png", [PROMPT, "--out", "a.png"]),
    (["trajectory", PROMPT, "--n", 2], "leave --n out", ["trajectory", PROMPT]),
    (["trajectory", PROMPT, "--columns", 1], "from 2 to", ["trajectory", PROMPT, "--columns", 2]),
    (["img2img", PROMPT, "p.png"], "picture comes first", ["img2img", "p.png", PROMPT]),
    (
        ["inpaint", "p.png", PROMPT, "m.png"],
        "picture and the mask come first",
        ["inpaint", "p.png", "m.png", PROMPT],
    ),
    (["inpaint", "p.png", "dark.png", PROMPT], "white", ["inpaint", "p.png", "m.png", PROMPT]),
    (
        ["inpaint", "p.png", "both.png", PROMPT],
        "save it without transparency, white where",
        ["inpaint", "p.png", "m.png", PROMPT],
    ),
    (["upscale", "p.png", PROMPT], "use txt2img, img2img or inpaint", [PROMPT]),
    (
        ["depth2img", "p.png", "depth.png", PROMPT],
        "or inpaint",
        ["inpaint", "p.png", "m.png", PROMPT],
    ),
]


@pytest.mark.parametrize("fails, advice, works", ADVICE, ids=[a for _, a, _ in ADVICE])
def test_advice_followed_to_the_letter_works(fails, advice, works, capsys, quick):
    here = sorted(os.listdir())
    one = [] if fails[0] == "infos" or "--steps" in fails else ONE
    assert run(*fails, *one) in (1, 2)
    said = told(capsys)
    assert advice in said and said.count("\n") == 1 and sorted(os.listdir()) == here
    if works is not None:
        one = [] if works[0] == "info" or "--steps" in works else ONE
        strength = ["--strength", "1"] if "img2img" in works else []
        assert run(*works, *one, *strength) == 0


def test_not_enough_memory_is_told_with_what_takes_less(capsys, monkeypatch):
    """A first stage that cannot hold 24 x 24 latents, unless in tiles or with no network beside."""
    whole = Networks._decode_one

    def small(self, vae, z):
        if self.tile is None and max(z.shape[2:]) > 16 and not self.release:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator")
        return whole(self, vae, z)

    monkeypatch.setattr(Networks, "_decode_one", small)
    line = [PROMPT, *ONE, "--scale", 1, "--zoom", 1, "--size"]
    assert run(*line, 96) == 1
    said = told(capsys)
    assert said.count("\n") == 1 and "takes more memory than there is" in said
    for follows in (["64"], ["96", "--tile", "64"], ["96", "--release"]):
        assert all(word in said for word in ("smaller --size", "--tile 64", "--release"))
        assert run(*line, *follows) == 0


def model(path, beside, **more):
    """A small model of random weights that is told so many channels beside x_t."""
    shape = {"channel_mult": (1, 2), "attention_factors": (2,), "heads": 2, "groups": 8}
    shape |= {"transformer_depth": (1, 1), "self_attention": (True, True), "context_dim": 32}
    unet = UNet(UNetConfig(4 + beside, model_channels=16, **shape, **more))
    vae = AutoencoderKL(AutoencoderConfig(channels=8, channel_mult=(1, 1, 2), groups=4))
    tokenizer = Tokenizer(train_merges([PROMPT], 9), length=16)
    size = len(tokenizer.vocabulary)
    text = BERTText(TextConfig(width=32, layers=1, heads=2, vocabulary=size, length=16))
    save(path, Checkpoint("tiny", unet, vae, text), tokenizer_metadata(tokenizer))


@pytest.mark.parametrize(
    "way, beside, more",
    [("depth2img", 1, {}), ("inpaint", 5, {}), ("upscale", 3, {"classes": 1000})],
)
def test_a_model_for_one_thing_says_which_and_the_command_is_there(way, beside, more, capsys):
    model("x.safetensors", beside, **more)
    end = [PROMPT, *ONE, "--checkpoint", "x.safetensors", "--zoom", 1, "--out", "o.png"]
    assert run(*end) == 1 and f"use {way}" in told(capsys)
    words = {"depth2img": ["p.png", "depth.png"], "inpaint": ["p.png", "m.png"]}
    whole = ["--strength", 1] if way == "depth2img" else []
    assert run(way, *words.get(way, ["p.png"]), *end, *whole) == 0
    side = 256 if way == "upscale" else 64
    assert open_picture("o.png").shape == (1, 3, side, side)
    assert run("again", "o.png", "--out", "again.png") == 0
    assert (open_picture("again.png") - open_picture("o.png")).abs().max() <= 1.01 / 127.5


# ---- settings that void the work are said -------------------------------------------------


@pytest.mark.parametrize(
    "words, says",
    [
        (["--scale", 0], "at scale 0 only the negative prompt is read"),
        (["--tile", 8], "the decoder learned 16 x 16 latents"),
        (["--grid", "ldm"], "--steps 1 begins at t = 1000, where x is noise; the official grid"),
    ],
)
def test_what_voids_the_work_is_said(words, says, capsys, quick):
    assert run(PROMPT, *ONE, *words) == 0 and says in told(capsys)


def test_a_mask_that_may_ask_for_too_much_is_told(capsys, quick):
    alpha = np.array(Image.open("m.png"))
    Image.fromarray(np.dstack([alpha, alpha])).save("layer.png")
    Image.fromarray(0 * alpha + 255).save("white.png")
    for name, says in (
        ("layer.png", "layer.png has transparent parts: 12% of the picture is painted anew"),
        ("white.png", "white.png is white nearly everywhere: 100% of the picture"),
    ):
        assert run("inpaint", "p.png", name, PROMPT) == 0 and says in told(capsys)
    assert run("inpaint", "p.png", "m.png", PROMPT) == 0 and "of the picture" not in told(capsys)


def test_another_number_of_steps_is_said_and_written(capsys, quick, monkeypatch):
    monkeypatch.setattr(
        "minisd.pipeline.pipeline.times", lambda _, n, *__: ldm_uniform_times(1000, n)
    )
    for asked, strength, taken in ((334, 1, 500), (501, 0.1, 99), (50, 0.58, 29), (60, 0.5, 31)):
        assert run("img2img", "p.png", "a", "--steps", asked, "--strength", strength) == 0
        assert (f"--steps {asked} takes {taken} steps" in told(capsys)) == (asked != 50)
        said = read_settings(max(os.listdir(), key=os.path.getmtime))
        assert said["steps"] == str(asked) and said["taken"] == str(taken)


@pytest.mark.parametrize(
    "prompt, found",
    [
        ("a (red:1.3) ring", "'(red:1.3)'"),
        ("<lora:paint:0.8> a ring", "'<lora:paint:0.8>'"),
        ("a ring BREAK a star", "'BREAK'"),
        ("a [red|blue] ring", "'[red|blue]'"),
        ("a ring --ar 16:9", "'--ar 16:9'"),
        ("a ring (in the snow), red: a star [sic] -- and more", None),
    ],
)
def test_the_syntax_of_other_programs_is_told(prompt, found):
    said = prompt_warnings(prompt, [])
    assert said == [] if found is None else len(said) == 1 and found in said[0]


def test_a_word_in_another_role_is_told(capsys, quick):
    assert run("a grey star", *ONE) == 0 and "'grey' is a color of backgrounds" in told(capsys)
    assert run("three large stars", *ONE) == 0 and "three things or four are" in told(capsys)
    assert run("a red star on white", *ONE) == 0 and "color" not in told(capsys)


def test_syntax_is_looked_for_in_no_time():
    for part in ("(", "[|", "<a:", "--a ", "(a:1.", "[" * 3):
        assert isinstance(prompt_warnings(part * 50_000, []), list)


def test_a_slower_dtype_is_told(capsys, monkeypatch):
    times = {torch.bfloat16: 4.0, torch.float16: 0.9}
    monkeypatch.setattr(precision, "slower", times.get)
    assert run(PROMPT, *ONE, "--dtype", "bfloat16") == 0
    said = told(capsys)
    assert "bfloat16 takes 4.0 times as long as float32 on this processor: --dtype float32" in said
    for more in (["--dtype", "float16"], [], ["--dtype", "auto", "--out", "auto.png"]):
        assert run(PROMPT, *ONE, *more) == 0 and "times as long" not in told(capsys)
    assert read_settings("auto.png")["dtype"] == "float32"  # what it was, and not what was asked


def test_weights_that_stay_as_they_are_are_told(capsys, monkeypatch):
    says = "the weights stay float16, as the file has them, and each layer's are turned to float32"
    assert run(PROMPT, *ONE) == 0 and says not in told(capsys)  # the tiny model is small
    monkeypatch.setattr(threads, "SMALL", 1_000_000)
    assert run(PROMPT, *ONE) == 0 and told(capsys).count(says) == 1


# ---- again --------------------------------------------------------------------------------

LINES = [
    ["-- a prompt", *ONE, "--seed", 5, "--negative=--red", "--scale", 3.5, "--size", "64x48"],
    [PROMPT, "--steps", 4, "--sampler", "ddim", "--eta", 0.5, "--rescale", 0.25, "--tile", 8],
    [PROMPT, "--steps", 4, "--sampler", "Heun Karras", "--churn", 2, "--guide-from", 800],
    [PROMPT, "--steps", 3, "--sampler", "lms", "--order", 2, "--guide-until", 400, "--grid", "ays"],
    [PROMPT, "--steps", 4, "--sampler", "DPM++ 2M SDE", "--eta", 0.7, "--refiner", TINY],
    ["img2img", "p.png", 'a "blue" ring, ☃\n', "--steps", 4, "--strength", 0.5],
    ["inpaint", "p.png", "m.png", PROMPT, "--steps", 3],
    ["trajectory", PROMPT, "--steps", 3, "--columns", 3, "--sampler", "plms", "--zoom", 2],
    [PROMPT, *ONE, "--checkpoint", TINY, "--family", "tiny", "--dtype", "bfloat16"],
]


@pytest.mark.equal_bits("one machine makes a picture again as it was, in 16 bits too")
@pytest.mark.parametrize("line", LINES, ids=lambda line: str(line[:2]))
def test_a_picture_is_made_again_by_what_it_tells(line):
    line = [line[0].replace("-- ", "--"), *line[1:]]
    line = ["txt2img", *line[1:], "--", line[0]] if line[0][0] == "-" else line
    assert (
        run(
            *line[: line.index("--") if "--" in line else None],
            "--out",
            "a.png",
            *(line[line.index("--") :] if "--" in line else []),
        )
        == 0
    )
    assert run("again", "a.png") == 0
    assert (open_picture("minisd.png") - open_picture("a.png")).abs().max() <= 1.01 / 127.5
    first, second = read_settings("a.png"), read_settings("minisd.png")
    assert first == second


def test_the_third_of_several_is_made_again_alone():
    assert run(PROMPT, *ONE, "--n", 3, "--seed", 4, "--out", "a.png") == 0
    assert run("again", "a-2.png") == 0 and read_settings("minisd.png")["seed"] == "6"
    assert (open_picture("minisd.png") - open_picture("a-2.png")).abs().max() <= 1.01 / 127.5


def rewritten(path, **changes):
    """The picture with other settings; None leaves one out."""
    said = {k.replace("_", " "): v for k, v in changes.items()}
    said = {k: v for k, v in (read_settings("a.png") | said).items() if v is not None}
    save_png(path, open_picture("a.png"), said)


@pytest.mark.parametrize(
    "changes, code, says",
    [
        ({"minisd": None}, 1, "does not tell how minisd made it"),
        ({"minisd": "again"}, 1, "does not tell how minisd made it"),
        ({"minisd": "rm"}, 1, "does not tell how minisd made it"),
        ({"version": None}, 1, "an older minisd made it"),
        ({"invented": "3"}, 1, "it tells 'invented', as minisd 0.1.0 did"),
        ({"out": "p.png"}, 1, "it tells 'out'"),
        ({"prompt": None}, 1, "does not tell its prompt"),
        ({"size": None}, 1, "does not tell its size"),
        ({"seed": "abc"}, 2, "'abc' is not a whole number"),
        ({"sampler": "eulr"}, 1, "there is no sampler 'eulr'"),
        ({"grid": "kras"}, 1, "there is no grid 'kras'"),
        ({"churn": "9"}, 1, "dpmpp_2m_sde takes no churn"),
        ({"zoom": "9999"}, 1, "--zoom must be from 1 to 64"),
        ({"dtype": "int8"}, 2, "dtype"),
        ({"seed": "1 --out p.png"}, 2, "is not a whole number"),
        ({"checkpoint": "none.safetensors"}, 1, "none.safetensors"),
        ({"checkpoint_bytes": "12"}, 1, "is not what it was when the picture was made"),
        ({"picture": "none.png"}, 1, "none.png is not there"),
        ({"picture": "m.png"}, 1, "m.png is not what it was"),
        ({"picture": "/dev/zero"}, 1, "/dev/zero is not there"),
    ],
)
def test_what_a_picture_tells_is_checked_as_if_it_were_typed(changes, code, says, capsys, quick):
    assert run("img2img", "p.png", PROMPT, "--steps", 2, "--out", "a.png") == 0
    told(capsys)
    rewritten("b.png", **changes)
    before = contents()
    assert run("again", "b.png") == code
    said = told(capsys)
    assert says in said and said.count("\n") == 1 and contents() == before


def test_a_picture_without_settings_and_what_is_no_picture(capsys):
    assert run("again", "p.png") == 1 and "p.png cannot be made again" in told(capsys)
    with open("a.jpg", "wb") as file:
        file.write(b"\xff\xd8")
    assert run("again", "a.jpg") == 1 and "a.jpg is not a PNG" in told(capsys)
    os.mkfifo("pipe.png")
    assert run("again", "pipe.png") == 1 and "pipe.png is no picture file" in told(capsys)
    assert run(PROMPT, *ONE, "--out", "a.png") == 0
    told(capsys)
    assert run("again", "a.png", "--out", "a.png") == 1 and "would be lost" in told(capsys)


# ---- files --------------------------------------------------------------------------------


def contents():
    return {name: open(name, "rb").read() for name in os.listdir() if os.path.isfile(name)}


def test_nothing_is_overwritten_in_silence(capsys, quick):
    for name in ("minisd.png", "minisd-1.png", "minisd-2.png"):
        before = contents()
        assert run(PROMPT, *ONE) == 0 and capsys.readouterr().out == f"{name}\n"
        assert before.items() < contents().items() and {*contents()} - {*before} == {name}
    before = contents()
    assert run(PROMPT, *ONE, "--n", 2) == 0
    assert capsys.readouterr().out == "minisd-1-0.png\nminisd-1-1.png\n"
    assert before.items() < contents().items()
    assert run(PROMPT, *ONE, "--out", "minisd.png") == 0
    assert "minisd.png was there before, and is replaced" in told(capsys)
    assert run(PROMPT, *ONE, "--out", "new.png") == 0 and "replaced" not in told(capsys)


@pytest.mark.parametrize("out", ["p.png", "./p.png", "link.png", "m.png", "read-only.png", "d.png"])
def test_some_files_are_never_written(out, capsys):
    os.symlink("p.png", "link.png")
    os.mkdir("d.png")
    Image.new("L", (8, 8)).save("read-only.png")
    os.chmod("read-only.png", 0o444)
    before = contents()
    assert run("inpaint", "p.png", "m.png", PROMPT, *ONE, "--out", out) == 1
    said = told(capsys)
    assert said.count("\n") == 1 and ("would be lost" in said or "cannot be written" in said)
    assert contents() == before


def test_a_symbolic_link_is_followed_and_stays(capsys, quick):
    os.mkdir("there")
    for target in ("there/old.png", "there/new.png"):
        if "old" in target:
            Image.new("L", (8, 8)).save(target)
        os.symlink(target, "link.png")
        assert run(PROMPT, *ONE, "--out", "link.png") == 0
        assert os.path.islink("link.png") and read_settings(target)["prompt"] == PROMPT
        os.unlink("link.png")
    os.symlink("nowhere/a.png", "link.png")
    told(capsys)
    assert run(PROMPT, *ONE, "--out", "link.png") == 1 and "no directory" in told(capsys)


@pytest.fixture
def no_model(monkeypatch):
    """Whoever loads a model here has not refused in time."""
    monkeypatch.setattr(Pipeline, "load", lambda *_, **__: pytest.fail("a model is loaded"))


@pytest.mark.parametrize(
    "words, says",
    [
        (["caf\udce9"], "the prompt must be UTF-8"),
        (["a\0b"], "without zero bytes"),
        ([PROMPT, "--negative", "\udcff"], "the negative must be UTF-8"),
        ([PROMPT, "--size", 1024, "--zoom", 64], "make a file of over"),
        ([PROMPT, "--size", 100_000], "make a file of over"),
        ([PROMPT, "--n", 2, "--out", "x" * 251 + ".png"], "File name too long"),
        ([PROMPT, "--n", 2, "--seed", 2**63 - 1], "9223372036854775808 for the last of 2"),
        ([PROMPT, "--tile", 2**64], "--tile must be from 4"),
        ([PROMPT, "--out", "no/a.png"], "there is no directory"),
        ([PROMPT, "--out", "p.png/a.png"], "Not a directory"),
        ([PROMPT, "--seed", "9" * 5000], "a number of 5000 characters is too long"),
        (["img2img", "dark.png/x", PROMPT], "no such picture"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_needs_no_model_is_refused_before_one_is_loaded(words, says, no_model, capsys):
    before = contents()
    assert run(*words) in (1, 2)
    said = told(capsys)
    assert says in said and said.count("\n") == 1 and len(said) < 1400 and contents() == before


def test_long_echoes_lose_their_middle(capsys, quick):
    prompt = "zebra" * 20_000
    assert run(prompt, *ONE) == 0
    said = told(capsys)
    assert len(said) < 4000 and "more characters ...]" in said
    assert read_settings("minisd.png")["prompt"] == prompt


# ---- terminals ----------------------------------------------------------------------------

CHILD = [sys.executable, "-m", "minisd", PROMPT, *ONE]


@pytest.mark.parametrize("streams", [">&- 2>&-", ">/dev/full 2>/dev/full"])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_terminal_costs_neither_the_picture_nor_the_exit_code(streams):
    done = subprocess.run(["bash", "-c", f'"$@" --out a.png {streams}', "-", *CHILD])
    assert done.returncode == 0 and read_settings("a.png")["prompt"] == PROMPT


def test_a_reader_that_goes_away_is_no_error():
    code = "import sys; from minisd.command.terminal import tell; tell(sys.stdout, 'a' * 10**6)"
    line = ["bash", "-c", '"$@" | true; exit ${PIPESTATUS[0]}', "-", sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True)
    assert done.returncode == 0 and done.stderr == b""


def test_a_console_of_few_characters_costs_nothing(monkeypatch, quick):
    seen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(seen, "cp1252"))
    assert run(PROMPT, "--n", 2, "--out", "star☆.png") == 0
    assert seen.getvalue().splitlines() == [b"star\\u2606-0.png", b"star\\u2606-1.png"]
    assert os.path.exists("star☆-0.png") and os.path.exists("star☆-1.png")


def test_a_bar_moves_only_where_somebody_sees_it(capsys, quick):
    assert run(PROMPT) == 0 and told(capsys).count("\n") == 1


def test_what_is_told_cannot_command_the_terminal(capsys):
    terminal.say("a \x1b[31m red\r word and a \udcff byte\nand a line")
    assert told(capsys) == "minisd: a \\x1b[31m red\\r word and a \\udcff byte\nand a line\n"


@pytest.mark.parametrize(
    "error, says",
    [
        (KeyError("x"), "this should not happen, KeyError: 'x'"),
        (AssertionError(), "this should not happen, AssertionError: "),
        (OverflowError("too large"), "OverflowError: too large"),
        (TypeError("float64\non MPS"), "TypeError: float64"),
        (ValueError(), "ValueError: "),
        (ModuleNotFoundError("No module named 'x'"), "No module named 'x'"),
        (MemoryError(), "more memory than there is"),
        (KeyboardInterrupt(), "stopped; pictures written: 0"),
    ],
)
def test_every_exception_ends_in_one_sentence(error, says, capsys, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Pipeline, "load", fail)
    assert run(PROMPT) == (130 if isinstance(error, KeyboardInterrupt) else 1)
    said = told(capsys)
    assert said.startswith("minisd: ") and says in said and said.count("\n") == 1


# ---- any line -----------------------------------------------------------------------------

COMMANDS = ["txt2img", "img2img", "inpaint", "depth2img", "upscale", "trajectory", "again", "info"]
WORDS = ["p.png", "m.png", "both.png", "dark.png", "depth.png", "none.png", "d", "", "ü☃", "\udcff"]
WORDS += [PROMPT, "(a:1.2)", "x" * 400, "-", "--", "a\0b", "=", "/dev/zero", ".", "[a|b] --ar 1:2"]
NUMBERS = ["0", "1", "2", "-3", "1.5", "nan", "inf", "x", "", "64", "32x48", "9" * 31, "1e9", "2_0"]
FLAGS = {option for name in COMMANDS for option in parsers()[1][name]._option_string_actions}
FLAGS = sorted(FLAGS - {"-h", "--help", "--out", "--device", "--checkpoint"}) + ["--H", "--plms"]


def test_no_line_gives_a_traceback_or_touches_another_file(capsys, quick):
    """500 lines."""
    assert run(PROMPT, "--out", "made.png") == 0
    os.mkdir("d")
    before, draw, codes = contents(), random.Random(1), set()
    for _ in range(500):
        line = draw.sample(COMMANDS, draw.randint(0, 1)) + draw.choices(WORDS, k=draw.randint(1, 3))
        if draw.random() < 0.5:  # one that is right but for its options
            good = [[PROMPT], ["img2img", "p.png", PROMPT], ["trajectory", PROMPT]]
            line = draw.choice([*good, ["again", "made.png"], ["inpaint", "p.png", "m.png", "a"]])
        for _ in range(draw.randint(0, 2)):
            line = [*line, draw.choice(FLAGS), draw.choice([*NUMBERS, *WORDS])]
        out = draw.choice(["o.png", "o.png", "p.png", "no/o.png", "o", ""])
        line = [*line, "--out", out]
        capsys.readouterr()
        code = run(*line)
        said = told(capsys)
        codes.add(code)
        assert code in (0, 1, 2), (line, said)
        assert "Traceback" not in said and "should not happen" not in said, (line, said)
        after = contents()
        if out == "p.png" and code == 0 and after[out] != before[out]:
            assert "p.png was there before, and is replaced" in said and "p.png" not in line[:-1]
            with open(out, "wb") as file:
                file.write(before[out])
            continue
        made = [name for name in after if name not in before]
        assert {name: after[name] for name in before} == before, line
        assert bool(made) == (code == 0 and line[0] != "info" and "-h" not in line), (line, said)
        for name in made:
            assert name.startswith(("o", "p-")) and open_picture(name).shape[0] == 1
            os.unlink(name)
    assert codes == {0, 1, 2}


def test_samplers_in_help_are_those_that_are_there():
    help_ = parsers()[1]["txt2img"]._option_string_actions["--sampler"].help
    assert help_.startswith(", ".join(SAMPLERS))
    help_ = parsers()[1]["txt2img"]._option_string_actions["--grid"].help
    assert ", ".join(GRIDS) in help_


def test_targets_count_up_to_what_is_free():
    options = read([PROMPT, "--n", "2"])
    open("minisd-1.png", "w").close()
    os.symlink("nowhere", "minisd-1-1.png")
    assert [str(path) for path in given.targets(options)] == ["minisd-2-0.png", "minisd-2-1.png"]
