"""Batches: many jobs on many lanes, refilled as they finish, resumable."""

from wasmjax.batch.jobs import Job, JobError, JobResult, read_jobs

__all__ = ["Job", "JobError", "JobResult", "read_jobs"]
