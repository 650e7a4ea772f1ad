import { unpackColumn, unpackJson } from "./payload.js";
import { say } from "./scale.js";

// Columns of the cohort: numbers or words of every slide, unpacked when they are first asked for.

export class Column {
  /** @param {object} facts name, title, kind, and what packing.py made of the values. @param {number} count slides */
  constructor(facts, count) {
    Object.assign(this, { facts, count, name: facts.name, title: facts.title, kind: facts.kind, digits: facts.packed.digits });
  }

  /** @returns {Promise<Column>} with `values`, and `words` where these are places in a list of words */
  load() {
    this.loading ??= this.unpack();
    return this.loading;
  }

  async unpack() {
    this.values = await unpackColumn(this.facts.packed, this.count);
    if (this.facts.words) this.words = await unpackJson(this.facts.words);
    return this;
  }

  /** What a cell says. */
  text(slide) {
    const value = this.values[slide];
    if (this.words) return this.words[value] ?? "";
    return say(value, this.digits);
  }

  /** A function that orders slides by this column; those without a value come last. */
  order(down) {
    const { values } = this;
    const sign = down ? -1 : 1;
    return (a, b) => {
      const [one, two] = [values[a], values[b]];
      if (Number.isNaN(one) || Number.isNaN(two)) return Number.isNaN(one) - Number.isNaN(two) || a - b;
      return sign * (one - two) || a - b;
    };
  }
}

/** Slides that pass a search over words and a filter by one column. @returns {Uint32Array} */
export function findSlides(count, { words, texts, column, wanted, outlier }) {
  const asked = words.trim().toLowerCase();
  const hits = asked && texts.map(({ values, words: list }) => [values, new Set(matching(list, asked))]);
  const found = new Uint32Array(count);
  let next = 0;
  for (let slide = 0; slide < count; slide++) {
    if (outlier && outlier[slide] !== 1) continue;
    if (column && column.text(slide) !== wanted) continue;
    if (hits && !hits.some(([values, places]) => places.has(values[slide]))) continue;
    found[next++] = slide;
  }
  return found.subarray(0, next);
}

function matching(list, asked) {
  return [...list.keys()].filter((place) => list[place].toLowerCase().includes(asked));
}
