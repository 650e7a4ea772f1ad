"""The page of a cohort in a real browser: what it lists and draws is what the tables hold, at a hundred thousand slides."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import polars as pl
import pytest
from offline_page import assert_no_request_leaves
from wide_cohort import write_wide_page

from histocast.cohort import cohort_page
from histocast.cohort.gather_cohort import gather_cohort
from made_cohort import Made, make_slides, write_results

pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from axe_core_python.selenium import Axe
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

EVIL = "</script><script>window.evil=1</script>"
A4_PX = 794
SITES = ("north", "south", EVIL)


def metadata(number: int) -> dict[str, str]:
    return {"site": SITES[number % 3], "age": str(40 + number % 30)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of 42 slides: one is an outlier, one failed, one has no tissue like the training tissue."""
    folder = tmp_path_factory.mktemp("cohort")
    slides = [*make_slides(40, metadata=metadata), Made("broken", failed="tile", metadata=metadata(1))]
    slides[7] = replace(slides[7], facts={"stain_absorbance": 0.7})
    slides.append(Made("no_tissue", None, metadata(0)))
    write_results(folder / "results", slides)
    (folder / "sets.gmt").write_text("UP\tx\tGENE1\tGENE2\tGENE3\n")
    gather_cohort(
        [str(folder / "results")], outdir=folder / "cohort", scratch=folder, signatures=folder / "sets.gmt", pages=".."
    )
    return folder / "cohort"


class Reader:
    """Somebody with the page of a cohort open."""

    def __init__(self, browser: Any, page: Path) -> None:
        self.browser, self.page = browser, page

    def open(self, *, width: int = 1400, colours: str = "light", media: str = "") -> Reader:
        call = self.browser.execute_cdp_cmd
        size = {"width": width, "height": 1100, "deviceScaleFactor": 1, "mobile": width < 600}
        call("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": colours}]
        call("Emulation.setEmulatedMedia", {"media": media, "features": features})
        self.browser.get(self.page.as_uri())
        self.wait(lambda: self.run("return document.getElementById('cohort').dataset.ready"))
        return self

    def wait(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.browser, 60, poll_frequency=0.05).until(lambda _: condition())

    def run(self, script: str, *values: object) -> Any:
        return self.browser.execute_script(script, *values)

    def set(self, control: str, value: object) -> None:
        self.run(
            "const field = document.querySelector(`[data-control=${arguments[0]}]`); field.value = arguments[1];"
            "for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind, {bubbles: true}))",
            control,
            str(value),
        )

    def status(self) -> str:
        return self.run("return document.querySelector('[role=status]').textContent")

    def cells(self, column: str) -> list[str]:
        """What the rows that exist say in a column."""
        return self.run(
            "const table = document.querySelector('.slides table');"
            "const place = [...table.tHead.rows[0].cells].findIndex((cell) => cell.dataset.by === arguments[0]);"
            "return [...table.tBodies[0].rows].filter((row) => row.ariaHidden !== 'true')"
            ".map((row) => row.cells[place].textContent)",
            column,
        )

    def sort(self, column: str) -> None:
        self.run("document.querySelector(`.slides th[data-by='${arguments[0]}'] button`).click()", column)

    def groups(self) -> list[list[str]]:
        return self.run(
            "return [...document.querySelectorAll('.groups tbody tr')].map((row) => [...row.cells].map((c) => c.textContent))"
        )


@pytest.fixture
def reader(browser: Any, folder: Path) -> Reader:
    return Reader(browser, folder / "cohort.html")


def number(said: str) -> float:
    return float(said.replace("\u2212", "-"))


def test_a_gene_that_is_searched_has_the_values_of_the_matrix(reader, folder):
    data = anndata.read_h5ad(folder / "cohort.h5ad")
    reader.open().set("value", "GENE17")
    name = data.var_names[17]
    reader.wait(lambda: reader.cells(name))
    reader.sort(name)
    values = data.to_df()[name].sort_values(ascending=False)
    shown = reader.cells("sample")
    assert shown[:10] == list(values.index[:10])
    assert [number(said) for said in reader.cells(name)[:10]] == pytest.approx(list(values[:10]), abs=0.01)
    reader.set("group", "meta.site")
    of_site = values.groupby(data.obs["meta.site"], observed=True)
    expected = {site: (str(len(part)), part.median()) for site, part in of_site}
    found = {row[0]: (row[1], number(row[2])) for row in reader.groups()}
    assert set(found) == set(SITES)
    for site, (slides, median) in found.items():
        assert slides == expected[site][0]
        low, high = np.sort(values[data.obs["meta.site"] == site])[[len(values) // 6 - 1, len(values) // 6 + 1]]
        assert low - 0.01 <= median <= high + 0.01
    assert reader.run("return window.evil") is None


def test_slides_are_searched_filtered_and_sorted(reader, folder):
    table = pl.read_parquet(folder / "slides.parquet")
    reader.open()
    assert reader.status() == "42 of 42 slides"
    reader.set("words", "broken")
    assert reader.cells("sample") == ["broken"]
    assert reader.cells("error_kind") == ["DataError"]
    reader.set("words", "")
    reader.set("column", "meta.site")
    reader.set("wanted", "south")
    of_site = table.filter(pl.col("meta.site") == "south")
    assert reader.status() == f"{len(of_site)} of 42 slides"
    reader.sort("meta.age")
    ages = [number(said) for said in reader.cells("meta.age")]
    assert ages == sorted(ages, reverse=True)
    assert len(set(ages)) > 3
    reader.set("column", "")
    reader.sort("sample")
    assert reader.cells("sample")[:4] == ["broken", "no_tissue", "S0", "S1"]


def test_outliers_are_listed_and_marked(reader, folder):
    reader.open()
    reader.run("document.querySelector('[data-control=outliers]').click()")
    expected = pl.read_parquet(folder / "slides.parquet").filter(pl.col("outlier"))["sample"].to_list()
    assert "S7" in expected
    assert reader.cells("sample") == expected
    reader.set("value", "stain, optical density")
    reader.wait(lambda: reader.groups()[0][4] != "0")
    assert reader.run("return document.querySelectorAll('.groups circle').length") == int(reader.groups()[0][4])


def test_slides_with_a_page_link_to_it(reader):
    reader.open().set("words", "S1")
    links = reader.run("return [...document.querySelectorAll('.slides a')].map((a) => a.getAttribute('href'))")
    assert "../S1/S1.html" in links
    reader.set("words", "broken")
    assert reader.browser.find_elements(By.CSS_SELECTOR, ".slides a") == []


def test_the_map_has_every_slide_and_follows_the_filter(reader):
    coloured = (
        "const c = document.querySelector('.map canvas'); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let n = 0; for (let i = 3; i < d.length; i += 4) if (d[i]) n++; return n"
    )
    reader.open()
    whole = reader.run(coloured)
    assert 10 * 49 < whole <= 40 * 64 + 1
    reader.set("words", "S12")
    assert 0 < reader.run(coloured) <= 64
    reader.set("words", "")
    reader.set("colour", "meta.site")
    assert reader.run("return document.querySelectorAll('.map .legend li').length") == 3


def test_no_request_leaves_the_page(reader):
    assert_no_request_leaves(reader.browser, reader.page, open_page=reader.open)


@pytest.mark.parametrize(("width", "colours"), [(1400, "light"), (800, "dark"), (390, "light")])
def test_it_is_accessible_and_fits(reader, width, colours):
    reader.open(width=width, colours=colours)
    reader.set("group", "meta.site")
    assert reader.run("return document.documentElement.scrollWidth") <= width
    found = Axe().run(reader.browser)["violations"]
    assert not [(each["id"], each["impact"], [node["target"] for node in each["nodes"]][:4]) for each in found]


def test_paper_has_the_distribution_and_the_map_and_not_the_controls(reader):
    reader.open(width=A4_PX, media="print", colours="dark")
    shown = "return [...document.querySelectorAll(arguments[0])].map((each) => each.getBoundingClientRect().height > 0)"
    assert not any(reader.run(shown, ".controls, .slides"))
    assert all(reader.run(shown, ".groups tbody tr, .map canvas, .on-paper"))
    assert reader.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    wider = "return [...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1)"
    assert [element.tag_name for element in reader.run(wider)] == []
    assert reader.browser.execute_cdp_cmd("Page.printToPDF", {})["data"]


def test_without_scripts_the_page_says_where_the_tables_are(reader):
    reader.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        reader.browser.get(reader.page.as_uri())
        text = reader.browser.find_element(By.TAG_NAME, "body").text
        assert "slides.parquet and cohort.h5ad hold the same" in text
        assert "state it in column mpp" in text
    finally:
        reader.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_nothing_is_said_on_the_console(reader):
    reader.browser.get_log("browser")
    reader.open().set("value", "GENE3")
    time.sleep(0.1)
    assert reader.browser.get_log("browser") == []


def test_a_hundred_thousand_slides_open_scroll_and_sort(browser, tmp_path):
    page = write_wide_page(tmp_path, slides=100_000, genes=120)
    assert page.stat().st_size < cohort_page.GENE_BYTES + cohort_page.PICTURE_BYTES + 10_000_000
    reader = Reader(browser, page)
    started = time.monotonic()
    reader.open()
    opened_s = time.monotonic() - started
    assert reader.status() == "100,000 of 100,000 slides"
    rows = "return document.querySelectorAll('.slides tbody tr').length"
    assert reader.run(rows) < 60
    reader.run("document.querySelector('.slides').scrollTop = 40 * 60000")
    reader.wait(lambda: "S60000" in reader.cells("sample"))
    assert reader.run(rows) < 60
    started = time.monotonic()
    reader.sort("sample")
    reader.set("words", "S9999")
    sorted_s = time.monotonic() - started
    assert reader.status() == "11 of 100,000 slides"
    assert opened_s < 3
    assert sorted_s < 3
