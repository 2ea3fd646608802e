"""Configuration of the learner and rule axes, collected from the files of what it sets.

A rule's or learner's own settings stand in its own file (see ``tasks/settings.py`` for how keys map
to fields); here are only those that several share.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from strategies.local.adapters import AdapterSettings
from strategies.local.meta import FedMeNFSettings
from strategies.local.reptile import ReptileSettings
from strategies.rules.fedacg import FedACGSettings
from strategies.rules.fedexp import FedExPSettings
from strategies.rules.fednova import FedNovaSettings
from strategies.rules.fedprox import FedProxSettings
from strategies.rules.isfa import IsfaSettings
from strategies.rules.scaffold import ScaffoldSettings
from tasks.settings import Options, Settings


def _by_method(text: str) -> str:
    """``name=number`` by comma; raises ``ValueError`` for anything else."""
    seen: set[str] = set()
    for part in text.split(",") if text.strip() else ():
        name, _, number = part.strip().rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not name or not 0 < value < math.inf or name in seen:
            raise ValueError("must be one method=step size each by comma, such as maml=0.006")
        seen.add(name)
    return text


class ClientsSettings(Settings):
    """The population and who of it takes part."""

    total: int = Field(
        12, ge=1, le=1_000_000, description="clients there are; each holds its own data"
    )
    per_round: int = Field(
        0, ge=0, description="clients drawn for a round, without replacement; 0: all"
    )
    min: int = Field(2, ge=1, description="a round with fewer usable answers stops the run")


class MetaNsgdSettings(Settings):
    """meta-NSGD's; here because its learner draws protecting noise and lives a layer above."""

    clip: float = Field(0.5, gt=0, description="C, norm a task's meta-gradient is clipped to")
    noise_multiplier: float = Field(
        0.423, gt=0, description="sigma, noise deviation over C, in every outer step"
    )
    proximal: float = Field(
        0.1, ge=0, description="weight of the pull to the meta-learner in inner steps"
    )
    outer_rate: float = Field(0.1, gt=0, description="meta-NSGD's own outer step size")


class LearnerSettings(Settings):
    """Local training: E outer steps, each of K inner steps."""

    inner_steps: int = Field(
        4, ge=0, le=1000, description="K, steps of adaptation inside one outer step"
    )
    inner_rate: float = Field(0.01, gt=0, description="step size of the inner steps")
    inner_clip: float = Field(5.0, ge=0, description="gradient norm limit of inner steps; 0: none")
    inner_clip_derivative: Literal["exact", "stopped"] = Field(
        "exact",
        description="derivative of the inner clip in second-order learners: exact, or stopped, as "
        "FedMeNF's release has it",
    )
    outer_steps: int = Field(40, ge=1, description="E, outer steps a client takes in a round")
    steps_by_examples: bool = Field(
        False, description="take E steps for each example a client holds (its epochs)"
    )
    outer_rate: float = Field(0.006, gt=0, description="step size of the outer steps")
    outer_rates: Annotated[str, AfterValidator(_by_method)] = Field(
        "", description="outer step sizes of single methods: fedmenf-published=0.0007,maml=0.006"
    )
    outer_clip: float = Field(5.0, ge=0, description="norm limit of the outer gradient; 0: none")
    batch_size: int = Field(
        64,
        ge=0,
        le=2**22,
        description="samples in a batch, drawn with replacement; 0: all, each once",
    )
    options: Options = Field("{}", description="a JSON object for a learner of your own")
    fedmenf: FedMeNFSettings = Field(default_factory=lambda: FedMeNFSettings())
    meta_nsgd: MetaNsgdSettings = Field(default_factory=lambda: MetaNsgdSettings())
    reptile: ReptileSettings = Field(default_factory=lambda: ReptileSettings())
    adapters: AdapterSettings = Field(default_factory=lambda: AdapterSettings())

    @property
    def rates(self) -> dict[str, float]:
        """Outer step sizes of methods that have their own."""
        parts = [
            part.strip().rpartition("=") for part in self.outer_rates.split(",") if part.strip()
        ]
        return {name: float(number) for name, _, number in parts}


class RuleSettings(Settings):
    """The server's side of a round."""

    server_clip: float = Field(5.0, ge=0, description="norm limit of the averaged update; 0: none")
    options: Options = Field("{}", description="a JSON object for a rule of your own")
    fedprox: FedProxSettings = Field(default_factory=lambda: FedProxSettings())
    scaffold: ScaffoldSettings = Field(default_factory=lambda: ScaffoldSettings())
    fednova: FedNovaSettings = Field(default_factory=lambda: FedNovaSettings())
    fedexp: FedExPSettings = Field(default_factory=lambda: FedExPSettings())
    fedacg: FedACGSettings = Field(default_factory=lambda: FedACGSettings())
    isfa: IsfaSettings = Field(default_factory=lambda: IsfaSettings())
