"""One experiment's configuration: parsed once, complete, checked before anything starts.

``[tool.flwr.app.config]`` in pyproject.toml holds every key with its default (a test holds the two
together); recipes in ``sim/recipes`` and ``-o key=value`` change a few. Each section is declared in
the package of its axis.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from fedapp.config.places import AS_TAKEN, JUDGED, OF_NODE
from fedapp.workflows import kind_of
from privacy.settings import PrivacySettings
from sim.settings import RuntimeSettings
from strategies.local import LOCAL
from strategies.settings import ClientsSettings, LearnerSettings, RuleSettings
from tasks import TASKS
from tasks.errors import InputError
from tasks.registry import load, reference
from tasks.settings import Settings, TaskSettings, flatten


def _seeds(text: str) -> str:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError("must be whole numbers separated by commas, such as 0,1,2") from None
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError("must be different whole numbers separated by commas")
    return text


ON_FIELDS = ("render", "readout", "inversion", "membership", "transcript")


def _attacks(text: str) -> str:
    """Check names of attacks."""
    for name in (part.strip() for part in text.split(",") if part.strip()):
        if name not in ON_FIELDS:
            raise ValueError(f"no attack on fields is called {name!r}: {', '.join(ON_FIELDS)}")
    return text


ELSEWHERE = (*OF_NODE, *AS_TAKEN, "run-dir", "resume", "data.hosted", "recipe")  # where, not what


class ReportSettings(Settings):
    page: bool = Field(True, description="write report.html at the end of the run")
    pictures: bool = Field(
        True, description="show private pictures in the report (simulation only)"
    )
    attack_seconds: float = Field(
        60.0,
        ge=0,
        description="attacks on its own exact sums at the end of a run, at most; 0: none",
    )
    attacks: Annotated[str, AfterValidator(_attacks)] = Field(
        "",
        description="of `fedapp attack`, on fields, at a run's end, by comma; simulation only",
    )
    transcript: bool = Field(
        True, description="keep what the server sees of secure sums, for `fedapp attack`"
    )

    @property
    def attack_list(self) -> list[str]:
        return [name.strip() for name in self.attacks.split(",") if name.strip()]


class Experiment(TaskSettings):
    """Everything a run is determined by."""

    recipe: str = Field(
        "default",
        pattern=r"^[^/\\\x00-\x1f\x7f.][^/\\\x00-\x1f\x7f]{0,99}$",
        description="name of the run folder: no path",
    )
    workflow: str = Field(
        "", description="how server and nodes train together; empty: the task's own way"
    )
    methods: str = Field("fedmenf,maml,local", description="learners to compare, and `local`")
    rule: str = Field("fedavg", description="aggregation rule")
    release: str = Field("plain", description="how the sum over clients is made")
    rounds: int = Field(
        10, ge=1, le=1_000_000, description="rounds of training, for every method and seed"
    )
    seeds: Annotated[str, AfterValidator(_seeds)] = Field(
        "0", description="seeds, each run for every method"
    )
    run_dir: str = Field(
        "", description="absolute folder of this run; empty: a new one under ~/fedapp-runs"
    )
    resume: bool = Field(False, description="continue the run in run-dir from its last checkpoint")
    clients: ClientsSettings = Field(default_factory=lambda: ClientsSettings())
    learner: LearnerSettings = Field(default_factory=lambda: LearnerSettings())
    rules: RuleSettings = Field(default_factory=lambda: RuleSettings())
    privacy: PrivacySettings = Field(default_factory=lambda: PrivacySettings())
    report: ReportSettings = Field(default_factory=lambda: ReportSettings())
    runtime: RuntimeSettings = Field(default_factory=lambda: RuntimeSettings())

    @property
    def method_list(self) -> list[str]:
        return [part.strip() for part in self.methods.split(",") if part.strip()]

    @property
    def trained_methods(self) -> list[str]:
        return [method for method in self.method_list if method != LOCAL]

    def looks_at(self, round: int) -> bool:
        """Whether the uploads of a round are looked at."""
        own = self.evaluation
        return own.uploads and (round % own.uploads_every == 0 or round == self.rounds)

    @property
    def seed_list(self) -> list[int]:
        return [int(part) for part in self.seeds.split(",")]

    @classmethod
    def from_run_config(cls, values: Mapping[str, Any]) -> Experiment:
        """Parse and check Flower's flat run config (``{"learner.inner-steps": 4, ...}``); raises
        :class:`InputError`."""
        experiment = cls.parsed(values)
        experiment._check()
        return experiment

    @classmethod
    def parsed(cls, values: Mapping[str, Any]) -> Experiment:
        """Only parse: every value for itself, not whether all go together (which needs to import
        what they name)."""
        try:
            return cls.model_validate(_nest(values))
        except ValidationError as error:
            raise _explain(error) from None

    def to_run_config(self) -> dict[str, bool | int | float | str]:
        """The flat run config that :meth:`from_run_config` reads back."""
        return flatten(self.model_dump(by_alias=True))

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides what nodes compute: server and nodes must have the
        same. Where a run lives, where data lie, and what only the server measures with, is left
        out."""
        left_out = {*ELSEWHERE, *JUDGED}
        kept = {key: value for key, value in self.to_run_config().items() if key not in left_out}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

    @property
    def workflow_name(self) -> str:
        """The workflow that trains: the configured one, or the task's own."""
        if self.workflow:
            return self.workflow
        found: str = load("task", self.task, TASKS).workflow
        return found

    def _check(self) -> None:
        """Check what no single field can know: names that must exist, values that must agree."""
        reference("task", self.task, TASKS)
        if len(set(self.method_list)) < len(self.method_list):
            raise InputError(
                "methods", self.methods, "names a method twice", "name each method once"
            )
        kind = kind_of(self.workflow_name)
        if "release" not in kind.axes and self.release != "plain":
            raise InputError(
                "release",
                self.release,
                f"workflow {self.workflow_name} makes no sums: nothing would be protected by it",
                "use plain, and see what the workflow itself offers",
            )
        defaults = type(self)().to_run_config()
        for key, value in self.to_run_config().items():
            if key not in ELSEWHERE and kind.ignores(key) and value != defaults[key]:
                raise InputError(
                    key,
                    value,
                    f"workflow {self.workflow_name} does not read it",
                    "leave it out",
                )
        if kind.reads is not None and self.runtime.device not in ("auto", "cpu"):
            raise InputError(
                "runtime.device",
                self.runtime.device,
                f"workflow {self.workflow_name} computes on the CPU",
                "use auto or cpu",
            )
        kind.part("check")(self)


def known_keys() -> dict[str, Any]:
    """Every config key with its default."""
    return Experiment().to_run_config()


def unknown_key(key: str) -> InputError:
    """The error for a key that does not exist, with the closest one that does."""
    known = known_keys()
    tails = {name.rsplit(".", 1)[-1]: name for name in known}
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    tail = difflib.get_close_matches(key.rsplit(".", 1)[-1], tails, n=1, cutoff=0.7)
    suggestion = close[0] if close else tails[tail[0]] if tail else None
    remedy = (
        f"did you mean {suggestion!r}?" if suggestion else "`fedapp list keys` shows all of them"
    )
    return InputError(key, "(given)", "no such config key", remedy)


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    known = known_keys()
    nested: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise unknown_key(key)
        *parents, last = key.split(".")
        table = nested
        for parent in parents:
            table = table.setdefault(parent, {})
        table[last] = _as_type_of(known[key], key, value)
    return nested


def _as_type_of(default: Any, key: str, value: Any) -> Any:
    """Flower does not check types: ``rounds = 'abc'`` arrives as given. Whole floats pass for
    integers."""
    kind = type(default)
    if kind is bool or isinstance(value, bool):
        if not (kind is bool and isinstance(value, bool)):
            raise InputError(
                key, value, f"must be a {kind.__name__}", f"for example {json.dumps(default)}"
            )
        return value
    if kind is str and not isinstance(value, str):
        return str(value)
    if kind is not str and isinstance(value, str):
        raise InputError(
            key, value, f"must be a number ({kind.__name__})", f"for example {default}"
        )
    return value


def _explain(error: ValidationError) -> InputError:
    """Pydantic's first complaint in our words."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    return InputError(
        key,
        first["input"],
        reason[0].lower() + reason[1:],
        f"the default is {known_keys().get(key)!r}",
    )
