"""LoRAs and checkpoints: a file's changes merged into the weights, and LoRAs saved as a file.

`lora_file` reads the file, and `lora_fit` finds its layers in the networks. The sum is
W + Σ g α/r B A (LoRA eq. 3), in float32 at least, rounded once.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..models.lora import lora_delta, loras
from .diffusers_names import table
from .families import Part, on_meta
from .loading import Checkpoint
from .lora_file import NETWORKS, Layer, LoRAFile, open_lora
from .lora_fit import FAMILY, Place, check_fit, layers_of, made_for, places_in
from .tensorfile import CheckpointError, first_few, save_tensors

WORDS = "minisd.words"  # in the metadata of what save_lora writes


class Change(NamedTuple):
    """One layer of one file, and how much of it."""

    place: Place
    layer: Layer
    scale: float
    file: Path


def with_loras(
    checkpoint: Checkpoint,
    files: Sequence[tuple[LoRAFile, float]],
    dtype: torch.dtype | None = None,
) -> Checkpoint:
    """The checkpoint with LoRAs merged into its weights, each times its scale; several add up.

    The networks that change are new ones. The weights that change are in dtype, or in their own;
    those that stay are shared. CheckpointError, before any weight is read, where a file does not
    fit.
    """
    where, todo = places_in(checkpoint.modules) if files else {}, {}
    for file, scale in files:
        if not math.isfinite(scale):
            raise CheckpointError(f"the scale of {file.path} must be a finite number, got {scale}")
        check_fit(file, checkpoint.family, where)
        for network, name, layer in layers_of(file, checkpoint.family):
            place = where[network][name]
            changes = todo.setdefault(network, {}).setdefault(place.key, [])
            changes.append(Change(place, layer, scale, file.path))
    changed = {
        network: _changed(checkpoint.modules[network], changes, dtype)
        for network, changes in todo.items()
    }
    return checkpoint._replace(**changed)


def _changed(
    network: nn.Module, changes: Mapping[str, list[Change]], dtype: torch.dtype | None
) -> nn.Module:
    state = network.state_dict()
    for key, todo in changes.items():
        state[key] = _sum(state[key], todo).to(dtype or state[key].dtype)
        if not state[key].isfinite().all():
            names = first_few([str(change.file) for change in todo])
            raise CheckpointError(f"with {names}, {key} holds NaN or infinite numbers")
    copy = on_meta(Part(type(network), network.config, ""))
    copy.load_state_dict(state, assign=True)
    return copy.eval()


def _sum(weight: Tensor, changes: Sequence[Change]) -> Tensor:
    """A weight and its changes, in float32 at least; each is added to the tensor of diffusers'
    that it is of, such as q's of OpenCLIP's one tensor for q, k and v."""
    kind, wide = changes[0].place.kind, torch.promote_types(weight.dtype, torch.float32)
    pieces = list(kind.split(weight.to(wide)))
    for place, (down, up, alpha), scale, _ in changes:
        delta = lora_delta(down.read().to(wide), up.read().to(wide), alpha)
        pieces[place.index] = pieces[place.index] + scale * delta.view(place.shape)
    return kind.join(*pieces)


# ---- what a file is, and writing one ------------------------------------------------------


def describe(path: str | Path) -> str:
    """What info says of a LoRA's file, or why it is none that is applied here."""
    try:
        file = open_lora(path)
    except CheckpointError as error:
        return str(error)
    layers = file.layers.values()
    networks = Counter(network for network, _ in file.layers)
    networks = {network: networks[network] for network in NETWORKS.values() if networks[network]}
    counts = ", ".join(f"{count} of {network}" for network, count in networks.items())
    ranks = _from_to({layer.down.shape[0] for layer in layers})
    alphas = _from_to({layer.alpha for layer in layers})
    made = made_for(file) or "no published family"
    return f"{file.layout} layout, for {made}; layers: {counts}; rank {ranks}, alpha {alphas}"


def _from_to(numbers: set[float]) -> str:
    ends = [f"{number:g}" for number in (min(numbers), max(numbers))]
    return " to ".join(dict.fromkeys(ends))


def save_lora(path: str | Path, checkpoint: Checkpoint, words: Sequence[str] = ()) -> None:
    """Write the LoRAs that are in a checkpoint's networks, by models.lora.add_lora, as one file.

    In kohya's layout, with diffusers' names: each alpha is a tensor beside its matrices, and the
    other programs read it too. Their scales are not of the file: whoever applies it tells one.
    words: those that it was trained for, if the model itself was never told them.
    """
    tensors, modules = {}, checkpoint.modules
    begins = {"unet": "lora_unet_", "text": "lora_te_", "text_2": "lora_te2_"}
    begins |= {"text": "lora_te1_"} if checkpoint.text_2 else {}
    for network in begins.keys() & {name for name in modules if any(loras(modules[name]))}:
        module = modules[network]
        rows = table(on_meta(Part(type(module), module.config, "")))
        names = {row.ours: row.theirs[0].removesuffix(".weight") for row in rows}
        for name, lora in loras(module):
            key = begins[network] + names[f"{name}.weight"].replace(".", "_")
            tensors[f"{key}.lora_down.weight"] = lora.down
            tensors[f"{key}.lora_up.weight"] = lora.up
            tensors[f"{key}.alpha"] = torch.tensor(float(lora.alpha))
    if not tensors:
        raise CheckpointError("no U-Net or text encoder has a LoRA here: add_lora puts them there")
    save_tensors(path, tensors, {"format": "pt", FAMILY: checkpoint.family, WORDS: " ".join(words)})
