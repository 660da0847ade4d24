"""CR2 and its degrees of freedom are those that clubSandwich publishes of its own examples.

They stand in clubSandwich's reference (Pustejovsky, R package) under `linear_contrast` and `conf_int`, `coef_test`, and
`vcovCR.lm`: growth of 50 chicks on four diets, weighed up to twelve times, clustered by chick. The weights are R's
`ChickWeight` (Crowder & Hand, Analysis of Repeated Measures, 1990, example 5.3).
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from brainscm.scm.design import Array
from brainscm.scm.image import fit_image
from brainscm.scm.inference import WaldTest, robust_errors_of, wald_test
from brainscm.scm.sample import Sample

DAYS = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 21]
CHICKS = [20, 10, 10, 10]  # on each diet
# A line a chick, in grams, from day 0 on; some died.
WEIGHTS = """
42 51 59 64 76 93 106 125 149 171 199 205
40 49 58 72 84 103 122 138 162 187 209 215
43 39 55 67 84 99 115 138 163 187 198 202
42 49 56 67 74 87 102 108 136 154 160 157
41 42 48 60 79 106 141 164 197 199 220 223
41 49 59 74 97 124 141 148 155 160 160 157
41 49 57 71 89 112 146 174 218 250 288 305
42 50 61 71 84 93 110 116 126 134 125
42 51 59 68 85 96 90 92 93 100 100 98
41 44 52 63 74 81 89 96 101 112 120 124
43 51 63 84 112 139 168 177 182 184 181 175
41 49 56 62 72 88 119 135 162 185 195 205
41 48 53 60 65 67 71 70 71 81 91 96
41 49 62 79 101 128 164 192 227 248 259 266
41 49 56 64 68 68 67 68
41 45 49 51 57 51 54
42 51 61 72 83 89 98 103 113 123 133 142
39 35
43 48 55 62 65 71 82 88 106 120 144 157
41 47 54 58 65 73 77 89 98 107 115 117
40 50 62 86 125 163 217 240 275 307 318 331
41 55 64 77 90 95 108 111 131 148 164 167
43 52 61 73 90 103 127 135 145 163 170 175
42 52 58 74 66 68 70 71 72 72 76 74
40 49 62 78 102 124 146 164 197 231 259 265
42 48 57 74 93 114 136 147 169 205 236 251
39 46 58 73 87 100 115 123 144 163 185 192
39 46 58 73 92 114 145 156 184 207 212 233
39 48 59 74 87 106 134 150 187 230 279 309
42 48 59 72 85 98 115 122 143 151 157 150
42 53 62 73 85 102 123 138 170 204 235 256
41 49 65 82 107 129 159 179 221 263 291 305
39 50 63 77 96 111 137 144 151 146 156 147
41 49 63 85 107 134 164 186 235 294 327 341
41 53 64 87 123 158 201 238 287 332 361 373
39 48 61 76 98 116 145 166 198 227 225 220
41 48 56 68 80 83 103 112 135 157 169 178
41 49 61 74 98 109 128 154 192 232 280 290
42 50 61 78 89 109 130 146 170 214 250 272
41 55 66 79 101 120 154 182 215 262 295 321
42 51 66 85 103 124 155 153 175 184 199 204
42 49 63 84 103 126 160 174 204 234 269 281
42 55 69 96 131 157 184 188 197 198 199 200
42 51 65 86 103 118 127 138 145 146
41 50 61 78 98 117 135 141 147 174 197 196
40 52 62 82 101 120 144 156 173 210 231 238
41 53 66 79 100 123 148 157 168 185 210 205
39 50 62 80 104 125 154 170 222 261 303 322
40 53 64 85 108 128 152 166 184 203 233 237
41 54 67 84 105 122 155 175 205 234 264 264
"""
# Diets that are compared in grams a day: estimate, standard error, degrees of freedom, 95 % interval.
PUBLISHED = {
    (2, 1): ("1.77", "1.49", "18.8", "-1.349", "4.88"),
    (3, 1): ("4.58", "1.35", "18.8", "1.751", "7.41"),
    (4, 1): ("2.87", "1.01", "18.3", "0.757", "4.99"),
    (3, 2): ("2.81", "1.70", "18.0", "-0.756", "6.38"),
    (4, 2): ("1.11", "1.44", "17.9", "-1.925", "4.14"),
    (4, 3): ("-1.71", "1.30", "17.9", "-4.441", "1.02"),
}

# t and p of the same slopes against that of diet 1.
PUBLISHED_TESTS = {2: ("1.19", "0.2497"), 3: ("3.39", "0.0031"), 4: ("2.85", "0.0105")}
# The covariance of the coefficients of `weight ~ Time + Diet:Time`.
PUBLISHED_COVARIANCE = """
3.9317840 -0.7851508 -0.2560762 -0.0750498 0.2695861
-0.7851508 0.4360726 -0.3314209 -0.3436398 -0.3665016
-0.2560762 -0.3314209 1.3680862 0.3475327 0.3482061
-0.0750498 -0.3436398 0.3475327 1.1195632 0.3483146
0.2695861 -0.3665016 0.3482061 0.3483146 0.5416587
"""


@pytest.fixture(scope="module")
def growth() -> Sample:
    """With an intercept and a slope for each diet."""
    chicks = [[float(weight) for weight in line.split()] for line in WEIGHTS.split("\n") if line]
    diets = np.repeat(np.arange(4), CHICKS)
    rows, weights, names = [], [], []
    for number, (chick, diet) in enumerate(zip(chicks, diets, strict=True)):
        own = np.eye(4)[diet]
        rows += [[*own, *(day * own)] for day, _ in zip(DAYS, chick, strict=False)]
        weights += chick
        names += [f"chick{number}"] * len(chick)
    assert len(rows) == 578
    return Sample.of(np.array(rows), [f"x{k}" for k in range(8)], np.array(weights)[:, None], names)


def cr2_test(sample: Sample, contrast: Array) -> WaldTest:
    fitted = fit_image(sample, seed=0, drawn=False)
    return wald_test(fitted, contrast, robust_errors_of("ordinary", fitted, contrast, sample)[0])


def assert_published(value: float, published: str) -> None:
    digits = len(published.partition(".")[2])
    assert value == pytest.approx(float(published), abs=0.5001 * 10**-digits)


@pytest.mark.parametrize("diets", PUBLISHED, ids=str)
def test_contrasts_of_growth_are_the_published_ones(growth: Sample, diets: tuple[int, int]) -> None:
    more, less = diets
    test = cr2_test(growth, (np.eye(8)[3 + more] - np.eye(8)[3 + less])[None])
    error = float(test.standard_error[0])
    estimate, half = float(test.statistic[0]) * error, scipy.stats.t.ppf(0.975, test.df2) * error
    found = (estimate, error, test.df2, estimate - half, estimate + half)
    for value, published in zip(found, PUBLISHED[diets], strict=True):
        assert_published(value, published)
    if less == 1:
        for value, published in zip((test.statistic[0], test.p[0]), PUBLISHED_TESTS[more], strict=True):
            assert_published(float(value), published)


def test_the_covariance_of_slopes_that_start_together_is_the_published_one(growth: Sample) -> None:
    one, slopes = growth.x[:, :4].sum(axis=1), growth.x[:, 4:]
    design = np.column_stack([one, slopes.sum(axis=1), slopes[:, 1:]])
    together = replace(growth, x=design, columns=[f"x{k}" for k in range(5)])
    published = np.array(PUBLISHED_COVARIANCE.split(), dtype=np.float64).reshape(5, 5)
    for i, j in itertools.combinations_with_replacement(range(5), 2):
        row = np.eye(5)[i] + (np.eye(5)[j] if i != j else 0)
        expected = published[i, i] if i == j else published[i, i] + published[j, j] + 2 * published[i, j]
        assert cr2_test(together, row[None]).standard_error[0] ** 2 == pytest.approx(expected, abs=2e-7)
