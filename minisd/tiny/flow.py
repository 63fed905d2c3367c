"""What makes a flow of the tiny model: a LoRA, with which its U-Net predicts u instead of v.

The straight path, logit-normal times and u are SD 3's (arXiv 2403.03206); captions, latents and
text encoder are those of `stages.Joint`.
"""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoints.loading import Checkpoint
from ..checkpoints.lora import save_lora
from ..equations import eps_from_u, flow_scale, flow_time, velocity, x0_from_u
from ..losses import flow_matching
from ..models.lora import add_lora, takes_lora
from ..models.unet import UNet
from ..schedules import ab_at
from ..training import Run
from .stages import Joint, Latents, tiny_schedule

T = 1000


def with_lora(unet: UNet, rank: int, seed: int) -> UNet:
    """A frozen copy of the U-Net with a LoRA, which is to learn, on every layer that takes one."""
    unet = copy.deepcopy(unet).requires_grad_(False)
    names = [name for name, layer in unet.named_modules() if takes_lora(layer)]
    add_lora(unet, rank, names, generator=torch.Generator().manual_seed(seed))
    return unet


class Flow(Joint):
    """SD 3 §2 and §3.1: conditional flow matching for a finished U-Net with a LoRA.

        ‖(ε - x_0) - u_θ((1-t) x_0 + t ε, 1000 t)‖²,  logit t ~ N(0, 1)

    t is one of 1/1000, 2/1000, ..., 1, and the network's index is 1000 t - 1: it is given as many
    times as before, but 500 is now another noise level. Only the LoRA learns; it begins as 0.
    """

    name = "flow"

    def __init__(self, latents: Latents, begin: Checkpoint, rank: int = 8, seed: int = 0):
        scale = begin.vae.config.scale_factor
        unet, text = with_lora(begin.unet, rank, seed), begin.text.requires_grad_(False)
        super().__init__(latents, scale, text, begin.unet.config, seed, unet)
        self.about |= {"rank": rank}
        t = torch.arange(T + 1, dtype=torch.float64) / T
        self.until = torch.special.ndtr(torch.logit(t)).numpy()  # probability of t or less
        self.until[-1] = 1

    def _errors(self, drawn: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> Tensor:
        """The squared error of each sample: (b,)."""
        z, tokens, t, eps = (torch.stack(column) for column in zip(*drawn, strict=True))
        context = self.network["text"](tokens).context

        def predicted(x: Tensor, time: Tensor) -> Tensor:
            return self.network["unet"](x, t - 1, context)

        return flow_matching(predicted, z.float() * self.scale, t.float() / T, eps)


def save_flow(run: Run, path: Path) -> None:
    """Write the averaged LoRA of a run, in float16."""
    unet = copy.deepcopy(run.stage.network["unet"])
    for name, weight in zip(run.names, run.average, strict=True):
        unet.get_parameter(name.removeprefix("unet.")).data = weight.half()
    save_lora(path, Checkpoint("tiny", unet))


class AsV(nn.Module):
    """A U-Net that predicts u, in the place of one that predicts v: so pipelines sample it too.

    x_t is put on the straight path, at the time of equal SNR; u gives ε and x0, and those give v
    (`equations.flow`, `velocity`). All samples are at one time.
    """

    def __init__(self, unet: UNet):
        super().__init__()
        self.unet, self.config, self.ab = unet, unet.config, tiny_schedule()

    def forward(self, x: Tensor, index: Tensor, context: Tensor, y: None = None) -> Tensor:
        """x_t (b, 4, h, w) and the v-model's index, t - 1 -> v (b, 4, h, w)."""
        ab_t = ab_at(self.ab, float(index[0]) + 1, x)
        t = flow_time(ab_t)
        z = flow_scale(t) * x
        u = self.unet(z, torch.full_like(index, T * t - 1, dtype=torch.float32), context)
        return velocity(x0_from_u(z, u, t), eps_from_u(z, u, t), ab_t)
