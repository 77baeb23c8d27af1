"""Plays a `Day` on a running network, a thread a subscriber, and returns the truth about it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Final

from tests.lab.context import Context, Halted, Progress
from tests.lab.day import Day
from tests.lab.player import Player
from tests.lab.truth import Truth

JOIN_TIMEOUT_S: Final = 60.0
"""More than any step may take after the day was stopped."""
TICK_S: Final = 0.2

ProgressCallback = Callable[[Progress], None]
Chaos = Sequence[tuple[float, Callable[[], None]]]


def play_day(
    context: Context, day: Day, progress: ProgressCallback | None = None, chaos: Chaos = ()
) -> Truth:
    """Play the day to its end and return the truth.

    `progress` is called in the caller's thread. Each of `chaos` (fraction of the day, function)
    runs in a thread of its own; its exception is raised here after the day. Any exception here,
    KeyboardInterrupt included, stops the day first.
    """
    network = context.network
    players = [Player(context, subscriber) for subscriber in day.subscribers]
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except Halted:
            return
        except BaseException as error:  # raised in the caller's thread below
            failures.append(error)

    def disturb(fraction: float, action: Callable[[], None]) -> None:
        context.wait_until(fraction)
        context.tell("", f"chaos at {fraction:.0%} of the day")
        action()

    with ExitStack() as stack:
        stack.callback(context.stop)
        for player in players:
            stack.callback(player.close)
            player.prepare()
        for player in players:
            player.ready()
        begin = {number: network.layer3(number) for number in network.lines}
        drops = network.drops()
        start_ns = time.time_ns()
        context.begin()
        work = [player.play for player in players]
        work += [partial(disturb, f, a) for f, a in chaos]
        threads = [threading.Thread(target=guarded, args=(one,)) for one in work]
        for thread in threads:
            thread.start()
        events: list[dict[str, object]] = []
        try:
            pump(context, threads, events, progress)
        finally:
            if any(thread.is_alive() for thread in threads):
                context.stop()
            for thread in threads:
                thread.join(JOIN_TIMEOUT_S)
        if failures:
            raise failures[0]
        subscribers = [
            p.truth(begin[s.line]) for p, s in zip(players, day.subscribers, strict=True)
        ]
        return Truth(
            subscribers=subscribers,
            calls=sorted((c for p in players for c in p.calls), key=lambda c: c.start_ns),
            start_ns=start_ns,
            end_ns=time.time_ns(),
            drops=network.drops() - drops,
            events=events,
        )


def pump(
    context: Context,
    threads: Sequence[threading.Thread],
    events: list[dict[str, object]],
    progress: ProgressCallback | None,
) -> None:
    """Hand progress over until every thread has ended and all of it is told."""
    while any(thread.is_alive() for thread in threads) or not context.news.empty():
        try:
            item = context.news.get(timeout=TICK_S)
        except queue.Empty:
            continue
        events.append(asdict(item))
        if progress is not None:
            progress(item)
