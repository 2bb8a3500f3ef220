/* What the kernels of integer files of models of tokens share: arithmetic that wraps around where their bodies' does, and
 * constants of channels. */
#ifndef SXQ_WHOLE_H
#define SXQ_WHOLE_H

#include "operators.h"

#define SXQ_WHOLE_INLINE static inline __attribute__((always_inline))

/* The places of a shift of 64 bits. */
enum { SXQ_MOST_PLACES = 63 };

SXQ_WHOLE_INLINE int32_t sxq_within(int32_t x, int32_t least, int32_t most) {
  x = x > least ? x : least;
  return x < most ? x : most;
}

/* The low half of x >> shift for x with a sign that is not below -raise: bodies shift unsigned numbers, too, which AVX2
 * has an instruction for. */
SXQ_WHOLE_INLINE int32_t sxq_shifted(uint64_t x, uint64_t raise, int shift) {
  return (int32_t)(uint32_t)(((x + raise) >> shift) - (raise >> shift));
}

/* An attribute `shift`. */
OrtStatus* sxq_whole_shift(const OrtApi* api, const OrtKernelInfo* info, const char* operator_name, int* shift);

/* An attribute `most`: a limit of 32 bits on either side of 0. */
OrtStatus* sxq_whole_limit(const OrtApi* api, const OrtKernelInfo* info, const char* operator_name, int32_t* most);

/* An input of constants: one for each of the channels, or one for all. */
OrtStatus* sxq_whole_constants(
    const OrtApi* api, OrtKernelContext* context, const char* operator_name, size_t index, size_t channels,
    sxq_tensor* constants);

bool sxq_same_shape(const sxq_tensor* a, const sxq_tensor* b);

#endif
