/* GELU. Compiled so that a product and a sum may be rounded as one: no two runtimes give the same error function. */
#include "gelu.h"

#include <math.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* 1 - erf(a) for a >= 0, as e^(-a^2) times a polynomial, fitted to it on [0, 4] within 2^-25; beyond 4 as at 4. */
ALWAYS_INLINE float complement(float size) {
  const float a = size < 4.0f ? size : 4.0f; /* also what is no number */
  const float n = rintf(a * a * -1.44269504f);
  const float r = (-(a * a) - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * (r * r) + r + 1.0f;
  const int32_t bits = ((int32_t)n + 127) * (1 << 23);
  float two;
  memcpy(&two, &bits, sizeof two);
  const float t = a * 0.5f - 1.0f;
  float g = 0.016688382f;
  g = g * t + 0.01568809f;
  g = g * t - 0.013965306f;
  g = g * t - 0.047139406f;
  g = g * t + 0.009861649f;
  g = g * t - 0.0010402304f;
  g = g * t + 0.049232636f;
  g = g * t - 0.061162248f;
  g = g * t + 0.084111966f;
  g = g * t - 0.12415962f;
  g = g * t + 0.16728905f;
  g = g * t - 0.21357192f;
  g = g * t + 0.25539628f;
  return p * two * g;
}

ALWAYS_INLINE void run(size_t n, float by, float one, float half, float* restrict x) {
  const float inverse = 1.0f / by, more = one - 1.0f;
  for (size_t i = 0; i < n; ++i) {
    const float z = x[i] * inverse, less = complement(fabsf(z));
    x[i] *= half * ((z < 0.0f ? less : 2.0f - less) + more);
  }
}

/* The same loop, compiled for what the processor has. */
static void run_portable(size_t n, float by, float one, float half, float* x) { run(n, by, one, half, x); }
#if defined(__x86_64__)
__attribute__((target("avx2"))) static void run_avx2(size_t n, float by, float one, float half, float* x) {
  run(n, by, one, half, x);
}
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))) static void run_avx512(
    size_t n, float by, float one, float half, float* x) {
  run(n, by, one, half, x);
}
#endif

void sxq_gelu(const sxq_kernels* kernels, size_t count, float by, float one, float half, float* x) {
#if defined(__x86_64__)
  if (kernels == &sxq_kernels_avx512) {
    run_avx512(count, by, one, half, x);
    return;
  }
  if (kernels == &sxq_kernels_avx2) {
    run_avx2(count, by, one, half, x);
    return;
  }
#endif
  (void)kernels;
  run_portable(count, by, one, half, x);
}
