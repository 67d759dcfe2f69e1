"""An NVIDIA GPU through cuda-python: found, tried out, and given memory and kernels.

Only the CUDA driver's interface is used (``cuda.bindings.driver``), with NVRTC for the kernels in
``kernels.cu``. Both are parameters, so that tests can put a driver in their place that misbehaves.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

KERNELS = Path(__file__).with_name("kernels.cu")
_THREADS = 256
_PROBE_COUNT = 1 << 20
_LOWEST_CAPABILITY = (7, 5)
_POINTER, _INDEX, _FLOAT = ctypes.c_void_p, ctypes.c_longlong, ctypes.c_float
_TYPES: dict[str, tuple[Any, ...]] = {
    "probe": (_POINTER, _FLOAT, _INDEX),
    "cut_tile": (_POINTER,) * 2 + (_INDEX,) * 10,
    "add_tile": (_POINTER,) * 4 + (_INDEX,) * 10,
}


class NoGpuError(Exception):
    """There is no usable GPU.

    Parameters
    ----------
    reason
        Why, as a clause that can follow a colon.
    present
        Whether the machine seems to have one all the same.
    """

    def __init__(self, reason: str, *, present: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.present = present


class GpuError(RuntimeError):
    """A CUDA call failed; the text names the call and CUDA's reason."""


def _call(library: Any, function: str, *arguments: Any) -> Any:
    """Call a function of cuda-python and return its one result (or None)."""
    status, *results = getattr(library, function)(*arguments)
    if int(status) != 0:
        raise GpuError(f"{function} failed ({getattr(status, 'name', status)})")
    return results[0] if results else None


@dataclass(frozen=True)
class GpuIdentity:
    """What a GPU is."""

    name: str
    capability: tuple[int, int]
    """Compute capability, as (8, 9)."""
    memory_bytes: int
    driver: int
    """CUDA version of the driver, as 13000."""

    @property
    def target(self) -> str:
        """The compute capability as engines are named by it: "sm89"."""
        return f"sm{self.capability[0]}{self.capability[1]}"


class GpuMemory:
    """A piece of device memory, freed with the object."""

    def __init__(self, gpu: Gpu, nbytes: int) -> None:
        self.nbytes = nbytes
        self.address = int(gpu.call("cuMemAlloc", max(nbytes, 1)))
        self.free = weakref.finalize(self, gpu.release, self.address)


class Gpu:
    """The first GPU that CUDA shows, with the kernels compiled for it; ``open_gpu`` opens it.

    Raises
    ------
    GpuError
        If a CUDA call fails.
    """

    def __init__(self, driver: Any, nvrtc: Any) -> None:
        self._driver = driver
        self._nvrtc = nvrtc
        self._device = self.call("cuDeviceGet", 0)
        self.identity = self._identify()
        if self.identity.capability < _LOWEST_CAPABILITY:
            raise GpuError(f"its compute capability ({self.identity.target}) is below sm75")
        self._context = self.call("cuDevicePrimaryCtxRetain", self._device)
        self.activate()
        self._stream = self.call("cuStreamCreate", 0)
        self._kernels = self._load_kernels()

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function of the driver and return its one result (or None).

        Raises
        ------
        GpuError
            If it does not answer CUDA_SUCCESS.
        """
        return _call(self._driver, function, *arguments)

    @property
    def stream(self) -> int:
        """Handle of the stream on which everything runs in order."""
        return int(self._stream)

    def activate(self) -> None:
        """Make the GPU's context current in the calling thread."""
        self.call("cuCtxSetCurrent", self._context)

    def allocate(self, nbytes: int) -> GpuMemory:
        """Device memory of so many bytes."""
        return GpuMemory(self, nbytes)

    def zeros(self, nbytes: int) -> GpuMemory:
        """Device memory filled with 0."""
        memory = self.allocate(nbytes)
        self.call("cuMemsetD8Async", memory.address, 0, nbytes, self._stream)
        return memory

    def release(self, address: int) -> None:
        """Free device memory; a failure is logged, because nothing can be done about it."""
        try:
            self.activate()
            self.call("cuMemFree", address)
        except GpuError as error:
            logger.debug("device memory: %s", error)

    def upload(self, array: np.ndarray, memory: GpuMemory, offset: int = 0) -> None:
        """Copy a contiguous array into device memory, ``offset`` bytes from its start."""
        if not array.flags.c_contiguous or offset + array.nbytes > memory.nbytes:
            raise ValueError("the array is not contiguous or does not fit")
        self.call("cuMemcpyHtoD", memory.address + offset, array.ctypes.data, array.nbytes)

    def download(self, memory: GpuMemory, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Wait for the stream and copy the start of device memory into a new array."""
        array = np.empty(shape, dtype)
        if array.nbytes > memory.nbytes:
            raise ValueError("the array is larger than the memory")
        self.synchronise()
        self.call("cuMemcpyDtoH", array.ctypes.data, memory.address, array.nbytes)
        return array

    def launch(self, kernel: str, count: int, *arguments: float) -> None:
        """Run a kernel of ``kernels.cu`` with one thread for each of ``count`` elements.

        ``arguments`` are the kernel's, without the last one, which is ``count``.
        """
        values = (*arguments, count)
        blocks = -(-count // _THREADS)
        self.call(
            "cuLaunchKernel",
            self._kernels[kernel],
            *(blocks, 1, 1),
            *(_THREADS, 1, 1),
            0,
            self._stream,
            (values, _TYPES[kernel]),
            0,
        )

    def synchronise(self) -> None:
        """Wait until everything on the stream is done."""
        self.call("cuStreamSynchronize", self._stream)

    def _identify(self) -> GpuIdentity:
        attribute = self._driver.CUdevice_attribute
        major = attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        minor = attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
        name = bytes(self.call("cuDeviceGetName", 128, self._device)).split(b"\0")[0]
        return GpuIdentity(
            name=name.decode("utf-8", "replace").strip(),
            capability=(
                int(self.call("cuDeviceGetAttribute", major, self._device)),
                int(self.call("cuDeviceGetAttribute", minor, self._device)),
            ),
            memory_bytes=int(self.call("cuDeviceTotalMem", self._device)),
            driver=int(self.call("cuDriverGetVersion")),
        )

    def _load_kernels(self) -> dict[str, Any]:
        image = compile_kernels(self._nvrtc, self.identity.capability)
        self._module = self.call("cuModuleLoadData", np.frombuffer(image, np.uint8).ctypes.data)
        return {
            name: self.call("cuModuleGetFunction", self._module, name.encode()) for name in _TYPES
        }


def compile_kernels(nvrtc: Any, capability: tuple[int, int]) -> bytes:
    """Compile ``kernels.cu`` to machine code for a compute capability; needs no GPU.

    Parameters
    ----------
    nvrtc
        ``cuda.bindings.nvrtc``.
    capability
        As (8, 9).

    Raises
    ------
    GpuError
        If NVRTC does not compile it, as for a capability that it does not know.
    """

    program = _call(nvrtc, "nvrtcCreateProgram", KERNELS.read_bytes(), b"kernels.cu", 0, [], [])
    options = [f"--gpu-architecture=sm_{capability[0]}{capability[1]}".encode()]
    _call(nvrtc, "nvrtcCompileProgram", program, len(options), options)
    image = b" " * int(_call(nvrtc, "nvrtcGetCUBINSize", program))
    _call(nvrtc, "nvrtcGetCUBIN", program, image)
    return image


def _count(driver: Any) -> int:
    _call(driver, "cuInit", 0)
    return int(_call(driver, "cuDeviceGetCount"))


def _try_out(gpu: Gpu) -> None:
    """Run the probe kernel and compare its answer.

    Raises
    ------
    GpuError
        If the answer is not the expected one.
    """
    values = np.linspace(-1000, 1000, _PROBE_COUNT, dtype=np.float32)
    memory = gpu.allocate(values.nbytes)
    gpu.upload(values, memory)
    gpu.launch("probe", _PROBE_COUNT, memory.address, 0.5)
    answer = gpu.download(memory, values.shape, np.float32)
    expected = values * np.float32(0.5) + np.arange(_PROBE_COUNT, dtype=np.int64) % 97
    if not np.allclose(answer, expected, rtol=1e-6, atol=1e-4):
        raise GpuError("it computes a wrong answer")


def open_gpu(driver: Any = None, nvrtc: Any = None, devices: Path = Path("/dev")) -> Gpu:
    """The GPU, after a kernel has run on it with the right answer.

    Parameters
    ----------
    driver, nvrtc
        ``cuda.bindings.driver`` and ``cuda.bindings.nvrtc`` (None), or substitutes.
    devices
        Folder of the device files, by which a GPU shows even if CUDA does not work.

    Raises
    ------
    NoGpuError
        If there is none, or none that works.
    """
    present = any(devices.glob("nvidia[0-9]*"))
    try:
        driver = driver or importlib.import_module("cuda.bindings.driver")
        if _count(driver) == 0:
            raise GpuError("CUDA shows no device")
        present = True
        gpu = Gpu(driver, nvrtc or importlib.import_module("cuda.bindings.nvrtc"))
        _try_out(gpu)
    except (GpuError, ImportError, RuntimeError) as error:
        # cuda-python raises a RuntimeError of its own where the driver's library is missing
        reason = str(error) if isinstance(error, GpuError) else _missing_library(error)
        raise NoGpuError(reason, present=present) from error
    return gpu


def _missing_library(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"a CUDA library is missing ({text})"
