"""What one proxy must know: a name, as the application wrote it, becomes a Service, as the proxy uses it. Pure.

Names resolve as in Kubernetes: `votes` is in the caller's namespace, `votes.demo` in `demo`, and `votes.demo.svc` and
`votes.demo.svc.cluster.local` are the same, spelt out. Case and one final dot do not matter (RFC 4343, RFC 1034 3.1).
"""

from __future__ import annotations

from mesh.control.cluster import Cluster, Members, ServiceKey
from mesh.model.config import Endpoint, Protocol, Service, Timeouts

MAX_NAME = 253
"""Of a host name (RFC 1035 2.3.4); what is longer names nothing."""

CLUSTER_DOMAIN = ("cluster", "local")


def resolve(name: str, namespace: str) -> ServiceKey | None:
    """The key that a name means for an application in `namespace`; None where it can mean no service of a mesh."""
    if not name or len(name) > MAX_NAME:
        return None
    match tuple(name.lower().removesuffix(".").split(".")):
        case (service,):
            key = ServiceKey(namespace, service)
        case (service, home) | (service, home, "svc"):
            key = ServiceKey(home, service)
        case (service, home, "svc", *domain) if tuple(domain) == CLUSTER_DOMAIN:
            key = ServiceKey(home, service)
        case _:
            return None
    return key if all(key) else None


def plan(cluster: Cluster, name: str, namespace: str) -> Service | None:
    """The service as a proxy in `namespace` must know it, endpoints sorted by address; None where there is none."""
    key = resolve(name, namespace)
    members = cluster.members(key) if key else None
    if key is None or members is None:
        return None
    return Service(
        name=key.name,
        namespace=key.namespace,
        endpoints=endpoints(members),
        protocol=protocol(members),
        timeouts=members.policies[0].spec.timeouts if members.policies else Timeouts(),
    )


def endpoints(members: Members) -> tuple[Endpoint, ...]:
    """One for each address, sorted by it: two files that give the same address are one endpoint, the first by name."""
    by_address: dict[str, Endpoint] = {}
    for resource in members.endpoints:
        spec = resource.spec
        by_address.setdefault(
            spec.address,
            Endpoint(address=spec.address, identity=spec.identity, workload=spec.workload, version=spec.version),
        )
    return tuple(by_address[address] for address in sorted(by_address))


def protocol(members: Members) -> Protocol:
    """The policy's word, else that of the first workload or endpoint that does not leave it to detection."""
    for policy in members.policies:
        if policy.spec.protocol is not None:
            return policy.spec.protocol
    spoken = [w.spec.protocol for w in members.workloads] + [e.spec.protocol for e in members.endpoints]
    return next((protocol for protocol in spoken if protocol is not Protocol.DETECT), Protocol.DETECT)
