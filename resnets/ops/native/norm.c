/* Batch normalization fused with the addition of a shortcut and ReLU, for training on CPUs.
 * Without ReLU `least` is minus infinity; with it, zero.
 *
 * A map in channels-last memory is a matrix of `rows` x `width` numbers, channels fastest. Where
 * there are fewer than 64 channels the caller joins rows until `width` is 64, so that each loop
 * below runs over whole vectors. Sums are taken over blocks of BLOCK rows and added up in order,
 * so that results do not depend on the number of threads.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define TILE 64
#define BLOCK 256
#define AHEAD 16 /* rows; the processor's own prefetching does not follow wide rows */

typedef uint16_t bf16;

static inline float read_bf16(bf16 v) {
  union { uint32_t u; float f; } both = {.u = (uint32_t)v << 16};
  return both.f;
}

static inline bf16 write_bf16(float v) { /* to nearest even, as torch; NaN stays NaN */
  union { float f; uint32_t u; } both = {.f = v};
  uint32_t rounded = (both.u + 0x7fffu + ((both.u >> 16) & 1u)) >> 16;
  return v != v ? (bf16)0x7fc0 : (bf16)rounded;
}

static inline float read_f32(float v) { return v; }
static inline float write_f32(float v) { return v; }

#define BLOCKS(rows) (((rows) + BLOCK - 1) / BLOCK)
#define EACH_BLOCK                                                                      \
  _Pragma("omp parallel for schedule(static) num_threads(threads)")                     \
  for (int64_t block = 0; block < BLOCKS(rows); block++)
#define EACH_ROW                                                                        \
  for (int64_t row = block * BLOCK,                                                     \
               last = row + BLOCK < rows ? row + BLOCK : rows; row < last; row++)
#define EACH_TILE for (int64_t tile = 0; tile < width; tile += TILE)
#define EACH_LANE for (int i = 0; i < TILE; i++)
/* The first and the last byte of a tile's row: two cache lines of bfloat16, of float four. */
#define FETCH_AS(p, write)                                                              \
  (__builtin_prefetch((p) + AHEAD * width, write),                                      \
   __builtin_prefetch((const char *)((p) + AHEAD * width + TILE) - 1, write))
#define FETCH(p) FETCH_AS(p, 0)
#define FETCH_TO_WRITE(p) FETCH_AS(p, 1)

/* For each block, sums of (x - pivot) and of its square: partial (blocks, 2, width). */
#define STATISTICS(T, READ)                                                             \
  static void statistics_##T(const T *x, const float *pivot, float *partial, int64_t rows, \
                      int64_t width, int threads) {                                     \
    EACH_BLOCK EACH_TILE {                                                              \
      float sum[TILE] = {0}, square[TILE] = {0}, center[TILE];                          \
      memcpy(center, pivot + tile, sizeof center);                                      \
      EACH_ROW {                                                                        \
        const T *at = x + row * width + tile;                                           \
        FETCH(at);                                                                      \
        EACH_LANE {                                                                     \
          float v = READ(at[i]) - center[i];                                            \
          sum[i] += v;                                                                  \
          square[i] += v * v;                                                           \
        }                                                                               \
      }                                                                                 \
      float *out = partial + block * 2 * width + tile;                                  \
      memcpy(out, sum, sizeof sum);                                                     \
      memcpy(out + width, square, sizeof square);                                       \
    }                                                                                   \
  }

/* y = max(least, x * scale + shift [+ shortcut]). */
#define NORMALIZE(T, READ, WRITE)                                                       \
  static void normalize_##T(const T *x, const T *shortcut, const float *scale,          \
                     const float *shift, float least, T *y, int64_t rows,               \
                     int64_t width, int threads) {                                      \
    EACH_BLOCK EACH_TILE {                                                              \
      float a[TILE], b[TILE];                                                           \
      memcpy(a, scale + tile, sizeof a);                                                \
      memcpy(b, shift + tile, sizeof b);                                                \
      if (shortcut) EACH_ROW {                                                          \
        const T *at = x + row * width + tile, *add = shortcut + row * width + tile;     \
        T *out = y + row * width + tile;                                                \
        FETCH(at), FETCH(add), FETCH_TO_WRITE(out);                                     \
        EACH_LANE {                                                                     \
          float v = READ(at[i]) * a[i] + b[i] + READ(add[i]);                           \
          out[i] = WRITE(v < least ? least : v);                                        \
        }                                                                               \
      } else EACH_ROW {                                                                 \
        const T *at = x + row * width + tile;                                           \
        T *out = y + row * width + tile;                                                \
        FETCH(at), FETCH_TO_WRITE(out);                                                 \
        EACH_LANE {                                                                     \
          float v = READ(at[i]) * a[i] + b[i];                                          \
          out[i] = WRITE(v < least ? least : v);                                        \
        }                                                                               \
      }                                                                                 \
    }                                                                                   \
  }

/* For each block, sums of dz and of dz * (x - mean): (blocks, 2, width). dz = dy + second where
 * y > least; `second` may be null. It is written to `dz` unless that is null (then so is `second`). */
#define ADD_LANES(T, READ, WRITE, SUM, SAVE)                                            \
  EACH_ROW {                                                                            \
    int64_t at = row * width + tile;                                                    \
    FETCH(dy + at), FETCH(y + at), FETCH(x + at);                                       \
    if (second) FETCH(second + at);                                                     \
    if (dz) FETCH_TO_WRITE(dz + at);                                                    \
    EACH_LANE {                                                                         \
      T lane = READ(y[at + i]) > least ? (SUM) : 0;                                     \
      SAVE;                                                                             \
      sum[i] += READ(lane);                                                             \
      product[i] += READ(lane) * (READ(x[at + i]) - center[i]);                         \
    }                                                                                   \
  }

#define GRADIENT_SUMS(T, READ, WRITE)                                                   \
  static void gradient_sums_##T(const T *dy, const T *second, const T *y, const T *x,   \
                         const float *mean, float least, float *partial, T *dz,         \
                         int64_t rows, int64_t width, int threads) {                    \
    EACH_BLOCK EACH_TILE {                                                              \
      float sum[TILE] = {0}, product[TILE] = {0}, center[TILE];                         \
      memcpy(center, mean + tile, sizeof center);                                       \
      if (second)                                                                       \
        ADD_LANES(T, READ, WRITE, WRITE(READ(dy[at + i]) + READ(second[at + i])),       \
                  dz[at + i] = lane)                                                    \
      else if (dz)                                                                      \
        ADD_LANES(T, READ, WRITE, dy[at + i], dz[at + i] = lane)                        \
      else                                                                              \
        ADD_LANES(T, READ, WRITE, dy[at + i], )                                         \
      float *out = partial + block * 2 * width + tile;                                  \
      memcpy(out, sum, sizeof sum);                                                     \
      memcpy(out + width, product, sizeof product);                                     \
    }                                                                                   \
  }

/* dx = a dz + b x + c, where `dz` is null with dz = dy where y > least. */
#define GRADIENT(T, READ, WRITE)                                                        \
  static void gradient_##T(const T *dy, const T *y, const T *x, const float *da,        \
                    const float *db, const float *dc, float least, T *dx, const T *dz,  \
                    int64_t rows, int64_t width, int threads) {                         \
    EACH_BLOCK EACH_TILE {                                                              \
      float a[TILE], b[TILE], c[TILE];                                                  \
      memcpy(a, da + tile, sizeof a);                                                   \
      memcpy(b, db + tile, sizeof b);                                                   \
      memcpy(c, dc + tile, sizeof c);                                                   \
      if (dz) EACH_ROW {                                                                \
        int64_t at = row * width + tile;                                                \
        FETCH(dz + at), FETCH(x + at), FETCH_TO_WRITE(dx + at);                         \
        EACH_LANE dx[at + i] = WRITE(a[i] * READ(dz[at + i]) + b[i] * READ(x[at + i]) + c[i]); \
      } else EACH_ROW {                                                                 \
        int64_t at = row * width + tile;                                                \
        FETCH(dy + at), FETCH(y + at), FETCH(x + at), FETCH_TO_WRITE(dx + at);          \
        EACH_LANE {                                                                     \
          float lane = READ(y[at + i]) > least ? READ(dy[at + i]) : 0.0f;               \
          dx[at + i] = WRITE(a[i] * lane + b[i] * READ(x[at + i]) + c[i]);              \
        }                                                                               \
      }                                                                                 \
    }                                                                                   \
  }

/* Sum of entry `which` (0 or 1) of the partial sums that belong to a channel, in double. */
static double total(const float *partial, int which, int64_t channel, int64_t rows,
                    int64_t width, int64_t channels) {
  double sum = 0;
  for (int64_t block = 0; block < BLOCKS(rows); block++)
    for (int64_t lane = channel; lane < width; lane += channels)
      sum += partial[(2 * block + which) * width + lane];
  return sum;
}

static void spread(float *values, int64_t width, int64_t channels) {
  for (int64_t lane = channels; lane < width; lane++) values[lane] = values[lane - channels];
}

/* saved (2, width): mean and 1 / deviation, for the backward pass.
 * scratch: (2 BLOCKS(rows) + 4) * width floats. */
#define FORWARD(T, READ)                                                                \
  void norm_forward_##T(const T *x, const T *shortcut, const float *weight,             \
                        const float *bias, float *running_mean, float *running_var,     \
                        float *saved, T *y, float *scratch, int64_t rows,               \
                        int64_t width, int64_t channels, double eps, double momentum,   \
                        double least, int threads) {                                    \
    float *pivot = scratch, *scale = pivot + width, *shift = scale + width;             \
    float *partial = shift + width, *mean = saved, *inverse = saved + width;            \
    double count = (double)rows * width / channels;                                     \
    for (int64_t c = 0; c < channels; c++) pivot[c] = READ(x[c]);                       \
    spread(pivot, width, channels);                                                     \
    statistics_##T(x, pivot, partial, rows, width, threads);                            \
    for (int64_t c = 0; c < channels; c++) {                                            \
      double off = total(partial, 0, c, rows, width, channels) / count;                 \
      double square = total(partial, 1, c, rows, width, channels) / count;              \
      double center = pivot[c] + off, variance = fmax(square - off * off, 0);           \
      double unbiased = variance * count / fmax(count - 1, 1);                          \
      mean[c] = center;                                                                 \
      inverse[c] = 1 / sqrt(variance + eps);                                            \
      scale[c] = weight[c] * inverse[c];                                                \
      shift[c] = bias[c] - center * scale[c];                                           \
      running_mean[c] += momentum * (center - running_mean[c]);                         \
      running_var[c] += momentum * (unbiased - running_var[c]);                         \
    }                                                                                   \
    spread(mean, width, channels);                                                      \
    spread(inverse, width, channels);                                                   \
    spread(scale, width, channels);                                                     \
    spread(shift, width, channels);                                                     \
    normalize_##T(x, shortcut, scale, shift, least, y, rows, width, threads);           \
  }

/* dweight, dbias: (channels). dz is the shortcut's gradient; it may be null without a second
 * gradient. scratch as above. */
#define BACKWARD(T)                                                                     \
  void norm_backward_##T(const T *dy, const T *second, const T *y, const T *x,          \
                         const float *saved, const float *weight, float *dweight,       \
                         float *dbias, T *dx, T *dz, float *scratch, int64_t rows,      \
                         int64_t width, int64_t channels, double least, int threads) {  \
    const float *mean = saved, *inverse = saved + width;                                \
    float *a = scratch, *b = a + width, *c = b + width, *partial = c + width;           \
    double count = (double)rows * width / channels;                                     \
    gradient_sums_##T(dy, second, y, x, mean, least, partial, dz, rows, width, threads); \
    for (int64_t k = 0; k < channels; k++) {                                            \
      double sum = total(partial, 0, k, rows, width, channels);                         \
      double product = total(partial, 1, k, rows, width, channels) * inverse[k];        \
      dbias[k] = sum;                                                                   \
      dweight[k] = product;                                                             \
      a[k] = weight[k] * inverse[k];                                                    \
      b[k] = -a[k] * inverse[k] * product / count;                                      \
      c[k] = -a[k] * sum / count - b[k] * mean[k];                                      \
    }                                                                                   \
    spread(a, width, channels);                                                         \
    spread(b, width, channels);                                                         \
    spread(c, width, channels);                                                         \
    gradient_##T(dy, y, x, a, b, c, least, dx, dz, rows, width, threads);               \
  }

#define ALL(T, READ, WRITE)                                                             \
  STATISTICS(T, READ)                                                                   \
  NORMALIZE(T, READ, WRITE)                                                             \
  GRADIENT_SUMS(T, READ, WRITE)                                                         \
  GRADIENT(T, READ, WRITE)                                                              \
  FORWARD(T, READ)                                                                      \
  BACKWARD(T)

ALL(bf16, read_bf16, write_bf16)
ALL(float, read_f32, write_f32)
