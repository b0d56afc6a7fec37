"""Statistics of made-up results by scipy, statsmodels and lm-evaluation-harness, for the tests.

    python scripts/statistics_reference.py > tests/data/statistics.json

Needs numpy, scipy, statsmodels and lm_eval.
"""

import json
import math
import sys

import lm_eval.api.metrics as harness
import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats
import statsmodels.stats.contingency_tables as tables
import statsmodels.stats.multitest as multitest
import statsmodels.stats.proportion as proportion

random = np.random.default_rng(5)


def wilson(correct, questions):
    low, high = proportion.proportion_confint(correct, questions, method="wilson")
    return {"correct": correct, "questions": questions, "interval": [low, high]}


def independent(first, second, questions):
    low, high = proportion.confint_proportions_2indep(
        second, questions, first, questions, method="newcomb", compare="diff"
    )
    return {"first": first, "second": second, "questions": questions, "interval": [low, high]}


def mcnemar(lost, won):
    p = tables.mcnemar([[100, lost], [won, 50]], exact=True).pvalue
    return {"lost": lost, "won": won, "p": min(p, 1.0)}


def paired(lost, won, questions):
    """The standard error from the differences themselves, and Bonett and Price's interval, which is
    Wald's for a mean of differences after one question more of each kind of flip."""
    differences = np.zeros(questions)
    differences[:lost] = -1
    differences[lost : lost + won] = 1
    more = np.append(differences, [-1, 1])
    low, high = scipy.stats.norm.interval(
        0.95, loc=more.mean(), scale=more.std(ddof=0) / math.sqrt(len(more))
    )
    return {
        "lost": lost,
        "won": won,
        "questions": questions,
        "difference": differences.mean(),
        "standard_error": scipy.stats.sem(differences),
        "interval": [max(low, -1), min(high, 1)],
    }


def holm(p_values):
    _, adjusted, _, _ = multitest.multipletests(p_values, method="holm")
    return {"p": list(p_values), "adjusted": list(adjusted)}


def questions_needed(difference, flipped):
    """The smallest n at which Connor's power reaches 80 %, found by root finding in his formula
    for the power."""
    norm = scipy.stats.norm

    def lacking(n):
        spread = math.sqrt(flipped - difference**2)
        return 0.8 - norm.cdf(
            (difference * math.sqrt(n) - norm.ppf(0.975) * math.sqrt(flipped)) / spread
        )

    n = scipy.optimize.brentq(lacking, 1, 1e9, xtol=1e-6)
    return {"difference": difference, "flipped": flipped, "questions": math.ceil(n)}


def pooled(groups):
    """`groups`: (right, questions) of each."""
    outcomes = [[1.0] * right + [0.0] * (n - right) for right, n in groups]
    errors = [harness.mean_stderr(outcome) for outcome in outcomes]
    sizes = [len(outcome) for outcome in outcomes]
    means = [float(np.mean(outcome)) for outcome in outcomes]
    return {
        "groups": [list(group) for group in groups],
        "standard_errors": errors,
        "accuracy": float(harness.aggregate_subtask_metrics(means, sizes)),
        "standard_error": float(harness.pooled_sample_stderr(errors, sizes)),
    }


def choices(count):
    base, variant = random.normal(-3, 2, (2, count))
    p, q = scipy.special.softmax(base), scipy.special.softmax(variant)
    return {
        "base": list(base),
        "variant": list(variant),
        "probabilities": list(p),
        "divergence": float(scipy.stats.entropy(p, q)),
    }


def reliability(count, bins=15):
    confidences = random.beta(3, 2, count).round(3)
    right = random.random(count) < confidences**1.5
    edges = np.linspace(0, 1, bins + 1)
    # Of the sorted edges those before a confidence: bins are open below and closed above.
    places = np.searchsorted(edges[1:], confidences, side="left")
    error = sum(
        abs(right[places == k].mean() - confidences[places == k].mean()) * np.mean(places == k)
        for k in set(places)
    )
    return {
        "confidences": list(confidences),
        "correct": [bool(value) for value in right],
        "expected_calibration_error": float(error),
        "overconfidence": float(confidences.mean() - right.mean()),
    }


json.dump(
    {
        "wilson": [wilson(*case) for case in [(8, 10), (0, 5), (5, 5), (4494, 14042), (1, 2)]],
        "independent": [
            independent(*case) for case in [(56, 52, 120), (0, 3, 20), (4419, 4439, 14042), (9, 9, 9)]
        ],
        "mcnemar": [mcnemar(*case) for case in [(10, 3), (7, 7), (1, 9), (213, 187), (900, 1), (5, 0)]],
        "paired": [
            paired(*case) for case in [(7, 3, 120), (0, 0, 50), (1200, 1150, 14042), (0, 4, 20), (5, 1, 6)]
        ],
        "holm": [holm([0.01, 0.04, 0.03, 0.005]), holm(random.random(57) ** 4), holm([0.2])],
        "questions_needed": [
            questions_needed(*case) for case in [(0.01, 0.03), (0.01, 0.2), (0.05, 0.1), (0.01, 0.01001)]
        ],
        "pooled": [pooled(case) for case in [[(30, 100), (80, 200), (3, 9)], [(1, 2), (2, 2)]]],
        "choices": [choices(count) for count in [2, 4, 10]],
        "reliability": [reliability(count) for count in [40, 400]],
    },
    sys.stdout,
    indent=1,
    default=float,
)
print()
