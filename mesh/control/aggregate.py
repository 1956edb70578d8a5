"""Folds the reports of proxies into rolling windows: 1 s slots for 15 minutes, and totals since the start. Pure.

Rules:
- `now` is the control plane's own monotonic clock, in seconds; what a proxy says about time is used for one thing only:
  a report that covers more than a second, after a stream was down, is spread evenly over the slots that it covers.
- Counts are conserved: the sum over slots is the sum over reports, as long as nothing is older than the horizon.
- Memory is bounded: at most MAX_SERIES series have totals of their own, and MAX_CELLS cells exist in all slots.
  Series that were silent for the whole horizon make room first; what finds no room is counted under OVERFLOW. When
  there are too many cells the oldest slots go first, and windows become shorter, never wrong.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from mesh.control.cluster import ServiceKey
from mesh.model.reports import LATENCY_BOUNDS_MS, SeriesDelta, TcpDelta

HORIZON_SECONDS = 900
MAX_SERIES = 4_000
MAX_CELLS = 200_000
"""Some 500 bytes each: 100 MB when a very large mesh is busy all over; a hundred busy series for the whole horizon
need 90,000."""

OVERFLOW = "(other)"
MAX_WORD = 300
"""Characters of a peer or an identity, of which a DNS name has 253 at most."""


class Series(NamedTuple):
    """The labels that windows keep."""

    direction: str
    namespace: str
    """The service's; empty for traffic that leaves the mesh."""
    service: str
    source_namespace: str
    source: str
    """The workload whose proxy reports."""
    protocol: str
    tls: str
    peer: str = ""
    """outbound: the endpoint's workload, or its address outside of the mesh; empty: no endpoint was reached."""
    identity: str = ""
    """What the other side proved to be (DNS spelling); empty: nothing."""
    own: str = ""
    """Who the reporting proxy is, by its token; empty where the mesh has no identities."""
    route: str = ""
    """`ROUTE/RULE` that was taken; empty where the service has no routes."""


class Cell:
    """Counts of one series in one slot, or of anything summed up."""

    __slots__ = ("buckets", "duration_ms", "requests", "successes")

    def __init__(self) -> None:
        self.requests = 0
        self.successes = 0
        self.duration_ms = 0.0
        self.buckets: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Cell requests={self.requests} successes={self.successes}>"

    def add(self, other: Cell) -> None:
        """Adds the other's counts to ours."""
        self.requests += other.requests
        self.successes += other.successes
        self.duration_ms += other.duration_ms
        buckets = self.buckets
        for index, count in other.buckets.items():
            buckets[index] = buckets.get(index, 0) + count

    def share(self, part: int, parts: int) -> Cell:
        """Part `part` (from 0) of `parts`, in whole requests; all parts add up to the whole."""
        cell = Cell()
        cell.successes = portion(self.successes, part, parts)
        cell.requests = cell.successes + portion(self.requests - self.successes, part, parts)
        cell.duration_ms = self.duration_ms / parts
        for index, count in self.buckets.items():
            some = portion(count, part, parts)
            if some:
                cell.buckets[index] = some
        return cell


class Slot:
    """One second."""

    __slots__ = ("cells", "second")

    def __init__(self, second: int) -> None:
        self.second = second
        self.cells: dict[Series, Cell] = {}


class Total:
    """All of a series since the start, and when it last grew."""

    __slots__ = ("cell", "last")

    def __init__(self) -> None:
        self.cell = Cell()
        self.last = 0.0


class Window(NamedTuple):
    """What happened in a span of time: `seconds` is its true length, never 0."""

    cells: Mapping[Series, Cell]
    seconds: float


Resolve = Callable[[str], ServiceKey]
"""A service label, as the reporting proxy writes it, to the service; a namespace of "" where it is not the mesh's."""


class Aggregate:
    """The windows. `add` takes reports in, `window` answers; `tcp_open` lists gauges of the connected proxies."""

    def __init__(self, now: float, *, max_series: int = MAX_SERIES, max_cells: int = MAX_CELLS) -> None:
        self.started = now
        self.overflowed = 0
        """Deltas that were counted under OVERFLOW."""
        self._max_series, self._max_cells = max_series, max_cells
        self._cells = 0
        self._complete_since = now
        self._slots: deque[Slot] = deque()
        self._totals: dict[Series, Total] = {}
        self._gauges: dict[str, dict[tuple[str, ServiceKey], int]] = {}

    def __repr__(self) -> str:
        return f"<Aggregate slots={len(self._slots)} cells={self._cells} series={len(self._totals)}>"

    def add(
        self,
        now: float,
        source: ServiceKey,
        seconds: float,
        deltas: Iterable[SeriesDelta],
        resolve: Resolve,
        own: str = "",
    ) -> None:
        """Takes the deltas of one report of the workload `source`, which cover the `seconds` before `now`. `own` is the
        identity that its token is for."""
        grown: dict[Series, Cell] = {}
        for delta in deltas:
            key = delta.key
            service = resolve(key.service)
            peer = short(key.peer) if key.direction == "outbound" else ""
            identity = short(key.identity)
            labels = (key.protocol, key.tls, peer, identity, own, short(key.route))
            series = Series(key.direction, *service, *source, *labels)
            cell = grown.get(series)
            if cell is None:
                cell = grown[series] = Cell()
            cell.requests += delta.requests
            cell.duration_ms += delta.duration_ms
            if key.success:
                cell.successes += delta.requests
            for index, count in delta.buckets.items():
                cell.buckets[index] = cell.buckets.get(index, 0) + count
        last = int(now)
        parts = round(min(max(seconds, 1.0), float(HORIZON_SECONDS)))
        for wanted, cell in grown.items():
            series = self._admit(wanted, now)
            total = self._totals[series]
            total.cell.add(cell)
            total.last = now
            if parts == 1:
                self._cell(last, series).add(cell)
                continue
            for part in range(parts):
                some = cell.share(part, parts)
                if some.requests or some.buckets:
                    self._cell(last - parts + 1 + part, series).add(some)
        self._expire(last)

    def add_tcp(self, proxy: str, deltas: Iterable[TcpDelta], resolve: Resolve) -> None:
        """Takes the gauges of one proxy; it may have MAX_SERIES of them, more are passed over."""
        gauges = self._gauges.setdefault(proxy, {})
        for delta in deltas:
            key = (delta.direction, resolve(delta.service))
            if delta.open <= 0:
                gauges.pop(key, None)
            elif key in gauges or len(gauges) < self._max_series:
                gauges[key] = delta.open

    def forget(self, proxy: str) -> None:
        """Drops the gauges of a proxy that is gone."""
        self._gauges.pop(proxy, None)

    def window(self, now: float, seconds: float) -> Window:
        """The last `seconds`, at most the horizon, in whole slots; 0 or less: everything since the start."""
        if seconds <= 0:
            return Window({s: t.cell for s, t in self._totals.items()}, max(now - self.started, 1.0))
        first = int(now) - int(min(seconds, HORIZON_SECONDS))
        cells: dict[Series, Cell] = {}
        for slot in reversed(self._slots):
            if slot.second < first:
                break
            for series, cell in slot.cells.items():
                summed = cells.get(series)
                if summed is None:
                    summed = cells[series] = Cell()
                summed.add(cell)
        return Window(cells, max(now - max(float(first), self.started, self._complete_since), 1.0))

    def tcp_open(self) -> Iterator[tuple[str, str, ServiceKey, int]]:
        """(proxy, direction, service, connections open now) of all connected proxies."""
        for proxy, gauges in self._gauges.items():
            for (direction, service), count in gauges.items():
                yield proxy, direction, service, count

    # --- bounds

    def _admit(self, series: Series, now: float) -> Series:
        """The series itself, or the one of OVERFLOW where there is no room; either has a total afterwards."""
        if series in self._totals:
            return series
        if len(self._totals) >= self._max_series:
            self._make_room(now)
        if len(self._totals) >= self._max_series:
            self.overflowed += 1
            series = overflow(series)
        self._totals.setdefault(series, Total())
        return series

    def _make_room(self, now: float) -> None:
        idle = [s for s, total in self._totals.items() if now - total.last > HORIZON_SECONDS and s.service != OVERFLOW]
        for series in idle:
            rest = self._totals.setdefault(overflow(series), Total())
            rest.cell.add(self._totals.pop(series).cell)

    def _cell(self, second: int, series: Series) -> Cell:
        slot = self._slot(second)
        cell = slot.cells.get(series)
        if cell is None:
            cell = slot.cells[series] = Cell()
            self._cells += 1
        return cell

    def _slot(self, second: int) -> Slot:
        slots = self._slots
        if not slots or slots[-1].second < second:
            slots.append(Slot(second))
            return slots[-1]
        if slots[-1].second == second:
            return slots[-1]
        place = bisect_left(slots, second, key=lambda slot: slot.second)
        if slots[place].second != second:
            slots.insert(place, Slot(second))
        return slots[place]

    def _expire(self, second: int) -> None:
        slots = self._slots
        while slots and slots[0].second < second - HORIZON_SECONDS:
            self._cells -= len(slots.popleft().cells)
        while self._cells > self._max_cells and len(slots) > 1:
            oldest = slots.popleft()
            self._cells -= len(oldest.cells)
            self._complete_since = float(oldest.second + 1)


def portion(count: int, part: int, parts: int) -> int:
    """Part `part` (from 0) of `parts` of a count: as even as whole numbers are, and adding up to it."""
    return count * (part + 1) // parts - count * part // parts


def short(word: str) -> str:
    """A proxy's word, if it is not too long to be kept; else none."""
    return word if len(word) <= MAX_WORD else ""


def overflow(series: Series) -> Series:
    """The series that counts for all that find no room; one for each direction."""
    return Series(series.direction, "", OVERFLOW, "", OVERFLOW, "", "")


def quantile(buckets: Mapping[int, int], q: float) -> float | None:
    """The q-quantile (0 to 1) in ms, interpolated within its bucket; None where nothing was counted.

    The unbounded bucket answers with the last bound: the truth is that or more.
    """
    count = sum(buckets.values())
    if count <= 0:
        return None
    rank = q * count
    below = 0
    for index in sorted(buckets):
        here = buckets[index]
        if here > 0 and below + here >= rank:
            if index >= len(LATENCY_BOUNDS_MS):
                break
            lower = LATENCY_BOUNDS_MS[index - 1] if index > 0 else 0.0
            return lower + (LATENCY_BOUNDS_MS[index] - lower) * min(max((rank - below) / here, 0.0), 1.0)
        below += here
    return LATENCY_BOUNDS_MS[-1]
