"""HTTP/2 under attack: every row of that table, with both codecs."""

import pytest
import trio

from tests.hostile import attacks
from tests.hostile.conftest import Target

SECONDS = 1.0


def check_heard(target: Target, allowed: bool = False) -> None:
    """What was refused has not reached the application."""
    heard = [head for head in target.heard() if "/evil" in head]
    assert allowed or heard == []


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("continuation_flood", ["control_flood"]),
        ("continuation_bytes", ["header_bytes", "control_flood"]),  # while it is received, or when it is decoded
        ("hpack_bomb", ["header_bytes"]),
        ("cookie_crumbs", ["header_fields"]),
    ],
)
async def test_header_blocks(target: Target, name: str, reasons: list[str]) -> None:
    """Row: CONTINUATION flood, HPACK bomb, cookie crumbs."""
    async with target.under_attack(*reasons):
        await attacks.ATTACKS[name](target.inbound, SECONDS)
    await trio.to_thread.run_sync(check_heard, target)


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("rapid_reset", ["rapid_reset"]),
        ("made_you_reset", ["rapid_reset", "protocol_error"]),  # it may end the connection at once
        ("made_you_refuse", ["rapid_reset", "protocol_error"]),  # or be too many streams
    ],
)
async def test_streams_that_end_early(target: Target, name: str, reasons: list[str]) -> None:
    """Row: rapid reset (CVE-2023-44487), MadeYouReset (CVE-2025-8671)."""
    async with target.under_attack(*reasons):
        await attacks.ATTACKS[name](target.inbound, SECONDS)


@pytest.mark.parametrize(
    "name",
    [
        *("ping_flood", "unread_pings", "settings_flood", "priority_flood", "window_update_flood"),
        *("empty_data_flood", "unknown_flood"),
    ],
)
async def test_floods_of_control_frames(target: Target, name: str) -> None:
    """Row: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty-DATA floods."""
    async with target.under_attack("control_flood"):
        await attacks.ATTACKS[name](target.inbound, SECONDS)


async def test_too_many_streams(target: Target) -> None:
    """Row: too many streams."""
    async with target.under_attack("protocol_error"):
        await attacks.too_many_streams(target.inbound, SECONDS)


@pytest.mark.parametrize("name", ["window_stall", "slow_read_http2"])
async def test_answers_that_are_not_taken(target: Target, name: str) -> None:
    """Row: window stall, slow read."""
    async with target.under_attack("write_timeout"):
        await attacks.ATTACKS[name](target.inbound, 4.0)
