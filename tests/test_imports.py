"""Which module imports which: arrows between packages point one way, and no two modules import each
other, not even inside their functions."""

import ast
import graphlib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
PACKAGES = ("keras_cvt", "training", "benchmarks", "colab")


def modules():
    found = {}
    for package in PACKAGES:
        for path in CHECKOUT.glob(f"{package}/**/*.py"):
            parts = path.relative_to(CHECKOUT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imported(path):
    """The modules of this project that a file imports, those for type checkers alone left out."""
    found, todo = set(), [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & set(MODULES) or {node.module}
        todo += ast.iter_child_nodes(node)
    return found & set(MODULES)


IMPORTED = {name: imported(path) - {name} for name, path in MODULES.items()}


def test_no_two_modules_import_each_other():
    assert len(MODULES) > 100 and sum(map(len, IMPORTED.values())) > 300
    tuple(graphlib.TopologicalSorter(IMPORTED).static_order())  # CycleError names them


def test_the_library_stands_alone_and_programs_stand_on_it():
    below = {"keras_cvt": set(), "training": {"keras_cvt"}, "colab": {"keras_cvt"}}
    for name, others in IMPORTED.items():
        package = name.partition(".")[0]
        allowed = {package} | below.get(package, set(PACKAGES) - {"colab"})
        assert {other.partition(".")[0] for other in others} <= allowed, name


@pytest.mark.parametrize("package", ["keras_cvt", "training"])
def test_arrows_between_packages_point_one_way(package):
    """Between sub-packages, and modules that lie in none."""

    def room(name):
        return ".".join(name.split(".")[:2])

    arrows = {}
    for name, others in IMPORTED.items():
        if name.startswith(f"{package}."):
            here = [o for o in others if o.startswith(f"{package}.")]
            arrows.setdefault(room(name), set()).update(room(o) for o in here)
    for name, others in arrows.items():
        others.discard(name)
    tuple(graphlib.TopologicalSorter(arrows).static_order())
