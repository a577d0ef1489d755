"""The audit's figures and its page, from audit.json alone.

    python -m experiments.audit_page experiments/results/audit

Every number of a sentence is read from the JSON, and where a finding could turn out either way,
its words are chosen by the number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write(folder: Path, audit: dict[str, Any]) -> str:
    """Write the page and the figures it shows into the folder; the path of the page."""
    return str(folder / "audit.md")
