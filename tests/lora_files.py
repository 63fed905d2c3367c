"""LoRAs as kohya's programs and diffusers write them: random changes under the names of each.

Written for the tests alone, and apart from what minisd reads them with. A layer is named as
diffusers' networks name it, and the names of each layout are made of that one by hand.
"""

import itertools
import json
import re
from typing import NamedTuple

import diffusers_keys as keys
from network_pairs import draw
from safetensors.torch import save_file
from torch import Tensor, tensor

from minisd.models.clip import CLIPText
from minisd.pipeline import Pipeline

PREFIX = {"unet": "unet.", "text": "text_encoder.", "text_2": "text_encoder_2."}
ATTENTION = r"attn\d\.to_(q|k|v|out\.0)$|self_attn"


class Pair(NamedTuple):
    """The change of one layer; ours: the official name of a U-Net's."""

    down: Tensor
    up: Tensor
    alpha: float
    ours: str

    def delta(self) -> Tensor:
        """α/r · B A, entry by entry: the sum over the rank."""
        up, down = self.up.double().flatten(1), self.down.double()
        parts = (u.reshape(-1, *[1] * (down.ndim - 1)) * d for u, d in zip(up.T, down, strict=True))
        return sum(parts) * self.alpha / len(down)


def theirs(pipe: Pipeline) -> dict[str, dict[str, tuple[str, Tensor]]]:
    """The weights of each network under diffusers' names, and their official names."""
    vector = "add_embedding" if pipe.family == "sdxl" else "class_embedding"
    found = {}
    for network in ("unet", *pipe.texts):
        module, named = pipe.checkpoint.modules[network], {}
        for ours, value in module.state_dict().items():
            if network == "unet":
                names = keys.unet_weights({ours: value}, pipe.config, vector)
            elif isinstance(module, CLIPText):
                names = {ours: value}
            else:
                names = keys.openclip_weights({ours: value})
            named |= {name: (ours, weight) for name, weight in names.items()}
        found[network] = named
    return found


def changes(pipe: Pipeline, only="", alpha: float | None = None, every=1, seed=0) -> dict:
    """A Pair for each layer of the networks, by network and name, ranks 1 to 4.

    only: a pattern of names; every: of the U-Net's, each n-th. alpha: of all layers, or as it
    comes; 0 is the rank.
    """
    found, count = {}, itertools.count()
    for network, weights in theirs(pipe).items():
        for name, (ours, weight) in weights.items():
            if not name.endswith(".weight") or weight.ndim < 2 or "_embedding.w" in name:
                continue
            name = name.removesuffix(".weight")
            if not re.search(only, name) or network == "unet" and next(count) % every:
                continue
            out, *inward = weight.shape
            rank, n = 1 + len(found) % 4, seed + 2 * len(found)
            down = draw(rank, *inward, seed=n) * weight[0].numel() ** -0.5
            up = draw(out, rank, *[1] * len(inward[1:]), seed=n + 1) * 0.5
            scale = {None: (0.5, 1.0, 3.0)[len(found) % 3], 0: rank}.get(alpha, alpha)
            found[network, name] = Pair(down, up, float(scale), ours.removesuffix(".weight"))
    return found


def expected(pipe: Pipeline, *loras: tuple[dict, float]) -> dict[tuple[str, str], Tensor]:
    """The weights with changes added, each times its scale, by network and diffusers' name."""
    weights = {(n, k): v.double() for n, all in theirs(pipe).items() for k, (_, v) in all.items()}
    for pairs, scale in loras:
        for (network, name), pair in pairs.items():
            key = network, f"{name}.weight"
            weights[key] = weights[key] + scale * pair.delta().reshape(weights[key].shape)
    return weights


# ---- the layouts --------------------------------------------------------------------------


def kohya(pairs: dict, official: bool = False, texts: int = 1) -> dict[str, Tensor]:
    """kohya's; official: the U-Net's layers by their first names, as its SDXL trainer has them."""
    found, first = {}, "lora_te1_" if texts == 2 else "lora_te_"
    for (network, name), pair in pairs.items():
        name = pair.ours if official and network == "unet" else name
        begins = {"unet": "lora_unet_", "text": first, "text_2": "lora_te2_"}[network]
        key = begins + name.replace(".", "_")
        found[f"{key}.lora_down.weight"], found[f"{key}.lora_up.weight"] = pair.down, pair.up
        found[f"{key}.alpha"] = tensor(pair.alpha)
    return found


def peft(pairs: dict, alphas: bool = False) -> dict[str, Tensor]:
    """diffusers' of today; alphas: each beside its layer, or none."""
    found = {}
    for (network, name), pair in pairs.items():
        key = PREFIX[network] + name
        found[f"{key}.lora_A.weight"], found[f"{key}.lora_B.weight"] = pair.down, pair.up
        found |= {f"{key}.alpha": tensor(pair.alpha)} if alphas else {}
    return found


def flat(pairs: dict) -> dict:
    """The first text encoder's layers without text_model., as transformers 5 names CLIP's."""
    return {
        (n, k.removeprefix("text_model.") if n == "text" else k): p for (n, k), p in pairs.items()
    }


def settings(pairs: dict) -> dict[str, str]:
    """The metadata that diffusers writes with `peft`: alphas by layer, but for the first's."""
    said = {}
    for network in {network for network, _ in pairs}:
        own = {name: pair for (n, name), pair in pairs.items() if n == network}
        alpha, rank = next((pair.alpha, len(pair.down)) for pair in own.values())
        config = {"r": rank, "lora_alpha": alpha, "use_dora": False, "use_rslora": False}
        config |= {"init_lora_weights": True, "target_modules": [*own], "lora_bias": False}
        config["alpha_pattern"] = {k: p.alpha for k, p in own.items() if p.alpha != alpha}
        config["rank_pattern"] = {k: len(p.down) for k, p in own.items() if len(p.down) != rank}
        said |= {PREFIX[network] + key: value for key, value in config.items()}
    return {"lora_adapter_metadata": json.dumps(said, sort_keys=True), "format": "pt"}


def older(pairs: dict) -> dict[str, Tensor]:
    """diffusers' of 2023: .lora.down, and .lora_linear_layer.down in text encoders."""
    found = {}
    for (network, name), pair in pairs.items():
        key = PREFIX[network] + name + (".lora" if network == "unet" else ".lora_linear_layer")
        found[f"{key}.down.weight"], found[f"{key}.up.weight"] = pair.down, pair.up
    return found


def oldest(pairs: dict, prefix: bool = True) -> dict[str, Tensor]:
    """diffusers' first, of attention alone: to_q_lora.down, in the U-Net below `processor`."""
    found = {}
    for (network, name), pair in pairs.items():
        block, last = re.fullmatch(r"(.*attn\d?)\.(.*)", name).groups()
        last = (
            last.replace("to_out.0", "to_out").replace("q_proj", "to_q").replace("k_proj", "to_k")
        )
        last = last.replace("v_proj", "to_v").replace("out_proj", "to_out")
        below = ".processor" if network == "unet" else ""
        key = (PREFIX[network] if prefix else "") + f"{block}{below}.{last}_lora"
        found[f"{key}.down.weight"], found[f"{key}.up.weight"] = pair.down, pair.up
    return found


def written(path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None):
    """The file, with its tensors of their own memory."""
    save_file({k: v.clone().contiguous() for k, v in tensors.items()}, path, metadata)
    return path
