"""`python -m experiments`: its names, and what is loaded for them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import experiments
from experiments import __main__ as entry
from experiments import images, tables
from experiments.lab import space
from experiments.lab.spec import FewLabels
from experiments.registry import EXPERIMENTS

ROOT = Path(experiments.__file__).parents[1]
NAMES = [*EXPERIMENTS, *tables.TABLES, *entry.figures(), *entry.COMMANDS]


def python(*arguments: str) -> subprocess.CompletedProcess:
    """Another process."""
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_the_names_are_those_of_the_experiments_tables_and_figures():
    assert list(entry.commands()) == [*EXPERIMENTS, *tables.TABLES, *entry.figures()]
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_help_lists_every_name(capsys, arguments):
    assert entry.main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert set(NAMES) <= set(out.replace(",", " ").split())


@pytest.mark.parametrize("name", ["mnist_sup", "table7", "", "__main__"])
def test_another_name_is_refused_with_those_there_are(refused, name):
    message = refused(name)
    assert f"got {name!r}" in message
    assert set(NAMES) <= set(message.replace(",", " ").split())


@pytest.mark.parametrize("name", NAMES)
def test_every_name_resolves(name):
    assert callable(entry.command(name))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_of_an_experiment_names_its_flags_methods_and_defaults(call, capsys, name):
    assert call(name, "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: python -m experiments {name} ")
    spec = EXPERIMENTS[name]().resolved()
    assert all(method in out for method in spec.methods)
    assert f"default: vat, which is {spec.method}" in " ".join(out.split())
    assert f"(default: {spec.updates})" in " ".join(out.split())
    assert ("--holdout" in out) == isinstance(spec, images.OnCifar10)
    assert ("--model" in out) == ("--width" in out) == isinstance(spec, images.Images)
    few = isinstance(spec, FewLabels)
    assert ("--labels" in out) == ("--unlabelled-batch-size" in out) == few
    assert ("--entropy-weight" in out) == ("vat-entmin" in spec.methods)
    assert ("--ramp-up" in out) == ("pi-model" in spec.methods) == few
    assert ("--data " in out) == (len(spec.datasets) > 1)


def test_the_entry_alone_loads_nothing():
    """A bench settles its threads before NumPy is there."""
    code = "import sys; from experiments import __main__ as entry; print(*sys.modules)"
    modules = set(python("-c", code).stdout.split())
    assert "experiments.__main__" in modules
    assert not {"numpy", "minivat", "experiments.tables"} & modules


def test_a_name_loads_no_other_command():
    code = "import sys; from experiments import __main__ as entry; entry.command('mnist-sup'); "
    modules = set(python("-c", code + "print(*sys.modules)").stdout.split())
    assert "experiments.mnist" in modules
    others = {f"experiments.{module}" for module, *_ in entry.COMMANDS.values()}
    assert not {*others, "matplotlib", "torch", "sklearn"} & modules


def test_no_traceback_reaches_the_shell():
    done = python("-m", "experiments", "mnist-sup", "--data", "digits", "--out", "/dev/null")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_what_was_typed_is_taken_where_no_arguments_are_given(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/somewhere/__main__.py", "table9"])
    assert entry.main() == 2
    assert "got 'table9'" in capsys.readouterr().err


# Too little memory


@pytest.mark.parametrize("mib", [150, 400, 800])
def test_too_little_address_space_is_said_before_a_library_waits_for_it(mib):
    """OpenBLAS would wait for ever, at some limits."""
    pytest.importorskip("resource")
    done = subprocess.run(
        ["sh", "-c", f"ulimit -v {mib << 10} && exec {sys.executable} -m experiments mnist-sup"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"error: too little memory: ulimit -v allows {mib} MiB of address space, "
        f"and the libraries need {space.needed() // space.MIB}\n"
    )


@pytest.mark.parametrize("threads", ["1", "8"])
def test_every_thread_of_openblas_needs_some(threads, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", threads)
    assert space.needed() == (768 + 64 * int(threads)) * 2**20


@pytest.mark.parametrize(
    ("error", "limited", "said"),
    [
        (ImportError("failed to map segment"), True, True),
        (OSError("Could not load libllvmlite.so"), True, True),
        (MemoryError(), True, True),
        (ImportError("cannot import name"), False, False),
        (ModuleNotFoundError("no module"), True, False),
        (FileNotFoundError(2, "No such file"), True, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_a_library_that_finds_no_memory_later_takes_one_line(
    error, limited, said, monkeypatch, capsys
):
    def called(arguments):
        raise error

    monkeypatch.setattr(entry, "called", called)
    monkeypatch.setattr(space, "limit", lambda: space.needed() if limited else None)
    if said:
        assert entry.main(["mnist-sup"]) == 1
        assert capsys.readouterr().err == "error: out of memory, which ulimit -v limits\n"
    else:
        with pytest.raises(type(error)):
            entry.main(["mnist-sup"])


# Ctrl-C


def test_ctrl_c_before_anything_has_begun_takes_one_line(monkeypatch, capsys):
    def called(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "called", called)
    assert entry.main(["mnist-sup"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_ctrl_c_of_which_a_library_makes_another_error_takes_one_line(monkeypatch, capsys):
    def called(arguments):
        try:
            entry.once()
        except KeyboardInterrupt:
            raise ImportError("PyCapsule_Import could not import module") from None

    monkeypatch.setattr(entry, "called", called)
    monkeypatch.setattr(entry, "interrupts", [])
    assert entry.main(["mnist-sup"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_a_second_ctrl_c_changes_nothing_and_a_later_one_is_heeded(monkeypatch):
    moments = iter([5.0, 5.9, 7.0])
    monkeypatch.setattr(entry, "interrupts", [])
    monkeypatch.setattr(entry.time, "monotonic", lambda: next(moments))
    with pytest.raises(KeyboardInterrupt):
        entry.once()
    entry.once()
    with pytest.raises(KeyboardInterrupt):
        entry.once()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="tells what a process has loaded")
@pytest.mark.parametrize("moments", [(0.0,), (0.1, 0.0), (0.2, 0.1), (0.5, 0.0)])
def test_ctrl_c_while_libraries_are_loaded_takes_at_most_one_line(moments):
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments", "mnist-sup", "--help"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    loaded = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and "numpy" not in loaded.read_text():
        time.sleep(0.01)
    for moment in moments:
        time.sleep(moment)
        process.send_signal(signal.SIGINT)
    error = process.communicate()[1]
    # Python kills itself if the signal came in an `exec` of text (namedtuple's); shells say 130.
    codes = {"": [0], "interrupted\n": [130, -signal.SIGINT]}
    assert process.returncode in codes[error]
