/* The norm by shifts of a row, in whole numbers; the numbers are those of exported/shift_tables.py. */
#ifndef SXQ_SHIFT_NORM_H
#define SXQ_SHIFT_NORM_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

enum { SXQ_MOST_CHANNELS = 4096, SXQ_MOST_SHIFT = 20, SXQ_LEAST_SHIFT = -6, SXQ_MANTISSAS = 4, SXQ_NORM_FRACTION = 14 };
enum { SXQ_NORM_FACTORS = SXQ_MANTISSAS * (SXQ_MOST_SHIFT - SXQ_LEAST_SHIFT + 1) };

#define SXQ_RESIDUAL_LIMIT 524287.0f

/* What rows of `length` are normed with. */
typedef struct {
  size_t length;
  float factor[SXQ_NORM_FACTORS];
  int64_t limit[SXQ_NORM_FACTORS - 1]; /* falling: factor i is for sums of squares up to limit i - 1 and above limit i */
} sxq_shift_norm;

static inline void sxq_fill_shift_norm(size_t length, sxq_shift_norm* norm) {
  size_t i = 0;
  norm->length = length;
  for (int k = SXQ_MOST_SHIFT; k >= SXQ_LEAST_SHIFT; --k) {
    for (int m = SXQ_MANTISSAS; m < 2 * SXQ_MANTISSAS; ++m, ++i) {
      norm->factor[i] = ldexpf((float)m, SXQ_NORM_FRACTION - 2 - k);
      if (i == SXQ_NORM_FACTORS - 1) return;
      const int64_t odd = 2 * m + 1, above = (int64_t)1 << (k > -3 ? 2 * (k + 3) : 0);
      const int64_t below = (odd * odd) << (k < -3 ? 2 * (-k - 3) : 0);
      norm->limit[i] = (int64_t)length * above / below;
    }
  }
}

/* A whole number within the limit; NaN, which no body defines, becomes one too. */
static inline __attribute__((always_inline)) int32_t sxq_residual_units(float x) {
  float units = floorf(x * 1024.0f + 0.5f);
  units = units > -SXQ_RESIDUAL_LIMIT ? units : -SXQ_RESIDUAL_LIMIT;
  return (int32_t)(units < SXQ_RESIDUAL_LIMIT ? units : SXQ_RESIDUAL_LIMIT);
}

/* y are the units of a row's normed values; y must not be x. */
static inline __attribute__((always_inline)) void sxq_shift_norm_row(
    const sxq_shift_norm* norm, const float* restrict x, int32_t* restrict y) {
  const size_t length = norm->length;
  const int64_t channels = (int64_t)length;
  int32_t total = 0; /* below 2^31 */
  for (size_t i = 0; i < length; ++i) total += y[i] = sxq_residual_units(x[i]);
  /* What is divided is made positive first, so that the quotient is rounded down. */
  const int64_t shift = 1 << 20;
  const int32_t mean = (int32_t)((2 * (int64_t)total + channels + 2 * channels * shift) / (2 * channels) - shift);
  int64_t squares = 0; /* below 2^52 */
  for (size_t i = 0; i < length; ++i) {
    const int32_t centred = y[i] - mean;
    y[i] = centred;
    squares += (int64_t)centred * centred;
  }
  size_t reached = 0, end = SXQ_NORM_FACTORS - 1;
  while (reached < end) {
    const size_t middle = (reached + end) / 2;
    if (squares <= norm->limit[middle]) reached = middle + 1;
    else end = middle;
  }
  const float factor = norm->factor[reached];
  for (size_t i = 0; i < length; ++i) y[i] = (int32_t)floorf((float)y[i] * factor + 0.5f);
}

#endif
