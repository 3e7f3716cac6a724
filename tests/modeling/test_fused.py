"""The fused RMSNorm is transformers' own, forward and backward."""

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from alpaca.modeling.fused import RmsNorm


@pytest.mark.parametrize("frozen", [False, True])
def test_rms_norm_is_the_models_own_forward_and_backward(frozen: bool):
    torch.manual_seed(0)
    own = LlamaRMSNorm(48, 1e-5).requires_grad_(not frozen)
    own.weight.data.uniform_(0.5, 2)
    first, slope = torch.randn(2, 7, 48, requires_grad=True), torch.randn(2, 7, 48)
    second = first.detach().clone().requires_grad_()
    expected, found = own(first), RmsNorm.apply(second, own.weight, 1e-5, torch.float32)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    expected.backward(slope)
    weight, own.weight.grad = own.weight.grad, None
    found.backward(slope)
    torch.testing.assert_close(second.grad, first.grad, rtol=1e-5, atol=1e-6)
    if frozen:
        assert own.weight.grad is None
    else:
        torch.testing.assert_close(own.weight.grad, weight, rtol=1e-5, atol=1e-5)


def test_the_formulas_hold_in_fp64():
    values = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: RmsNorm.apply(x, w, 1e-5, torch.float64), (values, weight))
