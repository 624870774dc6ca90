"""The front end: HTTP, job records, files. Never imports torch or the worker."""
