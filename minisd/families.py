"""The published families: which networks a checkpoint holds, where, and how to tell them apart."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from . import configs as c
from .models.autoencoder import AutoencoderKL
from .models.bert import BERTText
from .models.clip import CLIPText, OpenCLIPText
from .models.unet import UNet
from .models.vq import VQModel
from .tensorfile import CheckpointError, Stored

CONFIGS = {
    UNet: c.UNetConfig,
    AutoencoderKL: c.AutoencoderConfig,
    VQModel: c.AutoencoderConfig,
    CLIPText: c.TextConfig,
    OpenCLIPText: c.TextConfig,
    BERTText: c.TextConfig,
}
PREFIXES = {  # in the checkpoints of CompVis and of Stability's v2
    UNet: "model.diffusion_model.",
    AutoencoderKL: "first_stage_model.",
    VQModel: "first_stage_model.",
    CLIPText: "cond_stage_model.transformer.",
    OpenCLIPText: "cond_stage_model.model.",
    BERTText: "cond_stage_model.",
}
PREDICTIONS = ("eps", "v")
TEXTS = (CLIPText, OpenCLIPText, BERTText)
ROLES = {"unet": (UNet,), "vae": (AutoencoderKL, VQModel), "text": TEXTS, "text_2": TEXTS}


class Part(NamedTuple):
    """A network of a family: its class, its config, and what its keys begin with."""

    module: type[nn.Module]
    config: c.UNetConfig | c.AutoencoderConfig | c.TextConfig
    prefix: str


class Family(NamedTuple):
    """The parts of a kind of checkpoint, by name: unet, vae, text, text_2."""

    name: str
    parts: dict[str, Part]


def family(name: str, **parts: tuple) -> Family:
    """A Family from (class, config) or (class, config, prefix) for each part."""
    return Family(name, {k: Part(*p[:2], *(p[2:] or (PREFIXES[p[0]],))) for k, p in parts.items()})


KL, KL_SDXL, CLIP = (AutoencoderKL, c.KL_F8), (AutoencoderKL, c.KL_F8_SDXL), (CLIPText, c.CLIP_L)
OPENCLIP, BIGG = (OpenCLIPText, c.OPENCLIP_H), (OpenCLIPText, c.OPENCLIP_BIGG)
VQ, BERT = (VQModel, c.VQ_F4), (BERTText, c.BERT_LDM)
EMBEDDER = "conditioner.embedders."
FAMILIES = {
    f.name: f
    for f in (
        family("sd1", unet=(UNet, c.SD1), vae=KL, text=CLIP),
        family("sd1-inpaint", unet=(UNet, c.SD1_INPAINT), vae=KL, text=CLIP),
        family("sd2", unet=(UNet, c.SD2), vae=KL, text=OPENCLIP),
        family("sd2-inpaint", unet=(UNet, c.SD2_INPAINT), vae=KL, text=OPENCLIP),
        family("sd2-depth", unet=(UNet, c.SD2_DEPTH), vae=KL, text=OPENCLIP),
        family("unclip-h", unet=(UNet, c.SD2_UNCLIP_H), vae=KL, text=OPENCLIP),
        family("unclip-l", unet=(UNet, c.SD2_UNCLIP_L), vae=KL, text=OPENCLIP),
        family("upscaler", unet=(UNet, c.UPSCALER), vae=(AutoencoderKL, c.KL_F4), text=OPENCLIP),
        family(
            "sdxl",
            unet=(UNet, c.SDXL),
            vae=KL_SDXL,
            text=(CLIPText, c.CLIP_L_SDXL, EMBEDDER + "0.transformer."),
            text_2=(*BIGG, EMBEDDER + "1.model."),
        ),
        family(
            "sdxl-refiner",
            unet=(UNet, c.SDXL_REFINER),
            vae=KL_SDXL,
            text=(*BIGG, EMBEDDER + "0.model."),
        ),
        family("ldm-txt2img", unet=(UNet, c.LDM_TXT2IMG), vae=KL, text=BERT),
        family(
            "ldm-text2img256",
            unet=(UNet, c.LDM_TEXT2IMG256),
            vae=VQ,
            text=(BERTText, c.BERT_LDM_256),
        ),
        family("ldm-cin256", unet=(UNet, c.LDM_CIN256), vae=VQ),
        family("ldm-ffhq256", unet=(UNet, c.LDM_FFHQ256), vae=VQ),
    )
}


class _NothingDrawn(TorchFunctionMode):
    """normal_ does nothing: for a tensor without numbers torch would import its compiler first,
    70 MB and a second."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is nn.init.normal_:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def on_meta(part: Part) -> nn.Module:
    """The network without its numbers: names and shapes only."""
    try:
        with torch.device("meta"), _NothingDrawn():
            return part.module(part.config)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError, IndexError, KeyError) as error:
        raise CheckpointError(f"{part.config} makes no {part.module.__name__}: {error}") from None


class Signature(NamedTuple):
    """What tells one family's U-Net from another's, whatever its width."""

    in_channels: int
    context_dim: int | None
    linear_projections: bool
    vector_dim: int | None
    classes: int | None


def signature(tensors: Mapping[str, Stored | Tensor]) -> Signature | None:
    """Read off a U-Net's tensors, under official names or diffusers'; None where it is no U-Net."""

    def shape(*names: str) -> tuple[int, ...]:
        """The first of these names that is there; (None, None) if none is."""
        shapes = [tuple(tensors[name].shape) for name in names if name in tensors]
        return shapes[0] if shapes and len(shapes[0]) > 1 else (None, None)

    inward = shape("input_blocks.0.0.weight", "conv_in.weight")[1]
    if inward is None:
        return None
    attention = [key for key in tensors if key.endswith("attn2.to_k.weight")]
    projections = [key for key in tensors if key.endswith(".proj_in.weight")]
    vectors = (
        "label_emb.0.0.weight",
        "add_embedding.linear_1.weight",
        "class_embedding.linear_1.weight",
    )
    return Signature(
        inward,
        shape(*attention[:1])[1],
        bool(projections) and len(tensors[projections[0]].shape) == 2,
        shape(*vectors)[1],
        shape("label_emb.weight", "class_embedding.weight")[0],
    )


def recognise(tensors: Mapping[str, Stored | Tensor]) -> str | None:
    """The name of the family that a U-Net's tensors belong to, or None."""
    found = signature(tensors)
    for known in FAMILIES.values():
        config = known.parts["unet"].config
        if found == Signature(*(getattr(config, field) for field in Signature._fields)):
            return known.name
    return None


def which_family(path: Path, tensors, metadata, told: str | Family | None) -> Family:
    """The family told, or that of the metadata, or that of the U-Net's keys; they must agree."""
    if isinstance(told, Family):
        return told
    unet = {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        for prefix in (PREFIXES[UNet], "unet/")
        if key.startswith(prefix)
    }
    if "minisd" in metadata:
        known = from_json(metadata["minisd"])
    else:
        known = FAMILIES.get(recognise(unet))
    if told and known and told != known.name:
        raise CheckpointError(f"{path} is a checkpoint of {known.name}, not of {told}")
    if not told and not known:
        found = signature(unet)
        seen = ", ".join(f"{k} {v}" for k, v in found._asdict().items()) if found else ""
        what = f"its U-Net has {seen}" if found else "it holds no U-Net"
        raise CheckpointError(
            f"cannot tell the family of {path} from its keys: {what}; tell load(family=...), or "
            f"--family, one of {', '.join(FAMILIES)}"
        )
    if not known and told not in FAMILIES:
        raise CheckpointError(f"family must be one of {', '.join(FAMILIES)}, got {told!r}")
    return known or FAMILIES[told]


def predicting(known: Family, prediction: str | None, told: bool) -> Family:
    """The family with the U-Net's prediction as told; SD 2's must be."""
    if prediction is None and known.name == "sd2" and not told:
        raise CheckpointError(
            "tell the prediction, eps or v (load(prediction=...), --prediction): SD 2's 512-base "
            "predicts eps, its 768-v predicts v, and keys and shapes are the same in both files"
        )
    unet = known.parts["unet"]
    config = dataclasses.replace(unet.config, prediction=prediction or unet.config.prediction)
    return Family(known.name, known.parts | {"unet": unet._replace(config=config)})


def fitted(known: Family, tensors: Mapping[str, Stored | Tensor]) -> Family:
    """The family at the width of a checkpoint under official names: a small U-Net or first stage
    is one only in width. Text encoders stay as they are: no key tells their number of heads."""
    parts = dict(known.parts)
    for name, key, field in (
        ("unet", "input_blocks.0.0.weight", "model_channels"),
        ("vae", "encoder.conv_in.weight", "channels"),
    ):
        if name not in parts or parts[name].prefix + key not in tensors:
            continue
        module, config, prefix = parts[name]
        shape = tensors[prefix + key].shape
        heads = name == "unet" and (config.head_channels or config.heads) or 1
        if len(shape) == 4 and shape[0] % heads == 0 and shape[0] % 32 == 0 and shape[0] > 0:
            parts[name] = Part(module, dataclasses.replace(config, **{field: shape[0]}), prefix)
    return Family(known.name, parts)


def to_json(known: Family) -> str:
    """A family as text, for a file's metadata."""
    parts = {
        name: {
            "module": part.module.__name__,
            "prefix": part.prefix,
            "config": dataclasses.asdict(part.config),
        }
        for name, part in known.parts.items()
    }
    return json.dumps({"family": known.name, "parts": parts})


def from_json(text: str) -> Family:
    """What to_json wrote; CheckpointError where it is not that."""
    modules = {module.__name__: module for module in CONFIGS}
    try:
        content, parts = json.loads(text), {}
        for name, part in content["parts"].items():
            module = modules[part["module"]]
            if module not in ROLES[name]:
                raise ValueError(f"{name} cannot be a {module.__name__}")
            values = {k: tuple(v) if isinstance(v, list) else v for k, v in part["config"].items()}
            parts[name] = Part(module, CONFIGS[module](**values), str(part["prefix"]))
        return Family(str(content["family"]), parts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"the metadata's configs of minisd cannot be read: {error!r}"
        ) from None
