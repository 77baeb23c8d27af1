"""Network namespaces that vanish with the program that made them.

A namespace here has no name under /run/netns: it is held by a child process (`cat` on a pipe) and
entered through `/proc/PID/ns/net`. When the runner ends, however it ends, the pipe closes and the
kernel signals every child (PR_SET_PDEATHSIG), so the processes go, and with them namespaces,
interfaces and rules. SIGKILL of the runner leaves nothing behind.

Works as root, or rootless through `maybe_reexec_rootless()`.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import IO, Final, Self, TypeVar

T = TypeVar("T")
Stream = int | IO[bytes] | IO[str] | None

CLONE_NEWNET: Final = 0x40000000
ROOTLESS_MARK: Final = "TALLYHOLD_LAB_ROOTLESS"
RUN_TIMEOUT_S: Final = 30.0
"""A set-up command of the lab takes milliseconds; thirty seconds means that it hangs."""
END_GRACE_S: Final = 3.0
"""From SIGTERM to SIGKILL. Every program of the lab ends well within one second."""
PROGRAMS: Final = {
    "ip": "iproute2",
    "nft": "nftables",
    "ethtool": "ethtool",
    "conntrack": "conntrack",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "unbound": "unbound",
    "freeradius": "freeradius",
    "radclient": "freeradius-utils",
    "sipp": "sip-tester",
}

_libc = ctypes.CDLL(None, use_errno=True)

# PR_SET_PDEATHSIG watches the *thread* that forked. One thread that lives as long as the program
# therefore starts every child, so that a program started from a short-lived worker survives it.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lab-spawner")


class LabError(RuntimeError):
    """The lab could not be built, or something in it did not do what the script says."""


def maybe_reexec_rootless() -> bool:
    """Make sure this program may create network namespaces; call it first thing in `main`.

    As root: does nothing. Otherwise the whole program is started anew, with the same arguments,
    as root of a user namespace of its own (user_namespaces(7)); its loopback is brought up.
    Returns whether the program runs rootless. Raises LabError where the kernel allows neither.
    """
    require_programs()
    if os.environ.get(ROOTLESS_MARK):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=RUN_TIMEOUT_S)
        return True
    if os.geteuid() == 0:
        return False
    enter = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
    trial = subprocess.run([*enter, "true"], capture_output=True, text=True, check=False)
    if trial.returncode != 0:
        raise LabError(
            "the lab builds network namespaces: run it as root, or allow user namespaces "
            "(sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
            f"kernel.apparmor_restrict_unprivileged_userns): {trial.stderr.strip()}"
        )
    again = [*enter, sys.executable, *sys.orig_argv[1:]]
    return os.execvpe(enter[0], again, {**os.environ, ROOTLESS_MARK: "1"})


def require_programs() -> None:
    """LabError naming every program that is missing, with the Debian package that has it.

    A user's search path often lacks the system folders, so they are added for the whole program.
    """
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    more = [folder for folder in ("/usr/sbin", "/sbin") if folder not in folders]
    os.environ["PATH"] = os.pathsep.join([*folders, *more])
    missing = [f"{name} ({package})" for name, package in PROGRAMS.items() if not which(name)]
    if missing:
        raise LabError(f"the lab needs programs that are not installed: {', '.join(missing)}")


def spawn(
    argv: Sequence[str],
    *,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = subprocess.DEVNULL,
    stderr: Stream = subprocess.DEVNULL,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start a program that the kernel kills when this one ends; text pipes, own process group.

    The own session keeps Ctrl-C in a terminal to the runner, which then ends things in order.
    """

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *argv],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env=None if env is None else dict(env),
            text=True,
            start_new_session=True,
        )

    return _spawner.submit(start).result()


def end(process: subprocess.Popen[str], grace_s: float = END_GRACE_S) -> int:
    """End one process by its pid: SIGTERM, then SIGKILL; reap it, close its pipes."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(grace_s)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            try:
                stream.close()
            except BrokenPipeError:  # buffered text for a reader that is gone
                continue
    return process.returncode


@dataclass(frozen=True, slots=True)
class Counters:
    """One interface's counters as the kernel keeps them since its creation; drops of both ways."""

    rx_bytes: int
    rx_packets: int
    tx_bytes: int
    tx_packets: int
    drops: int


class Namespace:
    """One network namespace: `start()` makes it, `stop()` removes it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._holder: subprocess.Popen[str] | None = None

    def start(self) -> Self:
        """Make the namespace and bring its loopback up; returns when it is ready to enter."""
        hold = "ip link set lo up && echo ready && exec cat"
        holder = spawn(
            ["unshare", "--net", "--", "sh", "-c", hold],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if holder.stdout is None or holder.stderr is None or holder.stdout.readline() != "ready\n":
            reason = "" if holder.stderr is None else holder.stderr.read().strip()
            end(holder)
            raise LabError(f"namespace {self.name} could not be made: {reason}")
        self._holder = holder
        return self

    def stop(self) -> None:
        """Let the namespace go; the kernel removes it when the last process inside has ended."""
        if self._holder is not None:
            end(self._holder)
            self._holder = None

    @property
    def pid(self) -> int:
        """The process that holds the namespace, for `nsenter -t PID -n`."""
        if self._holder is None:
            raise LabError(f"namespace {self.name} is not there")
        return self._holder.pid

    def enter(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` inside."""
        return ["nsenter", "-t", str(self.pid), "-n", "--", *argv]

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = subprocess.DEVNULL,
        stderr: Stream = subprocess.DEVNULL,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a program inside; see `spawn`."""
        argv = self.enter(argv)
        return spawn(argv, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env)

    def run(
        self,
        *argv: str,
        stdin: str = "",
        timeout_s: float = RUN_TIMEOUT_S,
        accept: Sequence[int] = (0,),
    ) -> str:
        """Run a program inside to its end and return what it printed.

        Raises LabError with the tail of its error output on an exit code not in `accept`.
        """
        process = self.popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            out, err = process.communicate(stdin, timeout_s)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{argv[0]} in {self.name} gave no answer in {timeout_s} s") from error
        finally:
            end(process)
        if process.returncode not in accept:
            tail = (err or out).strip()[-800:]
            raise LabError(f"{argv[0]} in {self.name} failed ({process.returncode}): {tail}")
        return out

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` inside and return what it returns or raise what it raises.

        setns(2) moves only the calling thread, so a thread of its own does it and is then gone.
        What it opens (sockets, /proc/sys/net files) belongs to the namespace.
        """
        result: list[T] = []
        failure: list[BaseException] = []

        def inside() -> None:
            try:
                self.join()
                result.append(function())
            except BaseException as error:  # handed over to the caller below
                failure.append(error)

        thread = threading.Thread(target=inside, name=f"lab-{self.name}")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    def join(self) -> None:
        """Move the calling thread into the namespace for good."""
        descriptor = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.setns(descriptor, CLONE_NEWNET) != 0:
                code = ctypes.get_errno()
                raise LabError(f"namespace {self.name} cannot be entered: {os.strerror(code)}")
        finally:
            os.close(descriptor)

    def sysctl(self, settings: Mapping[str, int | str]) -> None:
        """Write sysctls below `net.` (`ipv4.ip_forward`: 1) inside."""

        def write() -> None:
            for key, value in settings.items():
                path = Path("/proc/sys/net") / key.replace(".", "/")
                try:
                    path.write_text(f"{value}\n")
                except OSError as error:
                    raise LabError(f"sysctl net.{key} cannot be set: {error.strerror}") from error

        self.call(write)

    def counters(self, interface: str) -> Counters:
        """Read one interface's counters without entering or disturbing the namespace."""
        for line in Path(f"/proc/{self.pid}/net/dev").read_text().splitlines():
            name, colon, rest = line.partition(":")
            if colon and name.strip() == interface:
                column = [int(text) for text in rest.split()]
                # bytes packets errs drop fifo frame compressed multicast, then the same sent
                drops = sum(column[2:5]) + sum(column[10:13])
                return Counters(column[0], column[1], column[8], column[9], drops)
        raise LabError(f"namespace {self.name} has no interface {interface}")
