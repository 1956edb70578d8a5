"""The servers every proxy stands in front of: one nginx (HTTP/1.1 and h2c) and one source of raw bytes.

nginx is one process tree with two listeners per protocol, so all proxies meet the same server at the
same time. Its limits are lifted far enough that it never closes a connection during a run.
"""

import grp
import os
import pwd
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import stream
from bench.measure import process_tree
from bench.process import free_ports, running, wait_listening
from bench.scenarios import LARGE_BYTES, LARGE_PATH, SMALL_PATH, Protocol

SMALL_BODY = "conduit " * 13  # 104 bytes
ENDPOINTS = 2  # of each HTTP protocol, for scenarios with policies; the others have the first only

NGINX = """\
daemon off;
user {user} {group};
pid {folder}/nginx.pid;
error_log stderr crit;
worker_processes 1;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type text/plain;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    http2_max_concurrent_streams 1024;
    open_file_cache max=16 inactive=1h;
    sendfile on;
    tcp_nodelay on;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
{listens}
        location = {small_path} {{ return 200 "{small_body}"; }}
        location = {large_path} {{ alias {folder}/large; }}
    }}
}}
"""


def nginx_config(folder: Path, http1: Sequence[int], http2: Sequence[int]) -> str:
    """nginx.conf for these ports; everything it writes stays in `folder`, and the worker runs as who we are."""
    listens = [*(f"127.0.0.1:{port}" for port in http1), *(f"127.0.0.1:{port} http2" for port in http2)]
    return NGINX.format(
        folder=folder,
        listens="\n".join(f"        listen {address};" for address in listens),
        user=pwd.getpwuid(os.getuid()).pw_name,
        group=grp.getgrgid(os.getgid()).gr_name,
        small_path=SMALL_PATH,
        small_body=SMALL_BODY,
        large_path=LARGE_PATH,
    )


@dataclass(frozen=True, slots=True)
class Backends:
    """The running servers: the ports for each protocol, and all their processes."""

    ports: dict[Protocol, tuple[int, ...]]
    pids: list[int]


@contextmanager
def backends(folder: Path, core: int) -> Iterator[Backends]:
    """Both servers on `core` for the length of the block."""
    opaque, *ports = free_ports(1 + 2 * ENDPOINTS)
    http1, http2 = tuple(ports[:ENDPOINTS]), tuple(ports[ENDPOINTS:])
    (folder / "large").write_bytes(os.urandom(LARGE_BYTES))
    config = folder / "nginx.conf"
    config.write_text(nginx_config(folder, http1, http2))
    source = [sys.executable, stream.__file__, "source", str(opaque)]
    with ExitStack() as stack:
        nginx = stack.enter_context(
            running("nginx", ["nginx", "-p", str(folder), "-c", str(config)], core, folder / "nginx.log")
        )
        raw = stack.enter_context(running("raw source", source, core, folder / "source.log"))
        for port in ports:
            wait_listening(nginx, port)
        wait_listening(raw, opaque)
        pids = [*process_tree(nginx.pid), *process_tree(raw.pid)]
        yield Backends({"http1": http1, "http2": http2, "opaque": (opaque,)}, pids)
