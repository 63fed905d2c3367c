"""The adapters between a network and a sampler."""

import math

import pytest
import torch

from minisd import equations as eq
from minisd.guidance import cfg, corrected, from_v, from_x0, paper_time
from minisd.prediction import Prediction
from minisd.samplers import last, plms
from minisd.schedules import alpha_bar, ldm_uniform_times, scaled_linear_betas, zero_terminal_snr

AB = alpha_bar(zero_terminal_snr(scaled_linear_betas()))
X = torch.randn((3, 4, 2, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
C, U = torch.full((3, 5), 2.0).double(), torch.full((3, 5), -1.0).double()


def model(x, t, c):
    """Linear in the condition, so that guidance can be worked out by hand."""
    return 0.1 * x + t * c.mean(1).reshape(-1, 1, 1, 1)


def test_paper_time_subtracts_one():
    seen = []

    def network(x, index, *condition):
        seen.append((index.tolist(), index.dtype, condition))
        return x

    paper_time(network)(X, 1000, "c")
    paper_time(network)(X, torch.tensor([1, 2, 1000]))
    assert seen == [([999] * 3, torch.int64, ("c",)), ([0, 1, 999], torch.int64, ())]


def test_cfg_by_hand():
    for scale in (0.0, 1.0, 7.5):
        expected = 0.1 * X + 10 * (-1 + scale * 3)
        assert (cfg(model, C, U, scale)(X, 10) - expected).abs().max() <= 1e-12


def test_cfg_is_one_call_unconditional_first():
    seen = []

    def watched(x, t, c):
        seen.append((x, t, c))
        return model(x, t, c)

    cfg(watched, C, U, 2.0)(X, 7)
    (x, t, c) = seen.pop()
    assert torch.equal(x, torch.cat([X, X])) and t == 7 and torch.equal(c, torch.cat([U, C]))
    cfg(watched, C, U, 1.0)(X, 7)
    cfg(watched, C)(X, 7)
    assert all(x is X and c is C for x, t, c in seen) and len(seen) == 2


def test_cfg_of_nested_conditions():
    nested = lambda x, t, c: model(x, t, c["a"]["context"]) + c["vector"].reshape(-1, 1, 1, 1)  # noqa: E731
    cond = {"a": {"context": C}, "vector": torch.ones(3).double()}
    uncond = {"a": {"context": U}, "vector": torch.zeros(3).double()}
    expected = cfg(model, C, U, 3.0)(X, 10) + 3.0
    assert (cfg(nested, cond, uncond, 3.0)(X, 10) - expected).abs().max() <= 1e-12


def test_cfg_rescales():
    out_u, out_c = model(X, 10, U), model(X, 10, C)
    expected = eq.rescale_guidance(eq.guided_eps(out_u, out_c, 7.5), out_c, 0.7)
    assert torch.equal(cfg(model, C, U, 7.5, rescale=0.7)(X, 10), expected)


@pytest.mark.parametrize("t", [1, 500, 1000])
def test_from_v_and_from_x0(t):
    eps, x0 = X.flip(0), X.flip(1)
    x_t, v = eq.q_sample(x0, eps, AB[t]), eq.velocity(x0, eps, AB[t])
    for said in (from_v(lambda x, t: v, AB)(x_t, t), from_x0(lambda x, t: x0, AB)(x_t, t)):
        assert (said.eps - eps).abs().max() <= 1e-10 and (said.x0 - x0).abs().max() <= 1e-10


def test_from_v_takes_a_time_for_each_sample():
    t = torch.tensor([1, 500, 1000])
    together = from_v(lambda x, t: 0.3 * x, AB)(X, t)
    for i in range(3):
        alone = from_v(lambda x, t: 0.3 * x, AB)(X[i : i + 1], int(t[i]))
        assert (together.eps[i] - alone.eps[0]).abs().max() <= 1e-15


def test_corrected():
    push = lambda eps, x, t, by=0.0: eps + by * t * x  # noqa: E731
    eps_model = cfg(model, C, U, 2.0)
    assert torch.equal(corrected(eps_model, push)(X, 3), eps_model(X, 3))
    got = corrected(eps_model, push, by=0.5)(X, 3)
    assert (got - (eps_model(X, 3) + 1.5 * X)).abs().max() <= 1e-12
    two = lambda x, t: Prediction(eps_model(x, t), x)  # noqa: E731
    assert torch.equal(corrected(two, push, by=0.5)(X, 3), got)


def test_all_of_it_in_a_sampler():
    """A network by index, guided, predicting v, corrected, as the module's docstring says."""
    network = lambda x, i, c: model(x, 2.0, c) + (i + 1).reshape(-1, 1, 1, 1) / 1000  # noqa: E731
    guided = cfg(paper_time(network), C, U, 2.0)
    eps_model = corrected(from_v(guided, AB), lambda eps, x, t: 0.9 * eps)
    v = 0.1 * X + 2 * (-1 + 2 * 3) + 0.5
    assert (eps_model(X, 500) - 0.9 * eq.eps_from_v(X, v, AB[500])).abs().max() <= 1e-12
    x = last(plms(eps_model, X, ldm_uniform_times(1000, 10), AB)).x
    assert x.isfinite().all() and x.shape == X.shape


@pytest.mark.parametrize(
    "t", [0, -3, 0.5, math.nan, torch.tensor([1, 0, 5]), torch.tensor([0.5, 2, 3])]
)
def test_a_time_that_the_paper_does_not_have(t):
    with pytest.raises(ValueError, match="t must be a number from 1 to T, got"):
        paper_time(lambda x, index: x)(X, t)


def test_a_real_time_is_a_real_index():
    index = paper_time(lambda x, index: index)
    assert index(X, 500).dtype == torch.int64 and (index(X, 500) == 499).all()
    assert (index(X, 500.25) == 499.25).all()
    assert index(X, torch.tensor([1.5] * len(X)).double()).tolist() == [0.5] * len(X)


WRONG = {"one channel": X[:, :1], "one sample": X[:1], "nothing": None, "a tuple": (X,)}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(
    "what, adapted",
    {
        "model": lambda wrong: cfg(lambda x, t, c: wrong, C, U, 2.0),
        "v_model": lambda wrong: from_v(lambda x, t: wrong, AB),
        "x0_model": lambda wrong: from_x0(lambda x, t: wrong, AB),
        "eps_model": lambda wrong: corrected(lambda x, t: wrong, lambda eps, x, t: eps),
        "corrector": lambda wrong: corrected(lambda x, t: x, lambda eps, x, t: wrong),
    }.items(),
)
def test_what_an_adapters_function_returns_must_have_the_shape_of_x(what, adapted, wrong):
    with pytest.raises(ValueError, match=f"what {what} returns must be a tensor of the shape of x"):
        adapted(WRONG[wrong])(X, 5)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), None, "7.5", torch.tensor(7.5)])
def test_wrong_scales(scale):
    with pytest.raises(ValueError, match=r"^scale must be a number in \[-inf, inf\), got"):
        cfg(model, C, U, scale)
    with pytest.raises(ValueError, match=r"^rescale must be a number in \[0, inf\), got"):
        cfg(model, C, U, 7.5, rescale=scale)


def test_mistakes():
    for cond, uncond in (([1.0], [2.0]), (C, None), (C.tolist(), U), (C, U.tolist())):
        with pytest.raises(ValueError, match="tensors or dicts of such|needs uncond"):
            cfg(model, cond, uncond, 7.5)(X, 1)
    with pytest.raises(ValueError, match=r"with the 3 samples of x .* got \(1, 5\) and \(1, 5\)"):
        cfg(model, C[:1], U[:1], 7.5)(X, 1)
    with pytest.raises(ValueError, match="needs uncond"):
        cfg(model, C, scale=7.5)
    with pytest.raises(ValueError, match=r"one shape, .* got \(3, 5\) and \(1, 5\)"):
        cfg(model, C, U[:1], 7.5)(X, 1)
    for uncond in (U, {"b": U}):
        with pytest.raises(ValueError, match="same keys"):
            cfg(model, {"a": C}, uncond, 7.5)(X, 1)
