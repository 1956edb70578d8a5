"""conduit authz, against a real control plane without traffic."""

import json
from collections.abc import Callable

POLICY = """
apiVersion: conduit.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {name: only-web, namespace: demo}
spec:
  target: {kind: Service, name: words}
  from: [{namespaces: [web]}]
"""


def test_what_holds(conduit: Callable, control: str, tmp_path) -> None:
    """The default, until a policy that allows something takes its place."""
    done = conduit("authz")
    assert (done.code, done.err) == (0, "")
    title, row = done.out.splitlines()
    assert title.split() == [
        *("SERVICE", "WORKLOADS", "TLS", "POLICY", "ACTION", "ALLOWED", "DENIED", "AUDITED", "SUCCESS", "RPS")
    ]
    assert row.split() == [
        *("words", "words-v1", "permissive", "default:all-unauthenticated", "Default", "0", "0", "0", "-", "0.0rps")
    ]
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    assert conduit("apply", "-f", file).code == 0
    [row] = json.loads(conduit("authz", "words-v1", "-o", "json").out)
    assert (row["policy"], row["action"], row["workloads"]) == ("demo/only-web", "Allow", ["words-v1"])
    assert "all-unauthenticated" in conduit("authz", "words", "-o", "wide").out


def test_what_there_is_not(conduit: Callable, control: str) -> None:
    """A name that serves nothing is an error; a namespace without services is empty."""
    done = conduit("authz", "nobody")
    assert done.code == 1
    assert "there is no service or workload nobody" in done.err
    assert conduit("authz", "-n", "other") == (0, "", "nothing found\n")
    assert conduit("authz", "-n", "other", "-o", "json").out == "[]\n"
