// Numbers to colours and to words, as colour.py has them.

/** Palettes arrive as 256 RGB triples. @returns {string[]} colours of a canvas */
export function readPalette(text) {
  const bytes = atob(text);
  const part = (place) => bytes.charCodeAt(place);
  return Array.from({ length: 256 }, (_, level) => `rgb(${part(3 * level)},${part(3 * level + 1)},${part(3 * level + 2)})`);
}

/** From the 1st to the 99th percentile, as numpy interpolates it. @returns {[number, number]} */
export function centralRange(values) {
  const finite = values.filter(Number.isFinite).sort();
  if (!finite.length) return [0, 1];
  const at = (share) => {
    const place = share * (finite.length - 1);
    const below = Math.floor(place);
    const above = Math.min(below + 1, finite.length - 1);
    return finite[below] + (place - below) * (finite[above] - finite[below]);
  };
  const [low, high] = [at(0.01), at(0.99)];
  return high - low < 1e-6 ? [low - 0.5, high + 0.5] : [low, high];
}

/** The palette's level of each value, -1 where there is none. @returns {Int16Array} */
export function levelsOf(values, [low, high]) {
  return Int16Array.from(values, (value) =>
    Number.isFinite(value) ? Math.floor(Math.min(Math.max(((value - low) / (high - low)) * 255 + 0.5, 0), 255)) : -1,
  );
}

/** A number as the page prints it, with a true minus sign. */
export function say(value, digits) {
  if (value === null || !Number.isFinite(value)) return "\u2013";
  return (Math.abs(value) < 0.5 * 10 ** -digits ? 0 : value).toFixed(Math.max(digits, 0)).replace("-", "\u2212");
}

/** The 1, 2 or 5 times a power of ten that is at least `about`. */
export function roundStep(about) {
  const power = 10 ** Math.floor(Math.log10(about));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= about * (1 - 1e-9)) ?? 10 * power;
}

/** About four round values within a scale, `least` apart. @returns {[number, string][]} place from 0 to 1, and label */
export function ticksOf([low, high], least = 0) {
  const step = Math.max(roundStep((high - low) / 4), least);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const ticks = [];
  for (let number = Math.ceil(low / step - 1e-9); number <= Math.floor(high / step + 1e-9); number++) {
    ticks.push([(number * step - low) / (high - low), say(number * step, digits)]);
  }
  return ticks;
}

/** Pearson correlation over spots that have both numbers; NaN where one is the same everywhere. */
export function correlate(a, b) {
  const both = [...a.keys()].filter((spot) => Number.isFinite(a[spot]) && Number.isFinite(b[spot]));
  const mean = (values) => both.reduce((sum, spot) => sum + values[spot], 0) / both.length;
  const [meanA, meanB] = [mean(a), mean(b)];
  const product = (x, meanX, y, meanY) => both.reduce((sum, spot) => sum + (x[spot] - meanX) * (y[spot] - meanY), 0);
  return product(a, meanA, b, meanB) / Math.sqrt(product(a, meanA, a, meanA) * product(b, meanB, b, meanB));
}
