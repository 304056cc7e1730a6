"""The package as users install it: found from any folder, with its experiments and models."""

import json
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from opdlab import __version__ as VERSION

ROOT = Path(__file__).parents[2]
LOOK = """
import json
from pathlib import Path
import opdlab, opdlab_dashboards, opdlab_evaluators
from opdlab import plugins
from opdlab.configuration import loader
from opdlab.files import shipped
from opdlab.modelling import models
print(json.dumps({
    "homes": [str(Path(m.__file__).parent) for m in (opdlab, opdlab_evaluators, opdlab_dashboards)],
    "experiments": list(shipped.experiments()),
    "documentation": str(shipped.folder("docs")),
    "runs": loader.run_names(loader.load("quickstart")),
    "widths": {n: models.load_config(f"embedded:{n}").hidden_size for n in ("student", "teacher")},
    "evaluators": plugins.names(plugins.EVALUATORS),
}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(folder: Path) -> Path:
    """A virtual environment that sees what is installed here, but not opdlab's own folders."""
    venv.create(folder, symlinks=True)
    packages = next((folder / "lib").glob("python*/site-packages"))
    # The .pth files of a folder that is itself named in one are not read, that of opdlab included.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    return next(dist.glob("*.whl"))


@pytest.fixture(scope="module")
def sdist(dist: Path) -> Path:
    return next(dist.glob("*.tar.gz"))


def test_an_index_would_take_both_files(wheel: Path, sdist: Path):
    told = run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist, cwd=wheel.parent)
    assert told.count("PASSED") == 2
    assert wheel.name.split("-")[1] == VERSION
    assert sdist.name == f"opdlab-{VERSION}.tar.gz"


def test_the_version_is_the_same_everywhere():
    assert f"## [{VERSION}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


def test_the_wheel_holds_the_packages_experiments_and_documentation_alone(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {
        "opdlab",
        "opdlab_evaluators",
        "opdlab_dashboards",
        wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info",
    }
    shipped = {name for name in names if name.startswith("opdlab/experiments/")}
    assert {
        "opdlab/experiments/quickstart.yaml",
        "opdlab/experiments/experiment.schema.json",
    } <= shipped
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if "__pycache__" in name]
    assert not [name for name in names if name.startswith("opdlab/docs/") and ".py" in name]


@pytest.mark.parametrize("kind", ["wheel", "sdist", "editable"])
def test_everything_is_found_from_another_folder(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
):
    what = ["--editable", ROOT] if kind == "editable" else [request.getfixturevalue(kind)]
    there = environment(tmp_path / "venv")
    pip = (sys.executable, "-m", "pip", "--python", there / "python", "--disable-pip-version-check")
    run(*pip, "install", "--no-deps", "--no-index", "--no-build-isolation", *what, cwd=tmp_path)
    found = json.loads(run(there / "python", "-c", LOOK, cwd=tmp_path))
    home = ROOT if kind == "editable" else tmp_path / "venv"
    assert all(Path(path).is_relative_to(home) for path in found["homes"])
    files = sorted((ROOT / "experiments").rglob("*.yaml"))
    assert found["experiments"] == sorted(
        file.relative_to(ROOT / "experiments").with_suffix("").as_posix() for file in files
    )
    assert found["runs"] == ["opd", "lgr"]
    assert found["widths"]["student"] < found["widths"]["teacher"]
    assert {"code", "math", "routes"} <= set(found["evaluators"])
    assert "quickstart" in run(there / "opdlab", "experiments", cwd=tmp_path)
    documentation = Path(found["documentation"])
    assert documentation.is_relative_to(home)
    pages = sorted(ROOT.glob("docs/**/*.md"))
    assert sorted(documentation.rglob("*.md")) == [
        documentation / page.relative_to(ROOT / "docs") for page in pages
    ]
