"""Pictures in files and in tiles. A picture is float, (3, h, w) or (b, 3, h, w), from -1 to 1."""

import os
import struct
import uuid
import warnings
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
            *(
                _chunk(b"iTXt", key + bytes(5) + value.encode(errors="backslashreplace"))
                for key, value in texts
            ),
            _chunk(b"IDAT", zlib.compress(scanlines.tobytes())),
            _chunk(b"IEND", b""),
        ]
    )


def save_png(path: str | Path, picture: Tensor, settings: Mapping = {}) -> None:  # noqa: B006
    """Write a PNG that carries the settings it was made with: whole, or not at all.

    Where path is a symbolic link, the file that it leads to is written, and the link stays.
    """
    path = Path(os.path.realpath(path))
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
    _check_file(path)
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


# ---- pictures that are given --------------------------------------------------------------


def _check_file(path: str | Path) -> None:
    """ValueError where there is no file: a directory, or a pipe that would be waited for."""
    if not os.path.isfile(path):
        there = os.path.exists(path)
        raise ValueError(f"{path} is no picture file" if there else f"no such picture: {path}")


def read_image(path: str | Path):
    """A picture file as a PIL image, decoded, and turned as its camera says it was held."""
    from PIL import Image, ImageOps

    _check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return image
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
        why = str(error) or type(error).__name__
        raise ValueError(f"{path} cannot be read as a picture: {why}") from None


def open_picture(path: str | Path, size: int | tuple[int, int] | None = None) -> Tensor:
    """A picture file as (1, 3, h, w) in -1..1: its middle in size's proportions, resized to it.

    size is (h, w), or one side of a square. Transparent parts become white; a photograph is turned
    as its camera says it was held.
    """
    return as_picture(read_image(path), size)


def as_picture(source, size: int | tuple[int, int] | None = None) -> Tensor:
    """A picture (b, 3, h, w) in -1..1 of such a tensor, a PIL image, a file, a numpy array, or a
    list of them.

    An array is (h, w), (h, w, 3) or (h, w, 4), of 0 to 255 (uint8), 0 to 65535 (uint16), or 0 to 1
    (floats). Transparent parts become white. With size it is fitted, as open_picture says.
    """
    if isinstance(source, (list, tuple)) or isinstance(source, np.ndarray) and source.ndim == 4:
        return torch.cat([as_picture(one, size) for one in source])
    if not isinstance(source, Tensor):
        source = _levels(source, size)
        if source.shape[1] == 4:  # the last channel says how opaque it is
            source = source[:, :3] * source[:, 3:] + 1 - source[:, 3:]
        source = 2 * source.expand(-1, 3, -1, -1) - 1
    return source if size is None else fit(source, size)


def as_mask(source, size: int | tuple[int, int] | None = None) -> Tensor:
    """A mask (1, 1, h, w) in 0..1 of a PIL image, a file or a numpy array; a tensor stays as it is.

    White, 1, is what is painted anew. With transparent parts it is told by them: bright strokes
    are what is painted where all that can be seen is bright, and where all that can be seen is
    dark, the holes in it are. Both at once is a ValueError.
    """
    if isinstance(source, Tensor):
        return source
    if isinstance(source, np.ndarray) and source.dtype.kind in "iu" and source.max(initial=0) <= 1:
        source = source > 0  # of whole numbers, 0 and 1 are meant and not 1 of 255
    levels = _levels(source, size)
    mask = levels[:, :3].mean(1, keepdim=True)
    if levels.shape[1] == 4 and (levels[:, 3] < 1).any():
        opaque = levels[:, 3:]
        seen = mask[opaque >= 0.5] > 0.5
        bright = float(seen.float().mean()) if len(seen) else 1.0
        if 0.01 < bright < 0.99:
            raise ValueError(
                "a mask with transparent parts must be bright or dark in all others, and this one "
                "is both: save it without transparency, white where it is painted anew"
            )
        mask = opaque if bright > 0.5 else 1 - opaque
    return mask if size is None else (fit(2 * mask - 1, size) + 1) / 2


def as_depth(source, size: int | tuple[int, int] | None = None) -> Tensor:
    """Depths (1, 1, h, w) from -1 to 1 of a grey PIL image, a file or a numpy array (h, w), in any
    unit."""
    if isinstance(source, Tensor):
        return source
    source = read_image(source) if isinstance(source, (str, Path)) else source
    if getattr(source, "mode", "F")[0] not in "IF":
        source = source.convert("L")
    depth = torch.from_numpy(np.array(source, np.float32))
    low, high = depth.aminmax()
    depth = 2 * (depth - low) / (high - low).clamp(min=1e-30) - 1
    return depth if size is None else fit(depth[None, None], size)


def _levels(source, size: int | tuple[int, int] | None = None) -> Tensor:
    """A PIL image, a file or a numpy array as (1, c, h, w) in 0..1; the fourth channel is opacity.

    What is far larger than size is brought near it at 8 bits, or a photograph takes gigabytes.
    """
    from PIL import Image

    source = read_image(source) if isinstance(source, (str, Path)) else source
    if isinstance(source, Image.Image):
        if source.mode == "I" and source.format in ("PNG", "PPM"):  # 16 bits that Pillow widened
            source = np.asarray(source).astype(np.uint16)
        elif source.mode[0] not in "IF":
            plain = "L" if source.mode in ("1", "L") else "RGB"
            source = source.convert("RGBA" if source.has_transparency_data else plain)
            h, w = (size, size) if isinstance(size, int) else size or (1e9, 1e9)
            top, left, ch, cw = _middle(source.height, source.width, (h, w))
            if min(ch / h, cw / w) > 6:
                box = (left, top, left + cw, top + ch)
                source = source.resize((3 * w, 3 * h), box=box, reducing_gap=3.0)
    array = np.asarray(source)
    array = array[..., None] if array.ndim == 2 else array
    most = {"b1": 1, "u1": 255, "u2": 65535, "f2": 1, "f4": 1, "f8": 1}.get(array.dtype.str[1:])
    if most is None or array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise ValueError(
            "a picture must be a tensor (b, 3, h, w) from -1 to 1, a PIL image, a file, or an "
            f"array (h, w, 3) of 8 bits, 16 bits or floats, got {array.dtype} {array.shape}"
        )
    levels = torch.from_numpy(array.astype(np.float32)).movedim(2, 0)[None] / most
    if not ((levels >= 0) & (levels <= 1)).all():
        low, high = levels.aminmax()
        raise ValueError(f"a picture in floats must run from 0 to 1, got {low:g} to {high:g}")
    return levels


def _middle(h: int, w: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The largest middle of h x w in size's proportions: top, left, height, width."""
    height, width = size
    scale = min(h / height, w / width)
    ch, cw = max(1, min(h, round(height * scale))), max(1, min(w, round(width * scale)))
    return (h - ch) // 2, (w - cw) // 2, ch, cw


def fit(picture: Tensor, size: int | tuple[int, int]) -> Tensor:
    """(b, c, h, w) cropped around its middle to size's proportions, then resized."""
    size = (size, size) if isinstance(size, int) else size
    if tuple(picture.shape[2:]) == tuple(size):
        return picture
    top, left, ch, cw = _middle(*picture.shape[2:], size)
    picture = picture[:, :, top : top + ch, left : left + cw]
    return F.interpolate(picture, size, mode="bicubic", antialias=True).clamp(-1, 1)


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
