// The table of slides: only the rows that can be seen exist, so that a hundred thousand cost no more than fifty.

const ROW_PX = 40;
const BEYOND = 8;

export class SlideTable {
  /**
   * @param {HTMLElement} root the region that scrolls, with a table in it
   * @param {import("./cohort_columns.js").Column[]} columns
   * @param {{page: (slide: number) => string | null, picture: (slide: number) => string | null}} links
   * @param {(column: object) => void} onSort
   */
  constructor(root, columns, links, onSort) {
    Object.assign(this, { root, links, onSort, columns, slides: new Uint32Array(0), sorted: null });
    this.table = root.querySelector("table");
    this.head = this.table.tHead.rows[0];
    this.body = this.table.tBodies[0];
    root.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(root);
    this.setColumns(columns);
  }

  setColumns(columns) {
    this.columns = columns;
    this.head.replaceChildren(...columns.map((column) => this.heading(column)));
    this.table.setAttribute("aria-colcount", columns.length);
    this.first = -1;
    this.draw();
  }

  heading(column) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.dataset.by = column.name;
    if (column.kind === "number") cell.className = "number";
    const down = this.sorted?.column === column ? this.sorted.down : null;
    cell.setAttribute("aria-sort", down === null ? "none" : down ? "descending" : "ascending");
    const button = cell.appendChild(document.createElement("button"));
    Object.assign(button, { type: "button", textContent: column.title });
    button.addEventListener("click", () => this.onSort(column));
    return cell;
  }

  /** @param {Uint32Array} slides in the order in which they are shown */
  show(slides, sorted) {
    Object.assign(this, { slides, sorted, first: -1 });
    this.table.setAttribute("aria-rowcount", slides.length + 1);
    this.setColumns(this.columns);
  }

  draw() {
    const { root, slides, body } = this;
    const seen = Math.ceil(root.clientHeight / ROW_PX) + 2 * BEYOND;
    const first = Math.max(0, Math.min(Math.floor(root.scrollTop / ROW_PX) - BEYOND, slides.length - seen));
    if (first === this.first && seen === this.seen) return;
    Object.assign(this, { first, seen });
    const last = Math.min(first + seen, slides.length);
    const rows = [];
    for (let place = first; place < last; place++) rows.push(this.row(slides[place], place));
    body.replaceChildren(space(first), ...rows, space(slides.length - last));
  }

  row(slide, place) {
    const row = document.createElement("tr");
    row.setAttribute("aria-rowindex", place + 2);
    row.style.height = `${ROW_PX}px`;
    for (const column of this.columns) {
      const isName = column.name === "sample";
      const cell = row.appendChild(document.createElement(isName ? "th" : "td"));
      if (column.kind === "number") cell.className = "number";
      if (isName) {
        cell.scope = "row";
        this.name(cell, slide, column.text(slide));
      } else cell.textContent = column.text(slide);
    }
    return row;
  }

  name(cell, slide, name) {
    const picture = this.links.picture(slide);
    const image = cell.appendChild(document.createElement(picture ? "img" : "span"));
    image.className = "thumbnail";
    if (picture) Object.assign(image, { src: picture, alt: "" });
    const page = this.links.page(slide);
    const label = cell.appendChild(document.createElement(page ? "a" : "span"));
    if (page) label.href = page;
    label.textContent = name;
  }
}

/** A row of the height of those that are not there. */
function space(rows) {
  const row = document.createElement("tr");
  row.setAttribute("aria-hidden", "true");
  row.className = "space";
  row.appendChild(document.createElement("td")).style.height = `${rows * ROW_PX}px`;
  return row;
}
