"""The fused loss is cross-entropy, and its gradients are those of plain logits."""

import pytest
import torch
from tiny_models import CPU, build, family, some_examples
from torch.nn import functional as F

from alpaca.training import loss
from alpaca.training.batches import Layout, label_tensors, model_inputs
from alpaca.training.loss import _FusedCrossEntropy


@pytest.mark.parametrize("count", [1, loss.CHUNK - 1, loss.CHUNK, 2 * loss.CHUNK + 5])
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_the_fused_loss_and_its_gradients_equal_plain_cross_entropy(count: int, trained: bool):
    draw = torch.Generator().manual_seed(count)
    hidden = torch.randn(count, 24, generator=draw, requires_grad=True)
    weight = torch.randn(37, 24, generator=draw, requires_grad=trained)
    labels = torch.randint(0, 37, (count,), generator=draw)
    fused = _FusedCrossEntropy.apply(hidden, weight, labels, torch.float32)
    (fused * 0.25).backward()
    found = [tensor.grad for tensor in (hidden, weight)]
    hidden.grad = weight.grad = None
    plain = F.cross_entropy(hidden @ weight.T, labels, reduction="sum")
    (plain * 0.25).backward()
    torch.testing.assert_close(fused, plain, rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(found[0], hidden.grad, rtol=1e-5, atol=1e-6)
    if trained:
        torch.testing.assert_close(found[1], weight.grad, rtol=1e-4, atol=1e-4)
    else:
        assert found[1] is None


@pytest.mark.parametrize("vocabulary", [49152, 262144])
def test_fp32_keeps_its_digits_over_a_large_vocabulary(vocabulary: int):
    # Few of the logits weigh much, as in a trained model; torch's own cross-entropy is off by more than 1e-6 here.
    draw = torch.Generator().manual_seed(0)
    logits = (torch.randn(12, vocabulary, generator=draw) * 3).requires_grad_()
    labels = logits.detach().topk(3, 1).indices[:, 2]
    exact = F.cross_entropy(logits.double(), labels, reduction="sum")
    (expected,) = torch.autograd.grad(exact, logits)
    found = loss._CrossEntropy.apply(logits, labels)
    (slope,) = torch.autograd.grad(found * 0.25, logits)
    assert abs(float(found.detach() - exact.detach())) < 3e-7 * float(exact.detach())
    assert float((slope * 4 - expected).norm()) < 1e-6 * float(expected.norm())


@pytest.mark.parametrize("capped", [False, True], ids=["plain head", "capped logits"])
def test_held_out_losses_keep_their_digits_over_a_large_vocabulary(capped: bool):
    sizes = {"final_logit_softcapping": 30.0} if capped else {}
    model = build(family("gemma2", vocab_size=120_000, attn_logit_softcapping=None, **sizes))
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(8)
    batch = Layout(2048).lay_out(some_examples(3), [0, 1, 2])
    inputs, (places, labels) = model_inputs(batch, CPU), label_tensors(batch, CPU)
    losses, _ = loss.token_losses(model, inputs, places, labels)
    with torch.no_grad():
        summed = loss.supervised_loss(model, inputs, places, labels)
        logits = model(**inputs, use_cache=False).logits[0, places]
    exact = F.cross_entropy(logits.double(), labels, reduction="none")
    assert float((losses - exact).abs().max()) < 5e-7 * float(exact.max())
    assert abs(float(losses.sum()) - float(exact.sum())) < 3e-7 * float(exact.sum())
    assert abs(float(summed) - float(exact.sum())) < 3e-7 * float(exact.sum())


def test_in_bf16_the_fused_loss_is_near_that_of_fp32():
    draw = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(300, 64, generator=draw), torch.randn(500, 64, generator=draw) * 0.1
    labels = torch.randint(0, 500, (300,), generator=draw)
    exact = F.cross_entropy(hidden @ weight.T, labels, reduction="sum")
    fused = _FusedCrossEntropy.apply(hidden, weight, labels, torch.bfloat16)
    assert fused.dtype == torch.float32
    torch.testing.assert_close(fused, exact, rtol=1e-2, atol=0)


def test_very_large_logits_give_a_finite_loss():
    hidden, weight = torch.full((3, 4), 1e4, requires_grad=True), torch.eye(4, requires_grad=True)
    total = _FusedCrossEntropy.apply(hidden, weight * torch.arange(4.0), torch.tensor([0, 1, 3]), torch.float32)
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(hidden.grad).all()
