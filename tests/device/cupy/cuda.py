"""The devices: of 2 GiB, with a driver for CUDA 13; one, or as many as CUDA_VISIBLE_DEVICES names."""

import contextlib
import os

import numpy as _np
from cupy import _cublas as cublas
from cupy.ipc import Ipc, Memory, MemoryPointer, UnownedMemory
from cupy.streams import Event, Stream, get_current_stream

__all__ = [
    "Device", "Event", "Memory", "MemoryPointer", "Stream", "UnownedMemory", "cublas", "device", "get_current_stream",
]  # fmt: skip

MEMORY = 2 << 30


class Device:
    def __init__(self, device=0):
        if device not in range(runtime.getDeviceCount()):
            raise runtime.CUDARuntimeError(101, f"cudaErrorInvalidDevice: {device}")
        self.id = device

    def use(self):
        return self

    __enter__ = use

    def __exit__(self, *_):
        pass

    def synchronize(self):
        get_current_stream().synchronize()

    @property
    def mem_info(self):
        return MEMORY, MEMORY

    @property
    def compute_capability(self):
        return "90"


class device:
    @staticmethod
    def get_cublas_handle():
        cublas.loaded()
        return cublas.HANDLE


class runtime(Ipc):
    CUDA_R_16F, CUDA_R_32F, CUDA_R_64F, CUDA_R_16BF = (
        cublas.HALF,
        cublas.SINGLE,
        cublas.DOUBLE,
        cublas.BFLOAT16,
    )

    @staticmethod
    def driverGetVersion():
        return 13000

    runtimeGetVersion = driverGetVersion

    @staticmethod
    def getDeviceCount():
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")
        return len([name for name in named if name.strip()])

    @staticmethod
    def getDeviceProperties(device):
        return {"name": b"stand-in", "uuid": b"0" * 16}


class MemoryPool:
    def malloc(self, size):
        raise NotImplementedError("the stand-in gives arrays memory of their own")


@contextlib.contextmanager
def using_allocator(allocator=None):
    yield


class PinnedMemory(_np.ndarray):
    """Host memory that the device can copy from and to beside other work."""


def alloc_pinned_memory(size):
    return memoryview(_np.empty(size, _np.uint8)).cast("B")
