"""Line coverage of the three packages, and the lines that only a GPU can run.

    coverage erase; coverage run -m pytest; coverage combine; python .ci/check_coverage.py [--missing]

Exits with 1 where fewer than 90 % of the lines are covered, or more than 3 % are marked ``# pragma: gpu``. Marked lines
count as neither covered nor missing, and are listed.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from coverage import Coverage

LEAST_COVERED, MOST_GPU = 0.90, 0.03
GPU_ONLY = "# pragma: gpu"
PACKAGES = ("analysis", "sweeps", "trainables")


def main() -> int:
    """Prints the figures; 0 where they are good enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--missing", action="store_true", help="list the lines that no test runs, too")
    list_missing = parser.parse_args().missing
    files = [str(path) for package in PACKAGES for path in sorted(Path(package).rglob("*.py"))]
    coverage = Coverage()
    coverage.load()
    num_lines = num_missing = 0
    for file in files:
        _, lines, _, missing, ranges = coverage.analysis2(file)
        num_lines, num_missing = num_lines + len(lines), num_missing + len(missing)
        if missing and list_missing:
            print(f"missing: {file}:{ranges}")
    marked = list(gpu_only(files))
    for line in marked:
        print(f"GPU only: {line}")
    covered = 1 - num_missing / num_lines
    share = len(marked) / (num_lines + len(marked))
    print(f"{covered:.1%} of {num_lines} lines covered (at least {LEAST_COVERED:.0%})")
    print(f"{share:.1%} of all lines, {len(marked)}, are left out as GPU only (at most {MOST_GPU:.0%})")
    return int(covered < LEAST_COVERED or share > MOST_GPU)


def gpu_only(files: list[str]) -> Iterator[str]:
    """The lines that are marked, or belong to a block that is."""
    everything, unmarked = Coverage(), Coverage()
    for each in (everything, unmarked):
        each.load()
        each.clear_exclude()
    unmarked.exclude(GPU_ONLY)
    for file in files:
        source = Path(file).read_text(encoding="utf-8").splitlines()
        for number in sorted({*everything.analysis2(file)[1]} - {*unmarked.analysis2(file)[1]}):
            yield f"{file}:{number}: {source[number - 1].removesuffix(GPU_ONLY).strip()}"


if __name__ == "__main__":
    sys.exit(main())
