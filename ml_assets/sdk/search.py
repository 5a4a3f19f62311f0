"""The search for parameters of a fold: Optuna proposes, what the fold knows judges.

Belongs here: the trials, and that a search which is interrupted goes on and ends as if it had not been. Not here: how a
trial is trained and judged (`folds.py`).

Each trial's proposal depends on the seed, its number and the results before it, and on nothing else. So the finished
trials are all that a checkpoint has to hold.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ml_assets.sdk.declarations import OneOf, Range, Real, Search
from ml_assets.sdk.trainers.trainer import Checkpoint, Parameter, Parameters

_RANDOM_FIRST = 5
"""Trials drawn at random before the sampler has something to learn from."""


@dataclass(frozen=True)
class Trial:
    """One set of parameters and its mean error over the splits."""

    parameters: Mapping[str, Parameter]
    error: float


def trials_of(search: Search, judge: Callable[[Parameters], float], seed: int, checkpoint: Checkpoint) -> list[Trial]:
    """Every trial, in the order tried; those that the checkpoint holds are not repeated.

    Raises:
        ValueError: no trial had a finite error.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    space = {name: _distribution(one) for name, one in search.space.items()}
    done = [Trial(**one) for one in json.loads(checkpoint.read() or b"[]")]
    for trial in done:
        study.add_trial(optuna.create_trial(params=dict(trial.parameters), distributions=space, value=trial.error))
    while len(done) < search.trials:
        study.sampler = optuna.samplers.TPESampler(seed=seed + len(done), n_startup_trials=_RANDOM_FIRST)
        asked = study.ask(space)
        error = judge(asked.params)
        study.tell(asked, error)
        done.append(Trial(asked.params, error))
        checkpoint.write(json.dumps([asdict(one) for one in done]).encode())
    if not any(trial.error < float("inf") for trial in done):
        raise ValueError("no trial of the search had a finite error; look at the labels, or narrow the space")
    return done


def best(trials: list[Trial]) -> Trial:
    """The trial with the smallest error, the first of equal ones."""
    return min((trial for trial in trials if trial.error == trial.error), key=lambda trial: trial.error)


def _distribution(declared: Range) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(declared, OneOf):
        return CategoricalDistribution(declared.options)
    if isinstance(declared, Real):
        return FloatDistribution(declared.low, declared.high, log=declared.log)
    return IntDistribution(declared.low, declared.high, log=declared.log)
