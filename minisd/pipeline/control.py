"""A ControlNet beside the U-Net: its hint, and how much of what it adds is taken."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..models.configs import T
from ..models.controlnet import ControlNet, guess_scales


def led(
    unet: nn.Module,
    control: ControlNet,
    hint: Tensor,
    scale: float = 1.0,
    guess: bool = False,
    times: tuple[float, float] = (T, 0),
) -> Callable[..., Tensor]:
    """The U-Net with what a ControlNet adds, times the scale; it is called as the U-Net is.

    hint (b, 3, f h, f w) in 0..1, for each x of a batch, or of a doubled one, the unconditional
    half first. In guess mode that half is not led, and guess_scales' share of each addition is
    taken. A U-Net of more channels than the ControlNet, as for inpainting, shares x_t with it.
    times: from the first down to the last of these the ControlNet leads, and is not asked at others
    (diffusers' control_guidance_start and _end, which are shares of the steps).
    Official: `ControlledUnetModel`, `ControlLDM.apply_model`
    """
    connections = len(control.zero_convs) + 1
    scales = guess_scales(connections) if guess else [1.0] * connections

    def network(x: Tensor, index: Tensor, context=None, y=None) -> Tensor:
        if not times[1] <= float(index[0]) + 1 <= times[0]:
            return unet(x, index, context, y)
        hints = hint.repeat(len(x) // len(hint), 1, 1, 1)
        free = len(x) - len(hint) if guess else 0
        seen = (x[:, : control.config.in_channels], hints, index, context, y)
        added = control(*(part if part is None else part[free:] for part in seen))
        added = [scale * g * a for g, a in zip(scales, added, strict=True)]
        added = [torch.cat([a.new_zeros(free, *a.shape[1:]), a]) for a in added]
        return unet(x, index, context, y, added)

    return network


def hint_size(height: int, width: int, short: int, unit: int) -> tuple[int, int]:
    """(h, w) of the picture that a hint leads: its proportions, the shorter side `short`, both
    rounded to multiples of the unit.

    Official: `resize_image`, whose unit is 64
    """
    scale = short / min(height, width) / unit
    return tuple(max(1, round(side * scale)) * unit for side in (height, width))
