"""README and docs/: their links, code blocks and tables, for the tests; and how to renew them.

    python -m tests.documents

writes the line numbers of all links to definitions, and the tables of experiments/results/, into
the documents.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]

# [`vat.lds`](../minivat/vat.py#L12): a definition, by its name under minivat, its file and line
DEFINITION = re.compile(r"\[`([\w.]+)`\]\(([\w./]+\.py)#L(\d+)\)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
TABLE = re.compile(r"<!-- (\S+\.md) -->\n(.*?)<!-- end -->", re.DOTALL)
BLOCK = re.compile(r"(?:<!-- needs (.*?) -->\n)?```python\n(.*?)```", re.DOTALL)
CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def name_of(document: Path) -> str:
    """Its path from the root, which names a test."""
    return document.relative_to(ROOT).as_posix()


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def links(document: Path) -> list[str]:
    """Where its links lead, without those in code and those to other sites."""
    found = LINK.findall(CODE.sub("", text_of(document)))
    return [target for target in found if not target.startswith(("http://", "https://"))]


def anchors(document: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", text_of(document)), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


class Definition(NamedTuple):
    """A link to a definition: in which document, the name it shows, the file, the line."""

    document: Path
    name: str
    file: Path
    line: int


def definitions(document: Path) -> list[Definition]:
    return [
        Definition(document, name, (document.parent / path).resolve(), int(line))
        for name, path, line in DEFINITION.findall(text_of(document))
    ]


def lines_that_define(name: str, file: Path) -> list[int]:
    """The lines of a file at which the last part of a dotted name is defined, counted from 1.

    Inside of a class that is the part before it, if there is one with a capital. None without file.
    """
    if not file.is_file():
        return []
    *parts, last = name.split(".")
    owner = parts[-1] if parts and parts[-1][0].isupper() else None
    indent = "    " if owner else ""
    inside, found = owner is None, []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if owner and not line.startswith((" ", ")")) and line:
            inside = re.match(rf"class {owner}\b", line) is not None
        if inside and re.match(rf"{indent}(?:(?:def|class) {last}\b|{last}\b[^=(]* = )", line):
            found.append(number)
    return found


class Block(NamedTuple):
    """A block of Python. needs: what it cannot run without, by the comment above it."""

    needs: str
    code: str


def blocks(document: Path) -> list[Block]:
    return [Block(*found) for found in BLOCK.findall(text_of(document))]


def run(codes: list[str], **names: Any) -> dict[str, Any]:
    """Run blocks one after the other, as a reader would; the names that they leave."""
    names["__name__"] = "documents"
    for code in codes:
        exec(compile(code, "a block", "exec", dont_inherit=True), names)
    return names


def example_table() -> dict[str, np.ndarray]:
    """X, y and X_new, as the examples for scikit-learn expect them."""
    x = np.random.default_rng(0).standard_normal((60, 3))
    return {"X": x, "y": np.arange(60) % 4 - 1, "X_new": x[:5]}


def measured(name: str) -> str:
    """A table of experiments/results/, as a document holds it."""
    return (RESULTS / name).read_text(encoding="utf-8").strip() + "\n"


def cells(line: str) -> list[str]:
    """The cells of a line of a table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def renew(document: Path) -> str:
    """The document's text with the line numbers and tables of today."""

    def link(found: re.Match) -> str:
        name, path, line = found.groups()
        lines = lines_that_define(name, document.parent / path)
        return f"[`{name}`]({path}#L{lines[0] if lines else line})"

    def table(found: re.Match) -> str:
        return f"<!-- {found[1]} -->\n{measured(found[1])}<!-- end -->"

    return TABLE.sub(table, DEFINITION.sub(link, text_of(document)))


if __name__ == "__main__":
    for each in DOCUMENTS:
        each.write_text(renew(each), encoding="utf-8")
