"""The soak: long checks of what is promised on a bad day, too long for the test suite.

Runs processes that are killed, reads damaged files, fills disks, and so on; prints a table of what
is promised, how that is tested, how often, and the failures; and writes it as soak.json and .md, in
which the checks that are not run keep what they have. Exit code 1 where anything failed."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.lab import cli, machine, results, runs
from minivat import backend

CHECKS = {
    "kills": "runs of a training or a sweep",
    "fuzz": "damaged files of a format",
    "hostile": "runs in one kind of trouble",
    "downloads": "downloads of a kind",
    "threads": "groups of threads or processes",
    "growth": "minutes",
}  # name of the module: what it counts


def parser() -> cli.Parser:
    """The command line."""
    parser = cli.Parser(__doc__, "soak")
    counts = "; ".join(f"{name}: {what}, {_module(name).COUNT}" for name, what in CHECKS.items())
    parser.add_argument(
        "checks",
        nargs="*",
        type=cli.argument(str, CHECKS.__contains__, f"one of {', '.join(CHECKS)}"),
        metavar="NAME",
        help=f"checks to run, of: {', '.join(CHECKS)} (default: all)",
    )
    cli.add_count(
        parser, "--count", 1, None, f"trials of each promise (default by check: {counts})"
    )
    cli.add_count(parser, "--seed", 0, 1, "of all that is random")
    parser.add_argument(
        "--results",
        type=Path,
        default=results.NEW,
        metavar="DIR",
        help="folder of soak.json (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    return parser


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks, write and print what they found; 1 where a promise was not kept."""
    args = parser().parse_args(argv)
    path = results.writable(args.results / "soak.json")
    rows = results.published(path, "soak", lambda row: f"{row['check']}: {row['promise']}")
    found = []
    for name in args.checks or CHECKS:
        of_check = list(run(name, args))
        found += of_check
        rows = {key: row for key, row in rows.items() if row["check"] != name}
        rows |= {f"{name}: {row['promise']}": row for row in of_check}
        _write(path, sorted(rows.values(), key=_place))
    header = ["promise", "how tested", "count", "failures", "seconds"]
    print(cli.table(header, [_cells(row) for row in found]))
    for row in found:
        for line in (*row["measured"], *row["failures"]):
            print(f"{row['check']}: {line}")
    if args.json:
        print(json.dumps({"runs": found}))
    return 1 if any(row["failures"] for row in found) else 0


def run(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one check, each with what it takes to do it again."""
    module = _module(name)
    count = args.count or module.COUNT
    environment = machine.environment(backend.Device())
    about = {
        "check": name,
        "command": f"python -m experiments soak {name} --count {count} --seed {args.seed}",
        "seed": args.seed,
        "commit": environment["commit"],
        "device": environment["device"],
    }
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        found = []
        for promise in module.promises(count, args.seed, Path(folder)):
            print(f"{name}: {promise.text} ...", file=sys.stderr)
            found.append(about | promise.kept())
    return found


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of docs/reliability.md."""
    lines = [
        "| promise | how tested | count | failures | command |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        promise, tested, count, failures, _ = _cells(row)
        measured = "".join(f"; {line}" for line in row["measured"])
        command = row["command"].removeprefix("python -m experiments ")
        lines.append(f"| {promise} | {tested}{measured} | {count} | {failures} | `{command}` |")
    return "\n".join(lines) + "\n"


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """soak.json, and beside it the table for docs/reliability.md."""
    runs.write_json(path, {"runs": rows})
    runs.replace_file(path.with_suffix(".md"), lambda file: file.write(markdown(rows).encode()))


def _module(name: str) -> Any:
    return importlib.import_module(f"experiments.soak.{name}")


def _place(row: dict[str, Any]) -> int:
    return [*CHECKS, row["check"]].index(row["check"])


def _cells(row: dict[str, Any]) -> list[str]:
    numbers = row["count"], len(row["failures"]), f"{row['seconds']:.0f}"
    return [row["promise"], row["tested"], *map(str, numbers)]
