"""Safetensors files, one or in shards: named tensors that stay on the disk until they are read.

A file is: the header's length (8 bytes), the header (JSON: each tensor's name, dtype, shape and
place), then the numbers. Nothing in it can run, and a tensor can be mapped into memory as it lies.
"""

import difflib
import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
INDEX, SINGLE = ".json", ".safetensors"
SHOWN = 5  # names in a message; the rest is a number
CODE_INSIDE = {".ckpt", ".pt", ".pth", ".bin", ".pkl"}  # formats that run code when opened
REFUSAL = """\
{path} is not a safetensors file: opening its format means unpickling, which can run any code that \
its author put in. Convert it once, in a process that keeps to weights_only:
    from torch import load
    from safetensors.torch import save_file
{stand_ins}    state = load(open({name}, "rb"), map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    if "string_to_param" in state:  # a textual inversion as A1111 writes it
        state = {{"emb_params": v for v in state["string_to_param"].values()}}
    state = {{k: v.clone() for k, v in state.items() if hasattr(v, "clone")}}
    save_file(state, {target})"""
STAND_INS = """\
    from torch import serialization
    nothing = {{"__init__": lambda self, *_: None, "__setstate__": lambda self, _: None}}
    for name in serialization.get_unsafe_globals_in_checkpoint({name}):
        serialization.add_safe_globals([(type("StandIn", (), nothing), name)])
"""
ZIP = b"PK\x03\x04"
OTHERS = {  # what a file that is no safetensors file begins with: what it is, and what to do
    b"version https://git-lfs": "a Git LFS pointer to the file: `git lfs pull` fetches the file",
    b"<": "a web page, perhaps one that asks to log in: download the file itself",
    b"GGUF": "a GGUF file, which minisd does not read: take the model's .safetensors file",
}


class CheckpointError(ValueError):
    """What is wrong with a checkpoint, in a sentence."""


class Stored(NamedTuple):
    """A tensor on the disk: `like` has its shape and dtype and no numbers, read() has them."""

    like: Tensor
    read: Callable[[], Tensor]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, known without reading."""
        return tuple(self.like.shape)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype, known without reading."""
        return self.like.dtype


def refuse_others(path: Path) -> None:
    """CheckpointError, with what to do instead, for what a file's first bytes show it to be. Where
    they are no safetensors file's, its name tells a format that runs code when opened."""
    try:
        with open(path, "rb") as file:
            start = file.read(32)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if start[8:9] == b"{":  # where the header begins
        return
    for first, what in OTHERS.items():
        if start.lstrip().startswith(first):
            raise CheckpointError(f"{path} is not a safetensors file, but {what}")
    if start.startswith((ZIP, b"\x80")) or path.suffix.lower() in CODE_INSIDE:
        target = path.with_suffix(SINGLE)
        while target.exists():
            target = target.with_stem(target.stem + "-converted")
        name = json.dumps(f"{path}")
        stand_ins = STAND_INS.format(name=name) if start.startswith(ZIP) else ""
        said = {"name": name, "stand_ins": stand_ins, "target": json.dumps(f"{target}")}
        raise CheckpointError(REFUSAL.format(path=path, **said))


def open_tensors(path: str | Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors of a .safetensors file or a shard index, by name, and its metadata.

    Only headers are read. What read() gives afterwards is mapped from the file: its pages come in
    as they are used and are copied only where they are written to.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a pipe or a device, and no file" if path.exists() else ""
        raise CheckpointError(f"{path} {what}" if what else f"no such file: {path}")
    if path.suffix == INDEX:
        return _open_shards(path)
    refuse_others(path)
    return _open_file(path)


def _open_file(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    try:
        file = safe_open(path, framework="pt")
        names = file.keys()
        slices = {name: file.get_slice(name) for name in names}
        kinds = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
        metadata = file.metadata() or {}
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be mapped into memory ({error}): copy it to a local disk"
        ) from None
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file, perhaps a download that stopped: {error}"
        ) from None
    unknown = {kind for kind, _ in kinds.values()} - set(DTYPES)
    if unknown:
        raise CheckpointError(f"{path} holds numbers of a kind not known here: {sorted(unknown)}")
    stored = {}
    for name, (kind, shape) in kinds.items():
        try:
            like = torch.empty(shape, dtype=DTYPES[kind], device="meta")
        except (TypeError, RuntimeError):
            raise CheckpointError(f"{path} holds {name} of an impossible shape, {shape}") from None
        stored[name] = Stored(like, lambda name=name: file.get_tensor(name))
    return stored, metadata


def _open_shards(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    where = read_json(path).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(v, str) for v in where.values()):
        raise CheckpointError(f"{path} is not a shard index: it has no weight_map of file names")
    strange = [v for v in where.values() if Path(v).name != v or not v.endswith(SINGLE)]
    if strange:
        raise CheckpointError(f"{path} names a shard that is not a file beside it: {strange[0]}")
    shards = {name: open_tensors(path.parent / name) for name in sorted(set(where.values()))}
    lost = [key for key, shard in where.items() if key not in shards[shard][0]]
    if lost:
        raise CheckpointError(f"{path} promises {lost[0]} in {where[lost[0]]}, which has no such")
    metadata = {k: v for _, data in shards.values() for k, v in data.items()}
    return {key: shards[shard][0][key] for key, shard in where.items()}, metadata


def read_json(path: Path) -> dict:
    """The JSON object in a file; CheckpointError unless it is one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file: path is replaced whole, or not at all if anything goes wrong.

    It keeps the mode of the file that it replaces; a new one has the mode that the umask says.
    A module mapped from the old file keeps its numbers: that file lives on until it is let go.
    """
    path = Path(path)
    if path.suffix != SINGLE:
        raise CheckpointError(f"a checkpoint is saved as .safetensors, not as {path.name}")
    if not path.parent.is_dir():
        raise CheckpointError(f"no such directory: {path.parent}")
    beside = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.part")
    try:
        beside.touch()
        mode = (path if path.exists() else beside).stat().st_mode
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, beside, metadata)
        beside.chmod(mode)
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path}: {error}") from None
    finally:
        beside.unlink(missing_ok=True)


def compare(what: str, wanted: Mapping, found: Mapping) -> None:
    """CheckpointError unless two tables of shapes by key are one; it lists the first few of the
    missing, unexpected and wrongly shaped keys, each missing one with the nearest name."""
    missing = [key for key in wanted if key not in found]
    unexpected = [key for key in found if key not in wanted]
    wrong = [key for key in wanted if key in found and wanted[key] != found[key]]

    def nearest(key: str) -> str:
        close = difflib.get_close_matches(key, unexpected, 1, 0.8)
        return f"{key} (the file has {close[0]})" if close else key

    said = []
    if missing:
        near = [nearest(key) for key in missing[:SHOWN]] + missing[SHOWN:]
        said.append(f"{len(missing)} missing: {first_few(near)}")
    if unexpected:
        said.append(f"{len(unexpected)} unexpected: {first_few(unexpected)}")
    if wrong:
        shapes = [f"{key} is {found[key]}, not {wanted[key]}" for key in wrong]
        said.append(f"{len(wrong)} wrongly shaped: {first_few(shapes)}")
    if said:
        raise CheckpointError(f"{what} does not fit, of {len(wanted)} keys: {'; '.join(said)}")


def first_few(names: Sequence[str]) -> str:
    """Some names for a message, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
