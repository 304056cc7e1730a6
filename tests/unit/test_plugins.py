"""Plugins of other packages: found, checked, and harmless where they are broken and not used."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from opdlab.configuration.config import AnyEngine, AnyMethod, Experiment
from opdlab.configuration.loader import json_schema, load, load_experiment, save_resolved
from opdlab.configuration.posing import AnyEvaluator
from opdlab.errors import ConfigError, PluginError
from opdlab.plugins import registry as plugins

THIRD_PARTY = '''
from collections.abc import Sequence
from dataclasses import dataclass
from opdlab.methods import OPD
from opdlab.plugins import Evaluator
from opdlab.records import Problem, Verdict, option
from opdlab.sampling import GenerateEngine


@dataclass(frozen=True)
class Soft(OPD):
    """OPD with a twist."""

    twist: float = option(0.5, "How much.", ge=0, lt=1)
    powers: tuple[int, ...] = (1, 2)

    def __post_init__(self):
        if self.twist == 0.25:
            raise ValueError("twist 0.25 is bad luck")


@dataclass(frozen=True)
class Slow(GenerateEngine):
    """Generation, slowly."""


@dataclass(frozen=True, kw_only=True)
class Sums(Evaluator):
    """Sums of two numbers."""

    largest: int = option(9, "Largest number.", ge=1)

    @property
    def benchmark(self) -> str:
        return f"sums/{self.largest}"

    @property
    def grader_version(self) -> str:
        return "1"

    def problems(self) -> Sequence[Problem]:
        return [Problem(self.benchmark, "1+1", "1+1=", "2")]

    def training_problem(self, seed: int, index: int) -> Problem:
        return Problem(self.benchmark, "2+2", "2+2=", "4")

    def grade(self, problem: Problem, completion: str) -> Verdict:
        return Verdict("correct" if completion == problem.gold else "wrong")


@dataclass(frozen=True)
class Unfinished(Evaluator):
    """Lacks what an evaluator needs."""


@dataclass(frozen=True)
class Stranger:
    """No method at all."""
'''
POINTS = """
[opdlab.methods]
soft = thirdparty:Soft
stranger = thirdparty:Stranger
absent = thirdparty:Absent
broken = thirdparty_broken:Thing
[opdlab.rollouts]
slow = thirdparty:Slow
[opdlab.evaluators]
sums = thirdparty:Sums
unfinished = thirdparty:Unfinished
"""
BASE = """\
name: base
student: {path: embedded:student}
teacher: {path: embedded:teacher}
prompts: {type: problems, sources: [{type: sums, largest: 5}]}
rollout: {type: slow, max_new_tokens: 80}
method:
  type: soft
  twist: 0.75
training: {steps: 10}
"""


def install(folder: Path, name: str, points: str, **modules: str) -> None:
    """Lay a package down as pip would."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)


@pytest.fixture
def add_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    def add(name: str, points: str, **modules: str) -> None:
        install(tmp_path, name, points, **modules)
        for module in modules:
            monkeypatch.delitem(sys.modules, module, raising=False)
        plugins.forget()

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield add
    plugins.forget()


@pytest.fixture
def third_party(add_package: Callable[..., None]) -> None:
    add_package(
        "third-party",
        POINTS,
        thirdparty=THIRD_PARTY,
        thirdparty_broken="raise RuntimeError('no driver')",
    )


def written(text: str) -> str:
    Path("x.yaml").write_text(text)
    return "x.yaml"


def refusal(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(written(text))
    return str(caught.value).splitlines()


@pytest.mark.usefixtures("third_party")
def test_plugins_of_another_package_are_found_and_used():
    config = load_experiment(written(BASE))
    assert type(config.method).__name__ == "Soft"
    assert config.method.twist == 0.75  # type: ignore[attr-defined]
    assert type(config.rollout).__name__ == "Slow"
    assert config.prompts.sources[0].benchmark == "sums/5"  # type: ignore[union-attr]
    save_resolved(config, Path("resolved.yaml"))
    assert load("resolved.yaml") == config


@pytest.mark.usefixtures("third_party")
def test_a_broken_plugin_harms_no_experiment_that_does_not_use_it():
    assert "thirdparty_broken" not in sys.modules
    assert load_experiment(written(BASE)).model_dump(mode="json")["method"]["type"] == "soft"
    methods = json_schema()["$defs"]["Experiment"]["properties"]["method"]["oneOf"]
    (soft,) = [one for one in methods if one["title"] == "Soft"]
    assert soft["properties"]["twist"]["exclusiveMaximum"] == 1


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("twist: 0.75", "twist: 1", "x.yaml:8: method.twist must be below 1, not 1"),
        ("twist: 0.75", "twist: 0.25", "x.yaml:8: method.twist 0.25 is bad luck"),
        (
            "twist: 0.75",
            "powers: [1, a]",
            "x.yaml:8: method.powers.1 must be a whole number, not 'a'",
        ),
        (
            "largest: 5",
            "largest: 0",
            "x.yaml:4: prompts.sources.0.largest must be at least 1, not 0",
        ),
        (
            "soft",
            "broken",
            "x.yaml:7: method.type: plugin 'broken' of package third-party (thirdparty_broken:Thing) "
            "cannot be imported: RuntimeError: no driver",
        ),
        (
            "soft",
            "absent",
            "x.yaml:7: method.type: plugin 'absent' of package third-party (thirdparty:Absent) "
            "cannot be imported: AttributeError: module 'thirdparty' has no attribute 'Absent'",
        ),
        (
            "soft\n  twist: 0.75",
            "stranger",
            "x.yaml:7: method.type: plugin 'stranger' (Stranger) must subclass Method",
        ),
        (
            "sums, largest: 5",
            "unfinished",
            "x.yaml:4: prompts.sources.0.type: plugin 'unfinished' (Unfinished) does not define "
            "benchmark, grade, grader_version, problems",
        ),
    ],
)
def test_a_wrong_plugin_or_option_is_told_with_its_line(old: str, new: str, message: str):
    assert BASE.count(old) == 1
    assert refusal(BASE.replace(old, new)) == [message]


def test_a_type_that_two_packages_offer_is_refused(add_package: Callable[..., None]):
    for name in ("first", "second"):
        add_package(name, f"[opdlab.methods]\nsoft = {name}:Soft\n", **{name: THIRD_PARTY})
    with pytest.raises(PluginError, match=r"offered 2 times \(.*\): uninstall all but one"):
        plugins.load(plugins.METHODS, "soft")


def test_an_unknown_plugin_names_the_installed_ones():
    with pytest.raises(
        PluginError, match=r"installed: forward_kl, .*lgr, opd.* Did you mean 'opd'\?"
    ):
        plugins.load(plugins.METHODS, "ops")


def test_a_class_that_is_not_registered_cannot_be_described():
    with pytest.raises(PluginError, match="not a registered plugin"):
        plugins.describe(object())
    with pytest.raises(PluginError, match="not registered under"):
        plugins.type_name(plugins.METHODS, object())


NEEDED = {"dataset": {"name": "a", "path": "a.csv", "answer_column": "b", "grader": "exact"}}
"""Options that have no default."""


@pytest.mark.parametrize("kind", [AnyMethod, AnyEngine, AnyEvaluator])
def test_every_first_party_plugin_works_with_its_defaults_and_has_documented_options(kind: object):
    group = kind.__metadata__[0].group  # type: ignore[attr-defined]
    adapter = TypeAdapter(kind)
    for name in plugins.names(group):
        made = adapter.validate_python({"type": name, **NEEDED.get(name, {})})
        assert adapter.validate_python(made) is made
        assert adapter.validate_json(adapter.dump_json(made)) == made
        options = plugins.options_model(name, type(made)).model_json_schema()["properties"]
        undocumented = [key for key, one in options.items() if "description" not in one]
        assert not undocumented, f"{group} {name}"


def test_a_configuration_is_built_from_plugin_instances_too():
    method = plugins.load(plugins.METHODS, "opd")()
    base = json.loads(json.dumps({"name": "x", "training": {"steps": 1}}))
    models = {"student": {"path": "a"}, "teacher": {"path": "b"}}
    prompts = {"type": "problems", "sources": [{"type": "math"}]}
    config = Experiment(
        **base, **models, prompts=prompts, rollout={"type": "cached"}, method=method
    )
    assert config.method is method
    with pytest.raises(ValidationError):
        Experiment(**base, **models, prompts=prompts, rollout=method, method=method)
