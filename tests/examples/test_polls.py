"""The programs of examples/polls work as ordinary programs, and have the flaws that the demo relies on.

They run on loopback with no mesh between them: they are given addresses in place of names, and the proxy variables
are taken out of their environment.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import msgspec
import pytest
import yaml

from mesh.model.resources import WorkloadSpec

POLLS = Path(__file__).parents[2] / "examples" / "polls"
START_SECONDS = 30.0  # each starts in well under one; the machine may be busy
STOP_SECONDS = 30.0
PROXY_VARIABLES = {"http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "no_proxy", "no_grpc_proxy"}


def free_ports(count: int) -> list[str]:
    """`count` different loopback ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [str(one.getsockname()[1]) for one in sockets]


def await_port(process: subprocess.Popen[bytes], port: int) -> None:
    """Returns once `process` accepts connections on `port`; raises AssertionError if it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            pass
        try:
            raise AssertionError(f"{process.args} ended with {process.wait(timeout=0.02)}")
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError(f"{process.args} does not listen on {port} after {START_SECONDS} s")


@contextmanager
def program(*command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """One program of the site, killed at the end if it still runs; with PORT given, entered once it listens."""
    inherited = {name: value for name, value in os.environ.items() if name.lower() not in PROXY_VARIABLES}
    process = subprocess.Popen(
        [sys.executable, *command], cwd=POLLS, env=inherited | environment, stdout=subprocess.PIPE
    )
    try:
        if "PORT" in environment:
            await_port(process, int(environment["PORT"]))
        yield process
    finally:
        process.kill()
        process.communicate()


def stop(process: subprocess.Popen[bytes], signum: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
    """The exit status after `signum` and what it printed; raises TimeoutExpired if it takes over STOP_SECONDS."""
    process.send_signal(signum)
    output, _ = process.communicate(timeout=STOP_SECONDS)
    return process.returncode, output.decode()


@dataclass(frozen=True)
class Site:
    """The addresses of a whole running site; `words` by version."""

    web: str
    catalog: str
    votes: str
    words: dict[str, str]


@contextmanager
def site() -> Iterator[Site]:
    """The whole site, its words in version v1; v2 runs beside it."""
    web, catalog, votes, v1, v2 = free_ports(5)
    at = "http://127.0.0.1:"
    peers = {"CATALOG_URL": at + catalog, "WORDS_URL": at + v1, "VOTES_ADDRESS": f"127.0.0.1:{votes}"}
    with (
        program("catalog.py", PORT=catalog),
        program("votes.py", PORT=votes),
        program("words.py", "--version", "v1", PORT=v1),
        program("words.py", "--version", "v2", PORT=v2),
        program("web.py", PORT=web, **peers),
    ):
        yield Site(at + web, at + catalog, f"127.0.0.1:{votes}", {"v1": at + v1, "v2": at + v2})


@pytest.fixture(scope="module")
def polls() -> Iterator[Site]:
    with site() as running:
        yield running


@pytest.fixture
def visitor(polls: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=polls.web, trust_env=False) as client:
        yield client


def receipts(words: str) -> list[int]:
    """The status codes of forty receipts asked for one after the other."""
    with httpx.Client(base_url=words, trust_env=False) as client:
        return [client.get("/receipt/b000001").status_code for _ in range(40)]


def test_front_page_is_put_together_from_every_service(visitor: httpx.Client) -> None:
    """The page has the polls of catalog, the tone of words and the turnout of votes."""
    page = visitor.get("/")
    assert page.status_code == 200
    assert "What makes a good breakfast?" in page.text
    assert "worded by words v1" in page.text
    assert re.search(r"\d+ votes in all", page.text)


def test_vote_is_counted(visitor: httpx.Client) -> None:
    """A vote raises the count of its choice by one and leads to a page that offers its receipt."""

    def count() -> int:
        [shown] = re.findall(r'value="cactus"> cactus</label>: (\d+)', visitor.get("/polls/office-plant").text)
        return int(shown)

    before = count()
    answer = visitor.post("/polls/office-plant/votes", data={"choice": "cactus"})
    assert answer.status_code == 303
    assert count() == before + 1
    ballot = answer.headers["location"].partition("?ballot=")[2]
    assert f"/receipts/{ballot}" in visitor.get(answer.headers["location"]).text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/polls/lost-and-found", 404),
        ("POST", "/polls/office-plant/votes", 422),
        ("GET", "/polls/office-plant/live?updates=none", 400),
    ],
)
def test_mistakes_of_visitors_are_theirs(visitor: httpx.Client, method: str, path: str, status: int) -> None:
    """A request that makes no sense is answered with a 4xx, so that it is not taken for a failure of the site."""
    assert visitor.request(method, path).status_code == status


def test_live_count_is_streamed(visitor: httpx.Client) -> None:
    """The live page sends as many counts as were asked for, and ends."""
    page = visitor.get("/polls/team-name/live", params={"updates": 3})
    assert page.headers["content-type"].startswith("text/event-stream")
    assert re.fullmatch(r"(data: \d+\n\n){3}", page.text)


def test_archive_is_slow(visitor: httpx.Client) -> None:
    """The archive answers, but not before the tenth of a second it takes at least."""
    began = time.monotonic()
    assert "Best moment of 2015?" in visitor.get("/archive").text
    assert time.monotonic() - began >= 0.1


def test_catalog_speaks_http2_in_plain_text(polls: Site) -> None:
    """A client with prior knowledge of HTTP/2 gets the list of polls over it."""
    with httpx.Client(base_url=polls.catalog, http1=False, http2=True, trust_env=False) as client:
        answer = client.get("/polls")
    assert answer.http_version == "HTTP/2"
    assert "team-name" in [poll["slug"] for poll in answer.json()]


def test_votes_speaks_grpc(polls: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unary calls, the server stream and a refused argument work for a client made from the .proto file."""
    monkeypatch.syspath_prepend(str(POLLS))
    messages, services = grpc.protos_and_services("votes.proto")
    with grpc.insecure_channel(polls.votes, options=[("grpc.enable_http_proxy", 0)]) as channel:
        votes = services.VotesStub(channel)
        totals = [votes.Cast(messages.Ballot(poll="tea", choice=choice)).total for choice in ("milk", "milk", "lemon")]
        assert totals == [1, 2, 3]
        assert dict(votes.Tally(messages.TallyRequest(poll="tea")).ballots) == {"milk": 2, "lemon": 1}
        assert votes.Turnout(messages.TurnoutRequest()).ballots["tea"] == 3
        watched = votes.Watch(messages.WatchRequest(poll="tea", updates=2, interval_ms=20))
        assert [update.total for update in watched] == [3, 3]
        with pytest.raises(grpc.RpcError, match="needs a poll and a choice"):
            votes.Cast(messages.Ballot(poll="tea"))


def test_versions_of_words_differ(polls: Site) -> None:
    """Each version says which it is, and they share no headline."""
    headlines = {}
    for version, words in polls.words.items():
        answers = [httpx.get(f"{words}/headline", trust_env=False).json() for _ in range(3)]
        assert {answer["version"] for answer in answers} == {version}
        headlines[version] = {answer["text"] for answer in answers}
    assert headlines["v1"].isdisjoint(headlines["v2"])


def test_receipts_fail_now_and_then_and_repeatably() -> None:
    """With the default rate some receipts fail and most do not, in the same order for the same seed."""
    one, two = free_ports(2)
    with program("words.py", PORT=one, SEED="3"), program("words.py", PORT=two, SEED="3"):
        statuses = receipts(f"http://127.0.0.1:{one}")
        assert set(statuses) == {200, 500}
        assert 2 <= statuses.count(500) <= 20
        assert receipts(f"http://127.0.0.1:{two}") == statuses


def test_failed_receipt_fails_the_page() -> None:
    """The site passes the failure on as its own 500 and says whose it was; its other pages are not affected."""
    web, words = free_ports(2)
    with (
        program("words.py", PORT=words, FAILURE_RATE="1"),
        program("web.py", PORT=web, WORDS_URL=f"http://127.0.0.1:{words}"),
    ):
        page = httpx.get(f"http://127.0.0.1:{web}/receipts/b000001", trust_env=False)
    assert page.status_code == 500
    assert "words answered 500" in page.text
    assert "printer is jammed" in page.text


def test_site_waits_for_its_services() -> None:
    """Started before anything else, the site answers 503 and names what is missing, then works once that is there."""
    web, catalog, words, votes = free_ports(4)
    at = "http://127.0.0.1:"
    peers = {"CATALOG_URL": at + catalog, "WORDS_URL": at + words, "VOTES_ADDRESS": f"127.0.0.1:{votes}"}
    with program("web.py", PORT=web, **peers), httpx.Client(base_url=at + web, trust_env=False) as client:
        missing = client.get("/ready")
        assert missing.status_code == 503
        assert re.search("(catalog|words) cannot be reached|votes answered UNAVAILABLE", missing.text)
        with program("catalog.py", PORT=catalog), program("words.py", PORT=words):
            missing = client.get("/ready")
            assert missing.status_code == 503
            assert "votes answered UNAVAILABLE" in missing.text
            with program("votes.py", PORT=votes):
                deadline = time.monotonic() + START_SECONDS
                while client.get("/ready").status_code != 200:  # the gRPC channel reconnects when it sees fit
                    assert time.monotonic() < deadline


def test_load_visits_every_kind_of_page(polls: Site) -> None:
    """Visitors wait for the site, then get pages, redirects after votes, a few 404s and a few failed receipts."""
    with program("load.py", WEB_URL=polls.web, RPS="200", VISITS="200") as load:
        output, _ = load.communicate(timeout=50)
    assert load.returncode == 0
    assert "load begins: 200 visits a second" in output.decode()
    answers = {name: int(n) for name, n in re.findall(r"(\wxx|none)=(\d+)", output.decode())}
    assert sum(answers.values()) == 200
    assert set(answers) == {"2xx", "3xx", "4xx", "5xx"}
    assert answers["5xx"] < 20


@pytest.mark.parametrize("name", ["web", "catalog", "votes", "words"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_services_end_promptly(name: str, signum: signal.Signals) -> None:
    """Each service exits with 0 when it is told to, having said where it listened."""
    [port] = free_ports(1)
    with program(f"{name}.py", PORT=port) as service:
        status, output = stop(service, signum)
    assert status == 0
    assert f"listens on 127.0.0.1:{port}" in output


def test_load_ends_promptly_and_sums_up() -> None:
    """Visitors who wait for a site that is not there go away when they are told to."""
    [port] = free_ports(1)
    with program("load.py", WEB_URL=f"http://127.0.0.1:{port}") as load:
        assert load.stdout is not None
        assert b"load waits for the site" in load.stdout.readline()
        status, output = stop(load)
    assert status == 0
    assert "load ends: 0 visits" in output


def test_mesh_file_names_programs_that_exist() -> None:
    """Every workload is valid and its program exists; words has two versions of two replicas, load serves nothing."""
    workloads = {
        document["metadata"]["name"]: msgspec.convert(document["spec"], WorkloadSpec)
        for document in yaml.safe_load_all((POLLS / "mesh.yaml").read_text())
    }
    assert set(workloads) == {"web", "catalog", "votes", "words-v1", "words-v2", "load"}
    for spec in workloads.values():
        interpreter, script, *_ = spec.command
        assert interpreter == "python"
        assert (POLLS / script).is_file()
    words = [spec for spec in workloads.values() if spec.service == "words"]
    assert [(spec.version, spec.replicas) for spec in words] == [("v1", 2), ("v2", 2)]
    assert [name for name, spec in workloads.items() if spec.port is None] == ["load"]


def test_programs_know_nothing_of_the_mesh() -> None:
    """No program imports the mesh or speaks of proxies: what works here works for anybody's program."""
    for source in POLLS.glob("*.py"):
        assert not re.search(r"\b(mesh|conduit|proxy|proxies)\b", source.read_text(), re.IGNORECASE), source.name
