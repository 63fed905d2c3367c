"""What all samplers share, so that a sampler's body is its algorithm.

    @sampler()
    def ddim(model, x, times, ab, eta=0.0, noise=None):
        for t, s in pairwise(times):                  # the times to visit, from noise to picture
            eps, x0 = model.predict(x, t)             # what the network says about x_t
            x = ...                                   # the equation
            x = yield Step(s, x, x0, eps)             # out with x_s, back with what it goes on from

A sampler is written as a function of a `Model`, x at times[0], the times, a `Clock` of ᾱ, and the
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

from .clocks import Clock
from .equations import churned_sigma, dir_xt, eps_from_x0, q_step, sqrt
from .prediction import (
    EpsModel,
    Prediction,
    ask,
    check_deterministic,
    check_inputs,
    check_noise,
    drawn,
    move,
    predict,
    same_shape,
)
from .schedules import check_number

FIRST = {"eps_model": EpsModel, "x": Tensor, "times": list[float], "ab": Tensor}
SHARED = """

    Arguments of every sampler:
        eps_model: a function (x, t) -> ε, t the paper's; network, prompt and guidance are inside
            it. It may return `Prediction(eps, x0)` instead, which works at ᾱ_t = 0 too.
        x: x_T, usually torch.randn of a Generator; the caller owns dtype and device.
        times: the times to visit, T ≥ t > s > ... ≥ 0, whole (see `schedules`) or real (see
            `clocks`); x ends at the last.
        ab: ᾱ_0..ᾱ_T (see `schedules.alpha_bar`).
        project: a function x0 -> x0, applied to every prediction: clipping, a codebook's quantiser.
        constrain: a function (x, t) -> x, applied before every step and, with t = 0, to the result
            (see `noise.keep`).
    Yields a `Step` for each pair of neighbouring times."""


class Step(NamedTuple):
    """One step: x has arrived at time t, moved by eps, which said that the clean picture is x0."""

    t: float
    x: Tensor
    x0: Tensor
    eps: Tensor


Steps = Generator[Step, Tensor, None]


class Model(NamedTuple):
    """An eps_model with ᾱ and the projection, as the body of a sampler uses it."""

    eps_model: EpsModel
    ab: Clock
    project: Callable | None

    def eps(self, x: Tensor, t: float) -> Tensor:
        """ε at time t."""
        return ask(self.eps_model, x, t).eps

    def x0(self, x: Tensor, t: float) -> Tensor:
        """The projected x0 at time t."""
        return self.predict(x, t).x0

    def predict(self, x: Tensor, t: float) -> Prediction:
        """ε and the projected x0 at time t."""
        return predict(self.eps_model, x, t, self.ab, self.project)

    def move(self, x: Tensor, eps: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
        """DDIM's step from time t to s along ε, by way of the projected x0: x_s and that x0."""
        return move(x, eps, self.ab[t], self.ab[s], self.project)

    def toward(
        self, x: Tensor, x0: Tensor, t: float, s: float, sigma: float = 0.0, noise=None
    ) -> tuple[Tensor, Tensor]:
        """DDIM's step from time t to s with a given x0, and σ z where σ > 0: x_s and its ε."""
        eps = eps_from_x0(x, x0, self.ab[t])
        x_s = dir_xt(eps, self.ab[s], sigma).add(x0, alpha=sqrt(self.ab[s]))
        return (x_s + sigma * noise(x) if sigma > 0 else x_s), eps

    def answer(self, of: str, x: Tensor, t: float) -> Tensor:
        """What the network says at time t, as "eps" or as "x0"."""
        return self.eps(x, t) if of == "eps" else self.x0(x, t)

    def step(
        self, of: str, x: Tensor, value: Tensor, t: float, s: float, sigma=0.0, noise=None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """DDIM's step with a given answer, "eps" or "x0": x_s, and the x0 and ε that led there."""
        if of == "eps":
            return *self.move(x, value, t, s), value
        x_s, eps = self.toward(x, value, t, s, sigma, noise)
        return x_s, value, eps

    def rise(self, x: Tensor, t: float, up: float, noise: Callable, scale: float = 1.0) -> Tensor:
        """DDPM eq. 2 from time t up to a noisier one: q(x_up | x_t), its noise times scale."""
        if up == t:
            return x
        return q_step(x, scale * noise(x), 1 - self.ab[up] / self.ab[t])


def brownian(noise: Callable, share: float) -> tuple[Callable, Callable]:
    """The noise of one Brownian path up to a share of the way, and up to its end: two functions of
    x, to be called in this order. The second is √share of the first and √(1-share) of fresh noise.
    """
    first = []

    def to_share(x: Tensor) -> Tensor:
        first.append(noise(x))
        return first[0]

    def to_end(x: Tensor) -> Tensor:
        return sqrt(share) * first[0] + sqrt(1 - share) * noise(x)

    return to_share, to_end


def churning(model: Model, times, churn, s_min, s_max, s_noise, noise) -> Callable:
    """EDM Algorithm 2, lines 4 to 6: from x and t to x̂ and t̂, a little noisier."""
    for name, value in {"churn": churn, "s_min": s_min, "s_noise": s_noise}.items():
        check_number(name, value)
    check_noise("churn", churn, noise)

    def churned(x: Tensor, t: float) -> tuple[Tensor, float]:
        sigma_t = model.ab.sigma(t)
        if churn == 0 or not s_min <= sigma_t <= s_max:
            return x, t
        raised = churned_sigma(sigma_t, churn, len(times) - 1)
        up = model.ab.time(min(raised, model.ab.largest))
        return model.rise(x, t, up, noise, s_noise), up

    return churned


def sampler(finite: bool = False, deterministic: bool = False) -> Callable:
    """A decorator: from an algorithm (model, x, times, ab, ...) to a sampler (eps_model, x, ...).

    finite: the algorithm reckons with σ or λ, so where ᾱ_T = 0 its first step is DDIM's.
    deterministic: finite, and its sampler takes eta only to refuse another than 0: the official
    code has that argument.
    """

    def made(algorithm: Callable) -> Callable:
        signature = _signature(algorithm, deterministic)

        @functools.wraps(algorithm)
        def sample(*args, **kwargs) -> Generator[Step, None, None]:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            return _walk(algorithm, finite or deterministic, deterministic, **given.arguments)

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


def _walk(algorithm, finite, deterministic, eps_model, x, times, ab, project, constrain, **own):
    """The steps of an algorithm, its x constrained before each."""
    times, ab = check_inputs(x, times, ab)
    if deterministic:
        check_deterministic(own.pop("eta"))
    model = Model(eps_model, ab, project)
    legs = [(algorithm, times)]
    if finite and ab[times[0]] == 0:
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


def _constrained(constrain: Callable | None, x: Tensor, t: float) -> Tensor:
    return same_shape("what constrain returns", constrain(x, t), x) if constrain else x


def _leave_zero_snr(model: Model, x: Tensor, times: list[float], ab: Clock) -> Steps:
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
