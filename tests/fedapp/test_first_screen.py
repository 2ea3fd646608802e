"""The first screen of a report: a strip of pictures under a title of what was run; nothing cut."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageSequence

from fedapp.attacks import ATTACKS, attack_run
from fedapp.config.experiment import ON_FIELDS
from fedapp.report import write_report
from fedapp.store.runfolder import RunFolder
from tasks.errors import InputError

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
    text = page.report_file.read_text(encoding="utf-8")
    assert "inversion on plain" not in text and "inverted from" not in text


def test_attacks_at_the_end_of_a_run_are_in_the_strip(run: Run) -> None:
    """Renderings of sums beside those of uploads; the numbers are those that `fedapp attack`
    finds."""
    assert set(ON_FIELDS) == set(ATTACKS) - {"linkage"}
    folder = run(methods="fomaml,maml,local", **{"report.attacks": "render", "report.page": True})
    text = folder.report_file.read_text(encoding="utf-8")
    first = text[text.index("<body>") : text.index("The numbers")]
    heads = re.findall(r'<div class="head"[^>]*>([^<]*)</div>', first)
    at = heads.index("MAML, rendered from a sum")
    assert heads[at + 1] == "MAML, rendered from a noised sum" and heads[at + 2] == "held by nobody"
    assert first.count("<figure>") % len(heads) == 0 and "<figure></figure>" not in first
    rows = json.loads((folder.path / "attack.json").read_text(encoding="utf-8"))["rows"]
    assert {row["attack"] for row in rows} == {"render"}
    assert {row["method"] for row in rows} == {"fomaml", "maml"}
    (told,) = [
        row for row in rows
        if (row["method"], row["metric"], row["release"]) == ("maml", "psnr", "secagg")
    ]  # fmt: skip
    assert f"{told['value']:.1f} dB under secagg" in first
    assert f"mean colours give {told['floor']:.1f} dB" in first
    again = attack_run(folder, "render", 12, lambda _: None, "maml")
    values = [row["value"] for row in again if "dp" not in row["release"]]
    assert values == [
        row["value"] for row in rows if row["method"] == "maml" and "dp" not in row["release"]
    ]  # noise is fresh


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"report.attacks": "rendre"}, "no attack on fields"),
        ({"report.attacks": "render", "data.hosted": "none"}, "on their own devices"),
        ({"report.attacks": "render", "task": "talking-head", "methods": "adapters"}, "on fields"),
        ({"report.attacks": "render", "task": "split-nerf", "methods": "split"}, "report.attacks"),
    ],
)
def test_attacks_that_cannot_be_tried_are_refused_before_the_run(
    changes: dict[str, str], says: str, experiment: Callable[..., object]
) -> None:
    with pytest.raises(InputError, match=says):
        experiment(**changes)


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


@pytest.fixture
def films(run: Run) -> RunFolder:
    folder = run(
        task="video", methods="maml,fomaml,reptile,fedmenf,local", rounds=1,
        **{"data.size": 8, "data.frames": 4, "data.held-out": 1, "clients.total": 2,
           "evaluation.steps": "0,1"},
    )  # fmt: skip
    write_report(folder)
    return folder


def test_a_film_has_a_frame_for_paper(films: RunFolder) -> None:
    """The middle one, of what the film shows."""
    text = films.report_file.read_text(encoding="utf-8")
    played = re.findall(r'<(?:video|img class="played") src="data:', text)
    stills = re.findall(r'<img class="still" src="data:image/png;base64,([^"]+)"', text)
    assert played and len(played) == len(stills)
    for still in stills:
        with Image.open(io.BytesIO(base64.b64decode(still))) as image:
            shown = image.convert("RGB")
            assert len(shown.getcolors(1 << 24) or []) > 5
    gif = next(films.videos.glob("*.gif"))
    with Image.open(gif) as frames:
        every = ImageSequence.all_frames(frames)
        middle = every[len(every) // 2].convert("RGB")
    with Image.open(io.BytesIO(base64.b64decode(stills[0]))) as image:
        assert len(list(films.videos.glob("*.gif"))) > 1 or image.tobytes() == middle.tobytes()


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_on_paper_frames_stand_for_films(films: RunFolder, tmp_path: Path) -> None:
    """By what the browser itself lays out under either medium."""
    probe = """<script>addEventListener('load', () => { const seen = {};
    for (const q of ['.still', 'video, .played']) seen[q] = [...document.querySelectorAll(q)]
    .filter(e => e.offsetHeight > 0).length;
    seen.cut = [...document.querySelectorAll('table, img, h1, .grid')].filter(e =>
    e.offsetHeight > 0 && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML
    .slice(0, 60)); document.title = JSON.stringify(seen); })</script>"""
    text = films.report_file.read_text(encoding="utf-8").replace("</body>", f"{probe}</body>")
    (tmp_path / "screen.html").write_text(text, encoding="utf-8")
    paper = text.replace("@media screen", "@media not all").replace("@media print", "@media all")
    (tmp_path / "paper.html").write_text(paper, encoding="utf-8")
    for medium, width, shown, hidden in (
        ("screen", 1280, "video, .played", ".still"),
        ("paper", 700, ".still", "video, .played"),  # A4 without its margins
    ):
        dom = subprocess.run(
            [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom",
             f"--window-size={width},1000", f"file://{tmp_path / medium}.html"],
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout  # fmt: skip
        found = json.loads(re.findall(r"<title>(.*?)</title>", dom)[0])
        assert found[shown] > 0 == found[hidden], (medium, found)
        assert found["cut"] == [], (medium, found)
