"""How many parts a statement needs.

A rate (of escapes, of false alarms) is judged by k failures among n parts. With confidence c it is at most the upper
limit of Clopper and Pearson (1934). Beside it stands Bayes' answer: where every rate was as likely as any other before
the study (Laplace's uniform prior), it is at most that with probability c afterwards. The two ask for nearly the same:
Bayes for one part less.
"""

from scipy.special import bdtr, betaincinv

from inlier.calibration import confident_rate

CONFIDENCE = 0.95


def parts_needed(rate: float, confidence: float = CONFIDENCE, failures: int = 0) -> int:
    """Parts to judge, of which so many may fail, to state that at most such a share of all fails.

    >>> parts_needed(0.05), parts_needed(0.01), parts_needed(0.10), parts_needed(0.05, failures=1)
    (59, 299, 29, 93)
    """
    low, high = failures, failures + 1
    while bdtr(failures, high, rate) > 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1:  # more parts make so few failures less likely
        middle = (low + high) // 2
        low, high = (middle, high) if bdtr(failures, middle, rate) > 1 - confidence else (low, middle)
    return high


def parts_needed_bayes(rate: float, confidence: float = CONFIDENCE, failures: int = 0) -> int:
    """`parts_needed` by Bayes' rule and a uniform prior."""
    return max(parts_needed(rate, confidence, failures) - 1, failures)


def upper_limit(failures: int, n: int) -> float:
    """The rate that is at most so high, with 95 % confidence (Clopper and Pearson, one-sided).

    >>> round(upper_limit(0, 59), 4), round(upper_limit(0, 50), 4)
    (0.0495, 0.0582)
    """
    return confident_rate(failures + 1, n, CONFIDENCE)


def upper_limit_bayes(failures: int, n: int) -> float:
    """The rate that is at most so high, with a probability of 95 %, after a uniform prior."""
    return float(betaincinv(failures + 1, n - failures + 1, CONFIDENCE))


def chance(rate: float, n: int, failures: int = 0) -> float:
    """How likely the study comes out well where the true rate is this: at most so many failures among n.

    >>> round(chance(0.01, 59), 3), round(chance(0.01, 93, 1), 3)
    (0.553, 0.762)
    """
    return float(bdtr(failures, n, rate))
