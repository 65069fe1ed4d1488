"""This host's devices and slots for jobs. Uses NVML, not torch.cuda: a process that initialized CUDA cannot fork."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import joblib
import psutil
import structlog

from shared.config import Settings

MOST_CPU_SLOTS = 4

log = structlog.get_logger()
T = TypeVar("T")


@dataclass(frozen=True)
class Slot:
    """A place for one job. On a GPU, `uuid` is what CUDA_VISIBLE_DEVICES takes."""

    kind: str  # cpu or cuda
    name: str
    uuid: str | None = None

    @property
    def fits(self) -> frozenset[str]:
        """The requested devices that this slot can serve."""
        return frozenset({"auto", "cpu", "cuda"} if self.kind == "cuda" else {"auto", "cpu"})

    def device_for(self, requested: str) -> Slot:
        """The device for a job: one that requests the CPU sees no GPU."""
        return CPU if requested == "cpu" else self


CPU = Slot("cpu", "cpu")


def gpus() -> list[Slot]:
    """The GPUs that NVML lists; none without a driver."""

    def slot(nvml: Any, i: int, handle: Any) -> Slot:
        return Slot("cuda", _name(nvml, i, handle), _text(nvml.nvmlDeviceGetUUID(handle)))

    return _of_each_gpu(slot)


def memory() -> list[dict[str, Any]]:
    """Memory in use now, in bytes, per device; the host's memory is that of the CPU."""

    def use(nvml: Any, i: int, handle: Any) -> dict[str, Any]:
        found = nvml.nvmlDeviceGetMemoryInfo(handle)
        return {"device": _name(nvml, i, handle), "used_bytes": int(found.used), "total_bytes": int(found.total)}

    host = psutil.virtual_memory()
    cpu = {"device": CPU.name, "used_bytes": host.total - host.available, "total_bytes": host.total}
    return [cpu, *_of_each_gpu(use)]


def _of_each_gpu(ask: Callable[[Any, int, Any], T]) -> list[T]:
    """The results of `ask(nvml, index, handle)` per GPU; empty if NVML is missing or fails."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [ask(pynvml, i, pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        log.warning("GPUs not listed", error=str(error))
        return []
    finally:
        pynvml.nvmlShutdown()


def _name(nvml: Any, index: int, handle: Any) -> str:
    return f"cuda:{index} {_text(nvml.nvmlDeviceGetName(handle))}"


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def cores() -> int:
    """The CPU cores that this process may use: of its affinity mask and of its container's CPU quota, the smaller."""
    return joblib.cpu_count()


def find_slots(settings: Settings) -> list[Slot]:
    """One slot per GPU, else one per CPU core up to 4. GRADQ_SLOTS sets the number; slots then use the GPUs in turn."""
    found = gpus()
    if found:
        return [found[i % len(found)] for i in range(settings.slots or len(found))]
    return [CPU] * (settings.slots or min(cores(), MOST_CPU_SLOTS))


def threads_per_slot(settings: Settings, n_slots: int) -> int:
    """CPU threads for each job: GRADQ_THREADS_PER_SLOT, else the cores divided by the slots, at least 1.

    At most the cores: threads beyond them only wait for each other.
    """
    return min(cores(), settings.threads_per_slot or max(1, cores() // n_slots))


class SlotPool:
    """The slots of one worker, each for one job at a time. All of `on_free` are called after one has become free."""

    def __init__(self, slots: list[Slot]) -> None:
        self.slots = slots
        self.on_free: list[Callable[[], object]] = []
        self._free = list(slots)
        self._lock = threading.Lock()

    @contextmanager
    def take(self) -> Iterator[Slot | None]:
        """A free slot, returned to the pool at the end of the block; None when all are taken."""
        with self._lock:
            slot = self._free.pop(0) if self._free else None
        try:
            yield slot
        finally:
            if slot is not None:
                with self._lock:
                    self._free.append(slot)
                for call in self.on_free:
                    call()

    @property
    def fits(self) -> frozenset[str]:
        """The requested devices that some slot can serve."""
        return frozenset().union(*(slot.fits for slot in self.slots))

    @property
    def free(self) -> int:
        with self._lock:
            return len(self._free)

    def describe(self) -> dict[str, Any]:
        """Device kinds and slots, as the worker's row holds them."""
        kinds = sorted({"cpu", *(slot.kind for slot in self.slots)})
        return {"kinds": kinds, "slots": [asdict(slot) for slot in self.slots]}
