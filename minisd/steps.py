"""What all samplers share, so that a sampler's body is its algorithm.

    @sampler()
    def ddim(model, x, times, ab, eta=0.0, noise=None):
        for t, s in pairwise(times):                  # the times to visit, from noise to picture
            eps, x0 = model.predict(x, t)             # what the network says about x_t
            x = ...                                   # the equation
            x = yield Step(s, x, x0, eps)             # out with x_s, back with what it goes on from

A sampler is written as a function of a `Model`, x at times[0], the times, ᾱ as floats, and the
arguments of its own. `sampler` makes of it the function that everybody calls, with an eps_model in
the place of the `Model`, and with `project` and `constrain` as its last arguments. It checks what
it is given and what functions return, constrains x before every step, and takes the first step
where ᾱ_T is 0: a ValueError says in a sentence what is wrong.

A Step's tensors are those that the sampler goes on with, not copies: change a clone. Where weights
in eps_model require gradients, the graph of all steps is kept, which guidance by a classifier may
need; put torch.no_grad() round the loop where nothing does, or the memory grows with every step.
"""

import functools
import inspect
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import NamedTuple

from torch import Tensor

from .equations import dir_xt, sqrt
from .prediction import (
    EpsModel,
    Prediction,
    ask,
    check_deterministic,
    check_inputs,
    drawn,
    move,
    predict,
    same_shape,
)

FIRST = {"eps_model": EpsModel, "x": Tensor, "times": list[int], "ab": Tensor}
SHARED = """

    Arguments of every sampler:
        eps_model: a function (x, t) -> ε, t the paper's; network, prompt and guidance are inside
            it. It may return `Prediction(eps, x0)` instead, which works at ᾱ_t = 0 too.
        x: x_T, usually torch.randn of a Generator; the caller owns dtype and device.
        times: the times to visit, T ≥ t > s > ... ≥ 0 (see `schedules`); x ends at the last.
        ab: ᾱ_0..ᾱ_T (see `schedules.alpha_bar`).
        project: a function x0 -> x0, applied to every prediction: clipping, a codebook's quantiser.
        constrain: a function (x, t) -> x, applied before every step and, with t = 0, to the result
            (see `noise.keep`).
    Yields a `Step` for each pair of neighbouring times."""


class Step(NamedTuple):
    """One step: x has arrived at time t, moved by eps, which said that the clean picture is x0."""

    t: int
    x: Tensor
    x0: Tensor
    eps: Tensor


Steps = Generator[Step, Tensor, None]


class Model(NamedTuple):
    """An eps_model with ᾱ and the projection, as the body of a sampler uses it."""

    eps_model: EpsModel
    ab: list[float]
    project: Callable | None

    def eps(self, x: Tensor, t: int) -> Tensor:
        """ε at time t."""
        return ask(self.eps_model, x, t).eps

    def predict(self, x: Tensor, t: int) -> Prediction:
        """ε and the projected x0 at time t."""
        return predict(self.eps_model, x, t, self.ab, self.project)

    def move(self, x: Tensor, eps: Tensor, t: int, s: int) -> tuple[Tensor, Tensor]:
        """PNDM's transfer from time t to s by way of the projected x0: x_s and that x0."""
        return move(x, eps, self.ab[t], self.ab[s], self.project)


def sampler(deterministic: bool = False) -> Callable:
    """A decorator: from an algorithm (model, x, times, ab, ...) to a sampler (eps_model, x, ...).

    deterministic: the algorithm averages ε along one path. Its sampler takes eta only to refuse
    another than 0, and where ᾱ_T = 0, which leaves nothing to average, its first step is DDIM's.
    """

    def made(algorithm: Callable) -> Callable:
        signature = _signature(algorithm, deterministic)

        @functools.wraps(algorithm)
        def sample(*args, **kwargs) -> Generator[Step, None, None]:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            return _walk(algorithm, deterministic, **given.arguments)

        sample.__signature__ = signature
        sample.__doc__ = f"{algorithm.__doc__.rstrip()}{SHARED}"
        return sample

    return made


def _signature(algorithm: Callable, deterministic: bool) -> inspect.Signature:
    """The algorithm's, with eps_model for model and with what all samplers take besides."""
    own = inspect.signature(algorithm).parameters.values()
    first = [p.replace(name=n, annotation=a) for p, (n, a) in zip(own, FIRST.items(), strict=False)]
    rest = [("eta", float, 0.0)] * deterministic
    rest += [(name, Callable | None, None) for name in ("project", "constrain")]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    rest = [inspect.Parameter(n, kind, default=d, annotation=a) for n, a, d in rest]
    return inspect.Signature([*first, *list(own)[len(first) :], *rest])


def _walk(algorithm, deterministic, eps_model, x, times, ab, project, constrain, **own):
    """The steps of an algorithm, its x constrained before each."""
    times, ab = check_inputs(x, times, ab)
    if deterministic:
        check_deterministic(own.pop("eta"))
    model = Model(eps_model, ab, project)
    legs = [(algorithm, times)]
    if deterministic and ab[times[0]] == 0:
        legs = [(_leave_zero_snr, times[:2]), (algorithm, times[1:])]
    if own.get("noise"):
        own["noise"] = functools.partial(drawn, own["noise"])
    x = _constrained(constrain, x, times[0])
    for leg, visited in legs:
        steps = leg(model, x, visited, ab, **(own if leg is algorithm else {}))
        x = None
        for t in visited[1:]:
            step = steps.send(x)
            if t == times[-1]:
                yield step._replace(x=_constrained(constrain, step.x, 0))
                return
            yield step
            x = _constrained(constrain, step.x, t)


def _constrained(constrain: Callable | None, x: Tensor, t: int) -> Tensor:
    return same_shape("what constrain returns", constrain(x, t), x) if constrain else x


def _leave_zero_snr(model: Model, x: Tensor, times: list[int], ab: list[float]) -> Steps:
    """At ᾱ_T = 0, ε is x itself and tells no x0: the one step from there is DDIM's, by x0."""
    t, s = times
    eps, x0 = model.predict(x, t)
    yield Step(s, sqrt(ab[s]) * x0 + dir_xt(eps, ab[s], 0.0), x0, eps)


def last(steps: Iterable[Step]) -> Step:
    """The last step of a sampler: `last(plms(...)).x` is the result. Keeps no other in memory."""
    kept = deque(steps, maxlen=1)
    if not kept:
        raise ValueError("there is no last step: a sampler gives its steps once, so call it again")
    return kept.pop()
