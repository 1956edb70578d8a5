"""The `conduit` command: finds the verb that was asked for, and turns every way it can end into an exit code.

A verb's module is imported only when it is used, and nothing heavy is imported here: a sidecar is `conduit proxy`, and
what this module imports every sidecar carries. Each verb module has a click command named `command`.

Exit codes: 0 good, 1 failed, 2 wrong usage, 130 interrupted. Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence

import click

from mesh.model.errors import ConduitError

VERBS = (
    *("apply", "authz", "check", "control", "delete", "demo", "edges", "explain", "fault", "get"),
    *("identity", "policy", "proxy", "run", "stat", "tap", "token", "up", "version"),
)
INTERRUPTED = 130


class Verbs(click.Group):
    """A click group whose commands are the modules beside this one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"mesh.cli.{cmd_name}").command
        return command


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def conduit() -> None:
    """A service mesh: sidecar proxies and a control plane, on this machine or on many.

    \b
    Try it:
      conduit demo                  a small site of four services, with traffic
      conduit stat                  what its services do (from a second terminal)
      conduit tap --to votes        its requests, live
    """  # noqa: D301 -- click reads the \b


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line (`sys.argv` by default) and returns its exit code; the error, if any, is on stderr."""
    try:
        result = conduit.main(args=None if argv is None else list(argv), prog_name="conduit", standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SystemExit:  # click exits by itself for a broken pipe alone, and we never do
        return reader_left()
    except ConduitError as exc:
        return failed([exc])
    except BaseExceptionGroup as group:
        causes = list(leaves(group))
        if any(isinstance(cause, KeyboardInterrupt) for cause in causes):
            return INTERRUPTED
        if all(isinstance(cause, BrokenPipeError) for cause in causes):
            return reader_left()
        expected = [cause for cause in causes if isinstance(cause, ConduitError)]
        if len(expected) < len(causes):
            raise  # a bug of ours: its traceback is what helps
        return failed(expected)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return reader_left()
    return result if isinstance(result, int) else 0


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """Every exception in the group that is not itself a group, in order."""
    for inner in group.exceptions:
        if isinstance(inner, BaseExceptionGroup):
            yield from leaves(inner)
        else:
            yield inner


def failed(errors: Sequence[ConduitError]) -> int:
    """Tells people what went wrong, one line each and no line twice."""
    for line in dict.fromkeys(str(error) for error in errors):
        click.echo(f"conduit: {line}", err=True)
    return 1


def reader_left() -> int:
    """Whoever read our stdout (`| head`) has seen enough: a good end. Nothing more is written at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
