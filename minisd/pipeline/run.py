"""What a pipeline samples from, and what it hands back: a run that has not begun yet."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor

from ..samplers import Step
from .conditioning import Conditioning
from .settings import Settings


class Told(NamedTuple):
    """A prompt and its opposite as conditions for b pictures, and their noise."""

    cond: Conditioning
    uncond: Conditioning | None
    scale: float
    count: int
    noise: Callable[[Tensor], Tensor]
    settings: Settings
    hint: Tensor | None = None  # (count, 3, h, w) in 0..1

    def beside(self, channels: Tensor, y: Tensor | None = None) -> "Told":
        """With more channels beside x_t, and classes y, the same for both."""
        changes = {"beside": channels} | ({} if y is None else {"y": y})
        uncond = self.uncond and self.uncond._replace(**changes)
        return self._replace(cond=self.cond._replace(**changes), uncond=uncond)


class Run:
    """A picture in the making: iterate it for the sampler's Steps, or not; then ask for pictures.

    Nothing is sampled before it is asked for, and nothing twice. len is the number of steps, times
    the times they visit.
    """

    def __init__(self, steps: Iterator[Step], times: list[int], decode: Callable[[Tensor], Tensor]):
        self.times = times
        self._steps, self._decode, self._x = steps, decode, None

    def __len__(self) -> int:
        return len(self.times) - 1

    def __iter__(self) -> Iterator[Step]:
        for step in self._steps:
            self._x = step.x
            yield step

    def latents(self) -> Tensor:
        """What the steps lead to, after those that are left: (b, c, h/f, w/f), scaled."""
        for _ in self:
            pass
        return self._x

    def pictures(self) -> Tensor:
        """The pictures, after the steps that are left: (b, 3, h, w)."""
        return self._decode(self.latents())
