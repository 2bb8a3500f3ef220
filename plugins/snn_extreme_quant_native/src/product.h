/* The product of a matrix with packed codes. */
#ifndef SXQ_PRODUCT_H
#define SXQ_PRODUCT_H

#include "weights.h"

/* Rows of inputs to a task, so that `rows` make up to four tasks, more only of 64 rows each: every task reads the
 * weights once, and a small one is over before another thread has begun. */
size_t sxq_rows_a_task(const sxq_codes* codes, size_t rows);

/* Whether sums of K inputs up to `most`, and the places of the rows, fit 32 bits. */
bool sxq_sums_fit(const sxq_codes* codes, double most);

/* y (rows, N) = (x (rows, K) @ codes) * scale.
 *
 * Rows of x / grid that hold 0, 1 and -1, or whole numbers up to 255 of either sign, are summed in integers; anything
 * else in floats. Returns false if memory ran out.
 */
bool sxq_product(
    const sxq_kernels* kernels, const sxq_weights* weights, const sxq_byte_table* table, float grid,
    float inverse_grid, const float* x, size_t rows, float* y);

/* sums (rows, N) = x (rows, K) @ codes; x holds bytes, signed ones if `is_signed`. Returns false if memory ran out. */
bool sxq_integer_product(
    const sxq_kernels* kernels, const sxq_codes* codes, const sxq_byte_table* table, bool is_signed, const uint8_t* x,
    size_t rows, int32_t* sums);

#endif
