"""What exceptions of other libraries mean, where that is known.

Standard library alone, so that it can also speak for a library that cannot be imported.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from importlib import metadata

from histocast.errors import (
    ConfigError,
    DataError,
    DeviceUnavailable,
    HistocastError,
    MissingInputError,
    OutOfMemory,
    OutputError,
    StorageUnavailable,
)

# The disk that is written to is full, over its quota, read-only or too small for the file.
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
# A disk, a network file system or a resource of the machine failed; another machine, or the same one later, may not.
_MACHINE = {
    errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.EREMOTEIO, errno.ETIMEDOUT,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNREFUSED, errno.ECONNRESET,
    errno.EAGAIN, errno.EBUSY, errno.EMFILE, errno.ENFILE,
}  # fmt: skip
_ABSENT = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}

# The same in the words of libraries that keep no number, such as OpenSlide and HDF5.
_MACHINE_SAID = re.compile(
    "|".join(re.escape(os.strerror(number)) for number in (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EREMOTEIO))
)

# What onnxruntime, CUDA, cuDNN, cuBLAS, OpenCV, torch, zlib, libjpeg and WebP say, none of which raises MemoryError.
_OUT_OF_MEMORY = re.compile(
    r"failed to allocate memory|bad[_ ]alloc|out[_ ]of[_ ]memory|insufficient memory|cannot allocate memory"
    r"|memory allocation|Z_MEM_ERROR|CUDA failure 2\b|(?:CUDNN|CUBLAS|CUSOLVER|CUFFT)\w*_ALLOC_FAILED|smaller than requested bytes",
    re.IGNORECASE,
)
# What onnxruntime, torch and Triton say of a GPU that fails beneath them.
_DEVICE = re.compile(
    r"\b(?:CUDA|cuDNN|cuBLAS|cuSOLVER|cuFFT) (?:failure|error)\b|\bCU(?:DNN|BLAS|SOLVER|FFT)_STATUS_", re.IGNORECASE
)
_LONGEST_LINE = 300

# Libraries that are imported by another name than they are installed by.
_INSTALLED_AS = {"sklearn": "scikit-learn", "Bio": "biopython"}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of any library says that the machine or its GPU has no memory left."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None


def out_of_memory(error: BaseException, *, where: str | None = None) -> OutOfMemory:
    """The error to raise in place of one for which `is_out_of_memory` holds."""
    return OutOfMemory(
        f"no memory left: {one_line(error)}",
        where=where,
        advice="give the task more memory or fewer threads, or a GPU that others do not fill",
    )


def is_device_fault(text: str) -> bool:
    """Whether words of any library say that a GPU or its driver failed; memory (`is_out_of_memory`) is asked first."""
    return _DEVICE.search(text) is not None


def device_unavailable(found: str, *, where: str | None = None) -> DeviceUnavailable:
    """The error to raise in place of one for which `is_device_fault` holds."""
    return DeviceUnavailable(
        found,
        where=where,
        advice="look at the GPU of the machine that the task ran on (nvidia-smi) and at the series of its driver; "
        "CUDA_VISIBLE_DEVICES set to nothing runs graphs on the CPU",
    )


def known_error(error: BaseException) -> HistocastError | None:
    """The histocast error that an exception stands for, or None where its meaning is not known.

    A `HistocastError` stands for itself, unless it blames data for a machine's fault (`machine_fault_behind`).
    """
    if isinstance(error, DataError):
        return machine_fault_behind(error) or error
    if isinstance(error, HistocastError):
        return error
    if is_out_of_memory(error):
        return out_of_memory(error)
    if is_device_fault(str(error)):
        return device_unavailable(f"a GPU failed: {one_line(error)}")
    if type(error) is OSError and error.errno is None:
        # Not the system's word: so pyarrow, HDF5 and Pillow say that what they read is damaged.
        return DataError(
            f"a file cannot be read: {one_line(error)}", advice="copy it again, or run again what has written it"
        )
    return _of_absent_extra(error) or _of_system(error)


def _of_absent_extra(error: BaseException) -> ConfigError | None:
    """The error for a library that an extra of the package brings, or None where none does."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    library = error.name.partition(".")[0]
    library = _INSTALLED_AS.get(library, library.replace("_", "-"))
    extras = []
    for requirement in metadata.requires("histocast") or ():
        name, extra = re.match(r"[\w.-]+", requirement), re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        if name and extra and name[0] == library:
            extras.append(f"pip install 'histocast[{extra[1]}]'")
    return ConfigError(f"{library} is not installed, which this needs", advice=" or ".join(extras)) if extras else None


def machine_fault_behind(error: Exception) -> HistocastError | None:
    """The machine's fault that an error was raised from, if one was.

    A decoder that finds no memory, or a disk that fails under a library, looks like damaged data to whoever calls them.
    """
    where = getattr(error, "where", None)
    for cause in _causes(error):
        if is_out_of_memory(cause):
            return out_of_memory(cause, where=where)
        if isinstance(cause, OSError) and is_machine_fault(cause):
            return _of_system(cause)
        if not isinstance(cause, HistocastError) and _MACHINE_SAID.search(str(cause)):
            return StorageUnavailable(f"a library was answered: {one_line(cause)}", where=where)
    return None


def is_machine_fault(error: OSError) -> bool:
    """Whether the system blames a disk, the network or a resource of the machine, and not the file."""
    return error.errno in _UNWRITABLE | _MACHINE or error.errno == errno.ENOMEM


def one_line(error: BaseException) -> str:
    """What an exception says, on one printable line of bounded length."""
    words = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    return words if len(words) <= _LONGEST_LINE else f"{words[:_LONGEST_LINE]} ..."


def _of_system(error: BaseException) -> HistocastError | None:
    if type(error) is RuntimeError and str(error).startswith("Symlink loop"):
        # So Python before 3.13 says of a link to itself, in place of ELOOP.
        return MissingInputError(one_line(error), expected="a link to a file or folder")
    if not isinstance(error, OSError):
        return None
    reason = error.strerror or one_line(error)
    where = one_line(ValueError(error.filename)) if error.filename is not None else None
    if error.errno in _UNWRITABLE:
        return OutputError(
            f"cannot write: {reason}", where=where, advice="make room or choose another disk, then run again"
        )
    if error.errno in _MACHINE:
        return StorageUnavailable(f"the system answered: {reason}", where=where)
    if error.errno in _ABSENT:
        return MissingInputError(
            f"cannot open a file or folder: {reason}", where=where, advice="check that it exists and its permissions"
        )
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause = error.__cause__
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__
