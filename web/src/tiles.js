/** Tiles of a grid, each with a halo, so that the networks' memory does not grow with the picture. */

/** A tile along one axis: output range `[start, stop)`, and input range `[outerStart, outerStop)` with its halo. */
function spans(length, size, halo) {
  const n = Math.ceil(length / size);
  return Array.from({ length: n }, (_, i) => {
    const start = i * size;
    const stop = Math.min(start + size, length);
    return { start, stop, outerStart: Math.max(start - halo, 0), outerStop: Math.min(stop + halo, length) };
  });
}

/** Divide a grid into tiles `{rows, columns}`, row after row. */
export function tiles([height, width], size, halo) {
  return spans(height, size, halo).flatMap((rows) => spans(width, size, halo).map((columns) => ({ rows, columns })));
}

/** Sides of a tile with its halo. */
export function outerSides({ rows, columns }) {
  return [rows.outerStop - rows.outerStart, columns.outerStop - columns.outerStart];
}
