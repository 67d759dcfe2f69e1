from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda.bindings import nvrtc

from operators.lesion_segmentation.gpu import (
    Gpu,
    GpuError,
    NoGpuError,
    compile_kernels,
    open_gpu,
)
from tests.operators.lesion_segmentation.gpu_substitute import (
    Driver,
    compile_kernels_for_the_processor,
)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory, need_tool: Any) -> ctypes.CDLL:
    return compile_kernels_for_the_processor(need_tool("g++"), tmp_path_factory.mktemp("kernels"))


def _open(driver: Any, devices: Path) -> Gpu:
    return open_gpu(driver, nvrtc, devices)


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0)])
def test_the_kernels_compile_for_every_supported_gpu(capability: tuple[int, int]) -> None:
    image = compile_kernels(nvrtc, capability)
    assert image[:4] == b"\x7fELF"
    for name in (b"probe", b"cut_tile", b"add_tile"):
        assert name in image


def test_an_unknown_gpu_is_an_error_of_the_compiler() -> None:
    with pytest.raises(GpuError, match="nvrtcCompileProgram failed"):
        compile_kernels(nvrtc, (3, 5))


def test_a_working_gpu_is_found(kernels: ctypes.CDLL, tmp_path: Path) -> None:
    driver = Driver(kernels)
    gpu = _open(driver, tmp_path)
    assert gpu.identity.name == "Substitute 4090"
    assert gpu.identity.target == "sm89"
    assert gpu.identity.memory_bytes == 24 << 30
    # the probe's memory is free again
    assert driver.memory == {}


def test_memory_comes_back_as_it_went(kernels: ctypes.CDLL, tmp_path: Path) -> None:
    driver = Driver(kernels)
    gpu = _open(driver, tmp_path)
    array = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    memory = gpu.allocate(array.nbytes + 16)
    gpu.upload(array, memory, 16)
    assert gpu.download(gpu.zeros(12), (3,), np.float32).tolist() == [0, 0, 0]
    np.testing.assert_array_equal(gpu.download(memory, (64,), np.float32)[4:], array.ravel())
    with pytest.raises(ValueError, match="does not fit"):
        gpu.upload(array, memory, 32)
    with pytest.raises(ValueError, match="not contiguous"):
        gpu.upload(array[:, :, ::2], memory)
    with pytest.raises(ValueError, match="larger than the memory"):
        gpu.download(memory, (65,), np.float32)
    del memory
    assert driver.memory == {}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"wrong": True}, "computes a wrong answer"),
        ({"devices": 0}, "CUDA shows no device"),
        ({"capability": (6, 1)}, "sm61"),
        ({"faults": {"cuInit": "CUDA_ERROR_NO_DEVICE"}}, r"cuInit failed \(CUDA_ERROR_NO_DEVICE\)"),
        ({"faults": {"cuMemAlloc": "CUDA_ERROR_OUT_OF_MEMORY"}}, "cuMemAlloc failed"),
        ({"faults": {"cuLaunchKernel": "CUDA_ERROR_LAUNCH_FAILED"}}, "CUDA_ERROR_LAUNCH_FAILED"),
        ({"faults": {"cuModuleLoadData": "CUDA_ERROR_NO_BINARY_FOR_GPU"}}, "NO_BINARY_FOR_GPU"),
        ({"faults": {"cuStreamSynchronize": "CUDA_ERROR_ECC_UNCORRECTABLE"}}, "UNCORRECTABLE"),
    ],
)
def test_a_gpu_that_does_not_work_is_refused_with_the_reason(
    kernels: ctypes.CDLL, tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    (tmp_path / "nvidia0").touch()
    with pytest.raises(NoGpuError, match=reason) as caught:
        _open(Driver(kernels, **options), tmp_path)
    assert caught.value.present
    assert caught.value.reason == str(caught.value)


class _WithoutLibrary:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("libcuda.so.1 not found\nsearched everywhere")


@pytest.mark.parametrize("present", [False, True])
def test_a_missing_driver_is_told_apart_from_a_missing_gpu(tmp_path: Path, present: bool) -> None:
    if present:
        (tmp_path / "nvidia0").touch()
    with pytest.raises(NoGpuError) as caught:
        _open(_WithoutLibrary(), tmp_path)
    assert caught.value.present is present
    assert caught.value.reason == "a CUDA library is missing (libcuda.so.1 not found)"


def test_a_missing_compiler_library_is_named(kernels: ctypes.CDLL, tmp_path: Path) -> None:
    with pytest.raises(NoGpuError, match="a CUDA library is missing"):
        open_gpu(Driver(kernels), _WithoutLibrary(), tmp_path)
