"""Commands that look at files answer at once: what they import."""

import ast
import os
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from opdlab.files import shipped
from opdlab.postponed import is_postponed, postpone

HEAVY = [
    "transformers",
    "lightning",
    "mlflow",
    "optuna",
    "datasets",
    "evaluate",
    "scipy",
    "sympy",
    "pandas",
    "matplotlib",
]
"""None of these is imported, and of torch nothing is used."""
LIGHT = f"""
import sys, types
from opdlab.cli import main
for command in sys.argv[1:]:
    sys.argv = ["opdlab", *command.split()]
    try:
        main()
    except SystemExit as ended:
        assert ended.code in (None, 0, 2), command
    assert type(sys.modules["torch"]) is not types.ModuleType, (command, "torch")
    found = [name for name in {HEAVY} if name in sys.modules]
    assert not found, (command, found)
"""


def test_what_looks_at_files_alone_imports_no_torch():
    checked = [f"validate {name}" for name in shipped.experiments()]
    commands = ["experiments", *checked, "plugins", "schema"]
    done = subprocess.run([sys.executable, "-c", LIGHT, *commands], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


PLANNED = """
import sys
from opdlab.cli import main
sys.argv = ["opdlab", "plan", "quickstart"]
main()
found = {name.split(".")[0] for name in sys.modules} & set(sys.stdin.read().split())
assert not found, found
"""


def test_a_plan_imports_nothing_that_trains_or_tracks():
    """A plan runs models without content, which needs torch and transformers, and what these import."""
    unneeded = "lightning mlflow optuna datasets evaluate pandas matplotlib peft plotly sqlalchemy"
    code = [sys.executable, "-c", PLANNED]
    done = subprocess.run(code, input=unneeded, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


LIBRARY = {
    "__init__.py": "run = ['library']\nfrom . import inner\n",
    "inner.py": "from {name} import run\nrun.append('inner')\n",
    "below/__init__.py": "from {name} import run\nrun.append('below')\n",
}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Name of a package of a name of its own; what was imported of it is forgotten."""
    name = f"heavy_{abs(hash(request.node.name))}"
    for path, text in LIBRARY.items():
        file = tmp_path / name / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text.replace("{name}", name))
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    yield name
    sys.meta_path[:] = finders
    for found in [one for one in sys.modules if one.split(".")[0] == name]:
        del sys.modules[found]


def test_a_postponed_library_runs_when_something_of_it_is_used(library):
    postpone(library)
    module = __import__(library)
    assert hasattr(module, "__file__")  # as `inspect` asks every module
    assert is_postponed(module)
    assert f"{library}.inner" not in sys.modules
    assert module.run == ["library", "inner"]
    assert not is_postponed(module)
    assert sys.modules[library] is module


@pytest.mark.parametrize("first", ["inner", "below"])
def test_a_module_below_a_postponed_library_runs_once(library, first):
    postpone(library)
    below = __import__(f"{library}.{first}", fromlist=["run"])
    module = sys.modules[library]
    assert below is getattr(module, first)
    assert module.run == ["library", *dict.fromkeys(["inner", first])]
    assert module.inner is sys.modules[f"{library}.inner"]
    assert module.inner.__spec__.loader.path.endswith("inner.py")


def test_a_library_whose_import_fails_says_why_each_time(library, tmp_path):
    (tmp_path / library / "inner.py").write_text("raise OSError('no device')\n")
    PathFinder.invalidate_caches()
    postpone(library)
    module = __import__(library)
    with pytest.raises(OSError, match="no device"):
        module.run  # noqa: B018
    with pytest.raises(OSError, match="no device"):
        __import__(library)


def test_what_is_not_installed_or_there_already_is_left_alone():
    before = dict(sys.modules)
    postpone("no_such_library")
    postpone("json")
    assert sys.modules == before


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("opdlab tra", {"train"}),
        ("opdlab train quick", {"quickstart"}),
        ("opdlab train my", {"my.yaml"}),
        ("opdlab compare small-001/", {"small-001/lgr", "small-001/opd"}),
        ("opdlab train quickstart --res", {"--resume"}),
    ],
)
def test_a_shell_is_offered_what_can_follow(typed, offered, tmp_path):
    (tmp_path / "my.yaml").touch()
    for run in ("lgr", "opd"):
        (tmp_path / "runs" / "small-001" / run / "samples").mkdir(parents=True)
    asked = {"_OPDLAB_COMPLETE": "complete_bash", "COMP_WORDS": typed}
    asked["COMP_CWORD"] = str(len(typed.split()) - 1)
    done = subprocess.run(
        [Path(sys.executable).with_name("opdlab")],
        cwd=tmp_path,
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
    )
    assert set(done.stdout.split()) == offered, done.stderr


def _runtime_uses(file: Path) -> list[int]:
    """Lines where `Tensor` is a value and not the second argument of `isinstance`, nor an annotation."""
    tree = ast.parse(file.read_text())
    annotations = {
        id(node)
        for owner in ast.walk(tree)
        for field in ("annotation", "returns")
        if (annotation := getattr(owner, field, None)) is not None
        for node in ast.walk(annotation)
    }
    asked = {
        id(node)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "isinstance"
        for node in ast.walk(call.args[1])
    }
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare | ast.Call)
        for part in ast.iter_child_nodes(node)
        if isinstance(part, ast.Name)
        and part.id == "Tensor"
        and id(part) not in annotations | asked
    ]


def test_what_stands_for_a_tensor_is_compared_with_nothing():
    """In a command `opdlab.shapes.Tensor` is a stand-in: `type(x) is Tensor` would be false there."""
    package = Path(__file__).parents[2] / "platform"
    found = {str(file): lines for file in package.rglob("*.py") if (lines := _runtime_uses(file))}
    assert not found, "write torch.Tensor there"
