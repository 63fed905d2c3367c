"""The text encoders: OpenAI's CLIP-L, and OpenCLIP's H and bigG, each under its published keys."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .configs import TextConfig


class TextState(NamedTuple):
    """context (b, n, width), for cross-attention; pooled (b, projection or width), one vector."""

    context: Tensor
    pooled: Tensor


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI CLIP's approximation of GELU: x · sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": F.gelu}


def causal_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Each token attends to itself and to those before it: (b, n, width) -> (b, n, width)."""
    q, k, v = (rearrange(a, "b n (h d) -> b h n d", h=heads) for a in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return rearrange(out, "b h n d -> b n (h d)")


def _read_out(config: TextConfig, states: list[Tensor], norm: nn.Module) -> Tensor:
    context = states[config.layer]
    return norm(context) if config.norm else context


def check_tokens(tokens: Tensor, config: TextConfig) -> None:
    """ValueError unless tokens are (b, n), n at most the length, all of the vocabulary.

    On the meta device there are no numbers to look at.
    """
    if tokens.ndim != 2 or tokens.shape[1] > config.length:
        raise ValueError(
            f"tokens must be (b, n) with n up to {config.length}, got {tuple(tokens.shape)}"
        )
    if not tokens.is_meta and (tokens.min() < 0 or tokens.max() >= config.vocabulary):
        raise ValueError(f"tokens must be from 0 to {config.vocabulary - 1}")


def end_of(tokens: Tensor, config: TextConfig) -> Tensor:
    """Where the end token stands in each row (b, n) -> (b,): the first one, if it pads too.

    It has the largest number of all but the words that were added.
    """
    return tokens.where(tokens < config.vocabulary - config.words, 0).argmax(1)


# ---- OpenAI's, under the key names of transformers ----------------------------------------


class SelfAttention(nn.Module):
    """q, k, v and output projections, all with bias."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (
            nn.Linear(width, width) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.out_proj(causal_attention(q, k, v, self.heads))


class Layer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.self_attn = SelfAttention(config.width, config.heads)
        self.layer_norm1 = nn.LayerNorm(config.width)
        self.mlp = nn.Module()
        self.mlp.fc1 = nn.Linear(config.width, 4 * config.width)
        self.mlp.fc2 = nn.Linear(4 * config.width, config.width)
        self.layer_norm2 = nn.LayerNorm(config.width)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp.fc2(self.activation(self.mlp.fc1(self.layer_norm2(x))))


class CLIPText(nn.Module):
    """CLIP's causal text transformer, SD 1's and SDXL's first: tokens (b, 77) -> TextState.

    Keys: text_model.embeddings..., text_model.encoder.layers.N..., text_model.final_layer_norm.
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.text_model = model = nn.Module()
        model.embeddings, model.encoder = nn.Module(), nn.Module()
        model.embeddings.token_embedding = nn.Embedding(config.vocabulary, config.width)
        model.embeddings.position_embedding = nn.Embedding(config.length, config.width)
        model.encoder.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        model.final_layer_norm = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor) -> TextState:
        check_tokens(tokens, self.config)
        model = self.text_model
        positions = model.embeddings.position_embedding.weight[: tokens.shape[1]]
        states = [model.embeddings.token_embedding(tokens) + positions]
        for layer in model.encoder.layers:
            states.append(layer(states[-1]))
        context = _read_out(self.config, states, model.final_layer_norm)
        end = end_of(tokens, self.config)
        pooled = model.final_layer_norm(states[-1])[torch.arange(len(tokens)), end]
        return TextState(context, pooled)


# ---- OpenCLIP's ---------------------------------------------------------------------------


class FusedAttention(nn.Module):
    """torch's MultiheadAttention by its keys: one in_proj for q, k and v."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.normal_(self.in_proj_weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        return self.out_proj(causal_attention(q, k, v, self.heads))


class ResidualBlock(nn.Module):
    """Pre-norm transformer layer, in OpenCLIP's names."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width)
        self.attn = FusedAttention(config.width, config.heads)
        self.ln_2 = nn.LayerNorm(config.width)
        self.mlp = nn.Module()
        self.mlp.c_fc = nn.Linear(config.width, 4 * config.width)
        self.mlp.c_proj = nn.Linear(4 * config.width, config.width)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp.c_proj(self.activation(self.mlp.c_fc(self.ln_2(x))))


class OpenCLIPText(nn.Module):
    """OpenCLIP's text transformer, SD 2's (H) and SDXL's (bigG): tokens (b, 77) -> TextState.

    Keys: token_embedding, positional_embedding, transformer.resblocks.N..., ln_final,
    text_projection, logit_scale (unused here).
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.positional_embedding = nn.Parameter(torch.empty(config.length, config.width))
        self.text_projection = nn.Parameter(torch.empty(config.width, config.projection))
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=config.width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(2.6592))
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(
            ResidualBlock(config) for _ in range(config.layers)
        )
        self.ln_final = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor) -> TextState:
        check_tokens(tokens, self.config)
        states = [self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]]
        for block in self.transformer.resblocks:
            states.append(block(states[-1]))
        context = _read_out(self.config, states, self.ln_final)
        end = end_of(tokens, self.config)
        last = self.ln_final(states[-1])[torch.arange(len(tokens)), end]
        return TextState(context, last @ self.text_projection)
