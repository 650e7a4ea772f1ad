// Unpacks what packing.py wrote.

/** The bytes of base64 text under zlib. @param {string} text @returns {Promise<Uint8Array>} */
async function inflate(text) {
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** One number per spot; NaN where it is missing. @returns {Promise<Float64Array>} */
export async function unpackColumn(column, count) {
  const planes = await inflate(column.data);
  const values = new Float64Array(count);
  const divisor = 10 ** column.digits;
  let code = 0;
  for (let spot = 0; spot < count; spot++) {
    let number = 0;
    for (let plane = column.bytes - 1; plane >= 0; plane--) number = number * 256 + planes[plane * count + spot];
    if (!column.delta) code = number;
    else code += number % 2 ? -(number + 1) / 2 : number / 2;
    values[spot] = code === 0 ? NaN : (code - 1 + column.least) / divisor;
  }
  return values;
}

/** What pack_json packed. */
export async function unpackJson(text) {
  return JSON.parse(new TextDecoder().decode(await inflate(text)));
}
