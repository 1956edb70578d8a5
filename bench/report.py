"""From samples to what people read: medians, conduit's ratio to Envoy, verdicts, Markdown and JSON.

Nothing here measures or rounds before it must: the JSON holds every sample, the tables the medians of
the rounds that nobody disturbed. A scenario in which a proxy failed once has no figure for that proxy,
and the failure is listed.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from bench.attacks import AT_MOST, AttackSample
from bench.run import Sample
from bench.scenarios import Scenario

OURS, THEIRS = "conduit", "envoy"
MEGABYTE = 1e6
NOISY_SHARE = 0.10  # of a core gone to others: above this a run is counted as disturbed

Read = Callable[[Sample], float | None]


@dataclass(frozen=True, slots=True)
class Figure:
    """One published number: what it is called, how it is read from a sample, and its decimals in a table.

    `shows_spread` adds the lowest and the highest round to its cells.
    """

    key: str
    label: str
    digits: int
    read: Read
    shows_spread: bool = False


def _scaled(field: str, scale: float = 1.0) -> Read:
    def read(sample: Sample) -> float | None:
        value = getattr(sample, field)
        return None if value is None else value / scale

    return read


def _percentile(field: str) -> Read:
    def read(sample: Sample) -> float | None:
        return None if sample.latency is None else float(getattr(sample.latency, field))

    return read


CPU = Figure("cpu_us_per_request", "", 1, _scaled("cpu_us_per_request"), shows_spread=True)
RATE = Figure("requests_per_second", "", 0, _scaled("per_second"))
LATENCIES = tuple(
    Figure(f"{field}_us", f"{name}, ", 0, _percentile(field))
    for field, name in (("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p999", "p99.9"))
)
RSS_IDLE = Figure("rss_idle_mb", "", 1, _scaled("rss_idle_bytes", MEGABYTE))
RSS_LOAD = Figure("rss_load_mb", "", 1, _scaled("rss_load_bytes", MEGABYTE))
THROUGHPUT = Figure("gigabytes_per_core_second", "", 2, _scaled("gigabytes_per_core_second"))

TABLES: tuple[tuple[str, tuple[Figure, ...]], ...] = (
    ("CPU of the proxy, µs per request: median (lowest-highest round)", (CPU,)),
    ("Requests per second", (RATE,)),
    ("Latency at 1,000 requests/s, µs", LATENCIES),
    ("Memory under load, peak RSS, MB", (RSS_LOAD,)),
    ("Memory idle, RSS, MB", (RSS_IDLE,)),
    ("Opaque TCP, GB per second of proxy CPU (more is better)", (THROUGHPUT,)),
)
FIGURES = tuple(figure for _, figures in TABLES for figure in figures)


@dataclass(frozen=True, slots=True)
class Limit:
    """A ratio of conduit to Envoy that must not be exceeded: in the worst of `scenarios`, or of all when empty."""

    name: str
    figure: Figure
    scenarios: tuple[str, ...]
    at_most: float


LIMITS = (
    Limit("CPU per request, HTTP/2 16x16", CPU, ("h2-16x16",), 0.8),
    Limit("CPU per request, HTTP/2 64x1", CPU, ("h2-64x1",), 0.8),
    Limit("CPU per request, HTTP/2 16x16, policies", CPU, ("h2-16x16-policies",), 0.85),
    Limit("CPU per request, HTTP/2, two hops, mTLS", CPU, ("h2-16x16-mtls",), 0.65),
    Limit("CPU per request, HTTP/1.1", CPU, ("h1-32",), 0.65),
    Limit("RSS under load, worst scenario", RSS_LOAD, (), 0.6),
    Limit("p99 at 1,000 requests/s, HTTP/1.1", LATENCIES[2], ("h1-1000rps",), 1.0),
    Limit("p99 at 1,000 requests/s, HTTP/2", LATENCIES[2], ("h2-1000rps",), 1.0),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a limit: `met`, `missed`, or `not measured` (not run, or a run of it failed).

    `doubtful` says that one of the two figures had no undisturbed round.
    """

    name: str
    at_most: float
    outcome: str
    ratio: float | None = None
    scenario: str = ""
    doubtful: bool = False


def is_disturbed(sample: Sample) -> bool:
    """Whether a run lost more than a tenth of either core to other programs (or the hypervisor)."""
    return max(sample.foreign_share or 0.0, sample.foreign_load_share or 0.0) > NOISY_SHARE


class Results:
    """The samples of one benchmark, with the medians and verdicts drawn from them."""

    def __init__(
        self,
        samples: Sequence[Sample],
        scenarios: Sequence[Scenario],
        peers: Sequence[str],
        attacks: Sequence[AttackSample] = (),
    ) -> None:
        self.samples = samples
        self.attacks = attacks
        self.scenarios = scenarios
        self.peers = peers

    def failures(self) -> list[Sample]:
        """The runs that failed, in the order in which they were made."""
        return [sample for sample in self.samples if sample.error]

    def failed(self, scenario: str, peer: str) -> bool:
        return any(sample.scenario == scenario and sample.peer == peer for sample in self.failures())

    def value(self, figure: Figure, scenario: str, peer: str) -> float | None:
        """The median over the rounds, or None when there is no such figure or one of the rounds failed."""
        rounds = self.rounds(figure, scenario, peer)
        return median(rounds) if rounds else None

    def rounds(self, figure: Figure, scenario: str, peer: str) -> list[float]:
        """The figure in each round that counts, lowest first; empty when there is none or one of the rounds failed.

        Disturbed rounds count only where every round was disturbed.
        """
        if self.failed(scenario, peer):
            return []
        counted = self.calm(scenario, peer) or self.taken(scenario, peer)
        return sorted(value for sample in counted if (value := figure.read(sample)) is not None)

    def taken(self, scenario: str, peer: str) -> list[Sample]:
        """All rounds of a proxy in a scenario."""
        return [sample for sample in self.samples if (sample.scenario, sample.peer) == (scenario, peer)]

    def calm(self, scenario: str, peer: str) -> list[Sample]:
        """Those rounds that nobody disturbed."""
        return [sample for sample in self.taken(scenario, peer) if not is_disturbed(sample)]

    def ratio(self, figure: Figure, scenario: str) -> float | None:
        """Our median divided by Envoy's, or None when one of them is missing."""
        ours, theirs = self.value(figure, scenario, OURS), self.value(figure, scenario, THEIRS)
        return ours / theirs if ours is not None and theirs else None

    def verdict(self, limit: Limit) -> Verdict:
        """Judge one limit; a failed or missing run of either proxy leaves it `not measured`."""
        names = limit.scenarios or tuple(scenario.name for scenario in self.scenarios)
        ratios = [(ratio, name) for name in names if (ratio := self.ratio(limit.figure, name)) is not None]
        if not ratios or len(ratios) < len(names):
            return Verdict(limit.name, limit.at_most, "not measured")
        worst, scenario = max(ratios)
        outcome = "met" if worst <= limit.at_most else "missed"
        doubtful = not (self.calm(scenario, OURS) and self.calm(scenario, THEIRS))
        return Verdict(limit.name, limit.at_most, outcome, worst, scenario, doubtful)

    def verdicts(self) -> list[Verdict]:
        return [self.verdict(limit) for limit in LIMITS]

    def disturbed(self) -> int:
        """How many runs were disturbed."""
        return sum(is_disturbed(sample) for sample in self.samples)


def markdown(results: Results, about: dict[str, str]) -> str:
    """The whole report as Markdown. `about` (date, command, machine, versions) is printed first, as a list."""
    lines = ["# Benchmark", "", *(f"- {key}: {value}" for key, value in about.items())]
    lines.append(
        f"- disturbed runs: {results.disturbed()} of {len(results.samples)} "
        f"(more than {NOISY_SHARE:.0%} of a core went to other programs; they count only where all rounds were)"
    )
    for heading, figures in TABLES:
        if rows := _rows(results, figures):
            lines += ["", f"## {heading}", "", *_table(["scenario", *results.peers, f"{OURS} / {THEIRS}"], rows)]
    if results.attacks:
        header = ["attack", "honest client", "p99 in quiet, µs", "p99 beside it, µs", "ratio", f"at most {AT_MOST:g}"]
        heading = "Honest client's p99 while conduit is attacked"
        lines += ["", f"## {heading}", "", *_table(header, [_attack(one) for one in results.attacks], left=(0, 1, 5))]
    judged = []
    for verdict in results.verdicts():
        outcome = verdict.outcome + (", but in disturbed rounds" if verdict.doubtful else "")
        ratio = "-" if verdict.ratio is None else f"{verdict.ratio:.2f}"
        judged.append([verdict.name, f"{verdict.at_most:.2f}", ratio, verdict.scenario, outcome])
    header = ["limit", "at most", f"{OURS} / {THEIRS}", "in", "verdict"]
    lines += ["", "## Verdicts", "", *_table(header, judged, left=(0, 3, 4))]
    if failures := results.failures():
        lines += ["", "## FAILED RUNS", ""]
        for one in failures:
            error = one.error.replace("\n", " | ")
            lines.append(f"- {one.scenario}, {one.peer}, {f'round {one.round}' if one.round else 'start'}: {error}")
    return "\n".join(lines) + "\n"


def _attack(one: AttackSample) -> list[str]:
    if one.p99 is None or one.ratio is None:
        return [one.attack, one.protocol, f"{one.quiet_p99:,.0f}", "FAILED", "-", one.error.replace("\n", " ")]
    outcome = "met" if one.ratio <= AT_MOST else "missed"
    return [one.attack, one.protocol, f"{one.quiet_p99:,.0f}", f"{one.p99:,.0f}", f"{one.ratio:.1f}", outcome]


def _rows(results: Results, figures: Sequence[Figure]) -> list[list[str]]:
    rows = []
    for scenario in results.scenarios:
        for figure in figures:
            if any(results.rounds(figure, scenario.name, peer) for peer in results.peers):
                cells = [_cell(results, figure, scenario.name, peer) for peer in results.peers]
                ratio = results.ratio(figure, scenario.name)
                rows.append([f"{figure.label}{scenario.title}", *cells, "-" if ratio is None else f"{ratio:.2f}"])
    return rows


def _cell(results: Results, figure: Figure, scenario: str, peer: str) -> str:
    """The median, with the lowest and the highest round where the figure shows its spread."""
    if not (rounds := results.rounds(figure, scenario, peer)):
        return "FAILED" if results.failed(scenario, peer) else "-"
    text = f"{median(rounds):,.{figure.digits}f}"
    if figure.shows_spread and len(rounds) > 1:
        text += f" ({rounds[0]:.{figure.digits}f}-{rounds[-1]:.{figure.digits}f})"
    return text


def _table(header: list[str], rows: list[list[str]], left: Sequence[int] = (0,)) -> list[str]:
    """The lines of a Markdown table that also lines up as plain text; the columns in `left` are left-aligned."""
    widths = [max(3, *(len(row[column]) for row in [header, *rows])) for column in range(len(header))]

    def line(cells: list[str]) -> str:
        padded = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = [":".ljust(width, "-") if column in left else ":".rjust(width, "-") for column, width in enumerate(widths)]
    return [line(header), line(rule), *(line(row) for row in rows)]


def as_json(results: Results, about: dict[str, str]) -> str:
    """Everything as JSON: `about`, `medians` by scenario and proxy, `ratios`, `verdicts`, every sample, `failures`."""
    medians: dict[str, dict[str, dict[str, float]]] = {}
    ratios: dict[str, dict[str, float]] = {}
    for scenario in results.scenarios:
        for figure in FIGURES:
            for peer in results.peers:
                if (value := results.value(figure, scenario.name, peer)) is not None:
                    medians.setdefault(scenario.name, {}).setdefault(peer, {})[figure.key] = value
            if (ratio := results.ratio(figure, scenario.name)) is not None:
                ratios.setdefault(scenario.name, {})[figure.key] = ratio
    document = {
        "about": about,
        "medians": medians,
        "ratios": ratios,
        "verdicts": [asdict(verdict) for verdict in results.verdicts()],
        "failures": [asdict(sample) for sample in results.failures()],
        "disturbed_runs": results.disturbed(),
        "attacks": [asdict(one) for one in results.attacks],
        "samples": [asdict(sample) for sample in results.samples],
    }
    return json.dumps(document, indent=2) + "\n"
