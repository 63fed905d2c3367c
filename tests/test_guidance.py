"""The adapters between a network and a sampler."""

import math

import numpy as np
import pytest
import torch

from minisd import equations as eq
from minisd.clocks import sigmas_of
from minisd.guidance import (
    cfg,
    corrected,
    dynamic_threshold,
    from_v,
    from_x0,
    interval,
    nearest_time,
    norm_threshold,
    paper_time,
    per_step,
    trapezoid,
    triangle,
)
from minisd.prediction import Prediction
from minisd.samplers import last, plms
from minisd.schedules import (
    ab_at,
    alpha_bar,
    ldm_uniform_times,
    scaled_linear_betas,
    zero_terminal_snr,
)

AB = alpha_bar(zero_terminal_snr(scaled_linear_betas()))
SD = alpha_bar(scaled_linear_betas())
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


# ---- guidance by time, thresholds, whole times only --------------------------------------------


def test_guidance_by_time():
    """cfg with a function of t is cfg with its number at that time; scale 1 asks for one half."""
    asked = []
    counted = lambda x, t, c: asked.append(len(x)) or model(x, t, c)  # noqa: E731
    by_time = cfg(counted, C, U, interval(5.0, 800, 300))
    for t in (1000, 801, 800, 500, 300, 299, 1):
        expected = cfg(model, C, U, 5.0 if 300 <= t <= 800 else 1.0)(X, t)
        assert (by_time(X, t) - expected).abs().max() <= 1e-12
    assert asked == [len(X) * n for n in (1, 1, 2, 2, 2, 1, 1)]


def test_a_scale_for_each_step():
    scale = per_step([7.0, 5.0, 3.0], [1000, 600, 200, 0])
    assert [scale(t) for t in (1000, 600, 200)] == [7.0, 5.0, 3.0]
    assert [scale(t) for t in (999.5, 601, 400, 1)] == [7.0, 7.0, 5.0, 3.0]  # between: that step's


def test_triangle_and_trapezoid_are_generative_models():
    """Their scales over n frames, at linspace(0, 1, n), against ours at the same shares of T."""
    shares = np.linspace(0, 1, 41)
    waves = 2 * np.abs(shares - np.floor(shares + 0.5))
    ours = [triangle(6.0, 1000, least=2.0)(1000 * u) for u in shares]
    assert np.allclose(ours, waves * 4 + 2)
    ours = [trapezoid(6.0, 1000, least=2.0, edge=0.25)(1000 * u) for u in shares]
    assert np.allclose(ours[:11], np.linspace(2, 6, 11)) and np.allclose(ours[10:31], 6)
    assert np.allclose(ours[30:], np.linspace(6, 2, 11))


def test_dynamic_threshold():
    """Imagen §2.3 in numpy, sample by sample; a sample within the limit stays as it is."""
    x0 = torch.cat([3 * X, 0.01 * X])
    out = dynamic_threshold(0.9)(x0)
    for one, given in zip(out, x0, strict=True):
        s = max(1.0, np.quantile(np.abs(given.numpy()), 0.9))
        assert np.allclose(one.numpy(), np.clip(given.numpy(), -s, s) / s, atol=1e-6)
    assert (out[len(X) :] - 0.01 * X).abs().max() < 1e-12
    wide = dynamic_threshold(1.0, limit=2.0)(x0)
    assert abs(wide[0].abs().max() - 2) < 1e-6 and (wide.abs() <= 2 + 1e-6).all()


def test_norm_threshold():
    x0 = torch.cat([3 * X, 0.01 * X])
    whole, spatial = norm_threshold(1.5)(x0), norm_threshold(1.5, spatial=True)(x0)
    norms = lambda x, over: (x**2).mean(over).sqrt()  # noqa: E731
    assert (norms(whole, (1, 2, 3))[: len(X)] - 1.5).abs().max() < 1e-12
    assert (norms(spatial, 1) <= 1.5 + 1e-12).all()
    assert (whole[len(X) :] - 0.01 * X).abs().max() < 1e-12
    large = norms(x0, 1) > 1.5
    assert (norms(spatial, 1)[large] - 1.5).abs().max() < 1e-12 and large.any()
    assert ((spatial - x0).abs().amax(1)[~large] < 1e-12).all()


def test_nearest_time_is_generative_models():
    """DiscreteDenoiser, in its own scale: σ becomes the nearest trained one throughout."""
    network = lambda x, t: 0.3 * x + t / 1000  # noqa: E731
    for t in (1.4, 1.6, 500.3, 999.9, 500):
        sigma = sigmas_of(SD, [t])[0]
        k = 1 + int((sigmas_of(SD, range(1, 1001)) - sigma).abs().argmin())
        sigma_k = sigmas_of(SD, [k])[0]
        x_bar = X / ab_at(SD, t, X) ** 0.5
        c_in = 1 / (sigma_k**2 + 1).sqrt()
        denoised = x_bar - sigma_k * network(c_in * x_bar, k)
        said = nearest_time(network, SD)(X, t)
        if t == 500:
            assert (said - network(X, t)).abs().max() < 1e-12
            continue
        assert (said.x0 - denoised).abs().max() < 1e-10
        assert (said.eps - (x_bar - denoised) / sigma).abs().max() < 1e-9
    times = ldm_uniform_times(1000, 10)
    plain, nearest = (last(plms(f, X, times, SD)).x for f in (network, nearest_time(network, SD)))
    assert (nearest - plain).abs().max() < 1e-9


def test_nearest_time_of_a_v_model():
    """With ᾱ_T = 0 too: at T itself as it is, between whole times rounded by its own x0."""
    v_model = from_v(lambda x, t: 0.2 * x, AB)
    nearest = nearest_time(v_model, AB)
    for ours, theirs in zip(nearest(X, 1000), v_model(X, 1000), strict=True):
        assert (ours - theirs).abs().max() < 1e-12
    scaled = (AB[500] / ab_at(AB, 500.3, X)) ** 0.5 * X
    assert (nearest(X, 500.3).x0 - v_model(scaled, 500).x0).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interval(5.0, 300, 800), "must fall from first to last, got 300 to 800"),
        (lambda: per_step([1.0], [1000, 500, 0]), "2 steps need as many scales, got 1"),
        (lambda: dynamic_threshold(1.5), "percentile must be a number in"),
        (lambda: dynamic_threshold(0.9, limit=0), "limit must be a number in"),
        (lambda: norm_threshold(-1), "limit must be a number in"),
        (lambda: cfg(model, C, U, lambda t: None)(X, 5), "scale must be a number in"),
        (lambda: cfg(model, C, None, interval(5.0, 800, 300)), "needs uncond"),
        (lambda: nearest_time(lambda x, t: x[:1], SD)(X, 5.5), "what eps_model returns must be"),
    ],
)
def test_mistakes_with_them_get_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


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
