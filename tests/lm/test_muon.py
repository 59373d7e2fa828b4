"""Muon takes the steps of torch's, up to the bfloat16 that torch rounds to."""

import pytest
import torch

from lm.training.muon import Muon, orthogonalise

SHAPES = ((8, 20), (20, 8), (8, 20), (12, 12))


def parameters():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]


@pytest.mark.parametrize("decay", [0.0, 0.1, 0.5])
def test_a_step_is_torchs_step_but_for_rounding(decay):
    ours, theirs = parameters(), parameters()
    both = (Muon(ours, lr=0.1, weight_decay=decay), torch.optim.Muon(theirs, lr=0.1, weight_decay=decay))
    for _ in range(5):
        for p, q in zip(ours, theirs):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for optimiser in both:
            optimiser.step()
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p, q, rtol=0, atol=5e-3)


def test_without_a_gradient_a_matrix_stays_as_it_is():
    ours = parameters()
    before = [p.detach().clone() for p in ours]
    Muon(ours, lr=0.1, weight_decay=0.5).step()
    assert all(torch.equal(p, q) for p, q in zip(ours, before))


def test_singular_values_come_near_one():
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 16, 40)))
    assert values.min() > 0.5
    assert values.max() < 1.3
