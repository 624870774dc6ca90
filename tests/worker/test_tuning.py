"""Which settings a client's list of degradations gets."""

from dataclasses import replace

import pytest

from app.degradations import Task, degradations_of
from worker.tuning import BUNDLED, BUNDLED_ELSE, PAPER, tuning_of


@pytest.mark.parametrize("task", Task)
def test_every_named_task_has_settings_of_its_own(task: Task) -> None:
    assert tuning_of(degradations_of(task), bundled=True) == replace(BUNDLED[task], straight=True)
    assert tuning_of(degradations_of(task), bundled=False) is PAPER


def test_what_resembles_no_task_has_those_for_all_else() -> None:
    both = [*degradations_of(Task.deblur), *degradations_of(Task.super_resolution_x4)]
    assert tuning_of(both, bundled=True) == replace(BUNDLED_ELSE, straight=True)
