"""Work that a device does later than it is asked to. There is no such device here: its clock is moved by hand."""

from typing import Any

import pytest

from worker.control import Canceled
from worker.lagging import Lagging


class Device:
    """Does pieces of work of so many milliseconds when it is told to go on."""

    def __init__(self, *milliseconds: float) -> None:
        self.ends = [sum(milliseconds[:n]) for n in range(len(milliseconds) + 1)]
        self.now, self.waited, self._recorded = 0.0, 0, 0

    def event(self) -> "Marker":
        marker = Marker(self, self.ends[self._recorded])
        self._recorded += 1
        return marker


class Marker:
    """A place in its queue."""

    def __init__(self, device: Device, at: float) -> None:
        self.device, self.at = device, at

    def record(self) -> None: ...

    def query(self) -> bool:
        return self.device.now >= self.at

    def synchronize(self) -> None:
        self.device.waited += 1
        self.device.now = max(self.device.now, self.at)

    def elapsed_time(self, later: Any) -> float:
        assert isinstance(later, Marker)
        return later.at - self.at


def test_work_is_told_of_when_it_is_done_with_the_time_it_took() -> None:
    told: list[tuple[str, int, float]] = []
    device = Device(30, 50, 20)
    lagging = Lagging(lambda *work: told.append(work), lambda: None, device.event)
    lagging.watch("denoise", 4)
    lagging.watch("vae_decode", 4)
    assert told == []
    device.now = 40
    lagging.watch("data_step", 25)
    assert told == [("denoise", 4, 0.03)]
    assert device.waited == 0
    lagging.finish()
    assert told[1:] == [("vae_decode", 4, 0.05), ("data_step", 25, 0.02)]


def test_a_job_that_is_to_stop_stops_though_the_device_lags() -> None:
    def stop() -> None:
        raise Canceled

    with pytest.raises(Canceled):
        Lagging(lambda *work: None, stop, Device(30).event).watch("denoise", 4)
