"""The first screen of a report: a strip of pictures under a title of what was run; nothing cut."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fedapp.report import write_report
from fedapp.store.runfolder import RunFolder

Run = Callable[..., RunFolder]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def page(run: Run) -> RunFolder:
    folder = run(methods="maml,fomaml,local")
    write_report(folder)
    return folder


def test_pictures_come_before_findings_and_numbers(page: RunFolder) -> None:
    text = page.report_file.read_text(encoding="utf-8")
    body = text[text.index("<body>") :]
    title = f"{page.experiment.recipe}: MAML · FOMAML · Local"
    assert f"<title>{title} · fedapp</title>" in text and f"<h1>{title}</h1>" in body
    assert body.index("<img") < body.index('class="findings"') < body.index("The numbers")
    first = body[: body.index("The numbers")]
    assert len(re.findall(r'<li class="(?:good|plain|warning)">', first)) <= 3
    heads = re.findall(r'<div class="head"[^>]*>([^<]*)</div>', first)
    assert heads[:3] == ["private", "MAML, rendered", "FOMAML, rendered"]
    assert heads[3] == "held by nobody" and heads[-1].startswith("Local, k = ")
    rows = first.count("<figure>") / len(heads)
    assert rows == int(rows) and 1 <= rows <= 3


def test_an_attack_that_was_cut_off_is_not_shown(page: RunFolder) -> None:
    """Its pictures lie there, its numbers do not."""
    picture = next(page.pictures.glob("private-*.png"))
    shutil.copy(picture, page.pictures / "attack-maml-inversion-plain-0000.png")
    write_report(page)
    assert "inversion on plain" not in page.report_file.read_text(encoding="utf-8")


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 600])
def test_no_table_is_cut(page: RunFolder, tmp_path: Path, width: int) -> None:
    """A card whose content is wider than itself scrolls: at these widths tables must not; what may
    is a row of pictures on the narrow page."""
    probe = """<script>addEventListener('load', () => { const cut = [];
    for (const t of document.querySelectorAll('table')) { const c = t.closest('section');
    if (c && t.scrollWidth > c.clientWidth + 1 && !t.closest('details'))
    cut.push(t.rows[0].cells[0].textContent); }
    if (document.documentElement.scrollWidth > innerWidth + 1) cut.push('the page');
    document.title = 'cut: ' + cut.join('; '); })</script>"""
    text = page.report_file.read_text(encoding="utf-8").replace("</body>", f"{probe}</body>")
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    command = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu",
               f"--window-size={width},1000", f"file://{tmp_path / 'page.html'}"]  # fmt: skip
    dom = subprocess.run(
        [*command[:-1], "--dump-dom", command[-1]], capture_output=True, text=True, check=True,
        timeout=60,
    ).stdout  # fmt: skip
    assert "<title>cut: </title>" in dom, re.findall(r"<title>(.*?)</title>", dom)
    shot = tmp_path / "page.png"
    subprocess.run(
        [*command[:-1], "--hide-scrollbars", f"--screenshot={shot}", command[-1]],
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    with Image.open(shot) as image:
        assert image.width >= width and len(image.convert("RGB").getcolors(1 << 24) or []) > 50
