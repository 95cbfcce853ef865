"""Mean precision at 5."""

from eval_jobs.metrics._precision import precision_at

METRIC = precision_at(5)
