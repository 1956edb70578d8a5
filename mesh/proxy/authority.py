"""An authority -> which service or address it names (pure). The proxy takes authorities apart and joins addresses here
alone."""

from __future__ import annotations


def split_address(address: str, default_port: int | None = None) -> tuple[str, int]:
    """`host:port` or `[v6]:port` -> host and port (0 to 65535). Raises ValueError that says what is wrong with it."""
    host, colon, port = address.rpartition(":")
    if not colon or (address.startswith("[") and address.endswith("]")) or (":" in host and not host.startswith("[")):
        if default_port is None:
            raise ValueError(f"{address!r} has no port")
        host, port = address, str(default_port)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host:
        raise ValueError(f"{address!r} has no host")
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"{port!r} is not a port")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """`host:port`, or `[v6]:port`: what `split_address` takes apart."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def service_name(authority: str) -> str:
    """The name that an application called a service by: an authority's host, in lower case, without port and final dot.

    Raises ValueError for what is no authority (RFC 3986 section 3.2; user information is refused).
    """
    if "@" in authority:
        raise ValueError("an authority with user information is refused")
    host, _ = split_address(authority, 80)
    name = host.lower().rstrip(".")
    if not name:
        raise ValueError(f"{authority!r} has no host")
    return name


def own_address(authority: str, default_port: int) -> str:
    """The address that an authority stands for outside the mesh: `host:port` with the port spelled out."""
    return join_address(*split_address(authority, default_port))
