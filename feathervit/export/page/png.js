// Converts a PNG of 16 bits per channel to 8-bit levels.
// Browsers keep only the upper 8 bits, so that 12-bit data would be nearly black.

const SAMPLES = { 0: 1, 2: 3, 4: 2, 6: 4 }; // by colour type: grey, RGB, grey with alpha, RGB with alpha

/** Returns { width, height, data } for ImageData, with `scale` as white, or null for any other file. */
export async function levelsOf(file, scale) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const view = new DataView(bytes.buffer);
  if (bytes.length < 33 || view.getUint32(0) !== 0x89504e47 || bytes[24] !== 16) return null;
  if (bytes[28]) throw new Error("an interlaced PNG of 16 bits cannot be read here");
  const [width, height, samples] = [view.getUint32(16), view.getUint32(20), SAMPLES[bytes[25]]];
  const raw = await unfiltered(pixelChunks(bytes, view), height, width * samples * 2, samples * 2);
  const data = new Uint8ClampedArray(4 * width * height); // clamps and rounds to the nearest
  const value = (at) => 256 * raw[at] + raw[at + 1];
  for (let from = 0, to = 0; to < data.length; from += samples * 2, to += 4) {
    for (let c = 0; c < 3; c++) data[to + c] = (value(from + (samples > 2 ? 2 * c : 0)) * 255) / scale;
    data[to + 3] = samples % 2 ? 255 : value(from + 2 * (samples - 1)) / 257;
  }
  return { width, height, data };
}

function pixelChunks(bytes, view) {
  const chunks = [];
  for (let at = 8; at + 12 <= bytes.length; at += 12 + view.getUint32(at))
    if (view.getUint32(at + 4) === 0x49444154) chunks.push(bytes.subarray(at + 8, at + 8 + view.getUint32(at))); // IDAT
  return chunks;
}

/** Removes the filters of the rows (section 9 of the PNG specification). */
async function unfiltered(chunks, height, row, pixel) {
  const stream = new Blob(chunks).stream().pipeThrough(new DecompressionStream("deflate"));
  const packed = new Uint8Array(await new Response(stream).arrayBuffer());
  const out = new Uint8Array(height * row);
  for (let y = 0; y < height; y++) {
    const filter = packed[y * (row + 1)];
    for (let x = 0, at = y * row; x < row; x++, at++) {
      const left = x < pixel ? 0 : out[at - pixel];
      const up = y ? out[at - row] : 0;
      const corner = y && x >= pixel ? out[at - row - pixel] : 0;
      out[at] = packed[y * (row + 1) + 1 + x] + [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter];
    }
  }
  return out;
}

function paeth(left, up, corner) {
  const [a, b, c] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}
