"""What an import loads, and what it says is missing."""

import ast
import pathlib
import subprocess
import sys

import minivat

PACKAGE = pathlib.Path(minivat.__file__).parent


def python(code):
    """What a fresh interpreter prints when it runs the code."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    return done.stdout


def test_import_minivat_loads_nothing_heavy():
    """`import minivat` takes little more than NumPy's own import."""
    heavy = "cupy cudnn scipy matplotlib numba tqdm pooch sklearn threadpoolctl".split()
    code = f"import sys, minivat; print([m for m in {heavy} if m in sys.modules])"
    assert python(code).strip() == "[]"


def test_the_estimators_name_the_extra_they_need():
    code = """if True:
        import sys
        sys.modules["sklearn"] = None
        try:
            import minivat.sklearn
        except ImportError as error:
            print(error)
    """
    assert python(code) == 'minivat.sklearn needs scikit-learn: pip install "minivat[sklearn]"\n'


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_only_the_backend_imports_cupy():
    importing = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] in ("cupy", "cupyx") for name in imports(path))
    }
    assert importing == {"backend.py"}
