"""Convolutions of 3 x 3 with a quarter of the multiplications, for large networks on a CPU.

Most of a full-size U-Net's time, and nearly all of a VAE decoder's, goes into convolutions of
3 x 3. Winograd's minimal filtering, which Lavin and Gray (arXiv 1509.09308) brought to networks,
finds 4 x 4 outputs at once: 36 products for each pair of channels, where the definition takes 144.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POINTS = (0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)  # and infinity
OUT, IN = 4, 6  # the sides of a tile of outputs, and of the inputs that it needs
BAND = 1 << 22  # numbers that are worked on at once: 16 MB, near what a processor's cache holds
TILES = 96  # from so many it pays: the kernels take as long to transform for one tile as for all
CHANNELS = 64  # the same of the tiles: theirs must serve many kernels, and give to many outputs


@cache
def transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Bᵀ ⊗ Bᵀ (36, 36), G ⊗ G (36, 9) and Aᵀ ⊗ Aᵀ (16, 36) of F(4 x 4, 3 x 3), for flat tiles.

        y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A,  d 6 x 6 inputs, g 3 x 3 weights, y 4 x 4 outputs

    Lavin and Gray's eq. 8. A polynomial of degree 5 is known by its values at six points, one of
    them infinity, so the product of two polynomials is the product of their values; a convolution
    is such a product, and what is wanted here is its transpose. V_k holds the powers of the points
    up to k - 1: G = V_3, A = V_4, and B is the inverse of V_6. Powers of large and of small numbers
    cost digits: these points gave the smallest rounding errors of those tried, a quarter of the
    errors by Lavin and Gray's 0, ±1, ±2.
    """

    def powers(k: int) -> Tensor:
        points = torch.tensor(POINTS, dtype=torch.float64)[:, None]
        infinity = torch.eye(k, dtype=torch.float64)[-1:]
        return torch.cat([points ** torch.arange(k), infinity])

    b_t, g, a_t = torch.linalg.inv(powers(IN)).T, powers(3), powers(OUT).T
    return tuple(torch.kron(matrix, matrix).float() for matrix in (b_t, g, a_t))


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.conv2d(x, weight, bias, padding=1) of 3 x 3 kernels, in float32.

    x (b, c, h, w), weight (o, c, 3, 3), bias (o,) -> (b, o, h, w), its channels last in memory.
    Of normal inputs the largest error is some 3e-6 of the largest output, where the usual way has
    3e-7. The rows of tiles are worked on in bands, so that what is between stays in the cache.
    """
    b, c, h, w = x.shape
    inputs, kernels, outputs = transforms()
    rows, columns, o = -(-h // OUT), -(-w // OUT), len(weight)
    kernels = (kernels @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(-1, c, o)
    pad = (1, 1 + OUT * columns - w, 1, 1 + OUT * rows - h)
    x = F.pad(x, pad).permute(0, 2, 3, 1)
    y = x.new_empty(b, OUT * rows, OUT * columns, o)
    band = max(1, BAND // (IN * IN * b * columns * max(c, o)))
    for first in range(0, rows, band):
        part = x[:, OUT * first : OUT * min(first + band, rows) + IN - OUT]
        tiles = part.unfold(1, IN, OUT).unfold(2, IN, OUT).permute(4, 5, 0, 1, 2, 3)
        products = (inputs @ tiles.reshape(IN * IN, -1)).view(IN * IN, -1, c) @ kernels
        found = (outputs @ products.view(IN * IN, -1)).view(OUT, OUT, *tiles.shape[2:5], o)
        found = found.permute(2, 3, 0, 4, 1, 5).flatten(3, 4).flatten(1, 2)
        y[:, OUT * first : OUT * (first + band)] = found if bias is None else found + bias
    return y[:, :h, :w].permute(0, 3, 1, 2)


class Winograd(nn.Conv2d):
    """A convolution of 3 x 3, by the short way where there are tiles enough for it to pay."""

    def forward(self, x: Tensor) -> Tensor:
        tiles = len(x) * -(-x.shape[-2] // OUT) * -(-x.shape[-1] // OUT)
        if tiles < TILES or x.dtype != torch.float32 or x.device.type != "cpu":
            return super().forward(x)
        return conv3x3(x, self.weight, self.bias)


def shortened(network: nn.Module) -> nn.Module:
    """The network, changed in place: its wide convolutions of 3 x 3 take the short way.

    That is, in float32 on a CPU; elsewhere, and with few tiles, they are computed as before.
    """
    for layer in network.modules():
        if type(layer) is nn.Conv2d and _is_plain(layer):
            layer.__class__ = Winograd
    return network


def _is_plain(layer: nn.Conv2d) -> bool:
    """Whether a convolution is 3 x 3 with a border of zeros, each step a pixel, and wide enough."""
    how = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    wide = min(layer.in_channels, layer.out_channels) >= CHANNELS
    plain = layer.groups == 1 and layer.padding_mode == "zeros"
    return wide and plain and how == ((3, 3), (1, 1), (1, 1), (1, 1))
