"""A fleet under faults for minutes: `make soak`.

    python -m tests.faults.soak --jobs 200 --workers 3 --minutes 20 --seed 1

Small jobs, and now and then a long one that idle workers share, come in all the time while workers are killed,
stopped, told to go and cut off, and Redis is killed, at random but from a seed. A worker that ended is started again,
as any supervisor would, and so is Redis. Every job has to end once, as the clip that comes out where nothing happens.
Prints a table; ends with 1 where a job was lost, ended twice, or came out differently.
"""

import argparse
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from redis import Redis
from rich.console import Console
from rich.table import Table

from app import embedded_redis
from app.contract import TERMINAL, JobStatus
from app.embedded_redis import EmbeddedRedis
from app.keys import upload_key
from app.store import Store
from tests.faults.conftest import FRAMES, LONG_FRAMES, LONG_UPLOAD, UPLOAD, Fleet, clip, ending
from tests.faults.proxy import Proxy
from tests.worker.front_end import Service

EVERY_SECONDS = (2.0, 8.0)  # from one fault to the next
STOPPED_SECONDS = (1.0, 8.0)  # the lease is three
PATIENCE_SECONDS = 300  # for what is left once the time is over
WRITTEN_SECONDS = 2.5  # by when Redis has written down what it was told
LONG_EVERY = 10  # jobs, of which one is long
KINDS = ("kill worker", "kill horse", "SIGTERM", "stop horse", "stop worker", "cut", "slow", "kill Redis")
SETTINGS = {"VXL_MAX_ATTEMPTS": "50", "VXL_STALL_SECONDS": "10"}


@dataclass
class Hit:
    """A fault, and the job that its worker had, or helped with."""

    kind: str
    at: float
    job_id: str | None
    helped: bool


@dataclass
class Soak:
    """One run. fleets: one for each worker, with a relay of its own."""

    directory: Path
    server: EmbeddedRedis
    fleets: list[Fleet]
    service: Service
    random: random.Random
    jobs: list[str] = field(default_factory=list)
    long: set[str] = field(default_factory=set)
    hits: list[Hit] = field(default_factory=list)
    undo: list[tuple[float, str, int]] = field(default_factory=list)  # when, what, of which worker

    def keep_up(self) -> None:
        """Start workers that have ended, and end faults whose time is over."""
        for fleet in self.fleets:
            if not fleet.started or fleet.started[-1].poll() is not None:
                fleet.start(**SETTINGS)
        for due in [one for one in self.undo if one[0] <= time.monotonic()]:
            self.undo.remove(due)
            _, what, n = due
            fleet = self.fleets[n]
            match what:
                case "cut":
                    fleet.proxy.mend()
                case "slow":
                    fleet.proxy.delay = 0
                case "stop":
                    for pid in self.processes(n):
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGCONT)

    def processes(self, n: int) -> list[int]:
        """A worker's parent, and its horse where it has one."""
        worker = self.fleets[n].started[-1]
        found = [worker.pid] if worker.poll() is None else []
        with suppress(ValueError, OSError):
            found.append(self.fleets[n].horse_of(worker))
        return found

    def fault(self) -> None:
        """One of them, at a worker or at Redis."""
        n, kind = self.random.randrange(len(self.fleets)), self.random.choice(KINDS)
        fleet, until = self.fleets[n], time.monotonic() + self.random.uniform(*STOPPED_SECONDS)
        worker, processes = fleet.started[-1], self.processes(n)
        log = fleet.log_of(worker).decode(errors="replace").splitlines()
        name = next((line.split('"worker": "')[1].split('"')[0] for line in log if '"worker started"' in line), "")
        told = {info["name"]: info["job_id"] for info in self.service.records.workers()}
        helps = next((line for line in reversed(log) if '"helping"' in line or '"helped"' in line), "")
        job_id = told.get(name) if kind != "kill Redis" else None
        self.hits.append(Hit(kind, time.time(), job_id, '"helping"' in helps))
        with suppress(ProcessLookupError):
            match kind:
                case "kill worker":
                    worker.kill()
                case "SIGTERM":
                    worker.terminate()
                case "kill horse" if len(processes) == 2:
                    os.kill(processes[1], signal.SIGKILL)
                case "stop horse" if len(processes) == 2:
                    os.kill(processes[1], signal.SIGSTOP)
                    self.undo.append((until, "stop", n))
                case "stop worker":
                    for pid in processes:
                        os.kill(pid, signal.SIGSTOP)
                    self.undo.append((until, "stop", n))
                case "cut":
                    fleet.proxy.cut()
                    self.undo.append((until, "cut", n))
                case "slow":
                    fleet.proxy.delay = 0.2
                    self.undo.append((until, "slow", n))
                case "kill Redis":
                    time.sleep(WRITTEN_SECONDS)
                    self.kill_redis(until - time.monotonic())

    def kill_redis(self, seconds: float) -> None:
        """It is away for a while, and comes back with what it wrote down."""
        assert self.server.process is not None
        self.server.process.kill()
        self.server.process.wait()
        time.sleep(max(0.5, seconds))
        self.server = embedded_redis.start(self.directory)

    def run(self, jobs: int, seconds: float) -> None:
        began = next_fault = time.monotonic()
        while (elapsed := time.monotonic() - began) < seconds:
            self.keep_up()
            while len(self.jobs) < jobs * min(1, elapsed / seconds * 1.1):
                self.submit()
            if time.monotonic() >= next_fault:
                self.fault()
                next_fault = time.monotonic() + self.random.uniform(*EVERY_SECONDS)
            time.sleep(0.1)

    def submit(self) -> None:
        if len(self.jobs) % LONG_EVERY == LONG_EVERY - 1:
            job_id = self.service.submit(upload_id=LONG_UPLOAD, frames=LONG_FRAMES)
            self.long.add(job_id)
        else:
            job_id = self.service.submit(upload_id=UPLOAD, frames=FRAMES)
        self.jobs.append(job_id)

    def finish(self) -> None:
        """No more faults: wait for what is left."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and (self.undo or self.left()):
            self.keep_up()
            time.sleep(0.2)

    def left(self) -> list[str]:
        return [job_id for job_id in self.jobs if self.service.status(job_id) not in TERMINAL]

    def recoveries(self) -> list[float]:
        """Seconds from a fault until its job was started again, by whomever."""
        found = []
        for hit in self.hits:
            if hit.job_id is None:
                continue
            events = self.service.records.events(hit.job_id)
            starts = [int(e.id.split("-")[0]) / 1000 for e in events if '"starting"' in e.data]
            if later := [start - hit.at for start in starts if start > hit.at]:
                found.append(min(later))
        return found

    def log_of(self, job_id: str) -> list[str]:
        """What the workers wrote of a job, in order."""
        logs = [path for fleet in self.fleets if fleet.logs for path in fleet.logs.iterdir()]
        lines = [line for path in logs for line in path.read_text(errors="replace").splitlines() if job_id in line]
        return sorted(lines, key=lambda line: line.partition('"timestamp": ')[2])

    def helps(self) -> tuple[int, int]:
        """How often a worker helped another with its job, and finished what it had begun."""
        logs = b"".join(path.read_bytes() for fleet in self.fleets if fleet.logs for path in fleet.logs.iterdir())
        return logs.count(b'"event": "helping"'), sum(
            b'"event": "helped"' in line and b'"finished"' in line for line in logs.splitlines()
        )

    def report(self, console: Console, expected: dict[bool, str], seconds: float) -> bool:
        """Print what became of the jobs; whether all is well. expected: digests, of the long clip and of the small."""
        jobs = [self.service.records.get(job_id) for job_id in self.jobs]
        done = [job for job in jobs if job.status is JobStatus.succeeded]
        fleet = self.fleets[0]
        wrong = sum(fleet.output(job.id) != expected[job.id in self.long] for job in done)
        lost, twice = len(self.left()), sum(len(fleet.ends(job.id)) > 1 for job in jobs)
        failed = [job for job in jobs if job.terminal and job.status is not JobStatus.succeeded]
        recoveries, kinds = self.recoveries(), Counter(hit.kind for hit in self.hits)
        table = Table("", "", title=f"{seconds / 60:.0f} minutes, {len(self.fleets)} workers")
        rows = {
            "jobs in": f"{len(jobs)}, {len(self.long)} of them long",
            "jobs out": len(done),
            "failed": len(failed),
            "lost": lost,
            "ended twice": twice,
            "came out differently": wrong,
            "faults": f"{len(self.hits)}: " + ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())),
            "at a worker with a job": sum(hit.job_id is not None and not hit.helped for hit in self.hits),
            "at a worker that helped": sum(hit.job_id is not None and hit.helped for hit in self.hits),
            "runs of others taken, and finished": "{}, {}".format(*self.helps()),
            "attempts, at most": max(job.attempt for job in jobs),
            "attempts beyond the first": sum(job.attempt - 1 for job in jobs),
            "jobs started again": len(recoveries),
        }
        if recoveries:
            rows["recovery, median and longest"] = f"{statistics.median(recoveries):.1f} s, {max(recoveries):.1f} s"
        for name, value in rows.items():
            table.add_row(name, str(value))
        console.print(table)
        for job in failed:
            console.print(job.id, job.status, job.error, *self.log_of(job.id), sep="\n")
        return not (lost or twice or wrong or failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    console = Console(width=120)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="vxl-soak-")))
        for upload_id, frames in ((UPLOAD, FRAMES), (LONG_UPLOAD, LONG_FRAMES)):
            Store(str(directory / "files")).put_file(upload_key(upload_id), clip(directory, frames))
        server = embedded_redis.start(directory)
        service = Service(stack.enter_context(Redis.from_url(server.url)))
        fleets = []
        for n in range(chosen.workers):
            (logs := directory / f"logs{n}").mkdir()
            proxy = stack.enter_context(Proxy(server.url))
            fleets.append(stack.enter_context(ending(Fleet(service, proxy, directory, logs=logs))))
        soak = Soak(directory, server, fleets, service, random.Random(chosen.seed))
        stack.callback(lambda: soak.server.stop())
        soak.keep_up()
        expected: dict[bool, str] = {}
        for long, upload_id, frames in ((False, UPLOAD, FRAMES), (True, LONG_UPLOAD, LONG_FRAMES)):
            first = service.submit(upload_id=upload_id, frames=frames)
            if fleets[0].ended(first).status is not JobStatus.succeeded:
                console.print("the first jobs, undisturbed, did not succeed")
                return 1
            expected[long] = fleets[0].output(first)
        told = " and ".join(digest[:12] for digest in expected.values())
        console.print(f"undisturbed the clips come out as {told}; {chosen.jobs} jobs, seed {chosen.seed}")
        with suppress(KeyboardInterrupt):
            soak.run(chosen.jobs, chosen.minutes * 60)
        soak.finish()
        return 0 if soak.report(console, expected, chosen.minutes * 60) else 1


if __name__ == "__main__":
    sys.exit(main())
