"""The same weights as other tools write them, and files that hold something else than a model."""

import re
from collections.abc import Iterable, Mapping

import torch

from .diffusers_names import CONVOLUTION, OLD_VAE_ATTENTION, VAE_ATTENTION
from .tensorfile import Stored

EXTRAS = re.compile(  # schedule buffers, counters, what sampling never uses, and networks for
    # which there is no class here
    r"betas|\w*alphas_cumprod(_prev)?|posterior_\w+|lvlb_weights|logvar|scale_factor"
    r"|denoiser\.sigmas|(.*\.)?position_ids|model_ema\..*|first_stage_model\.loss\..*"
    r"|cond_stage_model\.embedding\..*|(depth_model|low_scale_model|embedder|noise_augmentor)\..*"
    r"|(cond_stage_model|conditioner\.embedders\.\d)\.((transformer\.)?logit_scale"
    r"|(transformer\.)?text_projection(\.weight)?|model\.attn_mask)|v_pred|ztsnr"
)
WHOLE = "name a whole checkpoint, with a U-Net and a first stage"
TRANSFORMER = f"a transformer in the U-Net's place, as SD 3 and Flux have it: {WHOLE}"
KINDS = {  # what a key of a file without a model's U-Net says that the file is, and what to do
    r"(.*[._])?(lora|hada|lokr)[._AB].*": (
        "LoRA",
        f"a LoRA, a change to the weights of a checkpoint: {WHOLE}, "
        "and this file beside it, by --lora or Pipeline.load(loras=[(path, scale)])",
    ),
    r"emb_params|clip_[lg]|<.*>|string_to_(param|token)\..*": (
        "inversion",
        f"a textual inversion, a word for a text encoder: {WHOLE}, and this file beside it, by "
        "--embedding or Pipeline.load(embeddings=[path])",
    ),
    r"(control_model|zero_convs|input_hint_block|controlnet_\w+)\..*": (
        "ControlNet",
        f"a ControlNet, which leads a checkpoint's pictures: {WHOLE}, and this file beside it, by "
        "--control-net or Pipeline.load(control_net=path)",
    ),
    r"(model\.diffusion_model\.|transformer\.)?(joint|double|single|transformer)_blocks\..*": (
        "transformer",
        TRANSFORMER,
    ),
    r"(input_blocks|down_blocks)\..*": ("U-Net", f"a U-Net and nothing else: {WHOLE}"),
    r"((encoder|decoder)\.(conv_in|mid)|(post_)?quant_conv\b).*": (
        "first stage",
        f"a first stage (a VAE) and nothing else: {WHOLE}",
    ),
    r"network\..*": (
        "training run",
        "a run of a training, and not what it made: `python -m minisd train export` makes a "
        "checkpoint of the runs kl, text and unet; what another training made is a file beside "
        "its run, which the command names at its end",
    ),
}
LOGIT_SCALE = 2.6592  # log(1 / 0.07), where CLIP's training begins; sampling does not use it


def kind_of(keys: Iterable[str]) -> tuple[str, str] | None:
    """What a file is instead of a checkpoint, in a word and in a sentence's end; or None."""
    keys = list(keys)
    for pattern, kind in KINDS.items():
        if any(re.fullmatch(pattern, key) for key in keys):
            return kind
    return None


def constant(tensor: torch.Tensor) -> Stored:
    """A tensor that no file holds, as if one did."""
    return Stored(tensor.to("meta"), lambda: tensor)


def joined(kind, *found: Stored) -> Stored:
    """One of our tensors out of theirs, still unread."""
    like = kind.join(*(stored.like for stored in found))
    return Stored(like, lambda: kind.join(*(stored.read() for stored in found)))


def without_wrapper(tensors: dict[str, Stored]) -> dict[str, Stored]:
    """The keys without the state_dict. that some converters leave before every one."""
    wrapper = "state_dict."
    n = len(wrapper) * all(key.startswith(wrapper) for key in tensors)
    return {key[n:]: stored for key, stored in tensors.items()}


def with_official_attention(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """A first stage's attention under the official names and as 1 x 1 convolutions: diffusers, and
    converters from it, have to_q (once query) for q, and matrices."""
    names = {theirs: ours for ours, theirs in VAE_ATTENTION.items()}
    names |= {old: names[new] for old, new in OLD_VAE_ATTENTION.items()}
    found = {}
    for key, stored in tensors.items():
        if m := re.fullmatch(r"(first_stage_model\..*\.attn_1\.)([\w.]+)\.(weight|bias)", key):
            key = f"{m[1]}{names.get(m[2], m[2])}.{m[3]}"
            if len(stored.shape) == 2:
                stored = joined(CONVOLUTION, stored)
        found[key] = stored
    return found


def markers(keys: Iterable[str]) -> dict:
    """What the empty tensors by which some tools mark an SDXL file say of its U-Net."""
    said = {"v_pred": {"prediction": "v"}, "ztsnr": {"zero_terminal_snr": True}}
    return {k: v for name, change in said.items() if name in keys for k, v in change.items()}
