/* Antialiased resizing of 8-bit images as in Pillow: rows first, rounded to 8 bits, then columns.
 *
 * The filters are Pillow's, the sums are of 16 bits: a pixel less 128, times 256, is multiplied by a
 * weight of 14 or 15 bits, and the upper half of the product is kept. Each such step drops half a
 * unit on average, which is added back. 64 or 128 units are one gray level.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#define LANES 16 /* 16-bit values in a vector */
#else
#define LANES 8
#endif

#define STEP 4       /* taps are counted, and pixels written, in these steps */
#define MAX_TAPS 64 /* beyond this the weights have too few bits */

typedef int16_t Lanes __attribute__((vector_size(2 * LANES)));
typedef int16_t Pixel __attribute__((vector_size(8)));
typedef uint8_t Bytes __attribute__((vector_size(LANES)));

static inline int min_int(int a, int b) { return a < b ? a : b; }
static inline int max_int(int a, int b) { return a > b ? a : b; }

/* ---- Weights ---- */

/* How inputs start..end become `count` outputs. Output i sees `taps[i]` inputs from start +
 * first[i] on; its weights, each `repeat` times, begin at weight[i * stride * repeat] and end in
 * zeros. 1 is 1 << `bits`; no output sees more than `max_taps` inputs. */
typedef struct {
  int count, stride, repeat, bits, max_taps, start, end;
  int *first, *taps;
  int16_t *weight;
} Axis;

static double filter(double x, int cubic) {
  x = fabs(x);
  if (!cubic) return x < 1 ? 1 - x : 0;
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1; /* Keys 1981 with a = -1/2, as Pillow's */
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

static void set_weights(Axis *axis, int index, double center, double wide, int cubic) {
  const int first = axis->first[index], taps = axis->taps[index];
  double exact[MAX_TAPS], sum = 0;
  for (int k = 0; k < taps; k++) sum += exact[k] = filter((first + k + 0.5 - center) / wide, cubic);
  for (int k = 0; k < taps; k++) {
    int16_t *at = axis->weight + ((size_t)index * axis->stride + k) * axis->repeat;
    const int weight = (int)lrint(exact[k] / sum * (1 << axis->bits));
    for (int i = 0; i < axis->repeat; i++) at[i] = (int16_t)min_int(weight, INT16_MAX);
  }
}

/* `from`..`to` of `length` inputs become `count` outputs. Returns 0 if the weights have too few bits. */
static int make_axis(Axis *axis, double from, double to, int length, int count, int repeat,
                     int cubic) {
  const double scale = (to - from) / count, wide = scale > 1 ? scale : 1;
  const double reach = (cubic ? 2 : 1) * wide;
  memset(axis, 0, sizeof *axis);
  if (!(from >= 0 && to <= length && from < to && 2 * reach + 1 <= MAX_TAPS)) return 0;
  axis->count = count, axis->repeat = repeat, axis->start = length;
  axis->bits = cubic ? 14 : 15; /* at a border one weight of a cubic can be more than 1 */
  axis->stride = ((int)(2 * reach) + 1 + STEP - 1) / STEP * STEP;
  axis->first = malloc(2 * sizeof(int) * count);
  axis->weight = calloc((size_t)count * axis->stride * repeat, sizeof(int16_t));
  if (!axis->first || !axis->weight) return 0;
  axis->taps = axis->first + count;
  for (int i = 0; i < count; i++) {
    const double center = from + (i + 0.5) * scale;
    const int last = min_int((int)(center + reach + 0.5), length);
    axis->first[i] = max_int((int)(center - reach + 0.5), 0);
    axis->taps[i] = min_int(last - axis->first[i], axis->stride);
    set_weights(axis, i, center, wide, cubic);
    axis->max_taps = max_int(axis->max_taps, axis->taps[i]);
    axis->start = min_int(axis->start, axis->first[i]);
    axis->end = max_int(axis->end, last);
  }
  for (int i = 0; i < count; i++) axis->first[i] -= axis->start;
  return 1;
}

static void free_axis(Axis *axis) {
  free(axis->first);
  free(axis->weight);
}

/* ---- Resizing ---- */

static inline Lanes multiply_high(Lanes a, Lanes b) { /* the upper halves of the products */
#ifdef __AVX2__
  return (Lanes)_mm256_mulhi_epi16((__m256i)a, (__m256i)b);
#else /* compilers make the same of this loop on other processors */
  int16_t x[LANES], y[LANES];
  memcpy(x, &a, sizeof x);
  memcpy(y, &b, sizeof y);
  for (int i = 0; i < LANES; i++) x[i] = (int16_t)((x[i] * y[i]) >> 16);
  memcpy(&a, x, sizeof x);
  return a;
#endif
}

static inline Lanes centered(const uint8_t *from) { /* pixels less 128, times 256 */
  Bytes bytes;
  memcpy(&bytes, from, sizeof bytes);
  return (__builtin_convertvector(bytes, Lanes) << 8) ^ ((Lanes){0} + INT16_MIN);
}

static inline Bytes rounded(Lanes sum, const Axis *axis, int taps) {
  const int units = axis->bits - 8;
  const Lanes white = (Lanes){0} + 255;
  sum = ((sum + (int16_t)((1 << (units - 1)) + taps / 2)) >> units) + 128;
  sum = (sum & (sum < white)) | (white & (sum >= white));
  return __builtin_convertvector(sum & (sum > 0), Bytes);
}

/* Center a row of `wide` pixels; with three channels also add a fourth lane to each pixel. */
static void unpack_row(const uint8_t *row, int wide, int channels, int16_t *line, int16_t *four) {
  int i = 0;
  for (; i + LANES <= wide * channels; i += LANES) {
    const Lanes values = centered(row + i);
    memcpy(line + i, &values, sizeof values);
  }
  for (; i < wide * channels; i++) line[i] = (int16_t)((row[i] << 8) ^ INT16_MIN);
  if (channels == 3) {
    for (i = 0; i < wide; i++) memcpy(four + 4 * i, line + 3 * i, 8);
  }
}

/* Weighted sums of one row; `quads`: scratch for four values per output. */
static inline void sum_row(const int16_t *line, const Axis *x, const int stride, int16_t *quads) {
  const int *first = x->first;
  const int16_t *weight = x->weight;
  for (int i = 0, count = x->count; i < count; i++, weight += 4 * stride) {
    const int16_t *at = line + 4 * first[i];
    Lanes sum = {0}, values, weights;
    for (int k = 0; k < 4 * stride; k += LANES) {
      memcpy(&values, at + k, sizeof values);
      memcpy(&weights, weight + k, sizeof weights);
      sum += multiply_high(values, weights);
    }
    Pixel parts[LANES / 4];
    memcpy(parts, &sum, sizeof sum);
    for (int k = LANES / 8; k; k /= 2) {
      for (int part = 0; part < k; part++) parts[part] += parts[part + k];
    }
    memcpy(quads + 4 * i, parts, sizeof *parts);
  }
}

static void resize_color_row(const int16_t *four, const Axis *x, int16_t *quads, uint8_t *out) {
  if (x->stride == STEP) sum_row(four, x, STEP, quads); /* by far the most frequent: no inner loop */
  else sum_row(four, x, x->stride, quads);
  for (int i = 0; i < 4 * x->count; i += LANES) {
    Lanes values;
    uint8_t pixels[LANES];
    memcpy(&values, quads + i, sizeof values);
    const Bytes bytes = rounded(values, x, x->max_taps);
    memcpy(pixels, &bytes, sizeof bytes);
    for (int k = 0; k < LANES; k += 4) memcpy(out + (i + k) / 4 * 3, pixels + k, 4);
  }
}

static void resize_gray_row(const int16_t *line, const Axis *x, uint8_t *out) {
  for (int i = 0; i < x->count; i++) {
    const int16_t *at = line + x->first[i], *weight = x->weight + (size_t)i * x->stride;
    int sum = (1 << (x->bits - 9)) + x->max_taps / 2;
    for (int k = 0; k < x->stride; k++) sum += (at[k] * weight[k]) >> 16;
    out[i] = (uint8_t)max_int(0, min_int((sum >> (x->bits - 8)) + 128, 255));
  }
}

/* Output `index` of `y`, a weighted sum of rows of `width` values; writes whole vectors. */
static void resize_column(const uint8_t *rows, size_t pitch, const Axis *y, int index, int width,
                 uint8_t *out) {
  const int16_t *weight = y->weight + (size_t)index * y->stride;
  const int taps = y->taps[index];
  rows += y->first[index] * pitch;
  for (int i = 0; i < width; i += LANES) {
    Lanes sum = {0};
    for (int k = 0; k < taps; k++) {
      sum += multiply_high(centered(rows + k * pitch + i), (Lanes){0} + weight[k]);
    }
    const Bytes bytes = rounded(sum, y, taps);
    memcpy(out + i, &bytes, sizeof bytes);
  }
}

/* `pixels` begins at column x->start of row y->start. Returns 0 if out of memory. */
static int resize(const uint8_t *pixels, size_t pitch, int channels, const Axis *x, const Axis *y,
                 uint8_t *out) {
  const int wide = x->end - x->start, high = y->end - y->start, width = x->count * channels;
  const size_t step = width + 2 * LANES; /* a row, and what whole vectors write beyond it */
  int16_t *line = calloc(4 * ((size_t)wide + x->stride + 1), sizeof(int16_t));
  int16_t *four = calloc(4 * ((size_t)wide + x->stride), sizeof(int16_t));
  int16_t *quads = calloc(4 * ((size_t)x->count + STEP), sizeof(int16_t));
  uint8_t *rows = malloc(step * (high + 1)), *last = rows + step * high;
  const int ready = line && four && quads && rows;
  for (int row = 0; ready && row < high; row++) {
    unpack_row(pixels + row * pitch, wide, channels, line, four);
    if (channels == 1) resize_gray_row(line, x, rows + row * step);
    else resize_color_row(four, x, quads, rows + row * step);
  }
  for (int row = 0; ready && row < y->count; row++, out += width) {
    resize_column(rows, step, y, row, width, last);
    memcpy(out, last, width);
  }
  free(line), free(four), free(quads), free(rows);
  return ready;
}

/* The part `box` (left, top, right, bottom) of `pixels` (height, width, channels) as `out`
 * (out_height, out_width, channels). Rows are `pitch` bytes apart. Returns 0 if Pillow has to do
 * it, else 1. */
int resize_box(const uint8_t *pixels, int64_t pitch, int width, int height, int channels,
               const double *box, int cubic, uint8_t *out, int out_width, int out_height) {
  Axis x, y = {0};
  const int done = make_axis(&x, box[0], box[2], width, out_width, channels == 1 ? 1 : 4, cubic) &&
                   make_axis(&y, box[1], box[3], height, out_height, 1, cubic) &&
                   resize(pixels + y.start * pitch + (size_t)x.start * channels, pitch, channels, &x,
                          &y, out);
  free_axis(&x), free_axis(&y);
  return done;
}
