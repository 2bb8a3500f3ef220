/* The inner loops, once for each instruction set; kernels_*.c define them, dispatch.c picks. */
#ifndef SXQ_KERNELS_H
#define SXQ_KERNELS_H

#include "layout.h"
#include "spec.h"

/* Packed codes of a layer, where onnxruntime keeps them; nothing is copied. */
typedef struct {
  const sxq_layout* layout;
  const uint8_t* packed;
  size_t rows, columns; /* K, N */
} sxq_codes;

typedef struct {
  const char* name;

  /* Write k * pitch for each k with x[k] != 0 and return how many; `spikes` says whether all of x is 0 or 1.
   * `rows` has room for SXQ_ACTIVE_ROOM more than count. */
  size_t (*active)(const float* x, size_t count, size_t pitch, uint32_t* rows, bool* spikes);

  /* sums[n] = sum over `rows` of code[row, n], a row given by where its bytes begin, in rising order; `sums` has room
   * for SXQ_SUMS_ROOM more than N. */
  void (*row_sums)(const sxq_codes* codes, const uint32_t* rows, size_t count, int32_t* sums);

  /* total[n] += weight * sums[n] */
  void (*accumulate)(int32_t* total, const int32_t* sums, int32_t weight, size_t count);

  /* y[n] = ((float)sums[n] * grid) * scale[n], two products, each rounded */
  void (*scaled)(float* y, const int32_t* sums, float grid, const float* scale, size_t count);

  /* y[m, n] = (sum_k x[m, k] * weight[k, n]) for n in a panel of SXQ_PANEL columns of floats */
  void (*panel_product)(const float* x, size_t rows, size_t inputs, const float* panel, float* y);

  /* All steps of a block of up to SXQ_BLOCK neurons. */
  void (*neurons)(const sxq_spec* spec, const sxq_neuron_block* block);
} sxq_kernels;

enum { SXQ_ACTIVE_ROOM = 16, SXQ_SUMS_ROOM = 512, SXQ_PANEL = 32 };

extern const sxq_kernels sxq_kernels_portable;
#if defined(__x86_64__)
extern const sxq_kernels sxq_kernels_avx2, sxq_kernels_avx512;
#endif

/* The best that this processor runs; the environment variable SXQ_NATIVE_ISA may ask for another. */
const sxq_kernels* sxq_kernels_here(void);

#endif
