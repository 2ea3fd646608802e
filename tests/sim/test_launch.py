"""What of the caller's environment reaches Flower and Ray, and how a configuration does."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import launch
from sim.settings import RuntimeSettings

SOCKET = "ray/session_2026-11-28_08-33-42_926282_1234567/sockets/plasma_store"


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_any_text_comes_back_from_the_toml_that_flower_reads(text: str) -> None:
    assert tomllib.loads(launch.as_toml({"data.path": text}))["data"]["path"] == text


def test_loopback_is_asked_past_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody answers there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launch, "START_PATIENCE", 3.0)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"])
    try:
        url = f"http://127.0.0.1:{server.server_port}/health"
        launch.await_health(process, url, Path("/dev/null"))
    finally:
        process.kill()
        process.wait()
        server.shutdown()


def test_callers_exceptions_from_a_proxy_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "intranet.example")
    env = launch.environment(Path("/tmp/x"), RuntimeSettings(), (1, 2))
    assert env["no_proxy"] == env["NO_PROXY"] == "intranet.example,127.0.0.1,localhost,::1"


def test_the_callers_ray_is_not_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("scratch_folder_of_a_batch_system" * 3)
    long.mkdir()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr("tempfile.tempdir", str(long))
    env = launch.environment(Path("/tmp/x"), RuntimeSettings(), (1, 2))
    assert "RAY_ADDRESS" not in env
    assert len(f"{env['RAY_TMPDIR']}/{SOCKET}") <= 107


@pytest.mark.parametrize(("cpus", "gpus"), [(1, 0.0), (3, 0.0), (2, 0.25), (1, 2.0)])
def test_ray_is_told_what_an_actor_reserves(cpus: int, gpus: float) -> None:
    """``runtime.cpus-per-actor`` and ``runtime.gpus-per-actor``."""
    settings = RuntimeSettings(nodes=4, cpus_per_actor=cpus, gpus_per_actor=gpus)
    told = dict(part.split("=") for part in launch.federation_config(settings).split())
    assert told["num-supernodes"] == "4"
    assert float(told["client-resources-num-cpus"]) == cpus
    assert float(told.get("client-resources-num-gpus", 0)) == gpus
