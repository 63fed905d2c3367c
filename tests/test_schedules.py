"""Schedules and time grids against numpy, published numbers, and the official construction."""

import math

import numpy as np
import pytest
import torch

from minisd import schedules
from minisd.schedules import (
    all_times,
    alpha_bar,
    at,
    check_count,
    check_number,
    check_t,
    check_times,
    cosine_betas,
    ldm_quad_times,
    ldm_uniform_times,
    leading_times,
    linear_betas,
    linspace_times,
    log_snr,
    official_buffers,
    scaled_linear_betas,
    snr,
    sqrt_betas,
    trailing_times,
    zero_terminal_snr,
)

SD = scaled_linear_betas()
EVERY_T = [1, 2, 3, 7, 50, 999, 1000]


def close(a, b, tolerance=1e-12):
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= tolerance


# ---- betas --------------------------------------------------------------------------------


@pytest.mark.parametrize("T", EVERY_T)
def test_betas_are_numpys(T):
    close(scaled_linear_betas(T, 0.0015, 0.0195), np.linspace(0.0015**0.5, 0.0195**0.5, T) ** 2)
    close(linear_betas(T), np.linspace(1e-4, 0.02, T))
    close(sqrt_betas(T), np.linspace(1e-4, 0.02, T) ** 0.5)
    angle = (np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2
    f = np.cos(angle) ** 2
    close(cosine_betas(T), np.minimum(1 - f[1:] / f[:-1], 0.999))


def test_a_thousand_steps_unless_asked_otherwise():
    for betas in (scaled_linear_betas(), linear_betas(), sqrt_betas(), cosine_betas()):
        assert len(betas) == 1000 and betas.dtype == torch.float64


def test_cosine_takes_its_offset_and_cap():
    f = np.cos((np.arange(11) / 10 + 0.1) / 1.1 * np.pi / 2) ** 2
    close(cosine_betas(10, offset=0.1, max_beta=0.5), np.minimum(1 - f[1:] / f[:-1], 0.5))


@pytest.mark.parametrize(
    ("betas", "published"),
    [
        (SD, {1: 0.99915, 2: 0.99829603, 501: 0.27633268, 982: 0.0057755, 1000: 0.00466010}),
        (scaled_linear_betas(1000, 0.0015, 0.0195), {2: 0.99699443, 1000: 1.42304e-4}),
        (scaled_linear_betas(1000, 1e-4, 0.02), {2: 0.99979736, 501: 0.33127458, 1000: 7.33412e-4}),
        (linear_betas(), {2: 0.99978009, 501: 0.07779666, 1000: 4.03583e-5}),
        (cosine_betas(), {1: 0.99995872, 501: 0.49228517, 1000: 2.42877e-9}),
        (zero_terminal_snr(SD), {1: 0.99915, 2: 0.99823345, 501: 0.24101878, 999: 1.968e-7}),
    ],
)
def test_alpha_bar_is_the_published_one(betas, published):
    ab = alpha_bar(betas)
    assert ab.dtype == torch.float64 and len(ab) == 1001 and ab[0] == 1
    for t, value in published.items():
        digits = len(f"{value:.9g}".replace(".", "").lstrip("0").split("e")[0])
        assert float(f"{ab[t]:.{min(digits, 5)}g}") == float(f"{value:.{min(digits, 5)}g}")


def test_alpha_bar_is_the_product():
    ab, product = alpha_bar(SD), 1.0
    for t, beta in enumerate(SD.tolist(), 1):
        product *= 1 - beta
        assert abs(ab[t] - product) <= 1e-15


def test_zero_terminal_snr_keeps_the_first_and_loses_the_last():
    before, after = alpha_bar(SD).sqrt(), alpha_bar(zero_terminal_snr(SD)).sqrt()
    assert after[-1] == 0 and abs(after[1] - before[1]) <= 1e-15
    # Shift and scale: differences keep their ratios.
    ratio = after[1:].diff() / before[1:].diff()
    assert (ratio - ratio[0]).abs().max() <= 1e-9


def test_snr():
    ab = alpha_bar(SD)
    close(snr(ab[1:]), [a / (1 - a) for a in ab[1:].tolist()])
    close(log_snr(ab[1:]), np.log(snr(ab[1:]).numpy()), 1e-10)
    assert snr(ab)[0] == math.inf
    assert float(f"{snr(ab)[-1]:.6g}") == 0.00468192


def test_at_shapes_for_broadcasting():
    values, x = torch.arange(5.0, dtype=torch.float64), torch.zeros(3, 4, 2, 2)
    assert at(values, 2, x) == 2 and type(at(values, 2, x)) is float  # float64 on every device
    assert at(values, torch.tensor(3), x) == 3
    each = at(values, torch.tensor([1, 0, 4]), x)
    assert each.shape == (3, 1, 1, 1) and each.dtype == torch.float32
    assert each.flatten().tolist() == [1, 0, 4]


# ---- the official buffers -----------------------------------------------------------------


def test_official_buffers_are_what_the_official_lines_compute():
    """The thirteen, written out in numpy from the definitions the official names abbreviate."""
    b = SD.numpy()
    a = 1 - b
    cum = np.cumprod(a)
    prev = np.append(1.0, cum[:-1])
    var = b * (1 - prev) / (1 - cum)
    with np.errstate(divide="ignore"):
        vlb = b**2 / (2 * var * a * (1 - cum))
    vlb[0] = vlb[1]
    expected = {
        "betas": b,
        "alphas_cumprod": cum,
        "alphas_cumprod_prev": prev,
        "sqrt_alphas_cumprod": np.sqrt(cum),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - cum),
        "log_one_minus_alphas_cumprod": np.log(1 - cum),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / cum),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / cum - 1),
        "posterior_variance": var,
        "posterior_log_variance_clipped": np.log(np.maximum(var, 1e-20)),
        "posterior_mean_coef1": b * np.sqrt(prev) / (1 - cum),
        "posterior_mean_coef2": (1 - prev) * np.sqrt(a) / (1 - cum),
        "lvlb_weights": vlb,
    }
    buffers = official_buffers(SD)
    assert list(buffers) == list(expected)
    for name, value in expected.items():
        close(buffers[name], value, 1e-11)


def test_official_buffers_are_the_measured_ones():
    """Read off the official code while it ran (it stores float32)."""
    buffers = official_buffers(SD)
    measured = {
        "posterior_variance": {0: 0, 1: 4.2635e-4, 2: 5.7161e-4, 999: 0.01199932},
        "posterior_log_variance_clipped": {0: -46.0517019, 1: -7.7602426},
        "posterior_mean_coef1": {0: 1, 1: 0.50137869, 999: 8.27997e-4},
        "posterior_mean_coef2": {0: 0, 1: 0.49862122, 999: 0.99392537},
        "lvlb_weights": {0: 0.50319399, 1: 0.50319399, 2: 0.2523954, 500: 0.00334906},
    }
    for name, values in measured.items():
        for i, value in values.items():
            assert abs(buffers[name][i] - value) <= 1e-6 * max(1, abs(value)), (name, i)


# ---- time grids ---------------------------------------------------------------------------


def official_grid(T, steps, quad=False):
    """make_ddim_timesteps as published, as indices, ascending; may run past the last index."""
    if quad:
        return ((np.linspace(0, np.sqrt(T * 0.8), steps)) ** 2).astype(int) + 1
    return np.asarray(list(range(0, T, T // steps))) + 1


@pytest.mark.parametrize("T", EVERY_T)
@pytest.mark.parametrize("quad", [False, True])
def test_ldm_grids_are_the_official_ones_wherever_those_run(T, quad):
    make, ran = (ldm_quad_times if quad else ldm_uniform_times), 0
    for steps in range(1, T + 1):
        indices = official_grid(T, steps, quad)
        times = make(T, steps)
        assert times[-1] == (1 if T > 1 else 0)
        if indices[-1] < T:  # else the official code stops with an IndexError
            ran += 1
            assert times == sorted(set(indices + 1), reverse=True) + [1]
    assert ran == {1: 0, 1000: 1000 if quad else 401}.get(T, ran)


def test_ldm_uniform_measured():
    times = ldm_uniform_times(1000, 50)
    assert times[:3] + times[-3:] == [982, 962, 942, 22, 2, 1] and len(times) == 51
    assert len(ldm_uniform_times(1000, 60)) - 1 == 63  # asked for 60: the official surprise
    assert ldm_uniform_times(1000, 300)[:2] == [1000, 998]  # officially 1001: an IndexError
    crash = [s for s in range(1, 1001) if official_grid(1000, s)[-1] > 999]
    assert len(crash) == 599 and crash[:5] == [3, 9, 27, 36, 37]
    assert ldm_quad_times(1000, 10) == [802, 634, 485, 357, 248, 160, 90, 41, 11, 2, 1]
    ab = alpha_bar(SD)
    assert [round(float(ab[t]), 8) for t in (2, 22, 502, 982)] == [
        0.99829603,
        0.98038075,
        0.27499907,
        0.0057755,
    ]


@pytest.mark.parametrize("T", EVERY_T)
def test_every_grid_decreases_within_T_for_every_number_of_steps(T):
    for steps in range(1, T + 1):
        for make in (ldm_uniform_times, ldm_quad_times):
            times = make(T, steps)
            assert check_times(times, T) == times
        for make in (leading_times, trailing_times, linspace_times):
            times = make(T, steps)
            assert check_times(times, T) == times
            assert len(times) == steps + 1 and times[-1] == 0
        assert trailing_times(T, steps)[0] == linspace_times(T, steps)[0] == T
    assert trailing_times(T, T) == linspace_times(T, T) == leading_times(T, T) == all_times(T)
    assert all_times(T) == [*range(T, 0, -1), 0]


def test_grids_are_table_2s():
    """Zero-SNR Table 2: T = 1000, 5 steps of each kind."""
    assert leading_times(1000, 5) == [801, 601, 401, 201, 1, 0]
    # 501: diffusers rounds indices (499.5 -> 500); rounding times (500.5) would give 500.
    assert linspace_times(1000, 5) == [1000, 750, 501, 251, 1, 0]
    assert trailing_times(1000, 5) == [1000, 800, 600, 400, 200, 0]


def test_leading_offset_and_end_are_sds():
    assert leading_times(1000, 50, offset=1, end=1) == ldm_uniform_times(1000, 50)
    assert leading_times(1000, 3, offset=5) == [672, 339, 6, 0]


# ---- mistakes -----------------------------------------------------------------------------

GRIDS = [ldm_uniform_times, ldm_quad_times, leading_times, trailing_times, linspace_times]


@pytest.mark.parametrize("make", GRIDS)
@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, True, "50", None])
def test_wrong_numbers_of_steps(make, steps):
    with pytest.raises(ValueError, match="steps must be"):
        make(1000, steps)


@pytest.mark.parametrize("make", [*GRIDS, lambda T, steps: all_times(T)])
@pytest.mark.parametrize("T", [0, -5, 10.0])
def test_wrong_T(make, T):
    with pytest.raises(ValueError, match="T must be"):
        make(T, 1)


@pytest.mark.parametrize("make", [scaled_linear_betas, linear_betas, sqrt_betas, cosine_betas])
def test_wrong_T_for_betas(make):
    with pytest.raises(ValueError, match="T must be"):
        make(0)


def test_leading_that_does_not_fit():
    for offset, end in [(1, 1), (-1, 0), (0, 1), (0, -1)]:
        with pytest.raises(ValueError, match="do not fit"):
            leading_times(1000, 1000, offset, end)
    assert leading_times(10, 5, offset=1, end=1) == [10, 8, 6, 4, 2, 1]


@pytest.mark.parametrize("bad", [[0.1, 0.0], [0.1, 1.1], [-0.1], [math.nan], []])
def test_wrong_betas(bad):
    for function in (alpha_bar, official_buffers, zero_terminal_snr):
        with pytest.raises(ValueError, match="betas must be"):
            function(torch.tensor(bad))
    with pytest.raises(ValueError, match="betas must be"):
        alpha_bar(torch.full((2, 2), 0.1))


def test_too_few_betas():
    with pytest.raises(ValueError, match="at least 2 betas"):
        zero_terminal_snr(torch.tensor([0.1]))
    for betas in (torch.tensor([0.1]), torch.tensor([0.1, 1.0])):
        with pytest.raises(ValueError, match="at least 2 betas"):
            official_buffers(betas)
    assert alpha_bar(torch.tensor([1.0])).tolist() == [1, 0]
    two = torch.tensor([0.19, 0.2])  # two are enough: √ᾱ = 0.9 stays, the other goes to 0
    close(alpha_bar(zero_terminal_snr(two)), [1, 0.81, 0], 1e-7)
    assert all(len(buffer) == 2 for buffer in official_buffers(two).values())
    assert all(buffer.dtype == torch.float64 for buffer in official_buffers(two).values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear_betas(5, math.nan), r"in \(0, 1\], but the line goes from nan"),
        (lambda: linear_betas(5, 1e-4, math.inf), r"in \(0, 1\], but the line .* to inf"),
        (lambda: sqrt_betas(5, 0.0), r"in \(0, 1\], but the line goes from 0.0"),
        (lambda: linear_betas(5, 1.5, 0.5), r"in \(0, 1\], but the line goes from 1.5 to 0.5"),
        (lambda: linear_betas(5, 0.5, 1.5), r"in \(0, 1\], but the line goes from 0.5 to 1.5"),
        (lambda: sqrt_betas(5, 0.1, 0.0), r"in \(0, 1\], but the line goes from 0.1 to 0.0"),
        (lambda: scaled_linear_betas(5, -1.0), "but the line goes from -1.0"),
        (lambda: cosine_betas(10, -1), "betas must be"),
        (lambda: cosine_betas(10, math.nan), "betas must be"),
        (lambda: cosine_betas(10, max_beta=0.0), "betas must be"),
        (lambda: zero_terminal_snr(torch.ones(5)), "all but the last below 1"),
        (lambda: zero_terminal_snr(torch.tensor([0.5, 1.0, 1.0])), "all but the last below 1"),
    ],
)
def test_no_schedule_holds_nan(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_widest_lines_of_betas():
    for make in (scaled_linear_betas, linear_betas, sqrt_betas):
        close(make(3, 1.0, 1.0), [1, 1, 1])
    two = torch.tensor([0.19, 1.0], dtype=torch.float64)
    close(alpha_bar(zero_terminal_snr(two)), [1, 0.81, 0])


TIMES = [(-1, 0), (4, 0), (1.5, 0), (True, 0), (0, 1), (-3, 1), (torch.tensor([1, 0]), 1)]
TIMES += [(torch.tensor([1, 4]), 1), (torch.tensor([1.0]), 0), (torch.tensor([True]), 0)]


@pytest.mark.parametrize(("t", "first"), TIMES)
def test_wrong_single_times(t, first):
    with pytest.raises(ValueError, match=rf"t must be a whole number from {first} to 3, got"):
        check_t(t, 3, first)
    if first == 0:
        with pytest.raises(ValueError, match="t must be a whole number from 0 to 3, got"):
            at(torch.arange(4.0), t, torch.zeros(1))


def test_single_times_that_are_taken():
    for t in (1, 3, np.int64(2), torch.tensor(3), torch.tensor([1, 3], dtype=torch.int32)):
        check_t(t, 3)
    check_t(0, 3, first=0)
    check_t(10**9)
    with pytest.raises(ValueError, match="t must be a whole number from 1 to T, got 0"):
        check_t(0)
    check_t(torch.tensor([0, 99], device="meta"), 3)  # on a device: not waited for


def test_numpys_whole_numbers_are_taken():
    assert trailing_times(np.int64(1000), np.int32(4)) == [1000, 750, 500, 250, 0]
    assert check_count("steps", np.int64(4)) == 4


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.0, None, "0", torch.tensor(0.5)])
def test_wrong_numbers(value):
    with pytest.raises(ValueError, match=r"share must be a number in \[0, 1\), got"):
        check_number("share", value, below=1)
    assert check_number("share", 0) == 0 and check_number("share", np.float32(0.5)) == 0.5


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([5, 5, 1], "each smaller"),
        ([1, 5], "each smaller"),
        ([5], "at least two"),
        ([], "at least two"),
        ([11, 1], "at most T=10"),
        ([5, -1], "at least 0"),
        ([5, 3, -1], "at least 0"),
        ([5, 0.5], "0 or from 1 to T=10"),
        ([5, math.nan], "list of numbers"),
        ([math.inf, 1], "list of numbers"),
        (None, "list of numbers"),
        ("ab", "list of numbers"),
        (list(range(8)), r"\[0, 1, 2, 3, 4, 5, 6, 7\]"),
        (list(range(9)), r"\[0, 1, 2, 3, 4, 5, ..., 8\]"),
    ],
)
def test_check_times_says_what_is_wrong(times, message):
    with pytest.raises(ValueError, match=message):
        check_times(times, 10)


def test_check_times_takes_any_whole_numbers():
    for times in ([10, 0], (10, 0), np.array([10, 0]), torch.tensor([10, 0]), range(10, -1, -10)):
        assert check_times(times, 10) == [10, 0]


def test_check_times_takes_real_numbers():
    for times in ([9.5, 3.0, 0], np.array([9.5, 3, 0]), torch.tensor([9.5, 3, 0])):
        checked = check_times(times, 10)
        assert checked == [9.5, 3, 0] and [type(t) for t in checked] == [float, int, int]


def test_nothing_is_changed_in_place():
    betas = SD.clone()
    for function in (alpha_bar, zero_terminal_snr, official_buffers):
        function(betas)
        assert torch.equal(betas, SD)
    assert schedules.alpha_bar(SD.float()).dtype == torch.float64
