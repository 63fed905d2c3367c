"""What makes the tiny model fast: a LoRA that is distilled from it, for 8, 4, 2 or 1 calls.

The teacher is the whole model under guidance. Its student is the same U-Net with a LoRA, a
consistency model (arXiv 2303.01469, 2310.04378) that has the guidance in its weights (2210.03142).
"""

import copy
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.loading import Checkpoint
from ..checkpoints.lora import save_lora
from ..equations import guided_eps, q_sample, turned, x0_from_v
from ..models.lora import add_lora, takes_lora
from ..schedules import at, trailing_times
from ..training import Run, rng
from .stages import Latents, fingerprint, tiny_schedule, tokenizer


class Distilled:
    """Consistency Models Algorithm 2 for v: from x_t, and from where the teacher goes on from it to
    x_s, the student is to give one and the same x0.

        ‖f_θ(x_t, t) - f_θ⁻(x_s, s)‖²,  f_θ(x, t) = √ᾱ_t x - √(1-ᾱ_t) v_θ(x, t)

    t is one of `levels` times, evenly apart and the first of them T; s is the next one, which the
    teacher reaches in `between` steps of DDIM under guidance; f(x_0, 0) = x_0, since ᾱ_0 = 1. θ⁻
    are the student's weights as they are, without a gradient (2310.14189 §3.2).
    """

    name, slow = "distil", {}

    def __init__(
        self,
        latents: Latents,
        teacher: Checkpoint,
        scale: float,
        rank: int = 8,
        levels: int = 4,
        between: int = 2,
        seed: int = 0,
    ):
        self.latents, self.scale, self.between, self.seed = latents, scale, between, seed
        self.latent_scale = teacher.vae.config.scale_factor
        self.unet, self.text = (
            part.eval().requires_grad_(False) for part in (teacher.unet, teacher.text)
        )
        self.network = copy.deepcopy(self.unet)
        names = [name for name, layer in self.network.named_modules() if takes_lora(layer)]
        add_lora(self.network, rank, names, generator=torch.Generator().manual_seed(seed))
        self.unet.to(memory_format=torch.channels_last)
        self.ab, self.times = tiny_schedule(), trailing_times(1000, levels * between)
        self.empty = self.text(tokenizer()("")).context
        self.about = {"rank": rank, "levels": levels, "between": between, "seed": seed}
        self.about |= {"scale": scale, "latents": len(latents), "teacher": fingerprint(self.unet)}

    def loss(self, step: int, samples) -> Tensor:
        drawn = [self._sample(rng(self.seed, step, i)) for i in samples]
        z, tokens, level, eps = (torch.stack(column) for column in zip(*drawn, strict=True))
        x0 = z.float() * self.latent_scale
        context = self.text(tokens).context
        t = self._time(level)
        x_t = q_sample(x0, eps, at(self.ab, t, x0))
        with torch.no_grad():
            target = self._target(x_t, level, context)
        return ((self.student(x_t, t, context) - target) ** 2).mean()

    def student(self, x_t: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """f_θ: x_t (b, ...), t int64 (b,) -> x0 (b, ...)."""
        return x0_from_v(x_t, self.network(x_t, t - 1, context), at(self.ab, t, x_t))

    def teacher(self, x_t: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """The guided v (b, ...)."""
        contexts = torch.cat([self.empty.expand_as(context), context])
        v_u, v_c = self.unet(torch.cat([x_t, x_t]), torch.cat([t, t]) - 1, contexts).chunk(2)
        return guided_eps(v_u, v_c, self.scale)

    def _target(self, x: Tensor, level: Tensor, context: Tensor) -> Tensor:
        """f_θ⁻(x_s, s) at the end of the teacher's steps from x, at the times of the levels."""
        for _ in range(self.between):
            t, s = self._time(level), self._time(level := level + 1)
            x = turned(x, self.teacher(x, t, context), at(self.ab, t, x), at(self.ab, s, x))
        on = s > 0
        x[on] = self.student(x[on], s[on], context[on])
        return x

    def _time(self, level: Tensor) -> Tensor:
        return torch.tensor(self.times)[level]

    def _sample(self, random) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A scene's latent, the tokens of a caption of it, the place of a time, noise."""
        picked, said = random.integers(len(self.latents)), random.integers(Latents.SAYINGS)
        level = torch.tensor(self.between * random.integers((len(self.times) - 1) // self.between))
        noise = torch.Generator().manual_seed(int(random.integers(2**62)))
        z, tokens = self.latents.z[picked], self.latents.tokens[picked, said].long()
        return z, tokens, level, torch.randn(z.shape, generator=noise)


def save_student(run: Run, path: Path) -> None:
    """Write the averaged LoRA of a run, in float16."""
    student = copy.deepcopy(run.stage.network)
    for name, weight in zip(run.names, run.average, strict=True):
        student.get_parameter(name).data = weight.half()
    save_lora(path, Checkpoint("tiny", student))
