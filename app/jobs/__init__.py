"""Background work: the queue, the worker and its tasks (procrastinate, in PostgreSQL)."""
