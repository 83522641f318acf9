/* Mirror and normalize 8-bit images, (x - mean) * scale, in one pass. */
#include <stdint.h>
#include <string.h>

#define MAX_ROW 16384 /* values in a row that is mirrored */

static void mirror(const uint8_t *row, int wide, int channels, uint8_t *out) {
  for (int x = 0; x < wide; x++) {
    for (int c = 0; c < channels; c++) out[x * channels + c] = row[(wide - 1 - x) * channels + c];
  }
}

/* Image i of `out` (count, high, wide, channels) becomes image rows[i] of `images`, mirrored where
 * flipped[i]. means: (2, high, wide, channels), as stored and mirrored; scale: (wide, channels).
 * Returns 0 if rows are too long. */
int flip_and_normalize(const uint8_t *images, const int64_t *rows, const uint8_t *flipped,
                  int64_t count, int high, int wide, int channels, const float *means,
                  const float *scale, float *out, int threads) {
  const int width = wide * channels;
  const int64_t size = (int64_t)high * width;
  if (width > MAX_ROW) return 0;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t i = 0; i < count; i++) {
    const uint8_t *from = images + rows[i] * size;
    const float *mean = means + (flipped[i] ? size : 0);
    float *to = out + i * size;
    uint8_t row[MAX_ROW];
    for (int y = 0; y < high; y++, from += width, mean += width, to += width) {
      if (flipped[i]) mirror(from, wide, channels, row);
      const uint8_t *values = flipped[i] ? row : from;
      for (int k = 0; k < width; k++) to[k] = ((float)values[k] - mean[k]) * scale[k];
    }
  }
  return 1;
}
