"""Mean precision at 10."""

from eval_jobs.metrics._precision import precision_at

METRIC = precision_at(10)
