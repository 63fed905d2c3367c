"""The command line: pictures that carry their settings, sentences for mistakes, no tracebacks."""

import gc
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch

from minisd.__main__ import main
from minisd.command.arguments import read
from minisd.command.tasks import LATER, LESSONS, STAGES, TASKS
from minisd.command.terminal import STOPPED, uninterrupted
from minisd.pipeline import Pipeline
from minisd.pipeline.pictures import open_picture, read_settings, save_png
from minisd.pipeline.settings import USUAL
from minisd.tiny import train
from minisd.tiny.fidelity import GROUPS
from minisd.tiny.scenes import paint, random_scene
from minisd.tiny.weights import TINY
from minisd.training import rng

PROMPT = "a red circle left of a blue square"


@pytest.fixture(autouse=True)
def one_thread(tmp_path, monkeypatch):
    """In a folder of its own, with the threads as they were before."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(*words: str) -> int:
    try:
        return main([*words, *(["--quiet"] if words[0] != "info" else [])])
    except SystemExit as stop:
        return stop.code


def test_a_sentence_becomes_the_picture_that_the_pipeline_gives(tmp_path, capsys):
    assert run(PROMPT, "--steps", "3", "--seed", "5", "--zoom", "1") == 0
    assert capsys.readouterr().out == "minisd.png\n"
    how = {"steps": 3, "seed": 5, "sampler": "dpmpp_2m_sde"}  # the tiny model's usual one
    expected = Pipeline.load(TINY).txt2img(PROMPT, **how).pictures()
    assert (open_picture("minisd.png") - expected).abs().max() <= 0.51 / 127.5  # 8 bits
    said = read_settings("minisd.png")
    told = {"prompt": PROMPT, "seed": "5", "steps": "3", "model": "tiny", "size": "64x64"}
    told |= {"scale": "3.0", "sampler": "dpmpp_2m_sde", "negative": "", "dtype": "float32"}
    assert said | told == said and "None" not in said.values()


def test_several_pictures_have_their_own_files_and_seeds():
    assert run(PROMPT, "--steps", "1", "--n", "2", "--seed", "7", "--out", "a.png") == 0
    assert [read_settings(f"a-{i}.png")["seed"] for i in range(2)] == ["7", "8"]
    assert run(PROMPT, "--steps", "1", "--seed", "8", "--out", "b.png") == 0
    assert (open_picture("a-1.png") - open_picture("b.png")).abs().max() <= 1.01 / 127.5
    assert open_picture("b.png").shape == (1, 3, 256, 256)  # enlarged, each pixel repeated


def test_a_picture_is_repainted_in_part_or_whole():
    picture = paint(random_scene(rng(1)))
    mask = torch.full((3, 64, 64), -1.0)
    mask[:, :, :32] = 1
    save_png("p.png", picture)
    save_png("m.png", mask)
    how = ("--steps", "4", "--zoom", "1", "--out", "o.png")
    assert run("img2img", "p.png", PROMPT, "--strength", "0.5", *how) == 0
    assert (open_picture("o.png") - picture).abs().max() > 0.1
    save_png("m.png", mask.repeat_interleave(2, 1).repeat_interleave(2, 2))  # its shape counts
    assert run("inpaint", "p.png", "m.png", PROMPT, *how) == 0
    apart = (open_picture("o.png") - picture).abs()
    assert apart[..., 32:].max() <= 0.51 / 127.5 and apart[..., :32].mean() > 0.05


def test_a_picture_is_taken_at_the_size_told_and_what_is_cut_is_said(capsys):
    save_png("p.png", torch.zeros(3, 64, 96))
    line = ("img2img", "p.png", PROMPT, "--steps", "2", "--zoom", "1", "--out", "o.png")
    assert run(*line) == 0 and open_picture("o.png").shape == (1, 3, 64, 64)
    assert "p.png is 64 x 96: its middle is taken" in capsys.readouterr().err
    assert run(*line, "--size", "64x96") == 0
    assert open_picture("o.png").shape == (1, 3, 64, 96)
    assert "middle" not in capsys.readouterr().err


def test_the_way_to_a_picture_is_a_strip_of_two_rows():
    assert run("trajectory", PROMPT, "--steps", "4", "--columns", "4", "--zoom", "1") == 0
    assert open_picture("minisd.png").shape == (1, 3, 2 * 68, 4 * 68)


def test_info_tells_the_parts_without_loading(capsys):
    assert run("info", str(TINY)) == 0
    told = capsys.readouterr().out
    assert "family tiny" in told and "float16" in told


@pytest.mark.parametrize(
    "words, sentence",
    [
        ([PROMPT, "--checkpoint", "none.safetensors"], "none.safetensors"),
        ([PROMPT, "--checkpoint", str(TINY), "--family", "sdxl"], "tiny"),
        ([PROMPT, "--steps", "0"], "steps"),
        ([PROMPT, "--size", "500"], "multiples"),
        ([PROMPT, "--scale", "-1"], "scale"),
        ([PROMPT, "--sampler", "rk4"], "sampler"),
        ([PROMPT, "--n", "0"], "--n"),
        ([PROMPT, "--zoom", "0"], "zoom"),
        ([PROMPT, "--device", "nowhere"], "nowhere"),
        ([PROMPT, "--out", "no/such/folder.png"], "no directory"),
        ([PROMPT, "--out", "picture.jpg"], ".png"),
        (["trajectory", PROMPT, "--columns", "1"], "columns"),
        (["trajectory", PROMPT, "--n", "2"], "--n"),
        (["img2img", "none.png", PROMPT], "none.png"),
        (["info", "none.safetensors"], "none.safetensors"),
    ],
)
def test_a_mistake_gets_one_sentence_and_leaves_nothing(words, sentence, capsys, tmp_path):
    assert run(*words) == 1
    told = capsys.readouterr().err
    assert told.startswith("minisd: ") and told.count("\n") == 1 and sentence in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words, sentence",
    [
        ([PROMPT, "--setps", "3"], "no --setps; --steps, perhaps?"),
        ([PROMPT, "--seed", "abc"], "--seed: 'abc' is not a whole number"),
        ([PROMPT, "--scale", "x"], "--scale: 'x' is not a number"),
        ([PROMPT, "--size", "large"], "--size: 'large' is no size like 512"),
        ([PROMPT, "--input", "a.png"], "no --input: a picture stands alone, as in minisd img2img"),
        ([PROMPT, "--image=a.png"], "no --image=a.png: a picture stands alone"),
        ([PROMPT, "--mask", "m.png"], "no --mask: a mask stands alone, as in minisd inpaint"),
        ([PROMPT, "--batch_size", "2"], "no --batch_size; --n, perhaps?"),
        ([PROMPT, "--count", "2"], "no --count; --n, perhaps?"),
        ([PROMPT, "--guidance", "2"], "no --guidance; --scale, perhaps?"),
        (["--", PROMPT, "--steps", "2"], "--steps comes after --, where no option is read"),
        (["a", "red", "ring"], "'red ring' is left over: a prompt of several words"),
        (["again", "a.png", "b"], "'b' is left over; what has no option stands together"),
        (["infos", str(TINY)], "no command infos; info, perhaps?"),
        (["--steps", "3"], "prompt"),
        (["info"], "checkpoint"),
    ],
)
def test_a_word_out_of_place_gets_one_sentence(words, sentence, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(words)
    told = capsys.readouterr().err
    assert stop.value.code == 2 and told.count("\n") == 1 and not list(tmp_path.iterdir())
    assert told.startswith("minisd: ") and sentence in told and "--help" in told


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["inpaint", "p.png", "wide.png", PROMPT], "wide.png is 64 x 96, p.png is 64 x 64"),
        (["inpaint", "p.png", "dark.png", PROMPT], "dark.png is dark everywhere"),
        (["img2img", PROMPT, "p.png"], "the picture comes first"),
        (["img2img", "cut.png", PROMPT], "cut.png cannot be read as a picture"),
        (["img2img", "p.png", PROMPT, "--strength", "0"], "leaves none"),
    ],
)
def test_a_picture_that_does_not_serve_gets_one_sentence(words, sentence, capsys):
    save_png("p.png", torch.zeros(3, 64, 64))
    save_png("wide.png", torch.ones(3, 64, 96))
    save_png("dark.png", -torch.ones(3, 64, 64))
    with open("p.png", "rb") as whole, open("cut.png", "wb") as cut:
        cut.write(whole.read(60))
    assert run(*words) == 1 and not os.path.exists("minisd.png")
    told = capsys.readouterr().err
    assert told.startswith("minisd: ") and told.count("\n") == 1 and sentence in told


def test_a_pickle_is_refused_with_the_lines_that_convert_it(capsys, tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"not even a pickle")
    assert run("info", "model.ckpt") == 1
    told = capsys.readouterr().err
    assert "weights_only=True" in told and 'save_file(state, "model.safetensors")' in told


def test_mistakes_are_told_before_a_model_is_loaded(capsys):
    """Which may take a minute: the file of the model is not even looked for."""
    line = [PROMPT, "--checkpoint", "none.safetensors"]
    assert run(*line, "--steps", "0") == 1 and "steps" in capsys.readouterr().err
    assert run("img2img", "none.png", *line) == 1 and "none.png" in capsys.readouterr().err


def test_a_negative_prompt_that_is_not_read_is_said(capsys):
    assert run(PROMPT, "--steps", "1", "--scale", "1", "--negative", "red") == 0
    assert "the negative prompt is not read" in capsys.readouterr().err


def test_words_of_no_caption_are_named(capsys):
    assert run("a zebra left of a red ring", "--steps", "1") == 0
    assert "zebra" in capsys.readouterr().err


# ---- train, judge, grade, handout ---------------------------------------------------------

TAKEN = {  # options that each takes, and a line that names a file which is not there
    "train": (["--save-every", "--begin"], ["unet", "--begin", "none.safetensors"]),
    "judge": (["--captions", "--sampler"], ["none.safetensors"]),
    "grade": (["--timeout", "--user"], ["none.ipynb"]),
    "handout": (["--nbgrader", "--out"], ["none.ipynb", "--out", "copies"]),
}


@pytest.mark.parametrize("name", TAKEN)
def test_the_other_commands_have_the_same_help_and_sentences(name, capsys):
    options, missing = TAKEN[name]
    for words in ([name, "--help"], ["--help"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        told = capsys.readouterr()
        assert stop.value.code == 0 and not told.err and name in told.out
        assert words == ["--help"] or all(option in told.out for option in options)
    near = options[0][:-2] + "xy"
    for words in ([*missing, "--no-such"], [*missing, near]):
        with pytest.raises(SystemExit) as stop:
            main([name, *words])
        told = capsys.readouterr().err
        assert stop.value.code == 2 and told.startswith(f"minisd: there is no {words[-1]}")
        assert told.endswith(f"(minisd {name} --help lists what there is)\n")
        assert told.count("\n") == 1 and (words[-1] != near or f"{options[0]}, perhaps?" in told)
    assert main([name, *missing]) == 1
    told = capsys.readouterr().err
    assert told.startswith("minisd: ") and told.count("\n") == 1 and "none." in told


@pytest.mark.parametrize("word, said", [("help", "examples:"), ("--version", "minisd 0.")])
def test_a_word_that_every_program_knows(word, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main([word])
    assert stop.value.code == 0 and said in capsys.readouterr().out


def test_the_help_tells_the_tiny_models_steps(capsys):
    with pytest.raises(SystemExit):
        main(["txt2img", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert f"{USUAL['tiny'].steps} by default for the tiny model" in said


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["grade"], "required: submissions"),
        (["grade", "a", "--jobs", "0"], "--jobs: must be a whole number from 1, got '0'"),
        (["grade", "a", "--timeout", "nan"], "--timeout: must be positive, got 'nan'"),
        (["grade", "a", "--memory", "-1"], "--memory: must be positive, got '-1'"),
        (["handout", "a.ipynb"], "required: --out"),
        (["judge", "--captions", "0"], "--captions: must be a whole number from 1, got '0'"),
        (["judge", "a", "b"], "'b' is left over; what"),
        (["graed", "marks"], "there is no command graed; grade, perhaps?"),
    ],
)
def test_words_out_of_place_for_the_other_commands(words, sentence, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(words)
    told = capsys.readouterr().err
    assert stop.value.code == 2 and told.count("\n") == 1 and not list(tmp_path.iterdir())
    assert told.startswith("minisd: ") and sentence in told and "--help" in told


def test_the_table_of_the_judge(capsys):
    assert main(["judge", "--captions", "1", "--steps", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(GROUPS) and len({line.count("|") for line in lines}) == 1
    assert lines[0].startswith("| things, split | right |") and lines[2].startswith("| 1, seen |")


def test_words_of_the_commands_agree_with_what_they_run():
    assert TASKS.keys() == TAKEN.keys() == STOPPED.keys()
    made = {name for name in (*STAGES, *LESSONS, *LATER) if not name.startswith("export")}
    assert made == set(train.SETTINGS)
    assert read(["train"]).scenes == train.SCENES


def test_the_name_of_a_command_is_painted_where_txt2img_is_named():
    assert run("txt2img", "train", "--steps", "1") == 0
    assert read_settings("minisd.png")["prompt"] == "train"


def test_a_picture_does_not_start_another_command(capsys):
    save_png("p.png", torch.zeros(3, 64, 64), {"minisd": "grade", "version": "1", "prompt": "."})
    assert run("again", "p.png") == 1
    assert "does not tell how minisd made it" in capsys.readouterr().err


# ---- Ctrl-C -------------------------------------------------------------------------------

# What is started in the background inherits that Ctrl-C is ignored.
PROGRAM = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
PROGRAM += "from minisd.__main__ import program; print('.', flush=True); program()"


def test_ctrl_c_at_any_moment_ends_it_in_a_sentence():
    """While torch is imported, while the model is loaded, while it samples. Python's own start,
    before a line of ours, and its end are not ours."""
    command = [sys.executable, "-c", PROGRAM, PROMPT, "--steps", "1000", "--out", "late.png"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, **pipes) for _ in range(6)]
    for child in children:
        assert child.stdout.readline() == ".\n"
    start = time.monotonic()
    for moment, child in zip((0.0, 0.1, 0.3, 0.6, 1.2, 2.5), children, strict=True):
        time.sleep(max(0, start + moment - time.monotonic()))
        child.send_signal(signal.SIGINT)
    for child in children:
        told = child.communicate(timeout=300)[1]
        assert child.returncode == 130 and told == "minisd: stopped; pictures written: 0\n", told
    assert not os.listdir()


@pytest.mark.parametrize("words", [["train", "kl", "--folder", "runs"], ["judge"]])
def test_ctrl_c_ends_the_other_commands_in_their_own_sentence(words):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", PROGRAM, *words]
    children = [subprocess.Popen(command, **pipes) for _ in range(4)]
    for child in children:
        assert child.stdout.readline() == ".\n"
    start = time.monotonic()
    for moment, child in zip((0.0, 0.2, 0.8, 3.0), children, strict=True):
        time.sleep(max(0, start + moment - time.monotonic()))
        child.send_signal(signal.SIGINT)
    for child in children:
        told = child.communicate(timeout=300)[1]
        assert child.returncode == 130 and told.endswith(f"minisd: {STOPPED[words[0]]}\n"), told
        assert "Traceback" not in told


def test_ctrl_c_during_imports_waits_for_their_end():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker has another
    with pytest.raises(KeyboardInterrupt):
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done = True
    assert done and signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_no_garbage_is_looked_for_during_imports_and_at_the_end():
    """It took a picture 0.3 to 0.4 s; afterwards Python does so as before, if it did."""
    with suppress(ValueError), uninterrupted():
        assert not gc.isenabled()
        raise ValueError
    assert gc.isenabled()
    gc.disable()
    with uninterrupted():
        pass
    was = gc.isenabled()
    gc.enable()
    assert not was
    ask = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 1000)); "
    ask += "from minisd.__main__ import program; program()"
    told = subprocess.run([sys.executable, "-c", ask, "--help"], capture_output=True, text=True)
    assert told.returncode == 0 and told.stdout.endswith("True\n"), told.stderr
