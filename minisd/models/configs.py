"""The published models as frozen settings: two models differ in what differs here."""

from dataclasses import dataclass, replace
from typing import Literal

T = 1000  # times, of every published model
Betas = tuple[Literal["linear", "scaled_linear", "squaredcos_cap_v2"], float, float]  # β_1, β_T
Grid = tuple[Literal["leading", "trailing", "linspace"], int, int]  # leading's offset, the end

SolverName = Literal[  # that pipeline.menu knows
    "DDIM",
    "DDPM",
    "DEISMultistep",
    "DPMSolverMultistep",
    "DPMSolverSDE",
    "DPMSolverSinglestep",
    "EulerAncestralDiscrete",
    "EulerDiscrete",
    "HeunDiscrete",
    "KDPM2AncestralDiscrete",
    "KDPM2Discrete",
    "LMSDiscrete",
    "PLMS",
    "UniPCMultistep",
    "DPM++ 2M SDE",
    "dpm_2m",
    "dpm2",
    "dpm3",
    "dpmpp_3m",
    "dpmpp_3s",
]
SolverGrid = Literal["", "karras", "exponential", "beta"]
Solver = tuple[SolverName, SolverGrid] | tuple[SolverName, SolverGrid, int]  # and an order


@dataclass(frozen=True)
class UNetConfig:
    """A U-Net of the LDM family. attention_factors are downsampling factors, not resolutions."""

    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    attention_factors: tuple[int, ...] = (4, 2, 1)
    heads: int | None = 8  # a fixed number of heads ...
    head_channels: int | None = None  # ... or a fixed width of each
    # blocks per level; the last entry serves the middle too
    transformer_depth: tuple[int, ...] = (1, 1, 1, 1)
    context_dim: int | None = 768  # None: plain self-attention, no prompt
    linear_projections: bool = False  # around a transformer: Linear, or a 1 x 1 convolution
    # by level; the middle has it always
    self_attention: tuple[bool, ...] = (True, True, True, True)
    vector_dim: int | None = None  # a vector condition added to the time embedding (SDXL, unCLIP)
    classes: int | None = None  # an embedded integer condition (the upscaler's noise level)
    resblock_updown: bool = False
    groups: int = 32  # of every GroupNorm
    prediction: Literal["eps", "v", "x0"] = "eps"
    zero_terminal_snr: bool = False  # x_T is noise alone: v, and time grids that begin at T
    betas: Betas | None = None  # None: the family's
    grid: Grid | None = None  # None: the official one
    solver: Solver | None = None  # None: the official one


@dataclass(frozen=True)
class ControlConfig(UNetConfig):
    """A ControlNet: the U-Net that it leads, and the small network of its hint, whose stages are
    hint_widths wide; each after the first halves the hint, so together they make a latent's side.
    """

    hint_channels: int = 3
    hint_widths: tuple[int, ...] = (16, 32, 96, 256)

    @property
    def factor(self) -> int:
        """Pixels of the hint for each latent, along a side."""
        return 2 ** (len(self.hint_widths) - 1)


@dataclass(frozen=True)
class AutoencoderConfig:
    """A first stage: KL (the latent is a Gaussian) or VQ (codes of a codebook)."""

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    attention_levels: tuple[int, ...] = ()
    z_channels: int = 4
    embed_dim: int = 4
    codes: int | None = None  # the codebook's size; None is KL
    scale_factor: float = 0.18215
    groups: int = 32  # of every GroupNorm

    @property
    def factor(self) -> int:
        """Pixels for each latent, along a side."""
        return 2 ** (len(self.channel_mult) - 1)


@dataclass(frozen=True)
class TextConfig:
    """A text transformer. layer, norm: which layer's output is the context, and ln_final on it."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    vocabulary: int = 49408
    length: int = 77
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    pad: int = 49407
    layer: Literal[-1, -2] = -1  # -1 the last, -2 the penultimate
    norm: bool = True
    projection: int | None = None  # OpenCLIP's text_projection, its width
    words: int = 0  # of the vocabulary: its last tokens, which textual inversion added


SD1 = UNetConfig()
SD1_INPAINT = replace(SD1, in_channels=9)
SD2 = replace(SD1, heads=None, head_channels=64, context_dim=1024, linear_projections=True)
SD2_V = replace(SD2, prediction="v")
SD2_INPAINT = replace(SD2, in_channels=9)
SD2_DEPTH = replace(SD2, in_channels=5)
SD2_UNCLIP_H = replace(SD2_V, vector_dim=2048)
SD2_UNCLIP_L = replace(SD2_V, vector_dim=1536)
UPSCALER = UNetConfig(
    in_channels=7,
    model_channels=256,
    channel_mult=(1, 2, 2, 4),
    attention_factors=(2, 4, 8),
    context_dim=1024,
    linear_projections=True,
    self_attention=(False, False, False, True),
    classes=1000,
    prediction="v",
)
SDXL = UNetConfig(
    channel_mult=(1, 2, 4),
    attention_factors=(4, 2),
    heads=None,
    head_channels=64,
    transformer_depth=(1, 2, 10),
    context_dim=2048,
    linear_projections=True,
    self_attention=(True, True, True),
    vector_dim=2816,
)
SDXL_REFINER = replace(
    SDXL,
    model_channels=384,
    channel_mult=(1, 2, 4, 4),
    transformer_depth=(4, 4, 4, 4),
    context_dim=1280,
    self_attention=(True, True, True, True),
    vector_dim=2560,
)
LDM_TXT2IMG = replace(SD1, context_dim=1280)
LDM_TEXT2IMG256 = UNetConfig(
    in_channels=3,
    out_channels=3,
    model_channels=192,
    channel_mult=(1, 2, 3, 5),
    attention_factors=(8, 4, 2),
    heads=None,
    head_channels=32,
    context_dim=640,
)
LDM_CIN256 = replace(LDM_TEXT2IMG256, heads=1, head_channels=None, context_dim=512)
LDM_CIN_VQ_F8 = UNetConfig(
    model_channels=256,
    channel_mult=(1, 2, 4),
    heads=None,
    head_channels=32,
    transformer_depth=(1, 1, 1),
    context_dim=512,
    self_attention=(True, True, True),
)
LDM_FFHQ256 = replace(
    LDM_TEXT2IMG256, model_channels=224, channel_mult=(1, 2, 3, 4), context_dim=None
)
LDM_INPAINTING = UNetConfig(
    in_channels=7,
    out_channels=3,
    model_channels=256,
    channel_mult=(1, 2, 3, 4),
    attention_factors=(8, 4, 2),
    context_dim=None,
    resblock_updown=True,
)
LDM_SUPERRESOLUTION = UNetConfig(
    in_channels=6,
    out_channels=3,
    model_channels=160,
    channel_mult=(1, 2, 2, 4),
    attention_factors=(16, 8),
    heads=None,
    head_channels=32,
    context_dim=None,
)

KL_F8 = AutoencoderConfig()
KL_F8_SDXL = replace(KL_F8, scale_factor=0.13025)
KL_F4 = replace(KL_F8, channel_mult=(1, 2, 4), scale_factor=0.08333)
VQ_F4 = replace(KL_F4, z_channels=3, embed_dim=3, codes=8192, scale_factor=1.0)
VQ_F8 = AutoencoderConfig(
    channel_mult=(1, 2, 2, 4), attention_levels=(3,), codes=16384, scale_factor=1.0
)
VQ_F8_N256 = replace(VQ_F8, codes=256)
VQ_F16 = AutoencoderConfig(
    channel_mult=(1, 1, 2, 2, 4),
    attention_levels=(4,),
    z_channels=8,
    embed_dim=8,
    codes=16384,
    scale_factor=1.0,
)

CLIP_L = TextConfig()
CLIP_L_SDXL = replace(CLIP_L, layer=-2, norm=False)
OPENCLIP_H = TextConfig(
    1024, 24, 16, activation="gelu", pad=0, layer=-2, norm=True, projection=1024
)
OPENCLIP_BIGG = TextConfig(
    1280, 32, 20, activation="gelu", pad=0, layer=-2, norm=False, projection=1280
)
BERT_LDM = TextConfig(1280, 32, 8, vocabulary=30522, activation="gelu", pad=0)
BERT_LDM_256 = TextConfig(640, 32, 8, vocabulary=30522, activation="gelu", pad=0)

# Our own, trained here and shipped: the anatomy of SD at a size that a laptop trains.
TINY = UNetConfig(
    model_channels=48,
    channel_mult=(1, 2, 2),
    res_blocks=1,
    attention_factors=(2, 4),
    heads=4,
    transformer_depth=(1, 1, 1),
    context_dim=128,
    self_attention=(True, True, True),
    groups=16,
    prediction="v",
    zero_terminal_snr=True,
)
TINY_KL = AutoencoderConfig(
    channels=16, channel_mult=(1, 2, 2), res_blocks=1, scale_factor=1.0, groups=4
)
TINY_VQ = replace(TINY_KL, codes=512)
TINY_TEXT = TextConfig(128, 3, 2, vocabulary=669, length=24, activation="gelu", pad=0)
