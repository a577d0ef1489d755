"""The results page: every table and figure of the paper, ours beside the paper's numbers.

    python -m experiments results

Written from the files in experiments/results alone: docs/results.html, for people, and
docs/results.json, all numbers that it shows.
"""

from __future__ import annotations

import base64
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import __main__ as entry
from experiments import tables
from experiments.claims import CLAIMS, Held
from experiments.lab import cli, figure, results, runs
from experiments.lab.sweep import Result
from experiments.lab.table import COLUMNS, Line, Table

TEMPLATE = "page.html.jinja"
REPRODUCED = 2.0  # standard errors
DOCS = results.RESULTS.parents[1] / "docs"


def compared(line: Line, found: Sequence[Result]) -> dict[str, Any]:
    """A line of a table: ours, the paper's, and the difference in standard errors.

    These are √(s²/n + p²), with s the deviation of our n runs, p that of the paper, which does not
    say of how many. None where one of the two is missing.
    """
    errors = {str(each["settings"]["seed"]): each["test_error"] for each in found}
    ours: dict[str, Any] = {"seeds": errors, "mean": statistics.mean(errors.values())}
    n = len(errors)
    ours["deviation"] = statistics.stdev(errors.values()) if n > 1 else None
    ours["paper"] = list(line.paper) if line.paper else None
    ours["difference"] = None
    if line.paper and n > 1:
        error = math.sqrt(ours["deviation"] ** 2 / n + line.paper[1] ** 2)
        ours["difference"] = (ours["mean"] - line.paper[0]) / error if error else None
    return ours


def of_table(table: Table, held: Held) -> dict[str, Any]:
    """What the page shows of a table."""
    found = held.table(table.name)
    lines = []
    for key, line in table.lines.items():
        if key in found or (line.paper and line.default):
            cells = [COLUMNS[name](line.spec.resolved()) for name in table.columns]
            row = {"cells": cells, "paper": list(line.paper) if line.paper else None}
            lines.append(row | (compared(line, found[key]) if key in found else {"seeds": {}}))
    cited = [[cells[0], *cells[1:-1], cells[-1]] for cells in table.cited]
    every = [each for of_line in found.values() for each in of_line]
    return {
        "name": table.name,
        "title": table.about.partition("\n")[0],
        "columns": list(table.columns),
        "lines": lines,
        "cited": cited,
        **status_of_table(held.reduced(table.name), lines),
        **circumstances(every),
    }


def status_of_table(reduced: bool, lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The table's line at the top of the page."""
    ran = [each for each in lines if each["seeds"]]
    with_paper = [each for each in ran if each["paper"]]
    if not ran:
        return {"status": "not run", "why": "No run at any scale."}
    if reduced:
        return {
            "status": "reduced scale",
            "why": "Not to be put beside the paper's numbers.",
        }
    far = [each for each in with_paper if (each["difference"] or 0) > REPRODUCED]
    counts = {
        "of the paper's not": len(lines) - len(ran),
        "of them with one seed": sum(len(each["seeds"]) == 1 for each in with_paper),
    }
    said = [f"{count} {what}" for what, count in counts.items() if count]
    why = ", ".join([f"{len(ran)} rows run", *said])
    if far:
        names = "; ".join(", ".join(each["cells"]) for each in far)
        return {"status": "differs", "why": f"{why}. Worse than the paper's: {names}."}
    return {"status": "reproduced", "why": f"{why}, none worse by more than two standard errors."}


def of_figure1(held: Held) -> dict[str, Any]:
    """What the page shows of figure 1, which has a program of its own."""
    found = held.figure1()
    (answer,) = (claim.answer(held) for claim in CLAIMS if claim.needs == "figure1")
    if not answer:
        raise runs.RunError(
            f"{held.folder} holds no synthetic/synthetic.json: make synthetic first"
        )
    uri = base64.b64encode((held.folder / "synthetic" / "synthetic.png").read_bytes()).decode()
    return {
        "name": "figure1",
        "title": "Figure 1: VAT on points in the plane, with eight labels.",
        "about": "p(y = 1|x) and the LDS over training, by make synthetic.",
        "setting": "Moons and circles, 1,000 unlabelled points.",
        "status": "reproduced" if answer.confirmed else "differs",
        "why": answer.text,
        "picture": "data:image/png;base64," + uri,
        "seeds": sorted({run["seed"] for run in found["runs"]}),
        "updates": [found["settings"]["updates"]],
        "devices": [found["environment"]["device"]],
        "commits": [found["environment"]["commit"][:7]],
        "command": found["command"],
    }


def of_figure(each: figure.Figure, held: Held) -> dict[str, Any]:
    """What the page shows of a figure."""
    found = held.figure(each.name)
    every = [one for of_point in found.values() for one in of_point]
    answers = [(claim, claim.answer(held)) for claim in CLAIMS if claim.needs == each.name]
    verdicts = [answer.confirmed for _, answer in answers if answer]
    status, why = "not run", "No run at any scale."
    if every:
        why = " ".join(answer.text for _, answer in answers if answer)
        status = "reproduced" if all(verdicts) else "differs"
        status = "reduced scale" if held.reduced(each.name) else status
    title, _, about = each.about.partition("\n")
    return {
        "name": each.name,
        "title": title,
        "about": about.strip(),
        "setting": each.setting,
        "status": status,
        "why": why,
        "picture": picture(each, every) if every else None,
        **circumstances(every),
    }


def picture(each: figure.Figure, found: Sequence[Result]) -> str:
    """A figure as a data URI, the same bytes whenever it is drawn."""
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": each.name}):
        figure.canvas(each, found).savefig(file, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()


def circumstances(found: Sequence[Result]) -> dict[str, Any]:
    """Of runs: seeds, updates, devices, commits, and the command of the first."""
    settings = [each["settings"] for each in found]
    return {
        "seeds": sorted({each["seed"] for each in settings}),
        "updates": sorted({each["updates"] for each in settings}),
        "devices": sorted({each["device"] for each in found}),
        "commits": sorted({each["commit"][:7] for each in found if each.get("commit")}),
        "command": next((each["command"] for each in found if "command" in each), None),
    }


def content(held: Held) -> dict[str, Any]:
    """Everything that the page shows."""
    answers = [(claim, claim.answer(held)) for claim in CLAIMS]
    return {
        "tables": [of_table(each, held) for each in tables.TABLES.values()],
        "figures": [of_figure1(held), *(of_figure(f, held) for f in entry.figures().values())],
        "claims": [
            {
                "section": claim.section,
                "says": claim.says,
                "answer": answer.text if answer else "Not run.",
                "verdict": verdict(answer and answer.confirmed),
                "reduced": held.reduced(claim.needs),
            }
            for claim, answer in answers
        ],
    }


def verdict(confirmed: bool | None) -> str:
    """In words."""
    return {None: "open", True: "confirmed", False: "not confirmed"}[confirmed]


def rendered(shown: Mapping[str, Any]) -> str:
    """The page as HTML."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(TEMPLATE).render(shown) + "\n"


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; the exit code."""
    parser = cli.Parser(__doc__, "results")
    parser.add_argument(
        "--results",
        type=Path,
        default=results.RESULTS,
        metavar="DIR",
        help="default: the published",
    )
    parser.add_argument(
        "--out", type=Path, default=DOCS / "results.html", metavar="FILE", help="default: in docs/"
    )
    args = parser.parse_args(argv)
    path = results.writable(args.out)
    shown = content(Held(args.results))
    runs.replace_file(path, lambda file: file.write(rendered(shown).encode()))
    numbers = {**shown, "figures": [{**each, "picture": None} for each in shown["figures"]]}
    runs.write_json(path.with_suffix(".json"), numbers)
    print(f"written: {path}")
    return 0
