"""A checkpoint of random weights: every key, shape and size of a published one, and no pictures.

    python tools/random_checkpoint.py sd1 sd1-random.safetensors               4.3 GB
    python tools/random_checkpoint.py sdxl sdxl-random.safetensors --dtype float16
    python tools/random_checkpoint.py sd1 small.safetensors --width 32         60 MB, to try things
    python tools/random_checkpoint.py sd1 folder/ --parts unet vae text        as diffusers keeps it

To see whether a machine can hold and run a family, and how fast, without its weights. Matrices keep
the size of what they multiply and norms are near 1, so nothing overflows. Each tensor is drawn from
a generator of its own, seeded by its name, and written before the next: memory holds one of them,
and the file and the folder of one family have the same weights.
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import struct
import sys
import zlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from minisd.checkpoints.diffusers_names import table
from minisd.checkpoints.families import FAMILIES, Family, Part, on_meta, to_json
from minisd.checkpoints.tensorfile import DTYPES, Stored
from minisd.models.autoencoder import AutoencoderKL
from minisd.models.clip import CLIPText
from minisd.models.unet import UNet
from minisd.pipeline.conditioning import CLIP_VOCABULARY

KINDS = {dtype: kind for kind, dtype in DTYPES.items()}
FOLDERS = {UNet: "unet", AutoencoderKL: "vae", CLIPText: "text_encoder"}
NUMBERS = {"sdxl": 6, "sdxl-refiner": 5}  # that its vector holds beside the text


def draw(key: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A weight by its name: fan-in for matrices, near 1 for norms, near 0 for biases."""
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    weight = torch.randn(tuple(shape), generator=generator)
    if len(shape) > 1 and "embedding" not in key:
        weight *= math.prod(shape[1:]) ** -0.5
    else:
        weight *= 0.02
    if len(shape) == 1 and key.endswith("weight"):
        weight += 1
    return weight.to(dtype)


def random_tensors(part: Part, dtype: torch.dtype = torch.float32) -> dict[str, Stored]:
    """A network's tensors under its own names, each drawn when it is read."""
    return {
        key: Stored(value.to(dtype), lambda key=key, value=value: draw(key, value.shape, dtype))
        for key, value in on_meta(part).state_dict().items()
    }


def under_diffusers_names(part: Part, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The same under diffusers' names, and as it keeps them."""
    return {
        name: Stored(like, lambda i=i, row=row: list(row.kind.split(tensors[row.ours].read()))[i])
        for row in table(on_meta(part))
        for i, (name, like) in enumerate(
            zip(row.theirs, row.kind.split(tensors[row.ours].like), strict=True)
        )
    }


def write(path: pathlib.Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> None:
    """A safetensors file, one tensor at a time: 8 bytes of length, the header, the numbers."""
    header, end = {"__metadata__": {"format": "pt", **metadata}}, 0
    for key, stored in tensors.items():
        begin, end = end, end + stored.like.numel() * stored.dtype.itemsize
        header[key] = {"dtype": KINDS[stored.dtype], "shape": stored.shape}
        header[key]["data_offsets"] = [begin, end]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(path.name + ".part")
    try:
        with open(partial, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for stored in tensors.values():
                # a scalar has no bytes to view, a row of one has
                numbers = stored.read().contiguous().reshape(-1).view(torch.uint8).numpy()
                numbers.tofile(file)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_file(
    path: pathlib.Path,
    known: Family,
    names: Sequence[str],
    dtype: torch.dtype,
    told: bool = False,
) -> None:
    """The named parts in one file under the official names; told: with their configs as metadata,
    without which a file of an unpublished size could not be read."""
    parts = {name: known.parts[name] for name in names}
    tensors = {
        part.prefix + key: stored
        for part in parts.values()
        for key, stored in random_tensors(part, dtype).items()
    }
    write(path, tensors, {"minisd": to_json(Family(known.name, parts))} if told else {})


def write_folder(
    path: pathlib.Path, known: Family, names: Sequence[str], dtype: torch.dtype
) -> None:
    """The named parts as diffusers and transformers keep them: a subfolder each, config and all."""
    for name in names:
        part = known.parts[name]
        below = path / FOLDERS[part.module]
        below.mkdir(parents=True, exist_ok=True)
        (below / "config.json").write_text(json.dumps(diffusers_config(part)))
        stem = "model" if part.module is CLIPText else "diffusion_pytorch_model"
        tensors = under_diffusers_names(part, random_tensors(part, dtype))
        write(below / f"{stem}.safetensors", tensors, {})


def diffusers_config(part: Part) -> dict:
    """config.json of a part, for the library that reads it."""
    config = part.config
    if part.module is CLIPText:
        return {
            "model_type": "clip_text_model",
            "vocab_size": config.vocabulary,
            "hidden_size": config.width,
            "intermediate_size": 4 * config.width,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "hidden_act": config.activation,
            "projection_dim": config.width,
            "bos_token_id": 49406,
            "eos_token_id": 49407,
        }
    levels = len(config.channel_mult)
    if part.module is AutoencoderKL:
        return {
            "_class_name": "AutoencoderKL",
            "block_out_channels": [m * config.channels for m in config.channel_mult],
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
            "layers_per_block": config.res_blocks,
            "norm_num_groups": config.groups,
            "scaling_factor": config.scale_factor,
        }
    widths = [m * config.model_channels for m in config.channel_mult]
    attends = [2**i in config.attention_factors for i in range(levels)]
    said = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": widths,
        "layers_per_block": config.res_blocks,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]],
        "attention_head_dim": [config.heads or w // config.head_channels for w in widths],
        "transformer_layers_per_block": config.transformer_depth,
        "cross_attention_dim": config.context_dim,
        "use_linear_projection": config.linear_projections,
        "sample_size": 64,
    }
    if config.vector_dim:  # SDXL's: the text's pooled vector and some numbers
        said |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": config.vector_dim,
        }
    return said


def small(known: Family, width: int) -> Family:
    """The family at a width of its networks that a laptop runs in a second; its topology stays."""
    texts = {
        name: dataclasses.replace(
            part.config,
            width=width,
            layers=3,
            heads=4,
            projection=part.config.projection and width,
        )
        for name, part in known.parts.items()
        if name.startswith("text")
    }
    if any(text.vocabulary != CLIP_VOCABULARY for text in texts.values()) or not texts:
        raise ValueError(f"{known.name} has no text encoder of CLIP's, so there is no small one")
    unet = known.parts["unet"].config
    configs = texts | {
        "unet": dataclasses.replace(
            unet,
            model_channels=width,
            context_dim=width * len(texts),
            head_channels=unet.head_channels and width // 4,
            vector_dim=unet.vector_dim and width + NUMBERS.get(known.name, 1) * 256,
        ),
        "vae": dataclasses.replace(known.parts["vae"].config, channels=width),
    }
    return Family(
        known.name, {name: p._replace(config=configs[name]) for name, p in known.parts.items()}
    )


def main(arguments: list[str] | None = None) -> int:
    """Write one file or folder, and say how large it became."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("out", type=pathlib.Path, help="a .safetensors file, or a folder")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--parts", nargs="+", help="unet, vae, text, text_2; all by default")
    parser.add_argument("--width", type=int, help="of a small one, in multiples of 32")
    options = parser.parse_args(arguments)
    known, dtype = FAMILIES[options.family], getattr(torch, options.dtype)
    names = options.parts or list(known.parts)
    if set(names) - set(known.parts):
        parser.error(f"{known.name} has the parts {', '.join(known.parts)}")
    if options.width is not None:
        if options.width < 32 or options.width % 32:
            parser.error("--width must be a multiple of 32")
        known = small(known, options.width)
    if options.out.suffix == ".safetensors":
        write_file(options.out, known, names, dtype, told=options.width is not None)
        files = [options.out]
    elif options.out.suffix:
        parser.error(f"{options.out} is neither a .safetensors file nor a folder")
    elif any(known.parts[name].module not in FOLDERS for name in names):
        parser.error("a folder holds what SD 1 and the U-Nets and decoders of the others are")
    else:
        write_folder(options.out, known, names, dtype)
        files = sorted(options.out.rglob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    print(f"{options.out}: {known.name}, {options.dtype}, {size / 1e9:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
