"""How inference servers run graphs; `histocast repository` shows each field as an option."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from histocast.records import Options


class RepositoryOptions(Options):
    """How a server runs the graphs; none of it but ``precision`` changes a result by more than 1e-5."""

    backend: Literal["onnxruntime", "python"] = "onnxruntime"
    """``onnxruntime`` for GPUs, ``python`` for servers that have no other backend and no GPU."""
    max_batch_tiles: int = Field(default=64, ge=1)
    """Most tiles an encoder takes at once. Clients send at most this many in a request."""
    queue_delay_us: int = Field(default=2000, ge=0)
    """How long a request may wait for others to share its batch; far less than a batch takes."""
    instances: int = Field(default=2, ge=1)
    """Copies of each encoder on each GPU: one computes while the other copies."""
    threads: int = Field(default=1, ge=1)
    """Threads of one copy, with the Python backend."""
    tensorrt: bool = False
    """Whether graphs are compiled by TensorRT, which takes minutes when they are first loaded."""
    precision: Literal["fp32", "tf32", "fp16"] = "fp32"
    """``tf32`` and ``fp16``, which is for TensorRT, depart from the bundle's own results by more than 1e-5."""
    engine_cache: str = "/var/cache/histocast/tensorrt"
    """Folder on the server that keeps what TensorRT compiled."""
    gpu_memory_mb: int | None = Field(default=None, ge=1)
    """Most GPU memory of one copy; unlimited by default."""

    @model_validator(mode="after")
    def _fit_together(self) -> RepositoryOptions:
        if self.precision == "fp16" and not self.tensorrt:
            raise ValueError("precision fp16 needs tensorrt: onnxruntime alone runs a graph as it was exported")
        if self.backend == "python" and (self.tensorrt or self.gpu_memory_mb):
            raise ValueError("the python backend runs on CPUs: leave out tensorrt and gpu memory")
        if self.backend == "python" and self.precision != "fp32":
            raise ValueError("the python backend runs on CPUs, which compute in fp32")
        return self
