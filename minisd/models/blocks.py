"""The parts that the U-Net is made of, under the attribute names of the published checkpoints."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def timestep_embedding(index: Tensor, dim: int, max_period: float = 10_000) -> Tensor:
    """DDPM appendix B (Transformer's sinusoids), LDM's order: cosines first, then sines.

        cos(i ω_k), sin(i ω_k)  with  ω_k = max_period^(-k/(dim/2)),  k = 0..dim/2-1

    index (b,), the network's, from 0 -> float32 (b, dim); an odd dim ends in a column of zeros.
    Official: `timestep_embedding`
    """
    half = dim // 2
    k = torch.arange(half, device=index.device, dtype=torch.float32)
    frequency = torch.exp(-math.log(max_period) * k / half)  # the official rounding: k, then half
    angle = index[:, None].float() * frequency  # (b, dim / 2)
    return F.pad(torch.cat([angle.cos(), angle.sin()], dim=1), (0, dim % 2))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """LDM §3.3, written out: what F.scaled_dot_product_attention computes without holding the map.

        softmax(Q Kᵀ / √d) V

    q (..., n, d); k, v (..., m, d) -> (..., n, d).
    """
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v


def zero(module: nn.Module) -> nn.Module:
    """The module with its parameters at 0: a residual branch that begins as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class GroupNorm32(nn.GroupNorm):
    """GroupNorm, its sums in float32 for a shorter x; 32 groups as published.

    The official class turns x to float32 and back; torch's own norm sums in
    float32 unasked, and on a CPU rounds once, at the end.
    """

    def __init__(self, channels: int, eps: float = 1e-5, groups: int = 32):
        super().__init__(groups, channels, eps)


class Upsample(nn.Module):
    """Twice the size by repeating pixels, then, with conv, a 3 x 3 convolution."""

    def __init__(self, channels: int, conv: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Downsample(nn.Module):
    """Half the size by a 3 x 3 convolution of stride 2, padded alike on all sides, or by means."""

    def __init__(self, channels: int, conv: bool = True):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if conv else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class ResBlock(nn.Module):
    """Two normalised convolutions with the time embedding added between them, and a skip.

    resample, an Upsample or Downsample without convolution, acts on both branches (LDM inpainting).
    """

    def __init__(
        self, channels: int, emb_channels: int, out_channels: int, resample=None, groups: int = 32
    ):
        super().__init__()
        self.in_layers = nn.Sequential(
            GroupNorm32(channels, groups=groups),
            nn.SiLU(),
            nn.Conv2d(channels, out_channels, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, out_channels))
        self.out_layers = nn.Sequential(
            GroupNorm32(out_channels, groups=groups),
            nn.SiLU(),
            nn.Dropout(0.0),
            zero(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        same = out_channels == channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)
        self.resample = resample or nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[-1](self.resample(self.in_layers[:-1](x)))
        h = h + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(self.resample(x)) + self.out_layers(h)


class CrossAttention(nn.Module):
    """LDM §3.3: queries from the pixels, keys and values from the context (or the pixels)."""

    def __init__(self, dim: int, context_dim: int, heads: int, head_dim: int):
        super().__init__()
        self.heads, inner = heads, heads * head_dim
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(context_dim, inner, bias=False)
        self.to_v = nn.Linear(context_dim, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, dim), nn.Dropout(0.0))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        q, k, v = (rearrange(a, "b n (h d) -> b h n d", h=self.heads) for a in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(rearrange(out, "b h n d -> b n (h d)"))


class GEGLU(nn.Module):
    """A gated linear unit: one half of the projection times GELU of the other, the gate."""

    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(dim, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to four times the width and back."""

    def __init__(self, dim: int):
        super().__init__()
        self.net = nn.Sequential(GEGLU(dim, 4 * dim), nn.Dropout(0.0), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class BasicTransformerBlock(nn.Module):
    """Attention among the pixels, attention to the context, feed-forward; each a residual.

    Without self_attention the first attends to the context too (the x4 upscaler).
    """

    def __init__(self, dim: int, context_dim: int, heads: int, head_dim: int, self_attention=True):
        super().__init__()
        self.self_attention = self_attention
        self.attn1 = CrossAttention(dim, dim if self_attention else context_dim, heads, head_dim)
        self.ff = FeedForward(dim)
        self.attn2 = CrossAttention(dim, context_dim, heads, head_dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x), None if self.self_attention else context)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks on pixels as tokens, between two projections: a prompt gets in here."""

    def __init__(
        self,
        channels: int,
        heads: int,
        head_dim: int,
        depth: int,
        context_dim: int,
        linear: bool = False,
        self_attention: bool = True,
        groups: int = 32,
    ):
        super().__init__()
        self.linear, inner = linear, heads * head_dim
        self.norm = GroupNorm32(channels, 1e-6, groups)
        self.proj_in = nn.Linear(channels, inner) if linear else nn.Conv2d(channels, inner, 1)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(inner, context_dim, heads, head_dim, self_attention)
            for _ in range(depth)
        )
        self.proj_out = zero(
            nn.Linear(inner, channels) if linear else nn.Conv2d(inner, channels, 1)
        )

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        height = x.shape[2]
        to_tokens, to_pixels = "b c h w -> b (h w) c", "b (h w) c -> b c h w"
        h = self.norm(x)
        if self.linear:
            h = self.proj_in(rearrange(h, to_tokens))
        else:
            h = rearrange(self.proj_in(h), to_tokens).contiguous()  # dense rows are faster
        for block in self.transformer_blocks:
            h = block(h, context)
        if self.linear:
            return x + rearrange(self.proj_out(h), to_pixels, h=height)
        return x + self.proj_out(rearrange(h, to_pixels, h=height))


class AttentionBlock(nn.Module):
    """Self-attention among the pixels alone, in the LDMs that take no prompt."""

    def __init__(self, channels: int, heads: int, groups: int = 32):
        super().__init__()
        self.heads = heads
        self.norm = GroupNorm32(channels, groups=groups)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.qkv(self.norm(x).flatten(2))
        h = rearrange(h, "b (h qkv d) n -> qkv b h n d", h=self.heads, qkv=3)
        q, k, v = h.contiguous()  # else the (n, n) map is held
        h = rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b (h d) n")
        return x + self.proj_out(h).reshape(x.shape)
