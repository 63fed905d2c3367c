"""What a U-Net is told beside x_t: the prompt, and what some families want to know besides."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.tensorfile import CheckpointError
from ..models.bert import BERTText
from ..models.blocks import timestep_embedding
from ..models.clip import TextState
from ..models.configs import TextConfig
from ..text.tokenizer import PUNCTUATION, Rows, Tokenizer, clean, split
from ..text.wordpiece import WordPiece

METADATA = "minisd.tokenizer"
CLIP_VOCABULARY, BERT_VOCABULARY = 49408, 30522
SYNTAX = re.compile(  # (red:1.3), <lora:x:0.8>, BREAK, [a|b], --ar 16:9
    r"\([^()]{1,80}:[\d. ]{1,9}\)|<\w{1,20}:[^<>]{1,80}>|\bBREAK\b|\[[^][|:]{0,80}[|:][^][]{0,80}\]"
    r"|(?<!\S)--[a-z]\w{0,20}(?: [\d:.]{1,9})?"
)


class Conditioning(NamedTuple):
    """A condition for each of b pictures, as UNet.forward takes it; None where a model has none."""

    context: Tensor | None = None  # (b, n, dim): the prompt
    y: Tensor | None = None  # (b,) classes or (b, vector_dim)
    beside: Tensor | None = None  # (b, c, h, w): more channels of x_t

    def map(self, function: Callable[[Tensor], Tensor]) -> "Conditioning":
        """The function of each tensor that is there."""
        return Conditioning(*(part if part is None else function(part) for part in self))

    def named(self) -> dict[str, Tensor]:
        """What is there, by name, as guidance.cfg takes it."""
        return {name: part for name, part in self._asdict().items() if part is not None}


def repeated(x: Tensor, count: int) -> Tensor:
    """x (b, ...) for count pictures, each as often as it takes: (count, ...)."""
    if not len(x) or count % len(x):
        raise ValueError(f"{len(x)} prompts, pictures or noises do not make {count} pictures")
    return x.repeat_interleave(count // len(x), dim=0)


# ---- the prompt ---------------------------------------------------------------------------


def tokenizer_for(text: nn.Module) -> Rows | None:
    """CLIP's tokenizer with a published encoder's pad, or BERT's; None for other vocabularies."""
    if isinstance(text, BERTText):
        return WordPiece.bert() if text.config.vocabulary == BERT_VOCABULARY else None
    return Tokenizer.clip(text.config.pad) if text.config.vocabulary == CLIP_VOCABULARY else None


def tokenizer_metadata(tokenizer: Tokenizer, words: Sequence[str] = ()) -> dict[str, str]:
    """A tokenizer as metadata for checkpoint.save, with the words that its captions held.

    Read again with words, it does not read the punctuation that is in none of them.
    """
    merges = [list(pair) for pair in tokenizer.ranks]
    said = {"merges": merges, "length": tokenizer.length, "pad": tokenizer.pad}
    return {METADATA: json.dumps(said | {"words": sorted(words)})}


def read_tokenizer(
    metadata: Mapping[str, str], text: TextConfig | None = None
) -> tuple[Tokenizer, frozenset[str]] | None:
    """What tokenizer_metadata wrote into a file, or None; CheckpointError if it is not that, or
    not the tokenizer of the text encoder."""
    if METADATA not in metadata:
        return None
    try:
        said = json.loads(metadata[METADATA])
        merges = [(left, right) for left, right in said["merges"]]
        for name in ("length", "pad"):
            if type(said[name]) is not int:
                raise ValueError(f"{name} must be a whole number, got {said[name]!r:.80}")
        words = frozenset(said["words"])
        ignored = "".join(sorted({*PUNCTUATION}.difference(*words))) if words else ""
        found = Tokenizer(merges, said["length"], said["pad"], ignored)
        if text and (len(found.vocabulary), found.length) != (text.vocabulary, text.length):
            raise ValueError(
                f"it has {len(found.vocabulary)} tokens and rows of {found.length}, and the text "
                f"encoder {text.vocabulary} and {text.length}"
            )
        return found, words
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"the metadata's tokenizer cannot be read: {error!r}") from None


def read_prompt(prompts: Sequence[str], text: nn.Module, tokenizer: Callable | None) -> TextState:
    """Prompts through a text encoder: its context (b, n, width) and what it pools, (b, width)."""
    if tokenizer is None:
        raise ValueError(
            f"no tokenizer for a {type(text).__name__} of {text.config.vocabulary} tokens: "
            "pass Pipeline(..., tokenizers=[...]), a function from prompts to ids (b, n) for each"
        )
    return text(tokenizer(list(prompts)).to(next(text.parameters()).device))


def prompt_warnings(prompt: str, tokenizers: Sequence, words: frozenset[str] = frozenset()) -> list:
    """What the model will not make of a prompt, a sentence each: what is cut, unknown words, syntax
    of other programs.

    words: all that it was trained on; empty where no such list is known, as for CLIP.
    """
    said = []
    lost = {t.truncated(prompt) for t in tokenizers if isinstance(t, Rows)} - {""}
    if lost:
        said.append(f"the prompt is too long, and this is not read: {max(lost, key=len)!r}")
    signs = {sign for t in tokenizers for sign in getattr(t, "ignored", "")}
    told = [w for w in dict.fromkeys(split(clean(prompt))) if not signs.issuperset(w)]
    unknown = [w for w in told if words and w not in words]
    if unknown:
        said.append(f"the model was never told these words: {', '.join(unknown)}")
    if found := list(dict.fromkeys(SYNTAX.findall(prompt))):
        shown = ", ".join(map(repr, found))
        said.append(f"the syntax of other programs is read as plain words and signs here: {shown}")
    return said


# ---- SDXL ---------------------------------------------------------------------------------


class Frame(NamedTuple):
    """SDXL §2.2: what a picture is said to have been. Sizes are (height, width) in pixels.

    None is the size that is painted. The refiner is told scores instead of the target.
    """

    original: tuple[int, int] | None = None
    crop: tuple[int, int] = (0, 0)  # how much was cut away: (top, left)
    target: tuple[int, int] | None = None
    score: float = 6.0  # how well it is liked, 1 to 10
    negative_score: float = 2.5  # and what the negative prompt is told

    def numbers(self, size: tuple[int, int], refiner: bool, negative: bool) -> list[float]:
        """Six for the base, (original, crop, target), and five for the refiner."""
        score = self.negative_score if negative else self.score
        end = (score,) if refiner else self.target or size
        return [*(self.original or size), *self.crop, *end]


def micro_vector(pooled: Tensor, numbers: Sequence[float], dim: int) -> Tensor:
    """SDXL §2.2: the pooled text, then every number as sinusoids: (b, w) -> (b, dim).

    1280 + 6 · 256 = 2816 for the base, 1280 + 5 · 256 = 2560 for the refiner.
    """
    each, rest = divmod(dim - pooled.shape[1], len(numbers))
    if rest or each < 2:
        raise ValueError(
            f"a vector of {dim} does not hold {pooled.shape[1]} of text and {len(numbers)} numbers"
        )
    waves = timestep_embedding(torch.tensor(numbers, device=pooled.device), each).flatten()
    return torch.cat([pooled, waves.to(pooled).expand(len(pooled), -1)], dim=1)


# ---- pictures beside x_t ------------------------------------------------------------------


def paint_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask of pixels, (h, w) or (b, 1, h, w), as (b, 1, h, w) of 0 (keep) and 1 (paint anew)."""
    mask = mask[None, None] if mask.ndim == 2 else mask
    if mask.ndim != 4 or mask.shape[1] != 1 or tuple(mask.shape[2:]) != tuple(size):
        raise ValueError(
            f"a mask must be (h, w) or (b, 1, h, w) of the picture's size {tuple(size)}, "
            f"got {tuple(mask.shape)}"
        )
    mask = mask.float()
    if not ((mask >= 0) & (mask <= 1)).all():
        raise ValueError("a mask holds 0 where to keep the picture and 1 where to paint anew")
    mask = (mask >= 0.5).to(mask)
    if not mask.any():
        raise ValueError(f"the mask holds nothing to paint anew, or it is too thin at {size}")
    return mask


def shrink(mask: Tensor, factor: int) -> Tensor:
    """A mask for latents: of each f x f pixels the first speaks, as the models were trained."""
    return mask[:, :, ::factor, ::factor]


def depth_channel(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """A depth map, (h, w) or (b, 1, h, w), as SD 2's channel (b, 1, *size), from -1 to 1."""
    depth = depth[None, None] if depth.ndim == 2 else depth
    if depth.ndim != 4 or depth.shape[1] != 1:
        raise ValueError(f"a depth map must be (h, w) or (b, 1, h, w), got {tuple(depth.shape)}")
    depth = F.interpolate(depth.float(), size, mode="bicubic", align_corners=False)
    low, high = depth.amin((1, 2, 3), keepdim=True), depth.amax((1, 2, 3), keepdim=True)
    if (low == high).any() or not depth.isfinite().all():
        raise ValueError("a depth map must be finite and hold more than one depth")
    return 2 * (depth - low) / (high - low) - 1
