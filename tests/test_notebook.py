"""The notebook of the docs runs, cell by cell, and says what its words promise."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from fedapp.place import ROOT

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"


def test_every_cell_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In an empty folder, in order, in one namespace, the last expression of a cell looked at."""
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    shown: list[Any] = []
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, str(NOTEBOOK), "exec"), names)
        if isinstance(last, ast.Expr):
            code = compile(ast.Expression(last.value), str(NOTEBOOK), "eval")
            shown.append(eval(code, names))
    assert "maml" in capsys.readouterr().out
    assert (shown[0] / "result.json").is_file()
    assert names["field"].psnr[64] > 20
    assert shown[-2].size == (128, 128)
    assert {method for _, method in shown[-1]} == {"fedmenf", "maml", "local"}
    assert {"me.png", "me.safetensors", "compared.html"} <= {p.name for p in tmp_path.iterdir()}


def test_outputs_are_not_kept_by_hand() -> None:
    """A reader runs it: no output stands there that was written by hand."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") for cell in cells)
