"""95 % intervals of proportions, and of the difference of two proportions on the same images. Standard library only."""

from math import sqrt

Interval = tuple[float, float]

Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution: 95 % lie between -Z and Z."""


def wilson(proportion: float, n: int) -> Interval:
    """The score interval of a proportion (0 to 1) that was counted on n images.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927), 209-212. It
    stays within 0 and 1, and has a width at 0 and 1 too, unlike the proportion ± Z standard errors.

    Raises:
        ValueError: n is below 1, or the proportion is not from 0 to 1.
    """
    if n < 1 or not 0 <= proportion <= 1:
        raise ValueError(f"a proportion from 0 to 1 of 1 image or more is needed, got {proportion} of {n}")
    square = Z * Z / n
    centre = (proportion + square / 2) / (1 + square)
    half = Z / (1 + square) * sqrt(proportion * (1 - proportion) / n + square / (4 * n))
    return max(0.0, min(centre - half, proportion)), min(1.0, max(centre + half, proportion))


def newcombe_paired(both: int, only_first: int, only_second: int, neither: int) -> Interval:
    """The interval of the difference of two proportions, second less first, on the same images: of a network's top-1 in
    two precisions, from the numbers of images that both, one or none of them classifies correctly.

    Source: method 10 of Newcombe, Improved confidence intervals for the difference between binomial proportions based
    on paired data, Statistics in Medicine 17 (1998), 2635-2650. It combines the Wilson intervals of both proportions
    with their correlation (phi). Unlike an interval from the discordant images alone, it has a width without any.

    Raises:
        ValueError: there are no images.
    """
    n = both + only_first + only_second + neither
    first, second = (both + only_first) / max(n, 1), (both + only_second) / max(n, 1)
    (first_low, first_high), (second_low, second_high) = wilson(first, n), wilson(second, n)
    phi = _phi(both, only_first, only_second, neither)
    difference = second - first
    below = _hypotenuse(second - second_low, first_high - first, phi)
    above = _hypotenuse(second_high - second, first - first_low, phi)
    return max(-1.0, difference - below), min(1.0, difference + above)


def _phi(both: int, only_first: int, only_second: int, neither: int) -> float:
    """The correlation of the answers being correct; with a continuity correction where it is positive."""
    n = both + only_first + only_second + neither
    product = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    if product == 0:
        return 0.0
    shared = both * neither - only_first * only_second
    return (max(shared - n / 2, 0.0) if shared > 0 else shared) / sqrt(product)


def _hypotenuse(a: float, b: float, phi: float) -> float:
    return sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))
