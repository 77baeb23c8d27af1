"""Child process of the bundled engine: a folder with its configuration in, a listening server out.

Run by path and isolated (`python -I engine_main.py FOLDER PARENT_PID`), so that nothing of the
caller's environment is imported. It holds no secret: passwords are hashes in users.xml. It dies
with its parent and leaves no core file, because its memory holds records.

The extension module inside the `chdb` package carries ClickHouse's LocalServer. Its low-level
`query` (not Session, which is another class) honours config.xml in the working folder and can
listen. This is a private entry point, so the wheel's version is pinned and the parent checks.
"""

import ctypes
import importlib.machinery
import importlib.util
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1  # prctl(2)


def _bind_to_parent(parent: int) -> None:
    """Die when the parent does, also when it died before this call."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        raise SystemExit("the parent process is gone")


def _load() -> Any:
    """The extension alone: the package's __init__ would start and stop an engine on import."""
    spec = importlib.util.find_spec("chdb")
    if spec is None or spec.origin is None:
        raise SystemExit("the package chdb-core is not installed (extra `bundled`)")
    path = Path(spec.origin).with_name("_chdb.abi3.so")
    if not path.is_file():
        raise SystemExit("the installed chdb-core has no _chdb.abi3.so")
    # RTLD_DEEPBIND, as the package itself does: the library must find its own allocator first.
    sys.setdlopenflags(sys.getdlopenflags() | os.RTLD_DEEPBIND)
    loader = importlib.machinery.ExtensionFileLoader("_chdb", str(path))
    module_spec = importlib.util.spec_from_file_location("_chdb", path, loader=loader)
    if module_spec is None:
        raise SystemExit("the installed chdb-core cannot be loaded")
    module = importlib.util.module_from_spec(module_spec)
    loader.exec_module(module)
    return module


def main() -> int:
    """Serve until the FIFO is opened and closed; the exit code says how that went."""
    folder = Path(sys.argv[1])
    _bind_to_parent(int(sys.argv[2]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    os.chdir(folder)
    engine = _load()
    fifo = folder / "control" / "stop.fifo"
    # The folder is the operator's own setting; a quote in it would end the literal.
    if "'" in str(fifo) or "\\" in str(fifo):
        raise SystemExit("the engine's data folder may not contain quotes or backslashes")
    sql = f"SYSTEM START LISTEN TCP; SELECT count() FROM file('{fifo}', 'LineAsString')"
    result = engine.query(sql, "CSV", path=str(folder / "store"))
    if result.has_error():
        raise SystemExit(f"the engine stopped: {str(result.error_message())[:500]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
