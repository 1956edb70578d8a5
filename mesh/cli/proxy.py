"""conduit proxy: one proxy. Imports as little as it can, because there is one such process beside every application."""

from __future__ import annotations

from pathlib import Path

import click

from mesh.model.errors import ConfigError


@click.command(name="proxy")
@click.option("--config", "path", required=True, type=click.Path(path_type=Path), help="The proxy.yaml to run.")
@click.option(
    "--http2-codec",
    type=click.Choice(["ngh2", "h2"]),
    help="The HTTP/2 codec: ngh2 (fast), or h2, pure Python, where ngh2 has no wheel.  [default: as the file says]",
)
def command(path: Path, http2_codec: str | None) -> int:
    """Run one proxy in the foreground.

    It runs from its file alone, or, where that has a `control:` block, as a sidecar of a mesh.
    SIGTERM drains it: it exits when its connections are done.

    \b
    Example:
      conduit proxy --config proxy.yaml
    """  # noqa: D301 -- click reads the \b
    import msgspec

    from mesh.cli import compiled

    compiled.use()  # before anything of the proxy is imported
    from mesh.model.proxy_yaml import load_proxy_config, resources_in
    from mesh.proxy import run

    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"cannot be read: {getattr(exc, 'strerror', None) or exc}", file=str(path)) from exc
    config = load_proxy_config(text, str(path))
    if http2_codec is not None:
        config = msgspec.structs.replace(config, http2_codec=http2_codec)
    return run.main(config, resources_in(config))
