"""--lora: a picture with it is the pipeline's, is made again, and a file that changed is told."""

import argparse
from pathlib import Path

import pytest
import torch
from network_pairs import draw
from safetensors.torch import load_file, save_file

from minisd.__main__ import main
from minisd.checkpoints import load, save_lora
from minisd.command import given
from minisd.command.values import lora
from minisd.models.lora import add_lora, loras
from minisd.pipeline import Pipeline
from minisd.pipeline.pictures import open_picture, read_settings
from minisd.tiny.weights import FAST, FAST_SETTINGS, TINY

PROMPT = "a red circle"
HOW = ("--steps", "2", "--zoom", "1", "--quiet")


@pytest.fixture(autouse=True)
def a_folder_with_two(tmp_path, monkeypatch):
    """In a folder of its own, with two LoRAs of the tiny model."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("paint", "a:b")):
        checkpoint = load(TINY)
        add_lora(checkpoint.unet, 2, generator=torch.Generator().manual_seed(seed))
        for i, (_, part) in enumerate(loras(checkpoint.unet)):
            part.up.data = draw(*part.up.shape, seed=100 * seed + i).to(part.up) / 3
        save_lora(f"{name}.safetensors", checkpoint)


def run(*words):
    try:
        return main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize(
    "text, path, scale",
    [
        ("paint.safetensors", "paint.safetensors", 1.0),
        ("paint.safetensors:0.8", "paint.safetensors", 0.8),
        ("paint.safetensors:-1e-1", "paint.safetensors", -0.1),
        ("a:b.safetensors", "a:b.safetensors", 1.0),
        ("a:b.safetensors:0", "a:b.safetensors", 0.0),
        (r"C:\loras\x.safetensors", r"C:\loras\x.safetensors", 1.0),
        (r"C:\loras\x.safetensors:.5", r"C:\loras\x.safetensors", 0.5),
        ("x:nan", "x:nan", 1.0),
        (":2", ":2", 1.0),
    ],
)
def test_what_stands_behind_the_last_colon_is_the_scale_if_a_number(text, path, scale):
    assert lora(text) == (Path(path), scale)


@pytest.mark.parametrize("text", ["x:1e999", "a\nb:1", "a\0b"])
def test_what_is_no_file_and_scale(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is no file and scale like"):
        lora(text)


def test_a_picture_with_loras_is_the_pipelines_and_is_made_again():
    words = ("--lora", "paint.safetensors:0.5", "--lora", "a:b.safetensors", "--out", "a.png")
    assert run(PROMPT, *HOW, *words) == 0
    pipe = Pipeline.load(TINY, loras=[("paint.safetensors", 0.5), "a:b.safetensors"])
    wanted, plain = (p.txt2img(PROMPT, steps=2).pictures() for p in (pipe, Pipeline.load(TINY)))
    assert (open_picture("a.png") - wanted).abs().max() <= 1.01 / 127.5
    assert (wanted - plain).abs().max() > 0.1
    assert read_settings("a.png")["lora"] == "paint.safetensors:0.5\na:b.safetensors:1.0"
    assert run("again", "a.png", "--out", "b.png", "--quiet") == 0
    assert (open_picture("b.png") - open_picture("a.png")).abs().max() <= 1.01 / 127.5
    assert read_settings("a.png") == read_settings("b.png")
    assert run("img2img", "a.png", PROMPT, *HOW, "--lora", "a:b.safetensors", "--out", "c.png") == 0
    assert run("again", "c.png", "--out", "d.png", "--quiet") == 0


def test_again_says_which_lora_is_gone_or_changed(capsys):
    words = ("--lora", "paint.safetensors:0.5", "--lora", "a:b.safetensors", "--out", "a.png")
    assert run(PROMPT, *HOW, *words) == 0
    changed = {key: value + 0.01 for key, value in load_file("a:b.safetensors").items()}
    save_file(changed, "a:b.safetensors")
    capsys.readouterr()
    assert run("again", "a.png", "--quiet") == 1
    assert "a:b.safetensors is not what it was when the picture" in capsys.readouterr().err
    Path("paint.safetensors").unlink()
    assert run("again", "a.png", "--quiet") == 1
    assert "made again: paint.safetensors is not there" in capsys.readouterr().err


def test_info_tells_layout_family_layers_and_rank(capsys):
    assert run("info", "paint.safetensors") == 0
    told = capsys.readouterr().out
    assert "kohya's layout, for tiny; layers: 56 of unet; rank 2, alpha 2\n" in told
    assert told.startswith("LoRA ") and "unknown" not in told
    save_file({"lora_unet_a.hada_w1_a": torch.zeros(2, 2)}, "loha.safetensors")
    assert run("info", "loha.safetensors") == 0 and "holds a LoHa" in capsys.readouterr().out


@pytest.mark.parametrize(
    "told, says",
    [
        ("none.safetensors:0.5", "there is no file none.safetensors; a scale follows it as in"),
        ("paint.safetensors:0,5", "there is no file paint.safetensors:0,5"),
        (TINY, "holds no LoRA, but a checkpoint"),
        ("paint.bin", "any code that its author put in"),
    ],
)
def test_a_lora_that_does_not_serve_gets_one_sentence(told, says, capsys, monkeypatch):
    """Before the checkpoint, which is not there, is looked for."""
    Path("paint.bin").write_bytes(b"PK\x03\x04" + bytes(40))
    assert run(PROMPT, "--lora", told, "--checkpoint", "none.safetensors") == 1
    said = capsys.readouterr().err
    assert said.startswith("minisd: ") and says in said


def test_a_lora_of_another_model_is_refused_and_one_as_a_checkpoint(capsys):
    key = "lora_unet_mid_block_attentions_0_proj_in"
    shapes = {"lora_down.weight": (2, 1280, 1, 1), "lora_up.weight": (1280, 2, 1, 1)}
    save_file({f"{key}.{k}": torch.zeros(v) for k, v in shapes.items()}, "sd1.safetensors")
    assert run(PROMPT, "--lora", "sd1.safetensors", *HOW) == 1
    assert "it seems to be made for sd1" in capsys.readouterr().err
    assert run(PROMPT, "--checkpoint", "paint.safetensors", *HOW) == 1
    said = capsys.readouterr().err
    assert "holds a LoRA, a change to the weights" in said and "by --lora or" in said


def test_fast_is_the_tiny_models_own_lora_with_its_settings(capsys):
    how = ("--zoom", "1", "--quiet")
    assert run(PROMPT, "--fast", *how) == 0
    expected = Pipeline.load(TINY, loras=[(FAST, 1.0)]).txt2img(PROMPT, **FAST_SETTINGS).pictures()
    painted = open_picture("minisd.png")
    assert (painted - expected).abs().max() <= 0.51 / 127.5
    said = read_settings("minisd.png")
    assert (said["steps"], said["sampler"], said["scale"]) == ("8", "lcm", "1.0")
    assert run("again", "minisd.png", "--out", "again.png", "--quiet") == 0
    assert (open_picture("again.png") - painted).abs().max() <= 1.01 / 127.5
    assert run(PROMPT, "--fast", "--steps", "1", "--sampler", "ddim", "--out", "1.png", *how) == 0
    assert (read_settings("1.png")["sampler"], read_settings("1.png")["taken"]) == ("ddim", "1")
    assert run(PROMPT, "--fast", "--checkpoint", "sd.safetensors") == 1
    assert "distilled from the tiny model" in capsys.readouterr().err


def test_another_fast_lora_than_the_picture_s_is_told(monkeypatch, capsys, tmp_path):
    assert run(PROMPT, "--fast", *HOW) == 0
    monkeypatch.setattr(given, "FAST", tmp_path / "paint.safetensors")
    assert run("again", "minisd.png", "--out", "again.png") == 1
    assert "paint.safetensors is not what it was" in capsys.readouterr().err
