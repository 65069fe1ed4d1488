"""Slots: how many a host has, which requested devices each serves, and that no two jobs share one."""

import sys
import threading
from types import SimpleNamespace

import pytest

from shared.config import Settings
from worker import devices
from worker.devices import CPU, MOST_CPU_SLOTS, Slot, SlotPool, find_slots, threads_per_slot

GPUS = [Slot("cuda", f"cuda:{i} NVIDIA H200", f"GPU-{i}") for i in range(2)]


@pytest.fixture
def host(monkeypatch):
    """host(gpus=…, cores=…): replace what is found on this host."""

    def host(gpus=(), cores=8):
        monkeypatch.setattr(devices, "gpus", lambda: list(gpus))
        monkeypatch.setattr(devices, "cores", lambda: cores)

    return host


def test_a_host_without_a_gpu_has_one_slot_per_core_up_to_four(host):
    for cores, slots in ((1, 1), (2, 2), (4, 4), (64, MOST_CPU_SLOTS)):
        host(cores=cores)
        assert find_slots(Settings()) == [CPU] * slots
    assert MOST_CPU_SLOTS == 4


def test_a_host_with_gpus_has_one_slot_each(host):
    host(GPUS)
    assert find_slots(Settings()) == GPUS


def test_the_setting_wins_and_its_slots_use_the_gpus_in_turn(host):
    host(cores=2)
    assert find_slots(Settings(slots=6)) == [CPU] * 6
    host(GPUS)
    assert find_slots(Settings(slots=3)) == [GPUS[0], GPUS[1], GPUS[0]]
    assert find_slots(Settings(slots=1)) == [GPUS[0]]


def test_cores_are_divided_by_slots_unless_set_otherwise(host):
    host(cores=8)
    assert [threads_per_slot(Settings(), n) for n in (1, 3, 4, 16)] == [8, 2, 2, 1]
    assert threads_per_slot(Settings(threads_per_slot=5), 4) == 5
    assert threads_per_slot(Settings(threads_per_slot=64), 1) == 8  # at most the cores


def test_a_slot_fits_the_devices_that_it_can_serve():
    assert CPU.fits == {"auto", "cpu"}
    assert GPUS[0].fits == {"auto", "cpu", "cuda"}


def test_a_job_that_asks_for_the_cpu_sees_no_gpu():
    assert GPUS[0].device_for("cpu") == CPU
    assert GPUS[0].device_for("cuda") == GPUS[0].device_for("auto") == GPUS[0]
    assert CPU.device_for("auto") == CPU
    assert CPU.uuid is None


def test_this_host_is_queried_without_an_error():
    assert all(slot.kind == "cuda" and slot.uuid for slot in devices.gpus())
    assert devices.cores() >= 1


def test_a_pool_hands_out_its_slots_then_none_until_one_is_returned():
    pool = SlotPool([GPUS[0], GPUS[1]])
    with pool.take() as first:
        with pool.take() as second, pool.take() as third:
            assert {first, second} == set(GPUS)
            assert third is None
            assert pool.free == 0
        assert pool.free == 1  # taking none returns none
    assert pool.free == 2


def test_a_slot_comes_back_from_a_block_that_failed():
    pool = SlotPool([CPU])
    with pytest.raises(RuntimeError), pool.take():
        raise RuntimeError
    assert pool.free == 1


def test_a_pool_never_hands_out_more_than_it_has():
    slots = [Slot("cuda", f"cuda:{i}", f"GPU-{i}") for i in range(3)]
    pool, start = SlotPool(slots), threading.Barrier(8)
    in_use, most, granted, doubles = [], [0], [0], []
    lock = threading.Lock()

    def work():
        start.wait(10)
        for _ in range(400):
            with pool.take() as slot:
                if slot is None:
                    continue
                with lock:
                    doubles.extend(s for s in in_use if s == slot)
                    in_use.append(slot)
                    most[0] = max(most[0], len(in_use))
                    granted[0] += 1
                with lock:  # apart from the block above, so that other threads run in between
                    in_use.remove(slot)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert doubles == []
    assert most[0] <= 3
    assert granted[0] > 0
    assert pool.free == 3


def test_a_pool_describes_its_kinds_and_slots():
    assert SlotPool([CPU, CPU]).describe() == {
        "kinds": ["cpu"],
        "slots": [{"kind": "cpu", "name": "cpu", "uuid": None}] * 2,
    }
    assert SlotPool([GPUS[0]]).describe()["kinds"] == ["cpu", "cuda"]


class Nvml:
    """A driver with two GPUs, as pynvml shows it."""

    class NVMLError(Exception):
        pass

    def __init__(self, fails: str = "") -> None:
        self.fails, self.shut_down = fails, False

    def nvmlInit(self):
        if self.fails == "nvmlInit":
            raise self.NVMLError("no driver")

    def nvmlShutdown(self):
        self.shut_down = True

    def nvmlDeviceGetCount(self):
        return 2

    def nvmlDeviceGetHandleByIndex(self, i):
        return i

    def nvmlDeviceGetName(self, handle):
        return b"NVIDIA H200"

    def nvmlDeviceGetUUID(self, handle):
        return f"GPU-{handle}"

    def nvmlDeviceGetMemoryInfo(self, handle):
        if self.fails == "nvmlDeviceGetMemoryInfo":
            raise self.NVMLError("fell off the bus")
        return SimpleNamespace(used=100 + handle, total=1000)


def test_memory_lists_the_host_and_each_gpu_under_the_name_of_its_slot(monkeypatch):
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    host, *found = devices.memory()
    assert devices.gpus() == GPUS
    assert found == [{"device": slot.name, "used_bytes": 100 + i, "total_bytes": 1000} for i, slot in enumerate(GPUS)]
    assert nvml.shut_down
    assert host["device"] == "cpu"
    assert 0 < host["used_bytes"] < host["total_bytes"]


@pytest.mark.parametrize("fails", ["nvmlInit", "nvmlDeviceGetMemoryInfo"])
def test_without_a_driver_or_with_one_that_fails_only_the_host_is_listed(monkeypatch, fails):
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(fails))
    assert [found["device"] for found in devices.memory()] == ["cpu"]
