"""From a prompt to a picture, for every published family and for models of your own.

    pipe = Pipeline.load("sd-v1-4.safetensors")
    run = pipe.txt2img("a painting of a virus monster", seed=3, n=2)
    for step in run:                        # may be left out: a progress bar, a trajectory
        print(step.t)
    pictures = run.pictures()               # (2, 3, 512, 512), float32, -1..1

Pictures go in and come out as (b, 3, h, w) from -1 to 1. A seed means the same on every device:
picture i of a batch draws all its noise from a generator of its own, on the CPU, seeded seed + i,
so it is the picture that seed + i gives alone (up to rounding: a batch is summed in another order).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import checkpoint as files
from . import conditioning as told
from . import samplers
from .conditioning import Conditioning, Frame
from .configs import UNetConfig
from .equations import q_sample
from .families import Family, Part, on_meta
from .guidance import cfg, from_v, paper_time
from .models.autoencoder import Posterior, check_picture
from .noise import keep
from .pictures import in_tiles
from .samplers import Step
from .schedules import (
    alpha_bar,
    ldm_uniform_times,
    scaled_linear_betas,
    trailing_times,
    zero_terminal_snr,
)

T = 1000
SAMPLERS = {
    name: getattr(samplers, name) for name in ("plms", "ddim", "s_pndm", "pndm", "ddpm")
}
Prompt = str | Sequence[str] | Conditioning


class Usual(NamedTuple):
    """What a family was trained for: a side in pixels, a guidance scale, the ends of its betas."""

    size: int = 512
    scale: float = 7.5
    betas: tuple[float, float] = (0.00085, 0.012)


VQ_BETAS = (0.0015, 0.0195)
USUAL = {
    "sd2": Usual(scale=9.0),
    "sd2-depth": Usual(scale=9.0),
    "unclip-h": Usual(768, 10.0),
    "unclip-l": Usual(768, 10.0),
    "upscaler": Usual(128, 9.0, (1e-4, 0.02)),
    "sdxl": Usual(1024, 5.0),
    "sdxl-refiner": Usual(1024, 5.0),
    "ldm-txt2img": Usual(256, 5.0),
    "ldm-text2img256": Usual(256, 5.0, VQ_BETAS),
    "ldm-cin256": Usual(256, 3.0, VQ_BETAS),
    "ldm-ffhq256": Usual(256, 1.0, VQ_BETAS),
}


def schedule(config: UNetConfig, family: str = "") -> Tensor:
    """ᾱ_0..ᾱ_T that a U-Net was trained with."""
    betas = scaled_linear_betas(T, *USUAL.get(family, Usual()).betas)
    return alpha_bar(zero_terminal_snr(betas) if config.zero_terminal_snr else betas)


def times(config: UNetConfig, steps: int) -> list[int]:
    """The official grid, whose last step leads to t = 1 (60 steps are 63 there, too); for a model
    with zero terminal SNR one from T to 0."""
    return (trailing_times if config.zero_terminal_snr else ldm_uniform_times)(T, steps)


def own_noise(seed: int, count: int) -> Callable[[Tensor], Tensor]:
    """A function x -> N(0, I) like x, drawn for each picture from its own generator."""
    generators = [torch.Generator().manual_seed(seed + i) for i in range(count)]

    def draw(x: Tensor) -> Tensor:
        shape = (1, *x.shape[1:])
        return torch.cat([torch.randn(shape, generator=g) for g in generators]).to(x)

    return draw


@dataclass(frozen=True)
class Settings:
    """How to sample: all that a picture depends on beside the prompt and the picture it begins
    with. A ValueError says what cannot be."""

    negative: Prompt = ""
    scale: float | None = None  # s of ε_u + s (ε_c - ε_u); 1 is no guidance, None the usual
    rescale: float = 0.0  # Zero-SNR §3.4's φ
    steps: int = 50
    sampler: str = "plms"
    eta: float = 0.0  # of ddim
    seed: int = 0
    n: int = 1  # pictures of each prompt
    frame: Frame = Frame()  # SDXL's

    def __post_init__(self):
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        if self.scale is not None and not 0 <= self.scale < math.inf:
            raise ValueError(f"the guidance scale must be at least 0, got {self.scale}")
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale must be from 0 to 1, got {self.rescale}")
        if not isinstance(self.n, int) or self.n < 1:
            raise ValueError(f"n must be a whole number of at least 1, got {self.n!r}")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63 - 2**32:
            raise ValueError(f"seed must be a whole number from 0 to 2^63 - 2^32, got {self.seed}")
        if not 0 <= self.eta <= 1 or self.eta and self.sampler != "ddim":
            raise ValueError(f"eta must be from 0 to 1, and 0 but for ddim, got {self.eta}")
        ldm_uniform_times(T, self.steps)  # it says what is wrong with the steps


class Run:
    """A picture in the making. Iterate it for the sampler's Steps, or not; then ask for pictures.

    It begins when it is first asked for anything, and works once. len: how many steps.
    """

    def __init__(self, steps: Iterator[Step], grid: list[int], decode: Callable[[Tensor], Tensor]):
        self.times = grid
        self._steps, self._decode, self._x = steps, decode, None

    def __len__(self) -> int:
        return len(self.times) - 1

    def __iter__(self) -> Iterator[Step]:
        for step in self._steps:
            self._x = step.x
            yield step

    def latents(self) -> Tensor:
        """The steps that are left, and where they lead: (b, c, h/f, w/f)."""
        for _ in self:
            pass
        return self._x

    def pictures(self) -> Tensor:
        """The steps that are left, and the pictures: (b, 3, h, w), -1..1."""
        return self._decode(self.latents())


class Pipeline:
    """The networks of a checkpoint, and the ways to make pictures with them.

    tokenizers: one for each text encoder, a function from prompts to ids; CLIP's by default. words:
    all that the model knows, for `warnings`. Each network is copied to device and dtype when it is
    first used, from the checkpoint, which stays as it is; with release the copy is dropped right
    after, so that only one is held at a time. (In float16 the first stage runs in float32: SDXL's
    overflows.) tile: decode by tiles of so many latents. Pictures are decoded one by one.
    """

    def __init__(
        self,
        checkpoint: files.Checkpoint,
        tokenizers: Sequence[Callable] | None = None,
        words: Sequence[str] = (),
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        release: bool = False,
        tile: int | None = None,
    ):
        missing = [name for name in ("unet", "vae") if getattr(checkpoint, name) is None]
        if missing:
            raise ValueError(f"a pipeline needs a {' and a '.join(missing)} in its checkpoint")
        self.checkpoint, self.family = checkpoint, checkpoint.family
        self.texts = [name for name in ("text", "text_2") if getattr(checkpoint, name) is not None]
        if tokenizers is None:
            tokenizers = [told.tokenizer_for(getattr(checkpoint, name)) for name in self.texts]
        if len(tokenizers) != len(self.texts):
            raise ValueError(f"{len(self.texts)} text encoders need as many tokenizers")
        self.tokenizers, self.words = list(tokenizers), frozenset(words)
        self.device, self.dtype = torch.device(device), dtype
        self.release, self.tile = release, tile
        self.config, self.first_stage = checkpoint.unet.config, checkpoint.vae.config
        self.usual = USUAL.get(self.family, Usual())
        if self.family == "sd2" and self.config.prediction == "v":
            self.usual = self.usual._replace(size=768)
        self.ab = schedule(self.config, self.family)
        self._placed: dict[str, nn.Module] = {}

    @classmethod
    def load(
        cls,
        path: str | Path,
        family: str | Family | None = None,
        prediction: str | None = None,
        ema: bool = False,
        dtype: torch.dtype = torch.float32,
        **options,
    ) -> "Pipeline":
        """A pipeline of a file (see checkpoint.load); the weights stay mapped from it.

        options are Pipeline's. A tokenizer in the file's metadata is taken.
        """
        stored, metadata = dtype, {}
        if Path(path).is_file():
            about = files.info(path)
            metadata = about.metadata
            kinds = [getattr(torch, kind) for part in about.parts.values() for kind in part.dtypes]
            stored = next((kind for kind in kinds if kind in files.DTYPES), dtype)
        checkpoint = files.load(path, family, prediction, stored, ema)
        found = told.read_tokenizer(metadata)
        if found and "tokenizers" not in options:
            options |= {"tokenizers": [found[0]], "words": found[1]}
        return cls(checkpoint, dtype=dtype, **options)

    # ---- the parts ------------------------------------------------------------------------

    @contextmanager
    def part(self, name: str) -> Iterator[nn.Module]:
        """A network on its device, in its dtype: with pipe.part("unet") as unet: ..."""
        module = self._placed.get(name) or self._place(name)
        if not self.release:
            self._placed[name] = module
        yield module

    def _place(self, name: str) -> nn.Module:
        module = getattr(self.checkpoint, name)
        half_vae = name == "vae" and self.dtype == torch.float16
        dtype = torch.float32 if half_vae else self.dtype
        weights = module.state_dict()
        if all(w.dtype == dtype and w.device == self.device for w in weights.values()):
            return module.eval()
        copy = on_meta(Part(type(module), module.config, ""))
        copy.load_state_dict(
            {key: weight.to(self.device, dtype) for key, weight in weights.items()}, assign=True
        )
        return copy.eval()

    @torch.no_grad()
    def encode(
        self,
        prompt: Prompt,
        size: tuple[int, int] | None = None,
        frame: Frame = Frame(),  # noqa: B008 - it is frozen
        negative: bool = False,
    ) -> Conditioning:
        """A prompt, or several, as what the U-Net is told: (b, 77, 768) for SD 1.

        size and frame are SDXL's; negative: as a negative prompt is told, which to SDXL's base is
        nothing but zeros where it is empty, as in its training.
        """
        if isinstance(prompt, Conditioning):
            return prompt
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if self.config.context_dim is None and not any(prompts):
            return Conditioning()
        if not self.texts:
            raise ValueError(
                f"{self.family} has no text encoder here: instead of a prompt pass a "
                f"Conditioning, its context (b, n, {self.config.context_dim})"
            )
        states = []
        for name, tokenizer in zip(self.texts, self.tokenizers, strict=True):
            with self.part(name) as text:
                states.append(told.read_prompts(prompts, [text], [tokenizer]))
            del text
        context, pooled = torch.cat([state[0] for state in states], dim=2), states[-1][1]
        if self.family not in ("sdxl", "sdxl-refiner"):
            return Conditioning(context)
        refiner = self.family == "sdxl-refiner"
        if negative and not refiner and not any(prompts):
            context, pooled = torch.zeros_like(context), torch.zeros_like(pooled)
        numbers = frame.numbers(self._size(size), refiner, negative)
        return Conditioning(context, told.micro_vector(pooled, numbers, self.config.vector_dim))

    def warnings(self, prompt: str) -> list[str]:
        """What the model will not make of a prompt, in sentences for the user."""
        return told.prompt_warnings(prompt, self.tokenizers, self.words)

    @torch.no_grad()
    def to_latent(self, picture: Tensor, noise: Callable[[Tensor], Tensor] | None) -> Tensor:
        """Pictures (b, 3, h, w) -> scaled latents, one at a time; without noise the mode."""
        with self.part("vae") as vae:
            place = next(vae.parameters())
            said = [vae.encode(p.to(place)) for p in picture.split(1)]
        if isinstance(said[0], Posterior):
            q = Posterior(*(torch.cat(part) for part in zip(*said, strict=True)))
            z = q.mean if noise is None else q.sample(noise(q.mean))
        else:
            z = torch.cat(said)
        return self.first_stage.scale_factor * z

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Scaled latents -> pictures (b, 3, h, w) float32 in -1..1, one at a time, on the CPU."""
        with self.part("vae") as vae:
            place = next(vae.parameters())
            one = vae.decode
            if self.tile:
                one = lambda z: in_tiles(vae.decode, z, self.tile, self.first_stage.factor)  # noqa: E731
            z = (z / self.first_stage.scale_factor).to(place)
            picture = torch.cat([one(z).float().cpu() for z in z.split(1)])
        if not picture.isfinite().all():
            raise ValueError(f"the picture holds nan or inf: {self.dtype} overflows in this model")
        return picture.clamp(-1, 1)

    # ---- the ways to make a picture -------------------------------------------------------

    def txt2img(self, prompt: Prompt, size=None, noise: Tensor | None = None, **settings) -> Run:
        """A prompt to a picture of size (h, w), or of one side. noise: x_T, if not the seed's."""
        made = _Making(self, prompt, Settings(**settings))
        self._only_with(0, "txt2img")
        x = made.noise_of(self._size(size)) if noise is None else noise
        return made.run(made.state(x), times(self.config, made.settings.steps), size=size)
