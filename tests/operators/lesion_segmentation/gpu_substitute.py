"""A CUDA driver that computes on the processor, and a TensorRT runtime on top of it.

There is no GPU where the tests run. Device memory is host memory here, and the kernels are the
project's own source, compiled by g++ with the three CUDA names that it uses: so addresses, sizes,
the order of calls and the kernels' arithmetic are real, and faults can be put in. TensorRT for RTX
builds its engines for real; only running them is ONNX Runtime's part.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from cuda.bindings import driver as cuda_driver

from operators.lesion_segmentation.gpu import KERNELS

_SHIM = """
#define __global__
#define __device__ static inline
struct Dim { unsigned x, y, z; };
static Dim blockIdx, blockDim, threadIdx;
#include KERNELS_FILE
template <class Kernel, class... Arguments>
static void every_thread(Kernel kernel, unsigned blocks, unsigned threads, Arguments... arguments) {
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) kernel(arguments...);
}
typedef index_t I;
extern "C" void launch_probe(unsigned b, unsigned t, float *v, float f, I n) {
    every_thread(probe, b, t, v, f, n);
}
extern "C" void launch_cut_tile(unsigned b, unsigned t, const float *v, float *o, I nz, I ny, I nx,
                                I pz, I py, I px, I z, I y, I x, I n) {
    every_thread(cut_tile, b, t, v, o, nz, ny, nx, pz, py, px, z, y, x, n);
}
extern "C" void launch_add_tile(unsigned b, unsigned t, float *s, const float *v, const float *w,
                                int *e, I nz, I ny, I nx, I pz, I py, I px, I z, I y, I x, I n) {
    every_thread(add_tile, b, t, s, v, w, e, nz, ny, nx, pz, py, px, z, y, x, n);
}
"""
Address = Callable[[int], "ctypes.Array[ctypes.c_char]"]


def compile_kernels_for_the_processor(compiler: str, folder: Path) -> ctypes.CDLL:
    """Compile ``kernels.cu`` with g++ into a shared library."""
    source = folder / "kernels.cpp"
    source.write_text(_SHIM.replace("KERNELS_FILE", f'"{KERNELS}"'))
    library = folder / "kernels.so"
    subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True
    )
    return ctypes.CDLL(str(library))


class Driver:
    """The functions of ``cuda.bindings.driver`` that the application uses.

    Parameters
    ----------
    kernels
        From ``compile_kernels_for_the_processor``.
    capability
        Compute capability of the substitute.
    faults
        Function name to the name of the CUresult that it answers.
    wrong
        Whether the kernels compute something else.
    """

    CUdevice_attribute = cuda_driver.CUdevice_attribute

    def __init__(
        self,
        kernels: ctypes.CDLL,
        *,
        capability: tuple[int, int] = (8, 9),
        devices: int = 1,
        faults: dict[str, str] | None = None,
        wrong: bool = False,
    ) -> None:
        self._kernels = kernels
        self._capability = capability
        self._devices = devices
        self.faults = faults if faults is not None else {}
        self._wrong = wrong
        self.memory: dict[int, Any] = {}
        self.current = False

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if name.startswith("cu"):
            fault = self.faults.get(name)
            if fault is not None:
                return lambda *_: (getattr(cuda_driver.CUresult, fault), None)
        return value

    def _done(self, *results: Any) -> tuple[Any, ...]:
        return (cuda_driver.CUresult.CUDA_SUCCESS, *results)

    def cuInit(self, flags: int) -> tuple[Any, ...]:  # noqa: N802
        return self._done()

    def cuDriverGetVersion(self) -> tuple[Any, ...]:  # noqa: N802
        return self._done(13000)

    def cuDeviceGetCount(self) -> tuple[Any, ...]:  # noqa: N802
        return self._done(self._devices)

    def cuDeviceGet(self, number: int) -> tuple[Any, ...]:  # noqa: N802
        return self._done(number)

    def cuDeviceGetName(self, length: int, device: Any) -> tuple[Any, ...]:  # noqa: N802
        return self._done(b"Substitute 4090".ljust(length, b"\0"))

    def cuDeviceGetAttribute(self, attribute: Any, device: Any) -> tuple[Any, ...]:  # noqa: N802
        major = cuda_driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        return self._done(self._capability[0 if attribute == major else 1])

    def cuDeviceTotalMem(self, device: Any) -> tuple[Any, ...]:  # noqa: N802
        return self._done(24 << 30)

    def cuDevicePrimaryCtxRetain(self, device: Any) -> tuple[Any, ...]:  # noqa: N802
        return self._done("context")

    def cuCtxSetCurrent(self, context: Any) -> tuple[Any, ...]:  # noqa: N802
        self.current = context == "context"
        return self._done()

    def cuStreamCreate(self, flags: int) -> tuple[Any, ...]:  # noqa: N802
        return self._done(7)

    def cuStreamSynchronize(self, stream: Any) -> tuple[Any, ...]:  # noqa: N802
        return self._done()

    def cuModuleLoadData(self, image: int) -> tuple[Any, ...]:  # noqa: N802
        assert ctypes.string_at(image, 4) == b"\x7fELF"
        return self._done("module")

    def cuModuleGetFunction(self, module: Any, name: bytes) -> tuple[Any, ...]:  # noqa: N802
        return self._done(getattr(self._kernels, f"launch_{name.decode()}"))

    def cuMemAlloc(self, nbytes: int) -> tuple[Any, ...]:  # noqa: N802
        assert self.current
        # new device memory holds anything
        buffer = (ctypes.c_char * nbytes).from_buffer(bytearray(b"\xa5" * nbytes))
        address = ctypes.addressof(buffer)
        self.memory[address] = buffer
        return self._done(address)

    def cuMemFree(self, address: int) -> tuple[Any, ...]:  # noqa: N802
        del self.memory[address]
        return self._done()

    def _check(self, address: int, nbytes: int) -> None:
        """What a GPU would answer with an illegal address is an error here."""
        assert any(
            start <= address and address + nbytes <= start + len(buffer)
            for start, buffer in self.memory.items()
        )

    def cuMemsetD8Async(  # noqa: N802
        self, address: int, value: int, nbytes: int, stream: Any
    ) -> tuple[Any, ...]:
        self._check(address, nbytes)
        ctypes.memset(address, value, nbytes)
        return self._done()

    def cuMemcpyHtoD(self, to: int, source: int, nbytes: int) -> tuple[Any, ...]:  # noqa: N802
        self._check(to, nbytes)
        ctypes.memmove(to, source, nbytes)
        return self._done()

    def cuMemcpyDtoH(self, to: int, source: int, nbytes: int) -> tuple[Any, ...]:  # noqa: N802
        self._check(source, nbytes)
        ctypes.memmove(to, source, nbytes)
        return self._done()

    def cuLaunchKernel(self, kernel: Any, *rest: Any) -> tuple[Any, ...]:  # noqa: N802
        blocks, _, _, threads, _, _, shared, _, (values, types), extra = rest
        assert (shared, extra) == (0, 0)
        for value, kind in zip(values, types, strict=True):
            if kind is ctypes.c_void_p:
                self._check(value, 1)
        arguments = [kind(value) for value, kind in zip(values, types, strict=True)]
        kernel(ctypes.c_uint(blocks), ctypes.c_uint(threads), *arguments)
        if self._wrong:
            ctypes.memset(values[0], 0, 4)
        return self._done()


class Runtime:
    """``tensorrt_rtx`` whose engines ONNX Runtime runs; building them is TensorRT's own.

    Parameters
    ----------
    trt
        The real module.
    network
        The ONNX file that the engines stand for.
    driver
        The substitute that holds the tensors.
    """

    def __init__(self, trt: Any, network: Path, driver: Driver) -> None:
        self._trt = trt
        self.network = network
        self.driver = driver
        self.builds = 0
        self.loads = True
        self.spoil: float | None = None
        """Put into every answer."""
        self.runs = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trt, name)

    def Builder(self, log: Any) -> Any:  # noqa: N802
        self.builds += 1
        return self._trt.Builder(log)

    def Runtime(self, log: Any) -> Any:  # noqa: N802
        return _Loader(self)


class _Loader:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def deserialize_cuda_engine(self, blob: bytes) -> Any:
        # "ftrt" and "vtrt" begin TensorRT's files
        known = blob[1:4] == b"trt"
        return _Engine(self._runtime) if known and self._runtime.loads else None


class _Engine:
    num_io_tensors = 2

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.session = onnxruntime.InferenceSession(str(runtime.network))
        ports = [self.session.get_inputs()[0], self.session.get_outputs()[0]]
        self.patch: tuple[int, ...] = (24, 16, 20)
        self.shapes = {p.name: (-1, p.shape[1], *self.patch) for p in ports}

    def get_tensor_name(self, number: int) -> str:
        return list(self.shapes)[number]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_dtype(self, name: str) -> Any:
        return self.runtime.float32

    def create_runtime_config(self) -> Any:
        return _Settings()

    def create_execution_context(self, settings: Any = None) -> Any:
        return _Context(self, settings)


class _Settings:
    cache: Any = None

    def create_runtime_cache(self) -> Any:
        return _Kernels()

    def set_runtime_cache(self, cache: Any) -> None:
        self.cache = cache


class _Kernels:
    def __init__(self) -> None:
        self.content = b"compiled kernels"

    def deserialize(self, content: bytes) -> bool:
        return content == self.content

    def serialize(self) -> bytes:
        return self.content


class _Context:
    def __init__(self, engine: _Engine, settings: Any) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return name in self._engine.shapes

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = tuple(shape)
        return self._shape[1:] == self._engine.shapes[name][1:]

    def execute_async_v3(self, stream: int) -> bool:
        runtime = self._engine.runtime
        if not runtime.runs or not runtime.driver.current or stream != 7:
            return False
        nbytes = int(np.prod(self._shape)) * 4
        runtime.driver._check(self._addresses["image"], nbytes)
        image = np.frombuffer(
            ctypes.string_at(self._addresses["image"], nbytes), np.float32
        ).reshape(self._shape)
        answer = self._engine.session.run(None, {"image": image})[0]
        if runtime.spoil is not None:
            answer[-1, -1, 3, 2, 1] = runtime.spoil
        runtime.driver._check(self._addresses["output"], answer.nbytes)
        ctypes.memmove(self._addresses["output"], answer.tobytes(), answer.nbytes)
        return True
