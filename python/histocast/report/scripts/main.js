import { fileName, makeCsv, makeGeoJson, makePng, offer } from "./download.js";
import { GeneTable } from "./gene_table.js";
import { drawHistogram } from "./histogram.js";
import { unpackColumn, unpackJson } from "./payload.js";
import { centralRange, correlate, levelsOf, readPalette, say, ticksOf } from "./scale.js";
import { SlideMap, View } from "./slide_map.js";

// Wires the viewer of one sample: state here, drawing in the other modules. Every text goes through textContent.

const EXPRESSION = "expression";
const REACH = "reach";

class Viewer {
  constructor(root, page, spots, genes, picture) {
    Object.assign(this, { root, page, spots, genes });
    this.columns = new Map();
    this.palettes = Object.fromEntries(Object.entries(page.palettes).map(([name, text]) => [name, readPalette(text)]));
    this.layers = Object.fromEntries(page.layers.map((layer) => [layer.name, layer]));
    this.spot = -1;
    const [x, y, width, height] = page.picture.frame;
    this.view = new View({ x, y, width, height });
    const scene = {
      picture, x: spots.x, y: spots.y, radius: page.spot_px / 2, square: page.square, umPerPx: page.um_per_px,
    };
    this.panels = [...root.querySelectorAll(".view")].map((element) => {
      const canvas = element.querySelector("canvas");
      canvas.style.aspectRatio = `${width} / ${height}`;
      const map = new SlideMap(canvas, scene, this.view, (spot, announce) => this.point(spot, announce));
      return { element, map, gene: null, values: null };
    });
    this.controls = Object.fromEntries([...root.querySelectorAll("[data-control]")].map((el) => [el.dataset.control, el]));
    this.offerLayers();
    this.offerGenes();
    this.listen();
    this.table = new GeneTable(root.querySelector(".genes"), genes, page.values.length, (gene) => this.choose(gene));
  }

  offerLayers() {
    const { layer } = this.controls;
    const add = (value, text, disabled) => {
      layer.append(Object.assign(document.createElement("option"), { value, textContent: text, disabled }));
    };
    add(EXPRESSION, "Expression", false);
    add(REACH, "Interval of the gene", !this.page.reach.some(Boolean));
    for (const { name, title, off } of this.page.layers) add(name, off ? `${title} (${off})` : title, Boolean(off));
  }

  offerGenes() {
    const { other } = this.controls;
    const names = this.genes.symbol.slice(0, this.page.values.length).map((symbol, gene) => [symbol, gene]);
    names.sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true }));
    for (const [symbol, gene] of names) {
      other.append(Object.assign(document.createElement("option"), { value: gene, textContent: symbol }));
    }
  }

  listen() {
    const { controls, view } = this;
    controls.layer.addEventListener("change", () => this.update());
    controls.scale.addEventListener("change", () => this.update());
    controls.opacity.addEventListener("input", () => this.update());
    controls.other.addEventListener("change", () => this.compare(controls.other.value));
    controls.closer.addEventListener("click", () => view.zoomBy(1.5));
    controls.wider.addEventListener("click", () => view.zoomBy(1 / 1.5));
    controls.whole.addEventListener("click", () => view.reset());
    controls.png.addEventListener("click", () => this.savePng());
    controls.csv.addEventListener("click", () => this.saveTable("csv", (spots) => makeCsv(spots.columns)));
    controls.geojson.addEventListener("click", () => this.saveTable("geojson", makeGeoJson));
  }

  /** Unpacked when first used. @returns {Promise<Float64Array | null>} */
  async column(kind, gene) {
    const key = `${kind} ${gene}`;
    if (!this.columns.has(key)) {
      const packed = this.page[kind][gene];
      this.columns.set(key, packed ? await unpackColumn(packed, this.page.spots.count) : null);
    }
    return this.columns.get(key);
  }

  async fillPanel(panel, gene) {
    const [values, reach] = await Promise.all([this.column("values", gene), this.column("reach", gene)]);
    Object.assign(panel, { gene, values, reach, digits: this.page.values[gene].digits });
  }

  async choose(gene) {
    await this.fillPanel(this.panels[0], gene);
    this.table.choose(gene);
    await this.update();
  }

  async compare(choice) {
    const panel = this.panels[1];
    if (choice === "") panel.gene = null;
    else await this.fillPanel(panel, Number(choice));
    panel.element.hidden = panel.gene === null;
    await this.update();
  }

  get shownPanels() {
    return this.panels.filter((panel) => panel.gene !== null);
  }

  /** What a panel draws: numbers per spot, their scale and their words. */
  content(panel) {
    const layer = this.controls.layer.value;
    const symbol = this.genes.symbol[panel.gene];
    if (layer === EXPRESSION) {
      const range = this.controls.scale.value === "shared" ? this.page.shared : centralRange(panel.values);
      const unit = `Predicted expression, ${this.page.scale.name}: ${this.page.scale.description}.`;
      return { values: panel.values, range, palette: "viridis", digits: panel.digits, name: symbol, note: unit };
    }
    if (layer === REACH) {
      const values = panel.reach ?? new Float64Array(this.page.spots.count).fill(NaN);
      const high = panel.reach ? centralRange(values)[1] : 1;
      const note = panel.reach
        ? `Half the width of the ${this.page.interval}, in units of ${this.page.scale.name}.`
        : "This page holds no interval of this gene.";
      return { values, range: [0, high], palette: "cividis", digits: panel.digits, name: `interval of ${symbol}`, note };
    }
    const { title, note, range, palette, digits } = this.layers[layer];
    return { values: this.spots[layer], range, palette, digits, whole: digits === 0, name: title, note };
  }

  update() {
    for (const panel of this.shownPanels) this.draw(panel);
    this.tell();
  }

  draw(panel) {
    const content = Object.assign(panel, { content: this.content(panel) }).content;
    const { element, map } = panel;
    const part = (selector) => element.querySelector(selector);
    part(".name").textContent = content.name;
    part(".facts").textContent = this.controls.layer.value in this.layers ? "" : this.facts(panel);
    part(".unit").textContent = content.note;
    const palette = this.palettes[content.palette];
    map.spot = this.spot;
    map.show(levelsOf(content.values, content.range), palette, this.controls.opacity.value / 100);
    map.canvas.setAttribute("aria-label", `Map of ${content.name}, sample ${this.page.sample}`);
    part(".ramp").style.background = `linear-gradient(to right, ${palette.filter((_, level) => level % 15 === 0).join()})`;
    part(".ticks").replaceChildren(
      ...this.ticks(content).map(([place, label]) => {
        const tick = Object.assign(document.createElement("li"), { textContent: label });
        tick.style.left = `${100 * place}%`;
        return tick;
      }),
    );
    this.drawHistogram(panel);
  }

  /** Of a scale of whole numbers these alone. */
  ticks({ range, whole }) {
    return ticksOf(range, whole ? 1 : 0);
  }

  drawHistogram({ element, content }) {
    const { values, range, digits, name } = content;
    const marked = this.spot >= 0 ? values[this.spot] : NaN;
    drawHistogram(element.querySelector("svg"), values, range, { digits, marked, name });
  }

  facts(panel) {
    const accuracy = this.genes.accuracy[panel.gene];
    const evidence = this.genes.evidence[panel.gene];
    const known = evidence === "trained" ? "accuracy not known" : `never measured, ${evidence}`;
    const said = [accuracy === null ? known : `accuracy r = ${say(accuracy, 2)}`];
    if (panel !== this.panels[0]) {
      said.push(`r = ${say(correlate(this.panels[0].values, panel.values), 2)} with ${this.genes.symbol[this.panels[0].gene]} here`);
    }
    return said.join(", ");
  }

  /** The spot under the pointer, or chosen by key, which is announced as well. */
  point(spot, announce) {
    if (spot !== this.spot) {
      this.spot = spot;
      for (const panel of this.shownPanels) {
        panel.map.spot = spot;
        panel.map.draw();
        this.drawHistogram(panel);
      }
    }
    this.tell();
    if (announce) this.root.querySelector(".spoken").textContent = this.rows().map((row) => row.join(" ")).join(", ");
  }

  /** Name and value of everything known of the spot. @returns {[string, string][]} */
  rows() {
    const { page, spots, spot } = this;
    const at = (values, digits) => (spot < 0 ? "\u2013" : say(values[spot], digits));
    const rows = [[page.unit === "tile" ? "Tile" : "Spot", at(spots.tile_id, 0)]];
    for (const { gene, values, reach, digits } of this.shownPanels) {
      rows.push([this.genes.symbol[gene], at(values, digits)]);
      const [low, high] = reach && spot >= 0 ? this.interval(values[spot], reach[spot]) : [NaN, NaN];
      const interval = Number.isFinite(low) ? `${say(low, digits)} to ${say(high, digits)}` : "\u2013";
      rows.push([page.interval, interval]);
    }
    const unusual = spot >= 0 && spots.ood_flag[spot] ? " (unusual)" : "";
    rows.push(["Distance from training", at(spots.ood_score, 1) + unusual], ["Blur", at(spots.blur, 2)]);
    if (!this.layers.cluster.off) rows.push(["Cluster", at(spots.cluster, 0)]);
    if (!this.layers.pen_fraction.off) rows.push(["Ink", at(spots.pen_fraction, 2)]);
    return rows;
  }

  interval(value, reach) {
    const low = value - reach;
    return [this.page.minimum === null ? low : Math.min(Math.max(low, this.page.minimum), value), value + reach];
  }

  tell() {
    const entries = this.rows().map(([name, value]) => {
      const entry = document.createElement("div");
      entry.append(
        Object.assign(document.createElement("dt"), { textContent: name }),
        Object.assign(document.createElement("dd"), { textContent: value }),
      );
      return entry;
    });
    this.root.querySelector(".readout").replaceChildren(...entries);
  }

  name(ending) {
    const symbols = this.shownPanels.map(({ gene }) => this.genes.symbol[gene]);
    return `${fileName(this.page.sample, ...symbols)}.${ending}`;
  }

  async savePng() {
    const panels = this.shownPanels.map((panel) => ({
      map: panel.map,
      title: panel.content.name,
      subtitle: `${this.page.sample}, predicted`,
      palette: this.palettes[panel.content.palette],
      ticks: this.ticks(panel.content),
    }));
    offer(this.name("png"), await makePng(panels));
  }

  saveTable(ending, make) {
    const { page, spots } = this;
    const columns = [
      ["tile_id", spots.tile_id], ["x_level0_px", spots.x], ["y_level0_px", spots.y],
    ];
    for (const { gene, values, reach } of this.shownPanels) {
      const symbol = this.genes.symbol[gene];
      columns.push([symbol, values]);
      if (reach) {
        const bounds = Array.from(values, (value, spot) => this.interval(value, reach[spot]));
        columns.push([`${symbol} lower`, bounds.map(([low]) => low)], [`${symbol} upper`, bounds.map(([, high]) => high)]);
      }
    }
    for (const { name } of page.layers) if (name in spots) columns.push([name, spots[name]]);
    const rounded = columns.map(([title, values]) => [title, Array.from(values, (value) => Number(value.toFixed(6)))]);
    const place = { x: spots.x, y: spots.y, tileId: spots.tile_id, tilePx: page.tile_px };
    offer(this.name(ending), make({ ...place, columns: ending === "csv" ? rounded : rounded.slice(3) }));
  }
}

async function start() {
  const root = document.getElementById("viewer");
  if (!root || !("DecompressionStream" in window)) return;
  const page = JSON.parse(document.getElementById("viewer-data").textContent);
  if (!page.values.length) return;
  const picture = new Image();
  picture.src = page.picture.uri;
  const { count, columns } = page.spots;
  const unpacked = Object.entries(columns).map(async ([name, column]) => [name, await unpackColumn(column, count)]);
  const [spots, genes] = await Promise.all([Promise.all(unpacked), unpackJson(page.genes), picture.decode()]);
  root.hidden = false;
  const viewer = new Viewer(root, page, Object.fromEntries(spots), genes, picture);
  await viewer.choose(0);
  root.dataset.ready = "true";
}

await start();
