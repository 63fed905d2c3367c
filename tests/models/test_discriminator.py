"""The patch discriminator: taming's names and sizes, what a logit sees, ActNorm's beginning."""

import pytest
import torch
from network_pairs import draw

from minisd.models.discriminator import ActNorm, NLayerDiscriminator

CONVOLUTIONS = {0: (3, 64), 2: (64, 128), 5: (128, 256), 8: (256, 512), 11: (512, 1)}  # main.N


@pytest.mark.parametrize("actnorm", [False, True])
def test_names_and_shapes_are_tamings(actnorm):
    expected = {}
    for at, (a, b) in CONVOLUTIONS.items():
        expected[f"main.{at}.weight"] = (b, a, 4, 4)
        if actnorm or at in (0, 11):
            expected[f"main.{at}.bias"] = (b,)
    for at, width in {3: 128, 6: 256, 9: 512}.items():
        if actnorm:
            parts = {"loc": (1, width, 1, 1), "scale": (1, width, 1, 1), "initialized": ()}
        else:
            parts = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (width,))
            parts["num_batches_tracked"] = ()
        expected |= {f"main.{at}.{name}": shape for name, shape in parts.items()}
    found = NLayerDiscriminator(actnorm=actnorm).state_dict()
    assert {key: tuple(value.shape) for key, value in found.items()} == expected


@pytest.mark.parametrize(("layers", "sees"), [(3, 70), (2, 34)])
def test_a_logit_sees_a_patch(layers, sees):
    """70 x 70 in pix2pix' paper; by the chain k + s (r - 1) of kernels 4 from the last layer on."""
    network = NLayerDiscriminator(2, layers).eval()
    x = torch.zeros(1, 3, 160, 160).requires_grad_()
    out = network(x)
    middle = out.shape[-1] // 2
    (grad,) = torch.autograd.grad(out[0, 0, middle, middle], x)
    seen = grad.abs().sum((0, 1)).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [sees, sees]


def test_actnorm_begins_with_its_first_batch():
    norm, x = ActNorm(3), 3 * draw(4, 3, 5, 5, seed=1) + 2
    assert torch.equal(norm.eval()(x), x)  # nothing is known yet
    y = norm.train()(x)
    assert y.mean((0, 2, 3)).abs().max() < 1e-5 and (y.std((0, 2, 3)) - 1).abs().max() < 1e-5
    more = norm(2 * x)  # the second batch changes nothing
    assert (
        more - (2 * x - x.mean((0, 2, 3), True)) / x.std((0, 2, 3), keepdim=True)
    ).abs().max() < 1e-4
