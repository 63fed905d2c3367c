"""Arguments of an exercise as JSON, to a student's kernel; numbers back from it, and nothing else.

What comes back was made by a process that may lie: it is only ever read as numbers.
"""

import base64
import dataclasses
import inspect
import json
import math
import textwrap
from types import FunctionType

import torch
from torch import Tensor

from ...models import configs
from ...toy import GaussianMixture, IdealDenoiser

DTYPES = {str(d)[6:]: d for d in (torch.float64, torch.float32, torch.int64, torch.bool)}


def encode(value):
    """A value of a case as JSON's plain types: numbers, strings, None, tensors, lists, tuples, a
    config, an ideal denoiser, or a function that stands alone (torch and math are all it uses).
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return {"tensor": [str(value.dtype)[6:], list(value.shape), _text(value)]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [encode(v) for v in value]}
    if dataclasses.is_dataclass(value) and type(value).__module__ == configs.__name__:
        fields = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"config": [type(value).__name__, fields]}
    if isinstance(value, IdealDenoiser):
        data = value.mixture
        parts = (data.means, data.std, data.weights, data.labels, value.ab)
        return {"ideal": [encode(part) for part in parts]}
    if isinstance(value, FunctionType) and "<" not in value.__qualname__:
        return {"function": [value.__name__, textwrap.dedent(inspect.getsource(value))]}
    raise TypeError(f"the grader cannot send a {type(value).__name__} to a student's function")


def decode(value):
    """What encode was given."""
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    if kind == "tensor":
        dtype, shape, text = content
        return _tensor(text, DTYPES[dtype], shape)
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](decode(v) for v in content)
    if kind == "config":
        name, fields = content
        return getattr(configs, name)(**{key: decode(v) for key, v in fields.items()})
    if kind == "ideal":
        means, std, weights, labels, ab = (decode(v) for v in content)
        return IdealDenoiser(GaussianMixture(means, std, weights, labels), ab)
    name, source = content
    namespace = {"torch": torch, "math": math}
    exec(source, namespace)  # in the student's kernel, and it is the grader's own
    return namespace[name]


def _text(tensor: Tensor) -> str:
    return base64.b64encode(tensor.detach().cpu().contiguous().numpy().tobytes()).decode()


def _tensor(text: str, dtype: torch.dtype, shape: list[int]) -> Tensor:
    raw = bytearray(base64.b64decode(text))
    flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.zeros(0, dtype=dtype)
    return flat.reshape(shape)


def encode_numbers(numbers: Tensor) -> dict:
    """A float64 tensor as JSON."""
    return {"shape": list(numbers.shape), "numbers": _text(numbers)}


class Unreadable(ValueError):
    """What came back from a student's kernel is no answer."""


def read_answers(text: str) -> list[dict]:
    """The lines that a kernel wrote, one a case: each {"numbers": a float64 tensor}, {"blank": 1},
    {"none": 1}, {"other": text}, {"error": text} or {"slow": text}, then one {"calls": [names]}.
    Raises Unreadable for anything else.
    """
    try:
        return [_read_answer(json.loads(line)) for line in text.splitlines()]
    except Unreadable:
        raise
    except Exception as error:  # whatever a forged text sets off
        raise Unreadable(f"the kernel sent no answer ({type(error).__name__})") from None


def _read_answer(line: dict) -> dict:
    if set(line) == {"shape", "numbers"}:
        shape = [int(n) for n in line["shape"]]
        if len(shape) > 16 or any(n < 0 for n in shape):
            raise Unreadable("the kernel sent no answer (a shape)")
        return {"numbers": _tensor(line["numbers"], torch.float64, shape)}
    [(kind, content)] = line.items()
    if kind in ("blank", "none"):
        return {kind: 1}
    if kind in ("other", "error", "slow"):
        return {kind: str(content)[:2000]}
    if kind == "calls":
        return {kind: [str(name)[:200] for name in content[:10]]}
    raise Unreadable("the kernel sent no answer (an unknown kind)")
