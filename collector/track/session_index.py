"""Open sessions by what else names them: the port and MAC of a NAS, and a line or MAC anywhere."""

from __future__ import annotations

from collections.abc import Mapping

from collector.track.session_state import Key, Session


class SessionIndex:
    """Keys of open sessions; whoever claimed a name last has it."""

    def __init__(self) -> None:
        self._ports: dict[str, Key] = {}
        self._lines: dict[tuple[str, str], Key] = {}

    def claim(self, session: Session) -> Key | None:
        """Enters a session by its port, MAC and line; gives who had the port until now."""
        for name in (session.mac, session.line):
            if name:
                self._lines[session.origin, name] = session.key
        if not session.port_key:
            return None
        before = self._ports.get(session.port_key)
        self._ports[session.port_key] = session.key
        return before if before != session.key else None

    def release(self, session: Session) -> None:
        """Takes out what a session that ended still has."""
        if self._ports.get(session.port_key) == session.key:
            del self._ports[session.port_key]
        for name in (session.mac, session.line):
            if self._lines.get((session.origin, name)) == session.key:
                del self._lines[session.origin, name]

    def on_port(self, nas: str, line: str, calling: str) -> Key | None:
        """The session of a port and MAC."""
        return self._ports.get(port_key(nas, line, calling))

    def on_line(self, origin: str, names: tuple[str, ...]) -> Key | None:
        """The session of that origin by MAC or line: the first of `names` that one has."""
        found = (self._lines.get((origin, name)) for name in names if name)
        return next((key for key in found if key is not None), None)

    def restore(self, sessions: Mapping[Key, Session]) -> None:
        """Enters the open sessions of a snapshot."""
        for session in sessions.values():
            self.claim(session)


def port_key(nas: str, line: str, calling: str) -> str:
    """What makes two sessions those of one port and MAC; empty where either is not known."""
    return f"{nas}\0{line}\0{calling}" if line and calling else ""
