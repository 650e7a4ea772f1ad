import { say } from "./scale.js";

// How often each value occurs on the slide.

const BINS = 32;
const [WIDTH, HEIGHT] = [320, 60];

/**
 * Fill an SVG element that is there already: its name space need not be written out.
 * @param {SVGElement} svg
 * @param {number} marked value of the spot under the pointer, or NaN
 */
export function drawHistogram(svg, values, [low, high], { digits, marked, name }) {
  const make = (tag, facts) => {
    const element = document.createElementNS(svg.namespaceURI, tag);
    for (const [key, value] of Object.entries(facts)) element.setAttribute(key, value);
    return element;
  };
  const counts = new Array(BINS).fill(0);
  const binOf = (value) => Math.min(Math.max(Math.floor(((value - low) / (high - low)) * BINS), 0), BINS - 1);
  for (const value of values) if (Number.isFinite(value)) counts[binOf(value)]++;
  const most = Math.max(...counts, 1);
  const step = WIDTH / BINS;
  svg.replaceChildren(
    ...counts.map((count, bin) => {
      const height = (HEIGHT * count) / most;
      const here = Number.isFinite(marked) && binOf(marked) === bin;
      return make("rect", {
        x: bin * step, y: HEIGHT - height, width: step - 1, height, class: here ? "here" : "",
      });
    }),
    make("line", { x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }),
  );
  const fullest = low + ((counts.indexOf(most) + 0.5) / BINS) * (high - low);
  svg.setAttribute(
    "aria-label",
    `Histogram of ${name}, from ${say(low, digits)} to ${say(high, digits)}; most are near ${say(fullest, digits)}`,
  );
}
