"""The verb `serve`: this process becomes a Triton server."""

from __future__ import annotations

import os
from typing import NoReturn

from histocast.errors import ConfigError
from histocast.stages.stage import Stage


class Serve(Stage):
    """Run a Triton server that loads all models at start.

    It refuses to change them, and asks for a token, or for certificates of clients.
    """

    models: str
    """Model repository: a folder, or a prefix that Triton can read."""
    grpc: str = "127.0.0.1:8001"
    """Address to listen on, host:port."""
    http: str | None = None
    """Address for HTTP; default: no HTTP."""
    metrics: str | None = None
    """Address for metrics; default: no metrics."""
    tf32: bool = False
    """Let TensorRT compute float32 in TF32."""
    option: tuple[str, ...] = ()
    """Option of tritonserver; may be repeated."""

    def run(self) -> NoReturn:
        """Replace this process by the server.

        Raises `ConfigError`: there is no server here, or it cannot be started; `UsageError`: other machines would reach
        it without a token or certificate.
        """
        from histocast.inference.triton.server_command import COMMAND, find_program, server_environment, server_options
        from histocast.inference.triton.settings import TritonSettings

        token = TritonSettings.from_environment().secret()
        options = server_options(
            self.models, grpc=self.grpc, http=self.http, metrics=self.metrics, token=token, more=self.option
        )
        command = [*find_program(), *options]
        try:
            os.execvpe(command[0], command, server_environment(tf32=self.tf32))  # noqa: S606 - the operator's own command
        except OSError as error:
            raise ConfigError(
                f"{command[0]} cannot be started: {error.strerror}", expected="a program", where=COMMAND
            ) from error
