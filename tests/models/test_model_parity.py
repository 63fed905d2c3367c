"""Our networks give the numbers of diffusers' and transformers', and the gradients.

Outputs agree within 1e-5 of the largest in float32 and 1e-9 in float64, gradients within 1e-4 and
1e-9. Both sides embed the time in float32, alike to the last bit, so float64 needs no exception.
"""

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from network_pairs import PAIRS, difference, draw, gradient_difference, pair, with_gradients
from torch import nn

from minisd.models.blocks import timestep_embedding


@pytest.mark.parametrize("name", PAIRS)
def test_networks_agree(name):
    made = pair(name)
    for dtype, near, near_gradient in ((torch.float32, 1e-5, 1e-4), (torch.float64, 1e-9, 1e-9)):
        made.ours.to(dtype)
        nn.Module.to(made.theirs, dtype)  # diffusers' own .to warns
        inputs = [a.to(dtype) if a.is_floating_point() else a for a in made.inputs]
        a, ours = with_gradients(made.ours, made.run, inputs)
        b, theirs = with_gradients(made.theirs, made.run_theirs, inputs)
        assert difference(a, b) <= near
        numbers = {key: ours.pop(key) for key in list(ours) if key.isdigit()}
        assert gradient_difference(numbers | made.weights(ours), theirs) <= near_gradient


def test_the_posterior_is_diffusers():
    """Its sample, its divergence and the bounds of its log variance."""
    made = pair("kl f4")
    with torch.no_grad():
        made.ours.quant_conv.weight[4:] *= 60
        made.theirs.quant_conv.weight[4:] *= 60
        q = made.ours.encode(made.inputs[0])
        reference = made.theirs.encode(made.inputs[0]).latent_dist
        noise = draw(*q.mean.shape, seed=5)
    assert q.logvar.max() == 20 and q.logvar.min() == -30
    assert difference(q.sample(noise), reference.mean + reference.std * noise) < 1e-4
    assert difference(q.kl(), reference.kl()) < 1e-5
    scaled = made.ours.to_latent(made.inputs[0], noise)
    assert difference(scaled, 0.08333 * q.sample(noise)) < 1e-4  # std is exp(10) times rounding
    assert difference(made.ours.to_latent(made.inputs[0]), 0.08333 * q.mean) < 1e-5
    z = made.inputs[1]
    assert difference(made.ours.from_latent(z), made.ours.decode(z / 0.08333)) < 1e-5


@pytest.mark.parametrize("dim", [160, 192, 224, 256, 320, 384, 33, 1])
def test_the_time_embedding_to_the_last_bit(dim):
    """At these widths the order of a product and a division shows, up to 3e-5 at the last times.
    An odd width ends in a column of zeros."""
    index = torch.arange(1000)
    theirs = get_timestep_embedding(index, dim, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert torch.equal(timestep_embedding(index, dim), theirs)


def test_the_time_embedding_is_the_official_one():
    """Numbers read off the original code."""
    rows = timestep_embedding(torch.tensor([0, 1, 981]), 320)
    assert torch.equal(rows[0], torch.cat([torch.ones(160), torch.zeros(160)]))
    ends = torch.cat([rows[:, :3], rows[:, 160:163]], dim=1)
    official = [[0.5403, 0.5865, 0.6284, 0.8415, 0.8099, 0.7779]]
    official += [[0.6800, -0.7984, 0.5781, 0.7333, 0.6021, 0.8160]]
    assert (ends[1:] - torch.tensor(official)).abs().max() <= 5.1e-5
