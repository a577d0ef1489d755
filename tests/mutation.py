"""Mutation testing (`make mutation`): a place of the library is changed, and a test has to fail.

cosmic-ray makes the changes, one at a time: a number becomes another, + becomes −, `and` becomes
`or`, a condition is negated. Each is written into a clone of the last commit, where the tests run
until one fails. A change that no test notices has survived: either a test is missing, or the change
makes no difference, and then docs/reliability.md says why.

The results are those of the draw. What is there already is not tried again, unless its lines have
changed. A survivor's "reason" is written by hand, and kept.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import queue
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments/results/mutation.json"
FILES = ("minivat/autodiff", "minivat/ops", "minivat/vat.py", "minivat/divergence.py")
# One change of each kind: where + and − are confused unnoticed, + and << will be, too.
OPERATORS = (
    "AddNot",
    "ExceptionReplacer",
    "NumberReplacer",
    "RemoveDecorator",
    "ReplaceAndWithOr",
    "ReplaceBinaryOperator_Add_Sub",
    "ReplaceBinaryOperator_Div_Mul",
    "ReplaceBinaryOperator_FloorDiv_Mul",
    "ReplaceBinaryOperator_Mod_Mul",
    "ReplaceBinaryOperator_Mul_Div",
    "ReplaceBinaryOperator_Pow_Mul",
    "ReplaceBinaryOperator_Sub_Add",
    "ReplaceBreakWithContinue",
    "ReplaceComparisonOperator_Eq_NotEq",
    "ReplaceComparisonOperator_GtE_Gt",
    "ReplaceComparisonOperator_Gt_GtE",
    "ReplaceComparisonOperator_IsNot_Is",
    "ReplaceComparisonOperator_Is_IsNot",
    "ReplaceComparisonOperator_LtE_Lt",
    "ReplaceComparisonOperator_Lt_LtE",
    "ReplaceComparisonOperator_NotEq_Eq",
    "ReplaceContinueWithBreak",
    "ReplaceFalseWithTrue",
    "ReplaceOrWithAnd",
    "ReplaceTrueWithFalse",
    "ReplaceUnaryOperator_Delete_Invert",
    "ReplaceUnaryOperator_Delete_Not",
    "ReplaceUnaryOperator_Delete_USub",
    "ZeroIterationForLoop",
)
# Of each file the tests that are its own, the quick ones first. Others would notice a few more.
OF_OPERATIONS = [
    f"tests/ops/test_{name}.py" for name in ("errors", "edges", "operators", "fused", "convolution")
] + ["tests/test_typing.py"]
PRIMITIVES = ["tests/ops/test_primitives.py"]
TESTS = {
    "minivat/vat.py": [["tests/test_vat.py", "tests/test_typing.py"]],
    "minivat/divergence.py": [["tests/test_divergence.py"]],
    "minivat/autodiff": [["tests/autodiff", *OF_OPERATIONS, "tests/test_vat.py"], PRIMITIVES],
}
SECONDS = 300  # a mutant whose tests take longer has made a loop endless: it is noticed


def mutants(path: str, code: str) -> Iterator[dict[str, Any]]:
    """All changes of a file: where, by which operator, the lines that differ, the whole code."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    nodes = list(ast_nodes(get_ast(code)))
    for name in OPERATORS:
        operator = get_operator(f"core/{name}")()
        places = [place for node in nodes for place in operator.mutation_positions(node)]
        for occurrence, ((line, column), _) in enumerate(places):
            changed = mutate_code(code, operator, occurrence)
            lines = difflib.unified_diff(code.splitlines(), changed.splitlines(), n=0, lineterm="")
            yield {
                "file": path,
                "line": line,
                "column": column,
                "operator": name,
                "diff": [each for each in lines if not each.startswith(("---", "+++", "@@"))],
                "code": changed,
            }


def key(mutant: dict[str, Any]) -> str:
    """What makes it the same mutant in another commit, as far as that can be told."""
    return json.dumps([mutant[name] for name in ("file", "operator", "column", "diff")])


def tests_of(path: str) -> list[list[str]]:
    """Arguments of pytest, of one command after another, for the tests of this file."""
    for start, tests in TESTS.items():
        if path.startswith(start):
            return tests
    imports = ast.parse((ROOT / "minivat/ops/__init__.py").read_text(encoding="utf-8")).body
    names = [
        alias.name
        for node in imports
        if isinstance(node, ast.ImportFrom) and node.module == Path(path).stem
        for alias in node.names
    ]
    mine = ["-k", " or ".join(names)] if names else []
    return [["tests/autodiff", *OF_OPERATIONS], PRIMITIVES + mine]


def outcome(mutant: dict[str, Any], clone: Path) -> str:
    """What the tests make of it: "killed", "timeout" or "survived"."""
    path = clone / mutant["file"]
    code = path.read_text(encoding="utf-8")
    path.write_text(mutant["code"], encoding="utf-8")
    try:
        for tests in tests_of(mutant["file"]):
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
            done = subprocess.run(command, cwd=clone, capture_output=True, timeout=SECONDS)
            if done.returncode:
                return "killed"
        return "survived"
    except subprocess.TimeoutExpired:
        return "timeout"
    finally:
        path.write_text(code, encoding="utf-8")


def page(rows: list[dict[str, Any]]) -> str:
    """How many mutants of each file the tests notice, and the survivors, in Markdown."""
    tried, noticed = Counter(), Counter()
    for row in rows:
        for name in (row["file"], "all"):
            tried[name] += 1
            noticed[name] += row["outcome"] != "survived"
    lines = ["| file | mutants | noticed | share |", "| --- | --- | --- | --- |"]
    for name in (*sorted(tried.keys() - {"all"}), "all"):
        share = f"{100 * noticed[name] / tried[name]:.1f} %"
        lines.append(f"| {name} | {tried[name]:,} | {noticed[name]:,} | {share} |")
    lines += ["", "| survivor | the line, changed | why no test can tell |", "| --- | --- | --- |"]
    for row in rows:
        if row["outcome"] == "survived":
            changed = " ".join(line[1:].strip() for line in row["diff"] if line[0] == "+")
            code = changed.replace("|", "\\|") or "(a line less)"
            lines.append(f"| {row['file']}:{row['line']} | `{code}` | {row['reason']} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Try mutants, keep what comes of each, print the table and the survivors."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, help="mutants to try, drawn at random (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="of the draw (default: 1)")
    parser.add_argument("--jobs", type=int, default=2, help="at once (default: 2)")
    parser.add_argument("--files", nargs="+", default=FILES, help="files and folders to change")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    args = parser.parse_args()
    if _git("status", "--porcelain", "minivat", "tests"):
        sys.exit("mutation: minivat/ or tests/ has changes that are not committed")
    commit = _git("rev-parse", "HEAD").strip()
    places = [ROOT / name for name in args.files]
    files = [file for place in places for file in (sorted(place.rglob("*.py")) or [place])]
    every = [
        mutant
        for file in files
        for mutant in mutants(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8"))
    ]
    random.Random(args.seed).shuffle(every)
    kept = {key(row): row for row in _read(args.results)}
    drawn = every[: args.count]
    rows = [kept[key(one)] | {"line": one["line"]} for one in drawn if key(one) in kept]
    work = [mutant for mutant in drawn if key(mutant) not in kept]
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        clones: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for job in range(args.jobs):
            _git("clone", "--quiet", str(ROOT), f"{folder}/{job}")
            clones.put(Path(folder) / str(job))

        def tried(mutant: dict[str, Any]) -> dict[str, Any]:
            clone, began = clones.get(), time.monotonic()
            found = outcome(mutant, clone)
            clones.put(clone)
            about = {name: value for name, value in mutant.items() if name != "code"}
            seconds = round(time.monotonic() - began, 1)
            return about | {"outcome": found, "reason": "", "seconds": seconds, "commit": commit}

        with ThreadPoolExecutor(args.jobs) as pool:
            for row in tqdm(pool.map(tried, work), total=len(work), unit="mutant", mininterval=10):
                rows.append(row)
                _write(args.results, rows)
    _write(args.results, rows)
    print(args.results.with_suffix(".md").read_text(encoding="utf-8"))


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def _read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["mutants"] if path.exists() else []


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    rows = sorted(rows, key=lambda row: (row["file"], row["line"], row["column"], row["operator"]))
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f'{{"mutants": [\n{lines}\n]}}\n', encoding="utf-8")
    path.with_suffix(".md").write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
