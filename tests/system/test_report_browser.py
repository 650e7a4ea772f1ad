"""A sample's page in a real browser: what it shows is what the file holds, to every reader, and nothing leaves it."""

from __future__ import annotations

import csv
import io
import json
import time
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import cv2
import numpy as np
import pytest
from offline_page import assert_no_request_leaves

from histocast.bundle import bundle_digest
from histocast.report import viewer
from histocast.report.colour_scale import ColourScale
from predicted_sample import predict, write_report
from sample_bundle import write_bundle, write_slide_files

pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from axe_core_python.selenium import Axe
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

EVIL = ["</script><script>window.evil=1</script>", "<img src=x onerror=window.evil=1>", "=1+1", "__proto__"]
TILE_PX = 224
A4_PX = 688
"""Between the margins of a sheet of paper."""
GREY = (108, 114, 122)


def write_page(folder: Path, *, difference: float | None = None) -> Path:
    """A page of 296 tiles, two of which cannot be read, and 30 genes, some of unpleasant names."""
    write_bundle(folder / "bundle")
    files = write_slide_files(folder, bundle_digest(folder / "bundle"), columns=30, rows=24, unreadable=(375, 376))
    predict(files, folder / "bundle", folder)
    data = anndata.read_h5ad(folder / "S1.h5ad")
    symbols = data.var["gene_symbol"].astype(str).to_numpy(copy=True)
    symbols[20:24] = EVIL
    data.var["gene_symbol"] = symbols
    if difference is not None:
        noise = np.random.default_rng(3).normal(size=data.shape) + difference * in_first_group(data)[:, None]
        data.X = np.where(np.isnan(data.X), np.nan, noise).astype(np.float32)
    data.write_h5ad(folder / "S1.h5ad")
    write_report(files, folder)
    return folder / "S1.html"


def in_first_group(data: anndata.AnnData) -> np.ndarray:
    """The larger of two groups of tiles: to the left of a line."""
    x = data.obsm["spatial"][:, 0]
    return x < np.quantile(x, 0.6)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, anndata.AnnData]:
    page = write_page(tmp_path_factory.mktemp("page"))
    return page, anndata.read_h5ad(page.with_suffix(".h5ad"))


class Reader:
    """Somebody with the page open."""

    def __init__(self, browser: Any, page: Path) -> None:
        self.browser, self.page = browser, page

    def open(self, *, width: int = 1400, height: int = 1100, colours: str = "light", media: str = "") -> Reader:
        call = self.browser.execute_cdp_cmd
        call(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        features = [{"name": "prefers-color-scheme", "value": colours}]
        call("Emulation.setEmulatedMedia", {"media": media, "features": features})
        self.browser.get(self.page.as_uri())
        self.wait(lambda: self.run("return document.getElementById('viewer')?.dataset.ready"))
        return self

    def wait(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.browser, 20, poll_frequency=0.05).until(lambda _: condition())

    def run(self, script: str, *values: object) -> Any:
        return self.browser.execute_script(script, *values)

    def find(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def control(self, name: str) -> Any:
        return self.find(f"[data-control={name}]")

    def choose(self, name: str, value: object) -> None:
        self.run(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}));"
            "arguments[0].dispatchEvent(new Event('change', {bubbles: true}))",
            self.control(name),
            str(value),
        )

    def search(self, words: str) -> None:
        field = self.find("#viewer input[type=search]")
        field.clear()
        field.send_keys(words)

    def show_gene(self, symbol: str) -> None:
        self.search(symbol)
        self.find("#viewer input[type=search]").send_keys(Keys.ENTER)
        self.wait(lambda: self.find(".view .name").text == symbol)

    def on_canvas(self, centres_level0_px: np.ndarray) -> np.ndarray:
        """Pixels of the first map, [spot, 2], at the zoom that shows the whole slide."""
        frame = np.array(
            self.run("return JSON.parse(document.getElementById('viewer-data').textContent).picture.frame")
        )
        size = np.array(self.run("const c = document.querySelector('.view canvas'); return [c.width, c.height]"))
        scale = (size / frame[2:]).min()
        return (centres_level0_px - frame[:2] - frame[2:] / 2) * scale + size / 2

    def colours(self, centres_level0_px: np.ndarray) -> np.ndarray:
        """RGB [spot, 3] of the first map."""
        at = self.on_canvas(centres_level0_px).astype(int)
        found = self.run(
            "const c = document.querySelector('.view canvas');"
            "const all = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
            "return arguments[0].map(([x, y]) => [0, 1, 2].map((i) => all.data[4 * (y * c.width + x) + i]))",
            at.tolist(),
        )
        return np.array(found)

    def point_at(self, centre_level0_px: np.ndarray) -> None:
        canvas = self.find(".view canvas")
        self.run("arguments[0].scrollIntoView({block: 'center'})", canvas)
        corner = self.run("const b = arguments[0].getBoundingClientRect(); return [b.x, b.y]", canvas)
        x, y = self.on_canvas(centre_level0_px[None])[0] + corner
        self.browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})

    def told(self) -> dict[str, str]:
        """What is said of the tile under the pointer."""
        rows = self.run(
            "return [...document.querySelectorAll('.readout div')].map((row) => [...row.children].map((e) => e.textContent))"
        )
        return dict(rows)

    def genes(self) -> list[str]:
        return self.run("return [...document.querySelectorAll('.rows tbody button')].map((b) => b.textContent)")


@pytest.fixture
def reader(browser: Any, sample: tuple[Path, anndata.AnnData]) -> Reader:
    return Reader(browser, sample[0])


@pytest.fixture
def data(sample: tuple[Path, anndata.AnnData]) -> anndata.AnnData:
    return sample[1]


def values_of(data: anndata.AnnData, symbol: str, layer: str | None = None) -> np.ndarray:
    column = list(data.var["gene_symbol"]).index(symbol)
    return np.asarray((data.layers[layer] if layer else data.X)[:, column], np.float64)


def number(said: str) -> float:
    return float(said.replace("\u2212", "-"))


@pytest.mark.parametrize("symbol", ["GENE7", "GENE19", EVIL[0]])
def test_the_map_of_a_searched_gene_follows_its_data(reader, data, symbol):
    reader.open().choose("opacity", 100)
    reader.show_gene(symbol)
    values = values_of(data, symbol)
    found = reader.colours(data.obsm["spatial"])
    scale = ColourScale.over(values)
    # Values are rounded, so that a tile may take the colour next to its own.
    expected = np.stack([scale.colours(values + shift * (scale.high - scale.low) / 255) for shift in (-1, 0, 1)])
    off = np.abs(expected.astype(int) - found).max(axis=2).min(axis=0)
    readable = np.isfinite(values)
    assert (~readable).sum() == 2
    assert off[readable].max() <= 1
    assert (found[~readable] == GREY).all()
    assert reader.run("return window.evil") is None


def test_pointing_at_a_tile_tells_the_value_of_the_file(reader, data):
    reader.open().show_gene("GENE3")
    known = {layer: values_of(data, "GENE3", layer) for layer in (None, "lower", "upper")}
    for spot in range(5, data.n_obs, 40):
        reader.point_at(data.obsm["spatial"][spot])
        tile = str(data.obs["tile_id"].iloc[spot])
        reader.wait(lambda tile=tile: reader.told()["Tile"] == tile)
        told = reader.told()
        digits = len(told["GENE3"].split(".")[1])
        assert told["GENE3"].replace("\u2212", "-") == f"{known[None][spot]:.{digits}f}"
        low, high = (number(said) for said in told["90\u202f% interval"].split(" to "))
        assert low == pytest.approx(known["lower"][spot], abs=1.01 * 10**-digits)
        assert high == pytest.approx(known["upper"][spot], abs=1.01 * 10**-digits)
        assert number(told["Distance from training"].split()[0]) == pytest.approx(
            data.obs["ood_score"].iloc[spot], abs=0.06
        )
    unread = int(np.flatnonzero(data.obs["status"] != "ok")[0])
    reader.point_at(data.obsm["spatial"][unread])
    reader.wait(lambda: reader.told()["GENE3"] == "\u2013")


def test_genes_are_sorted_and_filtered(reader, data):
    reader.open()
    accuracy = data.var.set_index("gene_symbol")["val_pcc"]
    assert reader.genes()[:29] == list(accuracy.dropna().sort_values(ascending=False).index)
    for column, by in (("mean", "predicted_mean"), ("sd", "predicted_sd")):
        for down in (True, False):
            reader.find(f"th[data-by={column}] button").click()
            assert reader.find(f"th[data-by={column}]").get_attribute("aria-sort") == (
                "descending" if down else "ascending"
            )
            expected = data.var.set_index("gene_symbol")[by].loc[reader.genes()].round(4)
            assert expected.is_monotonic_decreasing if down else expected.is_monotonic_increasing, column
    reader.find(".genes input[type=checkbox]").click()
    assert set(reader.genes()) == set(accuracy[accuracy > 0.2].index)
    reader.search("gene1")
    assert set(reader.genes()) == {symbol for symbol in accuracy[accuracy > 0.2].index if symbol.startswith("GENE1")}
    assert reader.find(".genes [role=status]").text == f"{len(reader.genes())} of 30 genes"
    reader.search(data.var_names[17])
    assert len(reader.genes()) == 1, "found by its identifier"


def test_layers_of_uncertainty_and_quality_follow_the_file(reader, data):
    reader.open().choose("opacity", 100)
    offered = dict(
        reader.run(
            "return [...document.querySelectorAll('[data-control=layer] option')].map((o) => [o.value, o.disabled])"
        )
    )
    assert set(offered) == {"expression", "reach", "cluster", *(name for name, _, _ in viewer.LAYERS)}
    shown = [name for name, _, _ in viewer.LAYERS if not offered[name]]
    assert {"mean_sd", "ood_score"} <= set(shown)
    for name in shown:
        reader.choose("layer", name)
        values = data.obs[name].to_numpy(float)
        scale = ColourScale.from_zero(values[data.obs["status"] == "ok"], palette="cividis")
        readable = np.isfinite(values)
        found = reader.colours(data.obsm["spatial"])
        assert np.abs(found - scale.colours(values).astype(int))[readable].max() <= 4, name


def test_clusters_are_a_layer_where_there_are_some(browser, tmp_path):
    def open_page(name: str, difference: float) -> tuple[Reader, anndata.AnnData]:
        (tmp_path / name).mkdir()
        page = write_page(tmp_path / name, difference=difference)
        return Reader(browser, page).open(), anndata.read_h5ad(page.with_suffix(".h5ad"))

    reader, _ = open_page("continuum", 0)
    option = reader.find("[data-control=layer] option[value=cluster]")
    assert not option.is_enabled()
    assert option.text == "Clusters (none: a continuum)"
    assert "Cluster" not in reader.told()
    reader, data = open_page("groups", 3)
    reader.choose("opacity", 100)
    reader.choose("layer", "cluster")
    first, readable = in_first_group(data), (data.obs["status"] == "ok").to_numpy()
    found = reader.colours(data.obsm["spatial"])
    one, two = viewer.CLUSTER_COLOURS[:2]
    assert (found[first & readable] == one).all()
    assert (found[~first & readable] == two).all()
    assert (found[~readable] == GREY).all()
    ticks = reader.run("return [...document.querySelector('.view .ticks').children].map((tick) => tick.textContent)")
    assert ticks == ["1", "2"]
    assert reader.find(".view .facts").text == "", "no accuracy of a gene"
    reader.point_at(data.obsm["spatial"][5])
    reader.wait(lambda: reader.told()["Cluster"] == ("1" if first[5] else "2"))


def test_tissue_shows_through_and_the_map_is_zoomed_and_dragged_by_pointer(reader, data):
    reader.open().show_gene("GENE3")
    shares = {}
    for share in (0, 50, 100):
        reader.choose("opacity", share)
        shares[share] = reader.colours(data.obsm["spatial"])
    assert np.abs(shares[50] - (shares[0] + shares[100]) / 2).max() <= 2
    assert np.abs(shares[0] - shares[100]).mean() > 20, "tissue without colours over it"
    corner = np.array(
        reader.run(
            "const c = document.querySelector('.view canvas'); c.scrollIntoView({block: 'center'});"
            "const b = c.getBoundingClientRect(); return [b.x, b.y]"
        )
    )
    spot, other = data.n_obs // 2, data.n_obs // 2 + 4
    here, there = (reader.on_canvas(data.obsm["spatial"][[each]])[0] + corner for each in (spot, other))
    tile = str(data.obs["tile_id"].iloc[spot])

    def mouse(kind: str, place: np.ndarray, **more: object) -> None:
        at = {"type": kind, "x": float(place[0]), "y": float(place[1]), **more}
        reader.browser.execute_cdp_cmd("Input.dispatchMouseEvent", at)

    mouse("mouseWheel", here, deltaX=0, deltaY=-400, modifiers=2)
    mouse("mouseMoved", there)
    # What lay there has moved away from the pointer, and what is under the pointer stays.
    reader.wait(lambda: reader.told()["Tile"] not in ("\u2013", str(data.obs["tile_id"].iloc[other])))
    mouse("mouseMoved", here)
    reader.wait(lambda: reader.told()["Tile"] == tile)
    dragged = here + np.array([60, 30])
    mouse("mousePressed", here, button="left", buttons=1, clickCount=1)
    mouse("mouseMoved", dragged, button="left", buttons=1)
    mouse("mouseReleased", dragged, button="left", clickCount=1)
    mouse("mouseMoved", here)
    reader.wait(lambda: reader.told()["Tile"] != tile)
    mouse("mouseMoved", dragged)
    reader.wait(lambda: reader.told()["Tile"] == tile)


def test_the_histogram_counts_the_tiles_of_the_file(reader, data):
    reader.open().show_gene("GENE7")
    heights = reader.run(
        "return [...document.querySelectorAll('.view .spread rect')].map((r) => Number(r.getAttribute('height')))"
    )
    values = values_of(data, "GENE7")
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, [1, 99])
    counts = np.histogram(np.clip(finite, low, high), bins=len(heights), range=(low, high))[0]
    # Values are rounded, so that a tile may be counted in the next bar.
    assert np.abs(np.cumsum(np.array(heights)) / sum(heights) - np.cumsum(counts) / counts.sum()).max() < 0.03


def test_scales_and_a_second_gene(reader, data):
    reader.open().choose("opacity", 100)
    reader.choose("scale", "shared")
    scales = [ColourScale.over(values) for values in np.asarray(data.X, np.float64).T]
    shared = ColourScale(min(scale.low for scale in scales), max(scale.high for scale in scales))
    values = values_of(data, reader.find(".view .name").text)
    off = np.abs(reader.colours(data.obsm["spatial"]) - shared.colours(values).astype(int))
    assert off[np.isfinite(values)].max() <= 4
    assert not reader.browser.find_elements(By.CSS_SELECTOR, ".view")[1].is_displayed()
    first = reader.find(".view .name").text
    options = reader.run(
        "return [...document.querySelectorAll('[data-control=other] option')].map((o) => [o.value, o.text])"
    )
    reader.choose("other", {text: value for value, text in options}["GENE5"])
    second = reader.browser.find_elements(By.CSS_SELECTOR, ".view")[1]
    reader.wait(second.is_displayed)
    pair = np.stack([values_of(data, first), values_of(data, "GENE5")])
    expected = np.corrcoef(pair[:, np.isfinite(pair).all(axis=0)])[0, 1]
    said = second.find_element(By.CSS_SELECTOR, ".facts").text
    assert number(said.split("r = ")[2].split()[0]) == pytest.approx(expected, abs=0.02)
    assert second.find_element(By.CSS_SELECTOR, "canvas").get_attribute("aria-label") == "Map of GENE5, sample S1"


def test_everything_can_be_done_with_the_keyboard(reader, data):
    reader.open()
    field = reader.find("#viewer input[type=search]")
    field.send_keys("GENE2", Keys.ARROW_DOWN)
    before = reader.find(".view .name").text
    second = reader.genes()[1]
    reader.browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert reader.browser.switch_to.active_element.text == second != before
    reader.browser.switch_to.active_element.send_keys(Keys.ENTER)
    reader.wait(lambda: reader.find(".view .name").text == second)
    assert reader.run("return document.querySelector('.rows [aria-current]').textContent") == second
    canvas = reader.find(".view canvas")
    canvas.send_keys(Keys.ARROW_RIGHT)
    start = int(reader.told()["Tile"])
    canvas.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert int(reader.told()["Tile"]) == start + 1 + 30, "tiles are numbered by rows of 30"
    assert reader.find(".spoken").get_attribute("textContent").startswith(f"Tile {start + 31}, {second} ")
    whole = reader.colours(data.obsm["spatial"])
    canvas.send_keys("+++")
    assert (reader.colours(data.obsm["spatial"]) != whole).any()
    canvas.send_keys("0")
    np.testing.assert_array_equal(reader.colours(data.obsm["spatial"]), whole)


def test_what_is_shown_can_be_saved(reader, data, tmp_path):
    reader.open().show_gene("=1+1")
    call = reader.browser.execute_cdp_cmd
    call("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    files = {ending: tmp_path / f"S1__1_1.{ending}" for ending in ("csv", "geojson", "png")}
    for ending, path in files.items():
        reader.control(ending).click()
        reader.wait(lambda path=path: path.is_file() and path.stat().st_size)
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    values = values_of(data, "=1+1")
    assert "'=1+1" in rows[0], "no spreadsheet takes the title for a formula"
    saved = np.array([float(row["'=1+1"] or "nan") for row in rows])
    np.testing.assert_allclose(saved, values, atol=0.006)
    np.testing.assert_allclose([float(row["x_level0_px"]) for row in rows], data.obs["x_level0_px"])
    features = json.loads(files["geojson"].read_text())["features"]
    corners = np.array([feature["geometry"]["coordinates"][0] for feature in features])
    np.testing.assert_allclose(corners.min(axis=1), data.obsm["spatial"] - TILE_PX / 2, atol=0.006)
    np.testing.assert_allclose(corners.max(axis=1), data.obsm["spatial"] + TILE_PX / 2, atol=0.006)
    assert (corners[:, 0] == corners[:, -1]).all()
    measured = [feature["properties"]["measurements"].get("=1+1", np.nan) for feature in features]
    np.testing.assert_allclose(measured, values, atol=0.006)
    assert cv2.imread(str(files["png"])).shape[1] == 1200


def test_genes_that_did_not_fit_are_listed_and_said_so(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(viewer, "COLUMN_BYTES", 400_000)
    reader = Reader(browser, write_page(tmp_path)).open()
    mapped = reader.run("return JSON.parse(document.getElementById('viewer-data').textContent).values.length")
    assert 0 < mapped < 30
    off = reader.run("return [...document.querySelectorAll('.rows tbody button:disabled')].map((b) => b.textContent)")
    assert len(off) == 30 - mapped
    assert reader.find(".genes [role=status]").text == "30 of 30 genes; those in grey did not fit into this page"
    assert not set(off) & set(
        reader.run("return [...document.querySelectorAll('[data-control=other] option')].map((o) => o.text)")
    )
    reader.search(next(symbol for symbol in off if symbol not in EVIL))
    reader.find("#viewer input[type=search]").send_keys(Keys.ENTER)
    assert reader.find(".view .name").text not in off


def test_no_request_leaves_the_page(reader):
    assert_no_request_leaves(reader.browser, reader.page, open_page=lambda: reader.open().show_gene("GENE8"))


@pytest.mark.parametrize("width", [1400, 800, 390])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_it_is_accessible_and_fits(reader, colours, width):
    reader.open(width=width, colours=colours)
    reader.choose("other", 2)
    luma = reader.run(
        "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3"
    )
    assert (luma < 60) == (colours == "dark")
    assert reader.run("return document.documentElement.scrollWidth") <= width
    found = Axe().run(reader.browser)["violations"]
    assert not [(each["id"], each["impact"], [node["target"] for node in each["nodes"]][:4]) for each in found]


def test_paper_has_the_maps_and_not_the_controls(reader):
    reader.open(width=A4_PX, media="print", colours="dark")
    assert not reader.find("#viewer").is_displayed()
    widths = reader.run(
        "return [...document.querySelectorAll('.maps img')].map((i) => i.getBoundingClientRect().width)"
    )
    assert len(widths) >= 2 + 9 + 1
    assert min(widths) > 50
    assert reader.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    wider = "return [...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1)"
    assert [element.tag_name for element in reader.run(wider)] == []
    printed = b64decode(reader.browser.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert printed.count(b"/Subtype /Image") >= len(widths)


def test_without_scripts_it_is_a_page_of_maps(reader):
    reader.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        reader.browser.get(reader.page.as_uri())
        assert not reader.find("#viewer").is_displayed()
        maps = reader.browser.find_elements(By.CSS_SELECTOR, ".maps img")
        assert len(maps) >= 2 + 9 + 1
        assert all(image.is_displayed() for image in maps)
    finally:
        reader.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_nothing_is_said_on_the_console(reader):
    reader.browser.get_log("browser")
    reader.open().show_gene("GENE8")
    time.sleep(0.1)
    assert reader.browser.get_log("browser") == []
