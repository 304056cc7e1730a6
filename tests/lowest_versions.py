"""Constraints that hold every library at the lowest version that pyproject.toml allows.

python tests/lowest_versions.py [torch==VERSION] > lowest.txt

A requirement on the command line replaces that of the same name. Tools of development stay free.
"""

import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest(requirements: Iterable[str]) -> Iterator[str]:
    """`name==version` of each requirement that has a lower bound or one version."""
    for requirement in map(Requirement, requirements):
        for bound in requirement.specifier:
            if bound.operator in (">=", "=="):
                marker = f"; {requirement.marker}" if requirement.marker else ""
                yield f"{requirement.name}=={bound.version}{marker}"


def main(replaced: list[str]) -> None:
    project = tomllib.loads(PROJECT.read_text())["project"]
    wanted = [*lowest(project["dependencies"]), *replaced]
    found = {Requirement(line).name: line for line in wanted}
    print("\n".join(sorted(found.values())))


if __name__ == "__main__":
    main(sys.argv[1:])
