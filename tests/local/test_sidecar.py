"""What a replica's two processes are told."""

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import yaml

from mesh.control.tokens import Role, proxy_token, read
from mesh.local import sidecar
from mesh.local.sidecar import Ports
from mesh.model.config import ControlLink, Protocol, ProxyIdentity
from mesh.model.documents import decode_resource, load_documents
from mesh.model.proxy_yaml import load_proxy_config
from mesh.model.resources import Workload

from .conftest import here_in

Make = Callable[..., Workload]
HERE = here_in(Path("/state"))
PORTS = Ports(admin=1, outbound=2, inbound=3, application=4)


def test_proxy_yaml_is_what_the_proxy_reads(workload: Make) -> None:
    """The proxy's own loader accepts it and finds listeners, the control plane and a short drain."""
    text = sidecar.proxy_yaml(workload(service="site", protocol=Protocol.HTTP2), PORTS, HERE)
    config = load_proxy_config(text.decode(), "proxy.yaml")
    assert config.admin == "127.0.0.1:1"
    assert [listener.listen for listener in config.outbound] == ["127.0.0.1:2"]
    [inbound] = config.inbound
    assert (inbound.listen, inbound.forward) == ("127.0.0.1:3", "127.0.0.1:4")
    assert (inbound.service, inbound.protocol) == ("site", Protocol.HTTP2)
    token = proxy_token("secret", "web", "demo", "web")
    assert config.control == ControlLink("https://127.0.0.1:1", token, "web", "demo", "/state/anchors.pem")
    assert config.identity == ProxyIdentity("web", "demo", "cluster.local")
    assert config.limits.drain_timeout == sidecar.DRAIN_SECONDS


def test_client_has_no_inbound(workload: Make) -> None:
    """A program that serves nothing has a way out and none in."""
    text = sidecar.proxy_yaml(workload(port=None), Ports(1, 2), HERE)
    assert load_proxy_config(text.decode(), "proxy.yaml").inbound == ()


def test_endpoint_yaml_is_a_resource(workload: Make) -> None:
    """The control plane's loader accepts it."""
    text = sidecar.endpoint_yaml(workload(version="v2"), "web-7", PORTS, HERE, 123)
    [document] = load_documents(text.decode(), "web-7.yaml")
    resource = decode_resource(document)
    assert (resource.kind, resource.metadata.name, resource.metadata.namespace) == ("Endpoint", "web-7", "demo")
    assert yaml.safe_load(text)["spec"] == {
        "service": "web",
        "workload": "web",
        "address": "127.0.0.1:3",
        "version": "v2",
        "identity": "web.demo.serviceaccount.identity.cluster.local",
        "pid": 123,
        "meshed": True,
    }


def test_zone_is_told_to_both(workload: Make) -> None:
    """The proxy learns where it is, and others where the replica is."""
    placed = workload(zone="b")
    proxy = sidecar.proxy_yaml(placed, PORTS, HERE)
    assert load_proxy_config(proxy.decode(), "proxy.yaml").zone == "b"
    assert yaml.safe_load(sidecar.endpoint_yaml(placed, "web-7", PORTS, HERE, 123))["spec"]["zone"] == "b"


def test_account_is_whom_its_identity_names(workload: Make) -> None:
    """In the sidecar, in its token and in the endpoint, in the mesh's own trust domain."""
    here = msgspec.structs.replace(HERE, trust_domain="example.org")
    booth = workload(account="booth")
    config = load_proxy_config(sidecar.proxy_yaml(booth, PORTS, here).decode(), "proxy.yaml")
    assert config.identity == ProxyIdentity("booth", "demo", "example.org")
    assert config.control is not None
    bearer = read("secret", config.control.token, 0.0)
    assert bearer is not None
    assert (bearer.role, bearer.workload, bearer.namespace, bearer.account) == (Role.PROXY, "web", "demo", "booth")
    spec = yaml.safe_load(sidecar.endpoint_yaml(booth, "web-7", PORTS, here, 123))["spec"]
    assert spec["identity"] == "booth.demo.serviceaccount.identity.example.org"


def test_command_words(workload: Make) -> None:
    """`python` is our interpreter, and the port goes wherever its word stands."""
    words = sidecar.command(workload("python", "-m", "site", "--bind=127.0.0.1:${PORT}", "$PORT"), PORTS)
    assert words == [sys.executable, "-m", "site", "--bind=127.0.0.1:4", "$PORT"]
    assert sidecar.command(workload("node", "python"), PORTS) == ["node", "python"]


def test_environment(workload: Make) -> None:
    """The way into the mesh is set, our secrets are not passed on, and the YAML has the last word."""
    inherited = {
        "PATH": "/bin",
        "HTTP_PROXY": "http://office",
        "CONDUIT_TOKEN": "t",
        "CONDUIT_CONTROL": "c",
        "CONDUIT_CA": "a",
    }
    told = sidecar.environment(workload(environment={"NO_PROXY": "x", "A": "1"}), PORTS, inherited)
    proxy = "http://127.0.0.1:2"
    assert told == {
        "PATH": "/bin",
        "http_proxy": proxy,
        "HTTP_PROXY": proxy,
        "grpc_proxy": proxy,
        "no_proxy": "localhost,127.0.0.1,::1",
        "NO_PROXY": "x",
        "CONDUIT_WORKLOAD": "web",
        "PYTHONUNBUFFERED": "1",
        "PORT": "4",
        "A": "1",
    }
    assert "PORT" not in sidecar.environment(workload(port=None), Ports(1, 2), {})


def test_conduit_starts_itself(processes: Callable, tmp_path: Path) -> None:
    """The command for our own processes works from any folder, also from one that holds a `mesh` of its own."""
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "__init__.py").write_text("raise SystemExit('the wrong mesh')")
    handle = processes([*sidecar.CONDUIT, "version"], cwd=tmp_path)
    assert handle.wait() == 0
    assert handle.output().startswith("conduit ")
