"""Where a run's vectors lie and its model is computed: in the host's memory, or on a GPU through CuPy."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpidp.arithmetic import BFLOAT16, FLOAT16, NUMPY, TF32
from mpidp.comm import Communicator
from mpidp.comm.direct import DirectCommunicator, promised, why_not
from mpidp.comm.staging import StagedCommunicator
from mpidp.comm.world import SharedError
from mpidp.errors import RunError, UserError
from mpidp.nn.kernels.products import Products
from mpidp.options import option

CPU, CUDA = "cpu", "cuda"
AUTO, OFF, DIRECT, STAGED = "auto", "off", "direct", "staged"
USABLE = 0.95
"""Share of a device's free memory that the ranks on it divide: libraries and contexts want the rest."""
NEEDED = {FLOAT16: 70, BFLOAT16: 80, TF32: 80}
"""The compute capability, times ten, from which on tensor cores take such operands."""


@dataclass
class DeviceOptions:
    device: str = option(
        CPU, "where the model lives and is trained: the host's memory, or a GPU by CuPy", choices=(CPU, CUDA)
    )
    device_mpi: str = option(
        AUTO,
        f"how messages leave a GPU: read there by MPI, or staged through the host's memory; {AUTO} tries whether MPI "
        "can where it says so",
        choices=(AUTO, DIRECT, STAGED),
    )
    cuda_graph: str = option(
        AUTO,
        "forward and backward on a GPU: captured as CUDA graphs where that works, or launched kernel by kernel",
        choices=(AUTO, OFF),
    )

    def __post_init__(self) -> None:
        if self.device == CPU and self.device_mpi != AUTO:
            raise UserError(
                f"--device-mpi {self.device_mpi} is about messages from GPUs: leave it out, or choose --device {CUDA}"
            )
        if self.device == CPU and self.cuda_graph != AUTO:
            raise UserError(
                f"--cuda-graph {self.cuda_graph} is about launches on a GPU: leave it out, or choose --device {CUDA}"
            )


@dataclass
class Device:
    """A place for a rank's arrays: the module that makes them, and how a run speaks of it."""

    xp: Any = np
    about: str = ""
    free: int | None = None  # bytes that this rank may take there; None: what the host has
    dtype: str = "float32"  # as --dtype says
    planned: float = 0.0  # bytes of it that are spoken for

    def communicator(self, comm: Communicator, way: str = AUTO) -> Communicator:
        """A communicator of these ranks for arrays that lie here, whose messages leave by this way (`--device-mpi`).

        All ranks call it together. Raises SharedError where MPI is to read GPU memory and cannot.
        """
        if self.xp is np:
            return comm.Dup()
        reason = None
        if way != STAGED and comm.size > 1:
            reason = comm.bcast(why_not_direct(way) if comm.rank == 0 else None)
        if reason == "":
            return DirectCommunicator(comm.Dup(), self.xp)
        if reason and way == DIRECT:
            raise SharedError(
                f"--device-mpi {DIRECT}: MPI ({comm.library}) does not read GPU memory: {reason}; choose {STAGED}"
            )
        staged = StagedCommunicator(comm.Dup(), self.xp)
        staged.way += f" (MPI says that it reads GPU memory, but {reason})" if reason else ""
        return staged

    def require(self, amount: float, what: str, cure: str) -> None:
        """Plan to take so many bytes more there. Raises UserError where they are not free."""
        before, self.planned = self.planned, self.planned + amount
        if self.free is not None and self.planned > self.free:
            size = f"{amount / 2**30:.1f} GiB" if math.isfinite(amount) else "beyond all limits"
            beside = f", beside the {before / 2**30:.1f} GiB of its vectors" if before else ""
            raise UserError(
                f"{what} are {size}{beside}: more than the {self.free / 2**30:.1f} GiB that this rank may take of "
                f"{self.about}: {cure}, or more GPUs"
            )

    def products(self) -> Products:
        """Who multiplies matrices on a GPU."""
        from mpidp.nn.kernels.cublas import CublasProducts

        operands = self.dtype if self.dtype in (BFLOAT16, FLOAT16) else None
        return CublasProducts(self.xp, self.about, operands, tf32=self.dtype == TF32)


def why_not_direct(way: str) -> str | None:
    """Why MPI does not read GPU memory, tried; "" where it does; None where it is not said to, and not asked to."""
    return why_not() if way == DIRECT or promised() else None


def opened(device: str, blas: str, dtype: str, comm: Communicator) -> Device:
    """This rank's device; ranks of one host take its GPUs in turn, and share one where they are more.

    Raises UserError where there is no CuPy, no GPU that it can use, or an option that means nothing there.
    """
    if device == CPU:
        if dtype == TF32:
            raise UserError(
                f"--dtype {TF32} is of a GPU's tensor cores: choose float32 or {BFLOAT16}, or --device {CUDA}"
            )
        return Device()
    if blas != "auto" and blas != NUMPY:
        raise UserError(
            f"--blas {blas} multiplies on the host, and --device {CUDA} on the GPU: leave one out"
        )
    cupy, count = usable()
    neighbours = [rank for rank, host in enumerate(comm.hosts()) if host == comm.hosts()[comm.rank]]
    number = neighbours.index(comm.rank) % count
    sharing = len(neighbours[number::count])
    cupy.cuda.Device(number).use()
    name = cupy.cuda.runtime.getDeviceProperties(number)["name"].decode()
    able = int(cupy.cuda.Device(number).compute_capability)
    if able < NEEDED.get(dtype, 0):
        raise UserError(
            f"--dtype {dtype}: GPU {number} ({name}) is of compute capability {able / 10}, and has no products of it "
            f"before {NEEDED[dtype] / 10}: choose float32"
        )
    free = int(USABLE * cupy.cuda.Device(number).mem_info[0] / sharing)
    cupy.get_default_memory_pool().set_limit(size=free)
    shared = f", shared by {sharing} ranks" if sharing > 1 else ""
    return Device(cupy, f"GPU {number} ({name}{shared})", free, dtype)


def usable() -> tuple[Any, int]:
    """CuPy, and the number of GPUs that it can use. Raises UserError where it can use none."""
    try:
        import cupy
    except ImportError as error:
        why = " ".join(str(error).split())  # CuPy's own are of many lines
        raise UserError(
            f"--device {CUDA} needs CuPy ({why}): pip install 'mpidp[cuda13]' or 'mpidp[cuda12]', whichever CUDA the "
            "driver knows (python -m mpidp.doctor says)"
        ) from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UserError(
            f"--device {CUDA}: CuPy {cupy.__version__} finds no GPU that it can use ({error}): is there a driver, and "
            "one for this CuPy's CUDA? python -m mpidp.doctor says more"
        ) from None
    if not count:
        raise UserError(
            f"--device {CUDA}: this machine shows no GPU: leave it out, or set CUDA_VISIBLE_DEVICES"
        )
    return cupy, count


def out_of_memory(error: MemoryError, rank: int) -> RunError | None:
    """What a rank has to say whose GPU had no room left in the middle of a run; None where the host had none."""
    if type(error).__module__.partition(".")[0] != "cupy":
        return None
    return RunError(
        f"rank {rank}: its GPU has no memory left: {str(error).rstrip('.')}: set a smaller --micro-batch, start fewer "
        "ranks a GPU, or see what else runs there (nvidia-smi)"
    )
