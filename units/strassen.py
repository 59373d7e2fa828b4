"""Matrix products in seven eighths of the multiplications, for matrices that stay the same.

Of quarters of both matrices a product takes eight products; sums of quarters do with seven. The sums of the matrix that
stays are made once, and take 7/4 of its memory. Half of the rows are multiplied together with the other half, in pairs:
a row's last bits hang on its partner too, so that it should be one that always stands beside it.
"""

import torch


def seven(matrix: torch.Tensor) -> list[torch.Tensor]:
    """What `multiply` multiplies with: sums of the quarters of a matrix (K, N), K and N even."""
    (a, b), (c, d) = (half.chunk(2, dim=1) for half in matrix.chunk(2))
    return [x.contiguous() for x in (a, c, b - a, d - b + a, d - b, d - b + a - c, d)]


def multiply(
    upper: torch.Tensor,
    lower: torch.Tensor,
    sums: list[torch.Tensor],
    bias: torch.Tensor,
    out_upper: torch.Tensor,
    out_lower: torch.Tensor,
) -> None:
    """out = x @ matrix + bias (N,), where row i of `upper` and row i of `lower` are a pair of rows of x (R, K).

    Args:
        upper: (R / 2, K); with `lower` they are two halves of x, or its even and its odd rows.
        sums: of the quarters of the matrix (K, N), from `seven`.
        out_upper: (R / 2, N), with `out_lower` written to.

    Source: Strassen 1969 in Winograd's form.

    >>> x, out = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.empty(2, 2)
    >>> multiply(x[0::2], x[1::2], seven(torch.tensor([[5.0, 6.0], [7.0, 8.0]])), torch.zeros(2), out[0::2], out[1::2])
    >>> out
    tensor([[19., 22.],
            [43., 50.]])
    """
    (a, b), (c, d) = upper.chunk(2, dim=1), lower.chunk(2, dim=1)
    (e, f), (g, h) = out_upper.chunk(2, dim=1), out_lower.chunk(2, dim=1)
    left, right = bias.chunk(2)
    below = c + d
    both = below - a
    u = torch.addmm(left, a, sums[0])
    torch.addmm(u, b, sums[1], out=e)
    u.addmm_(both, sums[3])
    torch.addmm(u, a - c, sums[4], out=g)
    torch.addmm(right - left, below, sums[2], out=h)
    torch.add(u, h, out=f).addmm_(b - both, sums[6])
    h.add_(g)
    g.addmm_(d, sums[5], alpha=-1)
