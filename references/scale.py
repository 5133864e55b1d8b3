"""The numbers of scale.md:  python references/scale.py > the tables. A day of the service, second by second.

Clips arrive at random, twice as many at noon as on the mean; model servers work one clip at a time; KEDA's rules of
deployment/k8s/components/keda add and remove them; a Spot node may vanish with its clip, which is then done again.
The same seed gives the same day. What is assumed stands in `Assumptions`, each with where it comes from.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass

DAY_S = 86_400
POLL_S = 10
TARGET_AGE_S = 20  # deployment/k8s/components/keda
IDLE_TO_ZERO_S = 900
CALM_S = 600  # stabilizationWindowSeconds of scaleDown
CALM_UP_S = 240  # and of scaleUp: the age of a queue that waits for its first node does not tell how many it needs


@dataclass(frozen=True)
class Assumptions:
    """Change them for your own measurements and prices."""

    seconds_per_clip: float = (
        2.0  # a clip of 10 s on one L4: an assumption, no L4 was measured. CPU: about 10 on 2 cores
    )
    spread: float = 0.4  # of the logarithm of that time
    node_start_s: float = 180.0  # GKE adds a node, pulls 6 GB, loads the bundle: an assumption
    spot_life_h: float = 24.0  # mean life of a Spot node: an assumption, Google promises none
    gpu_hour_usd: float = 0.30  # g2-standard-4, Spot: look up today's price
    other_day_usd: float = 20.0  # two e2-standard-4, the small database, the load balancer: look up today's prices
    clip_megabytes: float = 5.0
    peak_over_mean: float = 2.0
    max_servers: int = 8  # maxReplicaCount


@dataclass(frozen=True)
class Day:
    clips: int
    waits_s: list[float]  # from arrival to the first second of work, sorted
    server_hours: float
    most_servers: int
    busy_share: float
    done_again: int

    def wait_s(self, share: float) -> float:
        return self.waits_s[min(len(self.waits_s) - 1, int(share * len(self.waits_s)))] if self.waits_s else 0.0


def simulate(clips_a_day: float, a: Assumptions, rng: random.Random) -> Day:
    """One day from midnight, starting with no server at all."""
    queue: deque[float] = deque()  # arrival times
    busy: list[tuple[float, float]] = []  # (end of work, arrival), a heap
    starting: list[float] = []  # when each new server is ready, a heap
    wanted: deque[tuple[float, int]] = deque()  # of the last CALM_S
    idle = most = clips = done_again = 0
    server_s = busy_s = 0.0
    waits: list[float] = []
    last_job_s = removed_s = up_since_s = -math.inf
    up_base = 0
    mu = math.log(a.seconds_per_clip) - a.spread**2 / 2
    for now in range(DAY_S):
        rate = clips_a_day / DAY_S * (1 - (a.peak_over_mean - 1) * math.cos(2 * math.pi * now / DAY_S))
        arrived = _poisson(rate, rng)
        clips += arrived
        queue.extend([float(now)] * arrived)
        while starting and starting[0] <= now:
            heapq.heappop(starting)
            idle += 1
        while busy and busy[0][0] <= now:
            heapq.heappop(busy)
            idle += 1
        running = idle + len(busy)
        if running and rng.random() < running / (a.spot_life_h * 3600):  # one of them is taken away
            if rng.random() < len(busy) / running:
                _, arrival = busy.pop(rng.randrange(len(busy)))
                heapq.heapify(busy)
                queue.appendleft(arrival)
                done_again += 1
            else:
                idle -= 1
            heapq.heappush(starting, now + a.node_start_s)
        # A server that ends a clip within this second takes the next one within it, too.
        free_at = [float(now)] * idle
        while queue and free_at:
            begin = heapq.heappop(free_at)
            if begin >= now + 1:
                break
            arrival = queue.popleft()
            waits.append(max(0.0, begin - arrival))
            took = rng.lognormvariate(mu, a.spread)
            busy_s += took
            idle -= 1
            heapq.heappush(busy, (begin + took, arrival))
            last_job_s = now
        server_s += idle + len(busy) + len(starting)
        most = max(most, idle + len(busy) + len(starting))
        if now % POLL_S == 0:
            servers = idle + len(busy) + len(starting)
            age = now - queue[0] if queue else 0.0
            desired = max(
                math.ceil(servers * age / TARGET_AGE_S),
                len(busy),
                1 if queue or now - last_job_s < IDLE_TO_ZERO_S else 0,
            )
            desired = min(a.max_servers, desired)
            wanted.append((now, desired))
            while wanted[0][0] < now - CALM_S:
                wanted.popleft()
            for when, want in wanted:  # up only to what was wanted all along, down only to what was never wanted
                if when >= now - CALM_UP_S:
                    desired = min(desired, want)
            if desired > servers or (servers == 0 and wanted[-1][1] > 0):
                desired = max(desired, 1)
                if now - up_since_s >= 60:  # at most double, or two more, in a minute
                    up_since_s, up_base = now, servers
                allowed = max(2 * up_base, up_base + 2)
                for _ in range(min(desired, allowed) - servers):
                    heapq.heappush(starting, now + a.node_start_s)
            elif idle and now - removed_s >= 120 and max(want for _, want in wanted) < servers:
                idle -= 1
                removed_s = now
    return Day(clips, sorted(waits), server_s / 3600, most, busy_s / max(server_s, 1.0), done_again)


def _poisson(mean: float, rng: random.Random) -> int:
    """Knuth's method; `mean` is a few dozens at most."""
    limit, count, product = math.exp(-mean), 0, rng.random()
    while product > limit:
        count += 1
        product *= rng.random()
    return count


def table_of_days(a: Assumptions) -> str:
    """What a day costs and how long people wait, from a hundred clips to a million."""
    lines = [
        "| clips a day | nodes, most | GPU hours | busy | wait s, median | 95 % | done again | USD a day | per 1,000 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for clips in (100, 1_000, 10_000, 100_000, 1_000_000):
        limit = max(a.max_servers, math.ceil(2.5 * clips * a.seconds_per_clip * a.peak_over_mean / DAY_S))
        day = simulate(clips, Assumptions(**{**a.__dict__, "max_servers": limit}), random.Random(1))
        usd = day.server_hours * a.gpu_hour_usd + a.other_day_usd
        lines.append(
            f"| {clips:,} | {day.most_servers} | {day.server_hours:,.0f} | {day.busy_share:.0%} "
            f"| {day.wait_s(0.5):.0f} | {day.wait_s(0.95):.0f} | {day.done_again} "
            f"| {usd:,.0f} | {usd / clips * 1000:,.2f} |"
        )
    return "\n".join(lines)


def table_of_bottlenecks(a: Assumptions, clips_a_day: int = 1_000_000) -> str:
    """What a million clips a day asks of each part at its busiest hour."""
    clips_a_s = clips_a_day / DAY_S * a.peak_over_mean
    running = clips_a_s * a.seconds_per_clip
    rows = {
        "GPU nodes at work": f"{running:.0f}",
        "uploads through the page's proxy and the gateway": f"{clips_a_s * a.clip_megabytes:.0f} MB/s",
        "moved inside: store, worker, server, and back": f"{6 * clips_a_s * a.clip_megabytes / 1000:.1f} GB/s",
        "progress written to the job table (5 a second and clip)": f"{5 * running:.0f} rows/s",
        "claims of jobs (a free lane asks twice a second)": f"{2 * running:.0f} queries/s",
        "blobs kept for a day (upload and result)": f"{2 * clips_a_day * a.clip_megabytes / 1e6:.0f} TB",
    }
    return "\n".join(
        ["| what | at the peak |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows.items())]
    )


def one_node(a: Assumptions) -> str:
    clips = DAY_S / a.seconds_per_clip
    return f"One GPU node at work all the time: {clips:,.0f} clips a day, USD {24 * a.gpu_hour_usd:.2f}."


def main() -> None:
    print("\n\n".join((one_node(Assumptions()), table_of_days(Assumptions()), table_of_bottlenecks(Assumptions()))))


if __name__ == "__main__":
    main()
