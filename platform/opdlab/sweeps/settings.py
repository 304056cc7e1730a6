"""The `sweep` section of an experiment: what varies, who chooses, what trials are judged by."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from opdlab.configuration import RoomSection, replaced
from opdlab.seeds import LARGEST_SEED
from opdlab.sweeps.goals import Limit, Objective
from opdlab.sweeps.space import DIMENSION_KEYS, Choice, Dimension, in_words
from opdlab.sweeps.unfit import ONE_MACHINE, OWN_SEEDS

if TYPE_CHECKING:
    from opdlab.configuration import Experiment, Source

MOST_IN_A_GRID = 100_000


class Sweep(RoomSection):
    """A search over keys of the experiment. Every trial has the same prompts, seeds and problems, so that
    trials are compared pairwise."""

    dotted: ClassVar[frozenset[str]] = DIMENSION_KEYS

    space: dict[str, Dimension] = Field(min_length=1)
    """What varies: dotted keys of the experiment, such as `method.reward_weight`."""
    trials: int = Field(ge=1)
    """Total number of trials, over all workers."""
    seeds: list[Annotated[int, Field(ge=0, le=LARGEST_SEED)]] = Field(default=[], min_length=1)
    """Training seeds of each trial; it is judged by their mean. By default `seed` of the experiment."""
    objectives: list[Objective] = Field(default=[Objective()], min_length=1)
    """What to optimise; several objectives give a Pareto front."""
    constraints: list[Limit] = []
    """Trials that violate these are kept but never reported as best."""
    stop_when_beyond: list[Limit] = []
    """A trial that violates one of these while it trains is ended at once and counts as pruned.
    Benchmark scores are checked every `evaluation.every` steps, the two costs as they add up."""
    sampler: Literal["tpe", "gp", "random", "grid", "cmaes"] = "tpe"
    """How values are chosen. `gp` needs the fewest trials, which suits expensive ones; `grid` tries
    all."""
    sampler_seed: int | None = Field(default=None, ge=0, le=LARGEST_SEED)
    """The same seed and one worker give the same trials. By default the experiment's `seed`."""
    startup_trials: int = Field(default=8, ge=1)
    """Random trials before the sampler uses results; they are never pruned."""
    pruner: Literal["none", "median", "halving"] = "none"
    """Ends trials whose mean@k is below that of more than half of the others at the same point; trials
    that ended earlier count as below. `median` checks every `evaluation.every` steps and after each
    seed, `halving` at the first of these points and at each doubling of its step."""
    time_budget_s: float | None = Field(default=None, gt=0)
    """No trial starts later than this many seconds after the command."""
    storage: str | None = None
    """Optuna's database URL, such as `postgresql+psycopg://user@host/name`; workers on several machines
    need one. By default an SQLite file in the output folder, for one machine. A password in it is not
    stored; PGPASSWORD and `~/.pgpass` work as well."""
    heartbeat_s: int = Field(default=10, ge=1)
    """Seconds between heartbeats of a trial; after three missing ones it is started again."""

    @field_validator("storage")
    @classmethod
    def _one_that_locks(cls, url: str | None) -> str | None:
        if url is None or re.match(r"sqlite:///.|postgresql(\+\w+)?://", url):
            return url
        raise ValueError(
            f"{url.partition(':')[0]!r} is not a database that workers can share; write "
            "postgresql+psycopg://user@host/name, or sqlite:///FILE"
        )

    def filled(self, experiment: Experiment) -> Sweep:
        """The sweep with the experiment's seed where it has none of its own."""
        own: dict[str, Any] = {"seeds": self.seeds or [experiment.seed]}
        if self.sampler_seed is None:
            own["sampler_seed"] = experiment.seed
        return self.model_copy(update=own)

    def check(self, experiment: Experiment) -> None:
        """Whether the experiment is one that can be searched."""
        if experiment.runs:
            raise ValueError(
                "runs: a sweep varies one run; leave runs out, or make them a choice in it"
            )
        if experiment.training.seeds > 1:
            raise ValueError(OWN_SEEDS)
        if experiment.training.nodes > 1:
            raise ValueError(ONE_MACHINE)
        if not experiment.evaluation.benchmarks:
            raise ValueError("evaluation: a sweep compares its trials on benchmarks; name one")
        if not experiment.rollout.keeps_up:
            raise ValueError(
                "rollout.weights_folder is missing: a trial samples the student after its weights have "
                "changed, and the server would have the old ones. Set it to a folder that the server sees "
                "under the same name"
            )
        varied = any(key in ("rollout", "rollout.max_new_tokens") for key in self.space)
        if varied and "rollout.max_new_tokens" in experiment.measured_by():
            raise ValueError(
                "evaluation.max_new_tokens is missing: without it the benchmarks would be measured at the "
                "length that the sweep varies, and trials could not be compared"
            )
        if self.pruner != "none" and not experiment.evaluation.every and len(self.seeds) == 1:
            raise ValueError(
                "sweep.pruner needs something to go by before the end: set evaluation.every or more seeds"
            )

    def faults(self, source: Source, experiment: Experiment, gone: set[str]) -> list[str]:
        """What is wrong with keys, ranges and names of metrics, each where it stands in the file."""
        # Not at the top: experiment files without a sweep are read without it.
        from opdlab.sweeps.faults import of_metrics, of_space

        judged = {
            "objectives": self.objectives,
            "constraints": self.constraints,
            "stop_when_beyond": self.stop_when_beyond,
        }
        found = [] if "evaluation" in gone else of_metrics(source, experiment, judged)
        return [*found, *of_space(source, experiment, self.space, gone)]

    @model_validator(mode="after")
    def _check(self) -> Sweep:
        for name, dimension in self.space.items():
            self._check_conditions(name, dimension)
            self._check_order(name)
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: each may be given once")
        if len(self.objectives) > 1 and self.pruner != "none":
            raise ValueError(
                "pruner: with several objectives no trial can be pruned by one of them"
            )
        sought = [objective.metric for objective in self.objectives]
        if twice := [metric for metric in sought if sought.count(metric) > 1]:
            raise ValueError(f"objectives: {twice[0]} is given twice")
        if self.sampler == "grid":
            self._check_grid()
        if self.sampler == "cmaes":
            self._check_cmaes()
        return self

    def _check_order(self, name: str) -> None:
        for other in replaced(name, self.space):
            raise ValueError(
                f"space.{other} would replace what {name} has set; write {name} after it, with `when`"
            )

    def _check_cmaes(self) -> None:
        if len(self.objectives) > 1:
            raise ValueError("sampler: cmaes seeks one objective; take tpe, gp or random")
        unfit = [name for name, one in self.space.items() if isinstance(one, Choice) or one.when]
        if unfit:
            raise ValueError(
                f"sampler: cmaes searches over numbers that every trial has, and {unfit[0]} is a choice or "
                "has a condition; take tpe"
            )
        if len(self.space) < 2:
            raise ValueError("sampler: cmaes needs two keys or more; take tpe or gp")

    def _check_conditions(self, name: str, dimension: Dimension) -> None:
        earlier = list(self.space)[: list(self.space).index(name)]
        for other, value in dimension.when.items():
            if other not in earlier:
                raise ValueError(f"space.{name} depends on {other}, which must come before it")
            if self.space[other].place(value) is None:
                raise ValueError(
                    f"space.{name}.when: {other} is never {value!r}, but {in_words(self.space[other])}"
                )

    def _check_grid(self) -> None:
        points = 1
        for name, dimension in self.space.items():
            count = None if not isinstance(dimension, Choice) and dimension.log else dimension.count
            if count is None:
                raise ValueError(
                    f"space.{name} has no end of values; a grid needs a step or a choice"
                )
            if dimension.when:
                raise ValueError(f"space.{name}: a grid has no conditions; use tpe, or two sweeps")
            points *= count
        if points > MOST_IN_A_GRID:
            raise ValueError(
                f"space: a grid of {points:,} points is more than can be listed ({MOST_IN_A_GRID:,}); take "
                "larger steps, or another sampler"
            )
        if self.trials > points:
            raise ValueError(
                f"trials: this is a grid of {points} points; ask for that many or fewer"
            )


def sweep_of(experiment: Experiment) -> Sweep | None:
    """The sweep of an experiment, with its settings."""
    assert experiment.sweep is None or isinstance(experiment.sweep, Sweep)
    return experiment.sweep
