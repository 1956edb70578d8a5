"""What an HTTP/2 peer may do besides sending messages, and how much of it: streams ended early, control frames, noise.

There is no clock here; whoever has one calls `tick`. The counts are about one connection.
"""

from __future__ import annotations

from mesh.model.limits import KIB, Limits

CONTROL_FRAME = 13
"""Bytes of a typical control frame, WINDOW_UPDATE."""
REFUND = 8
"""Units of `limits.control_frames` that a message gives back; eight bytes sent give back one."""
OVERSIZED = 20
"""Streams ended early for which a header block of too many fields counts: it was read before it could be refused."""
EXCUSED_STREAMS = 16
"""What may be under way at once, in full windows of a stream: what the window of a connection is about."""


class Allowance:
    """Counts one connection's abuse of resets (CVE-2023-44487, CVE-2025-8671) and of frames that carry no message."""

    __slots__ = (
        "_asked_at",
        "_control_bound",
        "_earned",
        "_excused",
        "_excused_bound",
        "_patience",
        "_quiet_bound",
        "_resets",
        "_resets_bound",
        "_window",
        "_window_end",
        "completed",
        "control",
        "quiet",
    )

    def __init__(self, limits: Limits) -> None:
        self.completed = 0  # streams that ended well, in this window of time
        self.control = 0  # units spent
        self.quiet = 0  # bytes since the last message; a new window of time leaves one of them
        self._asked_at = 0.0
        self._patience = limits.header_timeout
        self._control_bound = limits.control_frames
        self._resets = 0
        self._resets_bound = limits.resets
        self._earned = 0
        self._excused = 0  # bytes under way for streams that have ended
        self._excused_bound = max(limits.buffer_bytes, EXCUSED_STREAMS * limits.stream_buffer_bytes)
        self._quiet_bound = 2 * limits.header_bytes + 64 * KIB  # a header block and some frames of the largest size
        self._window = limits.resets_window
        self._window_end = 0.0

    def tick(self, now: float) -> None:
        """Start the counts anew if a window of time is over; `now` is in seconds."""
        if now >= self._window_end:
            self._window_end = now + self._window
            self._earned = self.completed
            self.completed = self._resets = self.control = 0
            self.quiet = min(1, self.quiet)

    def silent(self, now: float) -> bool:
        """Whether bytes have come that made no message: the peer may be in the middle of one. It should be asked."""
        if not self.quiet:
            self._asked_at = 0.0
        elif not self._asked_at:
            self._asked_at = now
        return self._asked_at > 0.0

    def stuck(self, now: float) -> bool:
        """Whether it has been `silent` for `limits.header_timeout`, though it was asked."""
        return self._asked_at > 0.0 and now - self._asked_at > self._patience

    def ended_early(self, weight: int = 1) -> bool:
        """Count a stream that the peer ended early, or made us end; True if that was one too many.

        Allowed are `limits.resets` and one more for each stream completed in this window of time or the one before it,
        so that an honest client may cancel much of what it asks for on a busy connection. What was dear to read counts
        for several, its `weight`.
        """
        self._resets += weight
        return self._resets > self._resets_bound + self.completed + self._earned

    def heard(self, size: int, control: int, messages: int) -> str:
        """Count `size` bytes received that held `messages` and cost `control` units; what was exceeded, or nothing."""
        self.control = max(0, self.control + control - REFUND * messages)
        noise = max(0, size - CONTROL_FRAME * control)
        excused = 0 if messages else min(noise, self._excused)
        self._excused -= excused
        self.quiet = 0 if messages else self.quiet + noise - excused
        if self.control > self._control_bound:
            return "too many control frames for so few messages"
        if self.quiet > self._quiet_bound:
            return f"{self.quiet} bytes without a message"
        return ""

    def excuse(self, size: int) -> None:
        """So many bytes may come, or have come, for a stream that has ended without its sender knowing: they are no
        noise."""
        self._excused = min(self._excused + size, self._excused_bound)

    def said(self, size: int) -> None:
        """Refund for `size` bytes sent: a peer that receives much must answer with window updates."""
        self.control = max(0, self.control - (size >> 3))
