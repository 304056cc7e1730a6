"""Programs that attack the machine they run on; they print CAUGHT when refused, ESCAPED when not."""

ATTEMPT = """
import sys
def attempt(name, action):
    try:
        found = action()
    except BaseException as error:
        print("CAUGHT", name, type(error).__name__)
    else:
        print("ESCAPED", name, repr(found)[:200])
    sys.stdout.flush()
"""

# Each ends at a limit: the program, and the limits that may be named.
LIMITED = {
    "a loop that catches everything": (
        """
import signal
for number in range(1, 64):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True:
    try:
        while True: pass
    except BaseException: pass
""",
        {"cpu"},
    ),
    "a fork bomb": (
        """
import os
while True:
    try: os.fork()
    except OSError: pass
""",
        {"cpu", "wall"},
    ),
    "a fork bomb whose first process has gone": (
        """
import os
if os.fork(): os._exit(0)
os.setsid()
for _ in range(100000):
    try: os.fork()
    except OSError: pass
""",
        {""},
    ),
    "a thread bomb": (
        """
import threading, time
while True:
    try: threading.Thread(target=time.sleep, args=(600,)).start()
    except RuntimeError: pass
""",
        {"cpu", "wall", "memory"},
    ),
    "a memory bomb": (
        """
kept = []
while True:
    kept.append(bytearray(16 << 20))
""",
        {"memory"},
    ),
    "a memory bomb over forks": (
        """
import os, time
for _ in range(20):
    try: os.fork()
    except OSError: pass
kept = []
while True:
    try: kept.append(b"x" * (8 << 20))
    except MemoryError: time.sleep(0.01)
""",
        {"memory", "cpu"},
    ),
    "shared memory that outlives its mapping": (
        """
import mmap, os
kept = []
while True:
    kept.append(mmap.mmap(-1, 16 << 20))
    kept[-1].write(b"x" * (16 << 20))
""",
        {"memory"},
    ),
    "waiting for ever": ("import time\nwhile True: time.sleep(60)", {"wall"}),
    "stopping itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", {"wall"}),
    "a catastrophic regular expression": ("import re\nre.match('(a+)+$', 'a' * 64 + 'b')", {"cpu"}),
    "a long integer": ("print(len(str(9 ** 9 ** 9)))", {"cpu", "memory"}),
}

# Each ends by itself and must have been refused all that it tried.
REFUSED = {
    "the host's files": '''
import os
paths = """/etc/passwd /etc/shadow /root /home /work /var /proc/1/environ /proc/1/mem /proc/1/fd
/proc/1/root
/proc/1/cwd /proc/1/maps /sys /boot /run /opt /mnt /dev/mem /dev/kmsg /dev/vda /proc/kcore /usr/bin
/usr/local"""
for path in paths.split():
    def look(path=path):
        return os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(10)
    attempt(path, look)
''',
    "writing outside the scratch folder": """
import os
for path in ("/x", "/python/x", "/usr/lib/x", "/inside/x", "/dev/x", "/proc/x", "/packages/x", "/etc/x",
             "/inside/zygote.py", "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern",
             "/proc/1/oom_score_adj", "/proc/sys/kernel/hostname", "/proc/self/uid_map"):
    attempt(path, lambda path=path: os.write(os.open(path, os.O_WRONLY | os.O_CREAT), b"1"))
attempt("remount", lambda: os.rename("/inside/guest.py", "/inside/x"))
attempt("unlink", lambda: os.unlink("/inside/guest.py"))
attempt("chmod", lambda: os.chmod("/python", 0o777))
""",
    "the network": """
import socket
def connect(family, address):
    with socket.socket(family) as s:
        s.settimeout(2); s.connect(address)
for address in (("1.1.1.1", 53), ("169.254.169.254", 80), ("127.0.0.1", PORT)):
    attempt(address, lambda: connect(socket.AF_INET, address))
attempt("v6", lambda: connect(socket.AF_INET6, ("2606:4700:4700::1111", 53)))
attempt("name", lambda: socket.getaddrinfo("example.com", 80))
attempt("abstract", lambda: connect(socket.AF_UNIX, "\\0opdlab-test-listener"))
attempt("raw", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
""",
    "the first process": """
import ctypes, os, resource, signal
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    if getattr(libc, name)(*args) == -1: raise OSError(ctypes.get_errno(), name)
attempt("ptrace", lambda: call("ptrace", 16, 1, 0, 0))
attempt("prlimit", lambda: resource.prlimit(1, resource.RLIMIT_CPU, (0, 0)))
attempt("prlimit parent", lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0)))
attempt("nice", lambda: os.setpriority(os.PRIO_PROCESS, 1, 19))
attempt("nice all", lambda: os.setpriority(os.PRIO_USER, 0, 19))
attempt("nice group", lambda: os.setpriority(os.PRIO_PGRP, 1, 19))
attempt("scheduler", lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0)))
attempt("affinity", lambda: os.sched_setaffinity(1, {0}))
attempt("memory", lambda: open("/proc/1/mem", "r+b"))
attempt("fd", lambda: os.open("/proc/1/fd/3", os.O_RDWR))
attempt("pidfd", lambda: call("syscall", 438, os.pidfd_open(1), 3, 0))
""",
    "nested namespaces": """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    if getattr(libc, name)(*args) == -1: raise OSError(ctypes.get_errno(), name)
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x10000000 | 0x20000 | 0x20000000):
    attempt(hex(flag), lambda: call("unshare", flag))
attempt("setns", lambda: call("setns", os.open("/proc/self/ns/user", 0), 0))
attempt("mount", lambda: call("mount", b"tmpfs", b"/tmp", b"tmpfs", 0, None))
attempt("setuid", lambda: os.setuid(0))
attempt("setgid", lambda: os.setgid(0))
attempt("chroot", lambda: os.chroot("/tmp"))
attempt("mknod", lambda: os.mknod("/tmp/sda", 0o60666, os.makedev(8, 0)))
""",
    "memory that belongs to no process": """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    if getattr(libc, name)(*args) == -1: raise OSError(ctypes.get_errno(), name)
attempt("memfd", lambda: os.memfd_create("x"))
attempt("shm", lambda: call("shmget", 0, 1 << 20, 0o1600))
attempt("msg", lambda: call("msgget", 0, 0o1600))
attempt("sem", lambda: call("semget", 0, 10, 0o1600))
attempt("keys", lambda: call("syscall", 248, b"user", b"x", b"y", 1, -4))
""",
    "raising its own limits": """
import resource
for name in ("CPU", "AS", "NPROC", "FSIZE", "NOFILE", "CORE"):
    kind = getattr(resource, "RLIMIT_" + name)
    attempt(name, lambda: resource.setrlimit(kind, (resource.RLIM_INFINITY,) * 2))
""",
    "filling the scratch file system": """
def fill(folder):
    for number in range(200):
        with open(f"{folder}/{number}", "wb") as file:
            file.write(b"x" * (4 << 20))
attempt("tmp", lambda: fill("/tmp"))
attempt("shm", lambda: fill("/dev/shm"))
""",
}
