import { Column, findSlides } from "./cohort_columns.js";
import { SlideMap, drawGroups, groupSlides } from "./cohort_plots.js";
import { readPalette } from "./scale.js";
import { SlideTable } from "./slide_table.js";

// The page of a cohort: what is searched and filtered is what the table lists and the plots draw.

const MOST_HINTS = 30;

class CohortPage {
  constructor(root, scene) {
    Object.assign(this, { root, scene, count: scene.count, sorted: null });
    this.columns = scene.columns.map((facts) => new Column(facts, scene.count));
    this.values = scene.values.map((facts) => new Column(facts, scene.count));
    this.control = (name) => root.querySelector(`[data-control=${name}]`);
    this.palette = readPalette(scene.palette);
  }

  async start() {
    await Promise.all(this.columns.map((column) => column.load()));
    const by = Object.fromEntries(this.columns.map((column) => [column.name, column]));
    Object.assign(this, { sample: by.sample, outcome: by.outcome, outlier: by.outlier, outlierIn: by.outlier_in });
    this.texts = this.columns.filter((column) => column.words);
    this.measures = [...this.columns.filter((column) => column.kind === "number" && column !== this.outlier), ...this.values];
    this.byTitle = new Map(this.measures.map((column) => [column.title.toLowerCase(), column]));
    for (const column of this.values) this.byTitle.set(column.name.toLowerCase(), column);
    this.pictures = new Map(this.scene.pictures.rows.map((slide, place) => [slide, this.scene.pictures.jpeg[place]]));
    const links = { page: (slide) => this.page(slide), picture: (slide) => this.picture(slide) };
    this.table = new SlideTable(this.root.querySelector(".slides"), this.tableColumns(), links, (column) => this.sortBy(column));
    await this.startMap();
    this.fillChoices();
    this.listen();
    await this.choose(this.values[0] ?? this.measures[0]);
  }

  async startMap() {
    const { map } = this.scene;
    const figure = this.root.querySelector(".map");
    figure.hidden = !map;
    if (!map) return;
    const [x, y] = await Promise.all([map.x, map.y].map((packed) => new Column({ packed }, this.count).load()));
    const canvas = figure.querySelector("canvas");
    this.map = new SlideMap(canvas, x.values, y.values, this.palette);
    canvas.addEventListener("pointermove", (event) => {
      const scale = canvas.width / canvas.clientWidth;
      const slide = this.map.nearest(this.found, event.offsetX * scale, event.offsetY * scale);
      const told = slide < 0 ? "" : `${this.sample.text(slide)}: ${this.colour().title} ${this.colour().text(slide) || "not stated"}`;
      figure.querySelector(".told").textContent = told;
    });
  }

  fillChoices() {
    const options = (columns, first) =>
      [first, ...columns.map((column) => [column.name, column.title])].map(([value, text]) => new Option(text, value));
    const groups = this.texts.filter((column) => column !== this.sample && column.words.length <= 1000);
    this.groups = new Map(groups.map((column) => [column.name, column]));
    this.control("group").replaceChildren(...options(groups, ["", "nothing"]));
    this.control("column").replaceChildren(...options(groups, ["", "any slide"]));
    this.control("colour").replaceChildren(...options(groups, ["", "the value shown"]));
  }

  listen() {
    const redraw = () => this.update();
    this.control("words").addEventListener("input", redraw);
    this.control("outliers").addEventListener("change", redraw);
    this.control("wanted").addEventListener("change", redraw);
    this.control("group").addEventListener("change", redraw);
    this.control("colour").addEventListener("change", redraw);
    this.control("column").addEventListener("change", () => {
      const column = this.groups.get(this.control("column").value);
      const words = column ? [...column.words].sort((a, b) => a.localeCompare(b, "en", { numeric: true })) : [];
      this.control("wanted").replaceChildren(...words.map((word) => new Option(word, word)));
      this.control("wanted").disabled = !column;
      this.update();
    });
    const field = this.control("value");
    field.addEventListener("input", () => this.hint(field.value));
    field.addEventListener("change", () => {
      const asked = field.value.trim().toLowerCase();
      const column = this.byTitle.get(asked) ?? this.measures.find((each) => each.title.toLowerCase().startsWith(asked));
      if (asked && column) this.choose(column);
      else field.value = this.value.title;
    });
  }

  hint(text) {
    const asked = text.trim().toLowerCase();
    const found = this.measures.filter((column) => `${column.title}\n${column.name}`.toLowerCase().includes(asked));
    const options = found.slice(0, MOST_HINTS).map((column) => new Option(column.note ?? "", column.title));
    this.root.querySelector("#values").replaceChildren(...options);
  }

  async choose(column) {
    this.value = await column.load();
    this.control("value").value = column.title;
    this.hint("");
    this.root.querySelector(".value-note").textContent = column.facts.note ?? "";
    this.table.setColumns(this.tableColumns());
    this.update();
  }

  /** Columns of the table: the value that was chosen stands after the name. */
  tableColumns() {
    const own = this.columns.filter((column) => column !== this.value);
    return this.value ? [own[0], this.value, ...own.slice(1)] : own;
  }

  sortBy(column) {
    const again = this.sorted?.column === column;
    this.sorted = { column, down: again ? !this.sorted.down : column.kind === "number" };
    this.update();
  }

  colour() {
    return this.groups.get(this.control("colour").value) ?? this.value;
  }

  update() {
    this.found = findSlides(this.count, {
      words: this.control("words").value,
      texts: this.texts,
      column: this.groups.get(this.control("column").value),
      wanted: this.control("wanted").value,
      outlier: this.control("outliers").checked ? this.outlier.values : null,
    });
    if (this.sorted) this.found.sort(this.sorted.column.order(this.sorted.down));
    this.table.show(this.found, this.sorted);
    const said = (number) => number.toLocaleString("en");
    this.root.querySelector("[role=status]").textContent = `${said(this.found.length)} of ${said(this.count)} slides`;
    const groups = groupSlides(this.found, this.groups.get(this.control("group").value));
    drawGroups(this.root.querySelector(".groups tbody"), groups, this.value, (slide, column) => this.isOutlier(slide, column));
    if (!this.map) return;
    const legend = this.map.draw(this.found, this.colour()).map(([colour, words]) => {
      const item = document.createElement("li");
      item.appendChild(document.createElement("span")).style.background = colour;
      item.append(words);
      return item;
    });
    this.root.querySelector(".map .legend").replaceChildren(...legend);
  }

  isOutlier(slide, column) {
    return this.outlierIn.text(slide).split(" ").includes(column.name);
  }

  page(slide) {
    if (this.scene.pages === null || this.outcome.text(slide) !== "ok") return null;
    const name = encodeURIComponent(this.sample.text(slide));
    return `${this.scene.pages}/${name}/${name}.html`;
  }

  picture(slide) {
    const jpeg = this.pictures.get(slide);
    return jpeg ? `data:image/jpeg;base64,${jpeg}` : null;
  }
}

async function begin() {
  const root = document.getElementById("cohort");
  const scene = JSON.parse(document.getElementById("cohort-data").textContent);
  root.hidden = false;
  await new CohortPage(root, scene).start();
  root.dataset.ready = "yes";
}

begin();
