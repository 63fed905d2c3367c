"""Where in a checkpoint's networks a LoRA's layers are, and for which family a file is made."""

import functools
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import nn

from .diffusers_names import Kind, table
from .families import FAMILIES, on_meta
from .lora_file import Layer, LoRAFile, plain
from .tensorfile import CheckpointError, first_few

FAMILY = "minisd.family"  # in the metadata of what save_lora writes
FIRST = ("sd1", "sd2", "sdxl", "sdxl-refiner")  # those whose U-Nets are told apart by most layers


class Place(NamedTuple):
    """A layer's weight: our key, and which of the tensors that diffusers makes of it."""

    key: str
    kind: Kind
    index: int
    shape: tuple[int, ...]


def places(network: nn.Module) -> dict[str, Place]:
    """Every layer by the names that files have for it, with _ for every dot.

    These are diffusers' and the official ones; those of older diffusers, to_out for to_out.0 and,
    in text encoders, to_q for q_proj; and those of transformers 5, without text_model.
    """
    state, found = network.state_dict(), {}
    for row in table(network):
        pieces = row.kind.split(state[row.ours])
        for i, (theirs, piece) in enumerate(zip(row.theirs, pieces, strict=True)):
            if piece.ndim < 2 or not theirs.endswith(".weight"):
                continue
            name = theirs.removesuffix(".weight")
            names = {name, re.sub(r"\b(q|k|v|out)_proj$", r"to_\1", name)}
            names |= {name.removesuffix(".0")} if name.endswith("to_out.0") else set()
            names |= {one.removeprefix("text_model.") for one in names}
            names |= {row.ours.removesuffix(".weight")} if len(row.theirs) == 1 else set()
            place = Place(row.ours, row.kind, i, tuple(piece.shape))
            found |= {one.replace(".", "_"): place for one in names}
    return found


def places_in(modules: Mapping[str, nn.Module]) -> dict[str, dict[str, Place]]:
    """The places in each network but the first stage, which no file changes."""
    return {name: places(module) for name, module in modules.items() if name != "vae"}


def layers_of(file: LoRAFile, family: str) -> Iterator[tuple[str, str, Layer]]:
    """A file's layers with their networks' names in the family: SDXL's refiner has the second text
    encoder alone."""
    for (network, name), layer in file.layers.items():
        yield "text" if family == "sdxl-refiner" and network == "text_2" else network, name, layer


def _misfits(file: LoRAFile, family: str, where: Mapping[str, Mapping[str, Place]]) -> list[str]:
    """The layers of a file that are not in networks, or not in this shape, or twice in the file."""
    found, seen = [], {}
    for network, name, layer in layers_of(file, family):
        place = where.get(network, {}).get(name)
        if place is None:
            found.append(f"{network} has no {name}")
        elif plain(place.shape) != layer.shape:
            shapes = f"{plain(place.shape)}, not {layer.shape}"
            found.append(f"{network} {name} is {shapes}")
        elif (network, place.key, place.index) in seen:
            found.append(f"{network} {name} is {seen[network, place.key, place.index]} once more")
        else:
            seen[network, place.key, place.index] = name
    return found


def check_fit(file: LoRAFile, family: str, where: Mapping[str, Mapping[str, Place]]) -> None:
    """CheckpointError, with the family that a file is made for, where it does not fit."""
    if found := _misfits(file, family, where):
        made = made_for(file)
        seems = f"it seems to be made for {made}" if made else "nor does it fit a published family"
        raise CheckpointError(
            f"{file.path} does not fit this {family}: {len(found)} of its {len(file.layers)} "
            f"layers do not, {first_few(found)}; {seems}"
        )


def made_for(file: LoRAFile) -> str | None:
    """The family that a file says it is for, or the first published one that it fits, or None."""
    if FAMILY in file.metadata:
        return file.metadata[FAMILY]
    fits = (name for name in (*FIRST, *FAMILIES) if not _misfits(file, name, _published(name)))
    return next(fits, None)


@functools.cache
def _published(family: str) -> dict[str, dict[str, Place]]:
    """The places of a family of FAMILIES."""
    parts = FAMILIES[family].parts.items()
    return places_in({name: on_meta(part) for name, part in parts if name != "vae"})
