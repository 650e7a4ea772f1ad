"""What the viewer of a sample's page reads is true to the file, of bounded size, and safe."""

from __future__ import annotations

import base64
import json
import re
import shutil
import tracemalloc
import zlib
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from anndata.io import write_elem

from histocast.bundle import bundle_digest
from histocast.cohort.cohort_page import MODULES as COHORT_MODULES
from histocast.report import viewer
from histocast.report.packing import COARSE_STEPS, FINE_STEPS, choose_digits, pack_column, pack_json
from histocast.report.page import SCRIPTS, hash_source, read_script
from histocast.report.viewer import MODULES
from predicted_sample import predict, write_report
from sample_bundle import SlideFiles, write_bundle, write_slide_files


def inflate(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def unpack(column: dict, count: int) -> np.ndarray:
    """As scripts/payload.js does, NaN where missing."""
    planes = np.frombuffer(inflate(column["data"]), np.uint8).reshape(column["bytes"], count).astype(np.int64)
    codes = sum(plane << (8 * place) for place, plane in enumerate(planes))
    if column["delta"]:
        codes = np.cumsum(np.where(codes % 2, -(codes + 1) // 2, codes // 2))
    return np.where(codes == 0, np.nan, (codes - 1 + column["least"]) / 10.0 ** column["digits"])


def read_page(source: str) -> dict:
    return json.loads(re.search(r'id="viewer-data">(.*?)</script>', source).group(1))


RANDOM = np.random.default_rng(8)
COLUMNS = {
    "noise": RANDOM.normal(2, 0.6, 500),
    "smooth": np.sin(np.arange(500) / 60) * 3,
    "ties": np.arange(500) / 8 - 20,
    "flat": np.full(500, 0.125),
    "small": RANDOM.normal(0, 3e-4, 500),
    "large": RANDOM.normal(0, 4e6, 500),
    "one far outlier": np.append(RANDOM.normal(0, 1, 499), 1e9),
    "unreadable spots": np.where(np.arange(500) % 7 == 0, np.nan, RANDOM.normal(0, 1, 500)),
    "nothing readable": np.full(500, np.nan),
    "one spot": np.array([0.7]),
}


class TestPacking:
    @pytest.mark.parametrize("steps", [FINE_STEPS, COARSE_STEPS])
    @pytest.mark.parametrize("name", COLUMNS)
    def test_what_is_unpacked_prints_as_the_file_does(self, name, steps):
        values = COLUMNS[name].astype(np.float32)
        digits = choose_digits(values, steps=steps)
        found = unpack(json.loads(json.dumps(pack_column(values, digits=digits))), len(values))
        shown = max(digits, 0)
        for one, two in zip(values, found, strict=True):
            expected = np.round(np.float64(one), digits)
            assert f"{two:.{shown}f}" == f"{expected + 0.0:.{shown}f}"

    @pytest.mark.parametrize("name", ["noise", "smooth", "small", "large", "unreadable spots"])
    def test_a_map_has_at_least_64_steps(self, name):
        values = COLUMNS[name]
        steps = np.diff(np.nanpercentile(values, [1, 99]))[0] * 10.0 ** choose_digits(values)
        assert 63.9 <= steps <= 640.1

    def test_a_smooth_map_is_smaller_than_noise(self):
        assert len(pack_column(COLUMNS["smooth"], digits=2)["data"]) < 0.8 * len(
            pack_column(RANDOM.permutation(COLUMNS["smooth"]), digits=2)["data"]
        )


def test_every_module_is_of_a_page():
    assert {path.stem for path in SCRIPTS.glob("*.js")} == {*MODULES, *COHORT_MODULES}


@pytest.mark.parametrize("modules", [MODULES, COHORT_MODULES])
class TestScript:
    def test_it_holds_every_module_once_and_imports_nothing(self, modules):
        script = read_script(modules)
        assert not re.search(r"^(import|export)\b", script, re.MULTILINE)
        names = re.findall(r"^(?:async )?(?:function|class|const) (\w+)", script, re.MULTILINE)
        assert len(names) == len(set(names)), "modules share one scope in the page"

    def test_it_can_neither_end_its_element_nor_make_markup_nor_ask_the_network(self, modules):
        forbidden = r"</script|<!--|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|fetch\(|XMLHttp|https?:"
        assert not re.search(forbidden, read_script(modules))


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, SlideFiles]:
    folder = tmp_path_factory.mktemp("slide")
    write_bundle(folder / "bundle")
    files = write_slide_files(folder, bundle_digest(folder / "bundle"), columns=30, rows=24, unreadable=(375, 376))
    predict(files, folder / "bundle", folder)
    return folder, files


class TestPage:
    def test_it_holds_every_gene_as_the_file_has_it(self, done):
        page = read_page(write_report(done[1], done[0]).source)
        data = anndata.read_h5ad(done[0] / "S1.h5ad")
        genes = json.loads(inflate(page["genes"]))
        assert sorted(genes["id"]) == sorted(data.var_names)
        for place, gene in enumerate(genes["id"]):
            column = data[:, gene]
            digits = page["values"][place]["digits"]
            values = unpack(page["values"][place], data.n_obs)
            np.testing.assert_allclose(values, np.round(column.X[:, 0].astype(float), digits), atol=1e-9)
            reach = unpack(page["reach"][place], data.n_obs)
            step = 10.0**-digits
            low = np.minimum(
                np.maximum(values - reach, page["minimum"] if page["minimum"] is not None else -np.inf), values
            )
            np.testing.assert_allclose(values + reach, column.layers["upper"][:, 0], atol=1.01 * step)
            np.testing.assert_allclose(low, column.layers["lower"][:, 0], atol=1.01 * step)
        spots = page["spots"]["columns"]
        np.testing.assert_allclose(unpack(spots["x"], data.n_obs), data.obs["x_level0_px"], atol=0.006)
        np.testing.assert_array_equal(unpack(spots["ood_flag"], data.n_obs), data.obs["ood_flag"])

    def test_only_its_own_script_may_run_and_no_request_leave(self, done):
        source = write_report(done[1], done[0]).source
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', source).group(1).replace("&#39;", "'")
        script = re.search(r'<script type="module">(.*?)</script>', source, re.DOTALL).group(1)
        assert policy.startswith("default-src 'none'; img-src data:;")
        assert f"script-src {hash_source(script)};" in policy

    def test_what_a_bundle_names_stays_text(self, done, tmp_path):
        evil = ["</script><script>alert(1)</script>", "<!--", "a\u2028b&<>'\"", "__proto__", "=1+1", "\ud7ff\uffff"]
        data = anndata.read_h5ad(done[0] / "S1.h5ad")
        data.var["gene_symbol"] = (evil * 5)[: data.n_vars]
        data.write_h5ad(tmp_path / "S1.h5ad")
        page = write_report(done[1], tmp_path)
        assert page.source.count("</script") == 2
        assert set(json.loads(inflate(read_page(page.source)["genes"]))["symbol"]) == set(evil)

    def test_where_nothing_was_predicted_there_is_no_viewer(self, tmp_path):
        write_bundle(tmp_path / "bundle")
        files = write_slide_files(tmp_path, bundle_digest(tmp_path / "bundle"), empty=True)
        predict(files, tmp_path / "bundle", tmp_path)
        page = write_report(files, tmp_path)
        assert "script" not in page.tags
        assert "script-src 'none'" in page.source.replace("&#39;", "'")


class TestBounds:
    def test_12000_spots_of_250_genes_of_noise_fit_into_5_mb(self, tmp_path):
        """Noise that no compression makes smaller: real maps leave room for every interval too."""
        write_bundle(tmp_path / "bundle", gene_count=250)
        files = write_slide_files(tmp_path, bundle_digest(tmp_path / "bundle"), columns=196, rows=150)
        predict(files, tmp_path / "bundle", tmp_path)
        with h5py.File(tmp_path / "S1.h5ad", "r+") as file:
            shape = file["X"].shape
            assert shape[1] == 250
            assert 12_000 <= shape[0] < 12_500
            file["X"][:] = np.random.default_rng(1).uniform(0, 4, shape)
        source = write_report(files, tmp_path).source
        assert len(source.encode()) <= 5_000_000
        page = read_page(source)
        assert len(page["values"]) == 250

    def test_memory_does_not_grow_with_the_panel(self, tmp_path, monkeypatch):
        """Of 4,000 genes as of 20,000 the page holds as many as fit; into a small one, which is quick to write."""
        monkeypatch.setattr(viewer, "PAGE_BYTES", 1_500_000)
        write_bundle(tmp_path / "bundle")
        files = write_slide_files(tmp_path, bundle_digest(tmp_path / "bundle"), columns=60, rows=48)
        predict(files, tmp_path / "bundle", tmp_path)
        peaks = {}
        for genes in (4_000, 20_000):
            (tmp_path / str(genes)).mkdir()
            widen(tmp_path / "S1.h5ad", tmp_path / str(genes) / "S1.h5ad", genes=genes)
            tracemalloc.start()
            page = read_page(write_report(files, tmp_path / str(genes)).source)
            peaks[genes] = tracemalloc.get_traced_memory()[1] / 1e6
            tracemalloc.stop()
            assert len(json.loads(inflate(page["genes"]))["symbol"]) == genes
            assert 100 < len(page["values"]) < 4_000
        assert peaks[20_000] - peaks[4_000] < 20, f"MB: {peaks}; the matrices differ by 75"


def widen(source: Path, path: Path, *, genes: int) -> None:
    """The file with its genes repeated under other names, and noise for values."""
    shutil.copy(source, path)
    random = np.random.default_rng(2)
    with h5py.File(path, "r+") as file:
        spots, known = file["X"].shape
        var = anndata.io.read_elem(file["var"]).iloc[np.arange(genes) % known].copy()
        var.index = [f"ENSG{number:011d}" for number in range(genes)]
        var["gene_symbol"] = [f"G{number}" for number in range(genes)]
        var["interval_half_width_sd"] = np.float32(np.nan)
        del file["X"], file["var"]
        write_elem(file, "var", var)
        matrix = file.create_dataset("X", shape=(spots, genes), dtype=np.float32, chunks=(spots, 64))
        for start in range(0, genes, 64):
            width = min(64, genes - start)
            matrix[:, start : start + width] = random.normal(size=(spots, width))


def test_json_without_a_number_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        pack_json([float("nan")])
