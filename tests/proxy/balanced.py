"""Endpoints that are nothing but loads, and how often one of them is chosen."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random

from mesh.proxy.balance import UNKNOWN, Balancer, Load, Loaded


class One(Loaded):
    def __init__(self, name: str, weight: int = 1, ewma: float = UNKNOWN, pending: int = 0, zone: str = "") -> None:
        self.name = self.address = name
        self.zone = zone
        self.load = Load(weight, 0.0)
        self.load.ewma = ewma
        self.load.pending = pending

    def __repr__(self) -> str:
        return self.name


def ramp(kind: Callable[..., Balancer[One]], count: int, age: float, latency: float, requests: int = 6000) -> float:
    """What share of one old endpoint's requests a new one gets, which is `age` seconds into 100 s of slow start, while
    all answer in `latency` (0: at once). The load is 1,000 requests per second for each endpoint."""
    random = Random(f"{count} {age} {latency}")
    endpoints = [One(f"10.0.0.{index}:80") for index in range(count)]
    new, now = endpoints[-1], 200.0
    for endpoint in endpoints:
        endpoint.load = Load(1, now)
        endpoint.load.since = 0.0
        endpoint.load.ewma = latency or UNKNOWN
    new.load.since = now - age
    balancer = kind(endpoints, random.random, 100.0, now)
    chosen = dict.fromkeys(endpoints, 0)
    answers: list[tuple[float, int, One]] = []
    for number in range(requests * min(count, 5)):
        now += random.expovariate(count * 1000.0)
        while answers and answers[0][0] <= now:
            heapq.heappop(answers)[2].load.pending -= 1
        endpoint = balancer.choose((), 200.0)
        assert endpoint is not None
        chosen[endpoint] += 1
        if latency:
            endpoint.load.pending += 1
            heapq.heappush(answers, (now + latency, number, endpoint))
    return chosen[new] * (count - 1) / (sum(chosen.values()) - chosen[new])
