"""That a test which asks two evaluations of a network for equal bits fails, on every machine."""

import pytest
import torch
from torch import nn

torch.manual_seed(0)
X = torch.randn(2, 6, 8, 8)
NETWORKS = {
    "matrix product": nn.Linear(8, 5),
    "convolution": nn.Conv2d(6, 4, 3),
    "attention": lambda x: nn.functional.scaled_dot_product_attention(x, x, x),
    "einsum": lambda x: torch.einsum("bchw, bkhw -> bck", x, x),
    "operator": lambda x: x @ x,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NETWORKS)
def test_twice_the_same_is_the_same_to_rounding_alone(name, dtype):
    network = NETWORKS[name].to(dtype) if isinstance(NETWORKS[name], nn.Module) else NETWORKS[name]
    once, again = network(X.to(dtype)).double(), network(X.to(dtype)).double()
    assert not torch.equal(once, again)
    assert ((once - again).abs() <= 5 * torch.finfo(dtype).eps * once.abs()).all()


@pytest.mark.equal_bits("so that a marked test can ask for them")
def test_a_marked_test_has_the_products_as_they_are():
    assert torch.equal(NETWORKS["operator"](X), NETWORKS["operator"](X))


def test_what_is_no_product_keeps_its_bits():
    assert torch.equal(X.exp().sum(1) * 3 + X.mean(), X.exp().sum(1) * 3 + X.mean())
    assert torch.equal(torch.arange(5) @ torch.arange(5), torch.tensor(30))
