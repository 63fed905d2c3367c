"""Words of a command line as values; argparse makes a sentence of what they refuse."""

import argparse
import math
import re
from pathlib import Path


def whole_number(text: str) -> int:
    """An integer."""
    if len(text) > 30:
        raise argparse.ArgumentTypeError(f"a number of {len(text)} characters is too long")
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def number(text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def side(text: str) -> int | tuple[int, int]:
    """512 or 512x768, as a size."""
    try:
        numbers = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 2):
        raise argparse.ArgumentTypeError(f"{text!r} is no size like 512 or 512x768, height first")
    return numbers if len(numbers) == 2 else numbers[0]


def lora(text: str) -> tuple[Path, float]:
    """FILE or FILE:0.8, as a file and a scale: what stands behind the last colon, if a number."""
    path, _, scale = text.rpartition(":")
    if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", scale, re.I) or not path:
        path, scale = text, "1"
    if not path.isprintable() or not math.isfinite(float(scale)):
        raise argparse.ArgumentTypeError(
            f"{text!r:.80} is no file and scale like lora.safetensors:0.8"
        )
    return Path(path), float(scale)


def count(text: str, least: int = 1) -> int:
    """A whole number from least, of at most 18 digits."""
    if not re.fullmatch("[0-9]{1,18}", text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least}, got {text!r:.40}")
    return int(text)


def seed(text: str) -> int:
    """A whole number from 0."""
    return count(text, least=0)


def weight(text: str) -> float:
    """A number from 0, and not infinity."""
    value = number(text)
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be a number from 0, got {text!r:.40}")
    return value


def positive(text: str) -> float:
    """A number above 0, and not infinity."""
    value = number(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be positive, got {text!r:.40}")
    return value
