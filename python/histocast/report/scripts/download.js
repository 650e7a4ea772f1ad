// Files made of what the page shows, without a request.

/** Offer a file to the browser's downloads. */
export function offer(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A file name of letters, digits and a few signs. */
export function fileName(...parts) {
  return parts.map((part) => part.replace(/[^A-Za-z0-9._-]+/g, "_")).join("_");
}

/** A cell that no spreadsheet takes for a formula. */
function cell(value) {
  if (typeof value === "number") return Number.isFinite(value) ? String(value) : "";
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** @param {[string, ArrayLike<number>][]} columns title and one number per spot */
export function makeCsv(columns) {
  const rows = [columns.map(([title]) => cell(title)).join(",")];
  for (let spot = 0; spot < columns[0][1].length; spot++) {
    rows.push(columns.map(([, values]) => cell(values[spot])).join(","));
  }
  return new Blob([rows.join("\r\n"), "\r\n"], { type: "text/csv" });
}

/** Tiles as QuPath imports them: detections with measurements, corners in level-0 pixels. */
export function makeGeoJson({ x, y, tilePx, tileId, columns }) {
  const half = tilePx / 2;
  const features = Array.from(x, (_, spot) => {
    const [left, right, top, bottom] = [x[spot] - half, x[spot] + half, y[spot] - half, y[spot] + half];
    const present = columns.filter(([, values]) => Number.isFinite(values[spot]));
    return {
      type: "Feature",
      geometry: {
        type: "Polygon",
        coordinates: [[[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]],
      },
      properties: {
        objectType: "detection",
        name: String(tileId[spot]),
        measurements: Object.fromEntries(present.map(([title, values]) => [title, values[spot]])),
      },
    };
  });
  return new Blob([JSON.stringify({ type: "FeatureCollection", features })], { type: "application/geo+json" });
}

/** Maps side by side, each under its title and over its colour bar. @returns {Promise<Blob>} */
export function makePng(panels) {
  const [width, height] = [1200, Math.round((1200 * panels[0].map.canvas.height) / panels[0].map.canvas.width)];
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: width * panels.length, height: height + 130 });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  panels.forEach(({ map, title, subtitle, palette, ticks }, place) => {
    const { frame, zoom } = map.view;
    const ratio = width / map.canvas.clientWidth;
    context.setTransform(1, 0, 0, 1, place * width, 56);
    context.save();
    context.beginPath();
    context.rect(0, 0, width, height);
    context.clip();
    map.paint(context, width, height, zoom * Math.min(width / frame.width, height / frame.height), ratio);
    context.restore();
    context.fillStyle = "#18212b";
    context.font = "600 26px system-ui, sans-serif";
    context.fillText(title, 10, -20);
    context.font = "20px system-ui, sans-serif";
    context.textAlign = "right";
    context.fillText(subtitle, width - 10, -20);
    palette.forEach((colour, level) => {
      context.fillStyle = colour;
      context.fillRect(10 + level * 2, height + 14, 2, 18);
    });
    context.fillStyle = "#18212b";
    context.textAlign = "center";
    for (const [share, label] of ticks) context.fillText(label, 10 + share * 512, height + 56);
    context.textAlign = "left";
  });
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
