"""S3 objects are read in few requests, and come whole, of one version, or as a clear error."""

from __future__ import annotations

import io
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from faulty_proxy import BUCKET, REGION
from histocast.errors import ConfigError, DataError, MissingInputError, StorageUnavailable, UsageError
from histocast.storage import open_source, sampled_digest
from histocast.storage.s3 import ATTEMPTS, CONCURRENCY
from histocast.storage.s3_buckets import list_keys
from histocast.storage.survey import stat_sources

URI = f"s3://{BUCKET}/slides/a slide+ü.svs"
KEY = URI.removeprefix(f"s3://{BUCKET}/")


@pytest.fixture
def stored(bucket, content: bytes) -> None:
    bucket.upload_fileobj(io.BytesIO(content), BUCKET, KEY)


@pytest.fixture
def ranges() -> list[tuple[int, int]]:
    """A thousand pieces of 12 kB with gaps, out of order, as a slide's tiles are."""
    return [((index * 7919) % 1000 * 20_000, 12_000) for index in range(1000)]


def read(ranges: list[tuple[int, int]], uri: str = URI, **options: object) -> dict[int, bytes]:
    with open_source(uri, **options) as source:
        return dict(source.read_ranges(dict(enumerate(ranges))))


def check(pieces: dict[int, bytes], ranges: list[tuple[int, int]], content: bytes) -> None:
    assert set(pieces) == set(range(len(ranges)))
    assert all(pieces[index] == content[start : start + length] for index, (start, length) in enumerate(ranges))


def test_ranges_come_in_few_requests(stored, proxy, content: bytes, ranges) -> None:
    check(read(ranges), ranges, content)
    assert len(proxy.requests) <= 5
    assert proxy.most_open <= CONCURRENCY


def test_far_ranges_are_not_joined(stored, proxy, content: bytes) -> None:
    far = [(0, 10), (5_000_000, 10), (12_000_000, 10), (19_999_990, 100)]
    check(read(far), far, content)
    assert sorted(asked for _, asked in proxy.requests) == [
        "bytes=0-0",
        "bytes=0-9",
        "bytes=12000000-12000009",
        "bytes=19999990-19999999",
        "bytes=5000000-5000009",
    ]


def test_reading_and_copying(stored, content: bytes, tmp_path) -> None:
    with open_source(URI) as source:
        assert source.stat().size_bytes == len(content)
        assert source.read(0, 0) == b""
        assert source.read(19_999_990, 100) == content[19_999_990:]
        assert source.read(50_000_000, 100) == b""
        assert source.read(1000, 18_000_000) == content[1000:18_001_000]
        copy = source.local_copy(tmp_path / "scratch")
        assert copy.read_bytes() == content
        assert copy.suffix == ".svs"
        assert "slide" not in copy.name
        (tmp_path / "same").write_bytes(content)
        with open_source(str(tmp_path / "same")) as local:
            assert sampled_digest(source) == sampled_digest(local)


@pytest.mark.parametrize("fate", ["503", "500", "429", "cut", "reset", "longer"])
def test_passing_faults_are_ridden_out(fate: str, stored, proxy, content: bytes, ranges) -> None:
    proxy.fate = lambda number: fate if number % 3 == 1 else "ok"
    check(read(ranges), ranges, content)


def test_a_stall_is_given_up_and_asked_again(stored, proxy, content: bytes) -> None:
    proxy.fate = lambda number: "stall" if number == 1 else "ok"
    check(read([(0, 1000)]), [(0, 1000)], content)
    assert proxy.stalled.is_set()


@pytest.mark.parametrize("fate", ["503", "cut", "reset", "stall", "longer"])
def test_a_lasting_fault_is_transient_and_ends(fate: str, stored, proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histocast.storage.s3_buckets.READ_TIMEOUT_S", 0.5)
    proxy.fate = lambda number: fate if number else "ok"
    started = time.monotonic()
    with pytest.raises(StorageUnavailable, match=r"^slide of sample S1: the store") as caught:
        read([(0, 1000)], name="slide of sample S1")
    assert caught.value.exit_code == 75
    assert "svs" not in str(caught.value), "keys can hold patients' names"
    assert len(proxy.requests) == 1 + ATTEMPTS
    assert time.monotonic() - started < 10


def test_an_object_overwritten_between_stages_is_refused(stored, bucket, content: bytes) -> None:
    with open_source(URI) as source:
        version = source.stat().version
    assert read([(0, 5)], version=version)[0] == content[:5]
    bucket.upload_fileobj(io.BytesIO(content[::-1]), BUCKET, KEY)
    with pytest.raises(DataError, match="overwritten") as caught:
        read([(0, 5)], version=version)
    assert caught.value.exit_code == 65


@pytest.mark.parametrize("first", [0, 1], ids=["the first answer", "a later one"])
def test_an_object_without_an_etag_is_refused(first: int, stored, proxy) -> None:
    proxy.fate = lambda number: "untagged" if number >= first else "ok"
    with pytest.raises(DataError, match="no ETag") as caught:
        read([(0, 5)])
    assert caught.value.exit_code == 65


def test_an_object_overwritten_while_it_is_read_never_mixes(stored, proxy, bucket, content: bytes) -> None:
    far = [(start, 10) for start in range(0, 20_000_000, 1_100_000)]
    replaced = False

    def replace(number: int) -> None:
        nonlocal replaced
        if number > 5 and not replaced:
            replaced = True
            bucket.put_object(Bucket=BUCKET, Key=KEY, Body=bytes(len(content)))

    proxy.before = replace
    with pytest.raises(DataError, match="overwritten") as caught:
        read(far)
    assert caught.value.exit_code == 65


@pytest.mark.parametrize(
    ("uri", "words"),
    [(f"s3://{BUCKET}/absent.svs", "no such object"), ("s3://no-such-bucket/a.svs", "no such")],
)
def test_what_is_not_there(uri: str, words: str, bucket) -> None:
    with open_source(uri) as source, pytest.raises(MissingInputError, match=words) as caught:
        source.stat()
    assert caught.value.exit_code == 66


def test_what_may_not_be_read(stored, proxy) -> None:
    proxy.fate = lambda _: "403"
    with open_source(URI, name="slide of sample S1") as source, pytest.raises(MissingInputError) as caught:
        source.stat()
    assert caught.value.exit_code == 66
    assert "slide of sample S1: access is forbidden" in caught.value.message
    assert "grant the permission" in caught.value.message
    assert "svs" not in caught.value.message
    assert len(proxy.requests) == 1, "not asked again"


REFUSED = {
    "ExpiredToken": (StorageUnavailable, "the credentials have expired", "renew them"),
    "InvalidToken": (StorageUnavailable, "session token is not valid", "renew them"),
    "InvalidAccessKeyId": (StorageUnavailable, "access key is not known", "renew them"),
    "SignatureDoesNotMatch": (StorageUnavailable, "does not fit the access key", "renew them"),
    "RequestTimeTooSkewed": (StorageUnavailable, "clock of this machine", "NTP"),
    "AccessDenied": (MissingInputError, "forbidden", "grant the permission"),
    "InvalidObjectState": (MissingInputError, "archived", "restore it"),
    "AuthorizationHeaderMalformed": (ConfigError, "refused with 400", "AWS_REGION"),
}


@pytest.mark.parametrize("at_first", [True, False], ids=["at first", "in the middle"])
@pytest.mark.parametrize("code", REFUSED)
def test_a_refusal_of_who_asks_is_no_fault_of_the_object(
    code: str, stored, proxy, monkeypatch: pytest.MonkeyPatch, at_first: bool
) -> None:
    monkeypatch.setattr("histocast.storage.s3.BACKOFF_S", 0.001)
    proxy.fate = lambda number: code if at_first or number else "ok"
    kind, words, advice = REFUSED[code]
    with pytest.raises(kind, match=words) as caught:
        read([(0, 10)], name="slide of sample S1")
    assert type(caught.value) is kind
    assert advice in caught.value.message
    assert "svs" not in caught.value.message


def test_an_archived_object_is_told_before_it_is_read(bucket, proxy) -> None:
    bucket.put_object(Bucket=BUCKET, Key=KEY, Body=b"12345", StorageClass="GLACIER")
    with open_source(URI) as source, pytest.raises(MissingInputError, match="archived"):
        source.stat()


@pytest.mark.parametrize("service", ["none", "503"])
def test_without_credentials(bucket, proxy, monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    """A metadata service that is busy looks like none: another try may find it, and the last one says what is missing."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true" if service == "none" else "false")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", proxy.url)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    proxy.fate = lambda _: "503"
    with open_source(URI) as source, pytest.raises(StorageUnavailable, match="no credentials") as caught:
        source.stat()
    assert "AWS_PROFILE" in caught.value.message


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch, s3_endpoint: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("histocast.storage.s3.BACKOFF_S", 0.01)
    with open_source(URI, name="slide of sample S1") as source, pytest.raises(StorageUnavailable) as caught:
        source.stat()
    assert "127.0.0.1:9" in str(caught.value)
    assert "svs" not in str(caught.value), "keys can hold patients' names"


def test_a_proxy_that_is_not_there_keeps_its_password(bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.invalid")
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:9")
    monkeypatch.setattr("histocast.storage.s3.BACKOFF_S", 0.01)
    with open_source(URI, name="slide of sample S1") as source, pytest.raises(StorageUnavailable) as caught:
        source.stat()
    assert "127.0.0.1:9" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "svs" not in str(caught.value)


def test_an_unknown_profile_is_said(bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with open_source(URI) as source, pytest.raises(ConfigError, match="nobody"):
        source.stat()


def test_requester_pays(stored, proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    assert read([(0, 5)])
    assert [sent.get("x-amz-request-payer") for sent in proxy.headers] == ["requester"] * 2


@pytest.mark.parametrize("key", ["a//b.svs", "/b.svs", "folder/", "//", "a~ +%2F%?#&=;é\u00a0.svs", "c\\d:e*.svs"])
def test_any_key_that_a_url_can_say(key: str, bucket) -> None:
    bucket.put_object(Bucket=BUCKET, Key=key, Body=b"12345")
    assert read([(1, 3)], uri=f"s3://{BUCKET}/{key}")[0] == b"234"
    assert list(list_keys(BUCKET, "")) == [key]


def test_an_empty_object(bucket, tmp_path) -> None:
    bucket.put_object(Bucket=BUCKET, Key="empty.csv", Body=b"")
    with open_source(f"s3://{BUCKET}/empty.csv") as source:
        assert source.stat().size_bytes == 0
        assert source.read(0, 10) == b""
        assert source.local_copy(tmp_path).read_bytes() == b""


def test_a_bucket_of_another_region_is_found(stored, proxy, content: bytes) -> None:
    """Who is sent away after another has found the region asks there as well."""
    proxy.fate = lambda _: "elsewhere"
    gathering = threading.Barrier(8, timeout=20)
    # Eight are sent away together.
    proxy.before = lambda number: gathering.wait() if number < 8 else None
    answers = dict(stat_sources([(URI, "slide")] * 8))
    assert [found.size_bytes for found in answers.values()] == [len(content)] * 8
    assert [method for method, _ in proxy.requests].count("HEAD") <= 2, "asked for the region once"


def test_settings_are_found_as_other_aws_tools_find_them(
    stored, proxy, tmp_path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Profile, keys, region and endpoint, from files, where the machine has no certificates of its own."""
    (tmp_path / "config").write_text(f"[profile lab]\nendpoint_url = {proxy.url}\nregion = {REGION}\n")
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = LAB\naws_secret_access_key = s\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_PROFILE": "lab",
        "SSL_CERT_FILE": "/nonexistent",
        "SSL_CERT_DIR": "/nonexistent",
    }.items():
        monkeypatch.setenv(name, value)
    for region in (REGION, "us-west-2"):
        check(read([(0, 5)]), [(0, 5)], content)
        assert f"Credential=LAB/{datetime.now(UTC):%Y%m%d}/{region}/s3/" in proxy.headers[-1]["authorization"]
        # Before the region of the profile.
        monkeypatch.setenv("AWS_REGION", "us-west-2")


def test_credentials_that_are_renewed_in_their_file_are_used(stored, proxy, tmp_path, monkeypatch) -> None:
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = OLD\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with open_source(URI) as source:
        source.stat()
        file.write_text(file.read_text().replace("OLD", "NEW"))
        proxy.fate = lambda number: "ExpiredToken" if number == 1 else "ok"
        source.read(0, 5)
    assert [sent["authorization"].split("=")[1][:3] for sent in proxy.headers] == ["OLD", "OLD", "NEW"]


@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_store_behind_certificates_of_its_own(
    is_trusted: bool, stored, proxy, tmp_path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    proxy.socket = context.wrap_socket(proxy.socket, server_side=True)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url.replace("http:", "https:"))
    if is_trusted:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        check(read([(0, 5)]), [(0, 5)], content)
        return
    with pytest.raises(StorageUnavailable, match=r"did not answer: .*UnknownIssuer"):
        read([(0, 5)])


def write_certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that no list has, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "store")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(hours=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path = folder / "store.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(serialization.Encoding.PEM, *form)
    )
    return path


@pytest.mark.parametrize(
    "uri", ["s3://", "s3://bucket", "s3://bucket/", "s3:///key", "s3://b/../a", "s3://b/a/.", "s3://b/a\nb"]
)
def test_what_is_no_uri(uri: str) -> None:
    with pytest.raises(UsageError, match="bucket/key"):
        open_source(uri)


def test_a_full_scratch_disk_is_an_output_error(stored, tmp_path) -> None:
    from histocast.errors import OutputError

    (tmp_path / "file").write_bytes(b"")
    with open_source(URI) as source, pytest.raises(OutputError, match="HISTOCAST_SCRATCH"):
        source.local_copy(tmp_path / "file")
