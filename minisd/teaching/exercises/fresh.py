"""Inputs that nobody has seen, for the exercises whose own cases are chosen by hand.

`check` tries those; they are the same for every seed, so a table of them would pass. The grader
adds these, drawn anew for each run: exercise -> one case from a generator.

Two exercises have few answers, so a table of all of them is right: `ab_weights` is asked for orders
up to 9, where rounding begins to count, and `which_family` for ten families.
"""

import functools
from dataclasses import replace

import torch

from ...models.configs import SD1, SD2
from ...schedules import alpha_bar, scaled_linear_betas, snr
from ...tiny.shapes import world

SD = alpha_bar(scaled_linear_betas())
START, END = 49406, 49407


def _whole(g, low, high):
    """A whole number, low <= n <= high."""
    return int(torch.randint(low, high + 1, (), generator=g))


def _number(g, low, high):
    return low + (high - low) * float(torch.rand((), dtype=torch.float64, generator=g))


def _one_of(g, *choices):
    return choices[_whole(g, 0, len(choices) - 1)]


def _falling(g, n, T=1000):
    """n different times, the largest first."""
    return sorted((torch.randperm(T, generator=g)[:n] + 1).tolist(), reverse=True)


def _strides(g, n):
    """n falling times that lie apart from each other; the last is 0."""
    steps = [_whole(g, 50, 150) for _ in range(n - 1)]
    return [sum(steps[:k]) for k in range(n)][::-1]


def _uniform(g, n):
    return torch.rand(n, dtype=torch.float64, generator=g)


def _schedule(g):
    return alpha_bar(0.01 + 0.2 * _uniform(g, _whole(g, 5, 30)))


def _pair(g):
    """ab_t, ab_s for two times t > s >= 1."""
    t, s = _falling(g, 2)
    return SD[t], SD[s]


@functools.cache
def _captions():
    return world(pixels=2)[1][::7]


def _fits(g):
    captions = list(_captions())
    wanted, unwanted = (_one_of(g, *_one_of(g, *captions).split()) for _ in range(2))
    return wanted, unwanted, captions


def _merges(g):
    pairs = [(1, 2), (2, 2), (3, 1), (2, 3), (512, 3)]
    order = torch.randperm(len(pairs), generator=g).tolist()
    ids = torch.randint(1, 4, (_whole(g, 8, 20),), generator=g).tolist()
    return tuple(ids), tuple(pairs[i] for i in order)


def _padded(g):
    rows, pad = [], _one_of(g, 0, END)
    for _ in range(3):
        words = torch.randint(1, 40000, (_whole(g, 0, 9),), generator=g).tolist()
        rows.append([START, *words, END] + [pad] * (10 - len(words)))
    return (torch.tensor(rows),)


def _grid_place(g):
    S = _whole(g, 3, 200)
    return S, len(range(0, 1000, 1000 // S))


def _alphas(g):
    S, length = _grid_place(g)
    if _whole(g, 0, 1):
        return _whole(g, 1, 999), S, True, SD
    return _whole(g, 0, length // 2), S, False, SD


def _weights(g):
    w = _uniform(g, 3) + 0.1
    ab_t, ab_s = _pair(g)
    return w / w.sum(), float(ab_t), float(ab_s)


def _key(g):
    block = "middle_block.1.transformer_blocks.0."
    names = ["time_embed.0.weight", "time_embed.2.weight", "input_blocks.0.0.weight"]
    names += ["out.2.weight", "middle_block.1.proj_in.weight", block + "attn2.to_k.weight"]
    config = replace(
        _one_of(g, SD1, SD2),
        model_channels=64 * _whole(g, 1, 9),
        context_dim=8 * _whole(g, 3, 99),
        in_channels=_whole(g, 3, 12),
        out_channels=_whole(g, 3, 12),
    )
    return _one_of(g, *names), config


def _ladder(g):
    return 32 * _whole(g, 1, 9), (1, _whole(g, 1, 3), _whole(g, 2, 5)), _whole(g, 1, 4)


FRESH = {
    # 00 and 01
    "official_index": lambda g: (_whole(g, 3, 999),),
    "official_timesteps": lambda g: ([*_falling(g, 6), 0],),
    "betas_back": lambda g: (_schedule(g)[1:],),
    "fits_without": _fits,
    "variance_after": lambda g: (_number(g, 0.1, 3), 0.01 + 0.3 * _uniform(g, 8)),
    "cosine_betas": lambda g: (_whole(g, 20, 200), _number(g, 0, 0.1), _number(g, 0.6, 0.99)),
    "first_time_below": lambda g: (SD, _number(g, 0.05, 30)),
    # 02 to 04
    "both_variances": lambda g: (_schedule(g),),
    "posterior_eps_coef": _pair,
    "posterior_covariance": lambda g: tuple(SD[t] for t in _falling(g, 3)),
    "weight_from_snr": lambda g: tuple(snr(SD)[t] for t in _falling(g, 2)),
    "x0_loss_weight": _pair,
    "optimal_loss": lambda g: (_pair(g)[0], _number(g, 0.1, 2)),
    "kept_by_log": lambda g: (_whole(g, 20, 200), _whole(g, 2, 15)),
    "sampled_variance": lambda g: (
        _number(g, 0.2, 2),
        *_pair(g),
        _number(g, 0.2, 2),
        _number(g, 0.2, 1.5),
    ),
    "noise_in_grey_levels": lambda g: ([*_falling(g, 5), 0], SD),
    # 05 to 07
    "sigma": lambda g: (1 - SD[(t := _whole(g, 2, 1000))] / SD[t - 1], SD[t], _number(g, 0, 1)),
    "largest_eta": _pair,
    "ldm_grid": lambda g: (1000, _whole(g, 2, 400)),
    "trailing_grid": lambda g: (_whole(g, 200, 1000), 2 * _whole(g, 2, 30) + 1),  # no halves
    "ab_weights": lambda g: (_whole(g, 7, 9),),  # past check's 6; from 10 on, solvers lose digits
    "plms_history": lambda g: (_falling(g, 8), _whole(g, 0, 6)),
    "model_calls": lambda g: (_one_of(g, "ddim", "plms", "s_pndm", "pndm"), _whole(g, 1, 999)),
    "measured_order": lambda g: (
        _whole(g, 5, 20),
        _number(g, 0.1, 1),
        _whole(g, 21, 90),
        _number(g, 0.001, 0.1),
    ),
    "rescale_phi": lambda g: (
        (c := _number(g, 0.5, 1.5)),
        c + 1 + _number(g, 0, 2),
        c + _number(g, 0.1, 0.9),
    ),
    "zero_snr_alpha_bar": lambda g: (_schedule(g),),
    "brightness_left": lambda g: (_number(g, 0.001, 0.1), _whole(g, 2, 5000)),
    # 08 and 09
    "ddpm_time_embedding": lambda g: (
        torch.randint(1, 1000, (3,), generator=g),
        2 * _whole(g, 3, 50),
    ),
    "resblock_parameters": lambda g: tuple(32 * _whole(g, 1, 40) for _ in range(3)),
    "unet_output_inputs": _ladder,
    "heads_by_level": lambda g: (
        128 * _whole(g, 1, 4),
        (1, 2, _whole(g, 2, 5)),
        _one_of(g, (1, 4), (2, 4)),
        *_one_of(g, (None, 32), (None, 64), (8, None)),
    ),
    "map_bytes": lambda g: (
        64 * _whole(g, 2, 20),
        _whole(g, 1, 16),
        _whole(g, 1, 9),
        _one_of(g, 2, 4),
    ),
    "w_of_two": lambda g: (_number(g, 0, 8), _number(g, 0, 8)),
    # 10 and 11
    "latent_shape": lambda g: (
        64 * _whole(g, 1, 16),
        64 * _whole(g, 1, 16),
        (1, *[2] * _whole(g, 1, 4)),
        _whole(g, 2, 9),
    ),
    "level_parameters": lambda g: (
        32 * _whole(g, 1, 9),
        32 * _whole(g, 1, 9),
        _whole(g, 1, 4),
        bool(_whole(g, 0, 1)),
    ),
    "pixel_under_latent": lambda g: (_whole(g, 0, 40), _whole(g, 1, 5), _whole(g, 0, 1)),
    "best_posterior_std": lambda g: (_uniform(g, ()) * 2, _uniform(g, ())),
    "effective_alpha_bar": lambda g: (_uniform(g, 4), _number(g, 0.1, 6)),
    "legacy_to_paper": lambda g: (_number(g, 0.1, 3), _number(g, 0.1, 3)),
    "code_bits": lambda g: (
        (f := _one_of(g, 4, 8)) * _whole(g, 4, 64),
        f * _whole(g, 4, 64),
        f,
        _whole(g, 3, 20000),
    ),
    # 12 and 13
    "bpe_step": _merges,
    "end_position": _padded,
    "joint_weight": lambda g: (_uniform(g, 7), _number(g, 0.02, 1)),
    "unet_rows": lambda g: (
        _one_of(g, "ddim", "ddpm", "plms", "s_pndm", "pndm"),
        _whole(g, 20, 99),
        _number(g, 2, 9),
        _whole(g, 1, 9),
        _whole(g, 3, 10) / 10,
    ),
    "img2img_start": lambda g: (2 * _whole(g, 5, 40) + 1, _number(g, 0.2, 0.95), SD),
    # 14 and 15
    "plms_call": lambda g: ((place := _grid_place(g))[0], _whole(g, 0, place[1] - 1)),
    "step_alphas": _alphas,
    "grid_crashes": lambda g: (_whole(g, 500, 4000), _whole(g, 2, 300)),
    "scale_when_swapped": lambda g: (_number(g, -2, 9),),
    "dropout_temperature": lambda g: (_number(g, 0.05, 0.95),),
    "numbers_drawn": lambda g: (
        _whole(g, 2, 300),
        _whole(g, 1, 5),
        _whole(g, 1, 999),
        bool(_whole(g, 0, 1)),
    ),
    "uneven_weights": lambda g: (_strides(g, 8), _whole(g, 0, 6)),
    "kept_noise": _weights,
    "key_shape": _key,
    "count_transformers": lambda g: (
        (1, 2, 4),
        _one_of(g, (1, 2), (2, 4), (1, 2, 4)),
        _whole(g, 1, 4),
        tuple(_whole(g, 1, 9) for _ in range(3)),
    ),
    "attention_tokens": lambda g: (
        64 * _whole(g, 2, 20),
        (1, 2, 4, 4),
        _one_of(g, (1, 2, 4), (2, 4), (4, 8)),
    ),
    "transformer_parameters": lambda g: (
        32 * _whole(g, 1, 40),
        8 * _whole(g, 1, 99),
        _whole(g, 1, 9),
    ),
    "control_scales": lambda g: (_number(g, 0.1, 2), bool(_whole(g, 0, 1))),
}
