"""What a proxy has to tell and has not told yet: deltas merged by key, cut into small enough messages. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from mesh.model.push import MAX_MESSAGE, Report, Tapped
from mesh.model.reports import Seen, SeriesDelta, TcpDelta

CHUNK = 400
"""Series in one message: labels and buckets of one usually take less than 1 KiB."""
MOST_SEEN = 4_096
"""Kinds of requests that wait to be told; of more, those that were seen first are kept."""

_encoder = msgspec.json.Encoder()


class Unsent:
    """Deltas between being drained and being sent. What is added while there are some is added up with them."""

    __slots__ = ("_chunk", "_seen", "_series", "_tcp", "dropped")

    def __init__(self) -> None:
        self.dropped = 0
        """Deltas that could not be told because a message with nothing else in it would be too large."""
        self._series: list[SeriesDelta] = []
        self._tcp: list[TcpDelta] = []
        self._seen: list[Seen] = []
        self._chunk = 0

    def __repr__(self) -> str:
        return f"<Unsent series={len(self._series)} tcp={len(self._tcp)} seen={len(self._seen)}>"

    def add(self, series: list[SeriesDelta], tcp: list[TcpDelta], seen: Sequence[Seen] = ()) -> None:
        """More to tell."""
        self._series = merged(self._series, series) if self._series else series
        self._tcp = merged_tcp(self._tcp, tcp) if self._tcp else tcp
        self._seen = merged_seen(self._seen, seen) if self._seen else list(seen)
        self.dropped += len(self._seen[MOST_SEEN:])
        del self._seen[MOST_SEEN:]

    def next_text(self, at: float, seconds: float) -> bytes | None:
        """The next Report as JSON text of at most MAX_MESSAGE bytes; None where nothing is left. `sent` follows."""
        size = CHUNK
        while self._series or self._tcp or self._seen:
            parts = tuple(self._series[:size]), tuple(self._tcp[:size]), tuple(self._seen[:size])
            text = _encoder.encode(Report(at, seconds, *parts))
            if len(text) <= MAX_MESSAGE:
                self._chunk = size
                return text
            if size > 1:
                size //= 2
            else:
                self.dropped += 1
                del self._series[:1], self._tcp[:1], self._seen[:1]
        return None

    def sent(self) -> None:
        """The text was sent: what is in it is told."""
        del self._series[: self._chunk], self._tcp[: self._chunk], self._seen[: self._chunk]


def merged(old: list[SeriesDelta], new: list[SeriesDelta]) -> list[SeriesDelta]:
    """Both, added up by key."""
    found = {delta.key: delta for delta in old}
    for delta in new:
        before = found.get(delta.key)
        if before is not None:
            buckets = dict(before.buckets)
            for index, count in delta.buckets.items():
                buckets[index] = buckets.get(index, 0) + count
            requests, duration = before.requests + delta.requests, before.duration_ms + delta.duration_ms
            found[delta.key] = SeriesDelta(delta.key, requests, duration, buckets)
        else:
            found[delta.key] = delta
    return list(found.values())


def merged_tcp(old: list[TcpDelta], new: list[TcpDelta]) -> list[TcpDelta]:
    """Both, added up by direction and service; `open` is the newer one's."""
    found = {(delta.direction, delta.service): delta for delta in old}
    for delta in new:
        key = (delta.direction, delta.service)
        before = found.get(key)
        found[key] = delta if before is None else added_tcp(before, delta)
    return list(found.values())


def added_tcp(old: TcpDelta, new: TcpDelta) -> TcpDelta:
    """The sum of two of one key."""
    return TcpDelta(
        new.direction,
        new.service,
        opened=old.opened + new.opened,
        closed=old.closed + new.closed,
        open=new.open,
        read_bytes=old.read_bytes + new.read_bytes,
        write_bytes=old.write_bytes + new.write_bytes,
    )


def merged_seen(old: Sequence[Seen], new: Sequence[Seen]) -> list[Seen]:
    """Both, added up where all but the example is the same; the older example stays."""
    found = {_kind_of(seen): seen for seen in old}
    for seen in new:
        kind = _kind_of(seen)
        before = found.get(kind)
        found[kind] = seen if before is None else msgspec.structs.replace(before, count=before.count + seen.count)
    return list(found.values())


def _kind_of(seen: Seen) -> Seen:
    return msgspec.structs.replace(seen, example="", count=0)


def tapped_texts(tapped: Tapped) -> Iterator[bytes]:
    """The message, halved until each part is small enough; one event that is too large alone is counted as dropped."""
    text = _encoder.encode(tapped)
    if len(text) <= MAX_MESSAGE:
        yield text
        return
    half = len(tapped.events) // 2
    if half == 0:
        yield _encoder.encode(Tapped(tapped.session, (), tapped.dropped + 1))
        return
    yield from tapped_texts(Tapped(tapped.session, tapped.events[:half], tapped.dropped))
    yield from tapped_texts(Tapped(tapped.session, tapped.events[half:]))
