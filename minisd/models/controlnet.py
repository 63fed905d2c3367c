"""ControlNet (arXiv 2302.05543): a copy of a U-Net's way down that leads it by a picture, the hint.

The copy reads the hint, and what it finds goes through convolutions that begin at 0 to the skips of
the U-Net, which is frozen: at first nothing changes, and nothing that the U-Net knows is lost.
"""

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn

from .blocks import zero
from .configs import ControlConfig, UNetConfig
from .unet import Stage, UNet


def controlled(
    x: Tensor, c: Tensor, block: Callable, copy: Callable, z1: Callable, z2: Callable
) -> Tensor:
    """ControlNet eq. 2: a frozen block beside its trainable copy, between two zero convolutions.

        y_c = F(x; Θ) + Z(F(x + Z(c; Θ_z1); Θ_c); Θ_z2)

    x and c (b, ch, h, w); block is F(·; Θ), copy F(·; Θ_c); z1 and z2 are Z(·; Θ_z1), Z(·; Θ_z2).
    """
    return block(x) + z2(copy(x + z1(c)))


def zero_conv(channels: int, out: int | None = None, size: int = 1) -> nn.Conv2d:
    """ControlNet §3.1: Z(·; Θ_z), a convolution whose weight and bias begin at 0.

    Its output is 0, so at first it changes nothing; the gradient of its weight is not 0, since that
    is the input times the gradient of the output.
    """
    return zero(nn.Conv2d(channels, out or channels, size, padding=size // 2))


def guess_scales(connections: int = 13) -> list[float]:
    """ControlNet guess mode of its code: each connection's scale, the middle's last.

    The authors' code has it, and the paper does not.

        0.825^(12 - i),  i = 0..12

    Official: `control_scales`, `guess_mode`
    """
    return [0.825 ** (connections - 1 - i) for i in range(connections)]


class ControlNet(UNet):
    """ControlNet Figure 3b: the U-Net's way down and its middle once more, and zero convolutions.

    The attribute names are the published checkpoints': input_hint_block, zero_convs,
    middle_block_out, and the U-Net's own.
    """

    config: ControlConfig

    def __init__(self, config: ControlConfig):
        super().__init__(config)
        del self.output_blocks, self.out
        widths = config.hint_widths
        layers = [nn.Conv2d(config.hint_channels, widths[0], 3, padding=1), nn.SiLU()]
        for width, wider in pairwise(widths):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.SiLU()]
            layers += [nn.Conv2d(width, wider, 3, padding=1, stride=2), nn.SiLU()]
        self.input_hint_block = Stage(*layers, zero_conv(widths[-1], config.model_channels, 3))
        channels = skip_channels(config)
        self.zero_convs = nn.ModuleList(Stage(zero_conv(ch)) for ch in channels)
        self.middle_block_out = Stage(zero_conv(channels[-1]))

    @classmethod
    def copy_of(cls, unet: UNet, config: ControlConfig) -> "ControlNet":
        """One that begins as a copy of the U-Net; the hint's network and the zero convolutions are
        new."""
        control = cls(config)
        known = {k: v for k, v in unet.state_dict().items() if k in control.state_dict()}
        control.load_state_dict(control.state_dict() | known)
        return control

    def forward(
        self,
        x: Tensor,
        hint: Tensor,
        index: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
    ) -> list[Tensor]:
        """hint (b, 3, f h, f w) in 0..1, the others as UNet.forward has them -> what to add to the
        U-Net's skips and, last, to its middle. ValueError for a hint of another size."""
        self._check(x, index, context, y)
        f, channels = self.config.factor, self.config.hint_channels
        want = (len(x), channels, f * x.shape[2], f * x.shape[3])
        if hint.shape != want:
            raise ValueError(f"hint must be {want} for x {tuple(x.shape)}, got {tuple(hint.shape)}")
        emb = self.embed(index, y, x.dtype)
        first, *stages = self.input_blocks
        h = first(x, emb, context) + self.input_hint_block(hint, emb, context)
        found = [h]
        for stage in stages:
            h = stage(h, emb, context)
            found.append(h)
        h = self.middle_block(h, emb, context)
        added = [z(h, emb, context) for z, h in zip(self.zero_convs, found, strict=True)]
        return [*added, self.middle_block_out(h, emb, context)]


def skip_channels(config: UNetConfig) -> list[int]:
    """The channels of what each of a U-Net's input_blocks gives."""
    widths = [mult * config.model_channels for mult in config.channel_mult]
    levels = [ch for width in widths for ch in [width] * (config.res_blocks + 1)]
    return [config.model_channels, *levels[:-1]]  # each level ends in a Downsample, but the last


def control_config(unet: UNetConfig, hint_widths: tuple[int, ...], **changes) -> ControlConfig:
    """The config of a ControlNet for a U-Net."""
    return ControlConfig(**vars(unet) | {"hint_widths": hint_widths} | changes)
