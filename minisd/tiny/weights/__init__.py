"""The tiny model that ships with minisd; README.md beside this file is its card."""

from pathlib import Path

TINY = Path(__file__).with_name("tiny.safetensors")
