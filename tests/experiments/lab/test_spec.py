"""Every published run's settings are those of a Spec, and a Spec's settings give it back."""

from __future__ import annotations

import json

import pytest

from experiments.lab import results


def published_settings():
    """(file, data set, settings) of every run in the results."""
    for path in sorted(results.RESULTS.rglob("*.json")):
        content = json.loads(path.read_text())
        whole = content.get("data", {}).get("name")
        stack = [content]
        while stack:
            each = stack.pop()
            if isinstance(each, list):
                stack += each
            elif isinstance(each, dict):
                dataset = each.get("data", {}).get("name") if "data" in each else whole
                if "evaluate_every" in each.get("settings", ()):  # a run's, not an estimator's
                    yield path.name, dataset, each["settings"]
                stack += each.values()


PUBLISHED = list(published_settings())


def test_there_are_published_runs():
    assert len(PUBLISHED) >= 94


@pytest.mark.parametrize("name", sorted({name for name, *_ in PUBLISHED}))
def test_every_published_run_loads_into_a_spec_and_writes_back_identical_settings(name):
    for _, dataset, settings in [each for each in PUBLISHED if each[0] == name]:
        spec = results.spec_of({"settings": settings, "data": {"name": dataset}})
        assert json.loads(json.dumps(spec.settings())) == settings
        assert spec.resolved() == spec
