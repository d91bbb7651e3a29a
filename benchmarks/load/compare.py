"""One request against both servers in turns, and the ratios of the rounds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import median

from benchmarks.load.client import Answers, Load, run
from benchmarks.load.servers import Served


@dataclass(frozen=True)
class Case:
    """A request of the comparison. `least_rate` is the least share of the bare app's requests a second, `most_p99` the
    largest multiple of its p99; None where it is not bound."""

    name: str
    method: str
    path: str
    connections: int
    least_rate: float
    most_p99: float | None = None
    bodies: tuple[bytes, ...] = ()
    token: str = ""


@dataclass(frozen=True)
class Round:
    bare: Answers
    service: Answers
    bare_cpu_us: float
    service_cpu_us: float


@dataclass(frozen=True)
class Comparison:
    """All rounds of a case. The ratios are those of the medians over the rounds."""

    case: Case
    rounds: tuple[Round, ...]

    @property
    def rate_ratio(self) -> float:
        return self._median("service", "rate") / max(self._median("bare", "rate"), 1e-9)

    @property
    def p99_ratio(self) -> float:
        return self._median("service", "p99") / max(self._median("bare", "p99"), 1e-9)

    @property
    def cpu_ratio(self) -> float:
        """How many times the bare app's processor time a request costs."""
        ours = median(round.service_cpu_us for round in self.rounds)
        return ours / max(median(round.bare_cpu_us for round in self.rounds), 1e-9)

    @property
    def failed(self) -> dict[int, int]:
        """How many answers of the service were no success, by status."""
        counted: Counter[int] = Counter()
        for one in self.rounds:
            counted.update({status: count for status, count in one.service.statuses.items() if status >= 300})
        return dict(counted)

    @property
    def met(self) -> bool:
        case = self.case
        return self.rate_ratio >= case.least_rate and (case.most_p99 is None or self.p99_ratio <= case.most_p99)

    def _median(self, who: str, what: str) -> float:
        answers: list[Answers] = [getattr(round, who) for round in self.rounds]
        return median(one.per_second if what == "rate" else one.percentile_ms(0.99) for one in answers)

    def lines(self) -> list[str]:
        lines = []
        for who in ("bare", "service"):
            answers: list[Answers] = [getattr(round, who) for round in self.rounds]
            cpu_us = median(getattr(round, f"{who}_cpu_us") for round in self.rounds)
            figures = f"{self._median(who, 'rate'):8.0f}/s  p50 {median(a.percentile_ms(0.5) for a in answers):7.1f} ms"
            figures += (
                f"  p99 {self._median(who, 'p99'):7.1f} ms  {cpu_us:6.0f} us of CPU  {answers[0].bytes_each:6d} B"
            )
            lines.append(f"{self.case.name:24} {who:8}{figures}")
        bound = f"at least {self.case.least_rate:.0%}"
        bound += f", p99 at most {self.case.most_p99:g} x" if self.case.most_p99 else ""
        met = "met" if self.met else "MISSED"
        lines.append(
            f"{self.case.name:24} {'ratio':8}{self.rate_ratio:8.0%} of the requests, p99 x {self.p99_ratio:.2f}, "
            f"CPU x {self.cpu_ratio:.2f} ({bound}: {met}; refused {self.failed or 0})"
        )
        return lines


def compare(case: Case, bare: Served, service: Served, rounds: int, seconds: float) -> Comparison:
    """Rounds of the bare app and the service in turns."""
    made = []
    for _ in range(rounds):
        bare_answers, bare_cpu_us = _sent(case, bare, seconds)
        answers, cpu_us = _sent(case, service, seconds)
        made.append(Round(bare_answers, answers, bare_cpu_us, cpu_us))
    return Comparison(case, tuple(made))


def _sent(case: Case, served: Served, seconds: float) -> tuple[Answers, float]:
    before = served.usage().cpu_seconds
    answers = run(Load(served.port, case.method, case.path, case.token, case.connections, seconds, case.bodies))
    cpu_seconds = served.usage().cpu_seconds - before
    return answers, cpu_seconds / max(len(answers.latencies_s), 1) * 1e6
