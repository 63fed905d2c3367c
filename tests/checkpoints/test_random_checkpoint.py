"""The tool that writes checkpoints of random weights: they load, run, and diffusers reads them."""

import json
import pathlib
import sys

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from minisd.checkpoints import loading as checkpoint
from minisd.checkpoints.families import FAMILIES
from minisd.pipeline import Pipeline

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tools"))
import random_checkpoint as tool


def made(path, *arguments):
    assert tool.main([*arguments[:1], str(path), *arguments[1:]]) == 0
    return path


def test_a_file_is_the_folder_and_any_reader_can_read_it(tmp_path):
    file = made(tmp_path / "a.safetensors", "sd1", "--width", "32")
    folder = made(tmp_path / "a", "sd1", "--width", "32")
    known = tool.small(FAMILIES["sd1"], 32)
    ours, theirs = checkpoint.load(file), checkpoint.load(folder, known)
    tensors = load_file(file)
    for name, module in ours.modules.items():
        other = theirs.modules[name].state_dict()
        for key, weight in module.state_dict().items():
            assert torch.equal(weight, other[key])
            assert torch.equal(weight, tensors[known.parts[name].prefix + key])
            assert weight.std() > 0 or weight.numel() == 1
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("family, dtype", [("sd1", "float16"), ("sdxl", "bfloat16")])
def test_nothing_overflows_on_the_way_to_a_picture(family, dtype, tmp_path):
    file = made(tmp_path / "a.safetensors", family, "--width", "32", "--dtype", dtype)
    assert checkpoint.info(file).family == family
    pipe = Pipeline.load(file, dtype=torch.bfloat16)
    pictures = pipe.txt2img("a fox", 64, steps=2).pictures()
    assert 0.1 < pictures.std() < 1


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_full_size_names_and_shapes_are_those_of_diffusers(family):
    """Without the weights: so that the benchmark does not find out after gigabytes."""
    parts = FAMILIES[family].parts
    for name in ("unet", "vae", "text") if family == "sd1" else ("unet", "vae"):
        config = json.loads(json.dumps(tool.diffusers_config(parts[name])))
        tensors = tool.under_diffusers_names(parts[name], tool.random_tensors(parts[name]))
        found = {key.removeprefix("text_model."): s.shape for key, s in tensors.items()}
        with torch.device("meta"):
            if name == "text":
                module = CLIPTextModel(CLIPTextConfig(**config))
            else:
                module = getattr(diffusers, config.pop("_class_name")).from_config(config)
        wanted = {key: tuple(p.shape) for key, p in module.named_parameters()}
        assert {key.removeprefix("text_model."): shape for key, shape in wanted.items()} == found


def test_a_part_that_is_not_there_is_refused(tmp_path, capsys):
    for arguments in (["--parts", "text_2"], ["--width", "33"]):
        with pytest.raises(SystemExit):
            tool.main(["sd1", str(tmp_path / "a.safetensors"), *arguments])
    assert not list(tmp_path.iterdir())
