"""The published families: which networks a checkpoint holds, where, and how to tell them apart."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..models import configs as c
from ..models.autoencoder import AutoencoderKL
from ..models.bert import BERTText
from ..models.clip import CLIPText, OpenCLIPText
from ..models.unet import UNet
from ..models.vq import VQModel
from .layouts import kind_of
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
PREDICTIONS = ("eps", "v", "x0")
EMA = "model_ema."
FROM_0 = {"pad", "grid", "attention_levels", "words"}  # where 0 is a value like another
LARGEST = 2**24
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
    """What torch.nn.init draws is left out: it takes a tensor without numbers the longer way, and
    for normal_ torch would import its compiler first, 70 MB and a second."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == nn.init.__name__:
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
    """Read off a U-Net's tensors, under official names or diffusers'; None where it is no U-Net.

    Names are compared without dots, which averages have lost.
    """
    tensors = {key.replace(".", ""): tensor for key, tensor in tensors.items()}

    def shape(*names: str) -> tuple[int, ...]:
        """The first of these names that is there; (None, None) if none is."""
        names = [name.replace(".", "") for name in names]
        shapes = [tuple(tensors[name].shape) for name in names if name in tensors]
        return shapes[0] if shapes and len(shapes[0]) > 1 else (None, None)

    inward = shape("input_blocks.0.0.weight", "conv_in.weight")[1]
    if inward is None:
        return None
    attention = [key for key in tensors if key.endswith("attn2to_kweight")]
    projections = [key for key in tensors if key.endswith("proj_inweight")]
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
        for prefix in (PREFIXES[UNet], "unet/", EMA + "diffusion_model")
        if key.startswith(prefix)
    }
    if "minisd" in metadata:
        known = from_json(metadata["minisd"])
        check(known, len(tensors), f"the metadata of {path}")
    elif signature(unet) is None and (kind := kind_of(tensors)):
        raise CheckpointError(f"{path} holds {kind[1]}")
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


def predicting(known: Family, changes: dict, told: bool) -> Family:
    """The family with the U-Net's config as told; SD 2's prediction must be."""
    if "prediction" not in changes and known.name == "sd2" and not told:
        raise CheckpointError(
            "tell the prediction, eps or v (load(prediction=...), --prediction): SD 2's 512-base "
            "predicts eps, its 768-v predicts v, and keys and shapes are the same in both files"
        )
    unet = known.parts["unet"]
    unet = unet._replace(config=dataclasses.replace(unet.config, **changes))
    return Family(known.name, known.parts | {"unet": unet})


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
            parts[name] = Part(module, CONFIGS[module](**values), part["prefix"])
        known = Family(content["family"], parts)
        names = [known.name, *(part.prefix for part in parts.values())]
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"family and prefix must be text, got {names}")
        if known.name in FAMILIES and "unet" in parts:
            for field in ("context_dim", "vector_dim", "classes"):
                has = [f.parts["unet"].config for f in (known, FAMILIES[known.name])]
                if len({getattr(config, field) is None for config in has}) > 1:
                    raise ValueError(f"{field} is not as {known.name} has it")
        return known
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"the metadata's configs of minisd cannot be read: {error!r}"
        ) from None


# ---- whether a value can be one ------------------------------------------------------------


def check(known: Family, tensors: int, where: str) -> None:
    """CheckpointError where a config's value is not of its field's type or in no sane range, or
    where a part has more layers than the file has tensors: before anything is built."""
    for name, part in known.parts.items():
        for field, hint in get_type_hints(type(part.config)).items():
            value = getattr(part.config, field)
            if not fits(value, hint, 0 if field in FROM_0 else 1):
                said = f"{where} says {field} {value!r:.80} of {name}"
                raise CheckpointError(f"{said}, and minisd takes {described(hint)}")
        config = part.config
        if isinstance(config, c.TextConfig):
            layers = config.layers
            if config.words >= config.vocabulary:
                said = f"{config.words} words of a vocabulary of {config.vocabulary}"
                raise CheckpointError(f"{where} says {said} of {name}")
            if part.module is not BERTText and config.width % config.heads:
                raise CheckpointError(
                    f"{where} says heads {config.heads} of {name}, whose width is {config.width}"
                )
        else:
            depth = max(getattr(config, "transformer_depth", ()), default=1)
            layers = len(config.channel_mult) * config.res_blocks * depth
        if layers > tensors:
            raise CheckpointError(
                f"{where} says that {name} has {layers} layers, and there are {tensors} tensors"
            )


def fits(value: Any, hint: Any, least: int = 1) -> bool:
    """Whether a value is of a type hint's type, whole numbers from least on, floats above 0."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Literal:
        return value in inner
    if kind in (Union, UnionType):
        return any(fits(value, one, least) for one in inner)
    if kind is tuple:
        if not isinstance(value, tuple) or ... not in inner and len(value) != len(inner):
            return False
        each = inner[:1] * len(value) if ... in inner else inner
        return all(fits(v, one, least) for v, one in zip(value, each, strict=True))
    if hint is int:
        return type(value) is int and least <= value <= LARGEST
    if hint is float:
        return type(value) in (int, float) and 0 < value <= LARGEST
    return hint is Any or type(value) is hint


def described(hint: Any) -> str:
    """A type hint for a message: "one of ['a', 'b']", "int | tuple[int, ...]"."""
    return re.sub(r"typing\.|<class '(\w+)'>", r"\1", f"{hint}").replace("Literal", "one of ")
