"""Secrets among a plugin's options reach the plugin, and nothing that is written or shown."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from planted import SECRET, found
from unit.test_plugins import add_package as add_package

from opdlab import secret_options
from opdlab.configuration import loader
from opdlab.errors import ConfigError
from opdlab.evaluation.measured import engine_of
from opdlab.methods.base import Method
from opdlab.plugins.evaluator import Evaluator
from opdlab.plugins.grader import Grader
from opdlab.records import Covered
from opdlab.sampling.rollout import RolloutEngine

ENGINE = '''
from dataclasses import dataclass
from opdlab.records import option
from opdlab.sampling import CachedEngine

@dataclass(frozen=True, kw_only=True)
class Far(CachedEngine):
    """Samples far away."""
    token: str = option("", "Lets in.")
    api_key: str = option("", "Lets in.")
    key: str = option("", "Lets in.")
    headers: dict[str, str] = option({}, "Sent along.")
    lines: list[str] = option([], "Sent along.")
    servers: list[str] = option([], "Addresses.")
    eos_token: str = option("</s1>", "Ends.")
'''
POINTS = "[opdlab.rollouts]\nfar = far:Far\n"
GIVEN: list[tuple[str, Any]] = [
    ("token", SECRET),
    ("api_key", SECRET),
    ("key", f"1-{SECRET}"),
    ("headers", {"Authorization": f"Bearer {SECRET}", "X-Auth-Token": SECRET, "Accept": "text"}),
    ("lines", [f"Authorization: Bearer {SECRET}", "Accept: text"]),
    ("servers", [f"http://alice:{SECRET}@one/v1", "http://two/v1"]),
]


@pytest.fixture
def far(add_package: Callable[..., None]) -> None:
    add_package("far-engine", POINTS, far=ENGINE)


def written(folder: Path, **options: Any) -> Path:
    rollout = {"type": "far", "max_new_tokens": 8, **options}
    told = {"name": "x", "student": {"path": "embedded:student"}}
    told |= {"teacher": {"path": "embedded:teacher"}, "rollout": rollout, "method": {"type": "opd"}}
    told |= {
        "prompts": {"type": "problems", "sources": [{"type": "math"}]},
        "training": {"steps": 1},
    }
    (folder / "mine.yaml").write_text(json.dumps(told))
    return folder / "mine.yaml"


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("where", ["file", "command line"])
@pytest.mark.parametrize(("option", "value"), GIVEN)
def test_a_secret_reaches_the_plugin_and_nothing_else(
    tmp_path: Path, option: str, value: Any, where: str
) -> None:
    if where == "file":
        config = loader.load_experiment(written(tmp_path, **{option: value}))
    else:
        word = secret_options.cut_argument(f"rollout.{option}={json.dumps(value)}")
        assert SECRET not in word or option == "servers"  # addresses are cut by another hand
        config = loader.load_experiment(written(tmp_path), [word])
    (tmp_path / "mine.yaml").unlink()
    assert getattr(config.rollout, option) == value
    loader.save_resolved(config, tmp_path / "config.yaml")
    told = [str(config.model_dump(mode="json")), repr(config), repr(config.rollout)]
    assert not found(tmp_path, *told, str(engine_of(config.rollout)), f"{config.rollout}")
    # A trial's process, begun by this one, reads what was saved.
    again = loader.load_experiment(tmp_path / "config.yaml")
    assert getattr(again.rollout, option) == value
    assert again.model_dump(mode="json") == config.model_dump(mode="json")


@pytest.mark.usefixtures("far")
def test_a_saved_configuration_asks_another_shell_for_the_secret(tmp_path: Path) -> None:
    config = loader.load_experiment(written(tmp_path, token=SECRET))
    loader.save_resolved(config, tmp_path / "config.yaml")
    del os.environ[secret_options.VARIABLE]
    with pytest.raises(
        ConfigError, match=r"rollout.*saved nowhere: give it again \(rollout.token="
    ):
        loader.load_experiment(tmp_path / "config.yaml")
    again = loader.load_experiment(tmp_path / "config.yaml", [f"rollout.token={SECRET}"])
    assert again.model_dump() == config.model_dump()


@pytest.mark.usefixtures("far")
def test_each_run_of_an_experiment_keeps_its_own(tmp_path: Path) -> None:
    runs = [{"name": name, "set": {"rollout.token": f"{SECRET}-{name}"}} for name in "ab"]
    config = loader.load_experiment(written(tmp_path), [f"runs={json.dumps(runs)}"])
    tokens = [getattr(one.rollout, "token") for _, one in loader.variants(config)]  # noqa: B009
    assert tokens == [f"{SECRET}-a", f"{SECRET}-b"]
    assert SECRET not in str([one.model_dump() for _, one in loader.variants(config)])


@pytest.mark.usefixtures("far")
def test_a_fault_beside_a_secret_is_told_without_it(tmp_path: Path) -> None:
    file = written(tmp_path, token=SECRET, api_key=[SECRET], max_new_tokens=-1)
    with pytest.raises(ConfigError, match="max_new_tokens") as told:
        loader.load_experiment(file)
    assert SECRET not in str(told.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("token", "abcd"),
        ("hfToken", "abcd-efgh"),
        ("password", "x"),
        ("client_secret", "x y"),
        ("X-Api-Key", "abc"),
        ("note", "sk-abcdefghijklmnop"),
        ("note", "Bearer abcdefgh"),
        ("line", "Cookie: a=b"),
    ],
)
def test_names_and_forms_of_secrets_are_known(name: str, value: str) -> None:
    assert secret_options.is_secret(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokenizer", "Qwen/Qwen3-1.7B"),
        ("eos_token", "</s>"),
        ("stop_token", "END1"),
        ("token", "<|endoftext|>"),
        ("key", "question"),
        ("answer_key", "final_answer"),
        ("key_variable", "OPENAI_API_KEY1"),
        ("max_new_tokens", 128),
        ("password", ""),
        ("description", "what a token is worth"),
        ("code", "short"),
    ],
)
def test_what_is_no_secret_stays(name: str, value: object) -> None:
    assert not secret_options.is_secret(name, value)


def test_the_text_of_a_plugin_that_nobody_loaded_shows_no_secret() -> None:
    @dataclass(frozen=True)
    class Mine(Covered):
        token: str
        level: str = "short"
        headers: dict[str, str] = field(default_factory=dict)

    text = repr(Mine(SECRET, headers={"Authorization": SECRET}))
    assert SECRET not in text
    assert "level='short'" in text


@pytest.mark.parametrize("kind", [Evaluator, Grader, Method, RolloutEngine])
def test_every_kind_of_plugin_hides_secrets_in_its_text(kind: type) -> None:
    assert issubclass(kind, Covered)
