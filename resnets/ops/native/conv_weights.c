/* Gradient of a convolution's weights, bfloat16 maps in, float32 out, on AMX tiles.
 *
 * dw[co][kh][kw][ci] = sum over images and output pixels of dy[pixel][co] * x[pixel + tap][ci]:
 * a matrix product C = A B whose inner dimension is the pixels. A tile instruction multiplies 16
 * rows of 32 pixels (A) by 32 pixels of 16 columns (B), where B keeps two pixels of a channel side
 * by side. So a strip of some rows of an image is packed first: one map transposed into A, the
 * other, once for each horizontal tap, into lists of pixel pairs, in which a vertical tap is an
 * offset. Strips are small enough for both to stay in a core's second-level cache.
 *
 * Sums run over fixed groups of images, so that results do not depend on the number of threads.
 */
#include <immintrin.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef uint16_t bf16;

#define KIB 1024
#define TILE 1024              /* bytes: 16 rows of 64 */
#define STRIP (128 * KIB)      /* packed bytes of a strip, about */
#define STEPS 8                /* of 32 pixels: at least this many before C is written back */
#define LARGE (640 * KIB)      /* bytes of C above which threads share one C */
#define PARTIAL (1536 * KIB)   /* bytes of all partial sums, at most */
#define GROUPS 16

typedef struct {
  int64_t n, hi, wi, ci, ho, wo, co, k, stride, pad; /* as the caller gives them */
  int swap;               /* A is made of x and B of dy: 1x1 convolutions whose x is narrower */
  int shared;             /* all threads work on one C */
  int64_t mt, nt;         /* C in tiles */
  int64_t cb;             /* channels of the map that B is made of */
  int64_t wp;             /* width of an output row, made even */
  int64_t rows;           /* output rows of a strip */
  int64_t strips;         /* of an image */
  int64_t steps;          /* of 32 pixels, of a strip */
  int64_t phases;         /* of x's rows: one for each stride's remainder that a kernel meets */
  int64_t phase_rows;     /* rows of a strip's phase */
  int64_t pairs;          /* of pixels, in a list of B */
  int64_t groups;         /* of images, each with a C of its own */
  int64_t at_once;        /* strips packed before they are multiplied */
  int64_t a_bytes, b_bytes; /* of a strip */
  int64_t c_bytes;        /* of one C */
} plan_t;

static int64_t ceil_div(int64_t v, int64_t by) { return (v + by - 1) / by; }

static plan_t make_plan(const int64_t *d) {
  plan_t p = {.n = d[0], .hi = d[1], .wi = d[2], .ci = d[3], .ho = d[4], .wo = d[5],
              .co = d[6], .k = d[7], .stride = d[8], .pad = d[9]};
  p.swap = p.k == 1 && p.ci < p.co;
  p.cb = p.swap ? p.co : p.ci;
  p.mt = (p.swap ? p.ci : p.co) / 16;
  p.nt = p.k * p.k * p.cb / 16;
  p.c_bytes = p.mt * p.nt * TILE;
  p.shared = p.c_bytes > LARGE;
  p.wp = ceil_div(p.wo, 2) * 2;
  p.phases = p.stride < p.k ? p.stride : p.k;
  int64_t pixel = 2 * (16 * p.mt + p.cb * p.k * p.phases); /* bytes, packed */
  int64_t most = (p.shared ? 2 : 1) * STRIP / pixel / p.wp, least = INT64_MAX;
  for (int64_t rows = 1; rows <= p.ho && (rows == 1 || rows <= most); rows++) {
    int64_t steps = ceil_div(rows * p.wp, 32);
    int64_t cost = ceil_div(p.ho, rows) * (steps + 1); /* a strip costs about a step by itself */
    if (cost <= least) least = cost, p.rows = rows, p.steps = steps;
  }
  p.strips = ceil_div(p.ho, p.rows);
  int64_t rows_below = (p.k - 1) / p.stride;
  p.phase_rows = p.rows + rows_below;
  /* Odd, so that lists start in different sets of a cache. */
  p.pairs = (p.steps * 16 + rows_below * p.wp / 2) | 1;
  p.groups = p.shared ? 1 : PARTIAL / p.c_bytes;
  if (p.groups > GROUPS) p.groups = GROUPS;
  if (p.groups > p.n) p.groups = p.n;
  p.at_once = ceil_div(!p.shared ? STEPS : p.k == 1 ? 2 * STEPS : 4 * STEPS, p.steps);
  p.a_bytes = p.mt * p.steps * TILE;
  p.b_bytes = p.phases * p.k * (p.cb / 16) * p.pairs * 64;
  return p;
}

#define MAX_CHANNELS (1 << 14) /* the caller checks it */
static const bf16 zeros[MAX_CHANNELS]; /* a pixel outside the image */

/* Sixteen channels of two pixels as sixteen pairs. */
static inline __m512i paired(__m512i both) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, both);
}

static inline __m512i pair(const bf16 *first, const bf16 *second) {
  __m512i both = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)first));
  return paired(_mm512_inserti64x4(both, _mm256_loadu_si256((const __m256i *)second), 1));
}

/* Rows of sixteen 32-bit numbers become columns. */
static inline void transpose(__m512i r[16]) {
  __m512i t[16];
  for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; j++) {
      r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
      r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
    }
  for (int i = 0; i < 16; i += 8)
    for (int j = 0; j < 4; j++) {
      t[i + j] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0x88);
      t[i + j + 4] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0xdd);
    }
  for (int i = 0; i < 8; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}

/* A of a strip, (mt, steps) tiles of 16 channels x 32 output pixels. `map` starts at its first
 * row; the pixels read are `stride` apart, `width` to a row; zero beyond `rows`. */
static void pack_a(const plan_t *p, const bf16 *map, int64_t width, int64_t stride, int64_t rows,
                   bf16 *out) {
  const int64_t c = 16 * p->mt;
  for (int64_t step = 0; step < p->steps; step++) {
    const bf16 *at[32];
    int64_t y = 32 * step / p->wp, x = 32 * step % p->wp;
    for (int i = 0; i < 32; i++) {
      at[i] = y < rows && x < p->wo ? map + (y * width + x) * stride * c : zeros;
      if (++x == p->wp) x = 0, y++;
    }
    for (int64_t m = 0; m < p->mt; m++) {
      __m512i r[16];
      if (m % 2 == 0) /* 32 separate rows: the processor's own prefetching does not follow them */
        for (int i = 0; i < 32; i++) __builtin_prefetch(at[i] + 32 * c + 16 * m);
      for (int i = 0; i < 16; i++) r[i] = pair(at[2 * i] + 16 * m, at[2 * i + 1] + 16 * m);
      transpose(r);
      bf16 *to = out + (m * p->steps + step) * (TILE / 2);
      for (int i = 0; i < 16; i++) _mm512_store_si512(to + 32 * i, r[i]);
    }
  }
}

/* B of a strip whose first output row is `top`: (phases, k, cb / 16) lists of `pairs` entries,
 * sixteen channels of two pixels each. */
static void pack_b(const plan_t *p, const bf16 *map, int64_t height, int64_t width, int64_t stride,
                   int64_t top, bf16 *out) {
  const int64_t c = p->cb, list = 2 * p->pairs; /* from channel to channel, in numbers */
  for (int64_t phase = 0; phase < p->phases; phase++)
    for (int64_t kw = 0; kw < p->k; kw++, out += c * list) {
      bf16 *to = out;
      for (int64_t i = 0; i < p->phase_rows; i++) {
        int64_t y = (top + i) * stride + phase - p->pad, x = kw - p->pad;
        for (int64_t ox = 0; ox < p->wp; ox += 2, x += 2 * stride, to += 32) {
          const bf16 *one = map + (y * width + x) * c, *two = one + stride * c;
          if (y < 0 || y >= height || x < 0 || x >= width) one = zeros;
          if (y < 0 || y >= height || x + stride < 0 || x + stride >= width) two = zeros;
          if (c == 16 && two == one + 16)
            _mm512_store_si512(to, paired(_mm512_loadu_si512(one)));
          else
            for (int64_t t = 0; t < c; t += 16)
              _mm512_store_si512(to + t * list, pair(one + t, two + t));
        }
      }
      for (; to < out + 16 * list; to += 32)
        for (int64_t t = 0; t < c; t += 16)
          _mm512_store_si512(to + t * list, _mm512_setzero_si512());
    }
}

/* Strip number `strip` of all images. */
static void pack(const plan_t *p, const bf16 *x, const bf16 *dy, int64_t strip, bf16 *a, bf16 *b) {
  int64_t image = strip / p->strips, top = strip % p->strips * p->rows;
  int64_t rows = p->ho - top < p->rows ? p->ho - top : p->rows;
  x += image * p->hi * p->wi * p->ci, dy += image * p->ho * p->wo * p->co;
  if (p->swap) {
    pack_a(p, x + top * p->stride * p->wi * p->ci, p->wi, p->stride, rows, a);
    pack_b(p, dy, p->ho, p->wo, 1, top, b);
  } else {
    pack_a(p, dy + top * p->wo * p->co, p->wo, 1, rows, a);
    pack_b(p, x, p->hi, p->wi, p->stride, top, b);
  }
}

/* Where the pairs of the tile column `n` of C begin in the B of a strip. */
static const bf16 *column(const plan_t *p, const bf16 *b, int64_t n) {
  int64_t tiles = p->cb / 16, kh = n / tiles / p->k, kw = n / tiles % p->k;
  int64_t list = (kh % p->stride * p->k + kw) * tiles + n % tiles;
  return b + (list * p->pairs + kh / p->stride * p->wp / 2) * 32;
}

/* Each: tiles of C from (m, n) on += A B over `count` strips. Tile registers, whose numbers must be
 * constants: C in 0 to 3, A in 4 and 5 and B in 6 and 7, or as many of B as there are columns. */
#define STRIPS(SETUP, STEP)                                                             \
  for (int64_t strip = 0; strip < count; strip++, a += p->a_bytes / 2, b += p->b_bytes / 2) { \
    const bf16 *a0 = a + m * p->steps * (TILE / 2), *b0 = column(p, b, n);              \
    SETUP;                                                                              \
    for (int64_t at = 0; at < p->steps * (TILE / 2); at += TILE / 2) { STEP; }          \
  }

static void two_by_two(const plan_t *p, const bf16 *a, const bf16 *b, int64_t count, float *c,
                       int64_t m, int64_t n) {
  float *c0 = c + (m * p->nt + n) * 256, *c2 = c0 + p->nt * 256;
  _tile_loadd(0, c0, 64); _tile_loadd(1, c0 + 256, 64);
  _tile_loadd(2, c2, 64); _tile_loadd(3, c2 + 256, 64);
  STRIPS(const bf16 *a1 = a0 + p->steps * (TILE / 2); const bf16 *b1 = column(p, b, n + 1),
         _tile_loadd(4, a0 + at, 64); _tile_loadd(6, b0 + at, 64); _tile_dpbf16ps(0, 4, 6);
         _tile_loadd(7, b1 + at, 64); _tile_dpbf16ps(1, 4, 7); _tile_loadd(5, a1 + at, 64);
         _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7))
  _tile_stored(0, c0, 64); _tile_stored(1, c0 + 256, 64);
  _tile_stored(2, c2, 64); _tile_stored(3, c2 + 256, 64);
}

static void one_by_three(const plan_t *p, const bf16 *a, const bf16 *b, int64_t count, float *c,
                         int64_t m, int64_t n) {
  float *c0 = c + (m * p->nt + n) * 256;
  _tile_loadd(0, c0, 64); _tile_loadd(1, c0 + 256, 64); _tile_loadd(2, c0 + 512, 64);
  STRIPS(const bf16 *b1 = column(p, b, n + 1); const bf16 *b2 = column(p, b, n + 2),
         _tile_loadd(4, a0 + at, 64); _tile_loadd(5, b0 + at, 64); _tile_dpbf16ps(0, 4, 5);
         _tile_loadd(6, b1 + at, 64); _tile_dpbf16ps(1, 4, 6); _tile_loadd(7, b2 + at, 64);
         _tile_dpbf16ps(2, 4, 7))
  _tile_stored(0, c0, 64); _tile_stored(1, c0 + 256, 64); _tile_stored(2, c0 + 512, 64);
}

static void one_by_one(const plan_t *p, const bf16 *a, const bf16 *b, int64_t count, float *c,
                       int64_t m, int64_t n) {
  float *c0 = c + (m * p->nt + n) * 256;
  _tile_loadd(0, c0, 64);
  STRIPS(, _tile_loadd(4, a0 + at, 64); _tile_loadd(5, b0 + at, 64); _tile_dpbf16ps(0, 4, 5))
  _tile_stored(0, c0, 64);
}

/* Tile columns of C that are worked on at once. */
static int64_t wide(const plan_t *p) { return p->mt % 2 ? 3 : 2; }

/* C += A B for tile columns number `block`, over `count` strips. */
static void multiply(const plan_t *p, const bf16 *a, const bf16 *b, int64_t count, float *c,
                     int64_t block) {
  /* The compiler does not know that tile loads read memory: finish all packing stores first. */
  __asm__ volatile("" ::: "memory");
  int64_t n = block * wide(p), high = p->mt % 2 ? 1 : 2;
  for (int64_t m = 0; m < p->mt; m += high) {
    if (n + wide(p) > p->nt)
      for (int64_t i = m; i < m + high; i++)
        for (int64_t j = n; j < p->nt; j++) one_by_one(p, a, b, count, c, i, j);
    else if (high == 2) two_by_two(p, a, b, count, c, m, n);
    else one_by_three(p, a, b, count, c, m, n);
  }
}

/* Row m of C's tiles, summed over the groups, to its place in dw (co, k, k, ci). */
static void unpack(const plan_t *p, const float *c, int64_t m, float *dw) {
  const int64_t ca = 16 * p->mt, tiles = p->cb / 16;
  for (int64_t n = 0; n < p->nt; n++)
    for (int64_t from = 16 * m; from < 16 * m + 16; from++) {
      float sum[16] = {0};
      const float *at = c + (m * p->nt + n) * 256 + from % 16 * 16;
      for (int64_t g = 0; g < p->groups; g++, at += p->c_bytes / 4)
        for (int j = 0; j < 16; j++) sum[j] += at[j];
      int64_t to = n % tiles * 16, step = p->swap ? ca : 1;
      float *row = dw + (p->swap ? to * ca + from : (from * p->k * p->k + n / tiles) * p->cb + to);
      for (int j = 0; j < 16; j++) row[j * step] = sum[j];
    }
}

typedef struct {
  uint8_t palette, start, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
} tiles_t;

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XTILEDATA 18

/* Ask Linux for this process's tile registers; returns whether it grants them. */
int conv_weights_allowed(void) {
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
}

static const tiles_t whole_tiles = {
    1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

/* dims: images, input height, width, channels, output height, width, channels, kernel size,
 * stride, padding. Channels are multiples of 16. Bytes of scratch, aligned to 64. */
int64_t conv_weights_scratch(const int64_t *dims, int threads) {
  plan_t p = make_plan(dims);
  return p.groups * p.c_bytes + p.at_once * (p.shared ? 1 : threads) * (p.a_bytes + p.b_bytes);
}

/* x (n, hi, wi, ci), dy (n, ho, wo, co), dw (co, k, k, ci). */
void conv_weights(const bf16 *x, const bf16 *dy, float *dw, char *scratch, const int64_t *dims,
                  int threads) {
  const plan_t plan = make_plan(dims), *p = &plan;
  const int64_t all = p->n * p->strips, blocks = ceil_div(p->nt, wide(p));
  char *a_all = scratch + p->groups * p->c_bytes;
  char *b_all = a_all + p->at_once * (p->shared ? 1 : threads) * p->a_bytes;
  float *c_all = (float *)scratch;
#pragma omp parallel num_threads(threads)
  {
    tiles_t before;
    _tile_storeconfig(&before);
    _tile_loadconfig(&whole_tiles);
    int mine = p->shared ? 0 : omp_get_thread_num();
    bf16 *a = (bf16 *)(a_all + mine * p->at_once * p->a_bytes);
    bf16 *b = (bf16 *)(b_all + mine * p->at_once * p->b_bytes);
    if (p->shared) {
#pragma omp for schedule(static)
      for (int64_t m = 0; m < p->mt; m++) memset(c_all + m * p->nt * 256, 0, p->nt * TILE);
      for (int64_t first = 0; first < all; first += p->at_once) {
        int64_t count = first + p->at_once < all ? p->at_once : all - first;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < count; i++)
          pack(p, x, dy, first + i, a + i * p->a_bytes / 2, b + i * p->b_bytes / 2);
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; block++) multiply(p, a, b, count, c_all, block);
      }
    } else {
#pragma omp for schedule(static)
      for (int64_t g = 0; g < p->groups; g++) {
        float *c = c_all + g * p->c_bytes / 4;
        memset(c, 0, p->c_bytes);
        int64_t first = p->n * g / p->groups * p->strips;
        int64_t end = p->n * (g + 1) / p->groups * p->strips;
        for (; first < end; first += p->at_once) {
          int64_t count = first + p->at_once < end ? p->at_once : end - first;
          for (int64_t i = 0; i < count; i++)
            pack(p, x, dy, first + i, a + i * p->a_bytes / 2, b + i * p->b_bytes / 2);
          for (int64_t block = 0; block < blocks; block++) multiply(p, a, b, count, c, block);
        }
      }
    }
#pragma omp for schedule(static)
    for (int64_t m = 0; m < p->mt; m++) unpack(p, c_all, m, dw);
    if (before.palette) _tile_loadconfig(&before);
    else _tile_release();
  }
}
