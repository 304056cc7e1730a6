"""A filter of system calls (seccomp) for the sandbox: what no test needs and an attack would.

Closed are namespaces, mounts, tracing, the kernel's larger attack surfaces, memory that belongs to no
process (shared segments, anonymous files), and limits or priorities of other processes.
"""

from __future__ import annotations

import platform
import struct

_LOAD, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38
_NEW_NAMESPACES = 0x7E020000
_X32 = 0x40000000

_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Numbers on x86-64 and on ARM64.
_DENIED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "open_by_handle_at": (304, 265),
}
_CLONE, _CLONE3, _PRLIMIT, _SETPRIORITY = (56, 220), (435, 435), (302, 261), (141, 140)


def program(machine: str | None = None) -> bytes | None:
    """The filter as bwrap takes it; None on a processor whose numbers are not known here."""
    machine = machine or platform.machine()
    if machine not in _AUDIT:
        return None
    column = list(_AUDIT).index(machine)
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, _AUDIT[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_SET, 0, 1, _X32),
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
    ]
    for numbers in _DENIED.values():
        code += _when(numbers[column], [(_RETURN, 0, 0, _ERRNO | _EPERM)])
    # The flags of clone3 lie behind a pointer; without it the C library takes clone.
    code += _when(_CLONE3[column], [(_RETURN, 0, 0, _ERRNO | _ENOSYS)])
    code += _when(_CLONE[column], _unless_zero(_NEW_NAMESPACES))
    code += _when(_PRLIMIT[column], _unless_zero(0xFFFFFFFF))
    # The first argument says of whom (0: of a process), the second of which one (0: of itself).
    code += _when(_SETPRIORITY[column], _unless_zero(0xFFFFFFFF, 0, 1))
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *each) for each in code)


def _when(number: int, then: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    return [(_JUMP_EQUAL, 0, len(then), number), *then]


def _unless_zero(mask: int, *arguments: int) -> list[tuple[int, int, int, int]]:
    """Refused if one of the arguments (by default the first) has a bit of `mask`, else allowed."""
    code = []
    for number in arguments or (0,):
        code += [
            (_LOAD, 0, 0, _ARGUMENT + 8 * number),
            (_JUMP_SET, 0, 1, mask),
            (_RETURN, 0, 0, _ERRNO | _EPERM),
        ]
    return [*code, (_RETURN, 0, 0, _ALLOW)]
