"""The queue.

A job is queued, then running, then done, failed or cancelled. A running job belongs to one attempt on one device; every
write of a worker names its attempt, so that a worker that lost its job changes nothing (fencing).
"""

from studio.jobs.job import UNFINISHED, ClaimLost, GenerationJob, Job, JobKind, JobState, TrainingJob
from studio.jobs.store import JobStore

__all__ = ["UNFINISHED", "ClaimLost", "GenerationJob", "Job", "JobKind", "JobState", "JobStore", "TrainingJob"]
