// From strokes to the 64 pixels that the network takes, by whole numbers and one rule, the same in every browser.
//
// The training images were made from bitmaps of 32 x 32 dots, filled by the digit, by counting the dots in each block
// of 4 x 4. So are these. On average 312 dots are set, whatever the digit: the pen is made as wide as that takes.

const DOTS = 32;
const BLOCK = 4;
const WIDEST = 25; // scanned digits are as high as the bitmap, and rarely wider than three quarters of it
const INK = 312;
const THINNEST = 1.2;
const THICKEST = 5;

/** Squared distance of a point to a line between two points. */
function squaredDistance(x, y, [x0, y0], [x1, y1]) {
  const [dx, dy] = [x1 - x0, y1 - y0];
  const length = dx * dx + dy * dy;
  const along = length ? Math.min(1, Math.max(0, ((x - x0) * dx + (y - y0) * dy) / length)) : 0;
  const [ex, ey] = [x - x0 - along * dx, y - y0 - along * dy];
  return ex * ex + ey * ey;
}

/** Moves and scales strokes so that, drawn with this pen, they fill the bitmap. */
function fitted(strokes, radius) {
  const xs = strokes.flat().map(([x]) => x);
  const ys = strokes.flat().map(([, y]) => y);
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const room = [WIDEST - 2 * radius, DOTS - 2 * radius];
  const scale = Math.min(room[0] / Math.max(right - left, 1e-9), room[1] / Math.max(bottom - top, 1e-9));
  const limited = Math.min(scale, 1e6);
  const place = ([x, y]) => [
    DOTS / 2 + (x - (left + right) / 2) * limited,
    DOTS / 2 + (y - (top + bottom) / 2) * limited,
  ];
  return strokes.map((stroke) => stroke.map(place));
}

/** The dots that a pen of this radius sets. */
function bitmap(strokes, radius) {
  const dots = new Uint8Array(DOTS * DOTS);
  for (const stroke of fitted(strokes, radius)) {
    stroke.forEach((point, index) => {
      const from = stroke[Math.max(0, index - 1)];
      for (let row = 0; row < DOTS; row += 1) {
        for (let column = 0; column < DOTS; column += 1) {
          if (squaredDistance(column + 0.5, row + 0.5, from, point) <= radius * radius) dots[row * DOTS + column] = 1;
        }
      }
    });
  }
  return dots;
}

const inkOf = (dots) => dots.reduce((sum, dot) => sum + dot, 0);

/**
 * Returns 64 whole numbers from 0 to 16.
 *
 * @param strokes lists of points `[x, y]`, in any unit; y goes down.
 */
export function pixelsOf(strokes) {
  const pixels = new Uint8Array((DOTS / BLOCK) ** 2);
  if (!strokes.length) return pixels;
  let [thin, thick] = [THINNEST, THICKEST];
  for (let round = 0; round < 6; round += 1) {
    const radius = (thin + thick) / 2;
    if (inkOf(bitmap(strokes, radius)) < INK) thin = radius;
    else thick = radius;
  }
  bitmap(strokes, (thin + thick) / 2).forEach((dot, index) => {
    const [row, column] = [Math.floor(index / DOTS), index % DOTS];
    pixels[Math.floor(row / BLOCK) * (DOTS / BLOCK) + Math.floor(column / BLOCK)] += dot;
  });
  return pixels;
}
