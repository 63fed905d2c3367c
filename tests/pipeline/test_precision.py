"""Weights that stay in 16 bits give what those of a network cast to float32 give, to the bit, and
nothing wide is left; a dtype that is slower here is told, and left out by --dtype auto."""

import copy
import os
import subprocess
import sys
import types
import weakref

import lora_files
import pytest
import torch
from network_pairs import PAIRS, draw, narrow, randomise
from pipeline_pairs import ours

from minisd.checkpoints.control import save_control
from minisd.checkpoints.embedding import save_embedding
from minisd.checkpoints.loading import load, save
from minisd.command.run import precision_notes
from minisd.models import configs as c
from minisd.models.controlnet import ControlNet, control_config
from minisd.pipeline import Pipeline, precision, threads
from minisd.pipeline.precision import Widened, bits_of, fastest, slower, widened
from minisd.tiny.weights import TINY

SAME = "the same numbers go to the same kernels, in one process and from memory of torch's own"
NARROW = (torch.float16, torch.bfloat16)
ONE_STEP = {"steps": 1, "scale": 3.0, "sampler": "ddim"}


@pytest.fixture
def alive(monkeypatch):
    """The weights that were widened and still live, by id; .most is the most bytes at one time."""
    held, read = types.SimpleNamespace(now={}, most=0, count=0), Widened.forward

    def forward(self, weight):
        out = read(self, weight)
        held.now[id(out)] = out.nbytes
        weakref.finalize(out, held.now.pop, id(out))
        held.most, held.count = max(held.most, sum(held.now.values())), held.count + 1
        return out

    monkeypatch.setattr(Widened, "forward", forward)
    return held


def control_pair():
    net = ControlNet(control_config(narrow(c.SD1), (16, 32, 32, 32)))
    x, hint, index = draw(2, 4, 8, 8), draw(2, 3, 64, 64, seed=1), torch.tensor([3, 800])
    return net, lambda net: net(x, hint, index, draw(2, 5, 24, seed=2))


def network_and_run(name):
    if name == "controlnet":
        network, run = control_pair()
    else:
        pair = PAIRS[name]()
        network, run = pair.ours, lambda network: pair.run(network, *pair.inputs)
    randomise(network)
    return network.eval(), run


@pytest.mark.equal_bits(SAME)
@pytest.mark.parametrize(
    "name", ["sd1", "sdxl", "kl f8", "vq f4", "clip", "openclip h", "bert", "controlnet"]
)
@torch.no_grad()
def test_what_is_read_wide_is_the_same_to_the_bit(name, alive):
    network, run = network_and_run(name)
    for dtype in NARROW:
        stored = network.to(dtype)
        wanted = run(copy.deepcopy(stored).float())
        lean = widened(copy.deepcopy(stored), torch.float32)
        size = sum(p.nbytes for p in stored.parameters())
        largest = max(
            sum(p.nbytes for p in m._parameters.values() if p is not None) for m in stored.modules()
        )
        alive.most = alive.count = 0
        for a, b in zip(run(lean), wanted, strict=True):
            assert a.dtype == torch.float32 and torch.equal(a, b)
        positions = [
            p.numel() for k, p in stored.named_parameters() if "pos" in k
        ]  # for all layers
        assert alive.count and not alive.now and alive.most <= 2 * largest + 4 * sum(positions)
        assert bits_of(lean) == dtype and sum(p.nbytes for p in lean.parameters()) == size
        assert not any(b.dtype == torch.float32 for b in lean.buffers())


@torch.no_grad()
def test_nothing_wide_is_left_after_an_error(alive):
    network, run = network_and_run("sd1")
    lean = widened(network.half(), torch.float32)

    def broken(*_):
        raise ZeroDivisionError

    lean.output_blocks[3].register_forward_pre_hook(broken)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            run(lean)
        assert alive.count > 50 and not alive.now
    lean.output_blocks[3]._forward_pre_hooks.clear()
    lean.time_embed[0].in_features = None
    with pytest.raises(RuntimeError):  # within the layer that reads its weight
        lean.time_embed(torch.zeros(1, 3))
    assert not alive.now


def written(tmp_path, dtype):
    """A model of SDXL's topology, a LoRA and a new word, as files; numbers in 16 bits."""
    pipe = ours("sdxl")
    lora = lora_files.kohya(lora_files.changes(pipe, every=3), texts=2)
    paths = [tmp_path / f"{name}.safetensors" for name in ("model", "lora", "fox")]
    networks = {k: copy.deepcopy(m).to(dtype) for k, m in pipe.checkpoint.modules.items()}
    save(paths[0], pipe.checkpoint._replace(**networks))
    lora_files.written(paths[1], lora)
    widths = {name: networks[name].config.width for name in ("text", "text_2")}
    save_embedding(paths[2], {name: draw(2, width) for name, width in widths.items()})
    return pipe, paths


@pytest.mark.equal_bits(SAME)
def test_a_run_from_a_file_with_a_lora_and_a_new_word(tmp_path, alive):
    pipe, (path, lora, word) = written(tmp_path, torch.bfloat16)
    how = {"loras": [(lora, 0.7)], "embeddings": [word], "tokenizers": pipe.tokenizers}
    lean, whole = (Pipeline.load(path, lean=on, **how) for on in (True, False))
    assert [lean.is_lean(name) for name in ("unet", "vae", "text", "text_2")] == [True] * 4
    assert not any(whole.is_lean(name) for name in ("unet", "vae", "text", "text_2"))
    a, b = (made.txt2img("a red fox", 64, **ONE_STEP) for made in (lean, whole))
    assert torch.equal(a.latents(), b.latents()) and torch.equal(a.pictures(), b.pictures())
    assert torch.equal(lean.to_latent(a.pictures()), whole.to_latent(a.pictures()))
    assert alive.count > 300 and not alive.now
    changed = lean.checkpoint.unet.state_dict()
    kinds = [weight.dtype for weight in changed.values()]
    assert (
        0 < kinds.count(torch.float32) < kinds.count(torch.bfloat16)
    )  # the LoRA's sums are not rounded
    for name, placed in lean._placed.items():  # no other copy is held
        stored = [p.data_ptr() for p in lean.checkpoint.modules[name].parameters()]
        assert sorted(p.data_ptr() for p in placed.parameters()) == sorted(stored)


@pytest.mark.equal_bits(SAME)
def test_a_controlnet_stays_as_its_file_has_it(tmp_path):
    pipe = ours("sd1")
    net = ControlNet(control_config(pipe.config, (16, 32, 32, 32)))
    randomise(net)
    save_control(tmp_path / "net.safetensors", net.half())
    save(tmp_path / "model.safetensors", pipe.checkpoint)
    given = {"control_net": tmp_path / "net.safetensors", "tokenizers": pipe.tokenizers}
    hint, made = torch.rand(1, 3, 64, 64) * 2 - 1, []
    for on in (True, False):
        one = Pipeline.load(tmp_path / "model.safetensors", lean=on, **given)
        assert bits_of(one.control) == torch.float16 and one.is_lean("control") == on
        assert not one.is_lean("unet")  # it is float32 already
        made.append(one.txt2img("a star", 64, hint=hint, **ONE_STEP).latents())
    assert torch.equal(*made)


def test_when_it_is_so_by_default(monkeypatch, tmp_path):
    """On a CPU, for a large network in fewer bits than the work's; the tiny model is small."""
    assert not any(Pipeline.load(TINY).is_lean(name) for name in ("unet", "vae", "text"))
    monkeypatch.setattr(threads, "SMALL", 1_000_000)  # the tiny U-Net has more, its others fewer
    for dtype, wide in ((torch.float32, True), (torch.float64, True), (torch.float16, False)):
        pipe = Pipeline.load(TINY, dtype=dtype)
        assert pipe.is_lean("unet") == wide and not pipe.is_lean("text")
    assert not Pipeline.load(TINY, device="meta").is_lean("unet")
    pipe = Pipeline.load(TINY, lean=True, dtype=torch.float16)  # its decoder runs in float32
    assert pipe.is_lean("vae") and not pipe.is_lean("unet")


def test_what_a_file_has_is_kept(tmp_path):
    """keep: each weight in its own dtype; float8 in float16, which holds it exactly."""
    half = ours("sd1").checkpoint
    text = copy.deepcopy(half.text)
    text.text_model.final_layer_norm.half()
    text.text_model.encoder.layers[0].mlp.fc1.bfloat16()
    layer = text.text_model.encoder.layers[1].mlp.fc2
    layer.weight.data = layer.weight.data.to(torch.float8_e4m3fn)
    save(path := tmp_path / "a.safetensors", half._replace(text=text))
    read = load(path, keep=True, dtype=torch.float64).text.state_dict()
    for key, weight in text.state_dict().items():
        kind = torch.float16 if weight.dtype == torch.float8_e4m3fn else weight.dtype
        assert read[key].dtype == kind and torch.equal(read[key].float(), weight.float())


# ---- what 16 bits cost --------------------------------------------------------------------


@pytest.mark.parametrize(
    "stored, times, runs",
    [
        (torch.float16, 4.0, torch.float32),
        (torch.float16, 0.9, torch.float32),  # not clearly faster
        (torch.bfloat16, 0.5, torch.bfloat16),
        (torch.float32, None, torch.float32),
    ],
)
def test_auto_takes_16_bits_where_they_are_faster(monkeypatch, stored, times, runs, tmp_path):
    monkeypatch.setattr(precision, "slower", lambda dtype: {stored: times}[dtype])
    assert fastest(stored, torch.device("cpu")) == runs
    assert fastest(stored, torch.device("cuda")) == stored
    path, pipe = tmp_path / "a.safetensors", ours("sd1")
    modules = {k: copy.deepcopy(m).to(stored) for k, m in pipe.checkpoint.modules.items()}
    save(path, pipe.checkpoint._replace(**modules))
    assert Pipeline.load(path, dtype="auto").dtype == torch.float32  # it is small
    monkeypatch.setattr(threads, "SMALL", 0)
    made = Pipeline.load(path, dtype="auto")
    assert made.dtype == runs
    said, kept = [*precision_notes("auto", made)], str(stored)[len("torch.") :]
    wanted = {
        0.5: ["--dtype auto is bfloat16, as the file has it: it takes 0.5 of float32's time here"],
        None: [],
    }
    left_out = f"--dtype auto is float32: {kept} takes {times} times as long on this processor"
    stays = f"the weights stay {kept}, as the file has them, and each layer's are turned to float32"
    assert said == wanted.get(times, [left_out, f"{stays} as it runs"])
    if times and times > 1.2:
        said = [*precision_notes("float16", Pipeline.load(path, dtype=torch.float16))]
        assert said[0].startswith("float16 takes 4.0 times as long as float32 on this processor: -")
        said = [*precision_notes("float32", Pipeline.load(path))]
        assert said == [f"{stays} as it runs"]


def test_how_much_slower_is_measured_in_a_moment():
    """With the kernels of older processors; both numbers are some sensible factor."""
    code = "import time, torch; from minisd.pipeline.precision import slower; start = time.time();"
    code += "print(slower(torch.bfloat16), slower(torch.float16), time.time() - start)"
    older = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | older, capture_output=True, text=True
    )
    *times, seconds = map(float, done.stdout.split())
    assert all(0.05 < factor < 1000 for factor in times) and seconds < 20


def test_a_measurement_is_made_once():
    first = slower(torch.bfloat16)
    assert slower(torch.bfloat16) == first and slower.cache_info().hits
