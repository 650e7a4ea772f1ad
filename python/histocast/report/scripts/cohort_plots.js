import { centralRange, levelsOf, say } from "./scale.js";

// Distributions over groups of slides, and the map of slides. What is drawn is counted first: its size does not grow.

const BINS = 48;
const [WIDTH, HEIGHT] = [480, 28];
const MOST_GROUPS = 20;
const MOST_MARKS = 200;
const QUALITATIVE = [
  "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#e07b00", "#7a5195", "#2f4b7c",
];

/** Slides by the words of a column, most frequent first; beyond twenty they are one. @returns {[string, number[]][]} */
export function groupSlides(slides, column) {
  if (!column) return [["all slides", [...slides]]];
  const groups = new Map();
  for (const slide of slides) {
    const name = column.text(slide) || "not stated";
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(slide);
  }
  const sorted = [...groups].sort((a, b) => b[1].length - a[1].length);
  const rest = sorted.slice(MOST_GROUPS);
  const shown = sorted.slice(0, MOST_GROUPS);
  return rest.length ? [...shown, [`${rest.length} further`, rest.flatMap(([, members]) => members)]] : shown;
}

/** One row per group: its slides with a value, median, quartiles, histogram and the outliers among them. */
export function drawGroups(body, groups, column, isOutlier) {
  const range = centralRange(Float64Array.from(groups.flatMap(([, members]) => members), (slide) => column.values[slide]));
  body.replaceChildren(
    ...groups.map(([name, members]) => {
      const values = members.map((slide) => column.values[slide]).filter(Number.isFinite).sort((a, b) => a - b);
      const at = (share) => values[Math.round(share * (values.length - 1))] ?? NaN;
      const row = document.createElement("tr");
      const head = row.appendChild(document.createElement("th"));
      Object.assign(head, { scope: "row", textContent: name });
      const marked = members.filter((slide) => isOutlier(slide, column));
      const middle = [at(0.25), at(0.75)].map((value) => say(value, column.digits)).join(" to ");
      for (const said of [values.length.toLocaleString("en"), say(at(0.5), column.digits), middle, marked.length]) {
        Object.assign(row.appendChild(document.createElement("td")), { textContent: said, className: "number" });
      }
      const marks = marked.slice(0, MOST_MARKS).map((slide) => column.values[slide]);
      row.appendChild(document.createElement("td")).appendChild(strip(values, range, at(0.5), marks));
      return row;
    }),
  );
}

function strip(values, [low, high], median, marks) {
  // The name space of SVG need not be written out where a template has an element of it.
  const blank = document.getElementById("strip");
  const svg = blank.cloneNode(false);
  svg.removeAttribute("id");
  const make = (tag, facts) => {
    const element = document.createElementNS(blank.namespaceURI, tag);
    for (const [key, value] of Object.entries(facts)) element.setAttribute(key, value);
    return element;
  };
  const place = (value) => Math.min(Math.max((value - low) / (high - low), 0), 1) * WIDTH;
  const counts = new Array(BINS).fill(0);
  for (const value of values) counts[Math.min(Math.floor((place(value) / WIDTH) * BINS), BINS - 1)]++;
  const most = Math.max(...counts, 1);
  const step = WIDTH / BINS;
  counts.forEach((count, bin) => {
    const height = (HEIGHT * count) / most;
    svg.append(make("rect", { x: bin * step, y: HEIGHT - height, width: step - 1, height }));
  });
  if (Number.isFinite(median)) svg.append(make("line", { x1: place(median), x2: place(median), y1: 0, y2: HEIGHT }));
  for (const value of marks.filter(Number.isFinite)) svg.append(make("circle", { cx: place(value), cy: HEIGHT - 4, r: 4 }));
  return svg;
}

export class SlideMap {
  /** @param {HTMLCanvasElement} canvas @param {Float64Array} x @param {Float64Array} y */
  constructor(canvas, x, y, palette) {
    Object.assign(this, { canvas, x, y, palette });
    const [left, right] = extent(x);
    const [top, bottom] = extent(y);
    const scale = 0.92 * Math.min(canvas.width / (right - left || 1), canvas.height / (bottom - top || 1));
    this.across = (slide) => canvas.width / 2 + scale * (x[slide] - (left + right) / 2);
    this.down = (slide) => canvas.height / 2 + scale * (y[slide] - (top + bottom) / 2);
  }

  /** Draw slides by a column; return what its colours mean. @returns {[string, string][]} colour and words */
  draw(slides, column) {
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const size = slides.length > 20000 ? 2 : slides.length > 2000 ? 4 : 7;
    const [colourOf, legend] = column.words ? byWord(slides, column) : byNumber(column, this.palette);
    for (const slide of slides) {
      if (Number.isNaN(this.x[slide])) continue;
      context.fillStyle = colourOf(slide);
      context.fillRect(this.across(slide) - size / 2, this.down(slide) - size / 2, size, size);
    }
    return legend;
  }

  /** The slide next to a point of the canvas, at most 12 pixels away; -1 where there is none. */
  nearest(slides, across, down) {
    let [best, least] = [-1, 144];
    for (const slide of slides) {
      const distance = (this.across(slide) - across) ** 2 + (this.down(slide) - down) ** 2;
      if (distance < least) [best, least] = [slide, distance];
    }
    return best;
  }
}

function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

const UNKNOWN = "#8a94a0";

function byNumber(column, palette) {
  const range = centralRange(column.values);
  const levels = levelsOf(column.values, range);
  const legend = [[palette[0], say(range[0], column.digits)], [palette[255], say(range[1], column.digits)]];
  return [(slide) => (levels[slide] < 0 ? UNKNOWN : palette[levels[slide]]), legend];
}

function byWord(slides, column) {
  const groups = groupSlides(slides, column).slice(0, QUALITATIVE.length);
  const colours = new Map(groups.map(([name], place) => [name, QUALITATIVE[place]]));
  const legend = [...colours].map(([name, colour]) => [colour, name]);
  return [(slide) => colours.get(column.text(slide) || "not stated") ?? UNKNOWN, legend];
}
