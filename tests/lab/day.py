"""The scripted day: who does what, at which hour, as plain data.

Hours are of the simulated day (0 to 24); `Day.wall_s` says how many real seconds the day takes.
Amounts, call durations and rates are real: only the waiting in between is compressed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from tests.lab import sip
from tests.lab.netns import LabError
from tests.lab.topology import DELEGATED_V6, NAT_V4, PUBLIC_V4

HOURS: Final = 24.0
MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Connect:
    """Session start: the line gets these addresses, then the router reports it."""

    at: float
    v4: str | None = None
    v6: str | None = None


@dataclass(frozen=True, slots=True)
class Interim:
    """The router reports the running session."""

    at: float


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Session stop, once every flow has ended; the addresses are taken away."""

    at: float
    cause: str = "User-Request"


@dataclass(frozen=True, slots=True)
class Fetch:
    """`times` look-ups each with a connection of its own, to the hosts in turn.

    `kind` is "tls", "http" or "quic"; `down` or (not quic) `up` bytes of payload each.
    """

    at: float
    kind: str
    hosts: tuple[str, ...]
    down: int = 0
    up: int = 0
    times: int = 1
    family: int = 4


@dataclass(frozen=True, slots=True)
class Lookup:
    """Names asked of the resolver, and no connection after it."""

    at: float
    hosts: tuple[str, ...]
    family: int = 4


@dataclass(frozen=True, slots=True)
class Stream:
    """`count` UDP datagrams of `size` bytes one way ("up" or "down") at `pps`."""

    at: float
    direction: str
    host: str
    count: int
    size: int = 1200
    pps: int = 4000
    family: int = 4


@dataclass(frozen=True, slots=True)
class Call:
    """One telephone call by the subscriber; `hold_ms`: talk time, or ringing until the CANCEL."""

    at: float
    outcome: str
    a: str
    b: str
    hold_ms: int = 0
    family: int = 4


Step = Connect | Interim | Disconnect | Fetch | Lookup | Stream | Call


@dataclass(frozen=True, slots=True)
class Subscriber:
    """One line's day, steps in order of time; between Disconnect and Connect nothing is sent."""

    line: int
    steps: tuple[Step, ...]

    @property
    def id(self) -> str:
        """The opaque reference that the product must find."""
        return f"sub-{self.line:04d}"

    def check(self) -> None:
        """LabError unless the steps are in order and within sessions."""
        connected, last = False, 0.0
        for step in self.steps:
            if not last <= step.at <= HOURS:
                raise LabError(f"{self.id}: step at {step.at} is out of order")
            if isinstance(step, Connect) == connected:
                raise LabError(f"{self.id}: step at {step.at} is not within one session")
            connected, last = not isinstance(step, Disconnect), step.at
        if connected:
            raise LabError(f"{self.id} is left connected")


@dataclass(frozen=True, slots=True)
class Day:
    """All subscribers; lines are numbered from 1 without a hole."""

    subscribers: tuple[Subscriber, ...]
    wall_s: float = 50.0

    def check(self) -> None:
        """LabError if the day cannot be played."""
        if [s.line for s in self.subscribers] != list(range(1, len(self.subscribers) + 1)):
            raise LabError("lines are not numbered 1, 2, 3 …")
        for subscriber in self.subscribers:
            subscriber.check()


def public_v4(line: int) -> str:
    """A line's own address."""
    return str(PUBLIC_V4[256 + line])


def nat_v4(line: int) -> str:
    """A line's address behind the router's NAT."""
    return str(NAT_V4[line])


def own_v6(line: int) -> str:
    """The home's address in the line's /64."""
    return str(DELEGATED_V6[(line << 64) + 0x10])


STORY_LINES: Final = 10
SHOP: Final = ("shop.example", "www.shop.example", "static.shop.example", "news.example")
MEDIA: Final = ("video.example", "stream.video.example", "cdn-7.media.example")
MIXED: Final = ("mail.example", "bank.example", "weather.test", "api.weather.test", *SHOP)


def default_day(
    seed: int = 1, wall_s: float = 50.0, scale: float = 1.0, lines: int = STORY_LINES
) -> Day:
    """Ten lines and about 250 MB at `scale` 1; sizes vary with `seed`, the story does not.

    Line 1 holds an address in the morning that line 2 gets in the afternoon, and has another
    in the afternoon itself. 3 is IPv6 only, 4 and 10 have both families, 5 and 6 are behind NAT,
    7 only looks names up, 8 is idle, 9 telephones, as does 4 over IPv6. Fewer `lines` leave the
    last ones out; more add light dual-stack ones.
    """
    rng = random.Random(seed)

    def mib(amount: float) -> int:
        return max(1000, int(amount * scale * MIB * rng.uniform(0.9, 1.1)))

    def short(at: float, kind: str, times: int, family: int = 4) -> Fetch:
        names = tuple(rng.sample(MIXED, 5))
        return Fetch(at, kind, names, rng.randint(800, 9000), times=times, family=family)

    handed_on = public_v4(1)
    story: dict[int, tuple[Step, ...]] = {
        1: (
            Connect(0.5, v4=handed_on),
            short(1, "tls", 30),
            Fetch(3, "tls", MEDIA, mib(8), times=3),
            Fetch(5, "http", ("news.example",), mib(18)),
            Disconnect(8),
            Connect(13.5, v4=public_v4(21)),
            Interim(14.5),
            Fetch(15, "tls", ("upload.photos.test",), up=mib(12)),
            short(17, "http", 30),
            Disconnect(21.5),
        ),
        2: (
            Connect(14, v4=handed_on),
            Fetch(15, "http", ("games.test",), mib(20)),
            short(17, "tls", 40),
            Fetch(18.5, "tls", ("bank.example",), mib(2), times=2),
            Disconnect(21),
        ),
        3: (
            Connect(1, v6=own_v6(3)),
            short(2, "tls", 30, 6),
            Fetch(6, "tls", MEDIA, mib(9), times=2, family=6),
            Fetch(11, "quic", ("video.example",), mib(1.5), family=6),
            Fetch(15, "http", ("news.example",), mib(12), family=6),
            Disconnect(20),
        ),
        4: (
            Connect(1.5, v4=public_v4(4), v6=own_v6(4)),
            short(2.5, "tls", 20),
            short(3.5, "tls", 20, 6),
            Call(5, sip.ANSWERED, "+442079460104", "02079460204", 2000, 6),
            Fetch(9, "tls", ("games.test",), mib(12), family=4),
            Interim(12),
            Fetch(12.5, "tls", ("games.test",), mib(12), family=6),
            Fetch(16, "quic", ("cdn-7.media.example",), mib(1)),
            Disconnect(20.5, "Idle-Timeout"),
        ),
        5: (
            Connect(2, v4=nat_v4(5)),
            short(3, "http", 40),
            Fetch(7, "tls", ("stream.video.example",), mib(10), times=2),
            Fetch(13, "quic", ("news.example",), mib(0.8)),
            Disconnect(19),
        ),
        6: (
            Connect(2.5, v4=nat_v4(6)),
            Fetch(4, "http", ("static.shop.example",), mib(18)),
            Stream(10, "down", "games.test", max(10, int(7000 * scale))),
            short(15, "tls", 40),
            Disconnect(20),
        ),
        7: (
            Connect(3, v4=public_v4(7)),
            Lookup(9, ("bank.example", "weather.test")),
            Lookup(14, ("mail.example",)),
            Disconnect(18),
        ),
        8: (Connect(3.5, v4=public_v4(8)), Interim(12), Disconnect(22, "Admin-Reset")),
        9: (
            Connect(1, v4=public_v4(9)),
            Call(2, sip.ANSWERED, "+442079460109", "02079460201", 2500),
            Call(7, sip.BUSY, "+442079460109", "02079460486"),
            Call(8, sip.CANCELLED, "+442079460109", "02079460487", 1200),
            Fetch(10, "tls", ("phone.example",), mib(0.5)),
            Call(11, sip.NO_ANSWER, "+442079460109", "02079460480"),
            Call(14, sip.ANSWERED, "+442079460109", "+442079460202", 4000),
            Disconnect(20),
        ),
        10: (
            Connect(2, v4=public_v4(10), v6=own_v6(10)),
            Stream(4, "up", "games.test", max(10, int(9000 * scale))),
            Fetch(9, "http", ("upload.photos.test",), up=mib(20), family=6),
            Stream(14, "down", "video.example", max(10, int(6000 * scale)), family=6),
            short(17, "http", 40, 6),
            Disconnect(20.5, "Lost-Carrier"),
        ),
    }
    for line in range(STORY_LINES + 1, lines + 1):
        story[line] = (
            Connect(rng.uniform(0.5, 4), v4=public_v4(100 + line), v6=own_v6(line)),
            short(rng.uniform(5, 9), "tls", 10),
            short(rng.uniform(10, 17), "http", 10, 6),
            Disconnect(rng.uniform(18, 21)),
        )
    day = Day(tuple(Subscriber(line, story[line]) for line in range(1, lines + 1)), wall_s)
    day.check()
    return day
