"""Published weights into the networks: read strictly, mapped from the file, one copy of each."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..models.clip import CLIPText, OpenCLIPText
from . import diffusers_config, diffusers_folder, layouts
from .diffusers_names import modern
from .families import (
    EMA,
    FAMILIES,
    PREDICTIONS,
    PREFIXES,
    Family,
    Part,
    check,
    fitted,
    on_meta,
    predicting,
    to_json,
    which_family,
)
from .layouts import EXTRAS
from .tensorfile import CheckpointError, Stored, compare, first_few, open_tensors, save_tensors

PARTS = ("unet", "vae", "text")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
EMA_COUNTERS = {EMA + "decay", EMA + "num_updates"}


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
    keep: bool = False,
) -> Checkpoint:
    """The networks of a .safetensors file, of a shard index, or of a diffusers folder.

    family is recognised from the keys where it is not told; told, it must agree. A Family of your
    own configs is not questioned, except by a folder's json files, whose word is taken. prediction,
    eps, v or x0, must be told for SD 2, unless a folder's scheduler tells it; told, it goes before
    the scheduler's. ema takes the averaged weights of the U-Net, where a file has both. "text" is
    all text encoders. The weights stay mapped from the file where dtype is the file's. keep: each
    stays in the dtype that the file has (float8 becomes float16, which holds it exactly); dtype
    only chooses between the files of a folder that has two precisions.
    CheckpointError says what does not fit, before any weight is read.
    """
    path = Path(path)
    _check_arguments(prediction, dtype, parts)
    tensors, metadata = _open(path, dtype)
    known = which_family(path, tensors, metadata, family)
    wanted = [name for name in known.parts if name.split("_")[0] in parts]
    told = isinstance(family, Family) or "minisd" in metadata
    prediction = {"prediction": prediction} if prediction else {}
    changes = layouts.markers(tensors)
    if path.is_dir():
        folders = diffusers_folder.subfolders(path, wanted)
        known = diffusers_config.as_said(path, known, folders)
        check(known, len(tensors), f"{path}")
        changes = diffusers_config.process(path, known)
        tensors, known = diffusers_folder.official(tensors, known, folders)
    else:
        tensors, known = _one_layout(tensors, known)
    if "unet" in wanted:
        known = predicting(known, changes | prediction, told)
        averages = [key for key in tensors if key.startswith(EMA)]
        if ema or averages and not any(k.startswith(known.parts["unet"].prefix) for k in tensors):
            tensors = _averaged(path, tensors, known)
    if not told:
        known = fitted(known, tensors)
    _no_strangers(path, tensors, known)
    readers = {
        name: _reader(known.parts[name], tensors, f"{path.name}, {name},", None if keep else dtype)
        for name in wanted
    }  # all are there and fit, so now
    return Checkpoint(known.name, **{name: read() for name, read in readers.items()})


def load_module(
    module: type[nn.Module],
    config,
    tensors: Mapping[str, Stored | Tensor],
    prefix: str = "",
    dtype: torch.dtype | None = torch.float32,
    what: str = "the checkpoint",
) -> nn.Module:
    """module(config) with the tensors whose names begin with prefix: all of them, and no others.

    Built without numbers, then filled, so nothing is held twice: a weight that is in dtype already
    is the tensor given, and with None all are. The network comes in eval mode. `what` begins the
    sentence of an error.
    """
    return _reader(Part(module, config, prefix), tensors, what, dtype)()


def _reader(
    part: Part, tensors: Mapping[str, Stored | Tensor], what: str, dtype: torch.dtype | None
) -> Callable[[], nn.Module]:
    """A function that reads the network; what can be told without reading is told now."""
    network, prefix = on_meta(part), part.prefix
    wanted = {prefix + key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {k: v for k, v in tensors.items() if k.startswith(prefix) and not EXTRAS.fullmatch(k)}
    if not found:
        raise CheckpointError(f"{what} is not there: no key begins with {prefix!r}")
    compare(what, wanted, {key: tuple(value.shape) for key, value in found.items()})
    whole = [f"{k} is {v.dtype}" for k, v in found.items() if not v.dtype.is_floating_point]
    if whole:
        raise CheckpointError(f"{what} must hold floating-point weights, but {first_few(whole)}")

    def read() -> nn.Module:
        state = {k[len(prefix) :]: _weight(f"{what} {k}", v, dtype) for k, v in found.items()}
        network.load_state_dict(state, strict=True, assign=True)
        return network.eval()

    return read


def _weight(name: str, value: Stored | Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = value.read() if isinstance(value, Stored) else value
    if dtype is None:
        dtype = tensor.dtype if tensor.dtype in DTYPES else torch.float16  # of float8
    tensor = tensor.to(dtype)
    # the least and the greatest need no second copy, and a NaN shows in both
    if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
        raise CheckpointError(f"{name} holds NaN or infinite numbers (read as {dtype})")
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
    by what the file is instead, such as "LoRA", or by the first word of their keys. Keys that
    belong to no network stand under "other"."""

    family: str | None
    parts: dict[str, PartInfo]
    ema: bool
    metadata: dict[str, str]

    def __str__(self) -> str:
        ema = ", with EMA weights" if self.ema else ""
        beside = self.parts and self.parts.keys() <= {"LoRA", "inversion", "ControlNet"}
        lines = [] if beside else [f"family {self.family or 'unknown'}{ema}"]
        for name, part in self.parts.items():
            kinds = ", ".join(part.dtypes)
            count = f"{part.tensors:>4} tensor{'s' if part.tensors != 1 else ''}"
            lines.append(f"{name:8} {part.parameters:>13,} in {count}, {kinds}")
        return "\n".join(lines)


def info(path: str | Path) -> Info:
    """What a checkpoint is, from its headers alone."""
    path = Path(path)
    tensors, metadata = _open(path, torch.float32)
    try:
        known = which_family(path, tensors, metadata, None)
    except CheckpointError:
        known = None
    kind = None if known or path.is_dir() else layouts.kind_of(tensors)

    def part_of(key: str) -> str:
        if path.is_dir():
            return key.split("/")[0]
        if known is None:
            return kind[0] if kind else key.split(".")[0]
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
        tensors, metadata = open_tensors(path)
        return layouts.without_wrapper(tensors), metadata
    if not diffusers_folder.is_folder(path):
        raise CheckpointError(
            f"{path} is a directory without any of {', '.join(diffusers_folder.FOLDERS)}: name a "
            ".safetensors file, a .safetensors.index.json, or a folder that diffusers saved"
        )
    if (path / "transformer").is_dir() and not (path / "unet").is_dir():
        raise CheckpointError(f"{path} has a transformer/: it holds {layouts.TRANSFORMER}")
    return diffusers_folder.open_folder(path, dtype), {}


def _check_arguments(prediction, dtype, parts) -> None:
    if isinstance(parts, str) or not parts or set(parts) - set(PARTS):
        raise CheckpointError(f"parts must be some of {PARTS}, got {parts!r}")
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype must be one of {DTYPES}, got {dtype}")
    if prediction not in (None, *PREDICTIONS):
        raise CheckpointError(f"prediction must be one of {PREDICTIONS}, got {prediction!r}")


def _one_layout(tensors: dict[str, Stored], known: Family) -> tuple[dict[str, Stored], Family]:
    """A file's tensors under the official names: CLIP's with the text_model. that transformers 5
    leaves out, the first stage's attention, SD 2's text encoder where it is as transformers has it,
    OpenCLIP's logit_scale. And the family with the text encoder that the file has."""
    tensors, parts = layouts.with_official_attention(tensors), dict(known.parts)
    for name, part in known.parts.items():
        p, theirs = part.prefix, {}
        if part.module is CLIPText:
            tensors = {
                p + modern(key[len(p) :]) if key.startswith(p) else key: stored
                for key, stored in tensors.items()
            }
        elif part.module is OpenCLIPText:
            hf = PREFIXES[CLIPText]
            theirs = {key: v for key, v in tensors.items() if key.startswith(hf)}
            tensors = {key: v for key, v in tensors.items() if key not in theirs}
            theirs = {modern(key.removeprefix(hf)): v for key, v in theirs.items()}
            if theirs:
                parts[name], found = diffusers_folder.converted(part, theirs, hf)
                tensors |= found
            elif any(key.startswith(p) for key in tensors):
                scale = layouts.constant(torch.tensor(layouts.LOGIT_SCALE))
                tensors = {p + "logit_scale": scale} | tensors
    return tensors, Family(known.name, parts)


def _averaged(path: Path, tensors: dict[str, Stored], known: Family) -> dict[str, Stored]:
    """The tensors with the U-Net's replaced by their averages, whose names have lost their dots."""
    stored = {key for key in tensors if key.startswith(EMA)} - EMA_COUNTERS
    if not stored:
        raise CheckpointError(f"{path} has one set of weights, none named {EMA}*: leave ema out")
    unet = known.parts["unet"]
    keys = [unet.prefix + key for key in on_meta(unet).state_dict()]
    names = {key: EMA + key.removeprefix("model.").replace(".", "") for key in keys}
    compare(f"{path.name}, EMA,", dict.fromkeys(names.values()), dict.fromkeys(stored))
    return tensors | {key: tensors[name] for key, name in names.items()}


def _no_strangers(path: Path, tensors: dict[str, Stored], known: Family) -> None:
    prefixes = tuple(part.prefix for part in known.parts.values())
    strange = [k for k in tensors if not k.startswith(prefixes) and not EXTRAS.fullmatch(k)]
    if strange:
        many = f"{len(strange)} tensors that belong" if strange[1:] else "1 tensor that belongs"
        raise CheckpointError(
            f"{path.name} holds {many} to no part of {known.name}: {first_few(strange)}"
        )
