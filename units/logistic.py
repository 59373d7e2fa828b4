"""Multinomial logistic regression: the one fit behind style tokens and sentiment classifiers."""

import numpy as np
import torch


def fit_logistic(
    x: np.ndarray, labels: np.ndarray, *, strength: float, balanced: bool = False, iterations: int = 300
) -> tuple[np.ndarray, np.ndarray]:
    """Slopes and offsets that minimise `strength` times the summed cross-entropy plus half the squared slopes.

    Args:
        x: (N, D) float64.
        labels: (N,) int, every one of 0 .. C - 1 at least once.
        strength: of the data against the penalty: C of scikit-learn.
        balanced: whether each class counts the same, whatever its number of rows.
        iterations: of L-BFGS, at most.

    Returns:
        slopes (D, C) and offsets (C,), float64; the class with the highest `x @ slopes + offsets` is the likeliest.
    """
    inputs, targets = torch.from_numpy(x), torch.from_numpy(np.asarray(labels, np.int64))
    counts = torch.bincount(targets)
    weights = len(targets) / (len(counts) * counts.double()) if balanced else torch.ones(len(counts)).double()
    slopes = torch.zeros(x.shape[1], len(counts), dtype=torch.float64, requires_grad=True)
    offsets = torch.zeros(len(counts), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [slopes, offsets],
        max_iter=iterations,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        solver.zero_grad()
        errors = torch.nn.functional.cross_entropy(inputs @ slopes + offsets, targets, reduction="none")
        value = strength * (weights[targets] * errors).sum() + 0.5 * slopes.square().sum()
        value.backward()
        return value

    solver.step(loss)
    return slopes.detach().numpy(), offsets.detach().numpy()
