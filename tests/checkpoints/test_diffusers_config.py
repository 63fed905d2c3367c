"""A diffusers folder's json: the pictures of diffusers' own classes, and no key unread."""

import dataclasses
import inspect
import json
import pathlib
from typing import get_args

import diffusers
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from pipeline_pairs import ENDS, MERGES, SD_BETAS, vocabulary
from transformers import CLIPTextConfig, CLIPTextModel

from minisd.checkpoints.diffusers_config import (
    SOLVERS,
    TABLES,
    as_said,
    process,
)
from minisd.checkpoints.families import FAMILIES
from minisd.checkpoints.loading import load
from minisd.checkpoints.tensorfile import CheckpointError
from minisd.models.configs import AutoencoderConfig, SolverGrid, SolverName, TextConfig, UNetConfig
from minisd.pipeline import Pipeline
from minisd.pipeline.menu import find_grid, find_sampler
from minisd.pipeline.settings import Settings, times, usual_order, usual_sampler
from minisd.text.tokenizer import Tokenizer

SD_DDIM = {**SD_BETAS, **ENDS, "clip_sample": False}
UNET = {
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "cross_attention_dim": 32,
}
VAE = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 32,
    "bos_token_id": 0,
}


def folder(path, scheduler, unet=(), vae=(), text=()):
    """A folder of small random networks, as the libraries write it, and the networks."""
    torch.manual_seed(1)
    config = CLIPTextConfig(**{**TEXT, "vocab_size": vocabulary(), **dict(text)})
    parts = {
        "unet": UNet2DConditionModel(**{**UNET, **dict(unet)}),
        "vae": AutoencoderKL(**{**VAE, **dict(vae)}),
        "text_encoder": CLIPTextModel(config),
    }
    for name, module in parts.items():
        module.eval().save_pretrained(path / name)
    scheduler.save_pretrained(path / "scheduler")
    return parts


def their_picture(path, parts, tokenizer, prompt):
    context, opposite = (
        parts["text_encoder"](tokenizer(text)).last_hidden_state for text in (prompt, "")
    )
    said = json.loads((path / "scheduler" / "scheduler_config.json").read_text())
    pipeline = diffusers.StableDiffusionPipeline(
        unet=parts["unet"],
        vae=parts["vae"],
        scheduler=getattr(diffusers, said["_class_name"]).from_pretrained(path / "scheduler"),
        **dict.fromkeys(["text_encoder", "tokenizer", "safety_checker", "feature_extractor"]),
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        prompt_embeds=context,
        negative_prompt_embeds=opposite,
        height=32,
        width=32,
        num_inference_steps=5,
        guidance_scale=2.0,
        generator=[torch.Generator().manual_seed(3)],
        output_type="pt",
    )
    return 2 * made.images - 1


WHAT_A_FOLDER_SAYS = {
    "plain": {},
    "v": {"prediction_type": "v_prediction"},
    "v, zero SNR, trailing": {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "set_alpha_to_one": True,
    },
    "v, zero SNR, leading": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    "sample": {"prediction_type": "sample"},
    "linear betas": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "cosine betas": {"beta_schedule": "squaredcos_cap_v2"},
    "trailing": {"timestep_spacing": "trailing"},
    "the last step to 0": {"set_alpha_to_one": True},
    "an offset of 0 and clipping, which diffusers puts right": {
        "steps_offset": 0,
        "clip_sample": True,
    },
    "scaling factor": {"vae": {"scaling_factor": 0.13025}},
    "gelu": {"text": {"hidden_act": "gelu"}},
    "heads of the text encoder": {"text": {"num_attention_heads": 8}},
    "heads of the U-Net": {"unet": {"attention_head_dim": 2}},
    "width of the U-Net's heads": {"unet": {"attention_head_dim": (2, 4)}},
    "cross-attention alone": {"unet": {"only_cross_attention": (True, False)}},
    "linear projections, two blocks": {
        "unet": {"use_linear_projection": True, "transformer_layers_per_block": 2}
    },
    "groups": {"unet": {"norm_num_groups": 16}, "vae": {"norm_num_groups": 8}},
}


@pytest.mark.parametrize("name", WHAT_A_FOLDER_SAYS)
@torch.no_grad()
def test_the_picture_is_that_of_diffusers(name, tmp_path):
    says = dict(WHAT_A_FOLDER_SAYS[name])
    parts = {key: says.pop(key) for key in ("unet", "vae", "text") if key in says}
    parts = folder(tmp_path, DDIMScheduler(**SD_DDIM | says), **parts)
    tokenizer = Tokenizer(MERGES)
    pipe = Pipeline(load(tmp_path, "sd1"), [tokenizer])
    run = pipe.txt2img("a red circle", 32, steps=5, scale=2.0, sampler="ddim", seed=3)
    theirs = their_picture(tmp_path, parts, tokenizer, "a red circle")
    assert (run.pictures() - theirs).abs().max() <= 1e-4 and theirs.std() > 0.05


@torch.no_grad()
def test_a_folder_that_says_pndm_is_sampled_with_plms(tmp_path):
    scheduler = PNDMScheduler(**SD_BETAS, **ENDS, skip_prk_steps=True)
    parts, tokenizer = folder(tmp_path, scheduler), Tokenizer(MERGES)
    pipe = Pipeline(load(tmp_path, "sd1"), [tokenizer])
    assert pipe.config.grid is None
    ours = pipe.txt2img("a red circle", 32, steps=5, scale=2.0, seed=3).pictures()
    assert (ours - their_picture(tmp_path, parts, tokenizer, "a red circle")).abs().max() <= 1e-4


SOLVED = [("EulerDiscrete", {}), ("EulerAncestralDiscrete", {}), ("HeunDiscrete", {})]
SOLVED += [("KDPM2Discrete", {}), ("KDPM2AncestralDiscrete", {}), ("DDPM", {})]
SOLVED += [("DDPM", {"timestep_spacing": "linspace"})]
SOLVED += [(name, {"timestep_spacing": "trailing"}) for name in ("DPMSolverMultistep", "DDPM")]
SOLVED += [("UniPCMultistep", {"timestep_spacing": "trailing"})]
SOLVED += [(name, {"use_karras_sigmas": True}) for name in ("DPMSolverMultistep", "UniPCMultistep")]
SOLVED += [("DPMSolverMultistep", {"use_lu_lambdas": True})]
TRAILING = {"timestep_spacing": "trailing"}
SOLVED += [("UniPCMultistep", TRAILING | {"solver_order": order}) for order in (1, 3)]
SOLVED += [("DPMSolverMultistep", TRAILING | {"solver_order": 1})]
SOLVED += [
    ("DPMSolverMultistep", TRAILING | {"solver_order": 3, "solver_type": "heun"} | last)
    for last in [{"lower_order_final": False}]
]


@pytest.mark.parametrize("name, says", SOLVED, ids=str)
@torch.no_grad()
def test_a_folders_solver_is_its_usual_one(name, says, tmp_path):
    """From noise to the picture of diffusers' own, when nothing is said. On a Karras grid its
    DPM-Solver and UniPC ask the network at rounded times, which is the rest."""
    scheduler = getattr(diffusers, f"{name}Scheduler")(
        **SD_BETAS, **{"timestep_spacing": "leading", "steps_offset": 1} | says
    )
    parts, tokenizer = folder(tmp_path, scheduler), Tokenizer(MERGES)
    pipe = Pipeline(load(tmp_path, "sd1"), [tokenizer])
    run = pipe.txt2img("a red circle", 32, steps=5, scale=2.0, seed=3)
    theirs = their_picture(tmp_path, parts, tokenizer, "a red circle")
    near = 2e-4 if {"use_karras_sigmas", "use_lu_lambdas"} & {*says} else 1e-4
    assert (run.pictures() - theirs).abs().max() <= near and theirs.std() > 0.05


@pytest.mark.parametrize(
    "said, sampler, order",
    [
        (("DEISMultistep", 1), "deis", 1),
        (("DEISMultistep", 2), "deis", 2),
        (("DEISMultistep", 3), "deis", None),  # its own
        (("UniPCMultistep", 3), "unipc", 3),
        (("DPMSolverMultistep", 1), "ddim", None),
        (("DPMSolverMultistep", 3), "dpmpp_3m", None),
        (("DPMSolverMultistep", 3, "dpmsolver"), "dpm_2m", 3),
        (("DPMSolverMultistep", 2, "dpmsolver"), "dpm_2m", None),
        (("DPMSolverMultistep", 1, "sde-dpmsolver++"), "euler_a", None),
        (("DPMSolverMultistep", 2, "sde-dpmsolver++"), "dpmpp_2m_sde", None),
        (("DPMSolverSinglestep", 2), "dpmpp_2s", None),
        (("DPMSolverSinglestep", 3), "dpmpp_3s", None),
        (("DPMSolverSinglestep", 1, "dpmsolver"), "ddim", None),
        (("DPMSolverSinglestep", 3, "dpmsolver"), "dpm3", None),
    ],
    ids=str,
)
def test_a_folders_order_is_its_usual_one(said, sampler, order, tmp_path):
    name, told, *algorithm = said
    keys = dict(
        zip(
            ("_class_name", "solver_order", "algorithm_type"),
            (f"{name}Scheduler", told, *algorithm),
            strict=False,
        )
    )
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler/scheduler_config.json").write_text(json.dumps(keys))
    config = UNetConfig(**process(tmp_path, FAMILIES["sd1"]))
    assert (usual_sampler(config), usual_order(config)) == (sampler, order)
    keys |= {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}
    keys["_class_name"] = "DPMSolverMultistepScheduler"
    (tmp_path / "scheduler/scheduler_config.json").write_text(json.dumps(keys))
    with pytest.raises(CheckpointError, match="solver_order 3, and minisd takes 2 at most"):
        process(tmp_path, FAMILIES["sd1"])


def test_the_order_of_a_folder_goes_with_its_sampler_alone(tmp_path):
    said = {"_class_name": "UniPCMultistepScheduler", "solver_order": 3}
    folder(tmp_path, DDIMScheduler(**SD_DDIM))
    (tmp_path / "scheduler/scheduler_config.json").write_text(json.dumps(said))
    pipe = Pipeline(load(tmp_path, "sd1"), [Tokenizer(MERGES)])
    assert pipe.settled(Settings()).order == 3
    assert pipe.settled(Settings(sampler="unipc")).order is None
    assert pipe.settled(Settings(sampler="unipc", order=2)).order == 2


def test_the_names_of_solvers_are_of_the_menu():
    names, grids = get_args(SolverName), get_args(SolverGrid)
    assert all(find_sampler(name)[1] is None for name in names)
    assert all(find_grid(grid) == grid for grid in grids[1:])
    others = {"DDIMInverse", "DDIMParallel", "DDPMParallel", "SASolver"}
    ours = {name for name in names if name.startswith("dp")} | {"PLMS", "DPM++ 2M SDE"}
    assert {*SOLVERS} - others == {*names} - ours | {"PNDM"}


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [5, 10, 20, 50])
def test_the_times_are_those_of_diffusers(spacing, steps, tmp_path):
    scheduler = DDIMScheduler(**SD_DDIM | {"timestep_spacing": spacing, "set_alpha_to_one": True})
    scheduler.save_pretrained(tmp_path / "scheduler")
    scheduler.set_timesteps(steps)
    config = UNetConfig(**process(tmp_path, FAMILIES["sd1"]))
    assert times(config, steps) == [*(t + 1 for t in scheduler.timesteps.tolist()), 0]
    config = dataclasses.replace(config, grid=(*config.grid[:2], 1))
    visited = [t + 1 for t in scheduler.timesteps.tolist()]
    assert times(config, steps) == [*(t for t in visited if t > 1), 1]


def test_what_is_told_goes_before_the_scheduler(tmp_path):
    folder(tmp_path, DDIMScheduler(**SD_DDIM, prediction_type="sample"))
    assert load(tmp_path, "sd1", parts=["unet"]).unet.config.prediction == "x0"
    assert load(tmp_path, "sd1", "v", parts=["unet"]).unet.config.prediction == "v"


def test_what_is_left_out_or_null_stays_as_the_family_has_it(tmp_path):
    folders = {"unet": "unet", "vae": "vae", "text": "text_encoder"}
    assert as_said(tmp_path, FAMILIES["sd1"], folders) == FAMILIES["sd1"]
    assert process(tmp_path, FAMILIES["sd1"]) == {}
    for name in (*folders.values(), "scheduler"):
        (tmp_path / name).mkdir()
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (tmp_path / name / file).write_text('{"new_key": null, "sample_size": null}')
    assert as_said(tmp_path, FAMILIES["sd1"], folders) == FAMILIES["sd1"]
    assert process(tmp_path, FAMILIES["sd1"]) == {}


# ---- no key unread ------------------------------------------------------------------------

XL = {**SD_BETAS, **ENDS}
SCHEDULERS = ["DDIM", "PNDM", "DDPM", "EulerDiscrete", "EulerAncestralDiscrete"]
SCHEDULERS += ["DPMSolverMultistep", "UniPCMultistep", "HeunDiscrete", "DPMSolverSinglestep"]


def default(kind):
    """All keys that a class of the libraries writes, with SD's values."""
    if kind is CLIPTextModel:
        said = CLIPTextConfig(**TEXT).to_json_string(use_diff=False)
        return {**json.loads(said), "architectures": ["CLIPTextModel"]}
    if kind in (UNet2DConditionModel, AutoencoderKL):
        with torch.device("meta"):
            module = kind(**(UNET if kind is UNet2DConditionModel else VAE))
    else:
        known = inspect.signature(kind.__init__).parameters
        module = kind(**{k: v for k, v in {**XL, "clip_sample": False}.items() if k in known})
    return json.loads(module.to_json_string())


CASES = {
    "unet": (UNet2DConditionModel, UNetConfig),
    "vae": (AutoencoderKL, AutoencoderConfig),
    "text": (CLIPTextModel, TextConfig),
    **{f"{n}Scheduler": (getattr(diffusers, f"{n}Scheduler"), "scheduler") for n in SCHEDULERS},
}


def read(path: pathlib.Path, part, said):
    """What minisd makes of such a file, with nothing else in the folder."""
    scheduler = part.endswith("Scheduler")
    file = path / ("scheduler/scheduler_config.json" if scheduler else f"{part}/config.json")
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(said))
    known = FAMILIES["sdxl"]
    if scheduler:
        return dataclasses.replace(known.parts["unet"].config, **process(path, known))
    return as_said(path, known, {part: part}).parts[part].config


@pytest.mark.parametrize("part", CASES)
def test_every_key_that_the_libraries_write_is_taken_or_refused_by_name(part, tmp_path):
    """A key of a later version of theirs that stands in no table makes this fail."""
    theirs, ours = CASES[part]
    said = default(theirs)
    before, free = read(tmp_path, part, said), TABLES[ours].no_effect.split()
    one = json.loads(TABLES[ours].one)  # which may mean what null means
    for key in set(said) - {*free, "_diffusers_version", "_name_or_path"}:
        tried = ["nonsense", [7], 12345, {"a": 1}, True, False, 0.5]
        for value in (v for v in tried if v not in (said[key], one.get(key, said[key]))):
            try:
                after = read(tmp_path, part, said | {key: value})
            except CheckpointError as error:
                assert "config.json says " in str(error) and f"{key} " in str(error)
            else:
                assert after != before, (key, value)
    with pytest.raises(CheckpointError, match="says new_key 3, which minisd does not know"):
        read(tmp_path, part, said | {"new_key": 3})


def test_what_has_no_effect_is_in_no_other_list():
    for table in TABLES.values():
        taken = {*(p.split(":")[0] for p in table.same.split()), *table.taken}
        assert not taken & {*table.no_effect.split(), *json.loads(table.one)}


def test_a_scheduler_is_a_solver_of_the_same_process_or_refused(tmp_path):
    """Every scheduler that diffusers has."""
    names = {n for n in dir(diffusers) if n.endswith("Scheduler") and n[0] != "_"}
    ours = {f"{name}Scheduler" for name in SOLVERS}
    assert ours <= names and {"LCMScheduler", "TCDScheduler", "EDMEulerScheduler"} <= names - ours
    for name in names - ours:
        with pytest.raises(CheckpointError, match=f"says _class_name '{name}', and minisd takes"):
            read(tmp_path, "aScheduler", {"_class_name": name})
    for name in ours:
        assert read(tmp_path, "aScheduler", {**XL, "_class_name": name}).betas[0] == "scaled_linear"


@pytest.mark.parametrize(
    "says",
    [
        {"num_train_timesteps": 500},
        {"prediction_type": "flow_prediction"},
        {"beta_schedule": "laplace"},
        {"trained_betas": [0.1, 0.2]},
        {"timestep_type": "continuous"},
        {"sigma_max": 120.0},
        {"use_flow_sigmas": True},
        {"thresholding": True},
        {"variance_type": "learned_range"},
    ],
)
def test_another_process_is_refused(says, tmp_path):
    key = next(iter(says))
    with pytest.raises(CheckpointError, match=f"scheduler_config.json says {key} "):
        read(tmp_path, "aScheduler", says)


@pytest.mark.parametrize(
    "part, says",
    [
        ("vae", {"latents_mean": [0.0] * 4}),
        ("vae", {"shift_factor": 0.1}),
        ("unet", {"time_cond_proj_dim": 256}),
        ("unet", {"reverse_transformer_layers_per_block": [1, 2]}),
        ("unet", {"encoder_hid_dim_type": "text_proj"}),
        ("unet", {"attention_head_dim": [8, 9], "block_out_channels": [32, 64]}),
        ("unet", {"block_out_channels": [32, 48]}),
        ("text", {"hidden_act": "silu"}),
        ("text", {"architectures": ["T5EncoderModel"]}),
        ("text", {"intermediate_size": 100, "hidden_size": 32}),
    ],
)
def test_another_network_is_refused(part, says, tmp_path):
    with pytest.raises(CheckpointError, match=f"config.json says {next(iter(says))} "):
        read(tmp_path, part, says)


def test_the_noise_over_the_picture_that_is_upscaled(tmp_path):
    folders = {"scheduler": {}, "low_res_scheduler": {"beta_schedule": "scaled_linear"}}
    for folder, says in folders.items():
        diffusers.DDPMScheduler(**says).save_pretrained(tmp_path / folder)
    assert process(tmp_path, FAMILIES["upscaler"])["betas"] == ("linear", 1e-4, 0.02)
    diffusers.DDPMScheduler(beta_end=0.01).save_pretrained(tmp_path / "low_res_scheduler")
    with pytest.raises(CheckpointError, match="low_res_scheduler says .'linear', 0.0001, 0.01., "):
        process(tmp_path, FAMILIES["upscaler"])


def test_zeros_for_an_empty_negative_prompt(tmp_path):
    (tmp_path / "model_index.json").write_text('{"force_zeros_for_empty_prompt": false}')
    with pytest.raises(CheckpointError, match="says force_zeros_for_empty_prompt false"):
        process(tmp_path, FAMILIES["sdxl"])
    assert process(tmp_path, FAMILIES["sdxl-refiner"]) == {}
