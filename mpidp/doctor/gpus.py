"""GPUs: the driver, CuPy and the CUDA it was built for, each GPU with its memory, and how many ranks share them."""

import os
from collections.abc import Sequence

from mpidp import machine
from mpidp.doctor.findings import OK, PROBLEM, WARNING, Finding
from mpidp.doctor.surroundings import size, version

CUPY_WHEELS = ("cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x", "cupy")
LITTLE = 0.5  # of a GPU's memory: with less free, something else runs there
TENSOR_CORES = 80  # compute capability, times ten, from which on they take bfloat16 and tf32
TOPIC = "GPU"


def gpus(ranks: int) -> list[Finding]:
    """Can CuPy compute on a GPU, and what is in the way? ranks: as many as run on this host."""
    cupies = [name for name in CUPY_WHEELS if version(name)]
    if len(cupies) > 1:
        mend = f"pip uninstall -y {' '.join(cupies)}, then install the one for your driver"
        return [
            Finding(TOPIC, PROBLEM, f"several builds of CuPy in one environment: {', '.join(cupies)}", mend)
        ]
    driver, found = machine.driver_present(), machine.devices()
    if found.cupy is None and not cupies:
        if driver:
            mend = "to use it: pip install 'mpidp[cuda12]' or 'mpidp[cuda13]'"
            return [Finding(TOPIC, WARNING, "an NVIDIA driver is here, but no CuPy", mend)]
        return [Finding(TOPIC, OK, "none, and no CuPy: NumPy computes")]
    if found.driver and found.cuda // 1000 > found.driver // 1000:
        knows = dotted(found.driver)
        text = f"CuPy {found.cupy} is for CUDA {dotted(found.cuda)}, but the driver knows {knows} at most"
        other = f"pip uninstall -y {' '.join(cupies)}; pip install 'mpidp[cuda{found.driver // 1000}]'"
        mend = f"{other}, or a newer driver"
        return [Finding(TOPIC, PROBLEM, text, mend)]
    if found.error or not found.gpus:
        return [unusable(found, driver)]
    cuda = f"CuPy {found.cupy} for CUDA {dotted(found.cuda)}; driver for CUDA {dotted(found.driver)}"
    return [
        Finding(TOPIC, OK, cuda),
        *map(one, range(len(found.gpus)), found.gpus),
        *shared(found.gpus, ranks),
    ]


def unusable(found: machine.Devices, driver: bool) -> Finding:
    """CuPy is here and can use no GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    why = found.error or "there is none"
    text = f"CuPy {found.cupy or ''} can use no GPU: {why}"
    if visible is not None and (not found.error or "NoDevice" in why or "InvalidDevice" in why):
        return Finding(
            TOPIC,
            PROBLEM,
            f"{text}; CUDA_VISIBLE_DEVICES is {visible!r}",
            "unset it, or name a GPU that is there",
        )
    if not driver:
        return Finding(TOPIC, WARNING, text, "without a GPU: --device cpu (the default) needs none")
    mend = "does nvidia-smi work, and does its CUDA version fit (mpidp[cuda12], mpidp[cuda13])?"
    if "header" in why or "nvrtc" in why.lower():
        mend = "CuPy compiles kernels as it runs, and wants CUDA's headers: pip install 'mpidp[cuda13]' brings them"
    return Finding(TOPIC, PROBLEM, text, mend)


def one(number: int, gpu: machine.Gpu) -> Finding:
    capability = int(gpu.capability)
    text = f"{number}: {gpu.name}, compute capability {capability / 10}, {size(gpu.free)} of {size(gpu.total)} free"
    if capability < TENSOR_CORES:
        text += "; too old for --dtype bfloat16 and tf32"
    if gpu.free < LITTLE * gpu.total:
        return Finding(TOPIC, WARNING, text, "nvidia-smi says what else runs there")
    return Finding(TOPIC, OK, text)


def shared(found: Sequence[machine.Gpu], ranks: int) -> list[Finding]:
    if ranks <= len(found):
        return []
    text = f"{ranks} ranks share {len(found)}: rank r of a host takes GPU r mod {len(found)}, and a share of its memory"
    return [Finding(TOPIC, OK, text)]


def dotted(cuda: int) -> str:
    return f"{cuda // 1000}.{cuda % 1000 // 10}"
