/* Kernels for x86-64 with AVX-512 F, BW, DQ and VL. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define WIDTH 64
typedef uint64_t word __attribute__((vector_size(WIDTH)));

/* One instruction each: exclusive or of three (0x96), majority of three (0xe8). */
#define full_add(high, low, a, b, c)                                                              \
  do {                                                                                            \
    const __m512i x_ = (__m512i)(a), y_ = (__m512i)(b), z_ = (__m512i)(c);                        \
    (high) = (word)_mm512_ternarylogic_epi64(x_, y_, z_, 0xe8);                                   \
    (low) = (word)_mm512_ternarylogic_epi64(x_, y_, z_, 0x96);                                    \
  } while (0)

#include "row_sums.h"
#include "float_product.h"
#include "neuron_steps.h"

static size_t active(const float* x, size_t count, uint32_t* rows, bool* spikes) {
  const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(1.0f);
  __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  size_t found = 0;
  unsigned odd = 0;
  for (size_t k = 0; k < count; k += 16) {
    const __mmask16 here = count - k >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << (count - k)) - 1);
    const __m512 values = _mm512_maskz_loadu_ps(here, x + k);
    /* "Not equal" is true of NaN too, as in C. */
    const __mmask16 set = _mm512_cmp_ps_mask(values, zero, _CMP_NEQ_UQ);
    odd |= _mm512_mask_cmp_ps_mask(set, values, one, _CMP_NEQ_UQ);
    /* Written whole: `rows` has room for 16 more than count. */
    _mm512_storeu_si512(rows + found, _mm512_maskz_compress_epi32(set, index));
    found += (size_t)__builtin_popcount(set);
    index = _mm512_add_epi32(index, _mm512_set1_epi32(16));
  }
  *spikes = !odd;
  return found;
}

const sxq_kernels sxq_kernels_avx512 = {
    "avx512", active, row_sums, accumulate, scaled, panel_product, neurons,
};
#endif
