"""Why this machine refuses a sandbox, and what to allow: by words of bubblewrap and of the kernel."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CAP_SYS_ADMIN = 21  # of linux/capability.h
_EVERYONE = ["0", "0", "4294967295"]
_NONE_ALLOWED = ("nesting depth", "No permissions to", "uid map", "RTM_NEWADDR")
_MOUNTS = ("ailed to make", "mount", "pivot_root", "newroot", "oldroot")

INSTALL = """Code benchmarks run programs that a model wrote, and do so in a sandbox only. It needs Linux
and bubblewrap: apt install bubblewrap (or dnf, pacman, apk). Where it is installed and refused:
  Ubuntu 24.04   sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for bwrap
  other hosts    sysctl user.max_user_namespaces=15000 (and kernel.unprivileged_userns_clone=1)
  Docker         run with --security-opt seccomp=unconfined --security-opt systempaths=unconfined
                 and, where the host has AppArmor (Debian, Ubuntu), --security-opt apparmor=unconfined"""
UNSAFE = """The option unsafe_run_on_this_machine: true runs them without, with your rights, and marks
the result."""


@dataclass(frozen=True)
class Host:
    """What decides about namespaces and mounts of this process.

    Attributes:
        profile: of AppArmor; empty or `unconfined` where there is none.
        filtered: a filter of system calls (seccomp) holds.
        nested: it is itself in a user namespace, as inside another sandbox or a rootless container.
        restricted: AppArmor forbids user namespaces to programs without a profile (Ubuntu).
        closed: Debian's switch forbids them to all but root.
        most: user namespaces that may be; None where that is not told.
        bare: it is root without the right to mount (CAP_SYS_ADMIN), as in a container by default.
    """

    profile: str = ""
    filtered: bool = False
    nested: bool = False
    restricted: bool = False
    closed: bool = False
    most: int | None = None
    bare: bool = False

    @classmethod
    def here(cls, proc: Path = Path("/proc")) -> Host:
        """This machine, as this process sees it."""
        lines = [line.partition(":") for line in _read(proc / "self/status").splitlines()]
        status = {name: value.strip() for name, _, value in lines}
        own = proc / "self/attr/apparmor/current"
        profile = _read(own) or _read(proc / "self/attr/current")
        most = _read(proc / "sys/user/max_user_namespaces")
        return cls(
            # Other security modules write labels of their own into the older file.
            profile=profile if own.exists() or profile.endswith(")") else "",
            filtered=status.get("Seccomp") == "2",
            nested=_read(proc / "self/uid_map").split() not in ([], _EVERYONE),
            restricted=_read(proc / "sys/kernel/apparmor_restrict_unprivileged_userns") == "1",
            closed=_read(proc / "sys/kernel/unprivileged_userns_clone") == "0",
            most=int(most) if most.isdigit() else None,
            bare=os.geteuid() == 0 and not int(status.get("CapEff", "0"), 16) >> CAP_SYS_ADMIN & 1,
        )


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().strip("\0\n ")
    return ""


def remedy(said: str, host: Host | None = None) -> str:
    """What to allow, in words; all that is known to help where no cause is recognised.

    Args:
        said: by bubblewrap, before it ended.
        host: this one by default.
    """
    host = Host.here() if host is None else host
    causes = (_profile, _restricted, _bare, _nested, _no_more, _closed, _hidden, _filter)
    found = [text for cause in causes if (text := cause(said, host))]
    return f"{' '.join(found) or INSTALL}\n{UNSAFE}"


def _says(said: str, words: tuple[str, ...]) -> bool:
    return any(word in said for word in words)


def _profile(said: str, host: Host) -> str:
    if host.profile in ("", "unconfined") or not (
        _says(said, _MOUNTS) or _says(said, _NONE_ALLOWED) or "ermission denied" in said
    ):
        return ""
    return (
        f"This process runs under the AppArmor profile {host.profile}; Docker's default profile denies the "
        "mounts that a sandbox is made of: start the container with --security-opt apparmor=unconfined, "
        "or under a profile that allows userns, mount, umount and pivot_root."
    )


def _restricted(said: str, host: Host) -> str:
    if not host.restricted or "nesting depth" in said:
        return ""
    return (
        "AppArmor of this host forbids user namespaces to programs without a profile (Ubuntu 23.10 and "
        "later): sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for bwrap "
        "with `userns,`."
    )


def _bare(said: str, host: Host) -> str:
    if not host.bare or not _says(said, ("not permitted", "ermission denied")):
        return ""
    return (
        "This process is root without the right to mount (CAP_SYS_ADMIN), as root of a container is by "
        "default: start it as another user (docker run --user 1000:1000)."
    )


def _nested(said: str, host: Host) -> str:
    if not host.nested or not (_says(said, _NONE_ALLOWED) or "new namespace" in said):
        return ""
    return (
        "This process is itself inside a sandbox or a rootless container (a user namespace), which allows "
        "no other inside: run opdlab outside of it, or let it make user namespaces (bwrap without "
        "--disable-userns, user.max_user_namespaces above 0 inside)."
    )


def _no_more(said: str, host: Host) -> str:
    if host.nested or "nesting depth" not in said:
        return ""
    return f"This host allows {host.most} user namespaces: sysctl user.max_user_namespaces=15000."


def _closed(said: str, host: Host) -> str:
    if not host.closed:
        return ""
    return (
        "This host allows user namespaces only to root: sysctl kernel.unprivileged_userns_clone=1."
    )


def _hidden(said: str, host: Host) -> str:
    if not _says(said, ("mount proc", "read /proc/sys")):
        return ""
    return (
        "Parts of /proc are hidden from this process, as Docker does, and then no other /proc may be "
        "mounted: start the container with --security-opt systempaths=unconfined."
    )


def _filter(said: str, host: Host) -> str:
    if not host.filtered or not _says(said, ("not permitted", "No permissions", "not implemented")):
        return ""
    return (
        "A filter of system calls holds for this process, and Docker's default one denies namespaces and "
        "mounts: start the container with --security-opt seccomp=unconfined."
    )
