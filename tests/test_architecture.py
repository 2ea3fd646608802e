"""The shape of the house, held by tests."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fedapp import PACKAGES, ROOT
from fedapp.config.experiment import known_keys
from fedapp.config.generate import with_block
from tasks.settings import flatten

LAYERS = {"tasks": 0, "strategies": 1, "privacy": 2, "sim": 3, "fedapp": 4}
FLWR_ALLOWED = ("strategies/flower/", "privacy/flower/", "fedapp/", "sim/")
LAZY = {
    "torchvision",
    "peft",
    "diffusers",
    "opacus",
    "transformers",
    "matplotlib",
    "skimage",
    "ray",
}
FILES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]


def imports(file: Path, top_level_only: bool = False) -> set[str]:
    """Root names of all modules a file imports (``from x.y import z`` gives ``x``)."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


def file_graph() -> dict[str, set[str]]:
    """``{module: modules of this project that its file names in an import}``: at the top, inside
    functions and for type checkers alike, since all three tie two files together."""
    modules = {}
    for file in FILES:
        parts = file.relative_to(ROOT).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    graph: dict[str, set[str]] = {}
    for name, file in modules.items():
        named: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.module and node.level == 0, f"{file}: imports are absolute"
                for alias in node.names:  # a file of a package, or something in one file
                    whole = f"{node.module}.{alias.name}"
                    named.add(whole if whole in modules else node.module)
        graph[name] = named & set(modules) - {name}
    return graph


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Groups of two or more nodes that all reach one another (strongly connected components)."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = list(graph[start])
        while ahead:
            node = ahead.pop()
            if node not in seen:
                seen.add(node)
                ahead += graph[node]
        return seen

    reach = {node: reached(node) for node in graph}
    within = {node for node in graph if node in reach[node]}
    return {frozenset(other for other in reach[node] if node in reach[other]) for node in within}


def test_no_circle_of_files() -> None:
    assert not circles(file_graph()), "files that import one another, directly or through others"


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": {"d"}, "f": {"a"}}
    assert circles(graph) == {frozenset("abc"), frozenset("de")}


def test_packages_are_the_layers() -> None:
    assert set(PACKAGES) == set(LAYERS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_downward(file: Path) -> None:
    own = LAYERS[file.relative_to(ROOT).parts[0]]
    upward = {name for name in imports(file) & set(LAYERS) if LAYERS[name] > own}
    assert not upward, f"{file} imports upward: {upward}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_flwr_stays_in_its_places(file: Path) -> None:
    if "flwr" in imports(file):
        assert str(file.relative_to(ROOT)).startswith(FLWR_ALLOWED)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_heavy_packages_are_imported_lazily(file: Path) -> None:
    if not file.name.endswith("figures.py"):  # themselves imported when a report is drawn
        assert not imports(file, top_level_only=True) & LAZY


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_stay_small_and_documented(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text)), "every module says what it is"
    assert file.name != "utils.py"


def test_every_published_method_cites_its_paper() -> None:
    cited = [ROOT / "tasks/fields/siren.py", *(ROOT / "strategies/rules").glob("[!_]*.py")]
    cited += [
        ROOT / f"privacy/{name}.py"
        for name in ("joint", "ring", "accounting", "secagg/__init__", "secagg/shamir")
    ]
    cited += [ROOT / f"privacy/releases/{name}.py" for name in ("central", "distributed")]
    cited += [ROOT / f"strategies/local/{name}.py" for name in ("meta", "reptile", "adapters")]
    cited += [
        ROOT / f"tasks/talking_head/{name}.py"
        for name in ("adapters", "diffusion", "judges", "task")
    ]
    cited += [ROOT / "tasks/optimise.py", ROOT / "privacy/attacks/split.py"]
    cited += [ROOT / f"tasks/split_nerf/{name}.py" for name in ("__init__", "grids")]
    for file in cited:
        docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        assert "https://" in docstring, f"{file} does not link its paper"


def test_protecting_code_draws_nothing_from_ordinary_generators() -> None:
    for file in (ROOT / "privacy").rglob("*.py"):
        if "attacks" in file.parts:  # attackers protect nothing, and are to be repeatable
            continue
        text = file.read_text(encoding="utf-8")
        for forbidden in (
            "np.random",
            "numpy.random",
            "torch.rand",
            "torch.normal",
            "import random",
        ):
            assert forbidden not in text, f"{file}: {forbidden}"
        assert "manual_seed" not in text, file  # of a seed torch keeps 32 bits


def test_the_client_app_is_cheap_to_import() -> None:
    forbidden = sorted(LAZY | {"torch"} - {"ray"})
    code = (
        "import sys; import fedapp.client_app; "
        f"found = [name for name in {forbidden} if name in sys.modules]; "
        "sys.exit(repr(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "from fedapp.cli.main import app; from typer.testing import CliRunner as R; "
        "assert R().invoke(app, ['--help']).exit_code == 0",
        "from fedapp.cli.main import app; from typer.testing import CliRunner as R; "
        "assert R().invoke(app, ['list']).exit_code == 0",
        "from fedapp.cli.main import app; from typer.testing import CliRunner as R; "
        "assert R().invoke(app, ['list', 'keys']).exit_code == 0",
        "from fedapp.cli.main import app; from typer.testing import CliRunner as R; import "
        "tempfile;"
        "d = tempfile.mkdtemp(); assert R().invoke(app, ['enrol', '--help']).exit_code == 0",
        "import fedapp.node.device, fedapp.node.sums, privacy.flower.node",
    ],
    ids=["help", "list", "list keys", "enrol", "legs that do not train"],
)
def test_commands_and_legs_that_do_not_compute_import_no_torch(code: str) -> None:
    check = (
        f"{code}\nimport sys\nfound = [n for n in {sorted(LAZY | {'torch'})} if n in sys.modules]"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{check}\nsys.exit(repr(found) if found else 0)"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_pyproject_holds_every_key_with_its_default() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"][
        "app"
    ]["config"]
    assert flatten(declared) == known_keys()


def test_the_configuration_block_is_generated() -> None:
    """``make config`` would change nothing."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert with_block(text) == text
    assert with_block(text.replace("rounds = 10", "rounds = 11")) == text


def test_every_key_says_what_it_means() -> None:
    from fedapp.cli.catalogue import catalogue

    assert [key for key, text in catalogue()["keys"].items() if not text.split("  ", 1)[1]] == []


def test_every_test_that_the_docs_name_is_there() -> None:
    """A cell of the table of protection with a test behind it that nobody wrote protects nobody."""
    text = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    section = text.split("### Behind each cell")[1].split("\n## ")[0]
    named = set(re.findall(r"(\w+)\.py", section))
    assert len(named) > 10
    assert named <= {file.stem for file in (ROOT / "tests").rglob("*.py")}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_text_is_read_and_written_in_one_encoding_whatever_the_locale(file: Path) -> None:
    """``read_text()`` and ``open()`` take the locale's encoding, in which our own files may be
    no text at all."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        called = node.func
        if isinstance(called, ast.Attribute):
            assert called.attr not in ("read_text", "write_text"), f"line {node.lineno}"
        elif isinstance(called, ast.Name) and called.id == "open":
            mode = node.args[1] if len(node.args) > 1 else None
            assert isinstance(mode, ast.Constant) and "b" in mode.value, f"line {node.lineno}"
