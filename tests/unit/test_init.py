"""What `opdlab init` writes works as it is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from opdlab.configuration import load
from opdlab.errors import ConfigError
from opdlab.files import begin_experiment, begin_plugin
from opdlab.files.templates import PLUGINS


def test_a_new_experiment_is_valid_and_is_not_written_over(tmp_path):
    file = begin_experiment("my-study", tmp_path)
    config = load(file, there=True)
    assert config.name == "my-study"
    assert "$" not in file.read_text()
    file.write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        begin_experiment("my-study", tmp_path)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("name", ["", "My Study", "../up", "-x", "a--b", "x.yaml", "true", "no"])
def test_a_name_that_would_be_none_is_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="cannot be a name"):
        begin_experiment(name, tmp_path)
    assert not list(tmp_path.iterdir())


CHECK = """
import sys, pytest
site, *words = sys.argv[1:]
sys.path.insert(0, site)
ended = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--import-mode=importlib", *words])
from opdlab import plugins
for kind in ("method", "evaluator", "rollout"):
    assert plugins.load(f"opdlab.{kind}s", f"my_{kind}").__name__ == f"My{kind.title()}"
sys.exit(ended)
"""


def test_new_plugins_pass_their_own_tests_and_are_found(tmp_path):
    folders = [str(begin_plugin(kind, f"my-{kind}", tmp_path)) for kind in PLUGINS]
    site = str(tmp_path / "site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", site, *folders], check=True)
    words = [sys.executable, "-c", CHECK, site, *folders]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
    with pytest.raises(ConfigError, match="is there already"):
        begin_plugin("method", "my-method", tmp_path)


@pytest.mark.parametrize(
    ("kind", "name"), [("method", "lgr"), ("rollout", "cached"), ("evaluator", "evaluators")]
)
def test_a_plugin_that_would_stand_in_the_way_of_one_that_is_installed_is_refused(
    kind, name, tmp_path
):
    with pytest.raises(ConfigError, match="is installed already"):
        begin_plugin(kind, name, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "name"),
    [("method", "questions"), ("evaluator", "problem"), ("rollout", "cached-engine")],
)
def test_a_class_hides_nothing_that_its_file_uses(kind, name, tmp_path):
    folder = begin_plugin(kind, name, tmp_path)
    (module,) = folder.glob("*.py")
    tree = ast.parse(module.read_text())
    imported = {
        one.name for node in tree.body if isinstance(node, ast.ImportFrom) for one in node.names
    }
    (defined,) = (node.name for node in tree.body if isinstance(node, ast.ClassDef))
    assert defined not in imported
    assert f"{module.stem}:{defined}" in (folder / "pyproject.toml").read_text()


def test_the_command_says_what_comes_next(tmp_path):
    command = Path(sys.executable).with_name("opdlab")
    done = subprocess.run([command, "init", "study"], capture_output=True, text=True, cwd=tmp_path)
    assert "opdlab validate study.yaml" in done.stdout
    done = subprocess.run([command, "init"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "say one thing to begin" in done.stderr
