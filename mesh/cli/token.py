"""conduit token: tokens that are good for less than everything, for people and programs.

They are derived here, from the admin's token: the control plane keeps no list, and need not run.
"""

from __future__ import annotations

import re
import time

import click

from mesh.cli.client import Api, control_options
from mesh.cli.output import seconds
from mesh.control.tokens import Role, is_derived, role_token
from mesh.model.errors import ControlError

DAYS = re.compile(r"(\d{1,5})d", re.ASCII)
ROLES = [role.value for role in Role if role is not Role.PROXY]


class Age(click.ParamType[float]):
    """A duration, in days too: seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = DAYS.fullmatch(str(value).strip())
        length = int(found[1]) * 86_400.0 if found else seconds(str(value))
        if length <= 0:
            self.fail("must be longer than nothing.", param, ctx)
        return length


@click.group(name="token")
def command() -> None:
    """Make tokens that open less of the API than the admin's.

    \b
    Example:
      conduit token create --role view --name ci --expires 30d
    """  # noqa: D301 -- click reads the \b


@command.command(name="create")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What it opens; each one the ones before it too.")
@click.option("--name", required=True, help="Whose it is: the audit log calls them so.")
@click.option(
    "--expires", type=Age(), metavar="DURATION", help="How long it is good for (30d, 12h).  [default: always]"
)
@control_options
def create(role: str, name: str, expires: float | None, control: str | None, token: str | None) -> int:
    """Print a new token: view (all but taps), tap (view, and taps), admin (everything).

    It is good until it expires, or the admin's token is another: it cannot be taken back before.

    \b
    Examples:
      conduit token create --role view --name ci --expires 30d
      CONDUIT_TOKEN=$(conduit token create --role tap --name ann) conduit tap web
    """  # noqa: D301 -- click reads the \b
    secret = Api.find(control, token).token
    if is_derived(secret):
        raise ControlError("a derived token cannot make others: give the admin's with --token or CONDUIT_TOKEN")
    until = time.time() + expires if expires else 0.0
    try:
        made = role_token(secret, role, name, until)
    except ValueError as exc:
        raise click.BadParameter(f"{exc}.", param_hint="--name") from exc
    click.echo(made)
    return 0
