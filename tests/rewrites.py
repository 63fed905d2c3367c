"""Each exercise's solution once more, in another style: numpy for torch, einops for views, in place
for new tensors, one formula for a loop, autograd for a derivative. A function is called as its
exercise; none of minisd is used. tests/teaching/test_check.py sees that each is as right as the
solution.
"""

import math

import numpy as np
import torch
from einops import rearrange, reduce

A = np.asarray


def _eps_of(x_t, x0, ab_t):
    return (x_t - np.sqrt(ab_t) * x0) / np.sqrt(1 - ab_t)


def _x0_of(x_t, eps, ab_t):
    return (x_t - np.sqrt(1 - ab_t) * eps) / np.sqrt(ab_t)


def _mix(x0, eps, ab):
    return np.sqrt(ab) * x0 + np.sqrt(1 - ab) * eps


def _posterior_mean(x0, x_t, ab_t, ab_s):
    coef1 = np.sqrt(ab_s) * (1 - ab_t / ab_s) / (1 - ab_t)
    return coef1 * x0 + np.sqrt(ab_t / ab_s) * (1 - ab_s) / (1 - ab_t) * x_t


# ---- 00 and 01 ----------------------------------------------------------------------------


def official_index(t):
    return np.subtract(t, 1)


def official_timesteps(times):
    return np.array(times[:-1])[::-1] - 1


def betas_back(alphas_cumprod):
    before = np.concatenate([[1.0], alphas_cumprod[:-1]])
    return (before - A(alphas_cumprod)) / before


def fits_without(prompt, negative, captions):
    def has(caption, word):
        return f" {word} " in f" {caption.lower()} " or word in ("a", "an")

    found = []
    for caption in captions:
        wanted = all(has(caption, word) for word in prompt.lower().split())
        unwanted = [w for w in negative.lower().split() if w not in ("a", "an")]
        found.append(wanted and not any(has(caption, word) for word in unwanted))
    return np.array(found)


def variance_after(v_0, betas):
    keep = np.prod(1 - A(betas))
    return keep * v_0 + 1 - keep


def cosine_betas(T, s, max_beta):
    f = np.cos((np.arange(T + 1) / T + s) / (1 + s) * np.pi / 2) ** 2
    return np.minimum(1 - f[1:] / f[:-1], max_beta)


def one_eps(eps_steps, betas):
    b = A(betas)
    after = np.append(np.cumprod((1 - b)[:0:-1])[::-1], 1.0)  # of the steps after each
    mixed = np.einsum("i,i...->...", np.sqrt(b * after), A(eps_steps))
    return mixed / np.sqrt(1 - np.prod(1 - b))


def jump_between(x_s, eps, ab_t, ab_s):
    keep = ab_t / ab_s
    return x_s.mul_(keep.sqrt()).add_(eps.mul_((1 - keep).sqrt()))


def first_time_below(ab, level):
    return np.argmax(A(ab) < level * (1 - A(ab)))


# ---- 02 -----------------------------------------------------------------------------------


def fuse_gaussians(m_1, v_1, m_2, v_2):
    total = v_1 + v_2
    return [(m_1 * v_2 + m_2 * v_1) / total, v_1 * v_2 / total]


def both_variances(ab):
    large = -np.diff(ab) / A(ab)[:-1]
    return np.stack([(1 - A(ab)[:-1]) / (1 - A(ab)[1:]) * large, large])


def x0_from_posterior_mean(mean, x_t, ab_t, ab_s):
    old = x_t.mul_((ab_t / ab_s).sqrt() * (1 - ab_s))
    return mean.mul_(1 - ab_t).sub_(old).div_(ab_s.sqrt() * (1 - ab_t / ab_s))


def posterior_eps_coef(ab_t, ab_s):
    t, s = A(ab_t), A(ab_s)
    return np.sqrt(t / s / (1 - t)) * (1 - s)


def posterior_covariance(ab_t, ab_u, ab_s):
    def given_x0(later, earlier):
        return np.sqrt(later / earlier) * (1 - earlier)

    t, u, s = A(ab_t), A(ab_u), A(ab_s)  # the covariances given x_0, conditioned on x_t
    return given_x0(u, s) - given_x0(t, u) * given_x0(t, s) / (1 - t)


def mean_unknown_x0(x_t, ab_t, ab_s):
    t, s = A(ab_t), A(ab_s)
    return _posterior_mean(np.tanh(np.sqrt(t) * A(x_t) / (1 - t)), A(x_t), t, s)


# ---- 03 and 04 ----------------------------------------------------------------------------


def kl_gaussians(mean_q, var_q, mean_p, var_p):
    distance = reduce((mean_q - mean_p) ** 2, "b ... -> b", "sum")
    r, n = var_q / var_p, mean_q[0].numel()
    return 0.5 * (distance / var_p + n * (r - 1 - np.log(r)))


def x0_error(eps_error, ab_t):
    return A(eps_error) * (1 / A(ab_t) - 1)


def mean_from_eps(x_t, eps, ab_t, ab_s):
    alpha = ab_t / ab_s
    return x_t.sub_(eps.mul_((1 - alpha) / (1 - ab_t).sqrt())).div_(alpha.sqrt())


def weight_from_snr(snr_t, snr_s):
    return (A(snr_s) - A(snr_t)) / (2 * A(snr_t))


def x0_loss_weight(ab_t, ab_s):
    t, s = A(ab_t), A(ab_s)
    return (s - t) / (2 * (1 - t) * (1 - s))


def optimal_loss(ab_t, sigma_data):
    signal = A(ab_t) * sigma_data**2
    return signal / (signal + 1 - A(ab_t))


def tweedie(x_t, score, ab_t):
    return _x0_of(A(x_t), -np.sqrt(1 - A(ab_t)) * A(score), A(ab_t))


def ddpm_step(x_t, eps, z, ab_t, ab_s):
    alpha = ab_t / ab_s
    x_t.sub_(eps.mul_((1 - alpha) / (1 - ab_t).sqrt())).div_(alpha.sqrt())
    return x_t.add_(z.mul_((1 - alpha).sqrt() * (ab_s < 1)))


def kept_by_log(steps, log_every_t):
    i = np.arange(steps)
    return np.flatnonzero((i == 0) | ((steps - 1 - i) % log_every_t == 0))


def sampled_variance(v_t, ab_t, ab_s, sigma_data, temperature):
    t, s = A(ab_t), A(ab_s)
    of_x0 = np.sqrt(t) * sigma_data**2 / (t * sigma_data**2 + 1 - t)  # E[x0 | x_t] = of_x0 x_t
    a = _posterior_mean(of_x0, 1.0, t, s)
    return a**2 * v_t + temperature**2 * (1 - s) / (1 - t) * (1 - t / s)


def noise_in_grey_levels(times, ab):
    t, s = A(ab)[times[-2:]]
    return 127.5 * np.sqrt(1 - t / s)


def clipped_mean(x_t, eps, ab_t, ab_s):
    x0 = np.clip(_x0_of(A(x_t), A(eps), A(ab_t)), -1, 1)
    return _posterior_mean(x0, A(x_t), A(ab_t), A(ab_s))


# ---- 05 -----------------------------------------------------------------------------------


def pred_x0(x_t, eps, ab_t):
    return x_t.sub_(eps.mul_((1 - ab_t) ** 0.5)).div_(ab_t**0.5)


def dir_xt(x_t, x0, ab_t, ab_s, sigma_t):
    eps = _eps_of(A(x_t), A(x0), A(ab_t))
    return np.sqrt(1 - A(ab_s) - A(sigma_t) ** 2) * eps


def ddim_by_q_sample(x_t, eps, ab_t, ab_s, sigma_t, noise):
    s, sigma = A(ab_s), A(sigma_t)
    x0 = _x0_of(A(x_t), A(eps), A(ab_t))
    return np.sqrt(s) * x0 + np.sqrt(1 - s - sigma**2) * A(eps) + sigma * A(noise)


def sigma(beta_t, ab_t, eta):
    beta, t = A(beta_t), A(ab_t)
    return eta * np.sqrt((1 - beta - t) / (1 - beta) / (1 - t) * beta)


def largest_eta(ab_t, ab_s):
    t, s = A(ab_t), A(ab_s)
    return np.sqrt((1 - t) * s / (s - t))


def ddim_in_sigma(x_t, eps, sigma_t, sigma_s):
    before, after = np.hypot(1, A(sigma_t)), np.hypot(1, A(sigma_s))
    return (A(x_t) * before + (A(sigma_s) - A(sigma_t)) * A(eps)) / after


def ldm_grid(T, steps):
    times = np.minimum(np.arange(1, T + 1, T // steps) + 1, T)
    return np.unique(np.append(times, 1))[::-1]


def trailing_grid(T, steps):
    return np.rint(np.arange(steps, -1, -1) * T / steps)


# ---- 06 -----------------------------------------------------------------------------------


def _integrals(nodes):
    """The integrals from 0 to 1 of the Lagrange polynomials of some nodes."""
    found = []
    for j, u in enumerate(nodes):
        others = np.delete(A(nodes, dtype=float), j)
        whole = np.poly1d(np.poly(others) / np.prod(u - others)).integ()
        found.append(whole(1) - whole(0))
    return np.array(found)


def _move(x, eps, ab_t, ab_s):
    return (ab_s / ab_t) ** 0.5 * (x - (1 - ab_t) ** 0.5 * eps) + (1 - ab_s) ** 0.5 * eps


def _averaged(newest_first):
    """Adams-Bashforth of the order that there are values for."""
    weights = torch.as_tensor(_integrals([-k for k in range(len(newest_first))]))
    return torch.einsum("i,i...->...", weights, torch.stack(list(newest_first)))


def ode_slope(x, eps, ab_t, ab_slope):
    return x.sub_(eps.div_((1 - ab_t) ** 0.5)).mul_(ab_slope / (2 * ab_t))


def constant_path(x_t, eps, ab_path):
    x0 = _x0_of(A(x_t), A(eps), A(ab_path)[0])
    return _mix(x0, A(eps), A(ab_path)[1:].reshape(-1, *[1] * x_t.ndim))


def ab_weights(order):
    return _integrals([-k for k in range(order)])


def uneven_ab2(e_t, e_before, h_before, h):
    share = h / (2 * h_before)
    return e_t.mul_(1 + share).sub_(e_before.mul_(share))


def improved_euler_step(eps_model, x, t, s, ab):
    first = eps_model(x, t)
    both = torch.stack([first, eps_model(_move(x, first, ab[t], ab[s]), s)])
    return _move(x, reduce(both, "two ... -> ...", "mean"), ab[t], ab[s])


def plms_history(times, i):
    return [times[k] for k in range(i, max(i - 4, -1), -1)] if i else times[:2]


def plms_sampler(eps_model, x, times, ab):
    return plms_resume(eps_model, x, times, 0, [], ab)


def runge_kutta_step(eps_model, x, t, mid, s, ab):
    slopes = [eps_model(x, t)]
    for time in (mid, mid, s):
        slopes.append(eps_model(_move(x, slopes[-1], ab[t], ab[time]), time))
    weights = torch.tensor([1.0, 2.0, 2.0, 1.0], dtype=torch.float64) / 6
    return _move(x, torch.einsum("i,i...->...", weights, torch.stack(slopes)), ab[t], ab[s])


def model_calls(sampler, steps):
    return np.add(steps, {"ddim": 0, "pndm": 3 * min(steps, 3)}.get(sampler, 1))


def measured_order(steps_a, error_a, steps_b, error_b):
    return -np.polyfit(np.log([steps_a, steps_b]), np.log([error_a, error_b]), 1)[0]


def transfer_defect(eps, sigma_bar):
    return np.diff(sigma_bar) @ (A(eps) - A(eps).mean())


def lms2_eps(e_t, e_before, ab_t, ab_before, ab_s):
    before, now, end = (np.sqrt(1 / A(ab) - 1) for ab in (ab_before, ab_t, ab_s))
    share = (end - now) / (now - before) / 2
    return (1 + share) * A(e_t) - share * A(e_before)


# ---- 07 -----------------------------------------------------------------------------------


def x0_from_v(x_t, v, ab_t):
    return x_t.mul_(ab_t**0.5).sub_(v.mul_((1 - ab_t) ** 0.5))


def eps_from_v(x_t, v, ab_t):
    return np.sqrt(1 - A(ab_t)) * A(x_t) + np.sqrt(A(ab_t)) * A(v)


def v_from_x0(x_t, x0, ab_t):
    eps = _eps_of(A(x_t), A(x0), A(ab_t))
    return np.sqrt(A(ab_t)) * eps - np.sqrt(1 - A(ab_t)) * A(x0)


def ddim_rotation(x_t, v, ab_t, ab_s):
    t = A(ab_t)
    x0 = np.sqrt(t) * A(x_t) - np.sqrt(1 - t) * A(v)
    return _mix(x0, np.sqrt(1 - t) * A(x_t) + np.sqrt(t) * A(v), A(ab_s))


def v_loss_weight(w_eps, ab_t):
    return np.multiply(A(w_eps), A(ab_t))


def change_guidance(eps_u, guided, s, w):
    return guided.sub_(eps_u).mul_((1 + w) / s).add_(eps_u)


def rescale_phi(std_c, std_g, target):
    return np.divide(target - std_g, std_c - std_g)


def plms_from_v(xs, vs, abs_):
    return _averaged(
        [(1 - ab) ** 0.5 * x + ab**0.5 * v for x, v, ab in zip(xs, vs, abs_, strict=True)]
    )


def zero_snr_alpha_bar(ab):
    root = np.sqrt(A(ab))
    out = ((root - root[-1]) * (root[1] / (root[1] - root[-1]))) ** 2
    out[0] = 1
    return out


def brightness_left(ab_T, d):
    return 1 / np.sqrt(1 + ab_T * (d - 1))


# ---- 08 -----------------------------------------------------------------------------------


def ddpm_time_embedding(index, dim):
    angle = np.outer(index, np.logspace(0, -4, dim // 2))
    return np.hstack([np.sin(angle), np.cos(angle)])


def turn_time_embedding(embedding, delta):
    half = embedding.shape[1] // 2
    hands = A(embedding)[:, :half] + 1j * A(embedding)[:, half:]
    hands = hands * np.exp(1j * delta * 10_000.0 ** (-np.arange(half) / half))
    return np.hstack([hands.real, hands.imag])


def group_norm(x, groups, eps):
    g = rearrange(x, "b (g c) h w -> b g (c h w)", g=groups)
    g = g - reduce(g, "b g n -> b g 1", "mean")
    g = g / (reduce(g**2, "b g n -> b g 1", "mean") + eps).sqrt()
    return rearrange(g, "b g (c h w) -> b (g c) h w", h=x.shape[2], w=x.shape[3])


def resblock_parameters(channels, emb, out):
    n = np.array([2 * channels, 9 * channels * out, emb * out, 9 * out * out, 5 * out])
    return n.sum() + (channels != out) * out * (channels + 1)


def surviving_time(shift, groups):
    g = rearrange(shift, "b (g c) -> b g c", g=groups)
    return rearrange(g - reduce(g, "b g c -> b g 1", "mean"), "b g c -> b (g c)")


def shifted_downsample(x, weight):
    padded = np.pad(x, [(0, 0), (0, 0), (0, 1), (0, 1)])
    seen = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    return np.einsum("bchwij,ocij->bohw", seen, A(weight))


def _ladder(channel_mult, res_blocks):
    """Multiples of model_channels: out of each output block, from below, from the skip."""
    rungs = np.repeat(channel_mult, res_blocks + 1)
    outputs = rungs[::-1]
    below = np.append(channel_mult[-1], outputs[:-1])
    return outputs, below, np.append(1, rungs[:-1])[::-1]


def unet_output_inputs(model_channels, channel_mult, res_blocks):
    _, below, skips = _ladder(channel_mult, res_blocks)
    return model_channels * (below + skips)


def heads_by_level(model_channels, channel_mult, attention_factors, heads, head_channels):
    channels = model_channels * np.array(
        [m for i, m in enumerate(channel_mult) if 2**i in attention_factors]
    )
    number = np.full_like(channels, heads) if heads else channels // head_channels
    return np.stack([channels, number, channels // number], axis=1)


def fresh_unet_sample(x_T, ab_T):
    return x_T.div_(ab_T**0.5)


# ---- 09 -----------------------------------------------------------------------------------


def _attend(q, k, v, allowed=True):
    scores = np.einsum("...id,...jd->...ij", A(q), A(k)) / np.sqrt(q.shape[-1])
    scores = np.where(allowed, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ A(v)


def attention_loops(q, k, v):
    return _attend(q, k, v)


def repaired_query(w_q, d, d_used):
    return w_q.mul_((d_used / d) ** 0.5)


def masked_attention(q, k, v, allowed):
    return _attend(q, k, v, A(allowed))


def multi_head_attention(q, k, v, heads):
    split = [rearrange(A(a), "b n (h d) -> b h n d", h=heads) for a in (q, k, v)]
    return rearrange(_attend(*split), "b h n d -> b n (h d)")


def map_bytes(pixels, heads, batch, bytes_per_number):
    return np.prod([pixels // 8] * 4 + [heads, batch, bytes_per_number])


def merge_attention(o1, lse1, o2, lse2):
    weights = np.exp(A([A(lse1), A(lse2)]) - np.logaddexp(A(lse1), A(lse2)))
    return np.einsum("ij,ijd->jd", weights, A([A(o1), A(o2)]))


_erf = np.vectorize(math.erf, otypes=[float])


def geglu(x, weight, bias):
    value, gate = np.split(A(x) @ A(weight).T + A(bias), 2, axis=-1)
    return value * gate * (1 + _erf(gate / np.sqrt(2))) / 2


def negative_cfg(model, x, t, cond, negative, scale):
    return torch.lerp(model(x, t, negative), model(x, t, cond), scale)


def w_of_two(w1, w2):
    return w1 + w2 + w1 * w2


def guided_share(p_u, p_c, s):
    p = A(p_u) ** (1 - s) * A(p_c) ** s
    return p / p.sum(0)


# ---- 10 -----------------------------------------------------------------------------------


def latent_shape(h, w, channel_mult, embed_dim):
    f = 1 << (len(channel_mult) - 1)
    return np.array([embed_dim, h // f, w // f, 3 * f * f / embed_dim])


def level_parameters(c_in, c_out, blocks, halve):
    later = 18 * c_out**2 + 6 * c_out
    first = 9 * c_in * c_out + 9 * c_out**2 + 2 * c_in + 4 * c_out
    shortcut = (c_in != c_out) * (c_in + 1) * c_out
    return first + shortcut + (blocks - 1) * later + halve * (9 * c_out + 1) * c_out


def pixel_under_latent(i, halvings, left):
    for _ in range(halvings):
        i = 2 * i + 1 - left
    return i


def sample_posterior(moments, noise):
    mean, logvar = np.split(A(moments), 2, axis=1)
    return mean + np.sqrt(np.exp(np.clip(logvar, -30, 20))) * A(noise)


def kl_monte_carlo(mean, logvar, noise):
    z = A(mean) + np.sqrt(np.exp(A(logvar))) * A(noise)
    return ((z**2 - A(noise) ** 2 - A(logvar)) / 2).sum(1).mean()


def latent_bits_per_pixel(mean, logvar, factor):
    nats = reduce(mean**2 + logvar.exp() - 1 - logvar, "b c h w -> b", "sum") / 2
    return nats / (math.log(2) * mean.shape[2] * mean.shape[3] * factor**2)


def best_posterior_std(slope, weight):
    return 1 / np.sqrt(1 + 2 * A(slope) ** 2 / A(weight))


def best_logvar(rec):
    s = np.log(A(rec).mean())
    return np.array([s, 1 + s])


def hinge_loss(real, fake):
    return (np.maximum(0, 1 - A(real)).mean() - np.minimum(0, -1 - A(fake)).mean()) / 2


def adaptive_weight(nll_grad, g_grad, disc_weight):
    up, down = (np.sqrt(np.sum(A(grad) ** 2)) for grad in (nll_grad, g_grad))
    return min(up / (down + 1e-4), 1e4) * disc_weight


def expected_scale_factor(mean, logvar):
    return 1 / np.sqrt(A(mean).var() + np.exp(A(logvar)).mean())


def effective_alpha_bar(ab, std):
    noise = 1 - ab
    return ab.mul_(std**2).div_(ab + noise)


# ---- 11 -----------------------------------------------------------------------------------


def nearest_code(z, codes):
    apart = rearrange(z, "b d h w -> b h w 1 d") - codes
    return reduce(apart**2, "b h w k d -> b h w k", "sum").argmin(-1)


def st_gradient(z, e, a, y):
    z = z.detach().requires_grad_()
    ((a * (z + (e - z).detach()) - y) ** 2).sum().backward()
    return z.grad


def vq_gradients(z, e, beta):
    z, e = z.detach().requires_grad_(), e.detach().requires_grad_()
    loss = ((z.detach() - e) ** 2).sum() + beta * ((z - e.detach()) ** 2).sum()
    return torch.autograd.grad(loss, (z, e))


def legacy_to_paper(beta, weight):
    return np.array([1 / beta, weight * beta])


def best_codes(z, indices, codes):
    for k in set(indices.tolist()):
        codes[k] = z[indices == k].mean(0)
    return codes


def ema_codes(z, indices, counts, sums, decay):
    n, total = np.zeros(len(counts)), np.zeros(tuple(sums.shape))
    np.add.at(n, A(indices), 1)
    np.add.at(total, A(indices), A(z))
    counts = decay * A(counts) + (1 - decay) * n
    return (decay * A(sums) + (1 - decay) * total) / counts[:, None]


def perplexity(indices, codes):
    p = np.bincount(A(indices).ravel(), minlength=codes) / indices.numel()
    return np.prod(p**-p)


def code_bits(h, w, factor, codes):
    bits = (h // factor) * (w // factor) * (codes - 1).bit_length()
    return np.array([bits, 24 * h * w / bits])


# ---- 12 -----------------------------------------------------------------------------------


def bpe_step(ids, merges):
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    best = min((ranks.get(pair, 999) for pair in zip(ids[:-1], ids[1:], strict=True)), default=999)
    out, left = [], list(ids)[::-1]
    while left:
        out.append(left.pop())
        if best < 999 and left and (out[-1], left[-1]) == merges[best]:
            out[-1] = 512 + best
            left.pop()
    return np.array(out)


def token_row(ids, length, pad):
    row, kept = np.full(length, pad), ids[: length - 2]
    row[0], row[1 : 1 + len(kept)], row[1 + len(kept)] = 49406, kept, 49407
    return row


def whole_words(counts):
    return np.sum(np.cumsum(counts) <= 75)


def prompt_rows(prompts, negatives):
    rows = np.full((len(negatives) + len(prompts), 77), 49407)
    for row, ids in zip(rows, (*negatives, *prompts), strict=True):
        row[0] = 49406
        row[1 : 1 + len(ids)][:75] = ids[:75]
    return rows


def rows_that_differ(a, b):
    return np.maximum.accumulate(A(a) != A(b))


def gelu_gap(x):
    x = A(x)
    return x * (_erf(x / np.sqrt(2)) - np.tanh(0.851 * x)) / 2


def text_context(states, family):
    state = A(states[-1 if family == "sd1" else -2])
    if family == "sdxl":
        return state
    centred = state - state.mean(-1, keepdims=True)
    return centred / np.sqrt(state.var(-1, keepdims=True) + 1e-5)


def end_position(ids):
    return np.argmax(A(ids) == 49407, axis=1)


# ---- 13 -----------------------------------------------------------------------------------


def latent_v_target(z, factor, eps, ab_t):
    cos, sin = (rearrange(r.sqrt(), "b -> b 1 1 1") for r in (ab_t, 1 - ab_t))
    z.mul_(factor)
    return cos * z + sin * eps, eps.mul_(cos).sub_(z.mul_(sin))


def caption_dropout(tokens, empty, u, rate):
    tokens[u < rate] = empty
    return tokens


def contrastive_loss(p, t, scale):
    p, t = (A(x) / np.sqrt((A(x) ** 2).sum(1, keepdims=True)) for x in (p, t))
    odds = np.exp(scale * (p @ t.T))
    own = odds.diagonal()
    return -np.mean([np.log(own / odds.sum(axis)) for axis in (0, 1)])


def joint_weight(ab, c):
    root = np.sqrt(1 + c - (1 - 2 * A(ab)) ** 2)
    return root / root.sum(), root * root.sum() / (root @ root)


def ema_of(weights, decay):
    average = weights[0].clone()
    for k, w in enumerate(weights[1:], 1):
        average.lerp_(w, 1 - min(decay, (1 + k) / (10 + k)))
    return average


def txt2img_loop(encode, model, step, decode, x, times, prompts, negative, g, factor):
    told, untold = encode(prompts), encode([negative for _ in prompts])
    for k in range(len(times) - 1):
        index = torch.tensor([times[k] - 1] * len(prompts))
        with_it, without = model(x, index, told), model(x, index, untold)
        x = step(x, g * with_it + (1 - g) * without, times[k], times[k + 1])
    return decode(x.div_(factor)).numpy()


def unet_rows(sampler, steps, scale, n, strength):
    calls = np.floor(steps * strength) + {"plms": 1, "s_pndm": 1, "pndm": 9}.get(sampler, 0)
    return calls * n * (1 + (scale != 1))


def word_focus(maps, positions, inside):
    words = A(maps)[len(maps) // 2 :][:, positions]
    on = np.einsum("bnhw,hw->b", words, A(inside)) / A(inside).sum()
    return on / (np.einsum("bnhw,hw->b", words, 1 - A(inside)) / (1 - A(inside)).sum())


def img2img_start(steps, strength, ab):
    t = int(np.rint(1000 * math.floor(steps * strength) / steps))
    return np.array([t, np.sqrt(A(ab)[t])])


def latent_mask(mask, factor):
    return reduce(mask, "b c (h i) (w j) -> b c h w", "max", i=factor, j=factor)


def slerp(a, b, u):
    a, b = A(a), A(b)
    theta = np.arccos(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))
    return (np.sin((1 - u) * theta) * a + np.sin(u * theta) * b) / np.sin(theta)


# ---- 14 -----------------------------------------------------------------------------------


def plms_call(S, i):
    times = np.arange(1, 1001, 1000 // S)[::-1]
    return times[i], len(times) - 1 - i, times[min(i + 1, len(times) - 1)]


def step_alphas(index, S, use_original_steps, ab):
    stride = 1 if use_original_steps else 1000 // S
    first = 1 if use_original_steps else 2
    t = first + stride * index
    return A(ab)[[t, t - stride if index else first - 1]]


def grid_crashes(T, S):
    return np.isin(T - 1, np.arange(0, T, T // S))


def scale_when_swapped(s):
    return np.negative(s) + 1


def modify_score(e_t, grad, t, alphas_cumprod, scale):
    share = np.sqrt(1 - A(alphas_cumprod)[A(t)]).reshape(-1, *[1] * (e_t.ndim - 1))
    return A(e_t) - scale * share * A(grad)


def get_model_output(apply_model, x, t, c, uncond, g, modify_score):
    if uncond is None:
        uncond, g = c, 1
    halves = apply_model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([uncond, c]))
    without, with_it = halves.reshape(2, *x.shape)
    e_t = (1 - g) * without + g * with_it
    return e_t if modify_score is None else modify_score(apply_model, e_t, x, t, c)


def quantize_shift(x, e_t, a_t, a_prev, codes):
    x0 = _x0_of(A(x), A(e_t), A(a_t))
    nearest = ((x0[:, None] - A(codes)) ** 2).sum(-1).argmin(1)
    return np.sqrt(A(a_prev)) * (A(codes)[nearest] - x0)


def numbers_drawn(S, b, d, repeat_noise):
    return (math.ceil(1000 / (1000 // S)) + 1) * d * (b if not repeat_noise else 1)


def dropout_temperature(p):
    return np.sqrt(1 - p)


def plms_resume(eps_model, x, times, i, old_eps, ab):
    seen = list(old_eps)  # the newest last
    for k in range(i, len(times) - 1):
        t, s = times[k : k + 2]
        e_t = eps_model(x, t)
        if seen:
            slope = _averaged([e_t, *seen[:-4:-1]])
        else:
            slope = (e_t + eps_model(_move(x, e_t, ab[t], ab[s]), s)) / 2
        x = _move(x, slope, ab[t], ab[s])
        seen.append(e_t)
    return x


def uneven_weights(times, i):
    t, s = times[i], times[i + 1]
    return _integrals([(t - times[k]) / (t - s) for k in range(i, max(i - 4, -1), -1)])


def kept_noise(w, ab_t, ab_s):
    w = A(w)
    stays, brought = np.sqrt(ab_s / ab_t - ab_s), np.sqrt(1 - ab_s)
    parts = (brought - stays) * w
    parts[0] += stays
    return np.linalg.norm(parts)


# ---- 15 -----------------------------------------------------------------------------------


def key_shape(key, config):
    w, deep = config.model_channels, config.model_channels * config.channel_mult[-1]
    match key.split("."):
        case ["time_embed", number, _]:
            return 4 * w, w if number == "0" else 4 * w
        case ["label_emb", *_]:
            return 4 * w, config.vector_dim
        case ["input_blocks", "0", *_]:
            return w, config.in_channels, 3, 3
        case ["input_blocks", "1", *_]:
            return w * config.channel_mult[0], 4 * w
        case ["out", *_]:
            return config.out_channels, w, 3, 3
        case [*_, "norm", "weight"]:
            return [deep]
        case [*_, "proj_in", "weight"]:
            return np.array([deep, deep] + [1, 1] * (not config.linear_projections))
        case [*_, "to_k", "weight"]:
            return deep, config.context_dim
    return 8 * deep, deep


def count_transformers(channel_mult, factors, res_blocks, depth):
    here = np.isin(2 ** np.arange(len(channel_mult)), factors) * (2 * res_blocks + 1)
    return here.sum() + 1, here @ A(depth) + depth[-1]


def attention_tokens(pixels, channel_mult, factors):
    levels = 2 ** np.arange(len(channel_mult))
    return (pixels // (8 * levels[np.isin(levels, factors)])) ** 2


def transformer_parameters(channels, context_dim, depth):
    block = 18 * channels + 17 + 2 * context_dim
    return channels * (2 * channels + 4 + depth * block)


def inpaint_input(x, paint, masked):
    return np.concatenate([x, A(paint)[..., ::8, ::8], masked], axis=1)


def sdxl_vector(pooled, original, crop, target):
    angle = np.outer([*original, *crop, *target], 10_000.0 ** (-np.arange(128) / 128))
    numbers = np.hstack([np.cos(angle), np.sin(angle)]).ravel()
    return np.hstack([A(pooled), np.tile(numbers, (len(pooled), 1))])


def which_family(conv_in, to_k, label):
    names = "sd1 sd1-inpaint sd2 sd2-inpaint sd2-depth unclip-h upscaler sdxl sdxl-refiner ldm"
    key = (to_k[1], conv_in[1], label is not None)
    shapes = {
        "sd1": (768, 4, False),
        "sd1-inpaint": (768, 9, False),
        "sd2": (1024, 4, False),
        "sd2-inpaint": (1024, 9, False),
        "sd2-depth": (1024, 5, False),
        "unclip-h": (1024, 4, True),
        "upscaler": (1024, 7, True),
        "sdxl": (2048, 4, True),
        "sdxl-refiner": (1280, 4, True),
        "ldm": (1280, 4, False),
    }
    return np.flatnonzero([shapes[name] == key for name in names.split()])


# ---- 16 -----------------------------------------------------------------------------------


def copied_bytes(parameters, stored, runs, release):
    held = np.max(parameters) if release else np.sum(parameters)
    return (stored != runs) * held * getattr(torch, runs).itemsize


def add_difference(inpaint, custom, base, share):
    for w, a, b in zip(inpaint, custom, base, strict=True):
        (w if w.ndim == 1 else w[:, : a.shape[1]]).add_(a, alpha=share).sub_(b, alpha=share)
    return inpaint


def official_levels(picture):
    return np.floor(np.clip(127.5 * (A(picture) + 1), 0, 255))


# ---- 17 -----------------------------------------------------------------------------------


def sigma_and_lambda(ab):
    ratio = 1 / A(ab) - 1  # σ²
    return np.stack([np.sqrt(ratio), np.log(ratio) / -2])


def time_of_sigma(sigma, sigmas):
    return np.interp(np.log(sigma), np.log(A(sigmas)), np.arange(1, len(sigmas) + 1))


def denoised_from_eps(eps_model, x, t, ab):
    x_t = ab[t].sqrt() * x
    return _x0_of(A(x_t), A(eps_model(x_t, t)), ab[t].item())


def target_variance(sigma, sigma_data, c_skip, c_out):
    spreads = np.array([(1 - c_skip) * sigma_data, c_skip * sigma]) / c_out
    return spreads @ spreads


def v_numbers(sigma):
    ab = 1 / (1 + A(sigma) ** 2)
    return np.stack([ab, -np.sqrt(1 - ab), np.sqrt(ab), A(sigma)])


def loss_weights(sigma, sigma_data):
    snr = A(sigma) ** -2.0
    return np.stack([snr**0, snr, snr + 1, snr + sigma_data**-2])


def share_between(sigmas, low, high):
    places = np.searchsorted(A(sigmas), [low, high])
    z = (np.log([low, high]) + 1.2) / 1.2
    normal = torch.special.ndtr(torch.tensor(z))
    return np.diff(places) / len(sigmas), np.diff(normal)


def euler_in_sigma(x, denoised, sigma_t, sigma_s):
    return sigma_s / sigma_t * x + (1 - sigma_s / sigma_t) * denoised


def ancestral_pair(sigma_t, sigma_s, eta):
    fresh = np.minimum(1, eta**2 * (1 - (sigma_s / sigma_t) ** 2))
    return sigma_s * np.sqrt([1 - fresh, fresh])


def ancestral_step(x_t, eps, ab_t, ab_s, z):
    noise = np.sqrt((1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s))
    x0 = _x0_of(A(x_t), A(eps), ab_t)
    return np.sqrt(ab_s) * x0 + np.sqrt(1 - ab_s - noise**2) * A(eps) + noise * A(z)


def sgm_grid(T, steps):
    return [*((T - 1) * np.arange(steps, 0, -1) // steps + 1), 0]


def discrete_call(eps_model, x, sigma, sigmas):
    k = min(range(len(sigmas)), key=lambda i: abs(sigmas[i] - sigma))
    ab = 1 / (1 + sigmas[k] ** 2)
    return _x0_of(A(x * ab.sqrt()), A(eps_model(x * ab.sqrt(), k + 1)), ab.item())


def karras_grid(steps, smallest, largest, rho):
    ends = np.power([largest, smallest], 1 / rho)
    return np.append(np.linspace(*ends, steps) ** rho, 0)


def heun_step(denoiser, x, sigma_t, sigma_s):
    slopes = [(x - denoiser(x, sigma_t)) / sigma_t]
    if sigma_s > 0:
        x_s = torch.add(x, slopes[0], alpha=sigma_s - sigma_t)
        slopes.append((x_s - denoiser(x_s, sigma_s)) / sigma_s)
    return A(x) + (sigma_s - sigma_t) * np.mean([A(slope) for slope in slopes], axis=0)


def churned_x(x, sigma, churn, steps, s_noise, z):
    grown = np.minimum(1 + churn / steps, math.sqrt(2)) ** 2 - 1  # σ̂²/σ² - 1
    return A(x) + s_noise * sigma * np.sqrt(grown) * A(z)


# ---- 18 -----------------------------------------------------------------------------------


def _half_log_snr(ab):
    return 0.5 * np.log(A(ab) / (1 - A(ab)))


def _weighted(rate, u):
    """Means over a step of each row of u (powers), by a fine midpoint rule made exact enough."""
    nodes, weights = np.polynomial.legendre.leggauss(30)
    at = (nodes + 1) / 2
    weights = weights * np.exp(rate * at)
    return np.array([(weights * at**k).sum() / weights.sum() for k in u])


def _lagrange_mean(nodes, values, rate):
    """The mean of the polynomial through the values, by Lagrange's form."""
    at, weights = np.polynomial.legendre.leggauss(30)
    at = (at + 1) / 2
    weights = weights * np.exp(rate * at)
    total = 0
    for j, value in enumerate(values):
        basis = np.ones_like(at)
        for i, node in enumerate(nodes):
            if i != j:
                basis = basis * (at - node) / (nodes[j] - node)
        total = total + (weights * basis).sum() / weights.sum() * value
    return total


def lambda_step(ab_t, ab_s):
    both = _half_log_snr([ab_t, ab_s])
    return [*both, np.diff(both)[0]]


def eps_step(x_t, eps, ab_t, ab_s):
    x0 = (x_t - (1 - ab_t) ** 0.5 * eps) / ab_t**0.5
    return ab_s**0.5 * x0 + (1 - ab_s) ** 0.5 * eps


def first_moment(rate):
    return _weighted(rate, [1])[0]


def weights_of_two(r, m_1):
    return np.linalg.solve([[1, 1], [0, -r]], [1, m_1])


def lms_weights(sigmas, sigma_next):
    sigmas = A(sigmas)
    nodes = (sigmas - sigmas[0]) / (sigma_next - sigmas[0])
    return [_lagrange_mean(nodes, row, 0.0) for row in np.eye(len(nodes))]


def two_s_step(eps_model, x, t, mid, s, ab):
    x0 = (x - (1 - ab[t]) ** 0.5 * eps_model(x, t)) / ab[t] ** 0.5
    eps = (x - ab[t] ** 0.5 * x0) / (1 - ab[t]) ** 0.5
    x_mid = ab[mid] ** 0.5 * x0 + (1 - ab[mid]) ** 0.5 * eps
    x0 = (x_mid - (1 - ab[mid]) ** 0.5 * eps_model(x_mid, mid)) / ab[mid] ** 0.5
    return ab[s] ** 0.5 * x0 + ((1 - ab[s]) / (1 - ab[t])) ** 0.5 * (x - ab[t] ** 0.5 * x0)


def dpmpp_2m_step(x_t, x0, x0_before, ab_before, ab_t, ab_s):
    h_before, h = np.diff(_half_log_snr([ab_before, ab_t, ab_s]))
    mean = x0 + h / (2 * h_before) * (x0 - x0_before)
    return _mix(mean, _eps_of(x_t, mean, ab_t), ab_s)


def third_order_mean(f0, f1, f2, r0, r1, h):
    return _lagrange_mean([0, -r0, -r0 - r1], [f0, f1, f2], h)


def parabola_miss(c, h):
    return -c / 2 * _weighted(h, [2])[0]


def unic_x(x_t, x_s, x0_before, x0, x0_new, ab_before, ab_t, ab_s):
    h_before, h = np.diff(_half_log_snr([ab_before, ab_t, ab_s]))
    mean = _lagrange_mean([-h_before / h, 0, 1], [x0_before, x0, x0_new], h)
    return _mix(mean, _eps_of(x_t, mean, ab_t), ab_s)


def order_from_three_runs(x_n, x_2n, x_4n):
    first, second = (np.abs(A(a) - A(b)).max() for a, b in ((x_n, x_2n), (x_2n, x_4n)))
    return np.log(first / second) / np.log(2)


def sde_step(x_t, x0, z, ab_t, ab_s, eta):
    kept = (ab_t * (1 - ab_s) / (ab_s * (1 - ab_t))) ** eta  # e^{-2ηh}
    noise = np.sqrt(kept) * _eps_of(x_t, x0, ab_t) + np.sqrt(1 - kept) * z
    return _mix(x0, noise, ab_s)


def wasserstein_1d(a, b):
    return np.abs(np.sort(A(a)) - np.sort(A(b))).sum() / len(a)


def lambda_multistep(eps_model, x, times, ab, order):
    lams, said = _half_log_snr([float(ab[t]) for t in times]), []
    for i, (t, s) in enumerate(zip(times, times[1:], strict=False)):
        said.append(_x0_of(A(x), A(eps_model(x, t)), A(ab[t])))
        h = lams[i + 1] - lams[i]
        past = range(i, max(i - order, -1), -1)
        mean = _lagrange_mean([(lams[j] - lams[i]) / h for j in past], [said[j] for j in past], h)
        x = _mix(mean, _eps_of(x, mean, ab[t]), ab[s])
    return x


def path_start(x, ab_t, mean, std):
    wide = np.hypot(np.sqrt(ab_t) * std, np.sqrt(1 - ab_t))  # variances add up
    return (1 - np.sqrt(ab_t) * std / wide) * mean + std / wide * A(x)


def one_step_x0(x_t, x_s, ab_t, ab_s):
    # two equations, x = √ᾱ x0 + √(1-ᾱ) ε, solved for x0 and ε
    rows = np.array([[np.sqrt(a), np.sqrt(1 - a)] for a in (ab_t, ab_s)])
    both = np.stack([A(x_t).ravel(), A(x_s).ravel()])
    return np.linalg.solve(rows, both)[0].reshape(A(x_t).shape)


# ---- 19 -----------------------------------------------------------------------------------


def lora_change(down, up, alpha):
    return np.einsum("or,ri->oi", A(up), A(down)) * (alpha / A(up).shape[1])


def lora_forward(x, weight, down, up, alpha, scale):
    return A(x) @ (A(weight) + scale * lora_change(down, up, alpha)).T


def lora_parameters(sizes, rank):
    return rank * int(np.sum(sizes))


def lora_gradients(x, dy, down, up, alpha):
    down, up = (part.clone().requires_grad_() for part in (down, up))
    y = x @ down.T @ up.T * alpha / up.shape[1]
    return torch.autograd.grad((y * dy).sum(), (down, up))


def embed_new(tokens, table, vectors):
    n = len(table)
    return np.stack([A(table)[i] if i < n else A(vectors)[i - n] for i in tokens.tolist()])


def old_rows_back(before, after, first):
    rows = A(after).copy()
    rows[:first] = before[:first]
    return rows


def end_with_words(tokens, end):
    return np.array([row.index(end) for row in tokens.tolist()])


def prior_loss(errors, weight):
    errors = A(errors)
    b = len(errors) // 2
    return errors[:b].mean() + weight * errors[b:].mean()


def zero_conv_gradients(weight, x, g):
    of_weight = torch.einsum("po,pi->oi", g, x)
    return [of_weight, torch.ones(len(g), dtype=g.dtype) @ g, torch.einsum("po,oi->pi", g, weight)]


def control_scales(strength, guess):
    scales = [strength]
    while len(scales) < 13:
        scales.insert(0, scales[0] * 0.825 if guess else strength)
    return scales


# ---- 20 -----------------------------------------------------------------------------------


def two_cluster_score(x, centre, std, ab_t):
    x = x.clone().requires_grad_()
    var = ab_t * std**2 + 1 - ab_t
    away = torch.stack([x - ab_t**0.5 * m for m in (centre, -centre)])
    log_q = torch.logsumexp(-(away**2) / (2 * var), 0)
    return torch.autograd.grad(log_q.sum(), x)[0]


def score_loss(score, x0, eps, ab_t):
    return np.array([(row**2).sum() for row in A(eps) + np.sqrt(1 - ab_t) * A(score)])


def likelihood_weight(beta, ab_t):
    return 0.5 * beta * (1 - ab_t) ** -1.0


def langevin_variance(std, step):
    kept, variance = (1 - step / (2 * std**2)) ** 2, 0.0
    for _ in range(2000):
        variance = kept * variance + step
    return variance


def annealed_steps(sigmas, step):
    return [step * float(s / sigmas[-1]) ** 2 for s in sigmas]


def scaled_linear_alpha_bar(tau, first, last):
    at, weights = np.polynomial.legendre.leggauss(8)
    beta = (np.sqrt(first) + (at + 1) / 2 * tau * (np.sqrt(last) - np.sqrt(first))) ** 2
    return np.exp(-(weights * beta).sum() * tau / 2)


def reverse_step(x, score, z, beta, length):
    kick = beta * length
    return (1 + kick / 2) * A(x) + kick * A(score) + np.sqrt(kick) * A(z)


def family_drift(x, score, beta, eta):
    flow = -beta / 2 * (A(x) + A(score))
    return flow - eta**2 * beta / 2 * A(score)


def hutchinson_mean(jacobian, z):
    return np.mean([row @ A(jacobian) @ row for row in A(z)])


def x0_spread(divergence, ab_t, d):
    of_eps = d + (1 - ab_t) * A(divergence)  # the variance that is left of ε
    return of_eps / (ab_t / (1 - ab_t))


def bits_per_number(log_p, d):
    return (-A(log_p) / d - math.log(2 / 255)) / math.log(2)


def ks_distance(a, b):
    points = np.sort(np.concatenate([a, b]))
    shares = [np.searchsorted(np.sort(s), points, side="right") / len(s) for s in (A(a), A(b))]
    return np.abs(shares[0] - shares[1]).max()


def class_gradient(eps_c, eps_u, ab_t):
    return (A(eps_u) - A(eps_c)) * (1 - ab_t) ** -0.5


def tempered_gaussian(mean_u, std_u, mean_c, std_c, scale):
    # a parabola: the log of the product, through three places
    places = np.array([-1.0, 0.0, 1.0])
    logs = [(-((places - m) ** 2) / (2 * s**2)) for m, s in ((mean_u, std_u), (mean_c, std_c))]
    a, b, _ = np.polyfit(places, (1 - scale) * logs[0] + scale * logs[1], 2)
    return [-b / (2 * a), np.sqrt(-1 / (2 * a))]


def nearest_distance(x, pictures):
    return [min(float(((row - p) ** 2).mean()) ** 0.5 for p in pictures) for row in x]


# ---- 21 -----------------------------------------------------------------------------------


def line_point(x0, eps, t):
    x0, eps = A(x0), A(eps)
    return x0 + t * (eps - x0), -(x0 - eps)


def line_ends(x_t, u, t):
    # two equations, x_t = (1-t) x0 + t ε and u = ε - x0, solved for x0 and ε
    both = np.stack([A(x_t).ravel(), A(u).ravel()])
    ends = np.linalg.solve(np.array([[1 - t, t], [-1.0, 1.0]]), both)
    return [end.reshape(A(x_t).shape) for end in ends]


def mean_velocity(x, t, data):
    x, data = A(x), A(data)
    rows = []
    for point in x:
        lines = (point - (1 - t) * data) / t  # the noise of each line through the point
        p = np.exp(-(lines**2).sum(1) / 2)
        rows.append(p @ (lines - data) / p.sum())
    return np.stack(rows)


def data_at_zero(x, at_0, at_1):
    # the size of the residual of each end's own rule
    residuals = np.linalg.norm(A(at_0) + A(x), axis=1), np.linalg.norm(A(at_1) - A(x), axis=1)
    return np.less(*residuals)


def flow_euler(velocity, x, times):
    for k in range(1, len(times)):
        x = x - (times[k - 1] - times[k]) * velocity(x, times[k - 1])
    return x


def flow_heun(velocity, x, t, s):
    h, first = t - s, velocity(x, t)
    return x - h / 2 * first - h / 2 * velocity(x - h * first, s)


def equal_snr_time(ab):
    sigma = np.sqrt(1 / ab - 1)
    return sigma / (1 + sigma)


def eps_as_u(x_t, eps, ab_t):
    t = equal_snr_time(ab_t)
    z = np.hypot(1 - t, t) * A(x_t)
    return z, (A(eps) - z) / (1 - t)  # ε = z + (1-t) u


def path_straightness(path, times):
    path, times = A(path), A(times)
    whole = (path[-1] - path[0]) / (times[-1] - times[0])
    total = 0.0
    for k in range(len(times) - 1):
        h = times[k + 1] - times[k]
        total += abs(h) * np.mean(np.sum(((path[k + 1] - path[k]) / h - whole) ** 2, axis=-1))
    return total


def reflowed_velocity(x, t, mean, std):
    z = (A(x) - (1 - t) * mean) / (std + t * (1 - std))
    return (1 - std) * z - mean


def logit_density(t, mean, std):
    # the normal density of the logit, times autograd's slope of the logit
    t = t.clone().requires_grad_()
    y = t.log() - (1 - t).log()
    (slope,) = torch.autograd.grad(y.sum(), t)
    z = (y.detach() - mean) / std
    return torch.distributions.Normal(0 * z, 1 + 0 * z).log_prob(z).exp() * slope / std


def shifted_grid(steps, shift):
    line = np.linspace(1, 0, steps + 1)
    return shift / (shift + 1 / np.maximum(line, 1e-300) - 1) * (line > 0)


def joint_attention(q_text, k_text, v_text, q_image, k_image, v_image):
    k, v = np.vstack([k_text, k_image]), np.vstack([v_text, v_image])
    found = []
    for q in (A(q_text), A(q_image)):
        p = np.exp(q @ k.T / np.sqrt(q.shape[1]))
        found.append(p / p.sum(1, keepdims=True) @ v)
    return found
