"""From a prompt to a picture, for every published family and for models of your own.

`networks` puts a checkpoint's networks to work, `control` a ControlNet beside them, `conditioning`
makes conditions of prompts, `settings` says how a family is sampled, `run` is a picture in the
making, `pictures` reads and writes image files; `precision`, `threads` and `memory` spare memory
and time on a CPU; `pipeline` is the whole: txt2img, img2img, inpaint, depth2img, upscale, invert.
May import: checkpoints, models, text and the maths. Imported by: tiny, teaching, command.
"""

from .pictures import open_picture, save_png
from .pipeline import Pipeline
from .settings import Settings

__all__ = ["Pipeline", "Settings", "open_picture", "save_png"]
