"""Pictures in files and in tiles. A picture is float, (3, h, w) or (b, 3, h, w), from -1 to 1."""

import os
import struct
import uuid
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def to_bytes(picture: Tensor) -> np.ndarray:
    """(3, h, w) in -1..1 -> uint8 (h, w, 3), rounded (the official scripts cut the fraction)."""
    if picture.ndim == 4 and len(picture) == 1:
        picture = picture[0]
    if picture.ndim != 3 or len(picture) != 3 or not picture.isfinite().all():
        raise ValueError(f"a picture must be finite, (3, h, w), got {tuple(picture.shape)}")
    levels = ((picture.detach().cpu().float() + 1) * 127.5).round().clamp(0, 255)
    return levels.byte().permute(1, 2, 0).numpy()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(picture: Tensor, settings: Mapping = {}) -> bytes:  # noqa: B006 - it is only read
    """A picture as a PNG file's bytes, each setting as an international text chunk of it."""
    rows = to_bytes(picture)
    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], 8, 2, 0, 0, 0)  # 8 bits, RGB
    texts = [(str(key).encode("latin-1"), str(value)) for key, value in settings.items()]
    if any(not 1 <= len(key) <= 79 or b"\0" in key or "\0" in value for key, value in texts):
        raise ValueError("a setting's name has 1 to 79 characters, and none holds a zero byte")
    scanlines = np.pad(rows.reshape(len(rows), -1), ((0, 0), (1, 0)))  # each begins "no filter"
    return b"".join(
        [
            SIGNATURE,
            _chunk(b"IHDR", header),
            *(_chunk(b"iTXt", key + bytes(5) + value.encode()) for key, value in texts),
            _chunk(b"IDAT", zlib.compress(scanlines.tobytes())),
            _chunk(b"IEND", b""),
        ]
    )


def save_png(path: str | Path, picture: Tensor, settings: Mapping = {}) -> None:  # noqa: B006
    """Write a PNG that carries the settings it was made with: whole, or not at all."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"pictures are saved as .png, not as {path.name!r}")
    if not path.parent.is_dir():
        raise ValueError(f"no such directory: {path.parent}")
    data = png(picture, settings)
    beside = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with open(beside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)


def read_settings(path: str | Path) -> dict[str, str]:
    """The settings that save_png wrote into a picture."""
    data, settings = Path(path).read_bytes(), {}
    if not data.startswith(SIGNATURE):
        raise ValueError(f"{path} is not a PNG")
    i = len(SIGNATURE)
    while i + 8 <= len(data):
        (length,) = struct.unpack(">I", data[i : i + 4])
        key, _, value = data[i + 8 : i + 8 + length].partition(b"\0")
        if data[i + 4 : i + 8] == b"iTXt" and value[:4] == bytes(4):
            settings[key.decode("latin-1")] = value[4:].decode(errors="replace")
        i += 12 + length
    return settings


def open_picture(path: str | Path, size: int | tuple[int, int] | None = None) -> Tensor:
    """A picture file as (1, 3, h, w) in -1..1: its middle in size's proportions, resized to it.

    size is (h, w), or one side of a square. Transparent parts become white; a photograph is turned
    as its camera says it was held.
    """
    from PIL import Image, ImageOps  # only here: matplotlib brings it

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            deep = image.mode.startswith("I")  # grey in 16 bits
            pixels = np.asarray(image if deep else image.convert("RGBA"))
    except FileNotFoundError:
        raise ValueError(f"no such picture: {path}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from None
    picture = torch.from_numpy(np.atleast_3d(pixels / (65535 if deep else 255))).float()
    picture = picture.movedim(2, 0)
    if len(picture) == 4:  # the last channel says how opaque it is
        picture = picture[:-1] * picture[-1] + 1 - picture[-1]
    picture = 2 * picture.expand(3, -1, -1)[None] - 1
    return picture if size is None else fit(picture, size)


def fit(picture: Tensor, size: int | tuple[int, int]) -> Tensor:
    """(b, c, h, w) cropped around its middle to size's proportions, then resized."""
    height, width = (size, size) if isinstance(size, int) else size
    h, w = picture.shape[2:]
    if (h, w) == (height, width):
        return picture
    scale = min(h / height, w / width)
    ch, cw = min(h, round(height * scale)), min(w, round(width * scale))
    top, left = (h - ch) // 2, (w - cw) // 2
    picture = picture[:, :, top : top + ch, left : left + cw]
    resized = F.interpolate(picture, (height, width), mode="bicubic", antialias=True)
    return resized.clamp(-1, 1)


# ---- tiles --------------------------------------------------------------------------------


def in_tiles(decode: Callable[[Tensor], Tensor], z: Tensor, tile: int, factor: int) -> Tensor:
    """decode(z) tile by tile, blended where they overlap; a tile is at most tile x tile latents.

    A quarter of a tile overlaps, with weights that rise and fall in a straight line. Memory is a
    tile's; the picture differs a little from decode(z): a decoder's norms and attention see only
    the tile.
    """
    h, w = z.shape[2:]
    total = z.new_zeros(len(z), 3, h * factor, w * factor)
    weight = z.new_zeros(1, 1, h * factor, w * factor)
    for top, bottom in _spans(h, tile):
        for left, right in _spans(w, tile):
            part = decode(z[:, :, top:bottom, left:right])
            ramp = _ramp(part.shape[2], tile * factor).outer(_ramp(part.shape[3], tile * factor))
            where = (
                ...,
                slice(top * factor, bottom * factor),
                slice(left * factor, right * factor),
            )
            total[where] += part * ramp.to(part)
            weight[where] += ramp.to(part)
    return total / weight


def _spans(length: int, tile: int) -> list[tuple[int, int]]:
    """Spans of `tile` that cover 0..length, the last flush with the end."""
    if length <= tile:
        return [(0, length)]
    starts = [*range(0, length - tile, tile - tile // 4), length - tile]
    return [(start, start + tile) for start in starts]


def _ramp(length: int, tile: int) -> Tensor:
    """Weights along a tile: up from near 0 over a quarter of it, 1, and down again."""
    rise = (torch.arange(length) + 0.5) / (tile // 4)
    return torch.minimum(rise, rise.flip(0)).clamp(max=1)
