"""Asks whether a process that we started is ready: does its port accept, does its admin page say 200."""

from __future__ import annotations

from collections.abc import Iterator

import trio

from mesh.local.ports import LOOPBACK

ASK_SECONDS = 1.0  # a process that takes longer to answer one question is not ready
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.1


async def accepts(port: int) -> bool:
    """Whether a TCP connection to the port on loopback is accepted."""
    with trio.move_on_after(ASK_SECONDS):
        try:
            stream = await trio.open_tcp_stream(LOOPBACK, port)
        except OSError:
            return False
        await stream.aclose()
        return True
    return False


async def status(port: int, path: str, token: str = "") -> int:
    """HTTP status of `GET path` on loopback; 0 where there was no answer."""
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    question = f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}:{port}\r\n{bearer}Connection: close\r\n\r\n"
    with trio.move_on_after(ASK_SECONDS):
        try:
            async with await trio.open_tcp_stream(LOOPBACK, port) as stream:
                await stream.send_all(question.encode("ascii"))
                answer = b""
                while b"\r\n" not in answer and (more := await stream.receive_some(4096)):
                    answer += more
        except (OSError, trio.BrokenResourceError):
            return 0
        words = answer.split(b" ", 2)
        return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit() else 0
    return 0


async def until_accepts(port: int) -> None:
    """Returns once the port accepts; asks for ever: give it a deadline."""
    for pause in pauses():
        if await accepts(port):
            return
        await trio.sleep(pause)


async def until_ok(port: int, path: str, token: str = "") -> None:
    """Returns once `GET path` answers 200; asks for ever: give it a deadline."""
    for pause in pauses():
        if await status(port, path, token) == 200:
            return
        await trio.sleep(pause)


def pauses() -> Iterator[float]:
    """Seconds between questions, without end: short at first, since most processes are ready soon."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * 2, LONGEST_PAUSE)
