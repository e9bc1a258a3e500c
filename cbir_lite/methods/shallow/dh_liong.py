"""DH of Liong et al. [110]: unsupervised deep hashing of 2015 (survey Sections IV-B, VI-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cbir_lite.methods.shallow._liong import Float, TanhHash, variance


@dataclass(kw_only=True, eq=False)
class DH(TanhHash):
    r"""Three tanh layers on given features, learned without labels from what good codes are like.

    The top outputs shall lie close to their signs, vary as much as they can so that both values of
    each bit are used, and come from projections that are nearly orthogonal, so that bits differ.
    Signs and weights take turns: with the signs fixed, all weights follow the gradient. The
    start follows ``self.seed``.

    :survey: Sections IV-B, VI-A, IX; Table III
    :cite: liong2015dh
    :source: the survey, and a public re-implementation (terms, constants); layer widths as known
        from the paper, whose text could not be searched
    :objective: \min_{W,c}\ \frac{1}{2n}\|B-H\|_F^2
        -\frac{\lambda_1}{2n}\|H-\bar h\mathbf{1}^\top\|_F^2
        +\frac{\lambda_2}{2}\sum_m\|W_mW_m^\top-I\|_F^2
        +\frac{\lambda_3}{2}\sum_m(\|W_m\|_F^2+\|c_m\|_2^2),\quad B=\mathrm{sgn}(H),\
        H=H_3,\ H_m=\tanh(W_mH_{m-1}+c_m)
    :shapes: x (n, d); H (n, bits); codes int8 (n, bits)
    :defaults: widths 60-30, 80-50, 100-80 below 16, 32, 64 bits, interpolated in between (paper),
        but at least bits and at most d; lambda_1 = 0.3, lambda_2 = 1, lambda_3 = 1e-6 (validation),
        10 rounds of 10 steps
    :departures: the paper sums the first term over rows and weighs the others 100, 0.001, 0.001;
        with that balance nothing bounds the weights, outputs run into saturation near where they
        start and retrieval gains nothing or falls, so the terms are means and orthogonality weighs
        more. The variance is taken around the mean, since around zero it rewards bits that are
        constant. Features are standardised and reduced to 256 principal components; the start is
        from principal directions, turned at random; L-BFGS instead of steps of a fixed size
    :fidelity: simplified
    """

    supervision: ClassVar[str] = "unsupervised"

    def spread(self, H: Float) -> tuple[dict[str, float], Float]:
        """Half the variance of all bits around their means."""
        return variance(H)
