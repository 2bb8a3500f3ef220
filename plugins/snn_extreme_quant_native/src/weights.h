/* A layer's packed codes and scales, checked. */
#ifndef SXQ_WEIGHTS_H
#define SXQ_WEIGHTS_H

#include "kernels.h"
#include "runtime.h"

typedef struct {
  sxq_codes codes;
  const float* scale; /* one for each column */
} sxq_weights;

/* Check packed codes (K, bytes) of so many columns. What it owns is released by sxq_release_codes. */
OrtStatus* sxq_check_codes(
    const OrtApi* api, const char* operator_name, const sxq_layout* layout, const sxq_tensor* packed, size_t columns,
    sxq_codes* codes);

void sxq_release_codes(sxq_codes* codes);

/* Check two tensors, packed (K, bytes) and scale (N), against each other. */
OrtStatus* sxq_check_weights(
    const OrtApi* api, const char* operator_name, const sxq_layout* layout, const sxq_tensor* packed,
    const sxq_tensor* scale, sxq_weights* weights);

/* The inputs 1 and 2 of an operator, if both are initializers; else `found` is false and each run looks. */
OrtStatus* sxq_constant_weights(
    const OrtApi* api, const OrtKernelInfo* info, const char* operator_name, const sxq_layout* layout, bool* found,
    sxq_weights* weights);
OrtStatus* sxq_run_weights(
    const OrtApi* api, OrtKernelContext* context, const char* operator_name, const sxq_layout* layout,
    sxq_weights* weights);

#endif
