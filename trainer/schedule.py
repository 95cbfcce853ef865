"""The learning rate as a pure function of the step."""

import math

from trainer.settings import Settings


def learning_rate(settings: Settings, total: int, step: int) -> float:
    """Returns the learning rate of a step, counted from 0: linear warm-up, then constant, or a cosine to 0 at `total`.

    Source of the cosine: Loshchilov and Hutter, SGDR (2017).
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - settings.warmup_steps) / max(1, total - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
