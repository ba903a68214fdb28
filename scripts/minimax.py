#!/usr/bin/env python3
"""Derives the polynomials and rational functions of codegen/math_forms*.cpp and codegen/device/math.cuh. Needs numpy.

  scripts/minimax.py                prints each: interval, degree, error, coefficients (highest power first, as Horner's rule takes them)
  scripts/minimax.py exp2 log       prints the named ones
  scripts/minimax.py --check        exits 1, naming them, if the sources do not hold the coefficients as printed here

Method: Lawson's algorithm, weighted least squares on Chebyshev nodes whose weights are multiplied by the error of each round until it is level; a
rational function by the same with the denominator of the last round in the weights. Coefficients are rounded to f32 one at a time, constant term first, the others fitted again,
so that the later ones make up for the rounding of the earlier. "error" is that of the rounded coefficients, relative to the function that the form
computes, evaluated in double; tests/unit/math_forms_test measures what rounding in f32 adds.
"""
import math
import pathlib
import sys

import numpy as np

NODES = 4000
ROUNDS = 300


def literal(x, suffix="f"):
    mantissa, exponent = float(x).hex().split("p")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}p{int(exponent)}{suffix}"


def powers(x, degree):
    return np.vander(x, degree + 1, increasing=True)


def evaluate(coefficients, x):
    return np.polynomial.polynomial.polyval(x, coefficients)


def rounded(x, values, weights, degree, is_f32):
    if not is_f32:
        return list(np.linalg.lstsq(powers(x, degree) * weights[:, None], values * weights, rcond=None)[0])
    result, rest = [], values.copy()
    for power in range(degree + 1):
        columns = powers(x, degree)[:, power:] * weights[:, None]
        first = np.linalg.lstsq(columns, rest * weights, rcond=None)[0][0]
        result.append(float(np.float32(first)))
        rest = rest - result[-1] * x**power
    return result


def fit(function, weight, low, high, degree, denominator, is_f32):
    x = (low + high) / 2 + (high - low) / 2 * np.cos((np.arange(NODES) + 0.5) * np.pi / NODES)
    values = np.array([function(point) for point in x])
    base = np.array([weight(point) for point in x])
    lawson = np.ones(NODES) / NODES
    q, q_values = [1.0], np.ones(NODES)
    for _ in range(ROUNDS):
        scale = np.sqrt(lawson) * base / q_values
        columns = np.hstack([powers(x, degree), -values[:, None] * powers(x, denominator)[:, 1:]])
        solution = np.linalg.lstsq(columns * scale[:, None], values * scale, rcond=None)[0]
        q = [1.0, *solution[degree + 1 :]]
        q_values = evaluate(q, x)
        error = np.abs(evaluate(solution[: degree + 1], x) / q_values - values) * base
        lawson = lawson * error
        lawson /= lawson.sum()
    if denominator and is_f32:
        q = [float(np.float32(c)) for c in q]
    q_values = evaluate(q, x)
    p = rounded(x, values * q_values, np.sqrt(lawson) * base / np.abs(q_values), degree, is_f32)
    return p, q, np.max(np.abs(evaluate(p, x) / q_values - values) * base)


def series(terms, exact, threshold):
    """exact(x), and its power series where it would cancel."""
    return lambda x: exact(x) if abs(x) > threshold else sum(terms(k) * x**k for k in range(16))


def of_root(f):
    """f(x) / x as a function of x^2; f(0) / 0 is its limit."""
    return lambda y: f(math.sqrt(y)) / math.sqrt(y) if y > 0 else f(1e-9) / 1e-9


def inverse(f):
    return lambda x: 1 / abs(f(x))


def erfcx(a):
    return math.erfc(a / math.sqrt(2)) * math.exp(a * a / 2)


def log2_ratio(s):
    return 2 * math.atanh(s) / math.log(2)


HALF_LN2, LN2, SLOP = math.log(2) / 2, math.log(2), 1e-3  # SLOP: how far a reduced argument may leave its interval
QUARTER = (math.pi / 4 + 0.02) ** 2
ROOT = math.sqrt(0.5) - 1, math.sqrt(2) - 1
exp2_part = series(lambda k: LN2 ** (k + 1) / math.factorial(k + 1), lambda x: math.expm1(x * LN2) / x, 1e-3)
exp_part = series(lambda k: 1 / math.factorial(k + 1), lambda x: math.expm1(x) / x, 1e-3)
log_part = series(lambda k: (-1) ** k / (k + 3), lambda x: (math.log1p(x) - x + x * x / 2) / x**3, 0.05)
log1p_part = series(lambda k: (-1) ** k / (k + 1), lambda x: math.log1p(x) / x, 1e-3)
log2_part = lambda x: log1p_part(x) / LN2 - 1
sin_part = lambda y: sum((-1) ** (k + 1) * y**k / math.factorial(2 * k + 3) for k in range(10))
cos_part = lambda y: sum((-1) ** k * y**k / math.factorial(2 * k + 4) for k in range(10))
tanh_part, erf_ratio, atanh_part = of_root(math.tanh), of_root(math.erf), of_root(log2_ratio)

# name: (what, function, weight of its error, low, high, degree, degree of the denominator, f32?)
TABLE = {
    "exp2_round": ("(2^x - 1) / x", exp2_part, lambda x: abs(x) / 2**x, -0.5, 0.5, 4, 0, True),
    "exp2_floor": ("(2^x - 1) / x", exp2_part, lambda x: abs(x) / 2**x, 0, 1, 5, 0, True),
    "exp_round": ("(exp(x) - 1) / x", exp_part, lambda x: abs(x) / math.exp(x), -HALF_LN2 - SLOP, HALF_LN2 + SLOP, 4, 0, True),
    "exp_floor": ("(exp(x) - 1) / x", exp_part, lambda x: abs(x) / math.exp(x), -SLOP, LN2 + SLOP, 5, 0, True),
    "log2": ("log2(1 + x) / x - 1", log2_part, lambda x: LN2 / abs(log1p_part(x)), *ROOT, 9, 0, True),
    "log": ("(log(1 + x) - x + x^2 / 2) / x^3", log_part, lambda x: abs(x**3 / math.log1p(x)) if x else 0, *ROOT, 7, 0, True),
    "log1p": ("log(1 + x) / x", log1p_part, inverse(log1p_part), 0, 1, 9, 0, True),
    "atanh": ("log2((1 + x) / (1 - x)) / x of x^2, double", atanh_part, inverse(atanh_part), 0, 0.02944, 5, 0, False),
    "tanh": ("tanh(x) / x of x^2", tanh_part, inverse(tanh_part), 0, 9.1**2, 4, 4, True),
    "tanh_near": ("tanh(x) / x of x^2, weighed by x", tanh_part, math.sqrt, 0, 0.75**2, 3, 0, True),
    "erf": ("erf(x) / x - 1 of x^2", lambda y: erf_ratio(y) - 1, inverse(erf_ratio), 0, 1, 6, 0, True),
    "erfcx": ("erfc(x / sqrt(2)) exp(x^2 / 2)", erfcx, inverse(erfcx), 0, 14.5, 4, 5, True),
    "sin": ("(sin(x) - x) / x^3 of x^2", sin_part, lambda y: y**1.5 / math.sin(math.sqrt(y)) if y > 0 else 0, 0, QUARTER, 2, 0, True),
    "cos": ("(cos(x) - 1 + x^2 / 2) / x^4 of x^2", cos_part, lambda y: y * y / math.cos(math.sqrt(y)), 0, QUARTER, 2, 0, True),
}


def main(arguments):
    names = [a for a in arguments if a != "--check"] or list(TABLE)
    folder = pathlib.Path(__file__).resolve().parent.parent / "codegen"
    paths = [*sorted(folder.glob("math_forms*.cpp")), folder / "device" / "math.cuh"]
    source = " ".join(" ".join(path.read_text() for path in paths).split())
    bad = []
    for name in names:
        what, function, weight, low, high, degree, denominator, is_f32 = TABLE[name]
        p, q, error = fit(function, weight, low, high, degree, denominator, is_f32)
        lists = [", ".join(literal(c, "f" if is_f32 else "") for c in reversed(part)) for part in ([p, q] if denominator else [p])]
        if "--check" in arguments:
            bad += [name] if any(text not in source for text in lists) else []
            continue
        print(f"{name}: {what}; [{low:.6g}, {high:.6g}], degree {degree}" + (f" / {denominator}" if denominator else "") + f", error {error:.2g}")
        for text in lists:
            print("  " + text)
    if bad:
        print("not in codegen/math_forms*.cpp or codegen/device/math.cuh as derived: " + ", ".join(bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
