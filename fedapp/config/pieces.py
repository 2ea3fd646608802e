"""One object that builds a run's pieces: from the names in a config to what they stand for."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from fedapp.config.experiment import Experiment
from privacy.releases import RELEASES
from privacy.sampling import Sampler
from strategies.learner import Learner
from strategies.local import LEARNERS
from strategies.rule import RunFacts
from strategies.rules import RULES
from tasks import TASKS
from tasks.errors import InputError
from tasks.registry import load

if TYPE_CHECKING:
    import torch

    from fedapp.store.runfolder import RunFolder
    from privacy.settings import PrivacySettings
    from strategies.learner import LearnerTraits
    from strategies.release import Release
    from strategies.rule import Rule
    from tasks.types import Task


class Pieces:
    """Everything an experiment names, each built once and only when it is asked for."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment

    @classmethod
    def of(cls, folder: RunFolder) -> Pieces:
        """The pieces of a run, finished or not."""
        return cls(folder.experiment)

    @property
    def task_type(self) -> type[Task]:
        """The task's class, whose traits are known before anything is built."""
        found: type[Task] = load("task", self.experiment.task, TASKS)
        return found

    @cached_property
    def task(self) -> Any:
        """The task, given all task settings (a :class:`tasks.types.Task`)."""
        return self.task_type(self.experiment)  # type: ignore[call-arg]

    @cached_property
    def facts(self) -> RunFacts:
        """Numbers of the whole run that a rule or learner may take a default from."""
        experiment = self.experiment
        clients = experiment.clients
        share = (clients.per_round or clients.total) / clients.total
        learner = experiment.learner
        return RunFacts(
            outer_steps=learner.outer_steps,
            outer_rate=learner.outer_rate,
            equal_steps=not learner.steps_by_examples,
            client_steps=experiment.rounds * learner.outer_steps * share,
            most_examples=self.task.most_examples,
        )

    @cached_property
    def rule(self) -> Rule:
        """The aggregation rule."""
        rule: type[Rule] = load("rule", self.experiment.rule, RULES)
        return rule.configured(self.experiment.rules, self.facts)

    def learner_type(self, method: str) -> type[LearnerTraits]:
        """The class of the learner a method name stands for."""
        found: type[LearnerTraits] = load("learner", method, LEARNERS, key="methods")
        return found

    def learner(self, method: str) -> Any:
        """The learner a method name stands for."""
        kind, settings = self.learner_type(method), self.experiment.learner
        if method in settings.rates:
            assert issubclass(kind, Learner)  # compatibility.py has seen to it
            settings = kind.at_rate(settings, settings.rates[method])
        return kind.configured(settings, self.facts)

    @cached_property
    def privacy(self) -> PrivacySettings:
        """The privacy settings with the noise multiplier that ``target-epsilon`` asks for, if it is
        given.

        The target is what the run may cost its population with known cohorts, all methods and seeds
        together.
        """
        from privacy.accounting import calibrate_known_cohort

        privacy = self.experiment.privacy
        if privacy.noise_multiplier > 0 or privacy.target_epsilon == 0:
            return privacy
        most = len(self.arms) * self.sampler(0).most(self.experiment.rounds)
        multiplier = calibrate_known_cohort(privacy.target_epsilon, privacy.delta, most)
        return privacy.model_copy(update={"noise_multiplier": multiplier * (1 + 1e-9)})

    @property
    def release_type(self) -> type[Release]:
        """The release's class, whose traits are known before anything is built."""
        found: type[Release] = load("release", self.experiment.release, RELEASES)
        return found

    @cached_property
    def release(self) -> Release:
        """The release for what this run's rule contributes."""
        return self.release_of(self.rule.size(self.task.layout.size))

    def release_of(self, size: int) -> Release:
        """The release for contributions of ``size`` numbers."""
        make: Any = self.release_type
        scalars = self.rule.scalars
        built: Release = make(self.privacy, size, *([scalars] if scalars else []))
        return built

    @property
    def noise_multiplier(self) -> float:
        """z of the release's noise; 0 if it adds none."""
        return self.privacy.noise_multiplier if self.release_type.placement != "none" else 0.0

    def sampler(self, seed: int) -> Sampler:
        """The draw of clients, round by round."""
        clients = self.experiment.clients
        return Sampler(self.experiment.privacy.sampling, seed, clients.total, clients.per_round)

    @property
    def trains_sums(self) -> bool:
        """Whether rounds of sums train it: only then are its methods learners."""
        return self.experiment.workflow_name == "sums"

    @property
    def arms(self) -> list[tuple[str, int]]:
        """``(method, seed)`` of everything that is trained, in the order it is."""
        experiment = self.experiment
        return [(m, seed) for seed in experiment.seed_list for m in experiment.trained_methods]

    @cached_property
    def device(self) -> torch.device:
        """The device of this process.

        ``auto`` is the GPU it sees, if any; a GPU asked for and not seen is an error, never CPU.
        """
        import torch

        name = self.experiment.runtime.device
        if name == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(
                "runtime.device",
                name,
                "this process sees no CUDA device",
                "use cpu or auto, or set runtime.gpus-per-actor",
            )
        return torch.device(name)
