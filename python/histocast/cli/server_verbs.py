"""Verbs about inference servers: repository, serve."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class BackendName(StrEnum):
    """What runs graphs in a server."""

    onnxruntime = "onnxruntime"
    python = "python"


class Precision(StrEnum):
    """Of the arithmetic on GPUs."""

    fp32 = "fp32"
    tf32 = "tf32"
    fp16 = "fp16"


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command()(repository)
    app.command()(serve)


def repository(
    *,
    bundle: Annotated[list[str], typer.Option(help="Folder or s3:// prefix of a bundle; give it often.")],
    outdir: Annotated[Path, typer.Option(help="The model repository; models of other bundles in it stay.")],
    backend: Annotated[
        BackendName, typer.Option(help="onnxruntime for GPUs; python for servers without one.")
    ] = BackendName.onnxruntime,
    max_batch_tiles: Annotated[int, typer.Option(min=1, help="Most tiles an encoder takes at once.")] = 64,
    queue_delay_us: Annotated[int, typer.Option(min=0, help="How long a request waits for others to join it.")] = 2000,
    instances: Annotated[int, typer.Option(min=1, help="Copies of each encoder on each GPU.")] = 2,
    threads: Annotated[int, typer.Option(min=1, help="Threads of a copy, with the python backend.")] = 1,
    tensorrt: Annotated[bool, typer.Option("--tensorrt", help="Compile graphs by TensorRT.")] = False,
    precision: Annotated[Precision, typer.Option(help="Of float32 values; fp16 needs --tensorrt.")] = Precision.fp32,
    engine_cache: Annotated[
        str, typer.Option(help="Folder on the server for what TensorRT compiled.")
    ] = "/var/cache/histocast/tensorrt",
    gpu_memory_mb: Annotated[int | None, typer.Option(min=1, help="Most GPU memory of a copy.")] = None,
) -> None:
    """Write the graphs of bundles as models for Triton."""
    from pydantic import ValidationError

    from histocast.errors import UsageError
    from histocast.inference.triton.model_repository import RepositoryOptions
    from histocast.stages.repository import write_model_repository as run_write_model_repository

    try:
        chosen = RepositoryOptions(
            backend=backend.value,
            max_batch_tiles=max_batch_tiles,
            queue_delay_us=queue_delay_us,
            instances=instances,
            threads=threads,
            tensorrt=tensorrt,
            precision=precision.value,
            engine_cache=engine_cache,
            gpu_memory_mb=gpu_memory_mb,
        )
    except ValidationError as error:
        raise UsageError(str(error.errors()[0]["ctx"]["error"])) from error
    for each in bundle:
        for model in run_write_model_repository(each, outdir=outdir, options=chosen):
            typer.echo(model)


def serve(
    *,
    models: Annotated[str, typer.Option(help="Model repository: a folder, or a prefix that Triton can read.")],
    grpc: Annotated[str, typer.Option(help="Address to listen on, host:port.")] = "127.0.0.1:8001",
    http: Annotated[str | None, typer.Option(help="Address for HTTP; default: no HTTP.")] = None,
    metrics: Annotated[str | None, typer.Option(help="Address for metrics; default: no metrics.")] = None,
    tf32: Annotated[bool, typer.Option("--tf32", help="Let TensorRT compute float32 in TF32.")] = False,
    option: Annotated[list[str] | None, typer.Option(help="Option of tritonserver; may be repeated.")] = None,
) -> None:
    """Run a Triton server that loads all models at start.

    It refuses to change them, and asks for a token.
    """
    import os

    from histocast.errors import ConfigError
    from histocast.inference.triton.server_command import COMMAND, find_program, server_environment, server_options
    from histocast.inference.triton.settings import TritonSettings

    token = TritonSettings.from_environment().secret()
    options = server_options(models, grpc=grpc, http=http, metrics=metrics, token=token)
    command = [*find_program(), *options, *(option or [])]
    try:
        os.execvpe(command[0], command, server_environment(tf32=tf32))  # noqa: S606 - the operator's own command
    except OSError as error:
        raise ConfigError(
            f"{command[0]} cannot be started: {error.strerror}", expected="a program", where=COMMAND
        ) from error
