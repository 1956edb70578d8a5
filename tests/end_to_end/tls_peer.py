"""TLS peers that are none of ours: openssl s_client and sslyze."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 120.0


class Files(NamedTuple):
    """A certificate (with what leads from it to a root) and its key."""

    cert: Path
    key: Path


def s_client(port: int, name: str, files: Files | None, *options: str, say: bytes = b"") -> str:
    """What `openssl s_client` prints when it asks for `name`, shows `files`, and says something if it gets so far."""
    argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", name, "-ign_eof", *options]
    if files is not None:
        argv += ["-cert", str(files.cert), "-cert_chain", str(files.cert), "-key", str(files.key)]
    done = subprocess.run(argv, input=say, capture_output=True, timeout=SECONDS, check=False)
    return (done.stdout + done.stderr).decode("utf-8", "replace")


def renegotiate(port: int, name: str, files: Files) -> str:
    """What `openssl s_client` prints when it asks to renegotiate within TLS 1.2, until it gives up by itself."""
    argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", name, "-tls1_2"]
    argv += ["-cert", str(files.cert), "-cert_chain", str(files.cert), "-key", str(files.key)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(argv, **pipes) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"R\n")
            process.stdin.flush()
            process.wait(SECONDS)
            return process.stdout.read().decode("utf-8", "replace")
        finally:
            process.kill()


def sslyze(port: int, name: str, files: Files, folder: Path, *scans: str) -> dict[str, Any]:
    """The results of sslyze's scans, by name."""
    report = folder / "sslyze.json"
    argv = [
        *(sys.executable, "-m", "sslyze", "--mozilla_config=disable", f"--json_out={report}", f"--sni={name}"),
        *(f"--cert={files.cert}", f"--key={files.key}", *scans, f"127.0.0.1:{port}"),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert report.exists(), done.stdout + done.stderr
    (server,) = json.loads(report.read_text())["server_scan_results"]
    assert server["connectivity_status"] == "COMPLETED", server
    found: dict[str, Any] = server["scan_result"]
    return found
