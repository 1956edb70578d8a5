"""An nginx with what the tests ask for: h2c and HTTP/1.1, one that closes connections often, one with TLS."""

import grp
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

SMALL = "conduit " * 13 + "\n"

CONFIG = """\
daemon off;
user {user} {group};
pid {folder}/nginx.pid;
error_log stderr crit;
worker_processes 1;
worker_rlimit_nofile 20000;
events {{ worker_connections 12000; }}
http {{
    access_log off;
    default_type text/plain;
    keepalive_timeout 1h;
    client_max_body_size 0;
    http2_max_concurrent_streams 256;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    root {folder}/files;
    ssl_certificate {folder}/server.pem;
    ssl_certificate_key {folder}/server.key;
    server {{
        listen 127.0.0.1:{http1};
        listen 127.0.0.1:{http2} http2;
        listen 127.0.0.1:{https} ssl http2;
        keepalive_requests 1000000000;
        include {folder}/locations.conf;
    }}
    server {{
        listen 127.0.0.1:{http1_short};
        listen 127.0.0.1:{http2_short} http2;
        keepalive_requests 100;
        include {folder}/locations.conf;
    }}
}}
"""

LOCATIONS = """\
location = /small {{ return 200 "{small}"; }}
location = /what {{ return 200 "$server_protocol $request_method $host $http_x_test\\n"; }}
location = /missing {{ return 404 "nothing here\\n"; }}
location = /broken {{ return 500 "broken\\n"; }}
location = /empty {{ return 204; }}
location /put/ {{ dav_methods PUT DELETE; create_full_put_path on; }}
location /trailers/ {{ alias {folder}/files/; add_trailer x-checksum cafe; }}
location / {{ }}
"""


@dataclass(frozen=True)
class Nginx:
    """Where it listens; `*_short` close each connection after 100 requests. `files` is its document root."""

    http1: int
    http2: int
    https: int
    http1_short: int
    http2_short: int
    files: Path


def write_config(folder: Path, nginx: Nginx) -> Path:
    """nginx.conf, all of whose files are in `folder`; its worker runs as who we are."""
    (folder / "locations.conf").write_text(LOCATIONS.format(folder=folder, small=SMALL.replace("\n", "\\n")))
    config = folder / "nginx.conf"
    config.write_text(
        CONFIG.format(
            folder=folder,
            user=pwd.getpwuid(os.getuid()).pw_name,
            group=grp.getgrgid(os.getgid()).gr_name,
            **{name: getattr(nginx, name) for name in ("http1", "http2", "https", "http1_short", "http2_short")},
        )
    )
    return config
