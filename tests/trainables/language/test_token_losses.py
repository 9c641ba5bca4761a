"""Cross-entropy in parts against PyTorch's own."""

import pytest
import torch
from torch.nn import functional

from trainables.language import token_losses as module
from trainables.language.token_losses import token_losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("numbers", [1, 50, 1 << 18])
def test_losses_and_gradients_are_pytorch_s(dtype: torch.dtype, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CPU_NUMBERS", numbers)
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(13, 20, generator=generator)).to(dtype).requires_grad_()
    labels = torch.randint(20, (13,), generator=generator)
    labels[3] = labels[12] = -100
    weights = torch.rand(13, generator=generator)
    found, expected = token_losses(logits, labels), functional.cross_entropy(logits.float(), labels, reduction="none")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    (own,), (other,) = (torch.autograd.grad((each * weights).sum(), logits) for each in (found, expected))
    assert own.dtype == dtype
    torch.testing.assert_close(own, other, rtol=2e-3 if dtype != torch.float32 else 1e-5, atol=1e-7)


def test_a_loss_scale_keeps_gradients_of_fp16_from_vanishing() -> None:
    logits = torch.zeros(1, 5000, dtype=torch.float16, requires_grad=True)
    losses = token_losses(logits, torch.zeros(1, dtype=torch.int64))
    (gradient,) = torch.autograd.grad(losses.sum() / 4096 * 2.0**16, logits)
    assert gradient[0, 1].item() == pytest.approx(2.0**16 / 4096 / 5000, rel=1e-3)


def test_little_is_kept_for_the_backward_pass() -> None:
    logits = torch.randn(64, 1000, dtype=torch.bfloat16, requires_grad=True)
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        token_losses(logits, torch.zeros(64, dtype=torch.int64))
    own = {t.untyped_storage().data_ptr(): t.nbytes for t in kept}
    own.pop(logits.untyped_storage().data_ptr())
    assert sum(own.values()) < logits.nbytes / 50
