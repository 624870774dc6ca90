"""Where in the store things lie: keys are made here, never from what a client typed."""

from app.contract import RESULT_FILES, Job


def results_prefix(job_id: str) -> str:
    """Under what in the store lies all that a job has made."""
    return f"jobs/{job_id}"


def result_key(job: Job, name: str) -> str:
    """Where in the store a result lies; name as in RESULT_FILES.

    Each time that a job was queued has its own place: a worker that another took over from, and that goes on all the
    same, cannot touch what the other made.
    """
    return f"{results_prefix(job.id)}/{job.queued_at:%Y%m%dT%H%M%S%f}/{RESULT_FILES[name]}"


def upload_key(upload_id: str) -> str:
    """Where in the store an upload lies."""
    return f"uploads/{upload_id}"


def checkpoint_prefix(job_id: str) -> str:
    """Under what in the store lies all that is kept of a job until it ends."""
    return f"checkpoints/{job_id}"
