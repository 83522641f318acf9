/* Mirror and normalize 8-bit images, (x - mean) * scale, in one pass. */
#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define MAX_ROW 16384 /* values in a row that is mirrored */
#define CACHE (16 << 20) /* bytes; larger batches do not stay in a cache */

static void mirror(const uint8_t *row, int wide, int channels, uint8_t *out) {
  int x = 0;
#ifdef __AVX2__
  const __m128i reverse = _mm_setr_epi8(13, 14, 15, 10, 11, 12, 7, 8, 9, 4, 5, 6, 1, 2, 3, -1);
  if (channels == 3) { /* five pixels at a time, which end the 16 bytes that are read */
    for (; x + 6 <= wide; x += 5, out += 15) {
      const __m128i bytes = _mm_loadu_si128((const __m128i *)(row + 3 * (wide - x) - 16));
      _mm_storeu_si128((__m128i *)out, _mm_shuffle_epi8(bytes, reverse));
    }
  }
#endif
  for (; x < wide; x++) {
    for (int c = 0; c < channels; c++) *out++ = row[(wide - 1 - x) * channels + c];
  }
}

/* streamed: past the caches, whose contents are worth more than the end of a large batch. */
static void normalize(const uint8_t *row, const float *mean, const float *scale, int width,
                      int streamed, float *out) {
  int k = 0;
#ifdef __AVX2__
  for (; streamed && k + 8 <= width; k += 8) {
    const __m128i bytes = _mm_loadl_epi64((const __m128i *)(row + k));
    const __m256 values = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
    const __m256 centered = _mm256_sub_ps(values, _mm256_loadu_ps(mean + k));
    _mm256_stream_ps(out + k, _mm256_mul_ps(centered, _mm256_loadu_ps(scale + k)));
  }
#endif
  for (; k < width; k++) out[k] = ((float)row[k] - mean[k]) * scale[k];
}

/* Image i of `out` (count, high, wide, channels) becomes image rows[i] of `images`, mirrored where
 * flipped[i]. means: (2, mean_high, wide, channels), as stored and mirrored, where a mean_high of 1
 * is for all rows; scale: (wide, channels). Returns 0 if rows are too long. */
int flip_and_normalize(const uint8_t *images, const int64_t *rows, const uint8_t *flipped,
                  int64_t count, int high, int wide, int channels, const float *means,
                  int mean_high, const float *scale, float *out, int threads) {
  const int width = wide * channels;
  const int64_t size = (int64_t)high * width;
  const int mean_step = mean_high == 1 ? 0 : width;
  const int streamed = count * size * (int64_t)sizeof(float) > CACHE &&
                       (uintptr_t)out % 32 == 0 && width % 8 == 0;
  if (width > MAX_ROW) return 0;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t i = 0; i < count; i++) {
    const uint8_t *from = images + rows[i] * size;
    const float *mean = means + (flipped[i] ? (int64_t)mean_high * width : 0);
    float *to = out + i * size;
    uint8_t row[MAX_ROW];
    for (int y = 0; y < high; y++, from += width, mean += mean_step, to += width) {
      if (flipped[i]) mirror(from, wide, channels, row);
      normalize(flipped[i] ? row : from, mean, scale, width, streamed, to);
    }
#ifdef __AVX2__
    _mm_sfence();
#endif
  }
  return 1;
}
