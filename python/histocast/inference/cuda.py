"""Where onnxruntime runs graphs in this process, and with what options: a CUDA device, or the CPU."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

import onnxruntime

from histocast.inference.predictor import Precision

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
DRIVER = "libcuda.so.1"
CUDA_SUCCESS, CUDA_ERROR_STUB_LIBRARY, CUDA_ERROR_NO_DEVICE = 0, 34, 100
"""What the driver answers (CUDA Driver API, ``CUresult``)."""

CUDNN_SEARCH = "HEURISTIC"
"""How cuDNN chooses an algorithm. The default tries all of them for each new batch size, and a slide has many."""


def choose_providers(available: Sequence[str]) -> list[str]:
    """What shall run graphs, best first: a CUDA device only where the driver is, and nobody hides its devices.

    ``available``: what this build of onnxruntime was made for, which says nothing about the machine.
    """
    if CUDA not in available or os.environ.get("CUDA_VISIBLE_DEVICES") == "" or not is_device_shown():
        return [CPU]
    # Parts of CUDA that were installed as wheels lie where the loader does not look.
    onnxruntime.preload_dlls()
    return [CUDA, CPU]


def is_device_shown() -> bool:
    """Whether the driver is there and shows a device, or has one and cannot use it, which onnxruntime then tells.

    A container that is given the driver and no device (``apptainer --nv`` on a node without a granted GPU) shows none.
    """
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return False
    started: int = driver.cuInit(0)
    if started != CUDA_SUCCESS:
        return started not in (CUDA_ERROR_STUB_LIBRARY, CUDA_ERROR_NO_DEVICE)
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    return count.value > 0


def provider_options(providers: Sequence[str], precision: Precision) -> list[tuple[str, dict[str, str]]]:
    """The same providers with their options; onnxruntime alone would compute float32 in TF32."""
    cuda = {"use_tf32": "1" if precision == "tf32" else "0", "cudnn_conv_algo_search": CUDNN_SEARCH}
    return [(name, cuda if name == CUDA else {}) for name in providers]
