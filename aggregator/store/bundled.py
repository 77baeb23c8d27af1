"""The bundled engine: a data folder in, a supervised ClickHouse on loopback out.

A thread owns the child: it starts it, notices its end, and starts it again with back-off until
`stop`. (The kernel binds a child's life to the thread that forked it, so that thread must live.)
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Literal

from aggregator.store.client import Client, Endpoint, StoreError
from aggregator.store.engine_files import (
    HOST,
    USERS,
    EngineError,
    choose_port,
    config_xml,
    make_fifo,
    password_hash,
    users_xml,
    write,
)

__all__ = ["USERS", "Engine", "EngineConfig", "EngineError"]

_OLDEST: Final = (24, 8)
_BACK_OFF_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses before each further start; the first is short, as a restart after SIGKILL takes 0.5 s."""
_HEALTHY_S: Final = 60.0
"""After so long a run the back-off begins anew."""
_KEPT_LINES: Final = 40
_ADVICE: Final = (
    "The bundled engine is a private entry point of the pinned chdb-core wheel. Reinstall"
    ' tallyhold[bundled], or install a ClickHouse server and set [engine] kind = "server".'
)

State = Literal["stopped", "starting", "running", "down"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """data: folder the engine owns alone. port: TCP port on loopback, 0 for a free one.

    memory_ratio: share of the machine's memory the engine may take; the aggregator needs the
    rest. start_timeout_s: 0.5 s on a quiet machine, 5 on a busy one, more after a crash.
    """

    data: Path
    port: int = 0
    database: str = "tallyhold"
    memory_ratio: float = 0.6
    start_timeout_s: float = 60.0
    stop_timeout_s: float = 20.0


class Engine:
    """One supervised engine process. `restarts` counts starts after the first."""

    def __init__(
        self, config: EngineConfig, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.config = config
        self.port = 0
        self.restarts = 0
        self.last_error = ""
        self._monotonic = monotonic
        self._state: State = "stopped"
        self._process: subprocess.Popen[bytes] | None = None
        self._lock_file: IO[str] | None = None
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._fatal: EngineError | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the engine while it lives."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def poll(self) -> State:
        """What the engine is doing now."""
        if self._state == "running" and self.pid is None:
            return "down"
        return self._state

    def endpoint(self, user: str = "writer") -> Endpoint:
        """How to reach the engine as one of USERS; valid after `start`."""
        password = (self.config.data / f"{user}.password").read_text(encoding="utf-8")
        return Endpoint(HOST, self.port, user, password, self.config.database)

    def start(self) -> None:
        """Start and wait until it answers; raises EngineError with what to do where it does not."""
        if self._thread is not None:
            raise EngineError("the engine is already started")
        self._prepare()
        self._stopping.clear()
        self._ready.clear()
        self._fatal = None
        self._state = "starting"
        self._thread = threading.Thread(target=self._supervise, name="engine", daemon=True)
        self._thread.start()
        # The supervisor gives up by itself after start_timeout_s; the rest is head room.
        answered = self._ready.wait(self.config.start_timeout_s + self.config.stop_timeout_s)
        if self._fatal is not None or not answered:
            error = self._fatal or EngineError(f"the engine did not start in time. {_ADVICE}")
            self.stop()
            raise error

    def stop(self) -> None:
        """Stop cleanly, or by force after stop_timeout_s; safe to call twice."""
        self._stopping.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        self._state = "stopped"
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    # The supervisor's thread

    def _supervise(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            started = self._monotonic()
            try:
                self._run_once()
            except (EngineError, OSError) as error:
                self.last_error = str(error)
                if not self._ready.is_set():
                    self._fatal = error if isinstance(error, EngineError) else EngineError(error)
                    self._ready.set()
                    return
            if self._stopping.is_set():
                return
            self._state = "down"
            attempt = 0 if self._monotonic() - started > _HEALTHY_S else attempt + 1
            self._stopping.wait(_BACK_OFF_S[min(attempt, len(_BACK_OFF_S)) - 1])
            self.restarts += 1

    def _run_once(self) -> None:
        """Start the child, wait until it answers, and return when it has ended."""
        make_fifo(self._fifo)
        write(
            self.config.data / "config.xml",
            config_xml(self.config.data, self.port, self.config.memory_ratio),
            0o600,
        )
        command = [sys.executable, "-I", str(Path(__file__).with_name("engine_main.py"))]
        process = subprocess.Popen(
            [*command, str(self.config.data), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={"PATH": os.defpath, "LANG": "C.UTF-8", "TZ": "UTC", "HOME": str(self.config.data)},
            start_new_session=True,  # a Ctrl-C is for the parent, which stops the child in order
        )
        self._process = process
        words: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        assert process.stderr is not None
        drain = threading.Thread(target=_drain, args=(process.stderr, words), daemon=True)
        drain.start()
        try:
            self._await_answer(process, words)
            # From here on its output could name values of queries; forget and keep none.
            words.clear()
            self._state = "running"
            self._ready.set()
            while process.poll() is None and not self._stopping.wait(0.1):
                pass
        finally:
            self._end(process)
            drain.join()
            process.stderr.close()

    def _await_answer(
        self, process: subprocess.Popen[bytes], words: collections.deque[str]
    ) -> None:
        deadline = self._monotonic() + self.config.start_timeout_s
        client = Client(self.endpoint("writer"))
        try:
            while True:
                if process.poll() is not None:
                    said = " / ".join(words)[-600:]
                    raise EngineError(
                        f"the engine ended at start with code {process.returncode}: {said}."
                        f" {_ADVICE}"
                    )
                if self._stopping.is_set():
                    return
                try:
                    version = client.capabilities().version
                    break
                except StoreError as error:
                    if self._monotonic() > deadline:
                        raise EngineError(
                            f"the engine did not answer within {self.config.start_timeout_s:.0f} s"
                            f" ({error}). {_ADVICE}"
                        ) from None
                self._stopping.wait(0.05)
        finally:
            client.close()
        if version < _OLDEST:
            raise EngineError(f"the engine says it is version {version}, too old. {_ADVICE}")

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Opening and closing the FIFO ends the engine's last statement; then force."""
        deadline = self._monotonic() + self.config.stop_timeout_s
        while process.poll() is None and self._monotonic() < deadline:
            with contextlib.suppress(OSError):  # ENXIO: nobody reads yet, or any more
                os.close(os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        if process.poll() is None:
            process.kill()
        process.wait()

    # The folder

    @property
    def _fifo(self) -> Path:
        return self.config.data / "control" / "stop.fifo"

    def _prepare(self) -> None:
        """Lock the folder, make what is missing in it, and choose the port."""
        data = self.config.data
        if not data.is_absolute():
            raise EngineError(f"[engine] data must be an absolute path, not {data}")
        for folder in (data, data / "store", data / "control"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (data / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise EngineError(f"another process uses the engine's data folder {data}") from None
        self._lock_file = lock
        try:
            self.port = choose_port(self.config.port)
            hashes = {user: password_hash(data / f"{user}.password") for user in USERS}
            write(data / "users.xml", users_xml(hashes, self.config.database), 0o600)
        except BaseException:
            self._lock_file = None
            lock.close()
            raise


def _drain(pipe: IO[bytes], words: collections.deque[str]) -> None:
    for line in pipe:
        words.append(line.decode("utf-8", "replace").strip()[:300])
