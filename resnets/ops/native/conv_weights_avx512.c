/* Gradient of a convolution's weights, bfloat16 maps in, float32 out, on processors whose AVX-512
 * multiplies bfloat16 but that have no AMX (conv_weights.c).
 *
 * dw[co][kh][kw][ci] = sum over images and output pixels of dy[pixel][co] * x[pixel + tap][ci].
 * The instruction adds two products in each of 16 lanes. Here they are those of the same pixel of
 * two images, so that every tap of a packed map is an offset. A strip of some rows of two images is
 * packed first, a list for each 16 channels: of a pixel after the other, 16 pairs. Two lists fit
 * into a core's first-level cache, where each is read many times.
 *
 * Sums run over fixed groups of images, so that results do not depend on the number of threads.
 */
#include <immintrin.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;

#define KIB 1024
#define PIXELS 192           /* output pixels between reading and writing C, about */
#define STRIPS (512 * KIB)   /* packed bytes of the strips that are packed at once, about */
#define ROWS 8               /* output channels of a tile of C */
#define LARGE (640 * KIB)    /* bytes of C above which threads share one C */
#define PARTIAL (1536 * KIB) /* bytes of all partial sums, at most */
#define GROUPS 16
#define LANES 16
#define PAIRS (2 * LANES) /* numbers of a pixel in a list */

typedef struct {
  int64_t n, hi, wi, ci, ho, wo, co, k, stride, pad; /* as the caller gives them */
  int64_t step;           /* between packed pixels of x: a 1x1 convolution reads no others */
  int64_t rows, strips;   /* output rows of a strip; strips of an image */
  int64_t wide;           /* packed pixels in a row of x */
  int64_t x_list, dy_list; /* numbers in a list */
  int64_t x_size, dy_size; /* numbers in a strip */
  int64_t at_once;        /* strips packed before they are multiplied */
  int64_t columns;        /* of a tile of C, 16 numbers each: horizontal taps, or lists of x */
  int64_t across;         /* tiles of C for ROWS output channels */
  int64_t units;          /* strips of all pairs of images */
  int shared;             /* all threads work on one C */
  int64_t groups;         /* of pairs of images, each with a C of its own */
  int64_t c_size;         /* numbers in one C */
} plan_t;

static int64_t ceil_div(int64_t v, int64_t by) { return (v + by - 1) / by; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static plan_t make_plan(const int64_t *d) {
  plan_t p = {.n = d[0], .hi = d[1], .wi = d[2], .ci = d[3], .ho = d[4], .wo = d[5],
              .co = d[6], .k = d[7], .stride = d[8], .pad = d[9]};
  p.step = p.k == 1 ? p.stride : 1;
  p.strips = ceil_div(p.ho, most(1, least(p.ho, PIXELS / p.wo)));
  p.rows = ceil_div(p.ho, p.strips);
  p.strips = ceil_div(p.ho, p.rows);
  p.wide = (p.wo - 1) * p.stride / p.step + p.k;
  /* Odd numbers of pixels, so that lists start in different sets of a cache. */
  p.x_list = ((((p.rows - 1) * p.stride / p.step + p.k) * p.wide) | 1) * PAIRS;
  p.dy_list = ((p.rows * p.wo) | 1) * PAIRS;
  p.x_size = p.ci / LANES * p.x_list, p.dy_size = p.co / LANES * p.dy_list;
  int64_t fit = most(1, STRIPS / (int64_t)sizeof(bf16) / (p.x_size + p.dy_size));
  p.at_once = least(fit, ceil_div(PIXELS, p.rows * p.wo));
  p.columns = p.k > 1 ? p.k : p.ci % (2 * LANES) ? 1 : 2;
  p.across = p.k * p.k * p.ci / LANES / p.columns;
  int64_t pairs = ceil_div(p.n, 2);
  p.units = pairs * p.strips;
  p.c_size = p.co * p.k * p.k * p.ci;
  p.shared = 4 * p.c_size > LARGE;
  p.groups = p.shared ? 1 : least(least(GROUPS, pairs), PARTIAL / 4 / p.c_size);
  return p;
}

#define MAX_CHANNELS (1 << 14) /* the caller checks it */
static const bf16 zeros[MAX_CHANNELS]; /* a pixel outside the image */

/* The lists of one row of pixels, `count` of which are read `step` apart from column `x` on, of two
 * images; `wide` pixels to a row of the map, which is null for a row of zeros. */
static void pack_row(const bf16 *first, const bf16 *second, int64_t wide, int64_t channels, int64_t x,
                     int64_t step, int64_t count, int64_t list, bf16 *out) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  for (int64_t i = 0; i < count; i++, x += step, out += PAIRS) {
    int inside = x >= 0 && x < wide;
    const bf16 *one = first && inside ? first + x * channels : zeros;
    const bf16 *two = second && inside ? second + x * channels : zeros;
    for (int64_t c = 0; c < channels; c += LANES) {
      __m512i both = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(one + c)));
      both = _mm512_inserti64x4(both, _mm256_loadu_si256((const __m256i *)(two + c)), 1);
      _mm512_store_si512(out + c / LANES * list, _mm512_permutexvar_epi16(order, both));
    }
  }
}

/* Output rows of strip number `unit`, which start at `top`. */
static int64_t strip_rows(const plan_t *p, int64_t unit, int64_t *top) {
  *top = unit % p->strips * p->rows;
  return least(p->rows, p->ho - *top);
}

static void pack(const plan_t *p, const bf16 *x, const bf16 *dy, int64_t unit, bf16 *to_x,
                 bf16 *to_dy) {
  int64_t top, image = unit / p->strips * 2, rows = strip_rows(p, unit, &top);
  int64_t x_map = p->hi * p->wi * p->ci, dy_map = p->ho * p->wo * p->co;
  x += image * x_map, dy += image * dy_map;
  int two = image + 1 < p->n;
  int64_t x_rows = (rows - 1) * p->stride / p->step + p->k;
  for (int64_t row = 0; row < x_rows; row++) {
    int64_t y = top * p->stride - p->pad + row * p->step;
    const bf16 *from = y < 0 || y >= p->hi ? NULL : x + y * p->wi * p->ci;
    pack_row(from, from && two ? from + x_map : NULL, p->wi, p->ci, -p->pad, p->step, p->wide,
             p->x_list, to_x + row * p->wide * PAIRS);
  }
  for (int64_t row = 0; row < rows; row++) {
    const bf16 *from = dy + (top + row) * p->wo * p->co;
    pack_row(from, two ? from + dy_map : NULL, p->wo, p->co, 0, 1, p->wo, p->dy_list,
             to_dy + row * p->wo * PAIRS);
  }
}

/* A tile of C, ROWS x columns x 16, in registers: += the products of `count` strips from `unit` on.
 * x and dy: the tile's first numbers in the first strip. */
static inline __attribute__((always_inline)) void multiply_tile(const plan_t *p, const bf16 *x,
                                                                const bf16 *dy, int64_t unit,
                                                                int64_t count, float *c,
                                                                const int columns) {
  const int64_t next = p->k > 1 ? PAIRS : p->x_list, ahead = p->stride / p->step;
  __m512 sum[ROWS][3];
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < columns; j++) sum[i][j] = _mm512_loadu_ps(c + (i * columns + j) * LANES);
  for (int64_t i = 0; i < count; i++, x += p->x_size, dy += p->dy_size) {
    int64_t top, rows = strip_rows(p, unit + i, &top);
    for (int64_t row = 0; row < rows; row++) {
      const bf16 *right = x + row * ahead * p->wide * PAIRS, *left = dy + row * p->wo * PAIRS;
      for (int64_t ox = 0; ox < p->wo; ox++, right += ahead * PAIRS, left += PAIRS) {
        __m512bh pixels[3];
        for (int j = 0; j < columns; j++)
          pixels[j] = (__m512bh)_mm512_load_si512(right + j * next);
        for (int i = 0; i < ROWS; i++) {
          int32_t pair;
          memcpy(&pair, left + 2 * i, sizeof pair);
          const __m512bh all = (__m512bh)_mm512_set1_epi32(pair);
          for (int j = 0; j < columns; j++)
            sum[i][j] = _mm512_dpbf16_ps(sum[i][j], all, pixels[j]);
        }
      }
    }
  }
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < columns; j++) _mm512_storeu_ps(c + (i * columns + j) * LANES, sum[i][j]);
}

/* C += the products of `count` strips for output channels ROWS * block to ROWS * (block + 1). */
static void multiply(const plan_t *p, const bf16 *x, const bf16 *dy, int64_t unit, int64_t count,
                     float *c, int64_t block) {
  const int64_t size = ROWS * p->columns * LANES, from = block * ROWS;
  dy += from / LANES * p->dy_list + 2 * (from % LANES);
  c += block * p->across * size;
  for (int64_t tile = 0; tile < p->across; tile++, c += size) {
    const int64_t kh = tile % p->k, list = tile / p->k * (p->k > 1 ? 1 : p->columns);
    const bf16 *at = x + list * p->x_list + kh * p->wide * PAIRS;
    if (p->columns == 3) multiply_tile(p, at, dy, unit, count, c, 3);
    else if (p->columns == 2) multiply_tile(p, at, dy, unit, count, c, 2);
    else multiply_tile(p, at, dy, unit, count, c, 1);
  }
}

/* Output channels of `block`, summed over the groups, to their place in dw (co, k, k, ci). */
static void unpack(const plan_t *p, const float *c, int64_t block, float *dw) {
  const int64_t size = ROWS * p->columns * LANES;
  c += block * p->across * size, dw += block * ROWS * p->k * p->k * p->ci;
  for (int64_t tile = 0; tile < p->across; tile++, c += size)
    for (int64_t i = 0; i < ROWS; i++)
      for (int64_t j = 0; j < p->columns; j++) {
        const float *from = c + (i * p->columns + j) * LANES;
        __m512 sum = _mm512_loadu_ps(from);
        for (int64_t g = 1; g < p->groups; g++)
          sum = _mm512_add_ps(sum, _mm512_loadu_ps(from + g * p->c_size));
        const int64_t kh = tile % p->k, kw = p->k > 1 ? j : 0;
        const int64_t list = p->k > 1 ? tile / p->k : tile * p->columns + j;
        _mm512_storeu_ps(dw + ((i * p->k + kh) * p->k + kw) * p->ci + list * LANES, sum);
      }
}

/* dims: images, input height, width, channels, output height, width, channels, kernel size,
 * stride, padding. Channels are multiples of 16. Bytes of scratch, aligned to 64. */
int64_t conv_weights_scratch(const int64_t *dims, int threads) {
  plan_t p = make_plan(dims);
  int64_t strips = p.at_once * (p.shared ? 1 : threads);
  return p.groups * p.c_size * sizeof(float) + strips * (p.x_size + p.dy_size) * sizeof(bf16);
}

/* x (n, hi, wi, ci), dy (n, ho, wo, co), dw (co, k, k, ci). */
void conv_weights(const bf16 *x, const bf16 *dy, float *dw, char *scratch, const int64_t *dims,
                  int threads) {
  const plan_t plan = make_plan(dims), *p = &plan;
  const int64_t blocks = p->co / ROWS, pairs = p->units / p->strips;
  float *c_all = (float *)scratch;
  bf16 *strips = (bf16 *)(c_all + p->groups * p->c_size);
#pragma omp parallel num_threads(threads)
  {
    int64_t mine = p->shared ? 0 : omp_get_thread_num();
    bf16 *xs = strips + mine * p->at_once * (p->x_size + p->dy_size);
    bf16 *dys = xs + p->at_once * p->x_size;
    if (p->shared) {
#pragma omp for schedule(static)
      for (int64_t block = 0; block < blocks; block++)
        memset(c_all + block * p->c_size / blocks, 0, p->c_size / blocks * sizeof(float));
      for (int64_t unit = 0; unit < p->units; unit += p->at_once) {
        int64_t count = least(p->at_once, p->units - unit);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < count; i++)
          pack(p, x, dy, unit + i, xs + i * p->x_size, dys + i * p->dy_size);
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; block++)
          multiply(p, xs, dys, unit, count, c_all, block);
      }
    } else {
#pragma omp for schedule(static)
      for (int64_t g = 0; g < p->groups; g++) {
        float *c = c_all + g * p->c_size;
        memset(c, 0, p->c_size * sizeof(float));
        int64_t end = pairs * (g + 1) / p->groups * p->strips;
        for (int64_t unit = pairs * g / p->groups * p->strips; unit < end; unit += p->at_once) {
          int64_t count = least(p->at_once, end - unit);
          for (int64_t i = 0; i < count; i++)
            pack(p, x, dy, unit + i, xs + i * p->x_size, dys + i * p->dy_size);
          for (int64_t block = 0; block < blocks; block++)
            multiply(p, xs, dys, unit, count, c, block);
        }
      }
    }
#pragma omp for schedule(static)
    for (int64_t block = 0; block < blocks; block++) unpack(p, c_all, block, dw);
  }
}
