"""Formulas and filters at random, for an hour of a processor: nothing runs, and no row depends on other scans.

python benchmarks/fuzz_formulas.py [--minutes 60] [--resume]

The properties, and the strings, are those of tests/unit/test_scm_formula.py and test_filters.py, which continuous
integration tries 150 times each. Here each is tried anew, from other seeds, until so many processor minutes are used; a
failure ends the run with the shortest string that shows it. Writes benchmarks/results/formulas.json after each round;
with --resume the minutes and examples that it holds are counted.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import sys
import time
import warnings
from pathlib import Path

from record import RESULTS, circumstances, write

ROUND = 200  # examples of a property, before the next one's turn
os.environ["FUZZ_EXAMPLES"] = str(ROUND)  # read as the tests are imported

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("scripts", "tests/unit")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    path = RESULTS / "formulas.json"
    before = json.loads(path.read_text()) if arguments.resume else {"minutes": 0, "processor_minutes": 0, "examples": 0}

    import test_filters
    import test_scm_formula as tests

    outcomes: collections.Counter[str] = collections.Counter(before.get("outcomes", {}))
    tests.event = lambda outcome: outcomes.update([outcome])
    properties = [
        tests.test_strings_of_pieces,
        tests.test_formulas,
        tests.test_formulas_with_something_in_them,
        tests.test_any_text,
        test_filters.test_any_string_takes_rows_or_is_refused_in_one_sentence,
    ]
    warnings.simplefilter("ignore")
    started, rounds = time.monotonic(), 0
    used = before["processor_minutes"]
    while used < arguments.minutes:
        for each in properties:
            each()
        rounds += 1
        used = before["processor_minutes"] + time.process_time() / 60
        figures = {
            "minutes": before["minutes"] + (time.monotonic() - started) / 60,
            "processor_minutes": used,
            "examples": before["examples"] + rounds * len(properties) * ROUND,
            "outcomes": dict(outcomes),
            "failures": 0,
            **circumstances(),
        }
        write(figures, path)
    print(path.read_text())


if __name__ == "__main__":
    main()
