/* Products of dense spikes: AND and population count over bits.
 *
 * Inputs become one bit each. The codes are kept a second time, column by column: for each column the bits of its codes
 * over all inputs, one plane that says which are not 0 (binary codes need none) and one that says which are -1. With a
 * the inputs that spiked, g those of them whose spike is -1, z the codes that are not 0 and s those that are -1,
 *
 *     sum = |a & z| - 2 |a & z & (g ^ s)|
 *
 * The work is the same at any density, so this pays where many inputs spike; the copy is made when that is first seen.
 */
#ifndef SXQ_BIT_PLANES_H
#define SXQ_BIT_PLANES_H

#include <stdatomic.h>

#include "kernels.h"

/* Rows of inputs as bits: row m's from bits[m * words] on, padded with zeros. */
typedef struct {
  size_t words; /* 32-bit ones, of a row */
  uint32_t *bits, *minus; /* which inputs are not 0, and which are -1; `minus` is NULL if none is */
  int32_t* found;         /* how many are not 0 */
} sxq_bit_rows;

/* Inputs of a row: floats that are 0, unit and -unit, or bytes that are 0, 1 and, if they are signed, -1. */
typedef struct {
  const void* x;
  bool floats, is_signed;
  float unit;
} sxq_spikes;

typedef struct {
  /* From this part of inputs that spike on, by bits of a code, sums of selected rows take longer (2: never). */
  float density[3];
  size_t rows; /* and from this number of rows on */
  size_t rows_together; /* bits have room for whole groups of so many rows */

  /* Bytes that the planes take, and the planes, which begin at a multiple of 64. */
  size_t (*plane_bytes)(const sxq_codes* codes);
  void (*fill_planes)(const sxq_codes* codes, uint32_t* planes);

  /* One row of `count` inputs; without `minus` only 0 and 1 are taken. Returns how many are not 0, or -1 if there is
   * something else. */
  int32_t (*pack)(const sxq_spikes* spikes, size_t count, uint32_t* bits, uint32_t* minus);

  void (*products)(
      const sxq_codes* codes, const uint32_t* planes, const sxq_bit_rows* rows, size_t count, const sxq_target* to);
} sxq_bit_kernels;

#if defined(__x86_64__)
extern const sxq_bit_kernels sxq_bit_kernels_avx512;
#endif

/* Those that go with the other kernels and that this processor runs; NULL if there are none. */
const sxq_bit_kernels* sxq_bit_kernels_for(const sxq_kernels* kernels);

/* Where a layer's copy is kept. */
struct sxq_plane_store {
  const sxq_bit_kernels* kernels;
  atomic_bool begun;
  _Atomic(uint32_t*) planes; /* NULL until they are made */
};

/* Allow the codes a copy, if there are kernels for it: they stay as they are until sxq_release_codes. */
void sxq_allow_planes(const sxq_kernels* kernels, sxq_codes* codes);
void sxq_release_planes(sxq_codes* codes);

/* Bytes that all copies take at present. */
size_t sxq_copied_plane_bytes(void);

/* The product of dense rows of spikes; false, and nothing is written, if they are not dense, not spikes or too few. */
bool sxq_dense_product(const sxq_codes* codes, const sxq_spikes* spikes, size_t rows, const sxq_target* to);

#endif
