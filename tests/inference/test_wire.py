"""Claims: requests are what the protocol's own code would write, at a fraction of its cost; TLS works and is checked."""

from __future__ import annotations

import datetime
import ipaddress
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from histocast.errors import ConfigError, ServingUnavailable
from histocast.inference.triton.server_command import MUTUAL_TLS
from histocast.inference.triton.wire import read_response, write_request, write_varint
from known_encoders import write_encoder, write_shipped_bundle
from triton_server import ENCODER, Connect, RealServer, Served

StartServer = Callable[..., RealServer]

MOST_CPU_MS_A_TILE = 0.35


@given(st.integers(0, 2**40))
def test_lengths_are_those_of_protocol_buffers(length: int) -> None:
    message = service_pb2.ModelInferRequest()
    message.parameters["n"].uint64_param = length
    assert message.parameters["n"].SerializeToString()[1:] == write_varint(length)


@pytest.mark.parametrize("spots", [0, 1, 7, 700])
def test_a_request_is_what_the_protocol_says(served: Served, spots: int) -> None:
    random = np.random.default_rng(0)
    inputs = {
        "target": random.normal(size=(spots, 6)).astype(np.float32)[::-1],
        "neighbour": random.normal(size=(spots, 25, 6)).astype(np.float32),
        "neighbour_mask": random.random((spots, 25)) > 0.5,
    }
    found = service_pb2.ModelInferRequest.FromString(write_request("m", served.bundle.fusion, inputs))
    assert (found.model_name, found.model_version) == ("m", "1")
    assert [tensor.datatype for tensor in found.inputs] == ["FP32", "FP32", "BOOL"]
    assert [output.name for output in found.outputs] == ["expression", "sd"]
    for tensor, content, (name, value) in zip(found.inputs, found.raw_input_contents, inputs.items(), strict=True):
        assert (tensor.name, tuple(tensor.shape)) == (name, value.shape)
        assert content == value.tobytes()


def test_an_answer_that_lacks_an_output_or_bytes_is_refused(served: Served) -> None:
    answer = service_pb2.ModelInferResponse()
    with pytest.raises(ConfigError, match="expression"):
        read_response(answer, served.bundle.fusion, where="here")
    for name in ("expression", "sd"):
        answer.outputs.add(name=name, datatype="FP32", shape=[2, 30])
        answer.raw_output_contents.append(b"\0" * 100)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_response(answer, served.bundle.fusion, where="here")


def test_the_client_costs_little_a_tile(connect: Connect, start_server: StartServer, tmp_path: Path) -> None:
    bundle = write_shipped_bundle(tmp_path / "b", encoder=write_encoder(tmp_path / "b", tile_px=256))
    server = start_server(fill=lambda server: server.add(tmp_path / "b", bundle))
    predictor = connect(server.url, bundle=bundle, names=("morphology",), shared_memory=False)
    batch = np.random.default_rng(0).integers(0, 256, (64, 256, 256, 3), dtype=np.uint8)
    predictor.infer("morphology", {"tiles": batch})
    costs_ms = []
    for _ in range(4):
        started_s = time.process_time()
        for call in [predictor.submit("morphology", {"tiles": batch}) for _ in range(2)]:
            call.result()
        costs_ms.append(1000 * (time.process_time() - started_s) / 128)
    assert min(costs_ms) <= MOST_CPU_MS_A_TILE


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


def test_certificates_of_both_sides_are_checked(connect: Connect, start_server: StartServer, tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    server = start_server(
        *(MUTUAL_TLS, f"--grpc-server-cert={certificate}", f"--grpc-server-key={key}"),
        f"--grpc-root-cert={certificate}",
    )
    url = server.url.replace("grpc:", "grpcs:")
    tiles = np.zeros((2, 32, 32, 3), np.uint8)
    ours = {"cert": certificate, "key": key}
    served = connect(url, names=ENCODER, ca=certificate, **ours)
    assert served.infer("morphology", {"tiles": tiles})["embedding"].shape == (2, 6)
    with pytest.raises(ConfigError, match="HISTOCAST_TRITON_CA"):
        connect(url, names=ENCODER, patience_s=3, **ours)
    with pytest.raises((ConfigError, ServingUnavailable)):
        connect(url, names=ENCODER, patience_s=3, ca=certificate)
