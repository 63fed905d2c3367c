"""Files of weights: what a checkpoint is, and its tensors into the networks, read strictly.

`tensorfile` opens and writes safetensors, `families` tells the published kinds apart, `loading`
fills networks, `layouts` and the `diffusers_*` modules read what other tools write; `lora` merges
LoRAs into them, with `lora_file` and `lora_fit`; `control` reads and writes ControlNets.
May import: models. Imported by: pipeline, tiny, command, and training for its run files.
"""

from .control import load_control, save_control
from .embedding import open_embedding, save_embedding, with_embeddings
from .families import FAMILIES, Family
from .loading import Checkpoint, info, load, load_module, save
from .lora import save_lora, with_loras
from .lora_file import LoRAFile, open_lora
from .tensorfile import CheckpointError

__all__ = ["FAMILIES", "Checkpoint", "CheckpointError", "Family"]
__all__ += ["LoRAFile", "info", "load", "load_module", "open_lora", "save", "save_lora"]
__all__ += ["load_control", "open_embedding", "save_control", "save_embedding"]
__all__ += ["with_embeddings", "with_loras"]
