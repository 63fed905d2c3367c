"""The published networks: U-Nets, first stages (KL and VQ), text encoders, by their settings.

A network here knows tensors and shapes and no diffusion: times, schedules and samplers are the
maths at the top of the package. `configs` has every published model's settings, `attention_maps`
shows what each word is attended by, `controlnet` leads a U-Net by a picture, and `lora` puts a
small change beside frozen layers. `mmdit` is SD 3's transformer, for notebook 21; nothing loads its
weights. Attribute names are those of the official checkpoints.
May import: nothing of minisd. Imported by: checkpoints, pipeline, tiny, teaching.
"""

from . import configs
from .autoencoder import AutoencoderKL
from .bert import BERTText
from .clip import CLIPText, OpenCLIPText
from .controlnet import ControlNet
from .unet import UNet
from .vq import VQModel

__all__ = ["AutoencoderKL", "BERTText", "CLIPText", "ControlNet", "OpenCLIPText", "UNet"]
__all__ += ["VQModel", "configs"]
