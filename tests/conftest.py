"""In every test the last bits of products are drawn at random, as if each came from elsewhere.

A matrix product, a convolution and attention add many numbers, and each sum is rounded. Their
order depends on the processor, the threads, the batch and the place of the numbers in memory, so no
test may ask two evaluations of a network for equal bits: docs/PROMISES.md. Where bits are promised,
as for a training that goes on, a test says why with @pytest.mark.equal_bits("...").
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

PRODUCTS = {
    *(F.linear, F.conv1d, F.conv2d, F.scaled_dot_product_attention, F.multi_head_attention_forward),
    *(torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum),
    *(Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.__matmul__, Tensor.__rmatmul__),
}
HINT = """The last bits of products are random in tests (tests/conftest.py). Compare what a network
gives to a tolerance, or say with @pytest.mark.equal_bits("...") why equal bits are promised."""


class LastBits(TorchFunctionMode):
    """Each number of a product is moved to one beside it, up or down."""

    def __init__(self):
        super().__init__()
        self.generator, self.products = torch.Generator().manual_seed(0), 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function not in PRODUCTS or not isinstance(out, Tensor) or not out.is_floating_point():
            return out
        self.products += 1
        up = torch.randint(2, out.shape, generator=self.generator).to(out) * 2 - 1
        return out * (1 + torch.finfo(out.dtype).eps * up)


@pytest.fixture(autouse=True)
def last_bits(request):
    if request.node.get_closest_marker("equal_bits"):
        yield
        return
    with LastBits() as mode:
        yield
    if mode.products:
        request.node.add_report_section("call", "hint", HINT)
