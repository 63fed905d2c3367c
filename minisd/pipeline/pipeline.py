"""From a prompt to a picture, for every published family and for models of your own.

    pipe = Pipeline.load("sd-v1-4.safetensors")
    run = pipe.txt2img("a painting of a fox", seed=3, n=2)
    for step in run:                        # or not: for a progress bar, or a trajectory
        print(step.t)
    pictures = run.pictures()               # (2, 3, 512, 512)

Pictures go in and come out as float (b, 3, h, w) from -1 to 1; PIL images and numpy arrays are
taken too, as pictures.as_picture, as_mask and as_depth say. A seed means the same on every
device: picture i draws all its noise on the CPU from its own generator, seeded seed + i, so in a
batch it is the picture that it is alone (but for rounding).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints import loading as files
from ..checkpoints.control import load_control
from ..checkpoints.embedding import open_embedding, with_embeddings
from ..checkpoints.families import Family
from ..checkpoints.lora import WORDS, with_loras
from ..checkpoints.lora_file import open_lora
from ..equations import q_sample
from ..guidance import cfg, from_v, from_x0, interval, paper_time
from ..noise import keep
from ..prediction import EpsModel
from ..samplers import Step, ddim_invert
from ..schedules import ab_at, alpha_bar, scaled_linear_betas
from .conditioning import depth_channel, paint_mask, read_tokenizer, repeated, shrink
from .control import hint_size, led
from .menu import SAMPLERS
from .networks import Networks, usable
from .pictures import as_depth, as_mask, as_picture
from .precision import bits_of, fastest
from .run import Run, Told
from .settings import (
    Prompt,
    Settings,
    T,
    first_times,
    last_times,
    own_noise,
    schedule,
    times,
    usual_grid,
    usual_order,
    usual_sampler,
    whole,
)
from .threads import is_small, threads_for


def several(files: Any) -> Sequence:
    """Files as a list, where one alone is given."""
    return [files] if isinstance(files, (str, Path)) else files


class Pipeline(Networks):
    """A checkpoint's networks and the ways to make pictures with them; each way gives a Run.

    All take Settings' fields by name: negative, scale, steps, sampler, grid, seed, n, ...
    """

    @classmethod
    def load(
        cls,
        path: str | Path,
        family: str | Family | None = None,
        prediction: str | None = None,
        ema: bool = False,
        dtype: torch.dtype | Literal["auto"] = torch.float32,
        loras: Sequence[str | Path | tuple[str | Path, float]] = (),
        control_net: str | Path | None = None,
        embeddings: str | Path | Sequence[str | Path] = (),
        **options,
    ) -> "Pipeline":
        """A pipeline of a file; family, prediction and ema as checkpoint.load has them.

        loras: files, or files and their scales, as [("paint.safetensors", 0.8)], merged into the
        weights.
        control_net: the file or folder of a ControlNet that is led by each way's hint.
        embeddings: files of textual inversions; prompts may hold their words.
        dtype: what is computed in; "auto" is 16 bits, as the file has them, where these are faster
        (`precision.fastest`), or else float32. options are Networks' (device, release, tile, ...).
        The weights stay mapped from the file; what runs in another dtype is a copy, or, on a CPU,
        is widened layer by layer. A tokenizer in the file's metadata is taken.
        """
        scaled = [one if isinstance(one, (tuple, list)) else (one, 1.0) for one in several(loras)]
        changes = [(open_lora(file), scale) for file, scale in scaled]  # refused before all else
        words = [open_embedding(file) for file in several(embeddings)]
        metadata = {} if Path(path).is_dir() else files.info(path).metadata
        asked = torch.float32 if dtype == "auto" else dtype
        checkpoint = files.load(path, family, prediction, asked, ema, keep=True)
        if dtype == "auto":
            unet, device = checkpoint.unet, usable(options.get("device", "cpu"))
            dtype = torch.float32 if is_small(unet) else fastest(bits_of(unet), device)
        checkpoint = with_loras(checkpoint, changes, dtype)
        if control_net is not None:
            told = (checkpoint.unet.config, dtype)
            options["control"] = load_control(control_net, *told, keep=True)
        found = read_tokenizer(metadata, checkpoint.text and checkpoint.text.config)
        if found and "tokenizers" not in options:
            options |= {"tokenizers": [found[0]], "words": found[1]}
        if options.get("words"):
            told = " ".join(file.metadata.get(WORDS, "") for file, _ in changes)
            options["words"] = {*options["words"], *told.split()}
        pipe = cls(with_embeddings(checkpoint, words), dtype=dtype, **options)
        for file in words:
            pipe.learn(file.word, file.count)
        return pipe

    @property
    def ab(self) -> Tensor:
        """ᾱ_0..ᾱ_T of the model."""
        return schedule(self.config, self.family)

    # ---- the ways to make a picture -------------------------------------------------------

    def txt2img(
        self,
        prompt: Prompt,
        size=None,
        refiner: "Pipeline | None" = None,
        share: float | None = None,
        **settings,
    ) -> Run:
        """A picture of a prompt, of size (h, w) or of one side; from noise alone.

        refiner: another model, of the same latents and schedule, that takes the rest of the steps
        after this share of them, 0.8 unless told. With a share and no refiner the run stops there,
        and `denoise` of strength 1 - share goes on from its latents.
        Official: `Txt2NoisyDiscretizationWrapper`; diffusers: `denoising_end`, `denoising_start`
        """
        if size is None and settings.get("hint") is not None:
            size = self.size_of_hint(settings["hint"])
        told = self._told(prompt, self.size(size), settings)
        self._check_channels("txt2img", told)
        x, grid = told.noise(self._empty(told, self.size(size))), self._times(told)
        first = first_times(grid, (0.8 if refiner else 1.0) if share is None else share)
        run = self._run(told, x, first)
        if refiner is None:
            return run
        self._check_refiner(refiner)
        same = {"sampler": told.settings.sampler, "grid": told.settings.grid}
        same |= {"hint": None, "guess": False, "control_scale": 1.0}  # the base's alone
        same |= {"control_from": T, "control_until": 0}
        rest = refiner._told(prompt, self.size(size), settings | same)._replace(noise=told.noise)
        refiner._check_channels("refine", rest)

        def steps() -> Iterator[Step]:
            yield from run
            if len(first) < len(grid):
                yield from refiner._run(rest, run.latents(), grid[len(first) - 1 :])

        return Run(steps(), grid, refiner.decode)

    def denoise(self, x: Tensor, prompt: Prompt, strength: float = 1.0, **settings) -> Run:
        """Latents (b, c, h/f, w/f) led on to the end, in the last strength · steps of the steps.

        x is noise, an inverted picture, or where another model's run was stopped (SDXL's base, for
        its refiner), at the time where these steps begin. A sampler that draws noise draws it from
        the seed's beginning, as x_T was: give another seed, or let `txt2img` take the refiner.
        """
        if x.ndim != 4 or x.shape[1] != self.config.out_channels:
            want = f"(b, {self.config.out_channels}, h, w)"
            raise ValueError(f"latents must be {want}, got {tuple(x.shape)}")
        size = self.size([side * self.first_stage.factor for side in x.shape[2:]])
        told = self._told(prompt, size, settings)
        self._check_channels("denoise", told)
        return self._run(told, x, last_times(self._times(told), strength))

    def img2img(self, picture: Tensor, prompt: Prompt, strength: float = 0.75, **settings) -> Run:
        """A picture repainted: noised, and denoised in the last strength · steps of the steps."""
        picture = as_picture(picture)
        told = self._told(prompt, self._size_of(picture), settings)
        self._check_channels("img2img", told)
        return self._repaint(told, picture, strength)

    def depth2img(
        self, picture: Tensor, depth: Tensor, prompt: Prompt, strength: float = 0.8, **settings
    ) -> Run:
        """img2img that keeps the depths: depth (h, w) or (b, 1, h, w), in any unit, far or near up
        as the model's MiDaS has it (near is large)."""
        picture, depth = as_picture(picture), as_depth(depth)
        told = self._told(prompt, self._size_of(picture), settings)
        size = [side // self.first_stage.factor for side in picture.shape[2:]]
        told = told.beside(repeated(depth_channel(depth, size).to(self.like()), told.count))
        self._check_channels("depth2img", told)
        return self._repaint(told, picture, strength)

    def inpaint(
        self, picture: Tensor, mask: Tensor, prompt: Prompt, strength: float = 1.0, **settings
    ) -> Run:
        """A picture painted anew where the mask, (h, w) or (b, 1, h, w), is 1.

        A model of nine channels sees the mask and the rest of the picture; any other one paints
        all of it, and after each step the rest is put back, noised to that time, with the noise
        that x_T began with (the official code draws new noise each time). There a latent is painted
        if any of its pixels is; a model of nine channels is told the mask as it was trained, the
        first pixel of each latent, unless that leaves nothing of it.
        """
        picture = as_picture(picture)
        size = self._size_of(picture)
        told, f = self._told(prompt, size, settings), self.first_stage.factor
        grid = last_times(self._times(told), strength)
        mask = paint_mask(as_mask(mask), size).to(picture)
        sees = self.config.in_channels > self.config.out_channels
        # diffusers draws in this order: the picture's posterior, x_T, the rest's posterior
        z = None if sees and strength == 1 else self._encoded(picture, told)
        noise = told.noise(self._empty(told, size))
        x = noise if strength == 1 else q_sample(z, noise, ab_at(self.ab, grid[0], z))
        small = shrink(mask, f)
        if not sees or not small.flatten(1).any(1).all():
            small = F.max_pool2d(mask, f)
        small = repeated(small.to(x), told.count)
        if not sees:
            constrain = keep(1 - small, z, self.ab, lambda _: noise)
            return self._run(told, x, grid, constrain=constrain)
        rest = self._encoded(picture * (1 - mask), told)
        told = told.beside(torch.cat([small, rest], dim=1))
        self._check_channels("inpaint", told)
        return self._run(told, x, grid)

    def upscale(self, picture: Tensor, prompt: Prompt = "", level: int = 20, **settings) -> Run:
        """A picture four times as wide and high. level, 0 to 999: the noise laid over the small
        one, whose grain is not to be copied."""
        picture, level = as_picture(picture), whole("level", level)
        size = self._size_of(picture, factor=1)
        told = self._told(prompt, None, settings)
        low = alpha_bar(scaled_linear_betas(T, 1e-4, 0.02))
        if not 0 <= level < T:
            raise ValueError(f"level must be a whole number from 0 to {T - 1}, got {level}")
        small = repeated(picture.to(self.like()), told.count)
        small = q_sample(small, told.noise(small), low[level + 1])
        told = told.beside(small, torch.full((told.count,), level, device=self.device))
        self._check_channels("upscale", told)
        x = told.noise(self._empty(told, size, factor=1))
        return self._run(told, x, self._times(told))

    def invert(
        self,
        picture: Tensor,
        prompt: Prompt = "",
        strength: float = 1.0,
        refine: int = 0,
        scale: float = 1.0,
        **settings,
    ) -> Run:
        """DDIM §4.3: the steps that `denoise` takes with ddim, backwards: picture to noise.

        .latents() is what to give it, with the same prompt, scale, steps and strength. refine:
        iterations for the fixed point of each step, from which `denoise` comes back exactly, where
        they converge (samplers.ddim_invert). A model with zero terminal SNR wants a strength below
        1: at T, x holds nothing of the picture.
        """
        picture = as_picture(picture)
        told = self._told(prompt, self._size_of(picture), settings | {"scale": scale})
        self._check_channels("invert", told)
        grid = last_times(self._times(told), strength)
        x = self.to_latent(picture, count=told.count)

        def steps() -> Iterator[Step]:
            with self.part("unet") as unet:
                yield from ddim_invert(self.eps_model(unet, told), x, grid, self.ab, refine)

        return Run(steps(), grid[::-1], self.decode)

    # ---- what they share ------------------------------------------------------------------

    def eps_model(self, unet: nn.Module, told: Told) -> EpsModel:
        """The U-Net with its conditions and guidance as samplers take it: (x, t) -> ε."""
        device, dtype, small = self.device, self.works_in("unet"), is_small(unet)

        def there(part: Tensor) -> Tensor:
            return part.to(device, dtype) if part.is_floating_point() else part.to(device)

        s, scale = told.settings, told.scale
        if told.hint is not None:
            with self.part("control") as control:
                times = (s.control_from, s.control_until)
                unet = led(unet, control, there(told.hint), s.control_scale, s.guess, times)

        @torch.no_grad()
        def network(x: Tensor, index: Tensor, given: dict) -> Tensor:
            x_in = torch.cat([x, given["beside"]], dim=1) if "beside" in given else x
            with threads_for(small, len(x)):
                return unet(there(x_in), index, given.get("context"), given.get("y")).to(x)

        cond, uncond = (c and c.map(there).named() for c in (told.cond, told.uncond))
        if uncond and (s.guide_from, s.guide_until) != (T, 0):
            scale = interval(scale, s.guide_from, s.guide_until)
        model = cfg(paper_time(network), cond, uncond, scale, s.rescale)
        adapter = {"v": from_v, "x0": from_x0}.get(self.config.prediction)
        return adapter(model, self.ab) if adapter else model

    def _run(self, told: Told, x: Tensor, grid: list[int], **options) -> Run:
        """The sampler over the grid, from x (b or 1, c, h, w)."""
        s, x = told.settings, repeated(x.to(self.like()), told.count)
        sampler, options = SAMPLERS[s.sampler], options | s.options()
        options |= {"noise": told.noise} if "noise" in sampler.takes() else {}

        def steps() -> Iterator[Step]:
            with self.part("unet") as unet:
                model = self.eps_model(unet, told)
                yield from sampler.run(model, x, grid, self.ab, **options)

        return Run(steps(), grid, self.decode)

    def settled(self, settings: Settings) -> Settings:
        """The settings, with what they leave to the model: scale, steps, sampler and grid."""
        s, prompted = settings, self.config.context_dim is not None
        scale = s.scale if s.scale is not None else self.usual.scale if prompted else 1.0
        if scale != 1 and not prompted:
            raise ValueError(f"{self.family} has no prompt to be guided by: scale must be 1")
        sampler = s.sampler or usual_sampler(self.config, self.family)
        grid = s.grid or usual_grid(self.config, self.family)
        order = usual_order(self.config) if s.sampler is None and s.order is None else s.order
        steps = self.usual.steps if s.steps is None else s.steps
        return replace(s, scale=scale, steps=steps, sampler=sampler, grid=grid, order=order)

    def _times(self, told: Told) -> list[int] | list[float]:
        return times(self.config, told.settings.steps, self.family, told.settings.grid)

    def _told(self, prompt: Prompt, size, settings: dict) -> Told:
        """The prompt and its opposite encoded, for n pictures of each."""
        s = self.settled(Settings(**settings))
        scale = s.scale
        cond = self.encode(prompt, size, s.frame)
        count = s.n * max((len(part) for part in cond if part is not None), default=1)
        uncond = None if scale == 1 else self.encode(s.negative, size, s.frame, negative=True)
        for given in (cond, uncond):
            if given and self.config.vector_dim and given.y is None:
                raise ValueError(
                    f"{self.family} is told a vector of {self.config.vector_dim} besides: pass "
                    "Conditioning(context, y) as prompt and as negative"
                )
        cond, uncond = (c and c.map(lambda part: repeated(part, count)) for c in (cond, uncond))
        hint = None if s.hint is None else repeated(self._hint(s.hint, size), count)
        return Told(cond, uncond, scale, count, own_noise(s.seed, count), s, hint)

    def _hint(self, hint, size: tuple[int, int] | None) -> Tensor:
        """The hint at the picture's size, from 0 to 1; ValueError where no ControlNet takes it."""
        if self.control is None:
            raise ValueError("a hint leads a ControlNet, and there is none: tell control_net=FILE")
        if size is None:
            raise ValueError("upscale takes no hint: a ControlNet leads a picture of its own size")
        return (as_picture(hint, size).clamp(-1, 1) + 1) / 2

    def size_of_hint(self, hint) -> tuple[int, int]:
        """(h, w) of the picture that a hint leads, where no other size is told."""
        unit = self.first_stage.factor * 2 ** (len(self.config.channel_mult) - 1)
        return hint_size(*as_picture(hint).shape[2:], self.usual.size, unit)

    def _empty(self, told: Told, size: tuple[int, int], factor: int | None = None) -> Tensor:
        """Latents of a picture of that size, for their shape."""
        h, w = (side // (factor or self.first_stage.factor) for side in size)
        return self.like().new_empty(told.count, self.config.out_channels, h, w)

    def _encoded(self, picture: Tensor, told: Told) -> Tensor:
        noise = told.noise if told.settings.sample else None
        return self.to_latent(picture, noise, told.count)

    def _repaint(self, told: Told, picture: Tensor, strength: float) -> Run:
        grid = last_times(self._times(told), strength)
        z = self._encoded(picture, told)
        return self._run(told, q_sample(z, told.noise(z), ab_at(self.ab, grid[0], z)), grid)

    def _size_of(self, picture: Tensor, factor: int | None = None) -> tuple[int, int]:
        """(h, w) of a picture, once it is one that the networks take."""
        if picture.ndim != 4 or picture.shape[1] != 3:
            raise ValueError(f"a picture must be (b, 3, h, w), got {tuple(picture.shape)}")
        if not (picture.abs() <= 1.001).all():
            raise ValueError("a picture's numbers must be from -1 to 1")
        return self.size(tuple(picture.shape[2:]), factor)

    def _check_refiner(self, refiner: "Pipeline") -> None:
        """ValueError where another model's latents, or their noise, are not this one's."""
        mine, theirs = (
            (pipe.config.out_channels, pipe.first_stage.factor, pipe.first_stage.scale_factor)
            for pipe in (self, refiner)
        )
        if mine != theirs or (self.ab - refiner.ab).abs().max() > 1e-6:
            raise ValueError(
                f"{refiner.family} cannot refine what {self.family} begins: its latents, or its "
                "noise schedule, are different; SDXL's refiner goes with SDXL's base"
            )

    def _check_channels(self, way: str, told: Told) -> None:
        """ValueError where the U-Net wants other channels beside x_t than it is given."""
        wanted = self.config.in_channels - self.config.out_channels
        given = 0 if told.cond.beside is None else told.cond.beside.shape[1]
        if wanted != given:
            ways = {1: "depth2img", 3: "upscale", self.first_stage.embed_dim + 1: "inpaint"}
            raise ValueError(
                f"{self.family} cannot {way}: its U-Net takes {wanted} channels beside x_t, and "
                f"{given} are given; use {ways.get(wanted, 'txt2img, img2img or inpaint')}"
            )
