"""The pages show each number under its own heading: tables are rendered from numbers that are all
different."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from budget_kit import charged, facts
from kit import told_evaluation, told_round
from typer.testing import CliRunner

import fedapp.report.head
from fedapp.cli.main import app
from fedapp.place import ROOT
from fedapp.report import figures, write_report
from fedapp.report.budget import _render
from fedapp.store.runfolder import RunFolder
from privacy.budget.report import build_report

Told = Callable[..., RunFolder]


class Tables(HTMLParser):
    """``rows``: of each table, its rows of cell texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[list[str]]] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "table":
            self.rows.append([])
        elif tag == "tr":
            self.rows[-1].append([])
        elif tag in ("th", "td"):
            self.rows[-1][-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("th", "td")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1][-1] += data


def under_headings(page: str, first: str, row: str) -> list[tuple[str, str]]:
    """(heading, cell) of the row that starts with ``row``, in the table whose first heading is
    ``first``."""
    (table,) = [table for table in Tables(page).rows if table and table[0] and table[0][0] == first]
    (cells,) = [cells for cells in table[1:] if cells[0] == row]
    return list(zip(table[0], cells, strict=True))


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take longer than all the rest of a page, and are not looked at here."""
    for name in (
        "over_rounds",
        "over_steps",
        "frontier",
        "personalisation",
        "epsilon_over_delta",
        "participations",
    ):
        if hasattr(figures, name):
            monkeypatch.setattr(figures, name, lambda *_, **__: "")


def test_a_field_page_shows_what_the_server_sees_under_its_headings(told: Told) -> None:
    tables = {
        name: {"mean": mean, "max": most, "n": 4}
        for name, mean, most in (
            ("psnr_p", 11.11, 22.22),
            ("psnr_p_affine", 13.13, 23.23),
            ("correlation_p", 0.44, 0.54),
            ("psnr_floor", 15.15, 25.25),
            ("range_excess", 0.66, 0.76),
        )
    }
    psnr = {"psnr": {"0": 10.01, "1": 10.11, "4": 10.41}, "ssim": {"0": 0.1, "1": 0.2, "4": 0.3}}
    folder = told([told_round(1, **tables), told_evaluation(1, **psnr)], methods="maml")
    page = write_report(folder).read_text(encoding="utf-8")
    assert under_headings(page, "what rendering an upload shows", "MAML")[1:] == [
        ("PSNR_p mean ↓", "11.11"),
        ("worst client ↓", "22.22"),
        ("after affine fit ↓", "13.13"),
        ("correlation ↓", "0.44"),
        ("constant colour", "15.15"),
        ("outside [0, 1]", "0.66"),
    ]


def test_a_reports_tables_are_printed_as_markdown(told: Told) -> None:
    """The page's own cells, in the same order."""
    psnr = {"psnr": {"0": 10.01, "1": 10.11, "4": 10.41}, "odd": 0.125}
    folder = told([told_round(1), told_evaluation(1, **psnr)], methods="maml")
    done = CliRunner().invoke(app, ["report", str(folder.path), "--markdown"])
    assert done.exit_code == 0, done.output
    assert "| MAML | 10.01 | 10.11 | 10.41 |" in done.stdout
    assert "| odd | 0.125 |" in done.stdout and not folder.report_file.exists()


def test_a_talking_head_page_shows_the_right_speech_and_the_wrong_one(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = {"shared": 10, "bytes": 40, "full": 100, "full_bytes": 400, "share": 0.1}
    monkeypatch.setattr(
        fedapp.report.head, "adapter_cost", lambda _: cost
    )  # it would load a backbone
    head = {
        "task": "talking-head",
        "methods": "adapters",
        "rule": "isfa",
        "evaluation.uploads": False,
        "evaluation.steps": "0,1",
    }
    own = {
        "mouth_corr": 0.91,
        "mouth_corr_shuffled": 0.12,
        "mouth_error": 0.23,
        "mouth_error_static": 0.34,
        "psnr_static": 16.16,
        "psnr_codec": 37.37,
        "jitter_error": 0.0456,
        "identity_similarity": 0.78,
        "identity_top1": 0.89,
    }
    events = [
        told_round(1, method="adapters"),
        told_evaluation(1, method="adapters", psnr={"0": 25.25, "1": 26.26}, **own),
    ]
    page = write_report(told(events, **head)).read_text(encoding="utf-8")
    assert under_headings(page, "unseen people, before any adaptation", "LoRA adapters")[1:] == [
        ("mouth correlation ↑", "0.910"),
        ("with wrong speech → 0", "0.120"),
        ("mouth error ↓", "0.230"),
        ("still reference", "0.340"),
        ("PSNR ↑", "25.25"),
        ("still reference", "16.16"),
        ("codec's limit", "37.37"),
        ("|jitter − true| ↓", "0.0456"),
        ("identity ↑", "0.780"),
        ("top-1 ↑", "0.89"),
    ]


def test_a_budget_page_tells_bounds_from_estimates() -> None:
    row = {
        "test": "both",
        "lower_bound": 1.11,
        "estimate": 2.22,
        "claimed": 3.33,
        "verdict": "PASS",
    }
    attack = {
        "attack": "render",
        "release": "plain",
        "metric": "psnr",
        "value": 4.44,
        "floor": 5.55,
        "n": 66,
        "chance": 7.77,
    }
    report = build_report(facts(charged(1), audit=[row], attacks=[attack]))
    page = _render("run", report)
    assert under_headings(page, "test", "both")[1:] == [
        ("lower bound (95 %)", "1.11"),
        ("estimate", "2.22"),
        ("claimed ε", "3.33"),
        ("verdict", "PASS"),
    ]
    assert under_headings(page, "attack", "render")[3:] == [
        ("value", "4.44"),
        ("without information", "5.55"),
        ("n", "66"),
    ]


@pytest.mark.parametrize("name", ["page", "budget_page"])
def test_pages_have_a_dark_dress_and_cut_nothing_in_print(name: str) -> None:
    """Every colour that dark pages replace is a variable of the light one; tables wrap in print."""
    text = (ROOT / "fedapp" / "report" / f"{name}.py").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", text)
    assert {part.split(":")[0].strip() for part in dark.split(";")} == {
        part.split(":")[0].strip() for part in light.split(";")
    }
    (printed,) = re.findall(r"@media print \{(.*)\}\n", text)
    assert "overflow:visible" in printed and "white-space:normal" in printed
