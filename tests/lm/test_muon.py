"""Muon does what torch's does, up to the bfloat16 that torch rounds to."""

import torch

from lm.training.muon import Muon, orthogonalised


def test_a_step_is_torchs_step_but_for_rounding():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape) * 0.1) for shape in ((8, 20), (20, 8), (8, 20), (12, 12))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    both = (Muon(ours, lr=0.02), torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1))
    for _ in range(3):
        for p, q in zip(ours, theirs):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for optimiser in both:
            optimiser.step()
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p, q, rtol=0.02, atol=2e-3)


def test_singular_values_come_near_one():
    values = torch.linalg.svdvals(orthogonalised(torch.randn(3, 16, 40)))
    assert values.min() > 0.5
    assert values.max() < 1.3
