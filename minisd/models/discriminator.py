"""The patch discriminator that VQGAN and LDM train their first stages against."""

import torch
from torch import Tensor, nn


class ActNorm(nn.Module):
    """Glow's norm (1807.03039, §3.1): scale (x + loc), for each channel, begun by the first batch.

    In training mode the first batch sets both so that its channels have mean 0 and standard
    deviation 1; then they are parameters like others. `initialized` (0 or 1) is stored, as the
    official one is.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.register_buffer("initialized", torch.tensor(0, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """x (b, c, h, w) -> the same shape."""
        if self.training and not self.initialized:
            with torch.no_grad():
                std, mean = torch.std_mean(x, (0, 2, 3), keepdim=True)
                self.loc.copy_(-mean)
                self.scale.copy_(1 / (std + 1e-6))
                self.initialized.fill_(1)
        return self.scale * (x + self.loc)


class NLayerDiscriminator(nn.Module):
    """pix2pix' PatchGAN (1611.07004, §3.2.2) under the names of taming's: a logit for each patch.

    `layers` convolutions 4 x 4 of stride 2, one of stride 1 and the one to a logit; all but the
    first and the last have a norm, and biases only if it is ActNorm, as BatchNorm has its own. With
    three layers a logit sees 70 x 70 pixels. Weights begin as the official weights_init has them.
    """

    def __init__(self, channels: int = 64, layers: int = 3, actnorm: bool = False, colors: int = 3):
        super().__init__()
        norm = ActNorm if actnorm else nn.BatchNorm2d
        widths = [channels * min(2**n, 8) for n in range(layers + 1)]
        parts = [nn.Conv2d(colors, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        for n in range(1, layers + 1):
            stride = 2 if n < layers else 1
            conv = nn.Conv2d(widths[n - 1], widths[n], 4, stride, 1, bias=actnorm)
            parts += [conv, norm(widths[n]), nn.LeakyReLU(0.2)]
        self.main = nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        for part in self.main:
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, 0, 0.02)
            elif isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.weight, 1, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, 3, h, w) in -1..1 -> logits (b, 1, about h/2^layers, w/2^layers)."""
        return self.main(x)
