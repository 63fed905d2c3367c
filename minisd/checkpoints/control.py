"""A ControlNet's file, as its authors' code or diffusers writes it, for the U-Net that it leads."""

from collections.abc import Mapping
from itertools import count
from pathlib import Path

import torch

from ..models.configs import ControlConfig, UNetConfig
from ..models.controlnet import ControlNet, control_config
from .diffusers_folder import converted, weights_in
from .families import Part, Signature, recognise, signature
from .layouts import without_wrapper
from .loading import load_module
from .lora_file import instead
from .tensorfile import CheckpointError, Stored, open_tensors, save_tensors

PREFIX = "control_model."
HINTS = {  # the hint's convolutions, in their order, as the official code and diffusers name them
    "official": lambda k: f"input_hint_block.{2 * k}.weight",
    "diffusers": lambda k: (
        f"controlnet_cond_embedding.{f'blocks.{k - 1}' if k else 'conv_in'}.weight"
    ),
}


def load_control(
    path: str | Path, unet: UNetConfig, dtype: torch.dtype = torch.float32, keep: bool = False
) -> ControlNet:
    """The ControlNet of a file, or of a folder that diffusers saved, for a U-Net of this config.

    Keys are the official code's, behind control_model. or not, or diffusers'. dtype and
    keep are as `load` has them. CheckpointError,
    before a weight is read, for what is no ControlNet or is one for another family.
    """
    path = Path(path)
    tensors = without_wrapper(open_tensors(weights_in(path, dtype) if path.is_dir() else path)[0])
    if any(key.startswith(PREFIX) for key in tensors):  # alone, or with the model that it leads
        tensors = {k.removeprefix(PREFIX): v for k, v in tensors.items() if k.startswith(PREFIX)}
    layout = next((name for name, key in HINTS.items() if key(0) in tensors), None)
    if layout is None or signature(tensors) is None:
        raise CheckpointError(f"{path} holds no ControlNet{instead(tensors)}")
    config, what = _config(path, tensors, unet, layout), f"{path.name}, ControlNet,"
    if layout == "diffusers":
        tensors = converted(Part(ControlNet, config, ""), tensors, what)[1]
    return load_module(ControlNet, config, tensors, dtype=None if keep else dtype, what=what)


def save_control(path: str | Path, control: ControlNet) -> None:
    """Write a ControlNet under its official names; the U-Net that it leads tells its config."""
    tensors = {PREFIX + key: value for key, value in control.state_dict().items()}
    save_tensors(path, tensors, {"format": "pt"})


def _config(
    path: Path, tensors: Mapping[str, Stored], unet: UNetConfig, layout: str
) -> ControlConfig:
    """The U-Net's config with the hint's network as the file has it. An inpainting U-Net is led by
    the ControlNets of its family that see x_t alone."""
    found = signature(tensors)
    wanted = Signature(found.in_channels, *(getattr(unet, name) for name in Signature._fields[1:]))
    if found != wanted:
        told = [
            f"its {name} is {has}, not {wants}"
            for name, has, wants in zip(Signature._fields, found, wanted, strict=True)
            if has != wants
        ]
        made = recognise(tensors) or "another U-Net"
        raise CheckpointError(f"{path} is a ControlNet for {made}: {', '.join(told)}")
    shapes = []
    for k in count():
        if (key := HINTS[layout](k)) not in tensors:
            break
        shapes.append(tensors[key].shape)
    if any(len(shape) != 4 for shape in shapes):
        raise CheckpointError(
            f"{path} is no ControlNet: its hint's network must be convolutions, got {shapes}"
        )
    widths = tuple(shape[0] for shape in shapes[::2])
    return control_config(unet, widths, in_channels=found.in_channels, hint_channels=shapes[0][1])
