"""What one proxy must know: a name, as the application wrote it, becomes a Service, as the proxy uses it. Pure.

Names resolve as in Kubernetes: `votes` is in the caller's namespace, `votes.demo` in `demo`, and `votes.demo.svc` and
`votes.demo.svc.cluster.local` are the same, spelt out. Case and one final dot do not matter (RFC 4343, RFC 1034 3.1).

What a service means may depend on who asks: a route in the caller's namespace holds for its callers alone.
"""

from __future__ import annotations

from mesh.control.cluster import Cluster, Members, ServiceKey
from mesh.model import compose
from mesh.model.config import Endpoint, Protocol, Service

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
        timeouts=compose.policy(*key, members.policies).timeouts,
        traffic=compose.traffic(
            *key,
            policies=members.policies,
            routes=members.routes,
            faults=members.faults,
            caller=namespace,
            exists=cluster.exists,
        ),
    )


def endpoints(members: Members) -> tuple[Endpoint, ...]:
    """One for each address, sorted by it: two files that give the same address are one endpoint, the first by name."""
    by_address: dict[str, Endpoint] = {}
    for resource in members.endpoints:
        spec = resource.spec
        by_address.setdefault(
            spec.address,
            Endpoint(
                address=spec.address,
                weight=spec.weight,
                identity=spec.identity,
                workload=spec.workload,
                version=spec.version,
                zone=spec.zone,
                meshed=spec.meshed,
            ),
        )
    return tuple(by_address[address] for address in sorted(by_address))


def protocol(members: Members) -> Protocol:
    """The policy's word, else that of the first workload or endpoint that does not leave it to detection."""
    said = compose.policy(*members.key, members.policies).protocol
    if said is not None:
        return said
    spoken = [w.spec.protocol for w in members.workloads] + [e.spec.protocol for e in members.endpoints]
    return next((protocol for protocol in spoken if protocol is not Protocol.DETECT), Protocol.DETECT)
