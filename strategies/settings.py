"""Configuration of the learner and rule axes (see ``tasks/settings.py`` for how keys map to
fields)."""

from __future__ import annotations

from pydantic import Field

from tasks.settings import Options, Settings


class ClientsSettings(Settings):
    """The population and who of it takes part."""

    total: int = Field(
        12, ge=1, le=1_000_000, description="clients there are; each holds its own data"
    )
    per_round: int = Field(
        0, ge=0, description="clients drawn for a round, without replacement; 0: all"
    )
    min: int = Field(2, ge=1, description="a round with fewer usable answers stops the run")


class FedMeNFSettings(Settings):
    """The privacy-preserving objective L(phi_K) - gamma min(L(w), cap)."""

    gamma: float = Field(0.75, ge=0, le=1, description="weight of the subtracted loss; 0 is MAML")
    cap: float = Field(
        0.1, ge=0, description="the bounded variant's cap on the subtracted loss; 0: none"
    )
    zeta: float = Field(
        0.02, gt=0, description="fedmenf-adaptive: how much loss a client may give away in a run"
    )
    total_steps: float = Field(
        0.0, ge=0, description="outer steps of a client in a run (T); 0: rounds x E x M / N"
    )


class ReptileSettings(Settings):
    outer_rate: float = Field(0.05, gt=0, description="Reptile's own outer step size")


class MetaNsgdSettings(Settings):
    clip: float = Field(0.5, gt=0, description="C, norm a task's meta-gradient is clipped to")
    noise_multiplier: float = Field(
        0.423, gt=0, description="sigma, noise deviation over C, in every outer step"
    )
    proximal: float = Field(
        0.1, ge=0, description="weight of the pull to the meta-learner in inner steps"
    )
    outer_rate: float = Field(0.1, gt=0, description="meta-NSGD's own outer step size")


class AdapterSettings(Settings):
    """The adapters learner: AdamW on what is shared and what stays."""

    rate: float = Field(0.003, gt=0, description="AdamW's step size for both adapters")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay")
    personal_steps: int = Field(
        4, ge=0, description="steps a round for the personal adapter, which never leaves; 0: none"
    )


class LearnerSettings(Settings):
    """Local training: E outer steps, each of K inner steps."""

    inner_steps: int = Field(
        4, ge=0, le=1000, description="K, steps of adaptation inside one outer step"
    )
    inner_rate: float = Field(0.01, gt=0, description="step size of the inner steps")
    inner_clip: float = Field(5.0, ge=0, description="gradient norm limit of inner steps; 0: none")
    outer_steps: int = Field(40, ge=1, description="E, outer steps a client takes in a round")
    steps_by_examples: bool = Field(
        False, description="take E steps for each example a client holds (its epochs)"
    )
    outer_rate: float = Field(0.006, gt=0, description="step size of the outer steps")
    outer_clip: float = Field(5.0, ge=0, description="norm limit of the outer gradient; 0: none")
    batch_size: int = Field(64, ge=1, description="samples in a batch, drawn with replacement")
    fedmenf: FedMeNFSettings = Field(default_factory=lambda: FedMeNFSettings())
    options: Options = Field("{}", description="a JSON object for a learner of your own")
    reptile: ReptileSettings = Field(default_factory=lambda: ReptileSettings())
    meta_nsgd: MetaNsgdSettings = Field(default_factory=lambda: MetaNsgdSettings())
    adapters: AdapterSettings = Field(default_factory=lambda: AdapterSettings())


class FedProxSettings(Settings):
    mu: float = Field(0.1, ge=0, description="weight of the proximal term; 0 is FedAvg")


class ScaffoldSettings(Settings):
    scale: float = Field(
        0.0,
        ge=0,
        description="of the control variates beside the update; 0: learner.outer-steps times its rate",
    )


class FedNovaSettings(Settings):
    steps: int = Field(
        0, ge=0, description="local steps all clients take; 0: learner.outer-steps, or they differ"
    )
    max_steps: float = Field(
        1000.0, gt=0, description="most local steps of a client, where they differ"
    )


class FedExPSettings(Settings):
    epsilon: float = Field(1e-3, ge=0, description="added to the squared norm of the mean update")


class FedACGSettings(Settings):
    momentum: float = Field(
        0.85, ge=0, lt=1, description="lambda, the server's momentum; 0 with beta = 0 is FedAvg"
    )
    beta: float = Field(0.001, ge=0, description="weight of the pull to the model that was sent")


class IsfaSettings(Settings):
    alpha: float = Field(0.7, ge=0, le=1, description="share of identity consistency in the score")
    gamma: float = Field(0.5, ge=0, le=20, description="how sharply the score weighs; 0 is FedAvg")
    max_examples: int = Field(
        0,
        ge=0,
        description="N, clips beyond which more do not count; 0: talking-head.clips, which nobody has more of",
    )
    attendance: float = Field(
        1.0,
        gt=0,
        le=1,
        description="chance with which a client that did perfectly still trains; distributed-dp only",
    )


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
