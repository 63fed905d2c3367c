"""Which pixels look at which word: cross-attention maps, read by hooks while a U-Net runs.

with capture(unet) as maps:
    unet(x, index, context)
maps.at((16, 16))[0, 2]  # sample 0, token 2: (16, 16)
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from einops import rearrange
from torch import Tensor, nn

from .blocks import CrossAttention, SpatialTransformer


def attention_map(layer: CrossAttention, x: Tensor, context: Tensor) -> Tensor:
    """LDM §3.3: how much each pixel attends to each token, a mean over heads.

        softmax(Q Kᵀ / √d)

    x (b, m, dim), context (b, n, context_dim) -> (b, m, n), in float32 or float64; rows sum to 1.
    """
    q, k = (
        rearrange(a, "b n (h d) -> b h n d", h=layer.heads)
        for a in (layer.to_q(x), layer.to_k(context))
    )
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    wide = torch.promote_types(q.dtype, torch.float32)
    return logits.softmax(-1, dtype=wide).mean(1)


class AttentionMaps:
    """Maps by layer, on the CPU, each a mean over the calls it was captured in (sampler steps).

    Under guidance the batch is doubled: the first half is the empty prompt's, the second the
    prompt's. Layers are named by their path, as in a checkpoint's keys.
    """

    def __init__(self):
        self._sums: dict[str, Tensor] = {}
        self._calls: dict[str, int] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    def add(self, path: str, weights: Tensor, size: tuple[int, int]) -> None:
        """One more call of a layer: weights (b, h w, n). ValueError if the shape has changed."""
        weights, known = weights.detach().cpu(), self._sums.get(path)
        if known is not None and (known.shape != weights.shape or self._sizes[path] != size):
            raise ValueError(
                f"maps of different shapes cannot be averaged: {path} gave {tuple(known.shape)} on "
                f"{self._sizes[path]}, now {tuple(weights.shape)} on {size}; capture each by itself"
            )
        self._sums[path] = weights if known is None else known + weights
        self._calls[path] = self._calls.get(path, 0) + 1
        self._sizes[path] = size

    @property
    def by_layer(self) -> dict[str, Tensor]:
        """{path: (b, h w, n)}. ValueError when nothing was captured."""
        if not self._sums:
            raise ValueError(
                "no attention map was captured: call the U-Net inside `with capture(unet)`, "
                "and with a context"
            )
        return {path: total / self._calls[path] for path, total in self._sums.items()}

    def resolutions(self) -> list[tuple[int, int]]:
        """The sizes (h, w) there are maps of, the largest first."""
        return sorted(set(self._sizes.values()), reverse=True)

    def at(self, resolution: tuple[int, int]) -> Tensor:
        """(h, w) -> (b, n, h, w), a mean over the layers of that size. ValueError if none is."""
        layers = self.by_layer
        found = [layers[path] for path, size in self._sizes.items() if size == tuple(resolution)]
        if not found:
            raise ValueError(f"no layer has maps of {resolution}, only of {self.resolutions()}")
        mean = torch.stack(found).mean(0)
        return rearrange(mean, "b (h w) n -> b n h w", h=resolution[0])

    def word(self, positions: Sequence[int], resolution: tuple[int, int]) -> Tensor:
        """The map of a word: the sum over its tokens' positions in the prompt -> (b, h, w).

        Position 0 is the start token. ValueError if a position is not in the context.
        """
        maps = self.at(resolution)
        if not len(positions) or min(positions) < 0 or max(positions) >= maps.shape[1]:
            raise ValueError(
                f"positions must be some of 0..{maps.shape[1] - 1}, got {list(positions)}"
            )
        return maps[:, list(positions)].sum(1)


@contextmanager
def capture(unet: nn.Module) -> Iterator[AttentionMaps]:
    """While open, every call of the network adds its cross-attention maps to the AttentionMaps.

    Layers that are given a context count, whatever their name; the network's output is not touched.
    """
    maps, sizes, handles = AttentionMaps(), {}, []

    def note_size(path):
        def hook(module, inputs):
            sizes[path] = tuple(inputs[0].shape[-2:])

        return hook

    def note_map(path, transformer):
        @torch.no_grad()
        def hook(module, inputs, output):
            x, context = (*inputs, None)[:2]
            if context is not None:
                maps.add(path, attention_map(module, x, context), sizes[transformer])

        return hook

    try:
        for outer, transformer in unet.named_modules():
            if isinstance(transformer, SpatialTransformer):
                handles.append(transformer.register_forward_pre_hook(note_size(outer)))
                for inner, layer in transformer.named_modules(prefix=outer):
                    if isinstance(layer, CrossAttention):
                        handles.append(layer.register_forward_hook(note_map(inner, outer)))
        yield maps
    finally:
        for handle in handles:
            handle.remove()
