/* <packing>Linear and <packing>LinearInteger: y = (x @ codes) * scale. */
#include <stdatomic.h>
#include <stdlib.h>

#include "bit_planes.h"
#include "operators.h"
#include "product.h"

typedef struct {
  sxq_kernel head;
  bool constant; /* whether the weights below are set */
  sxq_weights weights;
  float grid, inverse_grid;
} linear_kernel;

void sxq_linear_destroy(void* kernel) {
  sxq_release_codes(&((linear_kernel*)kernel)->weights.codes);
  free(kernel);
}

OrtStatus* sxq_linear_create(const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  linear_kernel* made = calloc(1, sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  made->head = (sxq_kernel){api, op, sxq_kernels_here()};
  made->grid = made->inverse_grid = 1.0f;
  OrtStatus* status = sxq_constant_weights(api, info, op->name, op->layout, &made->constant, &made->weights);
  if (!status && op->kind == SXQ_LINEAR_INTEGER) {
    status = sxq_attribute_float(api, info, "grid", &made->grid);
    if (!status) status = sxq_attribute_float(api, info, "inverse_grid", &made->inverse_grid);
  }
  if (status) {
    sxq_linear_destroy(made);
    return status;
  }
  if (made->constant) sxq_allow_planes(made->head.kernels, &made->weights.codes);
  *kernel = made;
  return NULL;
}

typedef struct {
  const linear_kernel* kernel;
  sxq_weights weights;
  const float* x;
  float* y;
  size_t rows, rows_a_task;
  atomic_bool failed;
} product;

static void task(void* data, size_t index) {
  product* p = data;
  const linear_kernel* kernel = p->kernel;
  const size_t first = index * p->rows_a_task;
  const size_t rows = p->rows - first < p->rows_a_task ? p->rows - first : p->rows_a_task;
  const bool done = sxq_product(
      kernel->head.kernels, &p->weights, kernel->head.op->table, kernel->grid, kernel->inverse_grid,
      p->x + first * p->weights.codes.rows, rows, p->y + first * p->weights.codes.columns);
  if (!done) atomic_store(&p->failed, true);
}

static OrtStatus* multiply(const linear_kernel* kernel, OrtKernelContext* context, const sxq_weights* weights) {
  const OrtApi* api = kernel->head.api;
  const char* name = kernel->head.op->name;
  const sxq_codes* codes = &weights->codes;
  sxq_tensor x;
  product p = {.kernel = kernel, .weights = *weights};
  OrtStatus* status = sxq_input(api, context, 0, &x);
  if (status) return status;
  if (x.rank == 0 || (size_t)x.shape[x.rank - 1] != codes->rows) {
    return sxq_error(
        api, "%s takes an input whose last axis is %zu; got %lld.", name, codes->rows,
        x.rank ? (long long)x.shape[x.rank - 1] : 0LL);
  }
  p.rows = 1;
  for (size_t axis = 0; axis + 1 < x.rank; ++axis) p.rows *= (size_t)x.shape[axis];
  x.shape[x.rank - 1] = (int64_t)codes->columns;
  void* y = NULL;
  status = sxq_output(api, context, 0, x.shape, x.rank, &y);
  if (status || !y || p.rows == 0 || codes->columns == 0) return status;
  p.x = x.data;
  p.y = y;
  p.rows_a_task = sxq_rows_a_task(codes, p.rows);
  status = sxq_parallel(api, context, task, (p.rows + p.rows_a_task - 1) / p.rows_a_task, &p);
  return status || !atomic_load(&p.failed) ? status : sxq_out_of_memory(api, name);
}

OrtStatus* sxq_linear_compute(void* self, OrtKernelContext* context) {
  const linear_kernel* kernel = self;
  const sxq_kernel* head = &kernel->head;
  if (kernel->constant) return multiply(kernel, context, &kernel->weights);
  sxq_weights weights;
  OrtStatus* status = sxq_run_weights(head->api, context, head->op->name, head->op->layout, &weights);
  if (status) return status;
  status = multiply(kernel, context, &weights);
  sxq_release_codes(&weights.codes);
  return status;
}
