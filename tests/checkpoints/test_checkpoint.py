"""Checkpoints: what is written comes back bit for bit, and what is wrong with a file is said."""

import dataclasses
import functools
import gzip
import json
import os
import pathlib
import pickle
import random
import shutil
import subprocess
import sys
import types

import numpy
import pytest
import torch
import transformers
from network_pairs import difference
from safetensors.torch import save_file

from minisd.__main__ import main
from minisd.checkpoints import families, layouts, tensorfile
from minisd.checkpoints import loading as checkpoint
from minisd.checkpoints.embedding import open_embedding
from minisd.checkpoints.families import FAMILIES, ROLES, Family, on_meta, recognise, which_family
from minisd.checkpoints.layouts import EXTRAS
from minisd.checkpoints.loading import Checkpoint, info, load, load_module, save
from minisd.checkpoints.tensorfile import CheckpointError, first_few
from minisd.models import configs as c
from minisd.models.clip import CLIPText
from minisd.pipeline import Pipeline
from minisd.pipeline.conditioning import METADATA, read_tokenizer
from minisd.pipeline.networks import usable
from minisd.pipeline.settings import times
from minisd.tiny import train
from minisd.tiny.weights import TINY

DATA = pathlib.Path(__file__).parents[1] / "data"
UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT_WIDTH = {"width": 32, "layers": 3, "heads": 2, "vocabulary": 60}


def small(name, text=TEXT_WIDTH, **unet):
    """A published family of two levels at width 32, but with its context, so it is recognised."""
    parts = {}
    for key, part in FAMILIES[name].parts.items():
        if key == "unet":
            heads = {"head_channels": 16} if part.config.head_channels else {"heads": 2}
            changes = {"model_channels": 32, "channel_mult": (1, 2), "res_blocks": 1}
            changes |= {**heads, **unet}
        else:
            changes = {"channels": 32} if key == "vae" else dict(text)
            changes |= {"projection": 16} if getattr(part.config, "projection", None) else {}
            changes |= {"codes": 8} if getattr(part.config, "codes", None) else {}
        parts[key] = part._replace(config=dataclasses.replace(part.config, **changes))
    return Family(name, parts)


def weights(known, seed=0, parts=("unet", "vae", "text", "text_2")):
    """Random weights of a family's parts, under its prefixes."""
    generator = torch.Generator().manual_seed(seed)
    return {
        part.prefix + key: torch.randn(value.shape, generator=generator) * 0.1
        for name, part in known.parts.items()
        if name in parts
        for key, value in on_meta(part).state_dict().items()
    }


TEXT_SD1 = small("sd1")
ONLY_TEXT = Family("sd1", {"text": TEXT_SD1.parts["text"]})
PREFIX = TEXT_SD1.parts["text"].prefix
FINAL = PREFIX + "text_model.final_layer_norm.weight"


@pytest.fixture
def text():
    """The weights of a small SD 1 text encoder, for what can be said about any file."""
    return weights(ONLY_TEXT)


@functools.cache
def unet_of(name):
    """A published U-Net's tensors, at full size and without numbers."""
    return on_meta(FAMILIES[name].parts["unet"]).state_dict()


def written(path, tensors, metadata=None):
    path = path / "x.safetensors"
    save_file(tensors, path, metadata)
    return path


def message(*arguments, error=CheckpointError, **named):
    with pytest.raises(error) as raised:
        load(*arguments, **named)
    assert len(str(raised.value)) < 2000
    return str(raised.value)


# ---- what comes back ----------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_comes_back_bit_for_bit(name, tmp_path):
    known = small(name)
    tensors = weights(known)
    loaded = load(written(tmp_path, tensors), family=known)
    assert loaded.family == name and set(loaded.modules) == set(known.parts)
    for role, module in loaded.modules.items():
        assert loaded.configs[role] == known.parts[role].config and not module.training
        for key, value in module.state_dict().items():
            assert torch.equal(value, tensors.pop(known.parts[role].prefix + key))
    assert not tensors


def test_what_is_loaded_runs_and_is_what_was_saved(tmp_path):
    """The weights to the bit. Outputs to rounding, since they lie elsewhere in memory."""
    known = small("sdxl", transformer_depth=(1, 1, 1))
    first = load(written(tmp_path, weights(known)), family=known)
    save(tmp_path / "again.safetensors", first)
    again = load(tmp_path / "again.safetensors")  # no family: the configs are in the metadata
    assert again.configs == first.configs and again.family == "sdxl"
    for a, b in zip(first.modules.values(), again.modules.values(), strict=True):
        both = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
        assert all(k == key and torch.equal(v, value) for (k, v), (key, value) in both)
    x, index = torch.ones(1, 4, 8, 8), torch.tensor([3])
    tokens = torch.tensor([[1, 2, 59]])
    with torch.no_grad():
        for a, b in zip(first, again, strict=True):
            if isinstance(a, CLIPText):
                assert difference(a(tokens).context, b(tokens).context) < 1e-5
        y, context = torch.ones(1, 2816), torch.ones(1, 3, 2048)
        out = [model.unet(x, index, context, y) for model in (first, again)]
        pictures = [model.vae.decode(x) for model in (first, again)]
    assert out[0].isfinite().all() and difference(*out) < 1e-5 and difference(*pictures) < 1e-5


def test_the_weights_are_the_file_and_training_does_not_write_to_it(text, tmp_path):
    """A weight in the file's dtype lies in the file's mapping; a change to it stays in memory."""
    path = written(tmp_path, text)
    before = path.read_bytes()
    module = load(path, family=ONLY_TEXT, parts=["text"]).text
    if sys.platform == "linux":
        lines = [line for line in open("/proc/self/maps") if str(path) in line]
        start, end = (int(x, 16) for x in lines[0].split()[0].split("-"))
        assert all(start <= p.data_ptr() < end for p in module.parameters())
    assert all(p.requires_grad for p in module.parameters())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    assert path.read_bytes() == before


@pytest.mark.parametrize("dtype", checkpoint.DTYPES)
def test_dtype_by_choice(dtype, text, tmp_path):
    loaded = load(written(tmp_path, text), ONLY_TEXT, dtype=dtype, parts=["text"]).text
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, text[PREFIX + key].to(dtype))


def test_only_the_parts_asked_for(tmp_path):
    known = small("sd2")
    path = written(tmp_path, weights(known, parts=("unet", "text")))
    assert set(load(path, family=known, parts=("text", "unet")).modules) == {"unet", "text"}
    assert "vae, is not there: no key begins with 'first_stage_model.'" in message(path, known)


def test_text_model_may_be_missing_from_the_names(text, tmp_path):
    """transformers 5 writes a CLIP text model without that word."""
    without = {key.replace("text_model.", ""): value for key, value in text.items()}
    loaded = load(written(tmp_path, without), ONLY_TEXT, parts=["text"]).text
    assert all(torch.equal(v, text[PREFIX + k]) for k, v in loaded.state_dict().items())


# ---- which family -------------------------------------------------------------------------

PUBLISHED = {
    "sd1": "sd1",
    "sd1_inpaint": "sd1-inpaint",
    "sd2_v": "sd2",
    "sdxl_base": "sdxl",
    "sdxl_refiner": "sdxl-refiner",
}


def published(file):
    with gzip.open(DATA / f"{file}.json.gz") as stream:
        return json.load(stream)


@pytest.mark.parametrize(("file", "name"), PUBLISHED.items())
def test_published_keys_tell_the_family_and_hold_no_stranger(file, name):
    """Read off the lists of keys of the original code, not off our own modules."""
    keys = published(file)["keys"]
    shapes = {key: torch.empty(shape, device="meta") for key, (_, shape) in keys.items()}
    unet = {key.removeprefix(UNET): v for key, v in shapes.items() if key.startswith(UNET)}
    assert recognise(unet) == name
    extras = [key for key in keys if EXTRAS.fullmatch(key)]
    ours = [p.prefix + k for p in FAMILIES[name].parts.values() for k in on_meta(p).state_dict()]
    assert sorted(extras + ours) == sorted(keys)


def test_each_family_is_recognised_and_no_two_are_alike():
    for name in FAMILIES:
        assert recognise(unet_of(name)) == name
    assert recognise({}) is None and recognise({"a": torch.zeros(1)}) is None


def test_a_small_unet_is_recognised_and_fitted(tmp_path):
    """No metadata, nothing told: a U-Net with 8 heads and a VAE are read off their shapes."""
    changes = {"heads": 8, "res_blocks": 2, "channel_mult": c.SD1.channel_mult}
    path = written(tmp_path, weights(small("sd1", **changes), parts=("unet", "vae")))
    loaded = load(path, parts=("unet", "vae"))
    assert loaded.family == "sd1" and info(path).family == "sd1"
    assert loaded.unet.config == dataclasses.replace(c.SD1, model_channels=32)
    assert loaded.vae.config == dataclasses.replace(c.KL_F8, channels=32)


def test_a_width_that_heads_of_64_do_not_divide_is_not_fitted(tmp_path):
    """How many heads such a U-Net has stands in no key: it would load, and compute otherwise."""
    known = small("sd2", model_channels=96, head_channels=32, channel_mult=c.SD2.channel_mult)
    path = written(tmp_path, weights(known, parts=["unet"]))
    said = message(path, prediction="eps", parts=["unet"])
    assert "time_embed.0.weight is (384, 96), not (1280, 320)" in said


def test_eps_or_v_must_be_told_for_sd2(tmp_path):
    published = {"head_channels": 64, "res_blocks": 2, "channel_mult": c.SD2.channel_mult}
    known = small("sd2", model_channels=64, **published)
    path = written(tmp_path, weights(known, parts=("unet", "vae")))
    assert "512-base predicts eps, its 768-v predicts v" in message(path, parts=["unet"])
    assert load(path, "sd2", "v", parts=["unet"]).unet.config.prediction == "v"
    assert load(path, prediction="eps", parts=["unet"]).unet.config.prediction == "eps"
    assert load(path, parts=["vae"]).vae.config.channels == 32  # nothing to tell here
    assert load(path, known, parts=["unet"]).unet.config.prediction == "eps"  # told with the config


def test_a_wrong_family_is_said(tmp_path):
    path = written(tmp_path, weights(small("sd1"), parts=["unet"]))
    assert "is a checkpoint of sd1, not of sdxl" in message(path, "sdxl")
    assert "model.diffusion_model.input_blocks.0.0.weight is (32, 4, 3, 3), not (32, 9, 3, 3)" in (
        message(path, small("sd1-inpaint"), parts=["unet"])
    )
    path = written(tmp_path, weights(small("sd1", context_dim=24), parts=["unet"]))
    assert "its U-Net has in_channels 4, context_dim 24" in message(path)
    assert "family must be one of sd1, sd1-inpaint" in message(path, "sd3")
    assert "attn2.to_k.weight is (32, 24), not (32, 768)" in message(path, "sd1", parts=["unet"])


def test_text_alone_must_be_told(text, tmp_path):
    path = written(tmp_path, text)
    assert "it holds no U-Net; tell load(family=...)" in message(path, parts=["text"])
    assert "token_embedding.weight is (60, 32), not (49408, 768)" in message(
        path, "sd1", parts=["text"]
    )


# ---- strict -------------------------------------------------------------------------------


def test_a_missing_key_is_named_with_the_nearest(text, tmp_path):
    text[FINAL + "s"] = text.pop(FINAL)
    said = message(written(tmp_path, text), ONLY_TEXT)
    assert f"1 missing: {FINAL} (the file has {FINAL}s)" in said and f"unexpected: {FINAL}s" in said


def test_missing_unexpected_and_wrong_are_counted_and_the_first_few_named(text, tmp_path):
    gone = [key for key in text if ".layers.1." in key]
    for key in gone:
        del text[key]
    text |= {f"{PREFIX}adapter.{i}": torch.zeros(1) for i in range(9)}
    text[FINAL] = torch.ones(31)
    said = message(written(tmp_path, text), ONLY_TEXT)
    assert f"of 52 keys: {len(gone)} missing: {gone[0]}, " in said
    assert f"and {len(gone) - 5} more; 9 unexpected: {PREFIX}adapter.0, " in said
    assert said.endswith(f"and 4 more; 1 wrongly shaped: {FINAL} is (31,), not (32,)")


def test_keys_of_no_part(text, tmp_path):
    text["lora_unet.down.weight"] = torch.zeros(3)
    said = message(written(tmp_path, text), ONLY_TEXT)
    assert "holds 1 tensor that belongs to no part of sd1: lora_unet.down.weight" in said


def test_what_checkpoints_hold_beside_the_networks(text, tmp_path):
    """Buffers and networks that FACTS knows of and minisd has no class for are left alone."""
    extras = ["scale_factor", "betas", "sqrt_recipm1_alphas_cumprod", "alphas_cumprod_prev"]
    extras += ["lvlb_weights", "logvar", "posterior_mean_coef2", "denoiser.sigmas"]
    extras += ["model_ema.decay", "first_stage_model.loss.logvar", "depth_model.a.weight"]
    extras += ["low_scale_model.betas", "embedder.model.a", "noise_augmentor.data_mean"]
    for key in extras:
        assert load(written(tmp_path, text | {key: torch.ones(2)}), ONLY_TEXT).text is not None
        strange = "stage." + key
        assert strange in message(written(tmp_path, text | {strange: torch.ones(2)}), ONLY_TEXT)


def test_first_few():
    assert first_few(list("abcde")) == "a, b, c, d, e"
    assert first_few(list("abcdefg")) == "a, b, c, d, e and 2 more"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none(value, text, tmp_path):
    text[FINAL][7] = value
    assert f"{FINAL} holds NaN or infinite numbers" in message(written(tmp_path, text), ONLY_TEXT)


def test_numbers_too_large_for_the_dtype(text, tmp_path):
    text[FINAL][7] = 1e5
    path = written(tmp_path, text)
    assert load(path, ONLY_TEXT).text.text_model.final_layer_norm.weight.max() == 1e5
    assert f"{FINAL} holds NaN or infinite numbers (read as torch.float16)" in (
        message(path, ONLY_TEXT, dtype=torch.float16)
    )


def test_weights_must_be_floating_point(text, tmp_path):
    text[FINAL] = torch.ones(32, dtype=torch.int64)
    said = message(written(tmp_path, text), ONLY_TEXT)
    assert f"must hold floating-point weights, but {FINAL} is torch.int64" in said


def test_the_strict_core_takes_tensors_too(text):
    config = ONLY_TEXT.parts["text"].config
    module = load_module(CLIPText, config, text, PREFIX)
    assert module.text_model.final_layer_norm.weight.data_ptr() == text[FINAL].data_ptr()
    with pytest.raises(CheckpointError, match="52 missing"):
        load_module(CLIPText, config, {"a": torch.zeros(1)})


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"parts": "unet"}, "parts must be some of"),
        ({"parts": []}, "parts must be some of"),
        ({"parts": ["unet", "clip"]}, "parts must be some of"),
        ({"dtype": torch.int8}, "dtype must be one of"),
        ({"prediction": "epsilon"}, "prediction must be one of ('eps', 'v', 'x0'), got 'epsilon'"),
    ],
)
def test_wrong_arguments(named, said, text, tmp_path):
    assert said in message(written(tmp_path, text), ONLY_TEXT, **named)


# ---- EMA ----------------------------------------------------------------------------------


def averaged_names(keys):
    return {key: "model_ema." + ("diffusion_model." + key).replace(".", "") for key in keys}


def test_raw_or_averaged_weights(tmp_path):
    known = small("sd1")
    raw = weights(known)
    names = averaged_names(k.removeprefix(UNET) for k in raw if k.startswith(UNET))
    average = {name: raw[UNET + key] + 1 for key, name in names.items()}
    counters = {"model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(3)}
    path = written(tmp_path, raw | average | counters)
    assert info(path).ema
    for ema in (False, True):
        loaded = load(path, known, ema=ema)
        for key, value in loaded.unet.state_dict().items():
            assert torch.equal(value, raw[UNET + key] + ema)
        assert all(torch.equal(v, raw[VAE + k]) for k, v in loaded.vae.state_dict().items())
    gone = average.popitem()[0]
    assert f"1 missing: {gone}" in message(written(tmp_path, raw | average), known, ema=True)
    assert "has one set of weights" in message(written(tmp_path, raw), known, ema=True)


def test_names_of_averages_are_the_published_ones_and_never_two_alike():
    file = published("sd1_inpaint")["ema_keys"]
    names = averaged_names(unet_of("sd1-inpaint"))
    assert set(names.values()) | checkpoint.EMA_COUNTERS == set(file)
    for name in FAMILIES:
        names = averaged_names(unet_of(name))
        assert len(set(names.values())) == len(unet_of(name))


# ---- files that are not ---------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin"])
def test_formats_that_run_code_are_refused_unopened(suffix, tmp_path):
    class Trap:
        def __reduce__(self):
            return pathlib.Path.touch, (tmp_path / "sprung",)

    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps(Trap()))
    said = message(path)
    assert "can run any code" in said and "weights_only=True" in said
    target = tmp_path / "model.safetensors"
    assert f'load(open("{path}", "rb")' in said and f'save_file(state, "{target}")' in said
    assert not (tmp_path / "sprung").exists()


def test_the_way_to_convert_that_is_given_works(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shared = text | {"global_step": 3, "cond_stage_model.transformer.position_ids": text[FINAL][:2]}
    torch.save({"state_dict": shared}, "model.ckpt")
    exec("\n".join(line[4:] for line in message("model.ckpt").splitlines()[1:]))
    loaded = load("model.safetensors", ONLY_TEXT).text
    assert all(torch.equal(v, text[PREFIX + k]) for k, v in loaded.state_dict().items())


def test_the_way_to_convert_keeps_a_textual_inversion(tmp_path, monkeypatch):
    """As A1111 writes it: the vectors under "*", two levels down, beside what a training knew."""
    monkeypatch.chdir(tmp_path)
    vectors, rest = torch.randn(2, 8), {"string_to_token": {"*": 265}, "name": "fox", "step": 400}
    torch.save({**rest, "string_to_param": {"*": vectors}}, "fox.pt")
    with pytest.raises(CheckpointError) as refused:
        open_embedding("fox.pt")
    exec("\n".join(line[4:] for line in str(refused.value).splitlines()[1:]), {})
    found = open_embedding("fox.safetensors")
    assert (found.word, found.count) == ("fox", 2)
    assert torch.equal(found.vectors["text"].read(), vectors)


def test_what_is_no_checkpoint(tmp_path):
    assert "no such file" in message(tmp_path / "none.safetensors")
    assert "is a directory without any of unet, vae" in message(tmp_path)
    for content in (b"", b"1234567", bytes(100)):
        (tmp_path / "x.safetensors").write_bytes(content)
        assert "is not a whole safetensors file" in message(tmp_path / "x.safetensors")


def corrupted(data, rng):
    """One of: bytes of the header changed, a wrong header length, an end or a middle cut off."""
    data, header = bytearray(data), int.from_bytes(data[:8], "little")
    kind = rng.randrange(4)
    if kind == 0:
        used = data[8 : 8 + header].rstrip()
        for _ in range(rng.randint(1, 4)):
            data[8 + rng.randrange(len(used))] = rng.randrange(256)
    elif kind == 1:
        data[:8] = rng.randbytes(rng.choice((2, 3, 8))).ljust(8, b"\0")
    elif kind == 2:
        del data[rng.randrange(len(data)) :]
    else:
        start = rng.randrange(len(data))
        del data[start : start + rng.randint(1, 64)]
    return bytes(data)


def test_a_hundred_corruptions_are_each_a_sentence(text, tmp_path):
    path, rng = written(tmp_path, text), random.Random(0)
    good = path.read_bytes()
    for _ in range(100):
        bad = corrupted(good, rng)
        path.write_bytes(bad)
        if bad != good:
            message(path, ONLY_TEXT)


def test_offsets_beyond_the_file(tmp_path):
    header = {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    for offsets, size in (([0, 16], 8), ([4, 20], 16), ([16, 0], 16), ([0, 2**60], 16)):
        header["a"]["data_offsets"] = offsets
        text = json.dumps(header).encode()
        path = tmp_path / "x.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
        assert "is not a whole safetensors file" in message(path)


# ---- shards -------------------------------------------------------------------------------


def sharded(folder, tensors):
    keys = sorted(tensors)
    where = {key: f"x-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(keys)}
    for name in set(where.values()):
        save_file({key: tensors[key] for key in keys if where[key] == name}, folder / name)
    path = folder / "x.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return path, where


def test_a_shard_index(text, tmp_path):
    path, where = sharded(tmp_path, text)
    loaded = load(path, ONLY_TEXT).text
    assert all(torch.equal(v, text[PREFIX + k]) for k, v in loaded.state_dict().items())
    (tmp_path / where[FINAL]).unlink()
    assert f"no such file: {tmp_path / where[FINAL]}" in message(path, ONLY_TEXT)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold a JSON object, not a list"),
        ("{}", "is not a shard index"),
        ('{"weight_map": {"a": 3}}', "is not a shard index"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "not a file beside it: ../x.safetensors"),
        ('{"weight_map": {"a": "x.ckpt"}}', "not a file beside it: x.ckpt"),
        ('{"weight_map": {"a": "x.safetensors"}}', "promises a in x.safetensors, which has no"),
    ],
)
def test_a_bad_shard_index(content, said, text, tmp_path):
    written(tmp_path, text)
    (tmp_path / "x.safetensors.index.json").write_text(content)
    assert said in message(tmp_path / "x.safetensors.index.json", ONLY_TEXT)


# ---- saving -------------------------------------------------------------------------------


def tiny():
    """A checkpoint of no published family."""
    torch.manual_seed(0)
    known = small("sd1", context_dim=16)
    modules = {name: part.module(part.config) for name, part in known.parts.items()}
    return Checkpoint("tiny", **modules)


def test_a_family_of_its_own_travels_in_the_metadata(tmp_path):
    path, model = tmp_path / "tiny.safetensors", tiny()
    save(path, model, {"licence": "MIT"})
    loaded = load(path)
    assert loaded.family == "tiny" and loaded.configs == model.configs
    for a, b in zip(model.modules.values(), loaded.modules.values(), strict=True):
        assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert info(path).metadata["licence"] == "MIT" and load(path, "tiny").family == "tiny"
    assert "is a checkpoint of tiny, not of sd1" in message(path, "sd1")
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.safetensors"]


def test_saving_over_the_file_it_was_loaded_from(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save(path, tiny())
    loaded = load(path)
    before = {key: value.clone() for key, value in loaded.unet.state_dict().items()}
    save(path, loaded._replace(vae=None))
    assert all(torch.equal(v, before[k]) for k, v in loaded.unet.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in load(path).unet.state_dict().items())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path, model = tmp_path / "tiny.safetensors", tiny()
    save(path, model)
    before = path.read_bytes()

    def fail(tensors, target, metadata):
        pathlib.Path(target).write_bytes(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(tensorfile, "save_file", fail)
    with pytest.raises(CheckpointError, match=f"cannot write {path}: the disk is full"):
        save(path, model)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_saving_where_nothing_can_be_saved(tmp_path):
    with pytest.raises(CheckpointError, match=r"saved as .safetensors, not as x.ckpt"):
        save(tmp_path / "x.ckpt", tiny())
    with pytest.raises(CheckpointError, match="no such directory"):
        save(tmp_path / "none" / "x.safetensors", tiny())


UNREADABLE = "configs of minisd cannot be read"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: "{", UNREADABLE),
        (lambda m: "[]", UNREADABLE),
        (lambda m: m.replace('"model_channels"', '"model_chanels"'), UNREADABLE),
        (lambda m: m.replace('"UNet"', '"Module"'), UNREADABLE),
        (lambda m: m.replace('"UNet"', '"CLIPText"'), UNREADABLE),
        (lambda m: m.replace('"unet"', '"net"'), UNREADABLE),
        (
            lambda m: m.replace('"layers": 3', '"layers": "x"'),
            "says layers 'x' of text, and minisd takes int",
        ),
        (lambda m: m.replace('"model_channels": 32', '"model_channels": 33'), "makes no UNet"),
        (lambda m: m.replace('"model_channels": 32', '"model_channels": 64'), "wrongly shaped"),
    ],
)
def test_bad_configs_in_the_metadata(change, said, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save(path, tiny())
    metadata = {"minisd": change(info(path).metadata["minisd"])}
    tensors = {key: value.read() for key, value in tensorfile.open_tensors(path)[0].items()}
    assert said in message(written(tmp_path, tensors, metadata))


# ---- info ---------------------------------------------------------------------------------


def test_info_counts_without_reading(tmp_path, monkeypatch):
    known = small("sd1")
    tensors = {key: v.half() if key.startswith(VAE) else v for key, v in weights(known).items()}
    path = written(tmp_path, tensors | {"betas": torch.ones(1000)})
    monkeypatch.setattr(tensorfile.Stored, "read", property(lambda self: pytest.fail("read")))
    said = info(path)
    assert said.family == "sd1" and not said.ema
    for role in ("unet", "vae", "text"):
        state = on_meta(known.parts[role]).state_dict()
        kind = ("float16",) if role == "vae" else ("float32",)
        assert said.parts[role] == (len(state), sum(v.numel() for v in state.values()), kind)
    assert said.parts["other"] == (1, 1000, ("float32",))
    assert str(said).startswith("family sd1\n") and "1,000 in    1 tensor, float32" in str(said)


def test_info_of_what_it_does_not_know(tmp_path):
    path = written(tmp_path, {"a.b": torch.zeros(3), "a.c": torch.zeros(2).half()})
    assert info(path) == (None, {"a": (2, 5, ("float16", "float32"))}, False, {})
    assert str(info(path)).startswith("family unknown")


def test_every_role_is_a_part_of_a_checkpoint():
    assert set(ROLES) | {"family"} == set(Checkpoint._fields)


def test_building_without_numbers_imports_no_compiler():
    """Its 70 MB would be more than a tenth of SD 1's text encoder."""
    code = (
        "import sys; from minisd.checkpoints.families import FAMILIES, on_meta\n"
        "for family in FAMILIES.values():\n"
        "    for part in family.parts.values():\n"
        "        on_meta(part)\n"
        "print('torch' in sys.modules, 'sympy' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == ["True", "False"], result.stderr


# ---- other tools' layouts -----------------------------------------------------------------

SDXL = small("sdxl", transformer_depth=(1, 1, 1))
BIGG = SDXL.parts["text_2"].prefix


def same(a, b):
    """Whether two checkpoints hold the same numbers."""
    return set(a.modules) == set(b.modules) and all(
        torch.equal(value, b.modules[name].state_dict()[key])
        for name, module in a.modules.items()
        for key, value in module.state_dict().items()
        if key != "logit_scale"
    )


def renamed_attention(tensors, names):
    found = {}
    for key, value in tensors.items():
        for ours, theirs in names.items():
            key = key.replace(f"attn_1.{ours}.", f"attn_1.{theirs}.")
        found[key] = value
    return found


def flat_attention(tensors):
    return {k: v[..., 0, 0] if ".attn_1." in k and v.ndim == 4 else v for k, v in tensors.items()}


NEW = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
OLD = {"q": "query", "k": "key", "v": "value", "proj_out": "proj_attn"}
LAYOUTS = {
    "attention as matrices": flat_attention,
    "attention under diffusers' names": lambda t: renamed_attention(t, NEW),
    "both": lambda t: flat_attention(renamed_attention(t, NEW)),
    "both, old": lambda t: flat_attention(renamed_attention(t, OLD)),
    "without logit_scale": lambda t: {k: v for k, v in t.items() if k != BIGG + "logit_scale"},
    "what sampling does not use": lambda t: (
        t
        | {
            "conditioner.embedders.0.logit_scale": torch.ones(()),
            "conditioner.embedders.0.transformer.text_projection.weight": torch.ones(2, 2),
            "conditioner.embedders.1.model.attn_mask": torch.ones(3, 3),
        }
    ),
    "state_dict": lambda t: {"state_dict." + key: value for key, value in t.items()},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_same_weights_in_another_layout(name, tmp_path):
    tensors = weights(SDXL)
    plain = load(written(tmp_path, tensors), SDXL)
    other = {key: value.contiguous() for key, value in LAYOUTS[name](tensors).items()}
    assert same(plain, load(written(tmp_path, other), SDXL))


def test_extras_of_one_text_encoder(text, tmp_path):
    for key in ("cond_stage_model.logit_scale", "cond_stage_model.transformer.text_projection"):
        assert load(written(tmp_path, text | {key: torch.ones(2)}), ONLY_TEXT).text is not None


@pytest.mark.parametrize("markers", [["v_pred"], ["v_pred", "ztsnr"], []])
def test_the_markers_of_v_and_of_zero_snr_are_taken(markers, tmp_path):
    tensors = weights(SDXL, parts=["unet"]) | {name: torch.zeros(0) for name in markers}
    path = written(tmp_path, tensors)
    config = load(path, SDXL, parts=["unet"]).unet.config
    assert config.prediction == ("v" if markers else "eps")
    assert config.zero_terminal_snr == ("ztsnr" in markers)
    assert load(path, SDXL, "eps", parts=["unet"]).unet.config.prediction == "eps"
    grid = times(config, 4)
    assert grid == ([1000, 750, 500, 250, 0] if "ztsnr" in markers else [752, 502, 252, 2, 1])


def test_the_text_encoder_of_sd2_under_the_names_of_transformers(tmp_path):
    """As transformers stores it, a layer short, and in a file of the official layout."""
    known = Family("sd2", {"text": small("sd2").parts["text"]})
    known.parts["text"] = known.parts["text"]._replace(
        config=dataclasses.replace(known.parts["text"].config, projection=32)
    )
    theirs = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            **{"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2},
            **{"num_attention_heads": 2, "vocab_size": 60, "hidden_act": "gelu", "bos_token_id": 0},
        )
    ).eval()
    state = {"cond_stage_model.transformer." + k: v for k, v in theirs.state_dict().items()}
    ours = load(written(tmp_path, state), known).text
    tokens = torch.randint(1, 59, (2, 7))
    with torch.no_grad():
        difference = ours(tokens).context - theirs(tokens).last_hidden_state
    assert difference.abs().max() <= 1e-5


# ---- what is no checkpoint: what it is, and advice that works -------------------------------

ZERO = torch.zeros(2, 2)
NO_CHECKPOINTS = {
    "a LoRA": (
        ["lora_unet_down_blocks_0.lora_down.weight", "lora_te_text.alpha"],
        ["unet.down_blocks.0.attn1.to_q.lora_A.weight"],
        ["unet.down_blocks.0.attn1.processor.to_q_lora.down.weight"],
        ["base_model.model.down_blocks.0.lora_B.default.weight"],
    ),
    "a textual inversion": (["emb_params"], ["<cat-toy>"], ["clip_l", "clip_g"]),
    "a ControlNet": (
        ["control_model.input_blocks.0.0.weight"],
        ["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"],
    ),
    "a transformer": (
        ["model.diffusion_model.joint_blocks.0.x_block.attn.proj.weight"],
        ["double_blocks.0.img_attn.proj.weight"],
        ["transformer_blocks.0.attn.to_q.weight"],
    ),
    "a U-Net and nothing else": (
        ["input_blocks.0.0.weight"],
        ["conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"],
    ),
    "a first stage (a VAE) and nothing else": (
        ["encoder.conv_in.weight", "quant_conv.weight"],
        ["decoder.mid_block.attentions.0.to_q.weight", "encoder.down_blocks.0.a.weight"],
    ),
    "a run of a training": (["network.unet.time_embed.0.weight"],),
}
FILES = [(what, keys) for what, files in NO_CHECKPOINTS.items() for keys in files]


@pytest.mark.parametrize("what, keys", FILES)
def test_a_file_that_is_no_checkpoint_is_told_by_its_keys(what, keys, tmp_path):
    path = written(tmp_path, {key: torch.zeros(2, 2) for key in keys})
    for family in (None, "sd1", "tiny"):
        assert f"{path} holds {what}" in message(path, family)
    assert len(info(path).parts) == 1 and info(path).family is None
    *family, part = str(info(path)).splitlines()
    assert part.split()[0] in what or "train" in what
    beside = what in ("a LoRA", "a ControlNet", "a textual inversion")
    assert family == ([] if beside else ["family unknown"])


def test_the_keys_of_checkpoints_are_of_no_other_kind():
    """Every family's, with and without its U-Net, and its averages."""
    for known in FAMILIES.values():
        for part in known.parts.values():
            assert layouts.kind_of(part.prefix + k for k in on_meta(part).state_dict()) is None
    for file in PUBLISHED:
        assert layouts.kind_of(published(file)["keys"]) is None
    assert layouts.kind_of(published("sd1_inpaint")["ema_keys"]) is None


def test_a_whole_checkpoint_is_what_the_advice_asks_for(tmp_path):
    path = written(tmp_path, {"lora_unet_a.lora_down.weight": ZERO})
    assert "name a whole checkpoint, with a U-Net and a first stage" in message(path)
    save(path, tiny())
    assert {"unet", "vae"} <= set(load(path).modules)


def test_the_advice_for_a_run_of_the_training_works(tmp_path, monkeypatch):
    """The runs of a folder as the training leaves them, then the command that the message names."""
    monkeypatch.chdir(tmp_path)
    shipped = load(TINY)
    (tmp_path / "runs").mkdir()
    scale = json.dumps({"scale": shipped.vae.config.scale_factor})
    both = {"unet.": shipped.unet, "text.": shipped.text}
    for run, parts in {"kl": {"": shipped.vae}, "unet": both}.items():
        tensors = {
            f"network.{prefix}{key}": value
            for prefix, module in parts.items()
            for key, value in module.state_dict().items()
        }
        tensorfile.save_tensors(f"runs/{run}.safetensors", tensors, {"run": scale, "step": "1"})
    said = message("runs/unet.safetensors", "tiny")
    command = said.split("`")[1].split()
    assert command[:4] == ["python", "-m", "minisd", "train"]
    first_stage = (shipped.vae, shipped.vae.config.scale_factor)  # which would measure the scale
    monkeypatch.setattr(train, "first_stage", lambda *_: first_stage)
    assert main(command[3:]) == 0
    assert load("tiny.safetensors").family == "tiny"


def test_averages_alone_are_the_weights(tmp_path):
    """Nothing told: the family is recognised by names without dots."""
    changes = {"heads": 8, "res_blocks": 2, "channel_mult": c.SD1.channel_mult}
    tensors = weights(small("sd1", **changes), parts=("unet", "vae"))
    names = averaged_names(k.removeprefix(UNET) for k in unet_of("sd1"))
    only = {names[k.removeprefix(UNET)] if k.startswith(UNET) else k: v for k, v in tensors.items()}
    path = written(tmp_path, only)
    assert info(path).family == "sd1" and info(path).ema
    for ema in (False, True):
        loaded = load(path, small("sd1", **changes), ema=ema, parts=("unet", "vae"))
        assert all(torch.equal(v, tensors[UNET + k]) for k, v in loaded.unet.state_dict().items())
    assert load(path, small("sd1", **changes), parts=["vae"]).unet is None


def test_a_missing_part_is_found_before_anything_is_read(tmp_path, monkeypatch):
    known = small("sd1")
    path = written(tmp_path, weights(known, parts=("unet", "text")))
    monkeypatch.setattr(checkpoint, "_weight", lambda *_: pytest.fail("read"))
    assert "vae, is not there: no key begins with 'first_stage_model.'" in message(path, known)


# ---- first bytes --------------------------------------------------------------------------

LIGHTNING = "pytorch_lightning.callbacks.model_checkpoint"


@pytest.mark.parametrize("name", ["a.ckpt", "a.CKPT", "a.safetensors", "a", "dir/a b.pt"])
def test_the_advice_for_a_pickle_works_on_lightning_files(name, text, tmp_path, monkeypatch):
    """A class that is not installed stands in the file as a key, as Lightning's callbacks do."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir").mkdir()
    module = types.ModuleType(LIGHTNING)
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": LIGHTNING})
    module.Config = type("Config", (), {"__module__": LIGHTNING})
    config = module.Config()
    config.lr = 0.1
    for above in ("pytorch_lightning", "pytorch_lightning.callbacks", LIGHTNING):
        monkeypatch.setitem(sys.modules, above, module)
    callbacks = {module.ModelCheckpoint: {"best": numpy.float64(3)}}
    torch.save({"state_dict": text, "callbacks": callbacks, "hparams": config}, name)
    monkeypatch.delitem(sys.modules, LIGHTNING)
    before = pathlib.Path(name).read_bytes()
    said = message(name, ONLY_TEXT)
    with torch.serialization.safe_globals([]):
        exec("\n".join(line[4:] for line in said.splitlines()[1:]), {})
    target = said.rpartition('save_file(state, "')[2].removesuffix('")')
    loaded = load(target, ONLY_TEXT).text
    assert all(torch.equal(v, text[PREFIX + k]) for k, v in loaded.state_dict().items())
    assert pathlib.Path(name).read_bytes() == before and target != name


def test_the_advice_for_a_pickle_runs_nothing(text, tmp_path):
    class Trap:
        def __reduce__(self):
            return shutil.copyfile, (__file__, tmp_path / "sprung")

    torch.save({"state_dict": text, "trap": Trap()}, tmp_path / "a.ckpt")
    said = message(tmp_path / "a.ckpt")
    with torch.serialization.safe_globals([]):
        exec("\n".join(line[4:] for line in said.splitlines()[1:]), {})
    assert load(tmp_path / "a.safetensors", ONLY_TEXT).text is not None
    assert not (tmp_path / "sprung").exists()


def test_the_advice_for_a_pickle_works_on_old_files(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(text, "a.ckpt", _use_new_zipfile_serialization=False)
    (tmp_path / "a.safetensors").write_text("somebody's")
    exec("\n".join(line[4:] for line in message("a.ckpt").splitlines()[1:]), {})
    assert load("a-converted.safetensors", ONLY_TEXT).text is not None
    assert (tmp_path / "a.safetensors").read_text() == "somebody's"


def test_a_checkpoint_under_another_name(text, tmp_path):
    path = written(tmp_path, text).rename(tmp_path / "x.ckpt")
    assert load(path, ONLY_TEXT).text is not None


@pytest.mark.parametrize(
    "start, said",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"<html>not found</html>", "a web page"),
        (b"GGUF\x03\x00\x00\x00" + bytes(30), "a GGUF file"),
        (b"PK\x03\x04" + bytes(30), "can run any code"),
        (b"\x80\x02}q\x00" + bytes(30), "can run any code"),
        (bytes(30), "perhaps a download that stopped"),
    ],
)
def test_first_bytes_tell_what_a_file_is(start, said, tmp_path):
    for name in ("x.safetensors", "x"):
        (tmp_path / name).write_bytes(start)
        assert said in message(tmp_path / name)
        with pytest.raises(CheckpointError, match=said):
            info(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
def test_pipes_and_devices(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    for path in (tmp_path / "x.safetensors", "/dev/null"):
        assert "is a pipe or a device, and no file" in message(path)


def test_a_file_that_cannot_be_read(text, tmp_path, monkeypatch):
    path = written(tmp_path, text)

    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(tensorfile, "safe_open", fail)
    assert "cannot be mapped into memory" in message(path) and "copy it" in message(path)
    monkeypatch.setattr("builtins.open", fail)
    assert f"{path} cannot be read: Input/output error" in message(path)


def test_dimensions_that_no_tensor_has(tmp_path):
    header = {"a": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}}
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    assert "holds a of an impossible shape" in message(path)
    with pytest.raises(CheckpointError, match="impossible shape"):
        info(path)


# ---- metadata -----------------------------------------------------------------------------

VALUES = [None, "x", "", [], [1], {}, True, False, 0, -1, -2, 1, 3, 2.5, 1e308, 10**4, 2**40, 2**70]
VALUES += [float("nan"), float("inf"), -float("inf"), ["x"], [0, 0, 0], [10**5] * 3, "gelu", "v"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("metadata") / "tiny.safetensors"
    save(path, tiny())
    return path, json.loads(info(path).metadata["minisd"])


@pytest.mark.parametrize("value", [0, 10**4, None, ["tiny"], True])
def test_a_family_and_its_prefixes_are_text(value, plain):
    path, said = plain
    header = {key: stored.like for key, stored in tensorfile.open_tensors(path)[0].items()}
    for place in (said, said["parts"]["unet"]):
        other, field = json.loads(json.dumps(said)), "family" if place is said else "prefix"
        (other if place is said else other["parts"]["unet"])[field] = value
        with pytest.raises(CheckpointError, match="family and prefix must be text"):
            which_family(path, header, {"minisd": json.dumps(other)}, None)


@pytest.mark.parametrize("part", ["unet", "vae", "text"])
def test_any_value_in_the_metadata_is_read_or_refused(part, plain, tmp_path):
    """Every field of every config with values of all kinds: a sentence, or what fits the weights.

    A value that is taken has the type that the field has.
    """
    path, said = plain
    header = {key: stored.like for key, stored in tensorfile.open_tensors(path)[0].items()}
    for field, before in said["parts"][part]["config"].items():
        for value in VALUES:
            other = json.loads(json.dumps(said))
            other["parts"][part]["config"][field] = value
            metadata = {"minisd": json.dumps(other)}
            try:
                known = which_family(path, header, metadata, None)
                for each in known.parts.values():
                    shapes = on_meta(each).state_dict()
            except CheckpointError:
                continue
            assert shapes and value not in ("x", 2**40, 2**70, 1e308), (field, value)
            types = (int, float) if type(before) is float else (type(before), type(None))
            assert before is None or isinstance(value, types), (field, value)
            assert before is None or type(before) is bool or not isinstance(value, bool)


@pytest.mark.parametrize("field", ["res_blocks", "channel_mult", "transformer_depth"])
def test_more_layers_than_tensors_are_refused_before_they_are_built(field, plain, monkeypatch):
    path, said = plain
    other = json.loads(json.dumps(said))
    config = other["parts"]["unet"]["config"]
    config[field] = [10**4] * 2 if field == "transformer_depth" else 10**4
    config[field] = [1] * 10**4 if field == "channel_mult" else config[field]
    monkeypatch.setattr(families, "on_meta", lambda part: pytest.fail("built"))
    tensors = tensorfile.open_tensors(path)[0]
    with pytest.raises(CheckpointError, match=r"says that unet has \d+ layers, and there are"):
        which_family(path, tensors, {"minisd": json.dumps(other)}, None)


def test_heads_that_do_not_divide_a_text_encoders_width(plain):
    path, said = plain
    other = json.dumps(said).replace('"heads": 2, "vocabulary"', '"heads": 5, "vocabulary"')
    with pytest.raises(CheckpointError, match="says heads 5 of text, whose width is 32"):
        which_family(path, tensorfile.open_tensors(path)[0], {"minisd": other}, None)


def test_a_published_name_over_another_network(plain):
    path, said = plain
    tensors = tensorfile.open_tensors(path)[0]
    for name in ("sdxl", "sdxl-refiner", "upscaler", "ldm-ffhq256"):
        metadata = {"minisd": json.dumps(said | {"family": name})}
        with pytest.raises(CheckpointError, match=f"is not as {name} has it"):
            which_family(path, tensors, metadata, None)


@pytest.mark.parametrize(
    "change",
    [{"length": 24.0}, {"length": float("nan")}, {"length": 10**9}, {"length": "24"}]
    + [{"length": 7}, {"merges": []}, {"pad": 0.0}, {"pad": True}, {"merges": [["a", "b"]]}],
)
def test_a_tokenizer_that_is_not_the_encoders_is_refused(change):
    metadata = info(TINY).metadata
    said = json.loads(metadata[METADATA])
    assert read_tokenizer(metadata, c.TINY_TEXT)[0].length == 24
    with pytest.raises(CheckpointError, match="the metadata's tokenizer cannot be read"):
        read_tokenizer({METADATA: json.dumps(said | change)}, c.TINY_TEXT)


# ---- what is written ----------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="a system without modes")
def test_a_file_has_the_mode_that_the_umask_says_or_that_of_the_file_it_replaces(tmp_path):
    before = os.umask(0o027)
    try:
        save(tmp_path / "a.safetensors", tiny())
        assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640
        (tmp_path / "a.safetensors").chmod(0o664)
        save(tmp_path / "a.safetensors", tiny())
        assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o664
    finally:
        os.umask(before)


@pytest.mark.parametrize("device", ["mps", "hpu", "privateuseone", "xpu", "cuda:99", "gpu", "", 7])
def test_a_device_that_is_not_here_is_one_short_sentence(device):
    try:
        usable(device)
    except ValueError as error:
        assert str(error).startswith(f"cannot use {device}, which torch does not find here: ")
        assert len(str(error)) < 300 and "\n" not in str(error)


def test_sizes_are_whole_numbers_of_any_kind():
    pipe = Pipeline.load(TINY)
    for size in (numpy.int64(64), (numpy.int64(64), 64), [64, 64], torch.tensor(64)):
        assert pipe.size(size) == (64, 64)
    for size in (64.0, (64, 64.0), "64", None.__class__, object()):
        with pytest.raises(ValueError, match="a size is made of whole numbers"):
            pipe.size(size)
    with pytest.raises(ValueError, match="in multiples of 16, not 64 x 65"):
        pipe.size((64, numpy.int32(65)))
