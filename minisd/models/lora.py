"""LoRA (arXiv 2106.09685): a layer that is frozen, and beside it a small one that learns.

`add_lora` puts it on layers of a network, `merge` folds it in. The formula, `lora_delta`, stands
here and not with the other papers', since checkpoints need it too, and they import models alone.
"""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")  # a U-Net's, as most files of LoRAs have them


def lora_delta(down: Tensor, up: Tensor, alpha: float) -> Tensor:
    """LoRA eq. 3 and §4.1: the change to a weight, of rank r, which down has as its first size.

        ΔW = α/r · B A

    A linear layer's: down A (r, in), up B (out, r) -> (out, in). A convolution's: down
    (r, in, k, k), up (out, r, 1, 1) -> (out, in, k, k). ValueError where the two do not multiply.
    """
    rank, shapes = len(down), f"down {tuple(down.shape)} and up {tuple(up.shape)}"
    if down.ndim not in (2, 4) or up.ndim != down.ndim:
        raise ValueError(f"down and up must both have 2 sizes, or both 4, got {shapes}")
    if not rank or up.shape[1:] != (rank, *[1] * (up.ndim - 2)):
        raise ValueError(f"down must be (r, in, ...) and up (out, r), or (out, r, 1, 1): {shapes}")
    return alpha / rank * (up.flatten(1) @ down.flatten(1)).view(len(up), *down.shape[1:])


class LoRA(nn.Module):
    """A Linear or Conv2d with a change of low rank beside it (LoRA Figure 1), which begins as 0.

        y = W x + scale · α/r · B A x

    W is frozen. A, `down`, begins as the official code has it, uniform (Kaiming's; the paper's is
    Gaussian), and B, `up`, as 0; α is the rank unless told. `scale` may be set at any time: 1 as
    trained, 0 without the change. ValueError for other layers, and for a rank below 1.
    Official: `loralib.Linear`
    """

    def __init__(
        self,
        layer: nn.Linear | nn.Conv2d,
        rank: int,
        alpha: float | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if not takes_lora(layer):
            raise ValueError(f"a LoRA goes on a Linear or a plain Conv2d, got {layer}")
        if rank < 1:
            raise ValueError(f"a LoRA's rank must be at least 1, got {rank}")
        self.layer = layer.requires_grad_(False)
        self.rank, self.alpha, self.scale = rank, rank if alpha is None else alpha, 1.0
        out, *inward = layer.weight.shape
        down, up = torch.empty(rank, *inward), torch.zeros(out, rank, *[1] * len(inward[1:]))
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        self.down, self.up = (nn.Parameter(part.to(layer.weight)) for part in (down, up))

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        if isinstance(layer, nn.Linear):
            change = F.linear(F.linear(x, self.down), self.up)
        else:
            h = F.conv2d(x, self.down, None, layer.stride, layer.padding, layer.dilation)
            change = F.conv2d(h, self.up)
        return layer(x) + self.scale * self.alpha / self.rank * change

    @torch.no_grad()
    def merged(self) -> nn.Linear | nn.Conv2d:
        """The plain layer with the weight W + g ΔW, summed in float32 at least; still frozen."""
        weight = self.layer.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        delta = lora_delta(self.down.to(wide), self.up.to(wide), self.alpha)
        total = (weight.to(wide) + self.scale * delta).to(weight.dtype)
        self.layer.weight = nn.Parameter(total, requires_grad=False)
        return self.layer


def takes_lora(layer: nn.Module) -> bool:
    """Whether a LoRA can go on it: a Linear, or a Conv2d of one group that pads with zeros."""
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros"
    return isinstance(layer, nn.Linear)


def add_lora(
    network: nn.Module,
    rank: int,
    names: Sequence[str] = ATTENTION,
    alpha: float | None = None,
    generator: torch.Generator | None = None,
) -> list[nn.Parameter]:
    """Freeze a network, in place, and put a LoRA on each layer whose name ends in one of `names`.

    The parameters to train are given back. An OpenCLIP text encoder has q, k and v in one tensor,
    which is no layer: its names are out_proj, c_fc and c_proj. ValueError where no layer has such a
    name, and where the network has LoRAs already.
    """
    if next(loras(network), None):
        raise ValueError("the network has LoRAs already: merge them first")
    ends = tuple(f".{name}" for name in names)
    found = {name: part for name, part in network.named_modules() if f".{name}".endswith(ends)}
    found = {name: part for name, part in found.items() if takes_lora(part)}
    if not found:
        raise ValueError(f"no layer has a name that ends in one of {', '.join(names)}")
    network.requires_grad_(False)
    for name, layer in found.items():
        _put(network, name, LoRA(layer, rank, alpha, generator))
    return [part for _, lora in loras(network) for part in (lora.down, lora.up)]


def loras(network: nn.Module) -> Iterator[tuple[str, LoRA]]:
    """The LoRAs of a network, each with the name of its layer."""
    yield from ((name, part) for name, part in network.named_modules() if isinstance(part, LoRA))


def merge(network: nn.Module) -> None:
    """Fold the LoRAs of a network into its layers, in place: it is a plain one again, and frozen.

    Each is folded in at its present scale.
    """
    for name, lora in [*loras(network)]:
        _put(network, name, lora.merged())


def _put(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, layer)
