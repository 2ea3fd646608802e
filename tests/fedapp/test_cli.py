"""The command line: shapes scripts rely on, exit statuses, one clear error for bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from fedapp.cli import main as cli
from fedapp.cli.runs import prepare
from fedapp.report.content import view
from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.runfolder import RunFolder
from tasks.errors import FedappError, InputError

SMOKE = ["run", "smoke", "--runtime", "in-process", "-o", "report.page=false"]


@pytest.fixture
def fedapp(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``fedapp(*arguments) -> (exit status, standard output, error text)`` without a new
    process."""

    def invoke(*arguments: object) -> tuple[int, str, str]:
        result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
        error = result.exception
        if isinstance(error, FedappError):
            return error.exit_code, result.stdout, str(error)
        if error is not None and not isinstance(error, SystemExit):
            raise error
        return result.exit_code, result.stdout, result.stderr

    return invoke


def test_run_prints_one_json_object_of_the_agreed_shape(
    fedapp: Callable[..., Any], tmp_path: Path
) -> None:
    status, out, _ = fedapp(*SMOKE, "--runs", tmp_path, "--json", "-")
    assert status == 0
    result = json.loads(out)
    assert {
        "run",
        "recipe",
        "task",
        "rounds",
        "seconds",
        "methods",
        "epsilon",
        "delta",
        "bytes_up",
        "bytes_down",
        "clients",
    } <= set(result)
    assert set(result["methods"]) == {"fedmenf", "maml", "local"}
    row = result["methods"]["fedmenf"]
    assert set(row["psnr"]) == {"0", "1", "4"} and row["psnr_p"]["mean"] <= row["psnr_p"]["max"]
    assert result["methods"]["local"]["psnr_p"] is None, (
        "Local uploads nothing: null, not a substitute"
    )
    assert result["epsilon"] is None and result["clients"] == {"ok": 16, "failed": 0}
    folder = RunFolder(Path(result["run"]))
    assert folder.path.parent == tmp_path and folder.status["state"] == "finished"
    for name in (
        "config.json",
        "run.json",
        "metrics.jsonl",
        "result.json",
        "pictures/private-0000.png",
    ):
        assert (folder.path / name).exists()

    status, _, text = fedapp("resume", folder.path)
    assert status == 2 and "is finished" in text and "more rounds" in text


def test_report_is_one_self_contained_page(
    fedapp: Callable[..., Any], run: Callable[..., RunFolder]
) -> None:
    folder = run(methods="fedmenf,maml,local")
    status, _, _ = fedapp("report", folder.path)
    assert status == 0
    page = folder.report_file.read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 4 * 3 + 2 + 2 * 3 * 2 + 2 * 7  # and the strip
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    assert "<script" not in page and page.count("<svg") == 4
    for text in (
        "FedMeNF",
        "MAML",
        "Local",
        "What the server sees",
        "How to reproduce",
        "fedapp run smoke",
    ):
        assert text in page


@pytest.mark.parametrize(
    ("arguments", "reason", "remedy"),
    [
        (["run", "smok"], "no such recipe", "did you mean 'smoke'"),
        ([*SMOKE, "-o", "learner.inner-step=3"], "no such config key", "learner.inner-steps"),
        ([*SMOKE, "-o", "learner.fedmenf.gamma=7"], "less than or equal to 1", "0.75"),
        ([*SMOKE, "-o", "data.path=/does/not/exist"], "no such folder", "give a folder"),
        (["run", "smoke", "--runtime", "rya"], "no such runtime", "did you mean 'ray'"),
        (["resume", "/does/not/exist"], "not a run folder", "give the path"),
        (["list", "rulez"], "nothing of that name", "did you mean 'rules'"),
        (["bench", "cohrt"], "no such benchmark", "did you mean 'cohort'"),
    ],
)
def test_bad_input_is_one_clear_error_before_anything_starts(
    fedapp: Callable[..., Any], tmp_path: Path, arguments: list[str], reason: str, remedy: str
) -> None:
    options = ["--runs", str(tmp_path)] if arguments[0] == "run" else []
    status, out, text = fedapp(*arguments, *options)
    assert status == 2 and out == "" and reason in text and remedy in text
    assert not list(tmp_path.iterdir()), "nothing was started"


def test_a_non_image_in_the_folder_is_named(fedapp: Callable[..., Any], tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(6):
        Image.new("RGB", (20, 20), (index * 40, 0, 0)).save(pictures / f"{index}.png")
    (pictures / "letter.doc").write_text("no image", encoding="utf-8")
    status, _, text = fedapp(*SMOKE, "--runs", tmp_path / "runs", "-o", f"data.path={pictures}")
    assert (
        status == 2
        and "letter.doc" in text
        and "not a readable image" in text
        and "move the file" in text
    )


def test_own_pictures_run(fedapp: Callable[..., Any], tmp_path: Path) -> None:
    pictures = tmp_path / "own"
    pictures.mkdir()
    for index in range(6):
        Image.linear_gradient("L").rotate(index * 30).resize((24 + index, 20)).save(
            pictures / f"{index}.png"
        )
    status, out, _ = fedapp(
        *SMOKE,
        "--runs",
        tmp_path / "runs",
        "-o",
        f"data.path={pictures}",
        "-o",
        "data.channels=1",
        "-o",
        "data.size=0",
        "--json",
        "-",
    )
    assert status == 0 and json.loads(out)["clients"]["failed"] == 0


def test_resume_refuses_a_damaged_or_foreign_checkpoint(
    fedapp: Callable[..., Any], run: Callable[..., RunFolder], tmp_path: Path
) -> None:
    folder = run(methods="maml")
    folder.set_status("failed", 1, "for the test")
    newest = list_checkpoints(folder.checkpoints)[-1]
    whole = newest.read_bytes()
    newest.write_bytes(whole[:100])
    status, _, text = fedapp("resume", folder.path, "--runtime", "in-process")
    assert status == 2 and "unreadable" in text and newest.name in text

    newest.write_bytes(whole)
    other = run(methods="fedmenf", **{"run-dir": str(tmp_path / "other")})
    list_checkpoints(other.checkpoints)[-1].replace(newest)
    status, _, text = fedapp("resume", folder.path, "--runtime", "in-process")
    assert status == 2 and "another experiment" in text and "fedmenf-0" in text


def test_list_and_doctor_speak_json(fedapp: Callable[..., Any]) -> None:
    status, out, _ = fedapp("list", "--json", "-")
    tables = json.loads(out)
    assert status == 0 and {"tasks", "learners", "rules", "releases", "recipes", "runtimes"} <= set(
        tables
    )
    assert all(text for rows in tables.values() for text in rows.values())
    _, out, _ = fedapp("doctor", "--json", "-")
    subjects = {finding["subject"] for finding in json.loads(out)["findings"]}
    assert {"torch", "cores", "flwr", "Flower home", "local SuperLink", "directory"} <= subjects


def test_doctor_notices_a_foreign_superlink(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers /health on the port is what plain `flwr run` would use."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    from fedapp.cli import doctor

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("FLWR_LOCAL_SUPERLINK_HTTP_API_PORT", str(server.server_port))
    try:
        finding = doctor._superlink()
    finally:
        server.shutdown()
        server.server_close()
    assert finding.level == "warning" and str(server.server_port) in finding.text


def test_help_says_what_an_argument_is() -> None:
    """click 8.5 loses these texts: whoever loosens the pin sees it here."""
    found = CliRunner().invoke(cli.app, ["bench", "--help"], env={"COLUMNS": "200"})
    assert (
        found.exit_code == 0
        and "cohort, secagg, talking-head, fields, methods, split-nerf or head" in found.output
    )


def test_a_target_that_cannot_be_written_is_refused_before_work_starts(tmp_path: Path) -> None:
    found = CliRunner().invoke(
        cli.app,
        [
            "run",
            "smoke",
            "--runs",
            str(tmp_path / "runs"),
            "--json",
            str(tmp_path / "no" / "x.json"),
        ],
    )
    assert isinstance(found.exception, InputError) and not (tmp_path / "runs").exists()


def test_a_runs_config_is_a_recipe(run: Any, tmp_path: Path) -> None:
    """What the report gives as the command to reproduce a run whose recipe is not known by name."""
    folder = run(
        **{
            "recipe": "mine",
            "rounds": 1,
            "learner.outer-rate": 0.0123,
            "run-dir": str(tmp_path / "my run"),
        }
    )
    command = view(folder)[1]["reproduce"]
    assert command == f"fedapp run '{folder.path}/config.json' --runtime ray"
    again, other = prepare(str(folder.path / "config.json"), [], tmp_path / "runs", "in-process")
    assert again.digest == folder.experiment.digest and other.path != folder.path
    known = run(
        **{"rounds": 1, "data.path": "", "data.held-out": 6, "run-dir": str(tmp_path / "other")}
    )
    assert "-o data.held-out=6" in view(known)[1]["reproduce"], (
        "a default that the recipe had changed"
    )
