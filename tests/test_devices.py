"""No float64 tensor goes to a device: Apple's GPUs have none, and torch raises TypeError there."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from minisd import losses, samplers
from minisd.equations import q_sample, velocity
from minisd.guidance import cfg, corrected, from_v, from_x0, paper_time
from minisd.noise import gaussian, keep
from minisd.pipeline import Pipeline
from minisd.pipeline.menu import SAMPLERS
from minisd.schedules import alpha_bar, at, scaled_linear_betas, trailing_times
from minisd.tiny.stages import tiny_schedule
from minisd.tiny.weights import TINY

AB = alpha_bar(scaled_linear_betas())
X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
C = torch.ones(2, 3)


class NoFloat64(TorchFunctionMode):
    """As Metal has it, with the CPU for the device: a call that names a device, or moves a tensor
    to where another is, must neither take nor give float64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        given = [*args, *(kwargs or {}).values()]
        out = func(*args, **(kwargs or {}))
        device = any(isinstance(g, torch.device) or g in ("cpu", "mps", "cuda") for g in given
                     if isinstance(g, (str, torch.device)))  # fmt: skip
        moves = getattr(func, "__name__", "") in ("to", "type_as", "cuda", "mps")
        named = device or moves and isinstance((given + [None])[1], torch.Tensor)
        tensors = [t for t in (out, *given[:1]) if isinstance(t, torch.Tensor)]
        if named and any(t.dtype == torch.float64 for t in tensors):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return out


def network(x, index, c=None):
    return 0.1 * x * (1 + index.reshape(-1, 1, 1, 1) / 1000)


EPS_MODELS = {
    "eps": lambda: paper_time(network),
    "guided v": lambda: from_v(cfg(paper_time(network), C, -C, 2.0, rescale=0.5), AB),
    "x0": lambda: from_x0(paper_time(network), AB),
    "corrected": lambda: corrected(from_v(paper_time(network), AB), lambda eps, x, t: eps),
}


def test_the_spy_sees_every_way():
    one, x = torch.ones(1, dtype=torch.float64), torch.ones(1)
    for move in (
        lambda: one.to("cpu"),
        lambda: one.to(x.device),
        lambda: one.to(x.device, torch.float32),
        lambda: one.to(device="cpu", dtype=torch.float32),
        lambda: one.to(x),
        lambda: x.to(one),
        lambda: torch.zeros(1, dtype=torch.float64, device=x.device),
        lambda: torch.as_tensor([1.0], dtype=torch.float64, device="cpu"),
    ):
        with pytest.raises(TypeError, match="MPS"), NoFloat64():
            move()
    with NoFloat64():
        one.to(torch.float32).to(x.device), x.to("cpu"), x.to(x), one * 2


@pytest.mark.parametrize("eps_model", EPS_MODELS)
@pytest.mark.parametrize("name", [*SAMPLERS, "ddim_invert"])
def test_samplers_and_adapters(name, eps_model):
    sampler, takes = samplers.ddim_invert, []
    if name != "ddim_invert":
        sampler, takes = SAMPLERS[name].run, SAMPLERS[name].takes()
    options = {"noise": gaussian(0)} if "noise" in takes else {}
    options |= {"eta": 0.5} if "eta" in takes else {}
    if name != "ddim_invert":
        options |= {"constrain": keep(torch.ones(8, 8), X, AB, gaussian(1)), "project": torch.tanh}
    with NoFloat64():
        steps = list(sampler(EPS_MODELS[eps_model](), X, trailing_times(1000, 6), AB, **options))
    assert steps[-1].x.dtype == torch.float32 and steps[-1].x.isfinite().all()


@pytest.mark.parametrize("t", [1, 500, torch.tensor([3, 1000])])
def test_losses_and_tables(t):
    with NoFloat64():
        for name in ("eps", "x0", "corrected"):
            losses.l_simple(EPS_MODELS[name](), X, t, X.flip(0), AB)
            losses.l_weighted(EPS_MODELS[name](), X, t, X.flip(0), AB, AB)
        if isinstance(t, int):
            losses.l_t(EPS_MODELS["eps"](), X, t, X.flip(0), AB)
        losses.l_T(X, AB)
        ab_t = at(AB, t, X)
        made = (q_sample(X, X.flip(0), ab_t), velocity(X, X.flip(0), ab_t))
    assert all(each.dtype == torch.float32 for each in made)


def test_the_model_that_ships():
    """It predicts v, in every way that pictures are made."""
    picture, mask = torch.zeros(1, 3, 64, 64), torch.zeros(64, 64)
    mask[:, 32:] = 1
    with NoFloat64():
        pipe = Pipeline.load(TINY)
        for sampler in SAMPLERS:
            pipe.txt2img("a red circle", steps=2, sampler=sampler).pictures()
        pipe.img2img(picture, "a red circle", steps=2).pictures()
        pipe.inpaint(picture, mask, "a red circle", steps=2).pictures()
        pipe.invert(picture, "a red circle", strength=0.5, steps=2, refine=1).latents()
    assert tiny_schedule().dtype == torch.float64
