"""The repository's layout: nothing in it stands in the way of another module."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def origin_at_the_root(module: str) -> str:
    """Where a program started in the repository's root finds a module."""
    script = f"import importlib.util as u; print(u.find_spec({module!r}).origin)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_platform_is_the_standard_library_at_the_root():
    assert not (ROOT / "platform" / "__init__.py").exists()
    script = "import platform; print(platform.python_version()); print(platform.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    version, file = done.stdout.split()
    assert version == sys.version.split()[0]
    assert not Path(file).is_relative_to(ROOT / "platform")


def test_the_docker_folder_is_not_taken_for_the_docker_package():
    origin = origin_at_the_root("docker")
    assert Path(origin).name == "__init__.py"
    assert Path(origin).parent != ROOT / "docker"


def test_the_three_packages_come_from_one_place():
    def home(module: str) -> Path:
        file = importlib.import_module(module).__file__
        assert file is not None
        return Path(file).resolve().parents[1]

    homes = [home(name) for name in ("opdlab", "opdlab_evaluators", "opdlab_dashboards")]
    in_repository = [ROOT / name for name in ("platform", "evaluators", "dashboards")]
    assert homes == in_repository or len(set(homes)) == 1


@pytest.mark.parametrize("folder", ["platform", "evaluators", "dashboards"])
def test_a_source_root_holds_its_package_alone(folder: str):
    found = [path.name for path in (ROOT / folder).iterdir() if path.name != "__pycache__"]
    assert found == [{"platform": "opdlab"}.get(folder, f"opdlab_{folder}")]


def test_no_file_hides_a_module_of_the_standard_library():
    roots = [ROOT / folder for folder in ("platform", "evaluators", "dashboards")]
    names = {path.stem for root in roots for path in root.rglob("*.py")}
    assert not names & (sys.stdlib_module_names - {"__init__"})


def test_a_method_can_be_read_alone():
    files = sorted((ROOT / "platform/opdlab/methods").glob("*.py"))
    assert files
    long = {path.name: n for path in files if (n := len(path.read_text().splitlines())) > 150}
    assert not long


def test_the_tested_set_names_exact_versions_and_no_place():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert len(pins) > 100
    for pin in pins:
        name, equals, version = pin.partition("==")
        assert name, pin
        assert equals, pin
        assert version.replace(".", "").replace("post", "").isalnum(), pin
    assert "torch==2.13.0" in pins


CORE = ROOT / "platform" / "opdlab"
ROOMS = sorted(path.parent for path in CORE.glob("*/__init__.py"))


def imported(path: Path) -> list[tuple[str, ...]]:
    """Parts of every module that a file names in `from ... import`."""
    nodes = ast.walk(ast.parse(path.read_text()))
    found = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return [tuple(module.split(".")) for module in found if module]


@pytest.mark.parametrize("room", [room.name for room in ROOMS])
def test_a_room_says_what_it_is_for(room: str):
    assert importlib.import_module(f"opdlab.{room}").__doc__


@pytest.mark.parametrize("room", [room.name for room in ROOMS])
def test_all_that_the_face_of_a_room_shows_is_there(room: str):
    face = importlib.import_module(f"opdlab.{room}")
    assert all(hasattr(face, name) for name in getattr(face, "__all__", []))


def test_a_room_is_entered_by_its_face():
    rooms = {room.name for room in ROOMS}
    sources = [ROOT / folder for folder in ("platform", "evaluators", "dashboards")]
    beside = {
        f"{path.relative_to(ROOT)} imports {'.'.join(module)}"
        for source in sources
        for path in source.rglob("*.py")
        for module in imported(path)
        if module[0] == "opdlab" and len(module) > 2 and module[1] in rooms
        if CORE / module[1] not in path.parents
    }
    assert not beside


def test_no_face_names_something_as_one_of_its_files_is_called():
    """Whoever had imported the file would find that under the name."""
    faces = [
        path
        for source in ("platform", "evaluators", "dashboards")
        for path in (ROOT / source).rglob("__init__.pyi")
    ]
    assert len(faces) > 15
    hidden = {
        f"{path.relative_to(ROOT)}: {name.asname or name.name}"
        for path in faces
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for name in node.names
        if (path.parent / f"{name.asname or name.name}.py").exists()
    }
    assert not hidden


def test_few_files_stand_outside_of_rooms():
    assert len(list(CORE.glob("*.py"))) <= 12


def test_what_is_added_often_changes_five_files_at_most_and_they_are_there():
    told = (ROOT / "CONTRIBUTING.md").read_text().partition("## How to add")[2]
    rows = [re.sub(r"\(as [^)]*\)", "", row) for row in told.splitlines() if row[:2] == "| "]
    named = [re.findall(r"`([\w./]+\.(?:py|pyi|toml|md))`", row) for row in rows]
    assert len(named) > 9
    assert max(map(len, named)) == 5
    places = (ROOT, CORE)
    files = {one for row in named for one in row if "NAME" not in one}
    assert not [one for one in files if not any((place / one).exists() for place in places)]


def test_a_command_that_is_not_run_loads_no_room():
    script = (
        "import sys, opdlab.cli as cli; cli.main; "
        "print([name for name in sys.modules if name in ('torch', 'pydantic', 'mlflow', 'optuna')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
