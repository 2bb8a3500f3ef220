/* Kernels for x86-64 with AVX2. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define WIDTH 32
typedef uint64_t word __attribute__((vector_size(WIDTH)));

#define full_add(high, low, a, b, c)              \
  do {                                            \
    const word x_ = (a), y_ = (b), z_ = (c);      \
    const word half_ = x_ ^ y_;                   \
    (high) = (x_ & y_) | (half_ & z_);            \
    (low) = half_ ^ z_;                           \
  } while (0)

#define choose(mask, a, b) (((mask) & (a)) | (~(mask) & (b)))
#define load_two(a, b)                                                                               \
  ((word)_mm256_inserti128_si256(                                                                    \
      _mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)(const void*)(a))),                     \
      _mm_loadu_si128((const __m128i*)(const void*)(b)), 1))
#define upper_half(a) ((word)_mm256_permute4x64_epi64((__m256i)(a), 0x0e))
#define V(name) _mm256_##name
typedef __m256i vector;

#include "carry_save.h"
#include "ordered_x86.h"
#include "row_sums.h"
#include "float_product.h"
#include "neuron_steps.h"
#include "integer_neuron_steps.h"
#include "pixel_lists.h"
#include "sum_rows.h"
#include "transpose_x86.h"
#include "active_signed.h"

static size_t active(const float* x, size_t count, float unit, size_t pitch, uint32_t* rows, bool* others) {
  const __m256 zero = _mm256_setzero_ps(), one = _mm256_set1_ps(unit);
  size_t found = 0, k = 0;
  unsigned odd = 0;
  for (; k + 8 <= count; k += 8) {
    const __m256 values = _mm256_loadu_ps(x + k);
    unsigned set = (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(values, one, _CMP_EQ_OQ));
    /* "Not equal" is true of NaN too, as in C. */
    odd |= set ^ (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(values, zero, _CMP_NEQ_UQ));
    for (; set; set &= set - 1) rows[found++] = (uint32_t)((k + (size_t)__builtin_ctz(set)) * pitch);
  }
  for (; k < count; ++k) {
    rows[found] = (uint32_t)(k * pitch);
    found += x[k] == unit;
    odd |= (x[k] != 0.0f) & (x[k] != unit);
  }
  *others = odd != 0;
  return found;
}

static size_t active_bytes(
    const uint8_t* x, size_t count, uint8_t unit, size_t pitch, uint32_t* rows, size_t* others) {
  const __m256i one = _mm256_set1_epi8((char)unit), zero = _mm256_setzero_si256();
  size_t found = 0, odd = 0, k = 0;
  for (; k + 32 <= count; k += 32) {
    const __m256i values = _mm256_loadu_si256((const __m256i*)(const void*)(x + k));
    unsigned set = (unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(values, one));
    odd += (size_t)__builtin_popcount(set ^ ~(unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(values, zero)));
    for (; set; set &= set - 1) rows[found++] = (uint32_t)((k + (size_t)__builtin_ctz(set)) * pitch);
  }
  for (; k < count; ++k) {
    rows[found] = (uint32_t)(k * pitch);
    found += x[k] == unit;
    odd += (x[k] != 0) & (x[k] != unit);
  }
  *others = odd;
  return found;
}

static size_t list_floats(
    const float* x, size_t count, float unit, uint32_t row, const sxq_pixel_lists* lists) {
  const __m256 zero = _mm256_setzero_ps(), one = _mm256_set1_ps(unit);
  size_t odd = 0, i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 values = _mm256_loadu_ps(x + i);
    const unsigned set = (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(values, one, _CMP_EQ_OQ));
    odd += (size_t)__builtin_popcount(set ^ (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(values, zero, _CMP_NEQ_UQ)));
    put(lists, i, set, row);
  }
  for (; i < count; ++i) {
    put(lists, i, x[i] == unit, row);
    odd += (x[i] != 0.0f) & (x[i] != unit);
  }
  return odd;
}

static size_t list_bytes(
    const uint8_t* x, size_t count, uint8_t unit, uint32_t row, const sxq_pixel_lists* lists) {
  const __m256i one = _mm256_set1_epi8((char)unit), zero = _mm256_setzero_si256();
  size_t odd = 0, i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m256i values = _mm256_loadu_si256((const __m256i*)(const void*)(x + i));
    const unsigned set = (unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(values, one));
    odd += (size_t)__builtin_popcount(set ^ ~(unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(values, zero)));
    put(lists, i, set, row);
  }
  for (; i < count; ++i) {
    put(lists, i, x[i] == unit, row);
    odd += (x[i] != 0) & (x[i] != unit);
  }
  return odd;
}

const sxq_kernels sxq_kernels_avx2 = {
    "avx2", WIDTH, active, active_signed, active_bytes, list_floats, list_bytes, join_lists, transpose, products, panel_product, neurons, integer_neurons, sum_rows,
};
#endif
