"""The figures to reach: what was measured, beside what it may be at most. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from attrs import frozen

from bench import catalog, samples
from bench.samples import Key, Medians

WAYS: Final = (samples.DIRECT, samples.HELPER)
SETS: Final = (catalog.POSTGRESQL, catalog.LARGE_FILES, catalog.SMALL_FILES)

_READING_10_GB: Final = 1.7
"""How many seconds it takes to read so much once from memory, at 6 GB/s."""


@frozen
class Goal:
    """A figure to reach.

    Attributes:
        figure: what it is.
        of: of what, and by which way.
        measured: what it is; None where a part of it was not measured.
        limit: what it may be at most.
        form: how both are written.
    """

    figure: str
    of: str
    measured: float | None
    limit: float
    form: str

    @property
    def reached(self) -> bool | None:
        """Whether it is no more than it may be; None where it was not measured."""
        return None if self.measured is None else self.measured <= self.limit

    def written(self, value: float | None) -> str:
        """Return a value as people read it."""
        return "-" if value is None else self.form.format(value)


def goals(known: Medians) -> Iterator[Goal]:
    """Give every figure to reach, in the order of the tables."""

    def get(subject: str, way: str, task: str, figure: str) -> float | None:
        return known.get(Key(subject, way, task, figure))

    def ratio(of: float | None, to: float | None) -> float | None:
        return None if of is None or not to else of / to

    def beyond(of: float | None, to: float | None) -> float | None:
        return None if of is None or to is None else of - to

    def down(subject: str, way: str) -> float | None:
        """Return the downtime of a backup: of the first or the second, whichever is longer."""
        both = (get(subject, way, task, samples.DOWN) for task in (samples.FIRST, samples.SECOND))
        return max((value for value in both if value is not None), default=None)

    def restart(subject: str) -> float | None:
        return get(subject, samples.BARE, samples.RESTART, samples.DOWN)

    def seconds(subject: str, way: str, task: str) -> float | None:
        return get(subject, way, task, samples.SECONDS)

    times, more, megabytes = "{:.2f} times", "{:+.2f} s", "{:.0f} MB"
    _, middle, largest = catalog.SIZES
    _, many = catalog.NUMBERS
    name = catalog.POSTGRESQL
    for way, limit in ((samples.DIRECT, 1.25), (samples.HELPER, 1.5)):
        value = ratio(down(name, way), restart(name))
        yield Goal("downtime, against the bare restart", f"{name}; {way}", value, limit, times)
    for way in WAYS:
        name = catalog.SMALL_SERVER
        value = beyond(down(name, way), restart(name))
        yield Goal("downtime, beyond the bare restart", f"{name}; {way}", value, 0.15, more)
    for way in WAYS:
        value = ratio(down(largest, way), down(middle, way))
        yield Goal("downtime, 10 GB against 1 GB", way, value, 1.15, times)
    for name, limit in ((many, 0.6), (catalog.MILLION, 2.5)):
        for way in WAYS:
            value = beyond(down(name, way), restart(name))
            yield Goal("downtime, beyond the bare restart", f"{name}; {way}", value, limit, more)
    for name, limit in ((catalog.ONE_FILE, _READING_10_GB), (catalog.XFS, 0.15)):
        value = beyond(down(name, samples.DIRECT), restart(name))
        yield Goal("downtime, beyond the bare restart", f"{name}; direct", value, limit, more)
    for task, what, limits in (
        (samples.FIRST, "first backup in total", (0.6, 0.5, 1.0)),
        (samples.SECOND, "second backup in total, 1% changed", (0.8, 0.8, 0.5)),
        (samples.ROLLBACK, "put back after 1% changed", (0.5, 0.5, 0.5)),
    ):
        for name, limit in zip(SETS, limits, strict=True):
            both = (seconds(name, way, task) for way in (samples.DIRECT, samples.RESTIC))
            yield Goal(f"{what}, against restic", f"{name}; direct", ratio(*both), limit, times)
    for name, limit in (*((name, 1.0) for name in (*SETS, catalog.PGBENCH)), (catalog.SCATTERED, 0.1)):
        both = (get(name, way, samples.SECOND, samples.STORED) for way in (samples.DIRECT, samples.RESTIC))
        yield Goal(
            "stored by a second backup, 1% changed, against restic", f"{name}; direct", ratio(*both), limit, times
        )
    for task, what in (
        (samples.FIRST, "first backup"),
        (samples.SECOND, "second backup, 1% changed"),
        (samples.ROLLBACK, "put back after 1% changed"),
    ):
        for name in SETS:
            both = (seconds(name, way, task) for way in (samples.HELPER, samples.DIRECT))
            yield Goal(f"{what} in total, helper against direct", name, ratio(*both), 1.5, times)
    for name in (catalog.ONE_FILE, catalog.MILLION):
        for way in WAYS:
            value = get(name, way, samples.FIRST, samples.MEMORY)
            value = None if value is None else value / 1e6
            yield Goal("peak memory of our process", f"{name}; {way}", value, 150, megabytes)
    name = catalog.NO_VOLUMES
    both = (seconds(name, way, samples.ENTRY) for way in (samples.DIRECT, samples.BARE))
    yield Goal("entering and leaving, against the bare calls", name, ratio(*both), 1.5, times)

    def at_once(subject: str, figure: str) -> tuple[float | None, str]:
        """Return what stopping and starting all at once takes, by the quicker of two commands, and that one's name."""
        both = ((get(subject, way, samples.RESTART, figure), way) for way in (samples.EACH, samples.ALL))
        return min(((value, way) for value, way in both if value is not None), default=(None, samples.EACH))

    name = catalog.EIGHT
    value, quicker = at_once(name, samples.DOWN)
    value = ratio(get(name, samples.DIRECT, samples.ENTERING, samples.DOWN), value)
    yield Goal("downtime of all, against stopping and starting all at once", f"{name}; {quicker}", value, 1.25, times)
    name = catalog.CHAIN
    value = ratio(
        get(name, samples.DIRECT, samples.ENTERING, samples.DOWN),
        get(name, samples.COMPOSE, samples.RESTART, samples.DOWN),
    )
    yield Goal("the same in levels", f"{name}; {samples.COMPOSE}", value, 1.25, times)
    name = catalog.EIGHT
    value, quicker = at_once(name, samples.SECONDS)
    value = ratio(seconds(name, samples.DIRECT, samples.REMOVED), value)
    text = "rollback of all, removed, in total, against stopping and starting all at once"
    yield Goal(text, f"{name}; {quicker}", value, 2.5, times)
    for way in WAYS:
        for name, limit in zip(catalog.IMAGES, (3.0, 3.5), strict=True):
            value = ratio(seconds(name, way, samples.FURTHER), seconds(name, samples.BARE, samples.RESTART))
            text = "further backup in total, small change in the layer, against the bare restart"
            yield Goal(text, f"{name}; {way}", value, limit, times)
    one, *others = catalog.IDLE
    for number in others:
        several, single = (
            get(catalog.IDLE[n], samples.DIRECT, samples.ENTERING, samples.REQUESTS) for n in (number, one)
        )
        value = beyond(several, single)
        value = None if value is None else value / (number - one)
        text = "requests to the engine for each container beyond the first"
        yield Goal(text, f"entering, {catalog.IDLE[number]}", value, 12, "{:.1f}")
    name = catalog.IDLE[others[-1]]
    value, quicker = at_once(name, samples.SECONDS)
    whole = seconds(name, samples.DIRECT, samples.ENTERING)
    text = "entering, in total, against stopping and starting all at once"
    yield Goal(text, f"{name}; {quicker}", ratio(whole, value), 1.3, times)
    yield Goal("entering, in total", name, whole, 3.0, "{:.2f} s")
