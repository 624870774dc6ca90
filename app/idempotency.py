"""The Idempotency-Key: a request sent twice makes one job (draft-ietf-httpapi-idempotency-key-header).

    vxl:idempotency:{sha256 of the key}    JSON {"body": sha256, "job_id": ..., "answer": ...}

The key is claimed with the hash of the body; the job's id joins it in the transaction that creates the job, and the
answer once it is known. So a crash at any point leaves either no job, or a key that leads to it.
"""

import json
from contextlib import suppress
from hashlib import sha256
from typing import Any, cast

from redis.exceptions import RedisError

from app.contract import Job, JobRequest
from app.errors import Problem
from app.ids import new_id
from app.jobs import Jobs

CLAIM_SECONDS = 30  # much longer than a submission takes, should it die on its way
ANSWER_SECONDS = 86400


class Idempotency:
    """Submits at most once per key."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.redis = jobs.redis

    def submit(self, key: str, request: JobRequest, tenant: str | None = None) -> tuple[Job, bool]:
        """The job, and whether it is new; raises a Problem where the key is in use for something else."""
        name = "vxl:idempotency:" + sha256(f"{tenant}\n{key}".encode() if tenant else key.encode()).hexdigest()
        entry: dict[str, Any] = {"body": sha256(request.model_dump_json().encode()).hexdigest()}
        if not self.redis.set(name, json.dumps(entry), nx=True, ex=CLAIM_SECONDS):
            return self._again(name, entry["body"]), False
        job_id = new_id("job")
        try:
            job, _ = self.jobs.submit(
                request,
                job_id,
                also=lambda pipe: pipe.set(name, json.dumps(entry | {"job_id": job_id}), ex=ANSWER_SECONDS),
                tenant=tenant,
            )
        except Problem:
            with suppress(RedisError):
                self.redis.delete(name)  # refused: the client may mend it and send it again
            raise
        answer = entry | {"job_id": job_id, "answer": job.model_dump(mode="json")}
        self.redis.set(name, json.dumps(answer), ex=ANSWER_SECONDS)
        return job, True

    def _again(self, name: str, body: str) -> Job:
        raw = cast(bytes | None, self.redis.get(name))
        entry = json.loads(raw) if raw else {}
        if entry.get("body", body) != body:
            detail = "This Idempotency-Key was used with another body."
            raise Problem(422, "idempotency_key_reused", detail)
        if "job_id" not in entry:
            detail = "A request with this Idempotency-Key is being answered."
            raise Problem(409, "request_in_flight", detail, retry_after=1)
        return Job.model_validate(entry["answer"]) if "answer" in entry else self.jobs.get(entry["job_id"])
