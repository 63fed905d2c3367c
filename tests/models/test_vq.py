"""The codebook: nearest by brute force, gradients by hand, moving means written out."""

import pytest
import torch
from network_pairs import draw

from minisd.models.vq import EMAVectorQuantizer, VectorQuantizer


def filled(quantizer):
    with torch.no_grad():
        quantizer.embedding.weight.copy_(draw(*quantizer.embedding.weight.shape, seed=1))
    return quantizer.double()


Z = draw(2, 3, 4, 5, seed=2).double()


def nearest(z, codes):
    """argmin_j ‖z - e_j‖, one vector at a time."""
    out = torch.empty(z.shape[0], *z.shape[2:], dtype=torch.int64)
    for b, i, j in torch.cartesian_prod(*(torch.arange(n) for n in out.shape)):
        out[b, i, j] = torch.stack([(z[b, :, i, j] - e).norm() for e in codes]).argmin()
    return out


def test_the_nearest_code_is_chosen_and_looked_up():
    quantizer = filled(VectorQuantizer(7, 3))
    z_q, _, indices = quantizer(Z)
    assert torch.equal(indices, nearest(Z, quantizer.embedding.weight))
    assert len(indices.unique()) > 4
    by_hand = torch.stack([quantizer.embedding.weight[k] for k in indices.flatten()])
    by_hand = by_hand.reshape(2, 4, 5, 3).permute(0, 3, 1, 2)
    assert torch.equal(quantizer.lookup(indices), by_hand)
    assert (z_q - by_hand).abs().max() < 1e-15


@pytest.mark.parametrize("legacy", [False, True])
def test_gradients_go_straight_through_and_each_term_to_its_side(legacy):
    """∂z_q/∂z is the identity; z gets the commitment's gradient, the codes the other's."""
    quantizer = filled(VectorQuantizer(7, 3, beta=0.25, legacy=legacy))
    z, weight = Z.clone().requires_grad_(), quantizer.embedding.weight
    z_q, loss, indices = quantizer(z)
    above = draw(*Z.shape, seed=3).double()
    by_z, by_codes = torch.autograd.grad(z_q, [z, weight], above, True, materialize_grads=True)
    assert torch.equal(by_z, above) and not by_codes.any()
    by_z, by_codes = torch.autograd.grad(loss, [z, weight])
    distance = Z - quantizer.lookup(indices).detach()
    embed, commit = (0.25, 1) if legacy else (1, 0.25)
    assert (by_z - commit * 2 * distance / Z.numel()).abs().max() < 1e-15
    expected = torch.zeros(7, 3).double()
    flat = distance.movedim(1, -1).reshape(-1, 3)
    expected.index_add_(0, indices.flatten(), -embed * 2 * flat / Z.numel())
    assert (by_codes - expected).abs().max() < 1e-15
    assert abs(loss.item() - 1.25 * (distance**2).mean().item()) < 1e-15


def test_moving_means_are_the_papers():
    """Three batches, one code and one vector at a time."""
    gamma, eps, codes = 0.9, 1e-2, 5
    quantizer = filled(EMAVectorQuantizer(codes, 3, gamma=gamma, eps=eps))
    quantizer.sums.copy_(quantizer.embedding.weight)
    count, total = [1.0] * codes, [e.clone() for e in quantizer.embedding.weight]
    codebook = quantizer.embedding.weight.clone()
    for step in range(3):
        z = draw(2, 3, 2, 3, seed=step).double()
        vectors = [z[b, :, i, j] for b in range(2) for i in range(2) for j in range(3)]
        chosen = [min(range(codes), key=lambda k: (v - codebook[k]).norm()) for v in vectors]  # noqa: B023
        z_q, loss, indices = quantizer(z)
        assert indices.flatten().tolist() == chosen
        old = torch.stack([codebook[k] for k in chosen])
        assert (z_q.movedim(1, -1).reshape(-1, 3) - old).abs().max() < 1e-15
        assert abs(loss - 0.25 * ((old - torch.stack(vectors)) ** 2).mean()) < 1e-15
        for k in range(codes):
            mine = [v for v, which in zip(vectors, chosen, strict=True) if which == k]
            count[k] = gamma * count[k] + (1 - gamma) * len(mine)
            total[k] = gamma * total[k] + (1 - gamma) * sum(mine, torch.zeros(3).double())
        n = sum(count)
        codebook = torch.stack(
            [t / (n * (c + eps) / (n + codes * eps)) for t, c in zip(total, count, strict=True)]
        )
        assert (quantizer.embedding.weight - codebook).abs().max() < 1e-14


def test_moving_means_let_the_gradient_through():
    quantizer = filled(EMAVectorQuantizer(7, 3))
    z, above = Z.clone().requires_grad_(), draw(*Z.shape, seed=3).double()
    z_q, loss, indices = quantizer.eval()(z)
    assert torch.equal(torch.autograd.grad(z_q, z, above, True)[0], above)
    by_z = 0.25 * 2 * (Z - quantizer.lookup(indices)) / Z.numel()
    assert (torch.autograd.grad(loss, z)[0] - by_z).abs().max() < 1e-15


def test_moving_means_find_the_means_and_evaluation_leaves_them():
    """Vectors round three points; codes end there, whatever began nearest. No gradient is asked."""
    points = torch.tensor([[3.0, 0.0], [0.0, 3.0], [-3.0, -3.0]])
    z = (points.repeat(40, 1) + 0.1 * draw(120, 2)).T.reshape(1, 2, 10, 12)
    quantizer = EMAVectorQuantizer(3, 2, gamma=0.8)
    with torch.no_grad():
        start = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
        quantizer.embedding.weight.copy_(start), quantizer.sums.copy_(start)
    assert [p for p in quantizer.parameters() if p.requires_grad] == []
    for _ in range(60):
        quantizer(z)
    means = z.reshape(2, 40, 3).mean(1).T
    assert (quantizer.embedding.weight - means).abs().max() < 1e-4
    kept = quantizer.embedding.weight.clone()
    quantizer.eval()(z + 1)
    assert torch.equal(quantizer.embedding.weight, kept)
