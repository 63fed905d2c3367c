"""LDM-1.4B's text transformer: bidirectional, trained together with its U-Net (LDM §4.3.1)."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .clip import TextState, check_tokens
from .configs import TextConfig

HEAD_DIM = 64


class Attention(nn.Module):
    """Every token attends to every token, padding included; no bias but in the output."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, inner = heads, heads * HEAD_DIM
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.to_out = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            rearrange(part(x), "b n (h d) -> b h n d", h=self.heads)
            for part in (self.to_q, self.to_k, self.to_v)
        )
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(rearrange(out, "b h n d -> b n (h d)"))


class FeedForward(nn.Module):
    """To four times the width, GELU, and back."""

    def __init__(self, width: int):
        super().__init__()
        inward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU())
        self.net = nn.Sequential(inward, nn.Dropout(0.0), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class BERTText(nn.Module):
    """Tokens (b, n) -> TextState; pooled is the first token's. Weights begin with std 0.02.

    Keys: transformer.token_emb, .pos_emb.emb, .attn_layers.layers.2N (attention) and .2N+1
    (feed-forward), .norm, .to_logits (unused here).
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.transformer = model = nn.Module()
        model.token_emb = nn.Embedding(config.vocabulary, config.width)
        model.pos_emb, model.attn_layers = nn.Module(), nn.Module()
        model.pos_emb.emb = nn.Embedding(config.length, config.width)
        layers = []
        for _ in range(config.layers):
            for layer in (Attention(config.width, config.heads), FeedForward(config.width)):
                layers.append(nn.ModuleList([nn.LayerNorm(config.width), layer]))
        model.attn_layers.layers = nn.ModuleList(layers)
        model.norm = nn.LayerNorm(config.width)
        model.to_logits = nn.Linear(config.width, config.vocabulary - config.words)
        for embedding in (model.token_emb, model.pos_emb.emb):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens: Tensor) -> TextState:
        check_tokens(tokens, self.config)
        model = self.transformer
        x = model.token_emb(tokens) + model.pos_emb.emb.weight[: tokens.shape[1]]
        for norm, layer in model.attn_layers.layers:
            x = x + layer(norm(x))
        context = model.norm(x)
        return TextState(context, context[:, 0])
