"""MMDiT, the network of SD 3 (arXiv 2403.03206, Figure 2): a transformer of two streams, the text's
tokens and the picture's, each with weights of its own, that attend to both together."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .blocks import timestep_embedding


@dataclass(frozen=True)
class MMDiTConfig:
    """SD 3 medium, unless told: its width is 64 times its depth, its heads are 64 wide."""

    depth: int = 24
    width: int = 1536
    heads: int = 24
    channels: int = 16  # of a latent
    patch: int = 2  # latents a side that are one token
    context_dim: int = 4096  # CLIP-L, OpenCLIP-bigG and T5
    vector_dim: int = 2048  # the pooled vectors of the two CLIPs
    positions: int = 192  # tokens a side, at most
    trained_on: int = 64  # tokens a side that the positions are counted in: 1024 pixels


SD3_MEDIUM = MMDiTConfig()


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN (DiT, arXiv 2212.09748, §3.2): a norm's shift and scale that the time and prompt set.

        x (1 + scale) + shift

    x (b, n, d), normalised; shift, scale (b, d) -> (b, n, d).
    """
    return x * (1 + scale[:, None]) + shift[:, None]


def grid_positions(side: int, width: int, trained_on: int) -> Tensor:
    """Sines and cosines of a token's column, then of its row: (1, side², width), rows in order."""
    place = torch.arange(side, dtype=torch.float64) * trained_on / side
    angle = place[:, None] * 10_000 ** (-torch.arange(width // 4, dtype=torch.float64) * 4 / width)
    line = torch.cat([angle.sin(), angle.cos()], dim=1)  # (side, width / 2)
    column, row = line[None].expand(side, -1, -1), line[:, None].expand(-1, side, -1)
    return torch.cat([column, row], dim=2).flatten(0, 1)[None].float()


def norm(width: int) -> nn.LayerNorm:
    """A LayerNorm without weights: adaLN has them."""
    return nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)


class PatchEmbed(nn.Module):
    """patch x patch latents become a token."""

    def __init__(self, channels: int, patch: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(self.proj(x), "b d h w -> b (h w) d")


class Embedder(nn.Module):
    """Two layers: the sinusoids of the time, or the prompt's pooled vector, to the width."""

    def __init__(self, inward: int, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(inward, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class Mlp(nn.Module):
    """The feed-forward part of a stream: four times the width, GELU, and back."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class StreamAttention(nn.Module):
    """One stream's part of the attention: to queries, keys and values, and back."""

    def __init__(self, width: int, heads: int, last: bool):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Identity() if last else nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, n, d) -> q, k and v in one tensor (3, b, heads, n, d / heads)."""
        return rearrange(self.qkv(x), "b n (qkv h d) -> qkv b h n d", qkv=3, h=self.heads)


class Stream(nn.Module):
    """One side of Figure 2b. The text's last one (last) only gives queries, keys and values.

    Official: `DismantledBlock`, `pre_only`
    """

    def __init__(self, width: int, heads: int, last: bool = False):
        super().__init__()
        self.last = last
        self.norm1, self.attn = norm(width), StreamAttention(width, heads, last)
        self.adaLN_modulation = nn.Sequential(
            nn.SiLU(), nn.Linear(width, (2 if last else 6) * width)
        )
        if not last:
            self.norm2, self.mlp = norm(width), Mlp(width)

    def before(self, x: Tensor, c: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x (b, n, d), c (b, d) -> its q, k and v, and what `after` needs of adaLN."""
        shift, scale, *rest = self.adaLN_modulation(c).chunk(2 if self.last else 6, dim=1)
        return self.attn(modulate(self.norm1(x), shift, scale)), rest

    def after(self, x: Tensor, attended: Tensor, rest: list[Tensor]) -> Tensor:
        """The two residuals, attention and feed-forward, each with its gate."""
        gate, shift, scale, gate_mlp = rest
        x = x + gate[:, None] * self.attn.proj(attended)
        return x + gate_mlp[:, None] * self.mlp(modulate(self.norm2(x), shift, scale))


class JointBlock(nn.Module):
    """SD 3 Figure 2b: two streams, one attention over the tokens of both."""

    def __init__(self, width: int, heads: int, last: bool = False):
        super().__init__()
        self.context_block = Stream(width, heads, last)
        self.x_block = Stream(width, heads)

    def forward(self, context: Tensor, x: Tensor, c: Tensor) -> tuple[Tensor | None, Tensor]:
        """context (b, m, d), x (b, n, d), c (b, d) -> both anew; no context after the last."""
        qkv_context, rest_context = self.context_block.before(context, c)
        qkv_x, rest_x = self.x_block.before(x, c)
        q, k, v = torch.cat([qkv_context, qkv_x], dim=3)  # (b, heads, m + n, d / heads)
        attended = rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")
        of_context, of_x = attended.split([context.shape[1], x.shape[1]], dim=1)
        x = self.x_block.after(x, of_x, rest_x)
        if self.context_block.last:
            return None, x
        return self.context_block.after(context, of_context, rest_context), x


class FinalLayer(nn.Module):
    """adaLN once more, and from a token to its latents."""

    def __init__(self, width: int, outward: int):
        super().__init__()
        self.norm_final, self.linear = norm(width), nn.Linear(width, outward)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.linear(modulate(self.norm_final(x), *self.adaLN_modulation(c).chunk(2, dim=1)))


class MMDiT(nn.Module):
    """SD 3 Figure 2a: from a noisy latent, a time and a prompt to the velocity u.

    The attribute names are the published checkpoints'.
    """

    def __init__(self, config: MMDiTConfig = SD3_MEDIUM):
        super().__init__()
        self.config, c = config, config
        self.x_embedder = PatchEmbed(c.channels, c.patch, c.width)
        self.register_buffer("pos_embed", grid_positions(c.positions, c.width, c.trained_on))
        self.t_embedder, self.y_embedder = Embedder(256, c.width), Embedder(c.vector_dim, c.width)
        self.context_embedder = nn.Linear(c.context_dim, c.width)
        self.joint_blocks = nn.ModuleList(
            JointBlock(c.width, c.heads, last=i == c.depth - 1) for i in range(c.depth)
        )
        self.final_layer = FinalLayer(c.width, c.patch**2 * c.channels)

    def forward(self, x: Tensor, index: Tensor, context: Tensor, y: Tensor) -> Tensor:
        """x (b, channels, h, w), index (b,), which is 1000 t; context (b, m, context_dim), y (b,
        vector_dim) -> u (b, channels, h, w). ValueError where h or w is no multiple of the patch,
        or there are more tokens a side than positions."""
        p, most = self.config.patch, self.config.patch * self.config.positions
        height, width = x.shape[2:]
        if height % p or width % p or max(height, width) > most:
            raise ValueError(
                f"a latent's sides must be multiples of {p} and at most {most}, got {height} x "
                f"{width}"
            )
        h, w = height // p, width // p
        tokens = self.x_embedder(x) + self._middle(h, w)
        c = self.t_embedder(timestep_embedding(index, 256).to(x.dtype)) + self.y_embedder(y)
        context = self.context_embedder(context)
        for block in self.joint_blocks:
            context, tokens = block(context, tokens, c)
        u = self.final_layer(tokens, c)
        return rearrange(u, "b (h w) (p q c) -> b c (h p) (w q)", h=h, w=w, p=p, q=p)

    def _middle(self, h: int, w: int) -> Tensor:
        """The positions of h x w tokens from the middle of the largest square: (1, h w, d)."""
        side = self.config.positions
        top, left = (side - h) // 2, (side - w) // 2
        square = self.pos_embed.unflatten(1, (side, side))
        return square[:, top : top + h, left : left + w].flatten(1, 2)
