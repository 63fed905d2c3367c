"""What the json files of a diffusers folder say, key by key: it is taken, or it is refused.

A table for each file tells what a key may say. A key that stands in no table, or another value, is
refused, so that nothing a folder says is passed over. What a file leaves out, or says null to,
stays as the family has it.

A scheduler is a process and a solver. The process (betas, prediction, spacing of the times) belongs
to the weights and is taken. The solver is taken by its name, as what the folder's pictures are
usually made with, and by its order; its other options stay as the solver here has them.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

from ..models.configs import AutoencoderConfig, Betas, Grid, SolverName, T, TextConfig, UNetConfig
from .families import Family, described, fits
from .tensorfile import CheckpointError, read_json

Each = int | tuple[int, ...]  # for all levels, or for each
PREDICTION = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
LOW_RES = ("scaled_linear", 1e-4, 0.02)  # of the noise that Pipeline.upscale lays over a picture
SOLVERS = """DDIM DDIMInverse DDIMParallel DDPM DDPMParallel DEISMultistep DPMSolverMultistep
    DPMSolverSDE DPMSolverSinglestep EulerAncestralDiscrete EulerDiscrete HeunDiscrete
    KDPM2AncestralDiscrete KDPM2Discrete LMSDiscrete PNDM SASolver UniPCMultistep""".split()
ALGORITHMS = {  # of the classes that have several solvers under one name: for orders 1, 2, 3
    "DPMSolverMultistep": {
        "dpmsolver++": ("DDIM", "DPMSolverMultistep", "dpmpp_3m"),
        "dpmsolver": ("DDIM", "dpm_2m", "dpm_2m"),
        "sde-dpmsolver++": ("EulerAncestralDiscrete", "DPM++ 2M SDE"),
        "deis": ("DEISMultistep",) * 3,
    },
    "DPMSolverSinglestep": {
        "dpmsolver++": ("DDIM", "DPMSolverSinglestep", "dpmpp_3s"),
        "dpmsolver": ("DDIM", "dpm2", "dpm3"),
        "sde-dpmsolver++": ("EulerAncestralDiscrete",),
        "deis": ("DEISMultistep",) * 3,
    },
}
SPREAD = {  # how a scheduler may spread its sigmas, and the grid that does so here
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_lu_lambdas": "exponential",
    "use_beta_sigmas": "beta",
}
ORDERED = {"DEISMultistep": 3, "UniPCMultistep": 2, "dpm_2m": 2}  # the orders that are theirs here


class Table(NamedTuple):
    """What a file's keys may say."""

    same: str  # theirs:ours, where the value is the same
    taken: dict[str, Any]  # the type of what is taken in other ways
    one: str  # as JSON: the one value that all networks here have
    no_effect: str  # on a picture, whatever the value


TABLES = {
    UNetConfig: Table(
        """in_channels:in_channels out_channels:out_channels layers_per_block:res_blocks
        cross_attention_dim:context_dim use_linear_projection:linear_projections
        norm_num_groups:groups num_class_embeds:classes
        projection_class_embeddings_input_dim:vector_dim""",
        {
            "block_out_channels": tuple[int, ...],
            "down_block_types": tuple[Literal["DownBlock2D", "CrossAttnDownBlock2D"], ...],
            "up_block_types": tuple[Literal["UpBlock2D", "CrossAttnUpBlock2D"], ...],
            "attention_head_dim": Each,
            "transformer_layers_per_block": Each,
            "only_cross_attention": Literal[False] | tuple[bool, ...],
        },
        """{"_class_name": "UNet2DConditionModel", "mid_block_type": "UNetMidBlock2DCrossAttn",
        "act_fn": "silu", "attention_type": "default", "center_input_sample": false,
        "class_embed_type": "projection", "class_embeddings_concat": false, "conv_in_kernel": 3,
        "conv_out_kernel": 3, "downsample_padding": 1, "dual_cross_attention": false,
        "flip_sin_to_cos": true, "freq_shift": 0, "mid_block_only_cross_attention": false,
        "mid_block_scale_factor": 1, "norm_eps": 1e-5, "resnet_out_scale_factor": 1,
        "resnet_skip_time_act": false, "resnet_time_scale_shift": "default",
        "time_embedding_type": "positional", "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256}""",
        # the last ones are of the averaging in training
        """sample_size dropout upcast_attention addition_embed_type_num_heads decay inv_gamma
        min_decay optimization_step power update_after_step use_ema_warmup""",
    ),
    AutoencoderConfig: Table(
        """layers_per_block:res_blocks latent_channels:z_channels norm_num_groups:groups
        scaling_factor:scale_factor""",
        {
            "block_out_channels": tuple[int, ...],
            "down_block_types": tuple[Literal["DownEncoderBlock2D"], ...],
            "up_block_types": tuple[Literal["UpDecoderBlock2D"], ...],
        },
        """{"_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "act_fn": "silu",
        "mid_block_add_attention": true, "use_quant_conv": true, "use_post_quant_conv": true,
        "shift_factor": 0}""",
        "sample_size force_upcast",
    ),
    TextConfig: Table(
        """hidden_size:width num_hidden_layers:layers num_attention_heads:heads
        vocab_size:vocabulary max_position_embeddings:length hidden_act:activation""",
        {
            "architectures": tuple[Literal["CLIPTextModel", "CLIPTextModelWithProjection"]],
            "intermediate_size": int,
            "eos_token_id": Literal[2, 49407],  # to transformers 2 is the largest id of a prompt
        },
        '{"model_type": "clip_text_model", "layer_norm_eps": 1e-5}',
        # projection_dim: the weights tell it
        """attention_dropout bos_token_id chunk_size_feed_forward dropout dtype id2label
        initializer_factor initializer_range is_encoder_decoder label2id output_attentions
        output_hidden_states pad_token_id problem_type projection_dim return_dict torch_dtype
        transformers_version""",
    ),
    "scheduler": Table(
        "",
        {
            "_class_name": Literal[tuple(f"{name}Scheduler" for name in SOLVERS)],
            "prediction_type": Literal[tuple(PREDICTION)],
            "beta_schedule": get_args(Betas)[0],
            "beta_start": float,
            "beta_end": float,
            "rescale_betas_zero_snr": bool,
            "timestep_spacing": get_args(Grid)[0],
            "steps_offset": int,
            "set_alpha_to_one": bool,
            "clip_sample": bool,
            "variance_type": Literal["fixed_small", "fixed_small_log", "fixed_large"],
            "algorithm_type": Literal[tuple(ALGORITHMS["DPMSolverMultistep"])],
            "solver_order": Literal[1, 2, 3],
        }
        | dict.fromkeys(SPREAD, bool),
        f"""{{"num_train_timesteps": {T}, "thresholding": false, "timestep_type": "discrete",
        "use_flow_sigmas": false, "use_dynamic_shifting": false}}""",
        """clip_sample_range corrector_order disable_corrector
        dynamic_thresholding_ratio euler_at_final final_sigmas_type flow_shift interpolation_type
        lambda_min_clipped lower_order_final predict_x0 predictor_order sample_max_value
        skip_prk_steps solver_p solver_type time_shift_type""",
    ),
}


class Said(dict):
    """What a file says, without its nulls, once its table allows it; `same` under our names."""

    def __init__(self, file: Path, kind: Any):
        self.file, table = file, TABLES[kind]
        names = dict(pair.split(":") for pair in table.same.split())
        types = get_type_hints(kind) if names else {}
        hints = dict.fromkeys(f"_diffusers_version _name_or_path {table.no_effect}".split(), Any)
        hints |= {key: Literal[value] for key, value in json.loads(table.one).items()}
        hints |= table.taken | {theirs: types[ours] for theirs, ours in names.items()}
        for key, value in (read_json(file) if file.is_file() else {}).items():
            if value is None:
                continue
            self[key] = value = tuple(value) if isinstance(value, list) else value
            if key not in hints:
                self.refuse(key, "which minisd does not know: take it out if it changes no picture")
            if not fits(value, hints[key], 0 if key in ("freq_shift", "steps_offset") else 1):
                self.refuse(key, f"and minisd takes {described(hints[key])}")
        self.same = {ours: self[theirs] for theirs, ours in names.items() if theirs in self}

    def refuse(self, key: str, why: str) -> None:
        """CheckpointError: this key's value is none that minisd takes."""
        raise CheckpointError(f"{self.file} says {key} {self.get(key)!r:.80}, {why}")


def as_said(path: Path, known: Family, folders: dict[str, str]) -> Family:
    """The family, its parts as the config.json in each one's folder says; folders: by part."""
    parts = dict(known.parts)
    for name, folder in folders.items():
        config = parts[name].config
        said = Said(path / folder / "config.json", type(config))
        changes = _widths(said, type(config)) | said.same
        if isinstance(config, UNetConfig):
            changes |= _levels(said)
        elif isinstance(config, AutoencoderConfig):
            changes |= {"embed_dim": changes.get("z_channels", config.embed_dim)}
        else:
            if said.get("intermediate_size", 0) not in (0, 4 * changes.get("width", 0)):
                why = f"and minisd takes four times hidden_size {said.get('hidden_size')}"
                said.refuse("intermediate_size", why)
            if config.norm and changes.get("layers", config.layers) < config.layers:
                changes["layer"] = -1  # SD 2's folders leave out the layer whose output is unused
        parts[name] = parts[name]._replace(config=dataclasses.replace(config, **changes))
    return Family(known.name, parts)


def _widths(said: Said, kind: type) -> dict:
    if not (widths := said.get("block_out_channels")):
        return {}
    if any(width % widths[0] for width in widths):
        said.refuse("block_out_channels", "and minisd takes multiples of the first")
    first = "model_channels" if kind is UNetConfig else "channels"
    return {first: widths[0], "channel_mult": tuple(width // widths[0] for width in widths)}


def _levels(said: Said) -> dict:
    """What the U-Net's file says of each level."""
    changes, widths = {}, said.get("block_out_channels", ())
    down, up = said.get("down_block_types", ()), said.get("up_block_types", ())
    if up != tuple(kind.replace("Down", "Up") for kind in down[::-1]):
        said.refuse("up_block_types", "and minisd takes those of down_block_types, mirrored")
    if down:
        attends = [2**level for level, kind in enumerate(down) if kind.startswith("Cross")]
        changes["attention_factors"] = tuple(attends[::-1])
    each = {
        key: said[key] if isinstance(said[key], tuple) else (said[key],) * len(widths)
        for key in ("attention_head_dim", "transformer_layers_per_block", "only_cross_attention")
        if key in said
    }
    for key, values in each.items():
        if len(values) != len(widths):
            said.refuse(key, f"and block_out_channels has {len(widths)} levels")
    if heads := each.get("attention_head_dim"):  # a number of heads, against its name
        width = {w / n for w, n in zip(widths, heads, strict=True)}
        if len(set(heads)) > 1 and (len(width) > 1 or not min(width).is_integer()):
            said.refuse("attention_head_dim", "and minisd takes one number or one width of heads")
        one = len(set(heads)) == 1
        changes |= {"heads": heads[0], "head_channels": None}
        changes |= {} if one else {"heads": None, "head_channels": int(min(width))}
    if depth := each.get("transformer_layers_per_block"):
        changes["transformer_depth"] = depth
    if cross := each.get("only_cross_attention"):
        changes["self_attention"] = tuple(not only for only in cross)
    return changes


def process(path: Path, known: Family, folder: str = "scheduler") -> dict:
    """What a folder's scheduler says of the U-Net: changes to its config."""
    said = Said(path / folder / "scheduler_config.json", "scheduler")
    changes, xl, index = {}, known.name.startswith("sdxl"), path / "model_index.json"
    zeros = read_json(index).get("force_zeros_for_empty_prompt") if index.is_file() else None
    if known.name == "sdxl" and zeros is False:
        what = "and minisd takes true: to SDXL an empty negative prompt is zeros"
        raise CheckpointError(f"{index} says force_zeros_for_empty_prompt false, {what}")
    if not said:
        return changes
    if xl and said.get("clip_sample"):  # in the other families diffusers leaves the clipping out
        said.refuse("clip_sample", "and minisd takes false: it does not clip latents")
    if "prediction_type" in said:
        changes["prediction"] = PREDICTION[said["prediction_type"]]
    if "rescale_betas_zero_snr" in said:
        changes["zero_terminal_snr"] = said["rescale_betas_zero_snr"]
    if any(key.startswith("beta_") for key in said):
        ends = said.get("beta_start", 1e-4), said.get("beta_end", 0.02)
        changes["betas"] = (said.get("beta_schedule", "linear"), *ends)
    spacing = said.get("timestep_spacing", "leading")
    name = said.get("_class_name", "DDIMScheduler").removesuffix("Scheduler")
    order = said.get("solver_order", 2)
    sigmas = name[:4] not in ("DDIM", "PNDM")  # which end where there is no noise
    end = int(spacing == "leading" and not sigmas)
    if not sigmas and "set_alpha_to_one" in said:
        end = int(not said["set_alpha_to_one"])
    if name in ALGORITHMS:
        orders = ALGORITHMS[name][said.get("algorithm_type", "dpmsolver++")]
        if order > len(orders):
            said.refuse(
                "solver_order", f"and minisd takes {len(orders)} at most with this algorithm"
            )
        name = orders[order - 1]
    name = "PLMS" if name == "PNDM" else name
    if "_class_name" in said and name in get_args(SolverName):
        spread = [grid for key, grid in SPREAD.items() if said.get(key)]
        other = () if ORDERED.get(name, order) == order else (order,)
        changes["solver"] = (name, spread[0] if spread else "", *other)
    offset = said.get("steps_offset", 1) if xl else 1  # as diffusers has it
    grid = (spacing, offset if spacing == "leading" else 0, end)
    usual = ("trailing", 0, 0) if changes.get("zero_terminal_snr") else ("leading", 1, 1)
    if xl and usual[0] == "leading" or sigmas and spacing == "leading":
        usual = None  # the official grid is another one
    if known.name == "upscaler" and folder == "scheduler":
        low = process(path, known, "low_res_scheduler").get("betas", LOW_RES)
        if low != LOW_RES:
            raise CheckpointError(f"{path}/low_res_scheduler says {low}, not {LOW_RES}")
    return changes | {"grid": None if grid == usual else grid}
