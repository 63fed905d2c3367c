"""The tiny model that ships with minisd; README.md beside this file is its card."""

from pathlib import Path

TINY = Path(__file__).with_name("tiny.safetensors")
FAST = Path(__file__).with_name("fast.safetensors")  # a LoRA for it, by `minisd train distil`
FAST_SETTINGS = {"sampler": "lcm", "steps": 8, "scale": 1.0}  # the guidance is in its weights
