"""Requests, authorisers, policies and the clock in random orders: nobody gets past whom the policy has asked, and when
all has ended, nothing is left of any question."""

from __future__ import annotations

from envoy.service.auth.v3 import external_auth_pb2 as pb
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mesh.model.authorization import Authorization, Authorizer
from mesh.proxy.deadlines import TICK
from mesh.proxy.exchange import DONE, HELD, Exchange
from mesh.proxy.ext_authz import PATH, framed
from mesh.proxy.upstream import Upstream
from mesh.wire.codec import Data, GoAway, Reset, Response, Trailers
from mesh.wire.head import Head
from tests.proxy.playbook import OK, Stage

AUTHORIZERS = (Authorizer("demo/one", "one", timeout=0.3), Authorizer("demo/two", "two", timeout=0.1))
CALL = Head.response(200, [(b"content-type", b"application/grpc")])
GOOD, BAD = ((b"grpc-status", b"0"),), ((b"grpc-status", b"14"),)
ANSWERS = {"yes": pb.CheckResponse(), "no": pb.CheckResponse(status={"code": 7})}
orders = st.sampled_from([AUTHORIZERS, AUTHORIZERS[:1], AUTHORIZERS[1:], AUTHORIZERS[::-1]])


class EveryOrder(RuleBasedStateMachine):
    """See the module. Each request has a path of its own."""

    @initialize(policy=orders)
    def begin(self, policy) -> None:
        self.stage = Stage(outbound=False, others={"one": 1, "two": 1})
        self.everything: list[Exchange] = []
        self.allowed: dict[bytes, set[str]] = {}
        self.seen = 0
        self.follow(policy)

    def follow(self, policy) -> None:
        self.policy = policy
        self.stage.update(authorization=Authorization(authorizers=policy))

    def questions(self) -> list[tuple[Upstream, int, str, bytes]]:
        """What authorisers have been asked and may answer: connection, stream, name of the service, path in
        question."""
        found = []
        for upstream in self.stage.made:
            for stream, one in upstream.exchanges.items():
                if one.head.path == PATH:
                    found.append((upstream, stream, one.cluster.name, one.asking.exchange.head.path))
        return found

    @rule(end=st.booleans(), hasty=st.booleans())
    def request(self, end, hasty) -> None:
        path = b"/%d" % len(self.everything)
        field = [(b"conduit-timeout-ms", b"50")] if hasty else []
        self.everything.append(self.stage.ask(b"POST", path, end, field))

    @precondition(lambda self: self.stage.downstream.exchanges)
    @rule(data=st.data(), how=st.sampled_from(["reset", "data", "end"]))
    def client(self, data, how) -> None:
        stage = self.stage
        stream = data.draw(st.sampled_from(list(stage.downstream.exchanges)))
        if how == "reset":
            stage.codec.gone(stream)
            stage.downstream.handle([Reset(stream, 8, False, "")])
        elif stage.downstream.exchanges[stream].request_open:
            stage.downstream.handle([Data(stream, b"x" * 10, how == "end")])

    @precondition(lambda self: any(one.to_dial for each in self.stage.clusters() for one in each.endpoints))
    @rule(data=st.data(), well=st.sampled_from([True, True, False]))
    def connection(self, data, well) -> None:
        wanted = [one for each in self.stage.clusters() for one in each.endpoints if one.to_dial]
        endpoint = data.draw(st.sampled_from(wanted))
        if well:
            self.stage.connect(endpoint)
        else:
            self.stage.refuse(endpoint)

    @precondition(lambda self: self.questions())
    @rule(data=st.data(), what=st.sampled_from(["yes", "yes", "no", "garbage", "failed", "begun", "reset", "refused"]))
    def answer(self, data, what) -> None:
        stage = self.stage
        upstream, stream, service, path = data.draw(st.sampled_from(self.questions()))
        codec = upstream.leg.codec
        if what in ("reset", "refused"):
            codec.gone(stream)
            stage.hear(upstream, Reset(stream, 2, what == "refused", "reset"))
            return
        if upstream.exchanges[stream].answer_head is None:
            stage.hear(upstream, Response(stream, CALL, False))
        if what == "begun":
            return
        if what in ANSWERS:
            if what == "yes":
                self.allowed.setdefault(path, set()).add(service)
            stage.hear(upstream, Data(stream, framed(ANSWERS[what]), False))
        elif what == "garbage":
            stage.hear(upstream, Data(stream, b"garbage", False))
        stage.hear(upstream, Trailers(stream, BAD if what == "failed" else GOOD))

    @precondition(lambda self: self.questions())
    @rule(data=st.data(), how=st.sampled_from(["lost", "goaway"]))
    def connection_ends(self, data, how) -> None:
        upstream = data.draw(st.sampled_from(self.questions()))[0]
        if how == "lost":
            self.stage.lose(upstream)
        else:
            upstream.leg.codec.alive = False
            self.stage.hear(upstream, GoAway(1 << 30, 0))

    @precondition(lambda self: self.stage.up.exchanges)
    @rule(data=st.data())
    def application(self, data) -> None:
        self.stage.answer(Response(data.draw(st.sampled_from(list(self.stage.up.exchanges))), OK, True))

    @rule(policy=orders)
    def change(self, policy) -> None:
        self.follow(policy)

    @rule(seconds=st.sampled_from([0.03, 0.1, 0.3, 1.0, 12.0]))
    def time(self, seconds) -> None:
        self.stage.pass_time(seconds, TICK)

    @invariant()
    def nobody_gets_past_an_authoriser(self) -> None:
        if not hasattr(self, "stage"):
            return
        heads = list(self.stage.up.leg.codec.heads.values())
        for head in heads[self.seen :]:
            assert self.allowed.get(head.path, set()) >= {one.service for one in self.policy}
        self.seen = len(heads)

    @invariant()
    def who_waits_is_asked_about(self) -> None:
        if not hasattr(self, "stage"):
            return
        running = self.stage.downstream.exchanges.values()
        asked = [
            one.asking.exchange
            for upstream in self.stage.made
            for one in upstream.exchanges.values()
            if one.head.path == PATH
        ]
        for cluster in self.stage.clusters():
            waiting = [*cluster.waiting, *(one for endpoint in cluster.endpoints for one in endpoint.queue)]
            asked += [one.asking.exchange for one in waiting if one.head.path == PATH]
        held = [one for one in running if one.state is HELD]
        assert sorted(map(id, asked)) == sorted(map(id, held))
        for one in held:
            assert one in one.slot
            assert self.stage.now < min(one.care.held_until, one.deadline) + TICK + 1e-6

    def teardown(self) -> None:
        if not hasattr(self, "stage"):
            return
        stage = self.stage
        stage.codec.closed |= set(stage.downstream.exchanges)
        stage.downstream.lost("the end")
        stage.settled()
        assert len(stage.outcomes()) == len(self.everything)
        assert all(one is None or one.state is DONE for one in self.everything)


EveryOrder.TestCase.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


class TestEveryOrder(EveryOrder.TestCase):
    """Hypothesis plays events in random orders."""
