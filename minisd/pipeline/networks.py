"""A checkpoint's networks at work: prompts to conditions, pictures to latents and back."""

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..checkpoints.families import FAMILIES, Part, on_meta
from ..checkpoints.loading import DTYPES, Checkpoint
from ..models.autoencoder import Posterior
from ..models.controlnet import ControlNet
from ..text.tokenizer import Rows, clean, split
from .conditioning import (
    Conditioning,
    Frame,
    micro_vector,
    prompt_warnings,
    read_prompt,
    repeated,
    tokenizer_for,
)
from .pictures import in_tiles
from .precision import widened
from .settings import USUAL, Prompt, Usual
from .speed import quickened
from .threads import is_small, threads_for

FRAMED = ("sdxl", "sdxl-refiner")


def usable(device: str | torch.device) -> torch.device:
    """The device; ValueError where torch cannot use it here."""
    try:
        return torch.empty(0, device=device).device
    except Exception as error:  # of any kind: another package of a device's may be missing
        reason = re.split(r"(?<=[.:]) |\n", f"{error}")[0][:200].rstrip(".:")
        raise ValueError(f"cannot use {device}, which torch does not find here: {reason}") from None


class Networks:
    """The networks of a checkpoint, each copied to its device and dtype when it is first used.

    A network that is there in that dtype already runs as it is, in eval mode. In float32 on a CPU a
    large one runs in quicker forms of its layers (`speed.quickened`). lean: one that has
    fewer bits than it is to run in is not copied; its layers are widened as they run
    (`precision.widened`), with the same results. By default that is so on a CPU, but for small
    networks (`threads.SMALL`): they would save less than 40 MB by it, and the tiny model's U-Net
    would take 1.4 times as long.
    tokenizers: one for each text encoder, a function from prompts to ids; CLIP's by default. words:
    all that the model was trained on, for `warnings`. The checkpoint's own weights stay as they
    are; with release a copy is let go right after its use, so that one network is held at a time.
    In float16 the first stage runs in float32, since SDXL's overflows. tile: decode by tiles of so
    many latents. control: a ControlNet, which leads by a hint where one is given.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        tokenizers: Sequence[Callable | None] | None = None,
        words: Sequence[str] = (),
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        release: bool = False,
        tile: int | None = None,
        control: ControlNet | None = None,
        lean: bool | None = None,
    ):
        missing = [name for name in ("unet", "vae") if getattr(checkpoint, name) is None]
        if missing:
            raise ValueError(f"a pipeline needs a {' and a '.join(missing)} in its checkpoint")
        self.checkpoint, self.family, self.control = checkpoint, checkpoint.family, control
        self.texts = [name for name in ("text", "text_2") if name in checkpoint.modules]
        if tokenizers is None:
            tokenizers = [tokenizer_for(checkpoint.modules[name]) for name in self.texts]
        if len(tokenizers) != len(self.texts):
            raise ValueError(f"{len(self.texts)} text encoders need as many tokenizers")
        self.tokenizers, self.words = list(tokenizers), frozenset(words)
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {DTYPES}, got {dtype}")
        if tile is not None and tile < 4:
            raise ValueError(f"a tile must be at least 4 latents wide, got {tile}")
        self.device, self.dtype = usable(device), dtype
        self.release, self.tile, self.lean = release, tile, lean
        self.config, self.first_stage = checkpoint.unet.config, checkpoint.vae.config
        self._placed: dict[str, nn.Module] = {}

    # ---- where they are -------------------------------------------------------------------

    @contextmanager
    def part(self, name: str) -> Iterator[nn.Module]:
        """A network where it runs: with pipe.part("unet") as unet: ..."""
        module = self._placed[name] if name in self._placed else self._place(name)
        if not self.release:
            self._placed[name] = module
        yield module

    def _place(self, name: str) -> nn.Module:
        module, dtype, lean = self._stored(name), self.works_in(name), self.is_lean(name)
        large = self.device.type == "cpu" and dtype == torch.float32 and not is_small(module)
        weights = module.state_dict()
        if all(w.dtype == dtype and w.device == self.device for w in weights.values()):
            return (quickened(module) if large else module).eval()
        copy = on_meta(Part(type(module), module.config, ""))
        there = {key: w.to(self.device, w.dtype if lean else dtype) for key, w in weights.items()}
        copy.load_state_dict(there, assign=True)
        copy = quickened(copy) if large else copy
        return (widened(copy, dtype) if lean else copy).eval()

    def _stored(self, name: str) -> nn.Module:
        return self.control if name == "control" else self.checkpoint.modules[name]

    def works_in(self, name: str) -> torch.dtype:
        """The dtype that a network computes in."""
        overflows = name == "vae" and self.dtype == torch.float16
        return torch.float32 if overflows else self.dtype

    def is_lean(self, name: str) -> bool:
        """Whether a network's weights stay in fewer bits than it computes in."""
        module, size = self._stored(name), self.works_in(name).itemsize
        usual = self.device.type == "cpu" and not is_small(module)
        wanted = usual if self.lean is None else self.lean
        return wanted and any(w.dtype.itemsize < size for w in module.parameters())

    def like(self) -> Tensor:
        """An empty latent (0, c, 0, 0) where samplers run: on the device, in float32 or better."""
        wide = torch.promote_types(self.dtype, torch.float32)
        return torch.empty(0, self.config.out_channels, 0, 0, dtype=wide, device=self.device)

    # ---- sizes ----------------------------------------------------------------------------

    @property
    def usual(self) -> Usual:
        """The family's usual numbers; for a model of your own, 16 x 16 latents."""
        if self.family not in FAMILIES:
            return USUAL.get(self.family, Usual())._replace(size=16 * self.first_stage.factor)
        usual = USUAL.get(self.family, Usual())
        return usual._replace(size=768) if self._is_768() else usual

    def _is_768(self) -> bool:
        return self.family == "sd2" and self.config.prediction == "v"

    def size(
        self, size: int | Sequence[int] | None = None, factor: int | None = None
    ) -> tuple[int, int]:
        """(h, w) in pixels from that, from one side, or from the family's usual side; ValueError
        where the networks cannot halve it evenly. factor: pixels per latent, if not as usual."""
        size = self.usual.size if size is None else size
        try:
            pair = tuple(map(operator.index, size if isinstance(size, Sequence) else (size, size)))
        except TypeError:
            raise ValueError(f"a size is made of whole numbers, got {size!r:.60}") from None
        unit = (factor or self.first_stage.factor) * 2 ** (len(self.config.channel_mult) - 1)
        if len(pair) != 2 or any(a < unit or a % unit for a in pair):
            shown = " x ".join(map(str, pair))
            raise ValueError(
                f"{self.family} takes heights and widths in multiples of {unit}, not {shown}"
            )
        return pair

    # ---- prompts --------------------------------------------------------------------------

    @torch.no_grad()
    def encode(
        self,
        prompt: Prompt,
        size: int | tuple[int, int] | None = None,
        frame: Frame = Frame(),  # noqa: B008 - it is frozen
        negative: bool = False,
    ) -> Conditioning:
        """A prompt, or several, as what the U-Net is told: context (b, 77, 768) for SD 1.

        size and frame are SDXL's. negative: as a negative prompt is told. To SDXL's base an empty
        one is zeros, as in its training; the official code leaves it no other.
        """
        if isinstance(prompt, Conditioning):
            return prompt
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if not isinstance(prompts, (list, tuple)) or not all(isinstance(p, str) for p in prompts):
            raise ValueError(f"a prompt is a string or a list of strings, got {prompt!r:.60}")
        if self.config.context_dim is None and not any(prompts):
            return Conditioning()
        if not self.texts:
            width = self.config.context_dim
            raise ValueError(
                f"{self.family} has no text encoder here; "
                + (f"pass Conditioning(context), (b, n, {width})" if width else "leave prompts out")
            )
        contexts = []
        for name, tokenizer in zip(self.texts, self.tokenizers, strict=True):
            with self.part(name) as text:
                with threads_for(is_small(text), len(prompts)):
                    context, pooled = read_prompt(prompts, text, tokenizer)
                contexts.append(context)
            del text  # or it would be held while the next one is placed
        context = torch.cat(contexts, dim=2)
        if self.family not in FRAMED:
            return Conditioning(context)
        refiner = self.family == "sdxl-refiner"
        if negative and not refiner and not any(prompts):
            context, pooled = torch.zeros_like(context), torch.zeros_like(pooled)
        numbers = frame.numbers(self.size(size), refiner, negative)
        return Conditioning(context, micro_vector(pooled, numbers, self.config.vector_dim))

    def learn(self, word: str, count: int = 1) -> None:
        """Tell the tokenizers a word of `count` tokens that the text encoders have rows for, behind
        all others; ValueError where they have it already."""
        if not all(isinstance(known, Rows) for known in self.tokenizers):
            raise ValueError(f"a tokenizer of your own must know the word {word!r} by itself")
        self.tokenizers = [known.adding(word, count) for known in self.tokenizers]
        if self.words:
            self.words |= {*split(clean(word))}

    def warnings(self, prompt: str) -> list[str]:
        """What the model will not make of a prompt, in sentences for the user."""
        return prompt_warnings(prompt, self.tokenizers, self.words)

    # ---- pictures -------------------------------------------------------------------------

    @torch.no_grad()
    def to_latent(
        self,
        picture: Tensor,
        noise: Callable[[Tensor], Tensor] | None = None,
        count: int | None = None,
    ) -> Tensor:
        """Pictures (b, 3, h, w) in -1..1 -> scaled latents (count or b, ...): the mean of q(z|x),
        or with noise a sample of it for each."""
        count, dtype = count or len(picture), self.works_in("vae")
        with self.part("vae") as vae:
            with threads_for(is_small(vae), 1):
                said = [vae.encode(one.to(self.device, dtype)) for one in picture.split(1)]
        if isinstance(said[0], Posterior):
            parts = (torch.cat(part).to(self.like()) for part in zip(*said, strict=True))
            q = Posterior(*(repeated(part, count) for part in parts))
            z = q.mean if noise is None else q.sample(noise(q.mean))
        else:
            z = repeated(torch.cat(said).to(self.like()), count)
        return self.first_stage.scale_factor * z

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Scaled latents -> pictures (b, 3, h, w) in -1..1, float32 on the CPU, one at a time."""
        with self.part("vae") as vae:
            z = (z / self.first_stage.scale_factor).to(self.device, self.works_in("vae"))
            with threads_for(is_small(vae), 1):
                pictures = [self._decode_one(vae, one).float().cpu() for one in z.split(1)]
        pictures = torch.cat(pictures)
        if not pictures.isfinite().all():
            raise ValueError(f"the picture holds nan or inf: {self.dtype} overflowed on the way")
        return pictures.clamp(-1, 1)

    def _decode_one(self, vae: nn.Module, z: Tensor) -> Tensor:
        if self.tile is None:
            return vae.decode(z)
        return in_tiles(vae.decode, z, self.tile, self.first_stage.factor)
