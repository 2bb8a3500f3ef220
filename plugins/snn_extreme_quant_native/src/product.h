/* The product of a matrix with packed codes. */
#ifndef SXQ_PRODUCT_H
#define SXQ_PRODUCT_H

#include "weights.h"

/* y (rows, N) = (x (rows, K) @ codes) * scale.
 *
 * Rows of x / grid that hold 0, 1 and -1, or whole numbers up to 255 of either sign, are summed in integers; anything
 * else in floats. Returns false if memory ran out.
 */
bool sxq_product(
    const sxq_kernels* kernels, const sxq_weights* weights, const sxq_byte_table* table, float grid,
    float inverse_grid, const float* x, size_t rows, float* y);

#endif
