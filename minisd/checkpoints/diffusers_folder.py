"""A folder as diffusers saves a pipeline, read as if it were one file under the official names."""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

import torch

from ..models.clip import CLIPText, OpenCLIPText
from .diffusers_names import SAME, Row, modern, table
from .families import Family, Part, on_meta
from .layouts import LOGIT_SCALE, constant, joined
from .tensorfile import CheckpointError, Stored, compare, first_few, open_tensors, refuse_others

FOLDERS = ("unet", "vae", "text_encoder", "text_encoder_2")
PROJECTION = "text_projection.weight"
VARIANTS = ("", ".fp16", ".non_ema")
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")


def is_folder(path: Path) -> bool:
    """Whether a directory has a subfolder of diffusers'."""
    return any((path / name).is_dir() for name in FOLDERS)


def open_folder(path: Path, dtype: torch.dtype) -> dict[str, Stored]:
    """All parts' tensors under diffusers' names, behind the subfolder's: unet/conv_in.weight.

    Of a part stored in two precisions, the one that suits dtype.
    """
    tensors = {}
    for name in FOLDERS:
        if (path / name).is_dir():
            part = open_tensors(weights_in(path / name, dtype))[0]
            tensors |= {f"{name}/{modern(key)}": stored for key, stored in part.items()}
    return tensors


def weights_in(folder: Path, dtype: torch.dtype) -> Path:
    """The file of a subfolder's weights, of two precisions the one that suits dtype."""
    half = dtype in (torch.float16, torch.bfloat16)
    for variant in sorted(VARIANTS, key=lambda name: half and name != ".fp16"):
        for stem in STEMS:
            for name in (
                f"{variant}.safetensors",
                f".safetensors.index{variant}.json",
                f".safetensors{variant}.index.json",  # as older versions wrote it
            ):
                if (folder / (stem + name)).is_file():
                    return folder / (stem + name)
    for other in sorted(folder.glob("*.bin")):
        refuse_others(other)
    raise CheckpointError(f"{folder} holds no weights: no {', '.join(STEMS)}.safetensors")


def subfolders(path: Path, names: Iterable[str]) -> dict[str, str]:
    """The subfolder of each named part; CheckpointError where one is not there."""
    folders = {}
    for name in names:
        folder = {"text": "text_encoder", "text_2": "text_encoder_2"}.get(name, name)
        if name == "text" and not (path / folder).is_dir():
            folder = "text_encoder_2"  # SDXL's refiner has only the second
        if not (path / folder).is_dir():
            raise CheckpointError(
                f"{path} has no subfolder {folder}/, so its {name} is not there; "
                "load(parts=[...]) takes the other parts alone"
            )
        folders[name] = folder
    return folders


def official(
    tensors: dict[str, Stored], known: Family, folders: dict[str, str]
) -> tuple[dict[str, Stored], Family]:
    """The tensors of the parts in these folders under the official names, and the family."""
    found, parts = {}, dict(known.parts)
    for name, folder in folders.items():
        theirs = {
            key.removeprefix(folder + "/"): stored
            for key, stored in tensors.items()
            if key.startswith(folder + "/")
        }
        parts[name], ours = converted(parts[name], theirs, folder + "/")
        found |= ours
    return found, Family(known.name, parts)


def converted(part: Part, theirs: dict[str, Stored], where: str) -> tuple[Part, dict[str, Stored]]:
    """A part as deep as its tensors say, and these under the official names; `where` is for the
    message. What sampling does not use is left out."""
    unused = {"logit_scale"} | ({PROJECTION} if part.module is CLIPText else set())
    theirs = {k: v for k, v in theirs.items() if k not in unused and "position_ids" not in k}
    if part.module is OpenCLIPText:
        part = _as_deep_as(part, theirs)
        # SD 2's is stored without, and nothing reads the pooled vector there
        theirs = {PROJECTION: constant(torch.eye(part.config.width))} | theirs
        projection = theirs[PROJECTION].shape[0]
        part = part._replace(config=dataclasses.replace(part.config, projection=projection))
    return part, _renamed(part, theirs, where)


def _as_deep_as(part: Part, theirs: dict[str, Stored]) -> Part:
    """SD 2's folders leave out the text encoder's last layer, whose output is never used: what
    was the penultimate layer's output is the last one's."""
    layers = {m[1] for key in theirs if (m := re.match(r"text_model\.encoder\.layers\.(\d+)", key))}
    config = part.config
    if config.layer == -2 and len(layers) == config.layers - 1:
        part = part._replace(config=dataclasses.replace(config, layers=len(layers), layer=-1))
    return part


def _renamed(part: Part, theirs: dict[str, Stored], folder: str) -> dict[str, Stored]:
    module = on_meta(part)
    vector = "class_embedding" if "class_embedding.linear_1.weight" in theirs else "add_embedding"
    rows = table(module, vector)
    wanted = dict.fromkeys(name for row in rows for name in row.theirs)
    compare(folder, wanted, dict.fromkeys(theirs))
    ours = {part.prefix + row.ours: _joined(row, theirs) for row in rows}
    if part.module is OpenCLIPText:
        ours[part.prefix + "logit_scale"] = constant(torch.tensor(LOGIT_SCALE))
    return ours


def _joined(row: Row, theirs: dict[str, Stored]) -> Stored:
    """One of our tensors out of one or three of theirs, still unread."""
    found = [theirs[name] for name in row.theirs]
    if row.kind is SAME:
        return found[0]
    try:
        return joined(row.kind, *found)
    except RuntimeError:
        shapes = first_few([f"{n} is {s.shape}" for n, s in zip(row.theirs, found, strict=True)])
        raise CheckpointError(f"these do not make {row.ours}: {shapes}") from None
