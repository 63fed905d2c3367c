"""LoRAs of files: every layout against the sum by hand, and against diffusers with peft."""

import copy
import json

import lora_files
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from lora_files import (
    ATTENTION,
    changes,
    expected,
    flat,
    kohya,
    older,
    oldest,
    peft,
    settings,
    written,
)
from network_pairs import draw
from pipeline_pairs import Theirs, ours

from minisd.checkpoints import FAMILIES as PUBLISHED
from minisd.checkpoints import CheckpointError, lora_fit, open_lora, save_lora, with_loras
from minisd.checkpoints.families import on_meta
from minisd.checkpoints.lora import describe
from minisd.models.blocks import timestep_embedding
from minisd.models.lora import add_lora, loras, merge
from minisd.pipeline import Pipeline

FAMILIES = ("sd1", "sd2", "sdxl")


def pipeline(family):
    return ours(family, "eps" if family == "sd2" else None)


def difference(pipe, checkpoint, wanted):
    """max |a - b| of all weights by diffusers' names."""
    merged = lora_files.theirs(Pipeline(checkpoint, pipe.tokenizers))
    found = {(network, k): v for network, all in merged.items() for k, (_, v) in all.items()}
    assert found.keys() == wanted.keys()
    return max((found[key].double() - value).abs().max().item() for key, value in wanted.items())


# ---- the sum by hand ----------------------------------------------------------------------


def texts(pairs):
    return len({network for network, _ in pairs}) - 1


LAYOUTS = {  # which layers, their alphas, and the file; alpha 0: the rank
    "kohya": ("", None, lambda pairs: (kohya(pairs, texts=texts(pairs)), None)),
    "kohya, official": ("", None, lambda p: (kohya(p, True, texts(p)), None)),
    "diffusers, settings": ("", None, lambda p: (peft(flat(p)), settings(flat(p)))),
    "diffusers, alphas": ("", None, lambda p: (peft(p, alphas=True), None)),
    "diffusers": ("", 0, lambda p: (peft(p), None)),
    "diffusers, older": ("", 0, lambda p: (older(p), None)),
    "diffusers, oldest": (ATTENTION, 0, lambda p: (oldest(p), None)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layout_gives_the_sum_by_hand(family, layout, tmp_path):
    pipe, (only, alpha, write) = pipeline(family), LAYOUTS[layout]
    pairs = changes(pipe, only, alpha, every=1 if family == "sd1" else 5)
    file = open_lora(written(tmp_path / "a.safetensors", *write(pairs)))
    assert len(file.layers) == len(pairs) and file.layout.startswith(layout.split(",")[0])
    merged = with_loras(pipe.checkpoint, [(file, 0.8)])
    assert difference(pipe, merged, expected(pipe, (pairs, 0.8))) <= 1e-6
    assert difference(pipe, pipe.checkpoint, expected(pipe)) == 0  # the networks given stay


# ---- diffusers with peft ------------------------------------------------------------------

USED = r"^(?!text_projection)"  # diffusers finds the ranks of a text encoder's other layers alone
LIVE = {
    "kohya": (USED, 2.0, lambda p: (kohya(p, texts=texts(p)), None)),
    "kohya, official": (USED, 2.0, lambda p: (kohya(p, True, texts(p)), None)),
    "diffusers, settings": (USED, None, lambda p: (peft(flat(p)), settings(flat(p)))),
    "diffusers": (USED, 0, lambda p: (peft(p), None)),
    "diffusers, older": (USED, 0, lambda p: (older(p), None)),
    "diffusers, oldest": (ATTENTION, 0, lambda p: (oldest(p), None)),
}  # official names: diffusers knows those of SDXL alone


def diffusers_pipeline(made, xl):
    """diffusers' pipeline of pipeline_pairs.Theirs' networks, text encoders and all."""
    parts = {"unet": made.unet, "vae": made.vae, "scheduler": made.scheduler("ddim", "epsilon")}
    parts |= dict(zip(("text_encoder", "text_encoder_2"), made.texts, strict=False))
    parts |= {"tokenizer": None, "feature_extractor": None}
    if xl:
        return StableDiffusionXLPipeline(**parts, tokenizer_2=None, add_watermarker=False)
    return StableDiffusionPipeline(**parts, safety_checker=None, requires_safety_checker=False)


@pytest.mark.parametrize(
    "family, layout",
    [(f, layout) for f in FAMILIES for layout in LIVE if f == "sdxl" or "official" not in layout],
)
@torch.no_grad()
def test_outputs_are_those_of_diffusers_with_peft(family, layout, tmp_path):
    pytest.importorskip("peft")
    pipe, (only, alpha, write) = pipeline(family), LIVE[layout]
    xl, pairs = family == "sdxl", changes(pipe, only, alpha, every=11)
    written(tmp_path / "a.safetensors", *write(pairs))
    made = Theirs(pipe)
    theirs = diffusers_pipeline(made, xl)
    theirs.load_lora_weights(tmp_path, weight_name="a.safetensors", adapter_name="a")
    theirs.set_adapters("a", 0.8)
    compare(pipe, made, tmp_path / "a.safetensors", 0.8)


def compare(pipe, made, path, scale):
    """The text encoders' outputs and the U-Net's, both sides with the file: within 1e-5."""
    merged = with_loras(pipe.checkpoint, [(open_lora(path), scale)])
    merged, xl = Pipeline(merged, pipe.tokenizers), pipe.family == "sdxl"
    prompt = ["a red circle above a blue star"]
    condition, (context, pooled) = merged.encode(prompt), made.encode(prompt)
    assert (condition.context - context).abs().max() <= 1e-5
    x, index, y, given = draw(1, 4, 8, 8), torch.tensor([500]), None, {}
    if xl:
        assert (condition.y[:, : pooled.shape[1]] - pooled).abs().max() <= 1e-5
        ids = torch.tensor([[512.0, 512, 0, 0, 512, 512]])
        given = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}
        y = torch.cat([pooled, timestep_embedding(ids.flatten(), 4).reshape(1, -1)], dim=1)
    a = merged.checkpoint.unet(x, index, context, y)
    b = made.unet(x, index, context, **given).sample
    assert (a - b).abs().max() <= 1e-5
    assert (pipe.checkpoint.unet(x, index, context, y) - b).abs().max() > 0.1  # it does something


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_diffusers_reads_what_save_lora_writes(family, tmp_path):
    pytest.importorskip("peft")
    pipe, made = pipeline(family), Theirs(pipeline(family))
    checkpoint = copy.deepcopy(pipe.checkpoint)
    add_lora(checkpoint.unet, 3, ("attn1.to_q", "proj_in", "in_layers.2"), alpha=2.0)
    add_lora(checkpoint.modules[pipe.texts[-1]], 3, ("out_proj", "fc1", "c_fc"), alpha=2.0)
    for network in checkpoint.modules.values():
        for i, (_, lora) in enumerate(loras(network)):
            lora.up.data = draw(*lora.up.shape, seed=i) / 2
    save_lora(tmp_path / "a.safetensors", checkpoint)
    theirs = diffusers_pipeline(made, family == "sdxl")
    theirs.load_lora_weights(tmp_path, weight_name="a.safetensors")
    compare(pipe, made, tmp_path / "a.safetensors", 1.0)


# ---- several, scales, dtypes --------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two LoRAs of SD 1: their changes and files."""
    folder, found = tmp_path_factory.mktemp("loras"), []
    for seed in (0, 1000):
        pairs = changes(pipeline("sd1"), ATTENTION, every=9, seed=seed)
        path = written(folder / f"{seed}.safetensors", kohya(pairs, texts=1))
        found.append((pairs, open_lora(path)))
    return found


def test_several_add_up_and_a_scale_may_be_negative_or_0(files):
    pipe, (one, two) = pipeline("sd1"), files
    for scales in ((0.8, -0.5), (0.0, 1.0), (1.0, 1.0)):
        loras = [(file, scale) for (_, file), scale in zip(files, scales, strict=True)]
        wanted = expected(pipe, (one[0], scales[0]), (two[0], scales[1]))
        assert difference(pipe, with_loras(pipe.checkpoint, loras), wanted) <= 1e-6
    assert with_loras(pipe.checkpoint, []) == pipe.checkpoint
    same = with_loras(pipe.checkpoint, [(one[1], 0), (two[1], 0)])
    assert difference(pipe, same, expected(pipe)) == 0


def test_what_does_not_change_is_shared_and_the_sum_is_rounded_once(files):
    pipe, (pairs, file) = pipeline("sd1"), files[0]
    merged = with_loras(pipe.checkpoint, [(file, 0.7)])
    assert merged.vae is pipe.checkpoint.vae and not merged.unet.training
    name = "input_blocks.0.0.weight"
    first, second = (made.unet.state_dict()[name] for made in (pipe.checkpoint, merged))
    assert first.data_ptr() == second.data_ptr()
    merged = with_loras(pipe.checkpoint, [(file, 0.7)], torch.bfloat16)
    for (network, key), wanted in expected(pipe, (pairs, 0.7)).items():
        if network == "unet" and (network, key.removesuffix(".weight")) in pairs:
            # within half a step of 8 bits, and the sum's own rounding
            value = lora_files.theirs(Pipeline(merged, pipe.tokenizers))[network][key][1]
            assert value.dtype == torch.bfloat16
            assert (value.double() - wanted).abs().max() <= wanted.abs().max() / 256
            break


def test_overflow_and_nan_are_told(files, tmp_path):
    pipe, (_, file) = pipeline("sd1"), files[0]
    with pytest.raises(CheckpointError, match="holds NaN or infinite numbers"):
        with_loras(pipe.checkpoint, [(file, 1e6)], torch.float16)
    for scale in (float("nan"), float("inf")):
        with pytest.raises(CheckpointError, match="must be a finite number, got"):
            with_loras(pipe.checkpoint, [(file, scale)])


# ---- save_lora ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_trained_is_saved_and_read_back(family, tmp_path):
    pipe = pipeline(family)
    checkpoint = copy.deepcopy(pipe.checkpoint)
    add_lora(checkpoint.unet, 3, alpha=2.0)
    add_lora(checkpoint.modules[pipe.texts[-1]], 2, ("fc1", "c_fc", "out_proj"))
    for network in checkpoint.modules.values():
        for i, (_, lora) in enumerate(loras(network)):
            lora.up.data, lora.scale = draw(*lora.up.shape, seed=i), 0.6
    save_lora(tmp_path / "a.safetensors", checkpoint)
    file = open_lora(tmp_path / "a.safetensors")
    read = with_loras(pipe.checkpoint, [(file, 0.6)])
    for name, network in checkpoint.modules.items():
        merge(network)
        weights = read.modules[name].state_dict()
        for key, value in network.state_dict().items():
            assert (weights[key] - value).abs().max() <= 1e-6
    said = describe(tmp_path / "a.safetensors")
    assert said.startswith(f"kohya's layout, for {family}; layers: ")
    assert said.endswith("rank 2 to 3, alpha 2") and " of unet, " in said
    with pytest.raises(CheckpointError, match="no U-Net or text encoder has a LoRA here"):
        save_lora(tmp_path / "b.safetensors", checkpoint)


# ---- the published shapes: for which family a file is -------------------------------------

WIDTHS = {"sd1": 768, "sd2": 1024, "sdxl": 2048, "sdxl-refiner": 1280}


def cross_attention(family):
    """The key of the first cross-attention in each, in kohya's layout, at its full shape."""
    block = "1_attentions_0" if family.startswith("sdxl") else "0_attentions_0"
    name = f"lora_unet_down_blocks_{block}_transformer_blocks_0_attn2_to_k"
    out = {"sdxl": 640, "sdxl-refiner": 768}.get(family, 320)
    down, up = torch.zeros(4, WIDTHS[family]), torch.zeros(out, 4)
    return {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}


@pytest.mark.parametrize("family", WIDTHS)
def test_a_file_of_another_family_is_told_with_the_one_it_fits(family, tmp_path):
    path = written(tmp_path / "a.safetensors", cross_attention(family))
    assert describe(path) == (f"kohya's layout, for {family}; layers: 1 of unet; rank 4, alpha 4")
    pipe = pipeline("sd2" if family == "sd1" else "sd1")
    with pytest.raises(CheckpointError) as told:
        with_loras(pipe.checkpoint, [(open_lora(path), 1)])
    said = f"{told.value}"
    assert f"does not fit this {pipe.family}: 1 of its 1 layers do not, unet " in said
    assert said.endswith(f"it seems to be made for {family}")


def test_a_second_text_encoder_is_the_refiners_only_one(tmp_path):
    name = "lora_te2_text_model_encoder_layers_31_mlp_fc1"
    tensors = {f"{name}.lora_down.weight": torch.zeros(2, 1280)}
    path = written(tmp_path / "a.safetensors", tensors | {f"{name}.lora_up.weight": ZERO_5120})
    file = open_lora(path)
    assert describe(path).startswith("kohya's layout, for sdxl; layers: 1 of text_2")
    parts = {n: on_meta(part) for n, part in PUBLISHED["sdxl-refiner"].parts.items()}
    assert not lora_fit._misfits(file, "sdxl-refiner", lora_fit.places_in(parts))


# ---- what is refused ----------------------------------------------------------------------

ZERO_5120, Z = torch.zeros(5120, 2), torch.zeros(2, 2)
NAME = "lora_unet_mid_block_attentions_0_proj_in"
GOOD = {f"{NAME}.lora_down.weight": Z, f"{NAME}.lora_up.weight": Z}
CHECKPOINT = {"model.diffusion_model.input_blocks.0.0.weight": Z}
PEFT = {"unet.mid_block.attentions.0.proj_in.lora_A.weight": Z}
PEFT |= {"unet.mid_block.attentions.0.proj_in.lora_B.weight": Z}


def said_by_peft(**said):
    return {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in said.items()})}


@pytest.mark.parametrize(
    "tensors, says",
    [
        ({f"{NAME}.hada_w1_a": Z}, "holds a LoHa"),
        ({f"{NAME}.lokr_w1": Z}, "holds a LoKr"),
        (GOOD | {f"{NAME}.dora_scale": Z}, "holds a DoRA"),
        ({"unet.a.lora_magnitude_vector.weight": Z} | PEFT, "holds a DoRA"),
        (GOOD | {f"{NAME}.lora_mid.weight": Z}, "holds a LoCon with lora_mid"),
        ({f"{NAME}.oft_blocks": Z}, "holds an OFT"),
        (GOOD | {f"{NAME}.diff_b": Z}, "of whole weights, biases or norms"),
        (PEFT | {"unet.a.lora_B.bias": Z}, "holds changes of biases"),
        ({"text_encoder.a.lora_embedding_A": Z} | PEFT, "of a text encoder's words"),
        ({"lora_controlnet": Z}, "holds a Control-LoRA"),
        ({"emb_params": Z}, "holds a textual inversion"),
        (GOOD | {"bundle_emb.cat.string_to_param.*": Z}, "holds a textual inversion"),
        ({"transformer.a.lora_A.weight": Z}, "a transformer in the U-Net's place"),
        ({"lora_unet_double_blocks_0_img_attn_proj.alpha": Z}, "a transformer in the U-Net's"),
        ({"base_model.model.a.lora_A.weight": Z}, "with its alpha in another file"),
        (CHECKPOINT, "holds no LoRA, but a checkpoint, which --checkpoint"),
        ({"control_model.a.weight": Z}, "holds no LoRA, but a ControlNet"),
        ({"a.weight": Z}, "holds no LoRA: its tensors are a.weight"),
        (GOOD | {"a.weight": Z}, "holds 1 tensor that belongs to no LoRA: a.weight"),
        ({f"{NAME}.lora_down.weight": Z}, "holds .*lora_down.weight without its up"),
        ({f"{NAME}.alpha": torch.tensor(1.0)}, "holds .*alpha without its down"),
        (GOOD | PEFT, "unet mid_block_attentions_0_proj_in|names a layer's down twice"),
        (GOOD | {f"{NAME}.lora_up.weight": torch.zeros(2, 3)}, "do not multiply: down must be"),
        (
            GOOD | {f"{NAME}.lora_up.weight": torch.zeros(2, 2, 1, 1)},
            "do not multiply: down must be",
        ),
        (GOOD | {f"{NAME}.alpha": torch.tensor(float("nan"))}, "a finite number as .*alpha"),
        (GOOD | {f"{NAME}.alpha": Z}, "a finite number as .*alpha, got None"),
        (GOOD | {f"{NAME}.lora_up.weight": Z.long()}, "must hold floating-point matrices"),
        ((PEFT, said_by_peft(use_dora=True)), "says unet.use_dora True, which minisd does not"),
        ((PEFT, said_by_peft(init_lora_weights="pissa")), "init_lora_weights 'pissa'"),
        ((PEFT, said_by_peft(alpha_pattern={"(a+)+$": 1})), "no alpha_pattern like '\\(a"),
        ((PEFT, said_by_peft(lora_alpha="x")), "a finite number as lora_alpha, got 'x'"),
        ((PEFT, said_by_peft(alpha_pattern=[1])), "alpha_pattern is not a JSON object"),
        ((PEFT, {"lora_adapter_metadata": "["}), "is not a JSON object"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_is_not_applied_is_named(tensors, says, tmp_path):
    tensors, metadata = tensors if isinstance(tensors, tuple) else (tensors, None)
    path = written(tmp_path / "a.safetensors", tensors, metadata)
    with pytest.raises(CheckpointError, match=says) as told:
        open_lora(path)
    assert f"{told.value}".startswith(f"{path}") and describe(path) == f"{told.value}"


def test_one_layer_under_two_names_is_told(tmp_path):
    pipe = pipeline("sd1")
    pairs = changes(pipe, r"down_blocks\.0\.attentions\.0.*attn1\.to_q")
    both = kohya(pairs, texts=1) | kohya(pairs, official=True, texts=1)
    with pytest.raises(CheckpointError, match="_attn1_to_q is .*_attn1_to_q once more"):
        file = open_lora(written(tmp_path / "a.safetensors", both))
        with_loras(pipe.checkpoint, [(file, 1)])


def test_a_pickle_is_refused_as_other_files_are(tmp_path):
    for name in ("lora.pt", "pytorch_lora_weights.bin"):
        (tmp_path / name).write_bytes(b"PK\x03\x04" + bytes(40))
        with pytest.raises(CheckpointError, match="any code that its author put in"):
            open_lora(tmp_path / name)
    with pytest.raises(CheckpointError, match="no such file"):
        open_lora(tmp_path / "none.safetensors")


def test_rslora_and_alphas_by_the_end_of_a_name(tmp_path):
    """peft's: α/√r, and an alpha_pattern is the end of a name."""
    said = said_by_peft(lora_alpha=3, use_rslora=True, alpha_pattern={"proj_in": 5})
    file = open_lora(written(tmp_path / "a.safetensors", PEFT, said))
    assert next(iter(file.layers.values())).alpha == pytest.approx(5 * 2**0.5)
    file = open_lora(written(tmp_path / "a.safetensors", PEFT, said_by_peft(lora_alpha=3)))
    assert next(iter(file.layers.values())).alpha == 3


def test_the_oldest_files_have_no_prefix(tmp_path):
    pairs = changes(pipeline("sd1"), ATTENTION, alpha=0, every=9)
    pairs = {key: pair for key, pair in pairs.items() if key[0] == "unet"}
    file = open_lora(written(tmp_path / "a.safetensors", oldest(pairs, prefix=False)))
    merged = with_loras(pipeline("sd1").checkpoint, [(file, 1.0)])
    assert difference(pipeline("sd1"), merged, expected(pipeline("sd1"), (pairs, 1.0))) <= 1e-6
