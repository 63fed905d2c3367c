"""Checkpoints: what is written comes back bit for bit, and what is wrong with a file is said."""

import dataclasses
import functools
import gzip
import json
import pathlib
import pickle
import random
import subprocess
import sys

import pytest
import torch
from network_pairs import difference
from safetensors.torch import save_file

from minisd import checkpoint, tensorfile
from minisd import configs as c
from minisd.checkpoint import EXTRAS, Checkpoint, info, load, load_module, save
from minisd.families import FAMILIES, ROLES, Family, on_meta, recognise
from minisd.models.clip import CLIPText
from minisd.tensorfile import CheckpointError, first_few

DATA = pathlib.Path(__file__).parent / "data"
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
    assert "holds 1 tensors that belong to no part of sd1: lora_unet.down.weight" in said


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
        ({"prediction": "epsilon"}, "prediction must be one of ('eps', 'v'), got 'epsilon'"),
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
    assert f'load("model{suffix}"' in said and 'save_file(state, "model.safetensors")' in said
    assert not (tmp_path / "sprung").exists()


def test_the_way_to_convert_that_is_given_works(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shared = text | {"global_step": 3, "cond_stage_model.transformer.position_ids": text[FINAL][:2]}
    torch.save({"state_dict": shared}, "model.ckpt")
    exec("\n".join(line[4:] for line in message("model.ckpt").splitlines()[1:]))
    loaded = load("model.safetensors", ONLY_TEXT).text
    assert all(torch.equal(v, text[PREFIX + k]) for k, v in loaded.state_dict().items())


def test_what_is_no_checkpoint(tmp_path):
    assert "no such file" in message(tmp_path / "none.safetensors")
    assert "is a directory without any of unet, vae" in message(tmp_path)
    for content in (b"", b"1234567", b"PK\x03\x04" + bytes(100), b"<html>not found</html>"):
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
    with pytest.raises(OSError, match="the disk is full"):
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
        (lambda m: m.replace('"layers": 3', '"layers": "x"'), "makes no CLIPText"),
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
    assert str(said).startswith("family sd1\n") and "1,000 in    1 tensors, float32" in str(said)


def test_info_of_what_it_does_not_know(tmp_path):
    path = written(tmp_path, {"a.b": torch.zeros(3), "a.c": torch.zeros(2).half()})
    assert info(path) == (None, {"a": (2, 5, ("float16", "float32"))}, False, {})
    assert str(info(path)).startswith("family unknown")


def test_every_role_is_a_part_of_a_checkpoint():
    assert set(ROLES) | {"family"} == set(Checkpoint._fields)


def test_building_without_numbers_imports_no_compiler():
    """Its 70 MB would be more than a tenth of SD 1's text encoder."""
    code = (
        "import sys; from minisd.families import FAMILIES, on_meta\n"
        "for family in FAMILIES.values():\n"
        "    for part in family.parts.values():\n"
        "        on_meta(part)\n"
        "print('torch' in sys.modules, 'sympy' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == ["True", "False"], result.stderr
