"""Claims: a real server gives what this process gives, in order; what it cannot give is an error that says why."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from histocast.errors import ConfigError, DeadlineExceeded, MissingInputError, ServingUnavailable, UsageError
from histocast.inference import open_predictor, verify_servers
from histocast.inference.triton.model_repository import model_name
from histocast.inference.triton.servers import Server
from histocast.inference.triton.settings import TOKEN_HEADER, ServerAddress, TritonSettings, parse_servers
from histocast.inference.triton.wire import write_request
from known_encoders import expected_embedding, write_encoder, write_shipped_bundle
from triton_server import ENCODER, Connect, RealServer, Served, TcpProxy

StartServer = Callable[..., RealServer]


def tiles(count: int, *, seed: int = 0, low: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, 256, (count, 32, 32, 3)).astype(np.uint8)


def region(spots: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(spots)
    return {
        "target": random.normal(size=(spots, 6)).astype(np.float32),
        "neighbour": random.normal(size=(spots, 25, 6)).astype(np.float32),
        "neighbour_mask": random.random((spots, 25)) > 0.3,
    }


class SeveralAddresses(ServerAddress):
    """A name as a resolver gives it: several servers."""

    @property
    def target(self) -> str:
        return f"ipv4:{self.host}"


class TestAgreement:
    @pytest.mark.parametrize("count", [1, 8, 31, 32, 33, 200])
    def test_an_encoder_gives_the_same_bits_as_in_process(self, served: Served, connect: Connect, count: int) -> None:
        predictor = connect(served.server.url)
        with open_predictor(served.folder, served.bundle, names=("morphology",), threads=2) as here:
            expected = here.infer("morphology", {"tiles": tiles(count)})
        found = predictor.infer("morphology", {"tiles": tiles(count)})
        np.testing.assert_array_equal(found["embedding"], expected["embedding"])
        np.testing.assert_allclose(found["embedding"], expected_embedding(tiles(count)), atol=1e-5)

    @pytest.mark.parametrize("spots", [1, 500])
    def test_the_fusion_graph_too_whatever_the_region(self, served: Served, connect: Connect, spots: int) -> None:
        with open_predictor(served.folder, served.bundle, names=("fusion",), threads=1) as here:
            expected = here.infer("fusion", region(spots))
        found = connect(served.server.url).infer("fusion", region(spots))
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-5)

    def test_order_is_kept_with_many_calls_under_way(self, served: Served, connect: Connect) -> None:
        predictor = connect(served.server.url, in_flight=8)
        batches = [tiles(1 + number % 7, seed=number) for number in range(60)]
        calls = [predictor.submit("morphology", {"tiles": batch}) for batch in batches]
        for batch, call in zip(batches, calls, strict=True):
            np.testing.assert_allclose(call.result()["embedding"], expected_embedding(batch), atol=1e-5)
        facts = predictor.facts()
        assert facts["server_requests"] == 60
        assert facts["server_retries"] == 0
        assert facts["server_p99_ms"] >= facts["server_p50_ms"] > 0
        assert float(facts["effective_batch"]) >= 1

    def test_several_threads_may_call(self, served: Served, connect: Connect) -> None:
        predictor = connect(served.server.url)
        found: dict[int, np.ndarray] = {}

        def work(seed: int) -> None:
            found[seed] = predictor.infer("morphology", {"tiles": tiles(5, seed=seed)})["embedding"]

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for seed, value in found.items():
            np.testing.assert_allclose(value, expected_embedding(tiles(5, seed=seed)), atol=1e-5)
        assert len(found) == 8


class TestRefusals:
    @pytest.mark.parametrize("inputs", [{"tiles": tiles(2).astype(np.float32)}, {"tiles": tiles(2)[:, :30]}, {}])
    def test_inputs_that_do_not_fit_never_leave(self, served: Served, connect: Connect, inputs: dict) -> None:
        with pytest.raises(ConfigError, match="morphology"):
            connect(served.server.url).submit("morphology", inputs)

    def test_nan_is_named_with_graph_tensor_and_server(self, served: Served, connect: Connect) -> None:
        predictor = connect(served.server.url)
        assert np.isfinite(predictor.infer("logarithm", {"tiles": tiles(3, low=200)})["map"]).all()
        with pytest.raises(ConfigError, match=r"'logarithm', server grpc://127.*tensor 'map': 18 of 18 values are NaN"):
            predictor.infer("logarithm", {"tiles": tiles(3) // 4})

    def test_the_first_refusal_ends_all_other_calls(self, connect: Connect, proxy: TcpProxy) -> None:
        predictor = connect(proxy.url, in_flight=3)
        proxy.delay_s = 0.5
        bad = predictor.submit("logarithm", {"tiles": tiles(3) // 4})
        others = [predictor.submit("morphology", {"tiles": tiles(32, seed=seed)}) for seed in range(40)]
        started_s = time.monotonic()
        with pytest.raises(ConfigError, match="NaN"):
            bad.result()
        with pytest.raises(ConfigError, match="NaN"):
            others[-1].result()
        assert time.monotonic() - started_s < 10
        with pytest.raises(ConfigError, match="NaN"):
            predictor.submit("morphology", {"tiles": tiles(1)})

    def test_another_version_of_the_bundle_is_refused_and_both_are_named(
        self, served: Served, connect: Connect, tmp_path: Path
    ) -> None:
        newer = write_shipped_bundle(tmp_path, encoder=write_encoder(tmp_path, scale=0.5))
        with pytest.raises(ConfigError) as raised:
            connect(served.server.url, bundle=newer)
        assert model_name("morphology", newer.encoders[0]) in raised.value.message
        assert model_name("morphology", served.bundle.encoders[0]) in raised.value.message
        assert newer.encoders[0].sha256 in raised.value.message
        assert raised.value.exit_code == 78

    def test_versions_stand_side_by_side(
        self, served: Served, connect: Connect, start_server: StartServer, tmp_path: Path
    ) -> None:
        newer = write_shipped_bundle(tmp_path, encoder=write_encoder(tmp_path, scale=0.5))

        def fill(server: RealServer) -> None:
            first, second = server.add(served.folder, served.bundle), server.add(tmp_path, newer)
            assert first[-1] == second[-1], "the same fusion graph is one model"
            assert first[0] != second[0]

        server = start_server(fill=fill)
        for bundle, scale in ((served.bundle, 1 / 255), (newer, 0.5)):
            found = connect(server.url, bundle=bundle).infer("morphology", {"tiles": tiles(4)})["embedding"]
            np.testing.assert_allclose(found, expected_embedding(tiles(4), scale=scale), rtol=1e-5)

    def test_what_was_tampered_with_is_refused(
        self, served: Served, connect: Connect, start_server: StartServer
    ) -> None:
        encoder = served.bundle.encoders[0]

        def claim_other_digest(server: RealServer) -> None:
            server.add(served.folder, served.bundle, names=ENCODER)
            folder = server.repository / model_name("morphology", encoder)
            onnx = folder / "1" / "model.onnx"
            onnx.write_bytes((served.folder / "encoders/logarithm.onnx").read_bytes())
            config = folder / "config.pbtxt"
            other = served.bundle.encoders[1].sha256
            config.write_text(config.read_text().replace(encoder.sha256, other).replace('"embedding"', '"map"'))

        with pytest.raises(ConfigError, match=served.bundle.encoders[1].sha256) as raised:
            connect(start_server(fill=claim_other_digest).url, names=ENCODER)
        assert encoder.sha256 in str(raised.value.expected)

    def test_a_precision_that_was_not_asked_for_is_refused(self, served: Served, connect: Connect) -> None:
        with pytest.raises(ConfigError, match="computes in precision fp32") as raised:
            connect(served.server.url, precision="tf32")
        assert raised.value.expected == "tf32"

    def test_a_graph_whose_bytes_are_not_those_stated_is_not_loaded(
        self, served: Served, start_server: StartServer
    ) -> None:
        def exchange(server: RealServer) -> None:
            server.add(served.folder, served.bundle, names=ENCODER)
            model = server.repository / model_name("morphology", served.bundle.encoders[0])
            (model / "1/model.onnx").write_bytes((served.folder / "fusion.onnx").read_bytes())

        with pytest.raises(AssertionError, match=r"model\.onnx has sha256"):
            start_server(fill=exchange)

    def test_an_answer_of_the_wrong_shape_is_refused(
        self, served: Served, connect: Connect, start_server: StartServer
    ) -> None:
        def halve(server: RealServer) -> None:
            server.add(served.folder, served.bundle, names=ENCODER)
            program = server.repository / model_name("morphology", served.bundle.encoders[0]) / "1/model.py"
            text = program.read_text()
            assert "value) for name, value" in text
            program.write_text(text.replace("pb_utils.Tensor(name, value)", "pb_utils.Tensor(name, value[::2])"))

        predictor = connect(start_server(fill=halve).url, names=ENCODER)
        with pytest.raises(ConfigError, match=r"'morphology', server .*'embedding'.*shape \(2, 6\)"):
            predictor.infer("morphology", {"tiles": tiles(4)})


class TestFaults:
    def test_killed_and_started_again_the_work_goes_on(self, connect: Connect, start_server: StartServer) -> None:
        server = start_server()
        predictor = connect(server.url, names=ENCODER)
        batches = [tiles(20, seed=number) for number in range(40)]
        calls = [predictor.submit("morphology", {"tiles": batch}) for batch in batches]
        calls[3].result()
        server.kill()
        threading.Timer(0.5, server.start, kwargs={"wait": False}).start()
        for batch, call in zip(batches, calls, strict=True):
            np.testing.assert_allclose(call.result()["embedding"], expected_embedding(batch), atol=1e-5)
        server.wait()
        assert int(predictor.facts()["server_retries"]) >= 1

    def test_killed_for_good_it_is_a_transient_error_after_the_patience(
        self, connect: Connect, start_server: StartServer
    ) -> None:
        server = start_server()
        predictor = connect(server.url, names=ENCODER, patience_s=2)
        server.kill()
        started_s = time.monotonic()
        with pytest.raises(ServingUnavailable, match=r"given up .* after \d+ tries in \d s") as raised:
            predictor.infer("morphology", {"tiles": tiles(4)})
        assert raised.value.exit_code == 75
        assert 2 <= time.monotonic() - started_s < 25
        assert server.url in str(raised.value.where)

    def test_no_server_at_all_is_one_too(self, connect: Connect) -> None:
        with pytest.raises(ServingUnavailable):
            connect("grpc://127.0.0.1:9", patience_s=0.5)

    def test_one_of_two_replicas_dead_is_hardly_noticed(
        self, served: Served, connect: Connect, start_server: StartServer
    ) -> None:
        second = start_server()
        predictor = connect(f"{served.server.url},{second.url}", names=ENCODER)
        batches = [tiles(10, seed=number) for number in range(40)]
        calls = [predictor.submit("morphology", {"tiles": batch}) for batch in batches]
        calls[5].result()
        second.kill()
        for batch, call in zip(batches, calls, strict=True):
            np.testing.assert_allclose(call.result()["embedding"], expected_embedding(batch), atol=1e-5)

    def test_one_of_two_replicas_dead_from_the_start_too(self, served: Served, connect: Connect) -> None:
        for url in (f"grpc://127.0.0.1:9,{served.server.url}", f"{served.server.url},grpc://127.0.0.1:9"):
            found = connect(url, patience_s=5).infer("morphology", {"tiles": tiles(70)})["embedding"]
            np.testing.assert_allclose(found, expected_embedding(tiles(70)), atol=1e-5)
            verify_servers(served.bundle, triton_url=url)

    def test_two_replicas_share_the_work(self, served: Served, connect: Connect) -> None:
        proxies = [TcpProxy(served.server.port) for _ in range(2)]
        predictor = connect(",".join(proxy.url for proxy in proxies), names=("morphology",))
        predictor.check_every_server()
        for proxy in proxies:
            proxy.delay_s, proxy.answers = 0.05, 0
        for call in [predictor.submit("morphology", {"tiles": tiles(8, seed=seed)}) for seed in range(24)]:
            call.result()
        assert all(proxy.answers >= 6 for proxy in proxies)
        for proxy in proxies:
            proxy.close()

    def test_a_name_for_several_servers_is_balanced_over_them(self, served: Served) -> None:
        proxies = [TcpProxy(served.server.port) for _ in range(2)]
        several = SeveralAddresses(scheme="grpc", host=",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies), port=0)
        server = Server(several, TritonSettings())
        encoder = served.bundle.encoders[0]
        request = write_request(model_name("morphology", encoder), encoder, {"tiles": tiles(2)})
        try:
            # Connections come up one after the other; from then on each is asked in turn.
            for _ in range(200):
                server.infer(request, timeout=20)
                if all(proxy.answers > 2 for proxy in proxies):
                    break
            for proxy in proxies:
                proxy.answers = 0
            for _ in range(20):
                server.infer(request, timeout=20)
            assert all(proxy.answers >= 8 for proxy in proxies), [proxy.answers for proxy in proxies]
        finally:
            server.close()
            for proxy in proxies:
                proxy.close()

    def test_a_server_whose_queue_is_full_is_asked_again(
        self, served: Served, connect: Connect, start_server: StartServer
    ) -> None:
        def narrow(server: RealServer) -> None:
            server.add(served.folder, served.bundle, names=ENCODER)
            folder = server.repository / model_name("morphology", served.bundle.encoders[0])
            config = (folder / "config.pbtxt").read_text()
            assert "dynamic_batching {" in config
            policy = "dynamic_batching {\n  default_queue_policy { max_queue_size: 1 }"
            (folder / "config.pbtxt").write_text(config.replace("dynamic_batching {", policy))
            program = (folder / "1/model.py").read_text()
            slow = program.replace("        begun = ", "        __import__('time').sleep(0.1)\n        begun = ")
            assert slow != program
            (folder / "1/model.py").write_text(slow)

        predictor = connect(start_server(fill=narrow).url, names=ENCODER, in_flight=8)
        batches = [tiles(32, seed=number) for number in range(16)]
        calls = [predictor.submit("morphology", {"tiles": batch}) for batch in batches]
        for batch, call in zip(batches, calls, strict=True):
            np.testing.assert_allclose(call.result()["embedding"], expected_embedding(batch), atol=1e-5)
        assert int(predictor.facts()["server_retries"]) >= 1

    def test_two_seconds_of_latency_cost_time_and_nothing_else(self, connect: Connect, proxy: TcpProxy) -> None:
        predictor = connect(proxy.url, in_flight=8)
        proxy.delay_s = 2
        started_s = time.monotonic()
        calls = [predictor.submit("morphology", {"tiles": tiles(4, seed=seed)}) for seed in range(8)]
        for seed, call in enumerate(calls):
            np.testing.assert_allclose(call.result()["embedding"], expected_embedding(tiles(4, seed=seed)), atol=1e-5)
        assert 2 <= time.monotonic() - started_s < 30
        assert predictor.facts()["server_retries"] == 0

    def test_a_stall_ends_by_the_deadline_and_is_tried_again(self, connect: Connect, proxy: TcpProxy) -> None:
        predictor = connect(proxy.url, deadline_s=0.5)
        proxy.stalled.set()
        threading.Timer(1.2, proxy.stalled.clear).start()
        found = predictor.infer("morphology", {"tiles": tiles(4)})["embedding"]
        np.testing.assert_allclose(found, expected_embedding(tiles(4)), atol=1e-5)
        assert int(predictor.facts()["server_retries"]) >= 1

    def test_a_stall_without_end_is_a_deadline_exceeded(self, connect: Connect, proxy: TcpProxy) -> None:
        predictor = connect(proxy.url, deadline_s=0.4, patience_s=1)
        proxy.stalled.set()
        with pytest.raises(DeadlineExceeded) as raised:
            predictor.infer("morphology", {"tiles": tiles(4)})
        assert raised.value.exit_code == 75

    def test_an_unloaded_model_is_asked_for_by_name(
        self, served: Served, connect: Connect, start_server: StartServer
    ) -> None:
        # A server of others, which lets its clients unload models.
        server = start_server("--model-control-mode=explicit", "--load-model=*")
        predictor = connect(server.url, names=ENCODER, patience_s=1)
        model = model_name("morphology", served.bundle.encoders[0])
        with InferenceServerClient(server.url.removeprefix("grpc://")) as client:
            client.unload_model(model)
        with pytest.raises(ConfigError, match=model) as raised:
            predictor.infer("morphology", {"tiles": tiles(4)})
        assert raised.value.exit_code == 78
        with pytest.raises(ConfigError, match=model):
            connect(server.url, names=ENCODER, patience_s=1)

    def test_closing_does_not_wait_for_what_is_under_way(self, connect: Connect, proxy: TcpProxy) -> None:
        predictor = connect(proxy.url)
        proxy.stalled.set()
        for seed in range(10):
            predictor.submit("morphology", {"tiles": tiles(4, seed=seed)})
        started_s = time.monotonic()
        predictor.close()
        assert time.monotonic() - started_s < 8


class TestSettings:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("grpc://a:8001", ["grpc://a:8001"]),
            ("a", ["grpc://a:8001"]),
            ("grpc://a:1,b:2", ["grpc://a:1", "grpc://b:2"]),
            ("grpcs://a, b:9 ,a:8001", ["grpcs://a:8001", "grpcs://b:9"]),
            ("grpc://[::1]:8001", ["grpc://[::1]:8001"]),
        ],
    )
    def test_addresses(self, text: str, expected: list[str]) -> None:
        assert [str(address) for address in parse_servers(text)] == expected

    @pytest.mark.parametrize("text", ["", "http://a:8000", "grpc://a:port", "grpc://a/model", "grpc://a:1,,b:2"])
    def test_what_is_no_address_is_a_usage_error(self, text: str) -> None:
        with pytest.raises(UsageError, match="grpc://host:8001"):
            parse_servers(text)

    def test_the_environment_is_read_and_judged(self, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text("")
        given = {"HISTOCAST_TRITON_CA": f"{tmp_path}/ca.pem", "HISTOCAST_TRITON_DEADLINE_S": "7"}
        settings = TritonSettings.from_environment({**given, "HISTOCAST_TRITON_TOKEN": "hush"})
        assert settings.deadline_s == 7
        assert settings.headers() == {"authorization": "Bearer hush", TOKEN_HEADER: "hush"}
        for header, sent in (("Authorization", "Bearer hush"), ("X-Key", "hush")):
            named = settings.model_copy(update={"token_header": header})
            assert named.headers() == {header.lower(): sent}
        assert "hush" not in repr(settings)
        assert TritonSettings.from_environment({"HISTOCAST_PRECISION": "tf32"}).precision == "tf32"
        with pytest.raises(UsageError, match="HISTOCAST_PRECISION is 'fp8'"):
            TritonSettings.from_environment({"HISTOCAST_PRECISION": "fp8"})
        with pytest.raises(UsageError, match="HISTOCAST_TRITON_IN_FLIGHT"):
            TritonSettings.from_environment({"HISTOCAST_TRITON_IN_FLIGHT": "many"})
        with pytest.raises(MissingInputError, match="HISTOCAST_TRITON_CERT"):
            TritonSettings.from_environment({"HISTOCAST_TRITON_CERT": f"{tmp_path}/absent"})

    def test_tls_against_a_server_without_it_says_so(self, served: Served, connect: Connect) -> None:
        with pytest.raises(ConfigError, match="grpcs://"):
            connect(served.server.url.replace("grpc:", "grpcs:"))
