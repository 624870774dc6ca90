"""Puts what goes wrong in a task into the words of worker/control.py."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from app.store import brief, disk_full
from worker.control import DeviceLost, NotFinite, StoreAway, TaskFailed
from worker.solver.batches import out_of_memory
from worker.solver.blind import NotIdentified


@contextmanager
def explained() -> Iterator[None]:
    """What a client is to be told where a clip cannot be solved."""
    try:
        yield
    except NotIdentified as error:
        raise TaskFailed("degradation_not_identified", str(error)) from error
    except ValueError as error:
        raise TaskFailed("invalid_parameter", str(error)) from error
    except NotFinite as error:
        told = "The prior gave values that are no numbers; a wider dtype may help."
        raise TaskFailed("not_finite", told) from error


def lost(device: torch.device, error: Exception) -> bool:
    """Whether no further call on a device can be trusted.

    torch has an error of its own for what CUDA's runtime says. What cuBLAS, cuDNN and compiled kernels say is a
    RuntimeError like any other: whether the device is lost shows when it is asked again.
    """
    if isinstance(error, torch.AcceleratorError):
        return True
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


@contextmanager
def in_worker_words(device: torch.device, clip_is_there: Callable[[], bool]) -> Iterator[None]:
    """What is to become of a job where memory, disk or device end. clip_is_there: whether the store has its clip."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            raise TaskFailed("out_of_memory", "The clip does not fit the device's memory.", True) from error
        if lost(device, error):
            raise DeviceLost("cuda") from error
        raise
    except Exception as error:
        if disk_full(error):
            raise TaskFailed("storage_full", "There is no room for the result.", True) from error
        if isinstance(error, OSError) and not clip_is_there():
            raise StoreAway(brief(error)) from error  # its disk went away while it was read
        raise
