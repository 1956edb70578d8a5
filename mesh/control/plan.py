"""What one proxy must know: a name, as the application wrote it, becomes a Service, as the proxy uses it. Pure.

Names resolve as in Kubernetes: `votes` is in the caller's namespace, `votes.demo` in `demo`, and `votes.demo.svc` and
`votes.demo.svc.cluster.local` are the same, spelt out. Case and one final dot do not matter (RFC 4343, RFC 1034 3.1).

What a service means may depend on who asks: a route in the caller's namespace holds for its callers alone, and who may
call it is told to the proxies beside it alone.
"""

from __future__ import annotations

from mesh.control.cluster import Cluster, Members, ServiceKey
from mesh.model import compose, compose_access
from mesh.model.authorization import Authorization, Egress
from mesh.model.config import Endpoint, Protocol, Service
from mesh.model.identity import TRUST_DOMAIN
from mesh.model.resources import AuthorizationPolicy, DefaultPolicy, EgressPolicy

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


def plan(
    cluster: Cluster, name: str, namespace: str, workload: str = "", *, trust_domain: str = TRUST_DOMAIN
) -> Service | None:
    """The service as a proxy in `namespace` must know it, endpoints sorted by address; None where there is none.

    A proxy of a `workload` that is behind the service is told its `authorization` as well."""
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
        authorization=authorization(cluster, members, workload, trust_domain)
        if workload and cluster.serves(key, namespace, workload)
        else None,
    )


def authorization(cluster: Cluster, members: Members, workload: str, trust_domain: str) -> Authorization:
    """Who may call a service, at the proxies of a workload that is behind it."""
    namespace, service = members.key
    return compose_access.authorization(
        namespace,
        service,
        workload,
        policies=cluster.policies_for(namespace, AuthorizationPolicy),
        defaults=cluster.policies_for(namespace, DefaultPolicy),
        plugins=cluster.authorizers(),
        health=compose.policy(*members.key, members.policies).health,
        trust_domain=trust_domain,
    )


def egress(cluster: Cluster, workload: ServiceKey) -> Egress:
    """What a workload may call outside of the mesh."""
    namespace, name = workload
    return compose_access.egress(
        namespace,
        name,
        cluster.services_with(namespace, name),
        policies=cluster.policies_for(namespace, EgressPolicy),
        defaults=cluster.policies_for(namespace, DefaultPolicy),
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
