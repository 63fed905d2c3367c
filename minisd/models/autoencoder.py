"""The first stage: pictures to latents and back (LDM Figure 3, left; §3.1)."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import GroupNorm32, Upsample
from .configs import AutoencoderConfig


class Block(nn.Module):
    """Two normalised convolutions and a skip; no time here."""

    def __init__(self, channels: int, out_channels: int, groups: int = 32):
        super().__init__()
        self.norm1 = GroupNorm32(channels, 1e-6, groups)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm32(out_channels, 1e-6, groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = out_channels == channels
        self.nin_shortcut = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.nin_shortcut(x) + h


class Attention(nn.Module):
    """One head of attention over all pixels, by 1 x 1 convolutions."""

    def __init__(self, channels: int, groups: int = 32):
        super().__init__()
        self.norm = GroupNorm32(channels, 1e-6, groups)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (part(h).flatten(2).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v))
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()  # else the (n, n) map is held
        h = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)  # (b, c, h w)
        return x + self.proj_out(h.reshape(x.shape))


class Halve(nn.Module):
    """A 3 x 3 convolution of stride 2, padded right and below only (the U-Net's: all round)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Middle(nn.Module):
    """Attention between two blocks, where the picture is smallest."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.block_1, self.block_2 = (Block(channels, channels, groups) for _ in range(2))
        self.attn_1 = Attention(channels, groups)

    def forward(self, h: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(h)))


def _through(level: nn.Module, h: Tensor) -> Tensor:
    for i, block in enumerate(level.block):
        h = block(h)
        if len(level.attn):
            h = level.attn[i](h)
    return h


def _levels(config: AutoencoderConfig, channels: int, blocks: int, up: bool) -> tuple:
    """The stages in the order they run, and the width they end with; `channels` comes in."""
    order = list(enumerate(config.channel_mult))
    stages = []
    for level, mult in reversed(order) if up else order:
        stage = nn.Module()
        stage.block, stage.attn = nn.ModuleList(), nn.ModuleList()
        for _ in range(blocks):
            stage.block.append(Block(channels, mult * config.channels, config.groups))
            channels = mult * config.channels
            if level in config.attention_levels:
                stage.attn.append(Attention(channels, config.groups))
        if up:
            stage.upsample = Upsample(channels) if level else nn.Identity()
        else:
            last = level == len(order) - 1
            stage.downsample = nn.Identity() if last else Halve(channels)
        stages.append(stage)
    return stages, channels


class Encoder(nn.Module):
    """Picture (b, 3, h, w) -> moments (b, z or 2z, h/f, w/f)."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        stages, channels = _levels(config, config.channels, config.res_blocks, up=False)
        self.down, self.mid = nn.ModuleList(stages), Middle(channels, config.groups)
        self.norm_out = GroupNorm32(channels, 1e-6, config.groups)
        z = config.z_channels if config.codes else 2 * config.z_channels
        self.conv_out = nn.Conv2d(channels, z, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level.downsample(_through(level, h))
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """Latent (b, z, h/f, w/f) -> picture (b, 3, h, w). `up` is stored by level, run backwards."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        channels = config.channel_mult[-1] * config.channels
        self.conv_in = nn.Conv2d(config.z_channels, channels, 3, padding=1)
        self.mid = Middle(channels, config.groups)
        stages, channels = _levels(config, channels, config.res_blocks + 1, up=True)
        self.up = nn.ModuleList(reversed(stages))
        self.norm_out = GroupNorm32(channels, 1e-6, config.groups)
        self.conv_out = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level.upsample(_through(level, h))
        return self.conv_out(F.silu(self.norm_out(h)))


class Posterior(NamedTuple):
    """q(z | x) of the KL autoencoder: a diagonal Gaussian, before scaling."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std · noise, noise ~ N(0, I) from the caller."""
        return self.mean + (self.logvar / 2).exp() * noise

    def kl(self) -> Tensor:
        """KL(q(z|x) ‖ N(0, I)) for each sample, in nats: ½ Σ (mean² + var - 1 - log var)."""
        terms = self.mean**2 + self.logvar.exp() - 1 - self.logvar
        return terms.flatten(1).sum(1) / 2


class AutoencoderKL(nn.Module):
    """SD's first stage. encode gives a Posterior, decode takes a latent; scale with to_latent and
    from_latent, which multiply by scale_factor and divide by it."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        z, embed = config.z_channels, config.embed_dim
        self.quant_conv = nn.Conv2d(2 * z, 2 * embed, 1)
        self.post_quant_conv = nn.Conv2d(embed, z, 1)

    def encode(self, x: Tensor) -> Posterior:
        """x (b, 3, h, w) in -1..1 -> q(z|x), its log variance kept within -30..20."""
        check_picture(x, self.config)
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30, 20))

    def decode(self, z: Tensor) -> Tensor:
        """z (b, embed, h/f, w/f), unscaled -> (b, 3, h, w), about -1..1."""
        check_latent(z, self.config)
        return self.decoder(self.post_quant_conv(z))

    def to_latent(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """What the U-Net sees of x: a sample of q(z|x), or its mode without noise, times the scale.

        Official: `get_first_stage_encoding`
        """
        q = self.encode(x)
        return self.config.scale_factor * (q.mean if noise is None else q.sample(noise))

    def from_latent(self, z: Tensor) -> Tensor:
        """The picture of a scaled latent. Official: `decode_first_stage`"""
        return self.decode(z / self.config.scale_factor)


def check_picture(x: Tensor, config: AutoencoderConfig) -> None:
    """ValueError unless x is (b, 3, h, w) and h and w can be halved at every level."""
    f = config.factor
    if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % f or x.shape[3] % f:
        raise ValueError(
            f"a picture must be (b, 3, h, w) with h and w multiples of {f}, got {tuple(x.shape)}"
        )


def check_latent(z: Tensor, config: AutoencoderConfig) -> None:
    """ValueError unless z is (b, embed_dim, h, w)."""
    if z.ndim != 4 or z.shape[1] != config.embed_dim:
        raise ValueError(f"a latent must be (b, {config.embed_dim}, h, w), got {tuple(z.shape)}")
