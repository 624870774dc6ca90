"""What is to become of a job where something of the machine ends: the words a worker understands."""

import errno
from collections.abc import Callable

import pytest
import torch
from redis.exceptions import RedisError

from worker.control import Canceled, DeviceLost, StoreAway, TaskFailed
from worker.failures import in_worker_words, lost

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
CUBLAS = "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa, opb, m, n, k)`"
MISSING = FileNotFoundError(errno.ENOENT, "No such file or directory: 'clip'")


def told(error: Exception, device: torch.device = CPU, clip_is_there: Callable[[], bool] = lambda: True) -> Exception:
    with pytest.raises(Exception) as raised, in_worker_words(device, clip_is_there):
        raise error
    return raised.value


@pytest.fixture
def sticky(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device on which nothing gets through any more; that of this machine may not even be there."""

    def synchronize(device: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that answers."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)


def test_what_cuda_itself_says_means_a_lost_device() -> None:
    assert isinstance(told(torch.AcceleratorError("CUDA error: unspecified launch failure"), CUDA), DeviceLost)


@pytest.mark.usefixtures("sticky")
def test_what_a_library_says_on_a_device_that_answers_no_more_means_the_same() -> None:
    assert isinstance(told(RuntimeError(CUBLAS), CUDA), DeviceLost)


@pytest.mark.usefixtures("sound")
def test_an_error_of_ours_on_a_device_that_answers_stays_what_it_is() -> None:
    error = RuntimeError("shape '[3]' is invalid for input of size 4")
    assert told(error, CUDA) is error


def test_without_a_gpu_none_is_lost() -> None:
    assert not lost(CPU, RuntimeError(CUBLAS))


@pytest.mark.usefixtures("sticky")
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_job_that_is_too_large_takes_no_device_with_it(error: Exception) -> None:
    failed = told(error, CUDA)
    assert isinstance(failed, TaskFailed)
    assert (failed.code, failed.retryable) == ("out_of_memory", True)


def test_a_full_disk_is_told() -> None:
    failed = told(OSError(errno.ENOSPC, "No space left on device"))
    assert isinstance(failed, TaskFailed)
    assert (failed.code, failed.retryable) == ("storage_full", True)


def test_a_clip_whose_disk_went_away_is_waited_for() -> None:
    assert isinstance(told(MISSING, clip_is_there=lambda: False), StoreAway)
    assert told(MISSING) is MISSING, "it is there, so that something else is missing"


@pytest.mark.parametrize("error", [Canceled(), RedisError("away"), ValueError("of ours")], ids=repr)
def test_all_else_stays_what_it_is(error: Exception) -> None:
    assert told(error, clip_is_there=lambda: False) is error
