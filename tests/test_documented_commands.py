"""``fedapp`` commands of README and docs.

Lines of shell are executed here, made small, or (those of ``ELSEWHERE``) parsed with all their
options and keys, while what they do is run by the test file named there. Commands in sentences are
parsed. A line of shell without either fails.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from click import Context, Group, MissingParameter, NoSuchOption
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from fedapp.cli.main import app
from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.recipes import read_overrides, read_recipe
from fedapp.place import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL = [  # of any run of fields
    "rounds=1", "clients.total=3", "clients.per-round=0", "data.size=6", "data.held-out=1",
    "field.width=8", "field.depth=1", "field.frequencies=2", "field.samples=4",
    "learner.inner-steps=1", "learner.outer-steps=1", "learner.batch-size=8",
    "evaluation.every=1", "evaluation.steps=0,1", "evaluation.rates=0.01", "report.page=false",
]  # fmt: skip
SIZES = {part.split("=")[0] for part in SMALL}
ELSEWHERE = {  # first words -> the tests that run what such a command does, on real components
    "run head": "fedapp/test_upload_runs.py",
    "run head-template": "fedapp/test_template_runs.py",
    "run talking-head": "fedapp/test_talking_head_runs.py",
    "run split-nerf": "fedapp/test_split_runs.py",
    "run quickstart-secagg": "fedapp/test_private_runs.py",
    "attack": "fedapp/test_budget_cli.py",
    "attack split-nerf": "fedapp/test_split_study.py",
    "attack head": "fedapp/test_obscured_attacks.py",
    "adapt runs/<run> --clip": "fedapp/test_own_data.py",
    "adapt runs/<run> --views": "fedapp/test_own_data.py",
    "pretrain": "fedapp/test_backbones.py",
    "speak": "fedapp/test_speak.py",
    "export": "fedapp/test_talking_head_products.py",
    "people": "fedapp/test_talking_head_products.py",
    "ablate": "fedapp/test_talking_head_products.py",
    "audit": "fedapp/test_budget_cli.py",
    "budget report": "fedapp/test_budget_cli.py",
    "bench methods": "fedapp/test_matrix.py",
    "bench": "sim/test_bench.py",
    "tune": "fedapp/test_step_sizes.py",
    "resume": "fedapp/test_cli.py",
    "enrol --roster": "fedapp/test_budget_cli.py",
    "device": "fedapp/test_device_command.py",
}
FLOWERS = {  # whole blocks, executed as they stand: page -> (test, what it executes)
    "deployment.md": ("sim/test_deployment.py", ["flower-superlink", "flwr run"]),
    "use.md": ("sim/test_on_ray.py", ["flwr run"]),
}


def in_blocks(text: str) -> list[str]:
    """Lines of shell that call fedapp, continued lines joined, comments left out."""
    found = []
    for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, re.S):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if line.startswith("fedapp "):
                found.append(" ".join(re.sub(r"\s#.*", "", line).split()))
    return found


def in_sentences(text: str) -> list[str]:
    """Commands in one pair of backticks."""
    plain = re.sub(r"```.*?```", "", text, flags=re.S)
    return [" ".join(line.split()) for line in re.findall(r"`(fedapp [a-z][^`]*)`", plain)]


TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
COMMANDS = sorted({line for text in TEXTS.values() for line in in_blocks(text)})
MENTIONS = sorted({line for text in TEXTS.values() for line in in_sentences(text)})


def elsewhere(line: str) -> str | None:
    """The tests of what such a command does, by its longest known beginning."""
    words = line.removeprefix("fedapp ")
    known = [key for key in ELSEWHERE if words == key or words.startswith(f"{key} ")]
    return ELSEWHERE[max(known, key=len)] if known else None


class Place:
    """Things that commands speak of: pictures, a run, another one, data in the paper's layout."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        patch.chdir(root)
        patch.setenv("HOME", str(root / "home"))
        patch.setenv("FEDAPP_CACHE", str(root / "cache"))
        draw = np.random.default_rng(0)
        (root / "home" / "pictures").mkdir(parents=True)
        for number in range(12):
            pixels = draw.integers(0, 255, (12, 12, 3), np.uint8)
            Image.fromarray(pixels).save(root / "home" / "pictures" / f"{number:02d}.png")
        Image.fromarray(draw.integers(0, 255, (16, 16, 3), np.uint8)).save(root / "me.png")
        for name in ("a", "b"):
            self.call(["run", "smoke", "--runtime", "in-process", "-o", "rounds=1", "-o",
                       "data.channels=3", "-o", f"run-dir={root / 'runs' / name}"])  # fmt: skip

    def call(self, words: list[str]) -> None:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, f"fedapp {' '.join(words)}: {done.output}\n{done.exception}"

    def filled(self, line: str) -> list[str]:
        """The command's words with what stands in for things of the reader's."""
        for wanted, given in (
            ("runs/<run>", "runs/a"),
            ("runs/<other>", "runs/b"),
            ("~/pictures", str(self.root / "home" / "pictures")),
            ("/tmp/animals", str(self.root / "animals")),
            ("/tmp/others", str(self.root / "others")),
            ("runs/populations/town", str(self.root / f"town-{abs(hash(line))}")),
            ("/var/lib/fedapp", str(self.root / f"device-{abs(hash(line))}")),
            ("my_package:MyRule", "strategies.rules.fedavg:FedAvg"),
            ("check rule NAME", "check rule fedavg"),
            ("both.html", f"both-{abs(hash(line))}.html"),
        ):
            line = line.replace(wanted, given)
        return shlex.split(line)[1:]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with pytest.MonkeyPatch.context() as patch:
        torch.set_num_threads(1)
        yield Place(tmp_path_factory.mktemp("reader"), patch)


def made_small(words: list[str], root: Path) -> list[str]:
    """The same command as the docs have it, but for sizes."""
    if words[0] == "run":
        mine = {part.split("=")[0] for part in words if "=" in part}
        own = root / "runs" / f"run-{len(list((root / 'runs').iterdir()))}"
        small = [part for part in SMALL if part.split("=")[0] not in mine - SIZES]
        if "scaffold" in " ".join(words) or "json" in words[1]:
            small = [part for part in small if "per-round" not in part]
        more = [] if "--runtime" in words else ["--runtime", "in-process"]
        given = [part for override in [*small, f"run-dir={own}"] for part in ("-o", override)]
        return [*words, *given, *more]
    if words[0] == "made":
        return [*words, "--holders", "8"]
    if words[:2] == ["portraits", "people.png"]:
        return [*words, "--count", "2"]
    if words[:1] == ["adapt"]:
        return [*words, "--steps", "2", "--force"]
    return words


@pytest.mark.parametrize("line", COMMANDS)
def test_a_line_of_shell_is_executed_or_parsed(line: str, place: Place) -> None:
    test = elsewhere(line)
    if test is not None:
        source = (ROOT / "tests" / test).read_text(encoding="utf-8")
        assert f'"{line.split()[1]}"' in source or f"{line.split()[1]}_" in source, test
        stays_parsed(line)
        return
    if line.startswith("fedapp render") and not (place.root / "me.safetensors").exists():
        place.call(["adapt", "runs/a", "--picture", "me.png", "--out", "me.safetensors",
                    "--steps", "1"])  # fmt: skip
    if "/tmp/animals" in line and "run " in line and not (place.root / "animals").exists():
        place.call(["made", "petface", str(place.root / "animals"), "--holders", "8"])
    elif "made petface" in line:
        shutil.rmtree(place.root / "animals", ignore_errors=True)
    place.call(made_small(place.filled(line), place.root))


def stays_parsed(line: str) -> None:
    """Its options exist, and its keys are ones of its recipe."""
    words = shlex.split(line.replace("…", "1"))[1:]
    given = [words[i + 1] for i, word in enumerate(words) if word == "-o"]
    if words[0] in ("run", "tune"):
        values = known_keys() | read_recipe(words[1]) | read_overrides(given)
        Experiment.from_run_config(values | {"data.path": "", "talking-head.backbone": ""})
    parse(words)


def test_flowers_own_commands_are_in_blocks_that_a_test_executes() -> None:
    for name, text in TEXTS.items():
        blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, re.S)
        flowers = [
            line
            for block in blocks
            for line in block.splitlines()
            if re.match(r"(flwr|flower-\w+|ray|docker) ", line)
        ]
        test, executed = FLOWERS.get(name, ("", []))
        assert [line for line in flowers if not line.startswith(tuple(executed))] == [], name
        assert bool(flowers) == bool(test)
        if test:
            assert name in (ROOT / "tests" / test).read_text(encoding="utf-8")


@pytest.mark.parametrize("line", MENTIONS)
def test_a_command_in_a_sentence_exists(line: str) -> None:
    """With all the options it is said to have; arguments may be left out or stand for others."""
    words = shlex.split(line.replace("…", "1"))[1:]
    with suppress(MissingParameter):
        parse(words)
    if words[0] in ("run", "tune") and len(words) > 1 and words[1] != "RECIPE":
        stays_parsed(line)


def parse(words: list[str]) -> None:
    command = get_command(app)
    context = Context(command, info_name="fedapp")
    while isinstance(command, Group) and words:
        assert words[0] in command.commands, f"no command {words[0]}"
        command = command.commands[words[0]]
        words = words[1:]
        context = Context(command, parent=context, info_name=command.name)
    command.parse_args(context, list(words))


def test_the_reading_of_pages_finds_what_is_there() -> None:
    """A control: the pattern sees blocks, continued lines and sentences."""
    text = "```bash\nfedapp run x \\\n  -o a=1   # why\nls\n```\nand `fedapp\nlist keys`."
    assert in_blocks(text) == ["fedapp run x -o a=1"]
    assert in_sentences(text.replace("fedapp\nlist", "fedapp list")) == ["fedapp list keys"]
    assert len(COMMANDS) > 40 and len(MENTIONS) > 20
    with pytest.raises(NoSuchOption):
        parse(["run", "quickstart", "--no-such"])
