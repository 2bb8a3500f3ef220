/* The tiles of <packing>LinearRounded for x86-64 with AVX2. */
#include "rounded.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define WIDTH 32
#define MOST_BITS 4 /* two products of bytes with digits of eight bits do not fit 16 bits */
#define QUARTERS_OF_TWO 1
#define QUARTERS_OF_FOUR 1
typedef __m256i vector;
#define LOAD(at) _mm256_loadu_si256((const __m256i*)(const void*)(at))
#define STORE(at, a) _mm256_storeu_si256((__m256i*)(void*)(at), a)
#define ZERO() _mm256_setzero_si256()
#define SET_8(a) _mm256_set1_epi8(a)
#define SET_32(a) _mm256_set1_epi32(a)
#define AND(a, b) _mm256_and_si256(a, b)
#define SHIFT_RIGHT_16(a, count) _mm256_srli_epi16(a, count)
#define INTERLEAVE_LOW_8(a, b) _mm256_unpacklo_epi8(a, b)
#define INTERLEAVE_HIGH_8(a, b) _mm256_unpackhi_epi8(a, b)
#define INTERLEAVE_LOW_16(a, b) _mm256_unpacklo_epi16(a, b)
#define INTERLEAVE_HIGH_16(a, b) _mm256_unpackhi_epi16(a, b)
#define ADD_PRODUCTS(sum, a, b) \
  _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)))
#define LOAD_SOME(at, count) load_some(at, count)

static inline __m256i load_some(const uint8_t* at, size_t count) {
  uint8_t bytes[WIDTH] = {0};
  __builtin_memcpy(bytes, at, count);
  return LOAD(bytes);
}

#include "rounded_tile.h"

const sxq_rounded_kernel sxq_rounded_avx2 = {WIDTH, MOST_BITS, sums};
#endif
