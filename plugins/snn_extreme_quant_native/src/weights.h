/* A layer's packed codes and scales, checked, and the product of a matrix with them. */
#ifndef SXQ_WEIGHTS_H
#define SXQ_WEIGHTS_H

#include "kernels.h"
#include "runtime.h"

typedef struct {
  sxq_codes codes;
  const float* scale; /* one for each column */
} sxq_weights;

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

/* y (rows, N) = (x (rows, K) @ codes) * scale.
 *
 * x / grid that is 0 and 1, or whole numbers up to 255 of either sign, is summed in integers; anything else in floats.
 * Returns false if memory ran out.
 */
bool sxq_product(
    const sxq_kernels* kernels, const sxq_weights* weights, const sxq_byte_table* table, float grid,
    float inverse_grid, const float* x, size_t rows, float* y);

#endif
