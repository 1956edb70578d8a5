"""nginx on several ports, each of which writes a line for each request into one log: who answered how many."""

import grp
import os
import pwd
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Handle

CONFIG = """\
daemon off;
user {user} {group};
pid {folder}/nginx.pid;
error_log stderr crit;
worker_processes 1;
events {{ worker_connections 4000; }}
http {{
    log_format port "$server_port $status";
    access_log {folder}/asked.log port;
    keepalive_timeout 1h;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        {listens}
        keepalive_requests 1000000000;
        location / {{ return 200 "ok"; }}
    }}
}}
"""


class CountingNginx:
    """Runs from the start; speaks h2c with prior knowledge on each of its ports."""

    def __init__(self, run: Callable[..., Handle], folder: Path, ports: list[int]) -> None:
        self.ports = ports
        self._log = folder / "asked.log"
        self._before: Counter[int] = Counter()
        executable = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        assert executable, "nginx is not installed"
        config = folder / "nginx.conf"
        config.write_text(
            CONFIG.format(
                folder=folder,
                user=pwd.getpwuid(os.getuid()).pw_name,
                group=grp.getgrgid(os.getgid()).gr_name,
                listens=" ".join(f"listen 127.0.0.1:{port} http2;" for port in ports),
            )
        )
        run([executable, "-p", folder, "-c", config], ready_port=ports[-1])

    def _counts(self) -> Counter[int]:
        return Counter(int(line.split()[0]) for line in self._log.read_text().splitlines())

    def forget(self) -> None:
        """Begin to count from here."""
        self._before = self._counts()

    def asked(self) -> list[int]:
        """Requests since then, by port."""
        now = self._counts()
        return [now[port] - self._before[port] for port in self.ports]
