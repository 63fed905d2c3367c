"""The same numbers sooner: parts of a large network whose sums a CPU does faster in another order.

`models` has each part as its formula. `quickened` puts a second form in its place, which multiplies
less, or moves less memory; the results differ by rounding alone (1e-6 of the largest). A small
network gains nothing, and a GPU's libraries choose among such forms by themselves.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..models import autoencoder, blocks, clip

FEW = 512  # pixels of a batch: two pictures of 16 x 16
ROWS = 1024  # tokens of a feed-forward layer at a time: what is between its layers stays in a cache

# Of 3 weights in a row over doubled pixels, those that meet the left and the right pixel of the two
# that an even output sees, and an odd one.
MEET = [[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]]


def few(x: Tensor) -> bool:
    """Whether (b, c, h, w) has so few pixels that a convolution's weights are more to move."""
    return len(x) * x.shape[2] * x.shape[3] <= FEW


class Doubling(blocks.Upsample):
    """Four convolutions of 2 x 2 instead of one of 3 x 3 on the doubled picture.

    There the 3 x 3 weights meet 2 x 2 pixels only, each repeated, and which weights meet the same
    pixel depends on whether the output's row and column are even. So they are added first, for
    each of the four cases, and 4 of 9 multiplications are left.
    """

    def forward(self, x: Tensor) -> Tensor:
        conv, (height, width) = self.conv, x.shape[2:]
        if few(x) or not isinstance(conv, nn.Conv2d):  # none, or one with a LoRA beside it
            return super().forward(x)
        meet = x.new_tensor(MEET)
        weights = torch.einsum("apk, bql, oikl -> aboipq", meet, meet, conv.weight)
        cases = F.conv2d(x, weights.flatten(0, 2), conv.bias.repeat(4), padding=1)
        cases = cases.unflatten(1, (2, 2, -1))  # (n, a, b, c, h + 1, w + 1)
        out = x.new_empty(len(x), conv.out_channels, 2 * height, 2 * width)
        for a in (0, 1):
            for b in (0, 1):
                out[:, :, a::2, b::2] = cases[:, a, b, :, a : a + height, b : b + width]
        return out


class Product(nn.Conv2d):
    """A 3 x 3 convolution of a picture of few pixels as one matrix product, im2col's.

    A convolution brings its weights into an order of its own first, at every call; at 8 x 8 pixels
    that takes longer than the sums.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not few(x):
            return super().forward(x)
        patches = F.unfold(x, 3, padding=1)  # (b, 9 c, h w)
        return (self.weight.flatten(1) @ patches + self.bias[:, None]).unflatten(2, x.shape[2:])


class InParts(blocks.FeedForward):
    """A feed-forward layer on some tokens at a time: it mixes none of them."""

    def forward(self, x: Tensor) -> Tensor:
        with parametrize.cached():  # weights of 16 bits are widened once for all parts
            parts = [self.net(some) for some in x.flatten(0, -2).split(ROWS)]
        return torch.cat(parts).view_as(x)


class InPlaceResBlock(blocks.ResBlock):
    """A residual block whose sums, and SiLUs (`quickened`), are written over what they read."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[-1](self.resample(self.in_layers[:-1](x)))
        h += self.emb_layers(emb)[:, :, None, None]
        return self.out_layers(h).add_(self.skip_connection(self.resample(x)))


class InPlaceBlock(autoencoder.Block):
    """The same for the first stage's."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return h.add_(self.nin_shortcut(x))


def _quick_gelu(x: Tensor) -> Tensor:
    """clip.quick_gelu, written over what it reads: x sigmoid(1.702 x) = SiLU(1.702 x) / 1.702."""
    return F.silu(x.mul_(1.702), inplace=True).div_(1.702)


FORMS = {
    blocks.Upsample: Doubling,
    blocks.FeedForward: InParts,
    blocks.ResBlock: InPlaceResBlock,
    autoencoder.Block: InPlaceBlock,
}


def is_plain(layer: nn.Module) -> bool:
    """Whether it is a 3 x 3 convolution with a bias that leaves the picture's size."""
    if type(layer) is not nn.Conv2d or layer.bias is None:
        return False
    how = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    return (how, layer.groups, layer.padding_mode) == (((3, 3), (1, 1), (1, 1), (1, 1)), 1, "zeros")


def quickened(network: nn.Module) -> nn.Module:
    """The network, changed in place, with the forms above; names and weights stay. For a CPU.

    It still learns, by the same gradients.
    """
    for module in network.modules():
        if form := Product if is_plain(module) else FORMS.get(type(module)):
            module.__class__ = form
        if isinstance(module, InPlaceResBlock):
            module.in_layers[1].inplace = module.out_layers[1].inplace = True
        if getattr(module, "activation", None) is clip.quick_gelu:
            module.activation = _quick_gelu
    return network
