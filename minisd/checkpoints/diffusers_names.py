"""The diffusers folder layout: its tensor names against the official ones, as one table."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..models.configs import AutoencoderConfig, ControlConfig, TextConfig, UNetConfig

RESBLOCK = {  # official part: diffusers' part
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
VAE_BLOCK = {name: name for name in ("norm1", "conv1", "norm2", "conv2")}
VAE_BLOCK["nin_shortcut"] = "conv_shortcut"
VAE_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OPENCLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


class Kind(NamedTuple):
    """How diffusers keeps a tensor: join makes ours from theirs, split theirs from ours."""

    join: Callable[..., Tensor]
    split: Callable[[Tensor], Iterable[Tensor]]


SAME = Kind(lambda a: a, lambda a: (a,))
CONVOLUTION = Kind(lambda a: a[..., None, None], lambda a: (a[..., 0, 0],))  # theirs is a Linear
TRANSPOSED = Kind(lambda a: a.T.contiguous(), lambda a: (a.T.contiguous(),))
FUSED = Kind(lambda q, k, v: torch.cat([q, k, v]), lambda a: a.chunk(3))


class Row(NamedTuple):
    """One line of the table: our key, diffusers' key (or keys), and how they relate."""

    ours: str
    theirs: tuple[str, ...]
    kind: Kind = SAME


def _unet_parts(config: UNetConfig, vector: str) -> dict[str, str]:
    """Official module -> diffusers' module; what an entry holds below it has the same names."""
    parts = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "label_emb.0.0": f"{vector}.linear_1",
        "label_emb.0.2": f"{vector}.linear_2",
        "label_emb": "class_embedding",
        "input_blocks.0.0": "conv_in",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
        "middle_block.1": "mid_block.attentions.0",
    }

    def resblock(ours: str, theirs: str) -> None:
        parts.update({f"{ours}.{a}": f"{theirs}.{b}" for a, b in RESBLOCK.items()})

    resblock("middle_block.0", "mid_block.resnets.0")
    resblock("middle_block.2", "mid_block.resnets.1")
    levels, blocks = len(config.channel_mult), config.res_blocks
    for level in range(levels):
        down, up = f"down_blocks.{level}", f"up_blocks.{level}"
        first = 1 + level * (blocks + 1)
        for j in range(blocks):
            resblock(f"input_blocks.{first + j}.0", f"{down}.resnets.{j}")
            parts[f"input_blocks.{first + j}.1"] = f"{down}.attentions.{j}"
        parts[f"input_blocks.{first + blocks}.0.op"] = f"{down}.downsamplers.0.conv"
        attends = 2 ** (levels - 1 - level) in config.attention_factors
        for j in range(blocks + 1):
            stage = f"output_blocks.{level * (blocks + 1) + j}"
            resblock(f"{stage}.0", f"{up}.resnets.{j}")
            if attends:
                parts[f"{stage}.1"] = f"{up}.attentions.{j}"
        parts[f"{stage}.{1 + attends}.conv"] = f"{up}.upsamplers.0.conv"
    if isinstance(config, ControlConfig):
        parts |= _control_parts(config)
    return parts


def _control_parts(config: ControlConfig) -> dict[str, str]:
    """What a ControlNet has beside the U-Net's way down."""
    connections = len(config.channel_mult) * (config.res_blocks + 1)
    parts = {f"zero_convs.{i}.0": f"controlnet_down_blocks.{i}" for i in range(connections)}
    parts["middle_block_out.0"] = "controlnet_mid_block"
    between = [f"blocks.{i}" for i in range(2 * len(config.hint_widths) - 2)]
    for k, theirs in enumerate(("conv_in", *between, "conv_out")):
        parts[f"input_hint_block.{2 * k}"] = f"controlnet_cond_embedding.{theirs}"
    return parts


def _vae_parts(config: AutoencoderConfig) -> dict[str, str]:
    parts = {name: name for name in ("quant_conv", "post_quant_conv")}
    last = len(config.channel_mult) - 1

    def block(ours: str, theirs: str) -> None:
        parts.update({f"{ours}.{a}": f"{theirs}.{b}" for a, b in VAE_BLOCK.items()})

    for half in ("encoder", "decoder"):
        for name, theirs in {"conv_in": "", "norm_out": "conv_norm_out", "conv_out": ""}.items():
            parts[f"{half}.{name}"] = f"{half}.{theirs or name}"
        block(f"{half}.mid.block_1", f"{half}.mid_block.resnets.0")
        block(f"{half}.mid.block_2", f"{half}.mid_block.resnets.1")
        attention = f"{half}.mid_block.attentions.0"
        parts[f"{half}.mid.attn_1.norm"] = f"{attention}.group_norm"
        for name, theirs in VAE_ATTENTION.items():
            parts[f"{half}.mid.attn_1.{name}"] = f"{attention}.{theirs}"
    for level in range(last + 1):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{last - level}"
        for j in range(config.res_blocks + 1):
            block(f"encoder.down.{level}.block.{j}", f"{down}.resnets.{j}")
            block(f"decoder.up.{level}.block.{j}", f"{up}.resnets.{j}")
        parts[f"encoder.down.{level}.downsample.conv"] = f"{down}.downsamplers.0.conv"
        parts[f"decoder.up.{level}.upsample.conv"] = f"{up}.upsamplers.0.conv"
    return parts


def _openclip_parts(config: TextConfig) -> dict[str, str]:
    parts = {
        "token_embedding": "text_model.embeddings.token_embedding",
        "ln_final": "text_model.final_layer_norm",
    }
    for i in range(config.layers):
        ours, theirs = f"transformer.resblocks.{i}", f"text_model.encoder.layers.{i}"
        parts.update({f"{ours}.{a}": f"{theirs}.{b}" for a, b in OPENCLIP_LAYER.items()})
    return parts


def _openclip_row(key: str) -> Row | None:
    """The rows of an OpenCLIP text encoder that are not a renaming of modules."""
    if key == "positional_embedding":
        return Row(key, ("text_model.embeddings.position_embedding.weight",))
    if key == "text_projection":
        return Row(key, ("text_projection.weight",), TRANSPOSED)
    if ".attn.in_proj_" in key:
        layer, kind = key.split(".")[2], key.rpartition("_")[2]
        names = (f"text_model.encoder.layers.{layer}.self_attn.{a}_proj.{kind}" for a in "qkv")
        return Row(key, tuple(names), FUSED)
    return None


def table(module: nn.Module, vector: str = "add_embedding") -> list[Row]:
    """A row for each key of module that diffusers has; module may be on the meta device.

    vector is diffusers' name for the U-Net's vector condition: add_embedding in SDXL,
    class_embedding in unCLIP. OpenCLIP's logit_scale has no row: diffusers drops it.
    """
    config, rows = module.config, []
    if isinstance(config, UNetConfig):
        parts = _unet_parts(config, vector)
    elif isinstance(config, AutoencoderConfig):
        parts = _vae_parts(config)
    else:
        parts = _openclip_parts(config)
    openclip = hasattr(module, "text_projection")
    for key, value in module.state_dict().items():
        if isinstance(config, TextConfig) and not openclip:  # CLIP-L has these names already
            rows.append(Row(key, (key,)))
        elif openclip and (row := _openclip_row(key)):
            rows.append(row)
        elif key != "logit_scale":
            linear = ".attn_1." in key and value.ndim == 4
            rows.append(Row(key, (_rename(key, parts),), CONVOLUTION if linear else SAME))
    return rows


def _rename(key: str, parts: Mapping[str, str]) -> str:
    """key with the longest module name that stands in parts replaced."""
    end = len(key)
    while (end := key.rfind(".", 0, end)) > 0:
        if key[:end] in parts:
            return parts[key[:end]] + key[end:]
    raise ValueError(f"{key} has no name in diffusers")


def to_diffusers(tensors: Mapping[str, Tensor], rows: list[Row]) -> dict[str, Tensor]:
    """Our tensors under diffusers' names."""
    return {
        name: tensor
        for row in rows
        for name, tensor in zip(row.theirs, row.kind.split(tensors[row.ours]), strict=True)
    }


def from_diffusers(tensors: Mapping[str, Tensor], rows: list[Row]) -> dict[str, Tensor]:
    """diffusers' tensors under our names."""
    return {row.ours: row.kind.join(*(tensors[name] for name in row.theirs)) for row in rows}


def modern(key: str) -> str:
    """The name that the table knows for a key that another version of the libraries wrote: the
    VAE's attention was query, key, value once; transformers 5 leaves text_model. out."""
    stem, _, kind = key.rpartition(".")
    before, _, name = stem.rpartition(".")
    if before.endswith("attentions.0") and name in OLD_VAE_ATTENTION:
        return f"{before}.{OLD_VAE_ATTENTION[name]}.{kind}"
    if key.startswith(("embeddings.", "encoder.layers.", "final_layer_norm.")):
        return f"text_model.{key}"
    return key
