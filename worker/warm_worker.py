"""The worker: a parent that speaks with Redis and heeds signals, and a warm horse that holds the model.

RQ's own workers start a process for every job, which would load the model every time, or run jobs in the worker itself,
where a segfault or a hung GPU takes the worker with it. Here the parent never imports torch. It takes a job, renews its
lease while the horse runs it, passes on the wish to cancel or to make way, kills a horse that does not follow or hangs,
and starts another in its place. The task in the horse leads the record to `succeeded`; however else a job ends, or goes
on, the parent writes (worker/ledger.py).
"""

import json
import math
import os
import signal
import socket
import time
from types import FrameType
from typing import Any

import structlog
from redis import Redis
from redis.exceptions import RedisError
from rq import worker_registration
from rq.job import Job as QueuedJob
from rq.utils import now as rq_now
from rq.worker import Worker

from app.contract import TASK, Job
from app.records import now
from app.settings import QUEUES, Settings
from worker import board
from worker.attempt import Attempt, Help
from worker.horse import Ended
from worker.housekeeper import Housekeeper
from worker.lease import Lease
from worker.leaving import Leaving
from worker.ledger import Ledger
from worker.metrics import Metrics
from worker.patience import COMMAND_SECONDS
from worker.stable import KILL_SECONDS, Horse, HorseGone, Stable
from worker.ticket import LeaseLost

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.25
OUTAGE_SECONDS_MAX = 5.0


class WarmWorker(Worker):
    """One GPU's worker. `run` is its life; RQ's `work`, which forks for every job, is not used.

    loader: "module:function" that the horse loads the task with (worker/control.py)
    allowed: names of the functions that may be queued; the horse runs its task for each of them
    """

    def __init__(
        self,
        settings: Settings,
        connection: Redis,
        metrics: Metrics,
        name: str | None = None,
        loader: str = "worker.task:load",
        allowed: frozenset[str] = frozenset({TASK}),
    ) -> None:
        super().__init__(
            list(QUEUES),
            name=name,
            connection=connection,
            serializer="json",
            prepare_for_work=False,  # which would need Redis to be there by now
        )
        self.hostname, self.pid = socket.gethostname(), os.getpid()
        self.settings, self.metrics, self.allowed = settings, metrics, allowed
        self.ledger = Ledger(connection, settings, metrics)
        self.housekeeper = Housekeeper(connection, settings, self.ledger, self.name)
        self.stable = Stable(loader, settings, metrics.report)
        self.records = self.ledger.records
        self.running: Attempt | None = None
        self.helping: Help | None = None
        # Jobs that this worker would solve otherwise than the one that has them, and when they were offered.
        self._strange: set[tuple[str, float]] = set()
        self.lease_seconds = math.ceil(settings.lease_seconds)  # RQ knows but whole ones
        self._told, self._beat_at = ("", ""), 0.0
        self.leaving = Leaving(settings.drain_seconds)

    # --- its life

    def run(self) -> None:
        """Work until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.request_stop)
        self.birth_date = rq_now()
        self.leaving.see_to_it(self.stable.kill)
        log.info("worker started", worker=self.name, model=self.settings.model)
        self.housekeeper.start()
        try:
            self._work()
        finally:
            self.housekeeper.stop()
            self._leave()

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Take note of a signal, and no more: what it interrupted goes on, and sees the note within POLL_SECONDS."""
        self._stop_requested = True
        self.leaving.tell()

    def _work(self) -> None:
        outage = POLL_SECONDS
        while not self._stop_requested:
            self.stable.tend()
            try:
                self._beat()
                self.ledger.put_back()
                taken = self.ledger.take(self.allowed) if self.stable.ready else None
                if taken:
                    self._execute(*taken)
                busy = bool(taken) or self._help()
                outage = POLL_SECONDS
            except RedisError as error:
                log.error("Redis is away", reason=str(error), retry_seconds=outage)
                self._pause(outage)
                outage = min(2 * outage, OUTAGE_SECONDS_MAX)
                continue
            if not busy:
                self._pause(POLL_SECONDS)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stop_requested and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, POLL_SECONDS))

    def _leave(self) -> None:
        self.stable.close(seconds=min(5, self.leaving.seconds_left) if self.stable.ready else 0)
        try:
            self.ledger.put_back()
            self.register_death()  # type: ignore[no-untyped-call]
            self.connection.delete(self._info_key)
        except RedisError as error:
            log.warning("left without a word: Redis is away", reason=str(error))
        log.info("worker stopped", worker=self.name)

    # --- jobs

    def _execute(self, job: Job, queued: QueuedJob) -> None:
        """Run a job in the horse, and see to what becomes of it."""
        log.info("job taken", job_id=job.id, attempts=job.attempt)
        try:
            attempt = self.running = Attempt(job, Lease(queued, self.prepare_execution(queued)))
            self.ledger.leased()
            try:
                self._beat(at_once=True)  # RQ counted the lease by our own clock
                self.prepare_job_execution(queued, remove_from_intermediate_queue=True)
                if job.attempt == 0:
                    self.metrics.job_started(job, (now() - job.queued_at).total_seconds())
                ended = self._follow(attempt)
            except RedisError as error:
                log.error("job not started: Redis is away", job_id=job.id, reason=str(error))
                ended = Ended("preempted")
            self._settle_at_last(attempt, ended)
        finally:
            self.running = None
            self.executions.clear()

    def _help(self) -> bool:
        """Do a run of a job that another worker has, if one is offered; whether it was."""
        if not (self.stable.ready and self.stable.ready.helps):
            return False
        claim = board.claim(self.connection, self.name, self.settings.lease_seconds, self._strange)
        job = self.records.find(claim.job_id) if claim else None
        if claim is None:
            return False
        if job is None or job.terminal:  # offered by one that did not know
            with self.connection.pipeline() as pipe:
                board.close(claim.job_id, pipe)
                pipe.execute()
            return False
        log.info("helping", job_id=job.id, run=claim.run)
        attempt = self.helping = Help(job, claim)
        try:
            ended = self._follow(attempt)
            log.info("helped", job_id=job.id, run=claim.run, how=ended.how)
            if ended.how == "overtaken":
                self._strange.add((job.id, claim.offered))
            attempt.settle(self.ledger, ended)
        finally:
            self.helping = None
        return True

    def _follow(self, attempt: Attempt) -> Ended:
        """Wait for the horse to end the job, or to end with it."""
        horse = self.stable.horse
        assert horse is not None
        horse.run(attempt.order)
        try:
            while True:
                for message in horse.messages(POLL_SECONDS):
                    if isinstance(message, Ended):
                        return message
                    self.stable.heed(horse, message)
                self._watch(attempt, horse)
        except HorseGone as gone:
            if not self._stop_requested:  # else there is no time
                self.stable.bury(str(gone))
            return Ended("out_of_memory" if gone.out_of_memory else "lost")

    def _watch(self, attempt: Attempt, horse: Horse) -> None:
        """Pass on what the job has to know, and kill the horse where it does not follow."""
        clock = time.monotonic()
        if self._stop_requested:
            attempt.stop("preempt", self.leaving.at - clock)
        if attempt.hangs(horse.shared.silent_seconds(), self.settings.stall_seconds):
            attempt.stop("stall", 0)
        if clock >= attempt.look_at:
            attempt.look_at = clock + POLL_SECONDS
            self._look(attempt)
        if attempt.reason in ("cancel", "preempt"):
            horse.shared.ask(attempt.reason)
        if clock >= attempt.kill_at:
            log.warning("killing the horse", job_id=attempt.job.id, reason=attempt.reason)
            horse.kill()
            if self._stop_requested or clock >= attempt.kill_at + KILL_SECONDS:
                # Its end need not be waited for: it runs nothing any more. That of one whose device hangs never comes.
                raise HorseGone("the horse was killed", False)

    def _look(self, attempt: Attempt) -> None:
        """What Redis says of the job. While Redis is away the job goes on: nobody else can take it either."""
        try:
            self._beat()
            attempt.look(self.ledger, self.settings)
        except RedisError as error:
            log.warning("no heartbeat: Redis is away", job_id=attempt.job.id, reason=str(error))

    def _settle_at_last(self, attempt: Attempt, ended: Ended) -> None:
        """Write down how the job ended, however long Redis is away; only a worker told to stop gives up in time."""
        wait = POLL_SECONDS
        while True:
            try:
                return attempt.settle(self.ledger, ended)
            except LeaseLost:
                break
            except RedisError as error:
                job_id = attempt.job.id
                log.error("Redis is away", job_id=job_id, ended=ended.how, reason=str(error), retry_seconds=wait)
                if time.monotonic() > self.leaving.at:
                    break
                if self._stop_requested:
                    time.sleep(POLL_SECONDS)
                self._pause(wait)
                wait = min(2 * wait, OUTAGE_SECONDS_MAX)
        log.error("nothing written: others find the job once its lease is over", job_id=attempt.job.id, ended=ended.how)
        return None

    # --- heartbeat

    def get_heartbeat_ttl(self, job: QueuedJob, working_time: float = 0.0) -> int:
        """The lease, whatever the job: it is renewed for as long as the job runs."""
        return self.lease_seconds

    @property
    def connection_timeout(self) -> int:
        """Seconds that RQ lets a command take at least; it assumes a blocking pop, and we have none."""
        return COMMAND_SECONDS

    def state_now(self) -> tuple[str, str]:
        """One of worker.metrics.STATES, and why."""
        if self._stop_requested:
            return "draining", ""
        if self.running or self.helping:
            return "busy", ""
        if self.stable.ready:
            return "idle", ""
        if self.stable.trouble:
            return "unhealthy", self.stable.trouble
        return ("defunct", self.stable.defunct) if self.stable.defunct else ("loading", "")

    @property
    def _info_key(self) -> str:
        return f"vxl:worker:{self.name}"

    def _beat(self, at_once: bool = False) -> None:
        """Tell Redis, RQ and Prometheus that the worker lives, and in which state; renew the lease on its job."""
        told = self.state_now()
        if not at_once and told == self._told and time.monotonic() < self._beat_at:
            return
        self.metrics.state(told[0], self.stable.ready.device if self.stable.ready else "")
        lease, self.last_heartbeat = self.lease_seconds, rq_now()
        with self.connection.pipeline() as pipe:
            # All of it every time: after an outage nothing may be left of what was there.
            worker_registration.register(self, pipe)
            pipe.hset(self.key, mapping={**self.serialize(), "state": "busy" if self.running else "idle"})
            pipe.expire(self.key, lease)
            pipe.set(self._info_key, json.dumps(self._info(*told)), ex=lease)
            if self.running:
                self.running.lease.renew(pipe, lease)
                pipe.expire(self.executions_key, lease + 60)
            pipe.execute()
        self._told, self._beat_at = told, time.monotonic() + self.settings.heartbeat_seconds
        self.metrics.observe("visionxl_worker_last_heartbeat_timestamp_seconds", time.time())

    def _info(self, state: str, reason: str) -> dict[str, Any]:
        ready, attempt = self.stable.ready, self.running or self.helping
        return {
            "name": self.name,
            "state": state,
            "reason": reason or None,
            "model": ready.model if ready else self.settings.model,
            "device": ready.device if ready else None,
            "card": ready.card.model_dump() if ready and ready.card else None,
            "job_id": attempt.job.id if attempt else None,
            "heartbeat": now().isoformat(),
        }
