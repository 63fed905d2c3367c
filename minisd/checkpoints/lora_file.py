"""What a LoRA's file holds: pairs of small matrices, under the names that kohya's programs or
diffusers give them. Every tensor is one of a pair, or its alpha, or the file is refused."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .families import PREFIXES
from .layouts import kind_of
from .tensorfile import CheckpointError, Stored, first_few, open_tensors

NETWORKS = {  # what a key begins with: the network of a Checkpoint; without any, diffusers' oldest
    "lora_unet_": "unet",
    "lora_te_": "text",
    "lora_te1_": "text",
    "lora_te2_": "text_2",
    "unet.": "unet",
    "text_encoder.": "text",
    "text_encoder_2.": "text_2",
    "": "unet",
}
KEY = re.compile(
    r"(?P<begins>lora_unet_|lora_te[12]?_|unet\.|text_encoder(_2)?\.|)(?P<name>.+?)"
    r"(\.lora_(?P<now>down|up|A|B)(\.default)?\.weight"
    r"|([._]lora|\.lora_linear_layer)\.(?P<once>down|up)\.weight"
    r"|([._]lora|\.lora_linear_layer)?\.(?P<alpha>alpha))"
)
ROLES = {"A": "down", "B": "up"}
REFUSED = {  # what a key is that is no LoRA's, or one that is not applied here
    r".*hada_.*": "a LoHa, whose change is a product, entry by entry, of two low-rank ones",
    r".*lokr_.*": "a LoKr, whose change is a Kronecker product",
    r".*(dora_scale|magnitude).*": "a DoRA, which changes the lengths of a weight's rows apart",
    r".*lora_mid.*": "a LoCon with lora_mid, a third factor (a Tucker decomposition)",
    r".*\.b?oft_.*": "an OFT, which rotates weights",
    r".*\.(ia3_l|on_input|scalar|w_norm|b_norm|diff|diff_b)(\..*)?": "changes of another kind than "
    "a LoRA's: of whole weights, biases or norms",
    r".*\.lora_(B|up)\..*bias": "changes of biases, beside a LoRA's of weights",
    r".*lora_embedding_.*": "changes of a text encoder's words, beside a LoRA's of weights",
    r"lora_controlnet": "a Control-LoRA, a ControlNet of low rank",
    r"bundle_emb\..*|emb_params|clip_[lg]|<.*>|string_to_(param|token)\..*": "a textual inversion, "
    "a word for a text encoder, which --embedding takes",
    r"lora_te3_.*|(lora_)?transformer[._].*|(lora_unet_)?(double|single|joint|transformer)_blocks.*"
    r"|diffusion_model\.(double|single|joint)_.*": "a LoRA for a transformer in the U-Net's place, "
    "as SD 3 and Flux have it",
    r"base_model\.model\..*": "a LoRA as peft alone saves it, with its alpha in another file; "
    "diffusers' save_lora_weights writes one file",
}
METADATA = "lora_adapter_metadata"  # where diffusers keeps peft's settings, behind the prefixes
HARMLESS = (True, False, "gaussian", "orthogonal", "eva")  # beginnings that leave the base alone


class Layer(NamedTuple):
    """The change of one layer, its matrices unread."""

    down: Stored
    up: Stored
    alpha: float

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight that it changes, without the 1 x 1 of a pointwise convolution."""
        return plain((self.up.shape[0], *self.down.shape[1:]))


class LoRAFile(NamedTuple):
    """A file's layers by network and name, this with _ for every dot."""

    path: Path
    layout: str
    layers: dict[tuple[str, str], Layer]
    metadata: dict[str, str]


def plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(out, in, 1, 1) as (out, in); other shapes as they are."""
    return shape[:2] if set(shape[2:]) == {1} else shape


def open_lora(path: str | Path) -> LoRAFile:
    """A LoRA's file, its matrices unread; CheckpointError, with what it is, for another file."""
    path = Path(path)
    tensors, metadata = open_tensors(path)
    for pattern, what in REFUSED.items():
        if any(re.fullmatch(pattern, key) for key in tensors):
            raise CheckpointError(f"{path} holds {what}: minisd applies LoRA and LoCon alone")
    found = {key: KEY.fullmatch(key) for key in tensors}
    if not any(found.values()):
        raise CheckpointError(f"{path} holds no LoRA{instead(tensors)}")
    if strange := [key for key, match in found.items() if not match]:
        many = f"{len(strange)} tensors that belong" if strange[1:] else "1 tensor that belongs"
        raise CheckpointError(f"{path} holds {many} to no LoRA: {first_few(strange)}")
    matrices = {key: tensors[key] for key, match in found.items() if not match["alpha"]}
    whole = [f"{k} is {v.dtype}" for k, v in matrices.items() if not v.dtype.is_floating_point]
    if whole:
        raise CheckpointError(f"{path} must hold floating-point matrices, but {first_few(whole)}")
    layers, settings = {}, _settings(path, metadata)
    for (begins, name), parts in _pairs(path, found).items():
        layer = _layer(path, tensors, parts)
        if layer.alpha is None:
            config = {k[len(begins) :]: v for k, v in settings.items() if k.startswith(begins)}
            alpha = _told(path, config, name, layer.down.shape[0])
            layer = layer._replace(alpha=alpha)
        layers[NETWORKS[begins], name.replace(".", "_")] = layer
    kohya = {match["begins"].startswith("lora_") for match in found.values()}
    layout = "kohya's and diffusers'" if len(kohya) == 2 else "kohya's" if True in kohya else ""
    return LoRAFile(path, layout or "diffusers'", layers, metadata)


def instead(tensors: Mapping[str, Stored]) -> str:
    """What a file without a LoRA, or a ControlNet, holds: as the end of a sentence."""
    if any(key.startswith((*PREFIXES.values(), "conditioner.")) for key in tensors):
        return ", but a checkpoint, which --checkpoint and Pipeline.load take"
    kind = kind_of(tensors)
    few = first_few([*tensors])
    return f", but {kind[1].split(':')[0]}" if kind else f": its tensors are {few or 'none'}"


def _pairs(path: Path, found: Mapping[str, re.Match]) -> dict[tuple[str, str], dict[str, str]]:
    """The keys of each layer by role: down, up, alpha. By what they begin with, and its name."""
    pairs, seen = {}, set()
    for key, match in found.items():
        begins, name = match["begins"], match["name"].replace(".processor.", ".")
        role = match["now"] or match["once"] or match["alpha"]
        role = ROLES.get(role, role)
        place = (NETWORKS[begins], name.replace(".", "_"), role)
        if place in seen:
            raise CheckpointError(f"{path} names a layer's {role} twice, the second time {key}")
        seen.add(place)
        pairs.setdefault((begins, name), {})[role] = key
    for parts in pairs.values():
        if lost := {"down", "up"} - set(parts):
            other = next(iter(parts.values()))
            raise CheckpointError(f"{path} holds {other} without its {min(lost)}")
    return pairs


def _layer(path: Path, tensors: Mapping[str, Stored], keys: dict[str, str]) -> Layer:
    """One layer whose matrices fit each other; alpha None where no tensor tells it."""
    parts = {role: tensors[key] for role, key in keys.items()}
    down, up, alpha = parts["down"], parts["up"], None
    rank = down.shape[0] if down.shape else 0
    fits = len(down.shape) == len(up.shape) and len(down.shape) in (2, 4) and rank
    if not fits or up.shape[1:] != (rank, *[1] * len(up.shape[2:])):
        raise CheckpointError(
            f"{path}: {keys['down']} {down.shape} and {keys['up']} {up.shape} do not "
            "multiply: down must be (r, in, ...) and up (out, r, ...)"
        )
    if "alpha" in parts:
        one = parts["alpha"].shape in ((), (1,))
        alpha = _number(path, keys["alpha"], parts["alpha"].read().item() if one else None)
    return Layer(down, up, alpha)


def _number(path: Path, name: str, value: Any) -> float:
    """A finite number; CheckpointError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise CheckpointError(f"{path} must tell a finite number as {name}, got {value!r:.60}")
    return value


def _settings(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """peft's settings, as diffusers writes them; CheckpointError for what is no plain LoRA."""
    try:
        said = json.loads(metadata.get(METADATA, "{}"))
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise CheckpointError(f"{path}: its {METADATA} is not a JSON object")
    for key, value in said.items():
        begins = "init_lora_weights" in key and value not in HARMLESS
        if begins or re.fullmatch(r".*\b(use_dora|lora_bias)", key) and value:
            raise CheckpointError(f"{path} says {key} {value!r:.60}, which minisd does not apply")
    return said


def _told(path: Path, config: dict[str, Any], name: str, rank: int) -> float:
    """A layer's alpha by peft's settings; its rank where there are none, as diffusers has it."""
    alpha = config.get("lora_alpha", 8 if config else rank)  # 8 is peft's own
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(f"{path}: its alpha_pattern is not a JSON object")
    for pattern, value in patterns.items():
        end = pattern.removeprefix("^")
        if not re.fullmatch(r"[\w.]+", end):
            raise CheckpointError(f"{path}: minisd reads no alpha_pattern like {pattern!r:.60}")
        if name == end or name.endswith(f".{end}") and end == pattern:
            alpha = value
            break
    root = math.sqrt(rank) if config.get("use_rslora") else 1  # there it is α/√r
    return root * _number(path, "lora_alpha", alpha)
