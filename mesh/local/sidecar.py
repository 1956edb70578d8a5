"""What a replica's sidecar and application are told at start: proxy.yaml, the environment, the endpoint.   (pure)"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import msgspec
import yaml

from mesh.control.tokens import proxy_token
from mesh.local.ports import LOOPBACK
from mesh.model.api import RuntimeFile
from mesh.model.config import ControlLink, InboundListener, OutboundListener, ProxyConfig, ProxyIdentity
from mesh.model.identity import Identity
from mesh.model.limits import Limits
from mesh.model.resources import API_VERSION, PORT_WORD, EndpointSpec, Workload

DRAIN_SECONDS = 5.0  # on one machine nobody waits for two minutes; what has not ended by then is cut off
DRAIN_GRACE_SECONDS = 0.1
NO_PROXY = "localhost,127.0.0.1,::1"
CONDUIT = (sys.executable, "-P", "-m", "mesh.cli")
"""How we start ourselves. -P: a folder called mesh where an application lives is not taken for ours."""
PRIVATE = ("CONDUIT_TOKEN", "CONDUIT_CONTROL", "CONDUIT_CA")


class Ports(msgspec.Struct, frozen=True):
    """Ports on loopback of one replica; `application` and `inbound` are 0 for a client, which serves nothing."""

    admin: int
    outbound: int
    inbound: int = 0
    application: int = 0


def service_of(workload: Workload) -> str:
    """The service that its replicas are endpoints of."""
    return workload.spec.service or workload.metadata.name


def identity_of(workload: Workload, trust_domain: str) -> Identity:
    """Who its replicas are."""
    return Identity(workload.spec.account or workload.metadata.name, workload.metadata.namespace, trust_domain)


def proxy_yaml(workload: Workload, ports: Ports, here: RuntimeFile) -> bytes:
    """The sidecar's configuration; holds a token that is good for this workload alone, so its file must be private."""
    name, namespace = workload.metadata.name, workload.metadata.namespace
    identity = identity_of(workload, here.trust_domain)
    token = proxy_token(here.token, name, namespace, identity.account)
    inbound: tuple[InboundListener, ...] = ()
    if ports.inbound:
        inbound = (
            InboundListener(
                listen=f"{LOOPBACK}:{ports.inbound}",
                forward=f"{LOOPBACK}:{ports.application}",
                protocol=workload.spec.protocol,
                service=service_of(workload),
            ),
        )
    config = ProxyConfig(
        admin=f"{LOOPBACK}:{ports.admin}",
        outbound=(OutboundListener(listen=f"{LOOPBACK}:{ports.outbound}"),),
        inbound=inbound,
        limits=Limits(drain_timeout=DRAIN_SECONDS, drain_grace=DRAIN_GRACE_SECONDS),
        control=ControlLink(here.control, token, workload=name, namespace=namespace, anchors=here.anchors),
        identity=ProxyIdentity(*identity),
        name=name,
        zone=workload.spec.zone,
    )
    told = unusual(config, ProxyConfig())
    told["limits"] = unusual(config.limits, Limits())
    return yaml.safe_dump(told, sort_keys=False).encode()


def unusual(value: msgspec.Struct, usual: msgspec.Struct) -> dict[str, object]:
    """The fields in which it differs from what is usual, as YAML writes them."""
    defaults: dict[str, object] = msgspec.to_builtins(usual)
    return {key: told for key, told in msgspec.to_builtins(value).items() if told != defaults[key]}


def command(workload: Workload, ports: Ports) -> list[str]:
    """argv of the application: `python` is the interpreter we run with, ${PORT} the port it must listen on."""
    words = [word.replace(PORT_WORD, str(ports.application)) for word in workload.spec.command]
    if words[0] in ("python", "python3"):
        words[0] = sys.executable
    return words


def environment(workload: Workload, ports: Ports, inherited: Mapping[str, str]) -> dict[str, str]:
    """The application's environment: ours without our secrets, the way into the mesh, and what its author wants."""
    proxy = f"http://{LOOPBACK}:{ports.outbound}"
    told = {key: value for key, value in inherited.items() if key not in PRIVATE}
    told |= {"http_proxy": proxy, "HTTP_PROXY": proxy, "grpc_proxy": proxy, "no_proxy": NO_PROXY, "NO_PROXY": NO_PROXY}
    told |= {"CONDUIT_WORKLOAD": workload.metadata.name}
    told.setdefault("PYTHONUNBUFFERED", "1")  # its lines should appear when they are printed
    if ports.application:
        told["PORT"] = str(ports.application)
    return told | workload.spec.environment


def endpoint_yaml(workload: Workload, replica: str, ports: Ports, here: RuntimeFile, pid: int) -> bytes:
    """The Endpoint that tells the control plane about a replica whose application answers."""
    spec = EndpointSpec(
        service=service_of(workload),
        workload=workload.metadata.name,
        address=f"{LOOPBACK}:{ports.inbound}",
        version=workload.spec.version,
        protocol=workload.spec.protocol,
        identity=str(identity_of(workload, here.trust_domain)),
        pid=pid,
        zone=workload.spec.zone,
        meshed=True,  # what listens there is the replica's sidecar
    )
    resource = {
        "apiVersion": API_VERSION,
        "kind": "Endpoint",
        "metadata": {"name": replica, "namespace": workload.metadata.namespace},
        "spec": msgspec.to_builtins(spec),
    }
    return yaml.safe_dump(resource, sort_keys=False).encode()
