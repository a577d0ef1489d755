"""From measured parts to the numbers of audit.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from experiments.audit import measure
from experiments.audit.measure import Measured, Part

Numbers = dict[str, Any]


def summary(values: np.ndarray) -> Numbers:
    """Mean and five quantiles; all 0 of no values."""
    values = values if values.size else np.zeros(1)
    names = ("p5", "p25", "median", "p75", "p95")
    quantiles = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
    return {"mean": float(np.mean(values)), **dict(zip(names, quantiles, strict=True))}


def distribution(values: np.ndarray) -> Numbers:
    """The summary, and all percentiles from 0 to 100; all 0 of no values."""
    values = values if values.size else np.zeros(1)
    percentiles = np.quantile(values, np.linspace(0, 1, 101)).tolist()
    return {**summary(values), "percentiles": percentiles}


def effective_rank(eigenvalues: np.ndarray) -> np.ndarray:
    """exp of the entropy of the eigenvalues (C, N) as shares of their sum, (N,); Roy, Vetterli."""
    return np.exp(stats.entropy(eigenvalues, axis=0))


def spectra_numbers(measured: Measured) -> Numbers:
    """Of λ₁, and of the spectrum's shape where λ₁ > 0."""
    eigenvalues, doubt = measured["eigenvalues"], measured["doubt"]
    lambda1 = eigenvalues[0]
    largest = np.sort(lambda1)[-max(1, len(lambda1) // 20) :]
    positive = eigenvalues[:, lambda1 > 0]
    return {
        "test_error": float(measured["test_error"]),
        "share_of_zero_hessians": float(np.mean(lambda1 == 0)),
        "lambda1": distribution(lambda1),
        "share_of_largest": float(largest.sum() / lambda1.sum()),
        "ratio": distribution(positive[1] / positive[0]),
        "share_of_large_ratios": float(np.mean(positive[0] > 10 * positive[1])),
        "effective_rank": distribution(effective_rank(positive)),
        "rank": summary(np.sum(positive > 0, axis=0)),
        "doubt": summary(doubt),
        "rank_correlation_of_lambda1_with_doubt": float(stats.spearmanr(lambda1, doubt).statistic),
    }


def perturbations_numbers(measured: Measured, epsilon: float) -> Numbers:
    """Of D and of changed predictions, by direction and sign, beside the true maximum and ½ε²λ₁.

    The drawn sign is the one that VAT meets; the better one is that of the larger D.
    """
    by_direction = dict(measured)
    maximum, flipped = by_direction.pop(measure.TRUE)
    towards, towards_flips = by_direction.pop(measure.CLASS)
    quadratic = 0.5 * epsilon**2 * by_direction.pop("lambda1")
    reached = by_direction.pop("starts") >= 0.99 * maximum

    def over(values: np.ndarray, whole: np.ndarray) -> Numbers:
        return summary(values[whole > 0] / whole[whole > 0])

    def of_direction(drawn, drawn_flips, other, other_flips) -> Numbers:
        better = np.maximum(drawn, other)
        return {
            "drawn": summary(drawn),
            "better": summary(better),
            "drawn_flips": float(drawn_flips.mean()),
            "better_flips": float(np.where(drawn >= other, drawn_flips, other_flips).mean()),
            "drawn_over_quadratic": over(drawn, quadratic),
            "better_over_quadratic": over(better, quadratic),
            "drawn_over_maximum": over(drawn, maximum),
            "better_over_maximum": over(better, maximum),
            "sign_ratio": over(np.minimum(drawn, other), better),
        }

    return {
        "towards_a_class": summary(towards),
        "towards_a_class_flips": float(towards_flips.mean()),
        "towards_a_class_over_maximum": over(towards, maximum),
        "quadratic": summary(quadratic),
        "maximum": summary(maximum),
        "maximum_flips": float(flipped.mean()),
        "maximum_over_quadratic": over(maximum, quadratic),
        "reached_from_u1": float(np.mean(reached[:2].any(axis=0))),
        "reached_from_all_starts": float(np.mean(reached.all(axis=0))),
        "directions": {
            name: of_direction(*drawn, *other) for name, (drawn, other) in by_direction.items()
        },
    }


def numbers(parts: Sequence[Part], folder: Path) -> Numbers:
    """The numbers of all parts, by network and then by what was measured."""
    networks = {part.network.label: _about(part.network) for part in parts}
    for part in parts:
        measured, entry = part.read(folder), networks[part.network.label]
        if part.kind == "spectra":
            entry["spectra"] = spectra_numbers(measured)
        elif part.kind == "directions":
            entry["directions"][part.dtype] = {
                name: {"captured": summary(captured), "alignment": summary(alignment)}
                for name, (captured, alignment) in measured.items()
            }
        else:
            found = perturbations_numbers(measured, part.epsilon)
            how = {"dtype": part.dtype, "steps": part.steps}
            entry["perturbations"][f"{part.epsilon:g}"] = how | found
    return networks


def _about(network):
    settings = network.spec.settings()
    return {
        "role": network.role,
        "method": settings["method"],
        "seed": settings["seed"],
        "updates": network.updates,
        "settings": settings,
        "directions": {},
        "perturbations": {},
    }


def stages_of(audit: Numbers, label: str) -> list[Numbers]:
    """The numbers of a network of audit.json over its training, from the first stage on."""
    method = audit["networks"][label]["method"]
    stages = [n for n in audit["networks"].values() if n["method"] == method]
    return sorted((n for n in stages if n["role"] != "again"), key=lambda n: n["updates"])
