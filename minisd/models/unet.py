"""The U-Net: from a noisy latent, a time and a condition to a prediction (LDM Figure 3, right)."""

import torch
from torch import Tensor, nn

from .blocks import (
    AttentionBlock,
    Downsample,
    GroupNorm32,
    ResBlock,
    SpatialTransformer,
    Upsample,
    timestep_embedding,
    zero,
)
from .configs import UNetConfig


class Stage(nn.Sequential):
    """Layers in a row, each given what it takes: the time embedding, the context, or x alone."""

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            else:
                x = layer(x)
        return x


class UNet(nn.Module):
    """Down, through the middle, and up again, each stage on the way up reading one on the way down.

    The attribute names are the published checkpoints': input_blocks, middle_block, output_blocks.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        width, emb = config.model_channels, 4 * config.model_channels
        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        if config.classes:
            self.label_emb = nn.Embedding(config.classes, emb)
        elif config.vector_dim:
            self.label_emb = nn.Sequential(
                nn.Sequential(nn.Linear(config.vector_dim, emb), nn.SiLU(), nn.Linear(emb, emb))
            )
        levels = list(enumerate(config.channel_mult))
        last = len(levels) - 1

        def attend(channels: int, level: int, middle: bool = False) -> list[nn.Module]:
            if not middle and 2**level not in config.attention_factors:
                return []
            heads = config.heads or channels // config.head_channels
            if config.context_dim is None:
                return [AttentionBlock(channels, heads, config.groups)]
            return [
                SpatialTransformer(
                    channels,
                    heads,
                    channels // heads,
                    config.transformer_depth[level],
                    config.context_dim,
                    config.linear_projections,
                    middle or config.self_attention[level],
                    config.groups,
                )
            ]

        def residual(channels: int, out: int, resample: nn.Module | None = None) -> ResBlock:
            return ResBlock(channels, emb, out, resample, config.groups)

        def resample(channels: int, kind: type) -> nn.Module:
            if config.resblock_updown:
                return residual(channels, channels, kind(channels, conv=False))
            return kind(channels)

        self.input_blocks = nn.ModuleList(
            [Stage(nn.Conv2d(config.in_channels, width, 3, padding=1))]
        )
        channels, skips = width, [width]
        for level, mult in levels:
            for _ in range(config.res_blocks):
                block = residual(channels, mult * width)
                channels = mult * width
                self.input_blocks.append(Stage(block, *attend(channels, level)))
                skips.append(channels)
            if level < last:
                self.input_blocks.append(Stage(resample(channels, Downsample)))
                skips.append(channels)
        self.middle_block = Stage(
            residual(channels, channels),
            *attend(channels, last, middle=True),
            residual(channels, channels),
        )
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(levels):
            for i in range(config.res_blocks + 1):
                layers = [residual(channels + skips.pop(), mult * width)]
                channels = mult * width
                layers += attend(channels, level)
                if level and i == config.res_blocks:
                    layers.append(resample(channels, Upsample))
                self.output_blocks.append(Stage(*layers))
        self.out = nn.Sequential(
            GroupNorm32(channels, groups=config.groups),
            nn.SiLU(),
            zero(nn.Conv2d(channels, config.out_channels, 3, padding=1)),
        )

    def forward(
        self,
        x: Tensor,
        index: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control: list[Tensor] | None = None,
    ) -> Tensor:
        """x (b, in, h, w), index int (b,) from 0, context (b, n, dim), y (b,) classes or a vector
        (b, vector_dim) -> (b, out, h, w). h and w must halve evenly at every level. control: what
        a ControlNet adds to each skip, and last to the middle."""
        self._check(x, index, context, y)
        emb = self.embed(index, y, x.dtype)
        skips = []
        for stage in self.input_blocks:
            x = stage(x, emb, context)
            skips.append(x)
        x = self.middle_block(x, emb, context)
        if control is not None:
            *beside, last = control
            x = x + last
            skips = [skip + more for skip, more in zip(skips, beside, strict=True)]
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], dim=1), emb, context)
        return self.out(x)

    def embed(self, index: Tensor, y: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The time, and y where it is told one, as what each residual block is given: (b, emb)."""
        embedding = timestep_embedding(index, self.config.model_channels).to(dtype)
        emb = self.time_embed(embedding)
        return emb if y is None else emb + self.label_emb(y)

    def _check(self, x, index, context, y) -> None:
        c, factor = self.config, 2 ** (len(self.config.channel_mult) - 1)
        if x.ndim != 4 or x.shape[1] != c.in_channels or x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(
                f"x must be (b, {c.in_channels}, h, w) with h and w multiples of {factor}, "
                f"got {tuple(x.shape)}"
            )
        if index.shape != x.shape[:1]:
            raise ValueError(f"index must be ({len(x)},), one for each x, got {tuple(index.shape)}")
        got = None if context is None else tuple(context.shape)
        if c.context_dim is None and got is not None:
            raise ValueError(f"context must be None, got {got}")
        wants = (len(x), c.context_dim)
        if c.context_dim and (got is None or len(got) != 3 or (got[0], got[2]) != wants):
            raise ValueError(f"context must be ({len(x)}, n, {c.context_dim}), got {got}")
        if (y is not None) != bool(c.classes or c.vector_dim):
            raise ValueError(f"y must {'' if y is None else 'not '}be given to this U-Net")
        if c.vector_dim and y.shape != (len(x), c.vector_dim):
            raise ValueError(f"y must be ({len(x)}, {c.vector_dim}), got {tuple(y.shape)}")
        if c.classes and (y.shape != x.shape[:1] or y.is_floating_point()):
            raise ValueError(f"y must be ({len(x)},) whole numbers, got {y.dtype} {tuple(y.shape)}")
        if c.classes and not ((y >= 0) & (y < c.classes)).all():
            raise ValueError(f"y must be classes from 0 to {c.classes - 1}, got {y.tolist()}")
