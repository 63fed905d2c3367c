"""Published weights into the networks: read strictly, mapped from the file, one copy of each."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import diffusers_folder
from .diffusers_names import modern
from .families import (
    FAMILIES,
    PREDICTIONS,
    PREFIXES,
    Family,
    Part,
    fitted,
    on_meta,
    predicting,
    to_json,
    which_family,
)
from .models.clip import CLIPText
from .tensorfile import CheckpointError, Stored, compare, first_few, open_tensors, save_tensors

PARTS = ("unet", "vae", "text")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
EMA, EMA_COUNTERS = "model_ema.", {"model_ema.decay", "model_ema.num_updates"}
EXTRAS = re.compile(  # schedule buffers, counters, and networks for which there is no class here
    r"betas|\w*alphas_cumprod(_prev)?|posterior_\w+|lvlb_weights|logvar|scale_factor"
    r"|denoiser\.sigmas|(.*\.)?position_ids|model_ema\..*|first_stage_model\.loss\..*"
    r"|cond_stage_model\.embedding\..*|(depth_model|low_scale_model|embedder|noise_augmentor)\..*"
)


class Checkpoint(NamedTuple):
    """Networks of one family; None where a part was not asked for or the family has none."""

    family: str
    unet: nn.Module | None = None
    vae: nn.Module | None = None
    text: nn.Module | None = None
    text_2: nn.Module | None = None

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The parts that are there, by name."""
        return {k: v for k, v in self._asdict().items() if isinstance(v, nn.Module)}

    @property
    def configs(self) -> dict:
        """The parts' configs, by name."""
        return {name: module.config for name, module in self.modules.items()}


def load(
    path: str | Path,
    family: str | Family | None = None,
    prediction: str | None = None,
    dtype: torch.dtype = torch.float32,
    ema: bool = False,
    parts: Sequence[str] = PARTS,
) -> Checkpoint:
    """The networks of a .safetensors file, of a shard index, or of a diffusers folder.

    family is recognised from the keys where it is not told; told, it must agree. A Family of your
    own configs is not questioned. prediction, eps or v, must be told for SD 2, unless a folder's
    scheduler tells it. ema takes the averaged weights of the U-Net, where a file has both. "text"
    is all text encoders. The weights stay mapped from the file where dtype is the file's.
    CheckpointError says what does not fit.
    """
    path = Path(path)
    _check_arguments(prediction, dtype, parts)
    tensors, metadata = _open(path, dtype)
    known = which_family(path, tensors, metadata, family)
    wanted = [name for name in known.parts if name.split("_")[0] in parts]
    told = isinstance(family, Family) or "minisd" in metadata
    if "unet" in wanted:
        known = predicting(known, prediction or diffusers_folder.prediction(path), told)
    if path.is_dir():
        known, tensors = diffusers_folder.official(tensors, known, wanted)
    tensors = _with_text_model(tensors, known)
    if ema:
        tensors = _averaged(path, tensors, known)
    if not told:
        known = fitted(known, tensors)
    _no_strangers(path, tensors, known)
    modules = {}
    for name in wanted:
        module, config, prefix = known.parts[name]
        modules[name] = load_module(module, config, tensors, prefix, dtype, f"{path.name}, {name},")
    return Checkpoint(known.name, **modules)


def load_module(
    module: type[nn.Module],
    config,
    tensors: Mapping[str, Stored | Tensor],
    prefix: str = "",
    dtype: torch.dtype = torch.float32,
    what: str = "the checkpoint",
) -> nn.Module:
    """module(config) with the tensors whose names begin with prefix: all of them, and no others.

    Built without numbers, then filled, so nothing is held twice: a weight that is in dtype already
    is the tensor given. The network comes in eval mode. `what` begins the sentence of an error.
    """
    network = on_meta(Part(module, config, prefix))
    wanted = {prefix + key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {k: v for k, v in tensors.items() if k.startswith(prefix) and not EXTRAS.fullmatch(k)}
    if not found:
        raise CheckpointError(f"{what} is not there: no key begins with {prefix!r}")
    compare(what, wanted, {key: tuple(value.shape) for key, value in found.items()})
    whole = [f"{k} is {v.dtype}" for k, v in found.items() if not v.dtype.is_floating_point]
    if whole:
        raise CheckpointError(f"{what} must hold floating-point weights, but {first_few(whole)}")
    state = {key[len(prefix) :]: _weight(key, value, dtype) for key, value in found.items()}
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def _weight(key: str, value: Stored | Tensor, dtype: torch.dtype) -> Tensor:
    tensor = (value.read() if isinstance(value, Stored) else value).to(dtype)
    # the least and the greatest need no second copy, and a NaN shows in both
    if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
        raise CheckpointError(f"{key} holds NaN or infinite numbers (read as {dtype})")
    return tensor


def save(path: str | Path, checkpoint: Checkpoint, metadata: dict[str, str] | None = None) -> None:
    """Write a checkpoint's networks as one .safetensors file under the family's official prefixes.

    Their configs go along in the metadata, as "minisd", so the file says what it is even where its
    family is not a published one. The file is replaced whole or not at all.
    """
    published = FAMILIES[checkpoint.family].parts if checkpoint.family in FAMILIES else {}
    parts, tensors = {}, {}
    for name, module in checkpoint.modules.items():
        prefix = published[name].prefix if name in published else PREFIXES[type(module)]
        parts[name] = Part(type(module), module.config, prefix)
        tensors |= {prefix + key: value for key, value in module.state_dict().items()}
    said = {"minisd": to_json(Family(checkpoint.family, parts)), "format": "pt"}
    save_tensors(path, tensors, (metadata or {}) | said)


class PartInfo(NamedTuple):
    """What a file says of a part: how many tensors and numbers, and of which dtypes."""

    tensors: int
    parameters: int
    dtypes: tuple[str, ...]


class Info(NamedTuple):
    """What a checkpoint is. family is None where the keys do not tell it; then the parts are named
    by the first word of their keys. Keys that belong to no network stand under "other"."""

    family: str | None
    parts: dict[str, PartInfo]
    ema: bool
    metadata: dict[str, str]

    def __str__(self) -> str:
        lines = [f"family {self.family or 'unknown'}{', with EMA weights' if self.ema else ''}"]
        for name, part in self.parts.items():
            kinds = ", ".join(part.dtypes)
            lines.append(f"{name:8} {part.parameters:>13,} in {part.tensors:>4} tensors, {kinds}")
        return "\n".join(lines)


def info(path: str | Path) -> Info:
    """What a checkpoint is, from its headers alone."""
    path = Path(path)
    tensors, metadata = _open(path, torch.float32)
    try:
        known = which_family(path, tensors, metadata, None)
    except CheckpointError:
        known = None

    def part_of(key: str) -> str:
        if path.is_dir():
            return key.split("/")[0]
        if known is None:
            return key.split(".")[0]
        fits = [name for name, part in known.parts.items() if key.startswith(part.prefix)]
        return "other" if EXTRAS.fullmatch(key) or not fits else fits[0]

    groups = {}
    for key, stored in tensors.items():
        groups.setdefault(part_of(key), []).append(stored.like)
    parts = {
        name: PartInfo(
            len(group),
            sum(like.numel() for like in group),
            tuple(sorted({str(like.dtype).removeprefix("torch.") for like in group})),
        )
        for name, group in groups.items()
    }
    return Info(known and known.name, parts, any(k.startswith(EMA) for k in tensors), metadata)


def _open(path: Path, dtype: torch.dtype) -> tuple[dict[str, Stored], dict[str, str]]:
    if not path.is_dir():
        return open_tensors(path)
    if not diffusers_folder.is_folder(path):
        raise CheckpointError(
            f"{path} is a directory without any of {', '.join(diffusers_folder.FOLDERS)}: name a "
            ".safetensors file, a .safetensors.index.json, or a folder that diffusers saved"
        )
    return diffusers_folder.open_folder(path, dtype), {}


def _check_arguments(prediction, dtype, parts) -> None:
    if isinstance(parts, str) or not parts or set(parts) - set(PARTS):
        raise CheckpointError(f"parts must be some of {PARTS}, got {parts!r}")
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype must be one of {DTYPES}, got {dtype}")
    if prediction not in (None, *PREDICTIONS):
        raise CheckpointError(f"prediction must be one of {PREDICTIONS}, got {prediction!r}")


def _with_text_model(tensors: dict[str, Stored], known: Family) -> dict[str, Stored]:
    """CLIP's keys with the text_model. that transformers 5 leaves out."""
    prefixes = [part.prefix for part in known.parts.values() if part.module is CLIPText]
    for p in prefixes:
        tensors = {
            p + modern(key[len(p) :]) if key.startswith(p) else key: stored
            for key, stored in tensors.items()
        }
    return tensors


def _averaged(path: Path, tensors: dict[str, Stored], known: Family) -> dict[str, Stored]:
    """The tensors with the U-Net's replaced by their averages, whose names have lost their dots."""
    stored = {key for key in tensors if key.startswith(EMA)} - EMA_COUNTERS
    if not stored:
        raise CheckpointError(f"{path} has one set of weights, none named {EMA}...: leave ema out")
    unet = known.parts["unet"]
    keys = [unet.prefix + key for key in on_meta(unet).state_dict()]
    names = {key: EMA + key.removeprefix("model.").replace(".", "") for key in keys}
    compare(f"{path.name}, EMA,", dict.fromkeys(names.values()), dict.fromkeys(stored))
    return tensors | {key: tensors[name] for key, name in names.items()}


def _no_strangers(path: Path, tensors: dict[str, Stored], known: Family) -> None:
    prefixes = tuple(part.prefix for part in known.parts.values())
    strange = [k for k in tensors if not k.startswith(prefixes) and not EXTRAS.fullmatch(k)]
    if strange:
        raise CheckpointError(
            f"{path.name} holds {len(strange)} tensors that belong to no part of {known.name}: "
            f"{first_few(strange)}"
        )
