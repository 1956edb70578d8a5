"""Workloads of one team may call each other.

Which team a workload is of stands in its label `team`. For each service with a team behind it this writes an
AuthorizationPolicy that allows the identities of that team's workloads, and for each namespace a DefaultPolicy that
allows nobody: who has no team, or calls another team's service, is denied.
"""


def policies(view, options):
    label = options.get("label", "team")
    teams = {}
    for workload in view.workloads:
        if label in workload.labels:
            teams.setdefault(workload.labels[label], []).append(workload)

    for service in view.services:
        at_home = [each for each in view.workloads if each.namespace == service.namespace]
        names = {each.labels[label] for each in at_home if each.name in service.workloads and label in each.labels}
        callers = sorted({each.identity for name in names for each in teams[name]})
        if callers:
            yield {
                "kind": "AuthorizationPolicy",
                "metadata": {"name": f"team-{service.name}", "namespace": service.namespace},
                "spec": {
                    "target": {"kind": "Service", "name": service.name},
                    "action": "Allow",
                    "from": [{"identities": callers}],
                },
            }

    for namespace in view.namespaces:
        yield {
            "kind": "DefaultPolicy",
            "metadata": {"name": "teams", "namespace": namespace},
            "spec": {"target": {"kind": "Namespace"}, "inbound": "deny"},
        }
