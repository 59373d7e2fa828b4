"""Logistic regression agrees with scikit-learn's."""

import numpy as np
import pytest

from units.logistic import fit_logistic


@pytest.mark.parametrize("balanced", [False, True])
def test_the_fit_is_that_of_scikit_learn(balanced):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [100, 30, 20])
    x = rng.normal(size=(len(y), 5)) + y[:, None] * [1, 0, -1, 0.5, 0]
    slopes, offsets = fit_logistic(x, y, strength=0.3, balanced=balanced)
    oracle = LogisticRegression(C=0.3, class_weight="balanced" if balanced else None, tol=1e-8, max_iter=2000)
    expected = oracle.fit(x, y).coef_.T
    assert np.allclose(slopes, expected, atol=1e-4)
    assert np.allclose(offsets - offsets.mean(), oracle.intercept_ - oracle.intercept_.mean(), atol=1e-4)
