"""The command that puts the zygote into a sandbox, and what this machine offers for it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from opdlab.errors import OpdlabError
from opdlab_evaluators.sandbox.refusal import INSTALL, UNSAFE

OLDEST_BWRAP = (0, 5, 0)
SCRATCH_BYTES, SHARED_BYTES = 64 << 20, 4 << 20
STACK_BYTES = 256 << 20
INSIDE = Path(__file__).parent / "inside"
NEUTRAL = Path("/mnt")
"""Where root's outer sandbox puts what may lie in a private home."""
PACKAGES = ("numpy", "sortedcontainers")
"""Packages that programs may import, if they are installed."""

HOST_FACTS = (
    *("/proc/cmdline", "/proc/version", "/proc/kallsyms", "/proc/modules", "/proc/config.gz"),
    *("/proc/partitions", "/proc/diskstats", "/proc/swaps", "/proc/keys"),
)
"""What tells of the machine, and is empty inside."""

# Before it gives up its rights: into the control groups. After that: a stack for deep recursion.
_LAUNCH = f"""
import os, resource, sys
uid, groups = int(sys.argv[1]), int(sys.argv[2])
for path in sys.argv[3 : 3 + groups]:
    with open(path, "w") as file:
        file.write("0")
if uid:
    os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
_, most = resource.getrlimit(resource.RLIMIT_STACK)
stack = {STACK_BYTES} if most == resource.RLIM_INFINITY else min(most, {STACK_BYTES})
resource.setrlimit(resource.RLIMIT_STACK, (stack, stack))
command = sys.argv[3 + groups :]
os.execvp(command[0], command)
"""
_ZYGOTE = (
    "import sys; sys.path.append(sys.argv[3]); from inside import zygote; sys.path.pop(); "
    "zygote.main(int(sys.argv[1]), sys.argv[2].split(':'))"
)
UNPRIVILEGED = 1_900_000_000
"""Root's sandboxes get a user each, from this number on, that owns nothing anywhere."""


class SandboxMissingError(OpdlabError, RuntimeError):
    """This machine offers no sandbox; the message says what to install or allow."""


@dataclass(frozen=True)
class Bwrap:
    """An installed bubblewrap. `version` is empty where it does not tell."""

    path: str
    version: tuple[int, ...]

    @property
    def closes_user_namespaces(self) -> bool:
        return self.version >= (0, 8, 0)


@cache
def find_bwrap() -> Bwrap:
    """The installed bubblewrap.

    Raises:
        SandboxMissingError: there is none, it is too old, or this is no Linux.
    """
    path = shutil.which("bwrap")
    if path is None or sys.platform != "linux":
        raise SandboxMissingError(f"bubblewrap (bwrap) was not found. {INSTALL}\n{UNSAFE}")
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    digits = [part for part in said.split()[-1].split(".") if part.isdigit()] if said else []
    found = Bwrap(path, tuple(map(int, digits)))
    if found.version < OLDEST_BWRAP:
        raise SandboxMissingError(f"{path} is too old ({said.strip()}). {INSTALL}\n{UNSAFE}")
    return found


def sandboxed(
    control: int,
    filter_fd: int | None,
    groups: list[str],
    number: int,
    contents: Mapping[str, int] | None = None,
) -> list[str]:
    """Command that starts a zygote in a sandbox.

    As root, but not as root of a user namespace alone, it first makes a private view of the files, in
    which the interpreter stands at a neutral path, and then becomes a user that owns nothing: root's
    processes are bound by no limit on their number, and an interpreter in root's home could not be seen
    by anyone else.

    Args:
        control: file descriptor of the zygote's socket.
        filter_fd: file descriptor with a filter of system calls.
        groups: files of control groups to join.
        number: tells the sandboxes of this process apart.
        contents: file descriptors with what files inside hold in place of the machine's own.
    """
    bwrap, binds = find_bwrap(), shared_files()
    outer: list[str] = []
    uid = 0
    python = str(interpreter())
    if os.geteuid() == 0 and may_become_others():
        uid = UNPRIVILEGED + (os.getpid() % 100_000) * 1000 + number % 1000
        neutral = {target: NEUTRAL / target.lstrip("/") for target in binds}
        outer = [bwrap.path, "--dev-bind", "/", "/", "--tmpfs", str(NEUTRAL)]
        folders = {parent for path in neutral.values() for parent in path.parents}
        for folder in sorted(folders - {NEUTRAL, *NEUTRAL.parents}):
            outer += ["--perms", "0755", "--dir", str(folder)]
        for target, source in binds.items():
            outer += ["--ro-bind", str(source), str(neutral[target])]
        binds = neutral
        python = str(neutral["/python/bin/python"])
        outer += ["--"]
    launch = [python, "-I", "-S", "-c", _LAUNCH, str(uid), str(len(groups)), *groups]
    inner = [bwrap.path, *_isolation(bwrap, filter_fd), *_files(binds)]
    for target, content in (contents or {}).items():
        inner += ["--ro-bind-data", str(content), target]
    inner += ["--remount-ro", "/", "--"]
    return [*outer, *launch, *inner, *_zygote("/python/bin/python", control, "/tmp:/dev/shm", "/")]


def may_become_others(proc: Path = Path("/proc/self")) -> bool:
    """Whether root is root of the machine: that of a rootless container is a user by another name."""
    for name in ("uid_map", "gid_map"):
        ranges = [tuple(map(int, li.split())) for li in (proc / name).read_text().splitlines()]
        if not any(first <= UNPRIVILEGED < first + count for first, _, count in ranges):
            return False
    return True


def unprotected(control: int, scratch: str) -> list[str]:
    """Command that starts a zygote without any sandbox."""
    launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, "0", "0"]
    return [*launch, *_zygote(sys.executable, control, scratch, str(INSIDE.parent))]


def _zygote(python: str, control: int, scratch: str, folder: str) -> list[str]:
    return [python, "-P", "-s", "-S", "-B", "-c", _ZYGOTE, str(control), scratch, folder]


def _isolation(bwrap: Bwrap, filter_fd: int | None) -> list[str]:
    args = ["--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534", "--as-pid-1"]
    args += ["--cap-drop", "ALL", "--new-session", "--hostname", "sandbox", "--clearenv"]
    for name, value in ENVIRONMENT.items():
        args += ["--setenv", name, value]
    if bwrap.closes_user_namespaces:
        args += ["--disable-userns"]
    return args if filter_fd is None else [*args, "--seccomp", str(filter_fd)]


ENVIRONMENT = {
    "PATH": "/python/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONUTF8": "1",
    # Sets and dictionaries of strings have the same order in every run.
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": "/packages",
    # Each thread's own arena would take 128 MB of the address space.
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def _files(binds: dict[str, Path]) -> list[str]:
    args: list[str] = []
    for folder in ("/usr/lib", "/usr/lib32", "/usr/lib64", "/lib", "/lib32", "/lib64"):
        path = Path(folder)
        if path.is_symlink():
            args += ["--symlink", os.readlink(path), folder]
        elif path.is_dir():
            args += ["--ro-bind", folder, folder]
    for target, source in binds.items():
        args += ["--ro-bind", str(source), target]
    standard = Path(sysconfig.get_path("stdlib"))
    # What is installed there, and how it was built, tells where this machine keeps its projects.
    for told in (*standard.glob("site-packages"), *standard.glob("config-*")):
        args += ["--tmpfs", f"/python/lib/{standard.name}/{told.name}"]
    args += ["--proc", "/proc", "--dev", "/dev"]
    for name in HOST_FACTS:
        if Path(name).exists():
            args += ["--ro-bind", "/dev/null", name]
    args += ["--size", str(SHARED_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    args += ["--size", str(SCRATCH_BYTES), "--tmpfs", "/tmp"]
    return [*args, "--chdir", "/tmp"]


@cache
def told_otherwise() -> dict[str, bytes]:
    """Files inside that name no folder of this machine, though Python's own do: how it was built."""
    standard = Path(sysconfig.get_path("stdlib"))
    place = f"/python/lib/{standard.name}"
    prefix = sys.base_prefix if sys.base_prefix != "/usr" else "/python"
    found = {
        f"{place}/{file.name}": file.read_bytes().replace(prefix.encode(), b"/python")
        for file in standard.glob("_sysconfigdata*.py")
    }
    compiled = standard.glob("__pycache__/_sysconfigdata*.pyc")
    return found | {f"{place}/__pycache__/{file.name}": b"" for file in compiled}


def interpreter() -> Path:
    """The real interpreter, whatever virtual environment this is."""
    return Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))


@cache
def shared_files() -> dict[str, Path]:
    """What of this machine can be read inside, by its path there: Python and few packages."""
    binds = {"/python/bin/python": interpreter(), "/inside": INSIDE}
    standard = Path(sysconfig.get_path("stdlib"))
    binds[f"/python/lib/{standard.name}"] = standard
    for library in sorted(Path(sys.base_prefix, "lib").glob("libpython*.so*")):
        binds[f"/python/lib/{library.name}"] = Path(os.path.realpath(library))
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        for found in map(Path, (spec and spec.submodule_search_locations) or ()):
            binds[f"/packages/{name}"] = found
            if (found.parent / f"{name}.libs").is_dir():
                binds[f"/packages/{name}.libs"] = found.parent / f"{name}.libs"
    return binds
