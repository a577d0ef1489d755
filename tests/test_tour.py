"""The notebook runs from top to bottom, and what is committed is such a run.

    python -m tests.test_tour

executes it again and writes its outputs, after a change to one of its cells.
"""

import sys
from pathlib import Path

import pytest

import minivat

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from jupyter_client.kernelspec import KernelSpec  # noqa: E402  nbclient brings it
from jupyter_client.manager import AsyncKernelManager  # noqa: E402

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "tour.ipynb"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class ThisPython(AsyncKernelManager):
    """A kernel of the interpreter that runs the tests, whatever kernels are installed."""

    kernel_spec = KernelSpec(
        argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    )


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def execute(notebook):
    """Run all cells, in the top folder, and forget what differs from run to run."""
    nbclient.NotebookClient(
        notebook,
        kernel_manager_class=ThisPython,
        record_timing=False,
        resources={"metadata": {"path": str(ROOT)}},
        timeout=300,
    ).execute()
    notebook.metadata = nbformat.from_dict(METADATA)


def outputs(notebook):
    """The kinds of what each cell shows. Not stderr, to which libraries say what they please."""
    return [
        [
            (output.output_type, *sorted(output.get("data", {})))
            for output in cell.outputs
            if output.get("name") != "stderr"
        ]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.fixture
def jupyter_folders(monkeypatch, tmp_path):
    """The kernel reads and writes nothing of the user's; this checkout is what it imports."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.mark.usefixtures("jupyter_folders")
def test_every_cell_runs_and_shows_what_is_committed():
    notebook, committed = read(), read()
    execute(notebook)  # a cell that raises, by an assertion too, raises here
    assert outputs(notebook) == outputs(committed)
    streams = [o for cell in notebook.cells for o in cell.get("outputs", []) if "text" in o]
    assert not [stream.text for stream in streams if "Warning" in stream.text]


@pytest.mark.usefixtures("jupyter_folders")
def test_it_is_this_python_and_this_checkout_and_a_claim_that_does_not_hold_is_an_error():
    here = (sys.executable, minivat.__file__)
    sources = (
        f"import sys, minivat\nassert (sys.executable, minivat.__file__) == {here}",
        "assert 1 > 2, 'no'",
    )
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, sources)))
    with pytest.raises(nbclient.exceptions.CellExecutionError) as caught:
        execute(notebook)
    assert (caught.value.ename, caught.value.evalue) == ("AssertionError", "no")


def test_what_is_committed_is_one_small_run_in_order():
    notebook = read()
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert notebook.metadata == METADATA
    assert not any(cell.metadata for cell in notebook.cells)
    assert NOTEBOOK.stat().st_size < 500_000


if __name__ == "__main__":
    tour = read()
    execute(tour)
    nbformat.write(tour, NOTEBOOK)
