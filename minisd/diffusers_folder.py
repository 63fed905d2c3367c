"""A folder as diffusers saves a pipeline, read as if it were one file under the official names."""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

import torch

from .diffusers_names import SAME, Row, modern, table
from .families import Family, Part, on_meta
from .models.clip import OpenCLIPText
from .tensorfile import (
    CheckpointError,
    Stored,
    compare,
    first_few,
    open_tensors,
    read_json,
    refuse_code,
)

FOLDERS = ("unet", "vae", "text_encoder", "text_encoder_2")
STEMS = ("diffusion_pytorch_model", "model")
PREDICTION = {"epsilon": "eps", "v_prediction": "v"}
LOGIT_SCALE = 2.6592  # log(1 / 0.07), where CLIP's training begins; sampling does not use it


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
            part = open_tensors(_weights(path / name, dtype))[0]
            tensors |= {f"{name}/{modern(key)}": stored for key, stored in part.items()}
    return tensors


def _weights(folder: Path, dtype: torch.dtype) -> Path:
    half = dtype in (torch.float16, torch.bfloat16)
    for variant in (".fp16", "") if half else ("", ".fp16"):
        for stem in STEMS:
            for name in (f"{variant}.safetensors", f".safetensors.index{variant}.json"):
                if (folder / (stem + name)).is_file():
                    return folder / (stem + name)
    for other in sorted(folder.glob("*.bin")):
        refuse_code(other)
    raise CheckpointError(f"{folder} holds no weights: no {' or '.join(STEMS)}.safetensors")


def prediction(path: Path) -> str | None:
    """eps or v, where the folder's scheduler says which."""
    config = path / "scheduler" / "scheduler_config.json"
    said = read_json(config).get("prediction_type") if config.is_file() else None
    return PREDICTION.get(said) if isinstance(said, str) else None


def official(
    tensors: dict[str, Stored], known: Family, names: Iterable[str]
) -> tuple[Family, dict[str, Stored]]:
    """The family as this folder has it, and the named parts' tensors under the official names."""
    found, parts = {}, dict(known.parts)
    for name in names:
        folder = {"text": "text_encoder", "text_2": "text_encoder_2"}.get(name, name)
        if name == "text" and not any(key.startswith("text_encoder/") for key in tensors):
            folder = "text_encoder_2"  # SDXL's refiner has only the second
        theirs = {
            key.removeprefix(folder + "/"): stored
            for key, stored in tensors.items()
            if key.startswith(folder + "/") and not key.endswith(".position_ids")
        }
        if theirs:
            parts[name] = _as_deep_as(parts[name], theirs)
            found |= _renamed(parts[name], theirs, folder)
    return Family(known.name, parts), found


def _as_deep_as(part: Part, theirs: dict[str, Stored]) -> Part:
    """SD 2's folders leave out the text encoder's last layer, whose output is never used: what
    was the penultimate layer's output is the last one's."""
    layers = {m[1] for key in theirs if (m := re.match(r"text_model\.encoder\.layers\.(\d+)", key))}
    config = part.config
    if part.module is OpenCLIPText and config.layer == -2 and len(layers) == config.layers - 1:
        part = part._replace(config=dataclasses.replace(config, layers=len(layers), layer=-1))
    return part


def _renamed(part: Part, theirs: dict[str, Stored], folder: str) -> dict[str, Stored]:
    module = on_meta(part)
    vector = "class_embedding" if "class_embedding.linear_1.weight" in theirs else "add_embedding"
    rows = table(module, vector)
    if part.module is OpenCLIPText:
        theirs = _what_sd2_leaves_out(theirs, part.config.projection)
    wanted = dict.fromkeys(name for row in rows for name in row.theirs)
    compare(f"{folder}/", wanted, dict.fromkeys(theirs))
    ours = {part.prefix + row.ours: _joined(row, theirs) for row in rows}
    if part.module is OpenCLIPText:
        ours[part.prefix + "logit_scale"] = _constant(torch.tensor(LOGIT_SCALE))
    return ours


def _what_sd2_leaves_out(theirs: dict[str, Stored], width: int) -> dict[str, Stored]:
    """SD 2's text encoder is stored without its projection, and nothing reads the pooled vector
    there: the identity stands in for it."""
    name = "text_projection.weight"
    return theirs if name in theirs else theirs | {name: _constant(torch.eye(width))}


def _constant(tensor: torch.Tensor) -> Stored:
    return Stored(tensor.to("meta"), lambda: tensor)


def _joined(row: Row, theirs: dict[str, Stored]) -> Stored:
    """One of our tensors out of one or three of theirs, still unread."""
    found = [theirs[name] for name in row.theirs]
    if row.kind is SAME:
        return found[0]
    try:
        like = row.kind.join(*(stored.like for stored in found))
    except RuntimeError:
        shapes = first_few([f"{n} is {s.shape}" for n, s in zip(row.theirs, found, strict=True)])
        raise CheckpointError(f"these do not make {row.ours}: {shapes}") from None
    return Stored(like, lambda: row.kind.join(*(stored.read() for stored in found)))
