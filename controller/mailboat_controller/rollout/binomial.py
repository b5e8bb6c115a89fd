"""Exact bounds on a share from a count: what ``failures`` of ``trials`` say, and what they cannot.

Pure and without a numerical library: a binomial tail is an incomplete beta function, which its
continued fraction gives to about twelve digits.

Source: Clopper and Pearson, Biometrika 26 (1934); Numerical Recipes, section 6.4 (Lentz's method).
"""

import math

_STEPS_MAX = 20_000  # some hundreds are enough for a million trials
_PRECISION = 1e-15
_TINY = 1e-300
_HALVINGS = 60  # of the interval 0 to 1: beyond the precision of a float


def at_most(count: int, trials: int, share: float) -> float:
    """P(Binomial(trials, share) <= count)."""
    if count >= trials:
        return 1.0
    if count < 0:
        return 0.0
    return _incomplete_beta(trials - count, count + 1, 1.0 - share)


def upper_bound(failures: int, trials: int, error: float) -> float:
    """The share that is exceeded only with this error: Beta⁻¹(1 - error; f + 1, n - f)."""
    if failures >= trials:
        return 1.0
    low, high = failures / trials, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if at_most(failures, trials, middle) <= error:
            high = middle
        else:  # also of what cannot be said
            low = middle
    return high


def lower_bound(failures: int, trials: int, error: float) -> float:
    """The share below which the truth lies only with this error: Beta⁻¹(error; f, n - f + 1)."""
    return 1.0 - upper_bound(trials - failures, trials, error) if failures > 0 else 0.0


def excludes(failures: int, trials: int, share: float, error: float) -> bool:
    """Whether so few failures exclude this share: ``upper_bound(...) <= share``, in one step."""
    return trials > 0 and failures < trials and at_most(failures, trials, share) <= error


def failures_allowed(trials: int, share: float, error: float) -> int:
    """The most failures of ``trials`` that still exclude ``share``; -1 if none at all would not."""
    if not excludes(0, trials, share, error):
        return -1
    low, high = 0, trials  # `low` excludes it, `high` does not
    while high - low > 1:
        middle = (low + high) // 2
        if excludes(middle, trials, share, error):
            low = middle
        else:
            high = middle
    return low


def trials_needed(failures: int, share: float, error: float) -> int:
    """The fewest trials of which ``failures`` still exclude ``share``."""
    high = max(failures + 1, 1)
    while not excludes(failures, high, share, error):
        high *= 2
    low = failures  # does not
    while high - low > 1:
        middle = (low + high) // 2
        if excludes(failures, middle, share, error):
            high = middle
        else:
            low = middle
    return high


def smallest_share_excluded(trials: int, error: float) -> float:
    """What a wave of this many can exclude if every device of it is good: 1 for none."""
    return 1.0 if trials <= 0 else -math.expm1(math.log(error) / trials)


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised: I_x(a, b)."""
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    # The fraction converges quickly on one side of the peak; the other is its mirror.
    if x < (a + 1) / (a + b + 2):
        return math.exp(log_front) * _fraction(a, b, x) / a
    return 1.0 - math.exp(log_front) * _fraction(b, a, 1.0 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1.0 / _away(1.0 - (a + b) * x / (a + 1.0))
    found = d
    for m in range(1, _STEPS_MAX):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 / _away(1.0 + even * d)
        c = _away(1.0 + even / c)
        found *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1.0 / _away(1.0 + odd * d)
        c = _away(1.0 + odd / c)
        found *= d * c
        if abs(d * c - 1.0) < _PRECISION:
            return found
    return math.nan  # compares as False with every bound, so that nothing is excluded by it


def _away(value: float) -> float:
    """From zero, which would be divided by."""
    return value if abs(value) >= _TINY else _TINY
