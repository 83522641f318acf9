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
typedef int8_t Bytes __attribute__((vector_size(LANES)));

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
  const int padded = (count + STEP - 1) / STEP * STEP; /* outputs of a whole step; weights are 0 */
  axis->first = calloc(2 * (size_t)padded, sizeof(int));
  axis->weight = calloc((size_t)padded * axis->stride * repeat, sizeof(int16_t));
  if (!axis->first || !axis->weight) return 0;
  axis->taps = axis->first + padded;
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

/* ---- Resizing: between the passes, pixels are signed bytes, 128 less than their value ---- */

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

/* Sums in units as levels less 128, rounded, within -128..127. */
static inline Lanes rounded(Lanes sum, const Axis *axis, int taps) {
  const int units = axis->bits - 8;
  const Lanes low = (Lanes){0} + INT8_MIN, high = (Lanes){0} + INT8_MAX;
  sum = (sum + (int16_t)((1 << (units - 1)) + taps / 2)) >> units;
#ifdef __AVX2__
  return (Lanes)_mm256_max_epi16(_mm256_min_epi16((__m256i)sum, (__m256i)high), (__m256i)low);
#else
  sum = (sum & (sum < high)) | (high & (sum >= high));
  return (sum & (sum > low)) | (low & (sum <= low));
#endif
}

/* Pixels less 128, times 256, in four lanes each, of which the fourth has no meaning. */
static void unpack_color_row(const uint8_t *row, int wide, int16_t *line) {
  int i = 0;
#ifdef __AVX2__
  const __m256i spread = _mm256_setr_epi8( /* four pixels, as the upper halves of lanes */
      -1, 0, -1, 1, -1, 2, -1, -1, -1, 3, -1, 4, -1, 5, -1, -1,
      -1, 6, -1, 7, -1, 8, -1, -1, -1, 9, -1, 10, -1, 11, -1, -1);
  for (; 3 * i + 16 <= 3 * wide; i += 4) {
    const __m128i bytes = _mm_loadu_si128((const __m128i *)(row + 3 * i));
    const __m256i values = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), spread);
    const Lanes centered = (Lanes)values ^ ((Lanes){0} + INT16_MIN);
    memcpy(line + 4 * i, &centered, sizeof centered);
  }
#endif
  for (; i < wide; i++) {
    for (int c = 0; c < 3; c++) line[4 * i + c] = (int16_t)((row[3 * i + c] << 8) ^ INT16_MIN);
  }
}

/* STEP outputs from `index` on, as four lanes each. */
static inline void sum_pixels(const int16_t *line, const Axis *x, int index, const int stride,
                              int16_t *out) {
  Lanes sums[STEP] = {{0}}, values, weights;
  for (int i = 0; i < STEP; i++) {
    const int16_t *at = line + 4 * x->first[index + i];
    const int16_t *weight = x->weight + (size_t)(index + i) * 4 * stride;
    for (int k = 0; k < 4 * stride; k += LANES) {
      memcpy(&values, at + k, sizeof values);
      memcpy(&weights, weight + k, sizeof weights);
      sums[i] += multiply_high(values, weights);
    }
  }
#ifdef __AVX2__
  const __m256i *all = (const __m256i *)sums;
  const Lanes even = (Lanes)_mm256_permute2x128_si256(all[0], all[2], 0x20) +
                     (Lanes)_mm256_permute2x128_si256(all[0], all[2], 0x31);
  const Lanes odd = (Lanes)_mm256_permute2x128_si256(all[1], all[3], 0x20) +
                    (Lanes)_mm256_permute2x128_si256(all[1], all[3], 0x31);
  const Lanes sum = (Lanes)_mm256_unpacklo_epi64((__m256i)even, (__m256i)odd) +
                    (Lanes)_mm256_unpackhi_epi64((__m256i)even, (__m256i)odd);
  memcpy(out, &sum, sizeof sum);
#else
  for (int i = 0; i < STEP; i++) {
    Pixel parts[LANES / 4];
    memcpy(parts, &sums[i], sizeof parts);
    for (int part = 1; part < LANES / 4; part++) parts[0] += parts[part];
    memcpy(out + 4 * i, parts, sizeof *parts);
  }
#endif
}

/* STEP sums of four lanes as pixels of three bytes; writes up to four bytes more. */
static inline void store_pixels(const int16_t *sums, const Axis *x, int8_t *out) {
  for (int i = 0; i < 4 * STEP; i += LANES) {
    Lanes values;
    memcpy(&values, sums + i, sizeof values);
    values = rounded(values, x, x->max_taps);
#ifdef __AVX2__
    const __m128i drop = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128((__m256i)values),
                                          _mm256_extracti128_si256((__m256i)values, 1));
    _mm_storeu_si128((__m128i *)out, _mm_shuffle_epi8(bytes, drop));
#else
    const Bytes bytes = __builtin_convertvector(values, Bytes);
    int8_t pixels[LANES];
    memcpy(pixels, &bytes, sizeof bytes);
    for (int k = 0; k < LANES; k += 4) memcpy(out + (i + k) / 4 * 3, pixels + k, 4);
#endif
  }
}

static inline void resize_color_row(const int16_t *line, const Axis *x, const int stride,
                                    int8_t *out) {
  for (int i = 0; i < x->count; i += STEP, out += 3 * STEP) {
    int16_t sums[4 * STEP];
    sum_pixels(line, x, i, stride, sums);
    store_pixels(sums, x, out);
  }
}

static void resize_gray_row(const uint8_t *row, const Axis *x, int wide, int16_t *line,
                            int8_t *out) {
  for (int i = 0; i < wide; i++) line[i] = (int16_t)((row[i] << 8) ^ INT16_MIN);
  for (int i = 0; i < x->count; i++) {
    const int16_t *at = line + x->first[i], *weight = x->weight + (size_t)i * x->stride;
    int sum = (1 << (x->bits - 9)) + x->max_taps / 2;
    for (int k = 0; k < x->stride; k++) sum += (at[k] * weight[k]) >> 16;
    out[i] = (int8_t)max_int(INT8_MIN, min_int(sum >> (x->bits - 8), INT8_MAX));
  }
}

/* Output `index` of `y`, a weighted sum of rows of `width` values; writes whole vectors. A lane holds
 * two values: upper and lower halves are summed apart. */
static void resize_column(const int8_t *rows, size_t pitch, const Axis *y, int index, int width,
                          uint8_t *out) {
  const int16_t *weight = y->weight + (size_t)index * y->stride;
  const int taps = y->taps[index];
  rows += y->first[index] * pitch;
  for (int i = 0; i < width; i += 2 * LANES) {
    Lanes lower = {0}, upper = {0}, values;
    for (int k = 0; k < taps; k++) {
      memcpy(&values, rows + k * pitch + i, sizeof values);
      lower += multiply_high(values << 8, (Lanes){0} + weight[k]);
      upper += multiply_high(values & ~0xFF, (Lanes){0} + weight[k]);
    }
    values = (rounded(lower, y, taps) & 0xFF) | (rounded(upper, y, taps) << 8);
    values ^= (Lanes){0} + (int16_t)0x8080;
    memcpy(out + i, &values, sizeof values);
  }
}

/* `pixels` begins at column x->start of row y->start. Returns 0 if out of memory. */
static int resize(const uint8_t *pixels, size_t pitch, int channels, const Axis *x, const Axis *y,
                 uint8_t *out) {
  const int wide = x->end - x->start, high = y->end - y->start, width = x->count * channels;
  const size_t step = width + 4 * LANES; /* a row, and what whole vectors write beyond it */
  int16_t *line = calloc(4 * ((size_t)wide + x->stride), sizeof(int16_t));
  int8_t *rows = malloc(step * (high + 1));
  uint8_t *last = (uint8_t *)rows + step * high;
  const int ready = line && rows;
  for (int row = 0; ready && row < high; row++, pixels += pitch) {
    int8_t *to = rows + row * step;
    if (channels == 1) {
      resize_gray_row(pixels, x, wide, line, to);
      continue;
    }
    unpack_color_row(pixels, wide, line);
    if (x->stride == STEP) resize_color_row(line, x, STEP, to); /* by far the most frequent */
    else resize_color_row(line, x, x->stride, to);
  }
  for (int row = 0; ready && row < y->count; row++, out += width) {
    resize_column(rows, step, y, row, width, last);
    memcpy(out, last, width);
  }
  free(line), free(rows);
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
