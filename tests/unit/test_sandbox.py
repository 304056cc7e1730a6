"""Hostile programs reach nothing, hang nothing, leave nothing, and each ends with the right report."""

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hostile_programs import ATTEMPT, LIMITED, REFUSED
from machine import missing, need_sandbox

from opdlab_evaluators.sandbox import command, system_calls
from opdlab_evaluators.sandbox.cgroup import Groups, parents
from opdlab_evaluators.sandbox.command import SandboxMissingError
from opdlab_evaluators.sandbox.inside import reach
from opdlab_evaluators.sandbox.process import Ended, Limits, Sandbox, SandboxDiedError
from opdlab_evaluators.sandbox.refusal import Host, remedy

TIGHT = Limits(cpu_s=1.0, wall_s=4.0, memory=256 << 20)


def sandbox_or_skip():
    need_sandbox()
    sandbox = Sandbox()
    sandbox.start()
    return sandbox


@pytest.fixture(scope="module")
def sandbox():
    with sandbox_or_skip() as sandbox:
        yield sandbox


def inside(sandbox):
    """Processes of a sandbox but for those that manage it."""
    everyone = psutil.Process(sandbox.process.pid).children(recursive=True)
    found = []
    for process in everyone:
        # One may end while it is looked at: it has no name then, or no parent.
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = process.parent()
            if parent and process.name() == parent.name() == "python":
                found.append(process)
    return found


def works(sandbox):
    ended = sandbox.run("print(input()[::-1])", b"olleh\n")
    assert (ended.exit, ended.why, ended.stdout) == (0, "", b"hello\n")
    assert ended.leftovers == 0
    return True


@pytest.mark.parametrize("name", LIMITED)
def test_a_program_that_uses_too_much_is_ended_with_all_its_processes(sandbox, name):
    program, limits = LIMITED[name]
    began = time.monotonic()
    # One that only waits can do so for a shorter time.
    given = replace(TIGHT, wall_s=1.0) if limits == {"wall"} else TIGHT
    ended = sandbox.run(program, limits=given)
    assert ended.why in limits, ended
    assert time.monotonic() - began < TIGHT.wall_s + 10
    assert not inside(sandbox)
    assert works(sandbox)


@pytest.mark.parametrize("name", REFUSED)
def test_a_program_is_refused_what_it_must_not_have(sandbox, name):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind("\0opdlab-test-listener")
        unix.listen()
        program = ATTEMPT + REFUSED[name].replace("PORT", str(server.getsockname()[1]))
        ended = sandbox.run(program)
    output = ended.stdout.decode()
    assert (ended.exit, ended.why) == (0, ""), ended
    assert "ESCAPED" not in output
    assert output.count("CAUGHT") >= 2
    assert works(sandbox)


def test_memory_in_use_is_bounded_over_all_processes(sandbox):
    """Twelve processes hold an eighth of the limit each, until they are ended."""
    program = f"""
        import os, time
        for _ in range(11):
            if os.fork() == 0:
                break
        kept = b"x" * {TIGHT.memory // 8}
        time.sleep(60)
    """
    ended = sandbox.run(textwrap.dedent(program), limits=TIGHT)
    assert ended.why == "memory"
    assert TIGHT.memory < ended.memory < 2 * TIGHT.memory


def test_forks_are_bounded(sandbox):
    program = """
        import os, time
        made = 0
        try:
            while True:
                if os.fork() == 0:
                    time.sleep(60)
                made += 1
        except OSError:
            print(made)
    """
    ended = sandbox.run(textwrap.dedent(program))
    assert 10 < int(ended.stdout) <= Limits().processes
    assert ended.leftovers == int(ended.stdout)
    assert not inside(sandbox)


def test_a_flood_of_output_is_cut(sandbox):
    flood = (
        "import sys\nwhile True:\n    try: sys.stdout.write('x' * 65536)\n    except OSError: pass"
    )
    ended = sandbox.run(flood, limits=TIGHT)
    assert ended.why == "cpu"
    assert len(ended.stdout) == TIGHT.file_size
    polite = sandbox.run("while True: print('x' * 1000)")
    assert polite.exit != 0
    assert b"File too large" in polite.stderr


@pytest.mark.parametrize("target", ["-1", "1", "os.getppid()", "0", "-os.getpgid(0)"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGINT, signal.SIGTERM])
def test_a_program_cannot_kill_or_stop_anyone_but_itself(sandbox, target, number):
    zygote = sandbox.process.pid
    program = f"import os\ntry: os.kill({target}, {int(number)})\nexcept OSError: pass\nprint(1)"
    sandbox.run(program, limits=Limits(cpu_s=1, wall_s=1))
    assert works(sandbox)
    assert sandbox.process.pid == zygote


def test_daemons_and_files_of_a_program_do_not_meet_the_next_one(sandbox):
    daemon = """
        import os, time
        open("/tmp/left", "w").write("x")
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                if os.fork(): os._exit(0)
                while True: time.sleep(1)
        print("done")
    """
    ended = sandbox.run(textwrap.dedent(daemon))
    assert ended.stdout == b"done\n"
    assert ended.leftovers >= 3
    look = (
        "import os\nprint(os.listdir('/tmp'), len([p for p in os.listdir('/proc') if p.isdigit()]))"
    )
    assert sandbox.run(look).stdout == b"[] 2\n"


def test_a_program_sees_nothing_of_the_hosts_environment_and_descriptors(sandbox, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    program = "import os\nfds = os.listdir('/proc/self/fd')\nprint(sorted(fds)[:3], len(fds))\n"
    with sandbox_or_skip() as fresh:
        ended = fresh.run(program + "print(os.environ, os.getuid(), os.getlogin)")
    assert b"hunter2" not in ended.stdout
    assert ended.stdout.startswith(b"['0', '1', '2'] 4\n")
    if os.geteuid() == 0:
        owners = [
            p.uids().real for p in psutil.Process(sandbox.process.pid).children(recursive=True)
        ]
        assert max(owners) >= command.UNPRIVILEGED


def test_unprivileged_means_unprivileged_on_the_host_too(sandbox):
    """Root inside a namespace is often root outside; a limit on processes does not bind it."""
    zygotes = psutil.Process(sandbox.process.pid).children(recursive=True)
    assert zygotes[-1].uids().real == zygotes[-1].uids().effective != 0
    status = Path(f"/proc/{zygotes[-1].pid}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    if system_calls.program() is not None:
        assert "Seccomp:\t2" in status


STDIN_STYLES = {
    "input": "n = int(input())\nprint(sum(map(int, input().split())))",
    "buffer": "import sys\ndata = sys.stdin.buffer.read().split()\nprint(sum(map(int, data[1:])))",
    "lines": "import sys\nrows = [line for line in sys.stdin]\nprint(sum(map(int, rows[1].split())))",
    "open(0)": "n, *a = map(int, open(0).read().split())\nprint(sum(a))",
    "device": "print(sum(map(int, open('/dev/stdin').read().split()[1:])))",
    "globals": "total = 0\ndef add(x):\n    global total\n    total += x\n"
    "def main():\n    input()\n    for x in input().split(): add(int(x))\n    print(total)\n"
    "if __name__ == '__main__':\n    main()",
    "thread": "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 26)\n"
    "def down(n): return 0 if n == 0 else 1 + down(n - 1)\n"
    "def main():\n    input(); down(50000); print(sum(map(int, input().split())))\n"
    "threading.Thread(target=main).start()",
    "descriptor": "import os\nprint(sum(map(int, os.read(0, 1000).split()[1:])))",
    "exit": "import sys\ninput()\nprint(sum(map(int, input().split())))\nsys.exit()",
    "quit": "input()\nprint(sum(map(int, input().split())))\nexit(0)",
    "output device": "input()\nopen('/dev/stdout', 'w').write(str(sum(map(int, input().split()))))",
    "cached recursion": "from functools import cache\nimport sys\nsys.setrecursionlimit(10**6)\n"
    "@cache\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\nf(20000)\n"
    "input(); print(sum(map(int, input().split())))",
}


@pytest.mark.parametrize("style", STDIN_STYLES)
def test_every_way_to_read_the_standard_input_works(sandbox, style):
    ended = sandbox.run(STDIN_STYLES[style], b"3\n1 2 3\n")
    assert ended.stdout.strip() == b"6", ended
    assert ended.exit == 0


def test_exit_codes_and_errors_are_told_apart(sandbox):
    codes = {
        "": 0,
        "exit(3)": 3,
        "1/0": 1,
        "import os; os._exit(7)": 7,
        "raise SystemExit('bad')": 1,
    }
    assert {program: sandbox.run(program).exit for program in codes} == codes
    killed = sandbox.run("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    assert (killed.exit, killed.why) == (-signal.SIGSEGV, "")
    assert b"SyntaxError" in sandbox.run("def f(:").stderr


def test_time_is_processor_time_and_repeats_are_alike(sandbox):
    program = "import random, time\nprint(hash('a'), {'x', 'y', 'z'})\ntime.sleep(0.3)"
    first, second = (sandbox.run(program, limits=Limits(cpu_s=0.2)) for _ in range(2))
    assert first.why == second.why == ""
    assert first.stdout == second.stdout


def test_a_sandbox_that_is_killed_says_so_and_starts_again(sandbox):
    sandbox.start()
    zygote = psutil.Process(sandbox.process.pid).children(recursive=True)[-1]
    job = sandbox.open("script", "import time\ntime.sleep(60)")
    zygote.kill()
    with pytest.raises(SandboxDiedError):
        job.finish()
    assert works(sandbox)


def test_closing_leaves_no_process_and_no_control_group():
    sandbox = sandbox_or_skip()
    sandbox.run("print(1)")
    everyone = psutil.Process(sandbox.process.pid).children(recursive=True)
    folders = list(sandbox.groups.folders.values())
    sandbox.close()
    assert not [process for process in everyone if process.is_running()]
    assert not [folder for folder in folders if folder.exists()]


def test_no_sandbox_outlives_a_parent_that_was_killed():
    sandbox_or_skip().close()
    script = """
        from opdlab_evaluators.sandbox.process import Sandbox
        sandbox = Sandbox()
        sandbox.start()
        print(sandbox.process.pid, flush=True)
        sandbox.run("while True: pass")
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    )
    outer = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.3)
    everyone = [outer, *outer.children(recursive=True)]
    assert len(everyone) > 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs(everyone, timeout=10)
    assert not alive


def test_without_bubblewrap_the_error_says_what_to_install(monkeypatch):
    command.find_bwrap.cache_clear()
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SandboxMissingError, match=r"(?s)apt install bubblewrap.*unsafe_run_on"):
        Sandbox().start()
    command.find_bwrap.cache_clear()


def test_a_machine_that_refuses_namespaces_is_told_so_with_its_own_words(monkeypatch, tmp_path):
    refuses = tmp_path / "bwrap"
    refuses.write_text(
        "#!/bin/sh\n[ $1 = --version ] && echo bubblewrap 0.8.0 && exit\n"
        "echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1\n"
    )
    refuses.chmod(0o755)
    command.find_bwrap.cache_clear()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SandboxMissingError, match=r"(?s)uid map: Permission denied.*apparmor"):
        Sandbox().start()
    command.find_bwrap.cache_clear()


REFUSALS = {
    "bwrap: setting up uid map: Permission denied": (
        Host(restricted=True),
        "kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    "bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted": (
        Host(restricted=True),
        "kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    "bwrap: Failed to make / slave: Permission denied": (
        Host(profile="docker-default (enforce)"),
        "apparmor=unconfined",
    ),
    "bwrap: Can't mount proc on /newroot/proc: Operation not permitted": (
        Host(),
        "systempaths=unconfined",
    ),
    "bwrap: Creating new namespace failed: Operation not permitted": (
        Host(filtered=True),
        "seccomp=unconfined",
    ),
    "bwrap: No permissions to create new namespace, likely because the kernel": (
        Host(closed=True),
        "kernel.unprivileged_userns_clone=1",
    ),
    "bwrap: Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces": (
        Host(most=0),
        "user.max_user_namespaces=15000",
    ),
}


@pytest.mark.parametrize("said", REFUSALS)
def test_a_refusal_is_told_by_its_cause_alone(said):
    host, wanted = REFUSALS[said]
    text = remedy(said, host)
    assert wanted in text
    assert "unsafe_run_on_this_machine" in text
    others = {needed for _, needed in REFUSALS.values()} - {wanted}
    assert not [other for other in others if other in text]


def test_a_refusal_of_unknown_cause_is_told_with_all_that_helps():
    text = remedy("bwrap: something new", Host())
    assert all(needed in text for needed in ("apt install", "sysctl", "--security-opt"))


def test_what_the_kernel_tells_of_a_container_is_read(tmp_path):
    told = {
        "self/status": "Name:\tx\nCapEff:\t0000000000000000\nSeccomp:\t2\n",
        "self/attr/current": "docker-default (enforce)\n",
        "self/uid_map": "         0       1000          1\n",
        "sys/kernel/apparmor_restrict_unprivileged_userns": "1\n",
        "sys/kernel/unprivileged_userns_clone": "0\n",
        "sys/user/max_user_namespaces": "7\n",
    }
    for name, text in told.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    label = "docker-default (enforce)"
    assert Host.here(tmp_path) == Host(label, True, True, True, True, 7, os.geteuid() == 0)
    (tmp_path / "self/attr/current").write_text("system_u:system_r:container_t:s0")
    assert Host.here(tmp_path).profile == ""


NESTED = "from opdlab_evaluators.sandbox import Sandbox\nSandbox().start()\nprint('started')"


@pytest.mark.parametrize(
    ("outer", "said"),
    [
        (["unshare", "--map-root-user", "--mount"], "started"),
        (
            ["bwrap", "--unshare-user", "--disable-userns", "--dev-bind", "/", "/", "--"],
            "itself inside a sandbox or a rootless container",
        ),
    ],
)
def test_inside_a_user_namespace_a_sandbox_starts_or_says_that_it_is_nested(outer, said):
    need_sandbox()
    if subprocess.run([*outer, "true"], capture_output=True).returncode:
        missing("no user namespace can be made", "allow them, see evaluators/.../refusal.py")
    found = subprocess.run([*outer, sys.executable, "-c", NESTED], capture_output=True, text=True)
    assert said in found.stdout + found.stderr


def test_without_protection_programs_still_end_with_all_their_processes():
    with Sandbox(protected=False) as bare:
        assert works(bare)
        ended = bare.run(LIMITED["a loop that catches everything"][0], limits=TIGHT)
        assert ended.why == "cpu"
        daemon = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\n"
        assert bare.run(daemon + "open('left', 'w')").leftovers == 1
        assert bare.run("import os\nprint(os.listdir('.'))").stdout == b"[]\n"
        folder = bare.scratch
    assert not os.path.exists(folder)


def test_a_control_group_is_made_only_where_it_was_handed_down(tmp_path):
    slice_ = tmp_path / "user.slice"
    (slice_ / "a.scope").mkdir(parents=True)
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    (slice_ / "cgroup.subtree_control").write_text("cpu")
    assert parents("0::/user.slice/a.scope", tmp_path) == {}
    (slice_ / "cgroup.subtree_control").write_text("memory pids")
    found = parents("0::/user.slice/a.scope", tmp_path)
    assert found == {"pids": slice_, "memory": slice_}
    groups = Groups({"pids": 9, "memory": 1 << 20}, "0::/user.slice/a.scope", tmp_path)
    (folder,) = set(groups.folders.values())
    assert (folder / "pids.max").read_text() == "9"
    assert (folder / "memory.max").read_text() == str(1 << 20)


def test_the_older_control_groups_are_used_at_the_top_of_a_hierarchy_only(tmp_path):
    for name in ("pids", "memory"):
        (tmp_path / name).mkdir()
    assert parents("4:memory:/job/7\n8:pids:/\n0::/", tmp_path) == {"pids": tmp_path / "pids"}


def test_the_filter_is_whole_on_both_processors():
    for machine in ("x86_64", "aarch64"):
        assert len(system_calls.program(machine)) % 8 == 0
    assert system_calls.program("riscv64") is None


def test_the_report_is_what_the_sandbox_says_and_not_what_the_program_says(sandbox):
    program = """
        import os
        for fd in range(3, 64):
            try: os.write(fd, b'{"exit": 0, "why": "", "used_up": false}')
            except OSError: pass
        exit(5)
    """
    ended = sandbox.run(textwrap.dedent(program))
    assert isinstance(ended, Ended)
    assert ended.exit == 5


def test_a_program_holds_no_descriptor_of_the_hosts_however_many_are_open():
    """The control socket's number grows with them; who holds it writes reports of its own."""
    need_sandbox()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    forge = """
        import json, os, socket
        print(sorted(int(n) for n in os.listdir('/proc/self/fd'))[:-1])
        for number in range(3, 4096):
            try: s = socket.socket(fileno=os.dup(number)); s.getsockname()
            except OSError: continue
            s.send(json.dumps({"exit": 0, "why": "", "cpu_s": 0, "wall_s": 0, "memory": 0,
                               "leftovers": 0, "used_up": False}).encode())
        exit(5)
    """
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(2000):
            stack.callback(os.close, os.open("/dev/null", os.O_RDONLY))
        with sandbox_or_skip() as crowded:
            ended = crowded.run(textwrap.dedent(forge))
            assert (ended.exit, ended.stdout) == (5, b"[0, 1, 2]\n")
            assert works(crowded)


def test_as_many_threads_live_as_there_may_be_processes(sandbox):
    program = """
        import threading
        from concurrent.futures import ThreadPoolExecutor
        met = threading.Barrier(48)
        with ThreadPoolExecutor(48) as pool:
            print(len(list(pool.map(lambda n: met.wait(), range(48)))))
    """
    assert sandbox.run(textwrap.dedent(program)).stdout == b"48\n"


def test_the_kernels_command_line_is_not_to_be_read(sandbox):
    for name in ("cmdline", "version", "kallsyms"):
        program = f"try: print(open('/proc/{name}').read())\nexcept OSError: pass"
        assert sandbox.run(program).stdout.strip() == b""


MOUNTS = """
import glob, multiprocessing, os, sys

def look(number):
    return [read(f"/proc/{who}/{name}") for who in ("self", "thread-self", 1, os.getppid(), os.getpid())
            for name in ("mountinfo", "mounts", "mountstats", "environ", "task/%d/mountinfo" % os.getpid())]

def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""

print(look(0), multiprocessing.get_context("fork").Pool(1).map(look, [1]))
print(sys.path, sys.prefix, sys.base_prefix, sys.executable, sys.orig_argv, sys.flags, dict(os.environ))
print({str(vars(module).get("__file__")) for module in list(sys.modules.values())})
print({function.__code__.co_filename for module in list(sys.modules.values())
       for function in list(vars(module).values()) if isinstance(function, type(look))})
print(read("/python/pyvenv.cfg"), read("/python/bin/pyvenv.cfg"), read("/proc/self/maps"))
print([os.listdir(folder) for folder in glob.glob("/python/lib/python3*/site-packages")])
import importlib, sysconfig
name = sysconfig._get_sysconfigdata_name()
print(sysconfig.get_config_vars(), sysconfig.get_paths(), vars(importlib.import_module(name)))
told = glob.glob("/python/lib/python3*/**/_sysconfigdata*", recursive=True)
print([open(path, "rb").read() for path in told])
print("looked", len(read("/dev/stdin")), len(read("/proc/self/status")) > 0)
"""


def test_a_program_does_not_learn_where_the_host_keeps_its_files(sandbox):
    if not reach.offered(ctypes.CDLL(None)):
        pytest.skip("this kernel has no Landlock that lets files be moved")
    ended = sandbox.run(MOUNTS, b"123")
    said = ended.stdout.decode()
    assert "looked 3 True" in said, ended
    hidden = {command.interpreter().parent, Path(sys.prefix), Path(sys.base_prefix), command.INSIDE}
    assert not [path for path in hidden if path != Path("/usr") and str(path) in said]
    assert "/newroot" not in said
    assert ".pth" not in said


def test_a_program_cannot_ask_the_kernel_for_mounts(sandbox):
    program = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print([(libc.syscall(number, None, None, 0, 0), ctypes.get_errno()) for number in (457, 458)])
os.makedirs("one"), os.makedirs("two"), open("one/file", "w").close(), os.rename("one/file", "two/file")
print(os.listdir("two"))
"""
    assert sandbox.run(program).stdout == b"[(-1, 1), (-1, 1)]\n['file']\n"
