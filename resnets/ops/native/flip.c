/* 8-bit pictures to a net's numbers, (x - mean) * scale, mirrored where asked, in one pass. */
#include <stdint.h>
#include <string.h>

#define MOST 16384 /* values in a row that is mirrored */

static void mirror(const uint8_t *row, int wide, int planes, uint8_t *out) {
  for (int x = 0; x < wide; x++) {
    for (int c = 0; c < planes; c++) out[x * planes + c] = row[(wide - 1 - x) * planes + c];
  }
}

/* Picture i of `out` (count, high, wide, planes) becomes number rows[i] of `pictures`, mirrored
 * where turned[i]. means: (2, high, wide, planes), as it is and mirrored; scale: (wide, planes).
 * 0 where rows are too long. */
int flip_pictures(const uint8_t *pictures, const int64_t *rows, const uint8_t *turned,
                  int64_t count, int high, int wide, int planes, const float *means,
                  const float *scale, float *out, int threads) {
  const int width = wide * planes;
  const int64_t size = (int64_t)high * width;
  if (width > MOST) return 0;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t i = 0; i < count; i++) {
    const uint8_t *from = pictures + rows[i] * size;
    const float *mean = means + (turned[i] ? size : 0);
    float *to = out + i * size;
    uint8_t row[MOST];
    for (int y = 0; y < high; y++, from += width, mean += width, to += width) {
      if (turned[i]) mirror(from, wide, planes, row);
      const uint8_t *values = turned[i] ? row : from;
      for (int k = 0; k < width; k++) to[k] = ((float)values[k] - mean[k]) * scale[k];
    }
  }
  return 1;
}
