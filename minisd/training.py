"""One training loop for every network here: resumable to the bit, one process or many.

Nothing random lives in the loop. The i-th sample of step k is drawn from the seed (seed, k, i), so
a run that was killed goes on as if it had not been, and n processes draw the batch that one would.
"""

import glob
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor, nn

from .checkpoints.tensorfile import CheckpointError, compare, open_tensors, save_tensors

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW remembers of each weight


class Settings(NamedTuple):
    """How long and how fast. The rate rises linearly, stays, and falls to 0 in the last `decay`."""

    steps: int
    batch: int
    rate: float
    warmup: int = 200
    decay: float = 0.2  # share of the steps
    ema: float = 0.999
    clip: float = 1.0


class Stage(Protocol):
    """What is trained: a network (any nn.Module), and the loss of some samples of a step.

    loss(step, samples) is the mean over the samples, each drawn from `rng(seed, step, sample)`.
    `about` says what a saved run must agree on to be resumed; `slow` which weights, by the
    beginning of their names, learn at which share of the rate.
    """

    name: str
    network: nn.Module
    slow: dict[str, float]
    about: dict

    def loss(self, step: int, samples: range) -> Tensor: ...


class Progress(NamedTuple):
    """A step done: how many there are, and the batch's mean loss."""

    step: int
    loss: float


def rng(*key: int) -> np.random.Generator:
    """Random numbers that depend on the key alone."""
    return np.random.default_rng(key)


def torch_rng(*key: int) -> torch.Generator:
    """The same for torch."""
    return torch.Generator().manual_seed(int(rng(*key).integers(2**62)))


def learning_rate(step: int, settings: Settings) -> float:
    """The rate of a step, counted from 0."""
    rise = (step + 1) / settings.warmup if settings.warmup else 1.0
    left = (settings.steps - step) / max(settings.decay * settings.steps, 1)
    return settings.rate * min(1.0, rise, left)


class Run:
    """A network in training with its moving average, its optimizer's moments and its losses."""

    def __init__(self, stage: Stage, settings: Settings, path: str | Path):
        self.stage, self.settings, self.path = stage, settings, Path(path)
        self.step, self.losses = 0, []
        self.saved = None  # what the file says of itself, once this run has read or written it
        stage.network.to(memory_format=torch.channels_last)  # a tenth faster on a CPU
        trained = [(k, w) for k, w in stage.network.named_parameters() if w.requires_grad]
        self.names, self.weights = zip(*trained, strict=True)
        self.average = [weight.detach().clone() for weight in self.weights]
        shares: dict[float, list] = {}
        for name, weight in trained:
            shares.setdefault(self._share(name), []).append(weight)
        self.optimizer = torch.optim.AdamW(
            [{"params": weights, "share": share} for share, weights in shares.items()],
            settings.rate,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            fused=True,  # a tenth of a step's time
        )
        if self.path.exists():
            self._resume()

    @property
    def about(self) -> dict:
        """What a saved run must agree on; its length may change, for a longer training."""
        fixed = self.settings._asdict()
        del fixed["steps"], fixed["decay"]
        return json.loads(json.dumps({"stage": self.stage.name, **fixed, **self.stage.about}))

    def go(self) -> Iterator[Progress]:
        """Train on from where it stands, step by step. Every process of a group must call it."""
        world, rank = group()
        if self.settings.batch % world:
            raise ValueError(f"{world} processes cannot share a batch of {self.settings.batch}")
        self.stage.network.train()
        while self.step < self.settings.steps:
            for weights in self.optimizer.param_groups:
                weights["lr"] = weights["share"] * learning_rate(self.step, self.settings)
            loss = self.stage.loss(self.step, range(rank, self.settings.batch, world))
            self.optimizer.zero_grad()
            loss.backward()
            loss = average_gradients(self.weights, loss.detach())
            norm = nn.utils.clip_grad_norm_(self.weights, self.settings.clip)
            if not (loss + norm).isfinite():
                raise ValueError(
                    f"the loss of step {self.step} is {float(loss)}, its gradient's norm "
                    f"{float(norm)}: try a lower rate; {self.path} is as it was last saved"
                )
            self.optimizer.step()
            self.step += 1
            self.losses.append(float(loss))
            keep = min(self.settings.ema, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.average, [w.detach() for w in self.weights], 1 - keep)
            yield Progress(self.step, self.losses[-1])

    def _share(self, name: str) -> float:
        """The share of the rate at which a weight learns."""
        slow = self.stage.slow.items()
        return next((share for begins, share in slow if name.startswith(begins)), 1.0)

    def save(self) -> None:
        """Write all that a resumed run needs, whole or not at all. Only the first process does."""
        if group()[1]:
            return
        tensors = {f"network.{k}": v for k, v in self.stage.network.state_dict().items()}
        for i, name in enumerate(self.names):
            tensors[f"average.{name}"] = self.average[i]
            for moment, value in self.optimizer.state.get(self.weights[i], {}).items():
                tensors[f"{moment}.{name}"] = value
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        about = {"run": json.dumps(self.about), "step": str(self.step)}
        # Beside it, in a folder of its own: what a killed save leaves there goes with the next.
        beside = self.path.with_name(f".{self.path.stem}.{os.getpid()}.part")
        beside.mkdir(exist_ok=True)
        try:
            save_tensors(beside / self.path.name, tensors, about)
            self._check_ours()
            os.replace(beside / self.path.name, self.path)
        except (SafetensorError, OSError) as error:
            self._check_ours()  # another training clears away what lies beside its file
            raise CheckpointError(f"cannot write {self.path}: {error}") from None
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        self.saved = about
        for rest in self.path.parent.glob(f".{glob.escape(self.path.stem)}.*.part"):
            shutil.rmtree(rest, ignore_errors=True)

    def _check_ours(self) -> None:
        """CheckpointError if the file is no longer what this run read or wrote last."""
        if self.path.exists() and open_tensors(self.path)[1] != self.saved:
            raise CheckpointError(
                f"{self.path} has since been written by another training, and stays as that left "
                f"it: step {self.step} of this one is not saved, so give this one another folder"
            )

    def _resume(self) -> None:
        stored, self.saved = open_tensors(self.path)
        about, self.step = told(self.path, self.saved)
        if about != self.about:
            other = [k for k in about | self.about if about.get(k) != self.about.get(k)]
            raise CheckpointError(
                f"{self.path} is a run with other settings ({', '.join(other)}): give this one "
                "another folder, or remove that file"
            )
        wanted = {f"network.{k}": v for k, v in self.stage.network.state_dict().items()}
        wanted["losses"] = torch.empty(self.step, dtype=torch.float64, device="meta")
        for name, weight in zip(self.names, self.weights, strict=True):
            wanted[f"average.{name}"] = weight
            moments = {f"{m}.{name}": weight if m != "step" else torch.zeros(()) for m in MOMENTS}
            wanted |= moments if moments.keys() & stored.keys() else {}  # none before a first step
        compare(str(self.path), _kinds(wanted), _kinds(stored))
        tensors = {key: _as_trained(value.read()) for key, value in stored.items()}
        for key, value in tensors.items():
            positive = key.startswith(("step.", "exp_avg_sq."))
            if not value.isfinite().all() or positive and (value < 0).any():
                raise CheckpointError(f"{self.path} holds numbers in {key} that no training writes")
        network = {k[len("network.") :]: v for k, v in tensors.items() if k.startswith("network.")}
        self.stage.network.load_state_dict(network)
        self.average = [tensors[f"average.{name}"] for name in self.names]
        for weight, name in zip(self.weights, self.names, strict=True):
            known = [m for m in MOMENTS if f"{m}.{name}" in tensors]
            self.optimizer.state[weight] = {m: tensors[f"{m}.{name}"] for m in known}
        self.losses = tensors["losses"].tolist()


def told(path: Path, metadata: dict[str, str]) -> tuple[dict, int]:
    """What the metadata of a run's file say: what it is a run of, and its steps so far."""
    step = metadata.get("step", "")
    try:
        about = json.loads(metadata.get("run", ""))
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict) or not re.fullmatch("[0-9]{1,12}", step):
        raise CheckpointError(f"{path} is no run of a training: its metadata do not describe one")
    return about, int(step)


def _kinds(tensors) -> dict[str, str]:
    """The shape and dtype of each tensor."""
    return {key: f"{tuple(value.shape)} {value.dtype}" for key, value in tensors.items()}


def _as_trained(stored: Tensor) -> Tensor:
    """A copy in the memory's order of the weights: the optimizer is slower where orders differ."""
    images = stored.ndim == 4
    return stored.clone(memory_format=torch.channels_last if images else torch.contiguous_format)


# ---- several processes --------------------------------------------------------------------


def average_gradients(weights, loss: Tensor) -> Tensor:
    """Make each gradient the mean over all processes', and return the mean loss."""
    world, _ = group()
    if world > 1:
        grads = [weight.grad for weight in weights if weight.grad is not None]
        flat = torch.cat([loss.reshape(1), *(grad.flatten() for grad in grads)])
        dist.all_reduce(flat)
        flat /= world
        loss, means = flat[0], flat[1:].split([grad.numel() for grad in grads])
        for grad, mean in zip(grads, means, strict=True):
            grad.copy_(mean.view_as(grad))
    return loss


def group() -> tuple[int, int]:
    """How many processes train together, and which of them this is."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size(), dist.get_rank()
    return 1, 0


def wait() -> None:
    """Until every process has come as far as this."""
    if group()[0] > 1:
        dist.barrier()
