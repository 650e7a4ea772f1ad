import { say } from "./scale.js";

// The list of genes: searched, filtered, sorted, and chosen from.

const MOST_ROWS = 200;
const GOOD_ACCURACY = 0.2;

export class GeneTable {
  /**
   * @param {HTMLElement} root holds the search field, the filter, the table and its status
   * @param {object} genes columns of equal length: symbol, id, accuracy, mean, sd, evidence
   * @param {number} mapped how many of them, the first, have values in this page
   * @param {(gene: number) => void} onChoice
   */
  constructor(root, genes, mapped, onChoice) {
    Object.assign(this, { genes, mapped, onChoice, chosen: -1, sorted: { by: "accuracy", down: true } });
    this.search = root.querySelector("input[type=search]");
    this.filter = root.querySelector("input[type=checkbox]");
    this.body = root.querySelector("tbody");
    this.status = root.querySelector("[role=status]");
    this.heads = [...root.querySelectorAll("th[data-by]")];
    this.words = genes.symbol.map((symbol, gene) => `${symbol}\n${genes.id[gene]}`.toLowerCase());
    this.search.addEventListener("input", () => this.fill());
    this.search.addEventListener("keydown", (event) => this.searched(event));
    this.filter.addEventListener("change", () => this.fill());
    this.body.addEventListener("keydown", (event) => this.typed(event));
    for (const head of this.heads) {
      head.querySelector("button").addEventListener("click", () => this.sortBy(head.dataset.by));
    }
    this.fill();
  }

  sortBy(by) {
    const again = this.sorted.by === by;
    this.sorted = { by, down: again ? !this.sorted.down : by !== "symbol" };
    this.fill();
  }

  /** The genes that the search and the filter leave, in order. @returns {number[]} */
  found() {
    const asked = this.search.value.trim().toLowerCase();
    const column = this.genes[this.sorted.by];
    const sign = this.sorted.down ? -1 : 1;
    const compare = (a, b) => {
      const [one, two] = [column[a], column[b]];
      if (one === null || two === null) return (one === null) - (two === null);
      return sign * (typeof one === "string" ? one.localeCompare(two, "en", { numeric: true }) : one - two);
    };
    return [...this.words.keys()]
      .filter((gene) => this.words[gene].includes(asked))
      .filter((gene) => !this.filter.checked || (this.genes.accuracy[gene] ?? 0) > GOOD_ACCURACY)
      .sort((a, b) => compare(a, b) || a - b);
  }

  fill() {
    const found = this.found();
    const shown = found.slice(0, MOST_ROWS);
    this.body.replaceChildren(...shown.map((gene) => this.row(gene)));
    const counted = `${found.length.toLocaleString("en")} of ${this.words.length.toLocaleString("en")} genes`;
    const listed = found.length > MOST_ROWS ? `, the first ${MOST_ROWS} listed` : "";
    const unmapped = found.some((gene) => gene >= this.mapped) ? "; those in grey did not fit into this page" : "";
    this.status.textContent = counted + listed + unmapped;
    for (const head of this.heads) {
      const active = head.dataset.by === this.sorted.by;
      head.setAttribute("aria-sort", active ? (this.sorted.down ? "descending" : "ascending") : "none");
    }
  }

  row(gene) {
    const { genes } = this;
    const row = document.createElement("tr");
    const name = row.appendChild(document.createElement("th"));
    name.scope = "row";
    const button = name.appendChild(document.createElement("button"));
    Object.assign(button, { type: "button", textContent: genes.symbol[gene], title: genes.id[gene] });
    button.dataset.gene = gene;
    if (gene >= this.mapped) {
      button.disabled = true;
      button.title += ": its values are in the .h5ad and .parquet files, and did not fit into this page";
    }
    if (genes.evidence[gene] !== "trained") {
      name.appendChild(document.createElement("small")).textContent = `never measured, ${genes.evidence[gene]}`;
    }
    button.addEventListener("click", () => this.onChoice(gene));
    for (const column of ["accuracy", "mean", "sd"]) {
      const cell = row.appendChild(document.createElement("td"));
      cell.textContent = say(genes[column][gene], 2);
      cell.className = "number";
    }
    this.mark(row, gene === this.chosen);
    return row;
  }

  mark(row, chosen) {
    row.classList.toggle("chosen", chosen);
    if (chosen) row.querySelector("button").setAttribute("aria-current", "true");
    else row.querySelector("button").removeAttribute("aria-current");
  }

  choose(gene) {
    this.chosen = gene;
    for (const row of this.body.rows) {
      this.mark(row, Number(row.querySelector("button").dataset.gene) === gene);
    }
  }

  buttons() {
    return [...this.body.querySelectorAll("button:enabled")];
  }

  /** Enter takes the gene of exactly that name, or the first in the list; Down goes into the list. */
  searched(event) {
    const asked = this.search.value.trim().toLowerCase();
    const found = this.found().filter((gene) => gene < this.mapped);
    if (event.key === "Enter" && found.length) {
      this.onChoice(found.find((gene) => this.genes.symbol[gene].toLowerCase() === asked) ?? found[0]);
    } else if (event.key === "ArrowDown") this.buttons()[0]?.focus();
    else return;
    event.preventDefault();
  }

  typed(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const buttons = this.buttons();
    const place = buttons.indexOf(document.activeElement);
    if (!step || place < 0) return;
    (buttons[place + step] ?? (step < 0 ? this.search : buttons[place])).focus();
    event.preventDefault();
  }
}
