/* <packing>MatMulInteger and <packing>MatMulIntegerSigned: y = x @ codes, bytes to 32 bits. */
#include <stdatomic.h>
#include <stdlib.h>

#include "bit_planes.h"
#include "operators.h"
#include "product.h"

typedef struct {
  sxq_kernel head;
  int64_t columns;
  bool constant; /* whether the codes below are set */
  sxq_codes codes;
} matmul_kernel;

void sxq_matmul_integer_destroy(void* kernel) {
  sxq_release_codes(&((matmul_kernel*)kernel)->codes);
  free(kernel);
}

OrtStatus* sxq_matmul_integer_create(
    const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  matmul_kernel* made = calloc(1, sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  made->head = (sxq_kernel){api, op, sxq_kernels_here()};
  int64_t columns[4] = {0}; /* one, with room to see that there are more */
  size_t length = 4;
  sxq_tensor packed;
  OrtStatus* status = sxq_attribute_ints(api, info, "columns", columns, &length);
  made->columns = columns[0];
  if (!status && (length != 1 || made->columns < 0)) {
    status = sxq_error(api, "%s needs one number of columns; export the model again.", op->name);
  }
  if (!status) status = sxq_constant_input(api, info, 1, &made->constant, &packed);
  if (!status && made->constant) {
    status = sxq_check_codes(api, op->name, op->layout, &packed, (size_t)made->columns, &made->codes);
  }
  if (status) {
    sxq_matmul_integer_destroy(made);
    return status;
  }
  if (made->constant) sxq_allow_planes(made->head.kernels, &made->codes);
  *kernel = made;
  return NULL;
}

typedef struct {
  const matmul_kernel* kernel;
  sxq_codes codes;
  const uint8_t* x;
  int32_t* y;
  size_t rows, rows_a_task;
  atomic_bool failed;
} product;

static void task(void* data, size_t index) {
  product* p = data;
  const sxq_kernel* head = &p->kernel->head;
  const size_t first = index * p->rows_a_task;
  const size_t rows = p->rows - first < p->rows_a_task ? p->rows - first : p->rows_a_task;
  const bool done = sxq_integer_product(
      head->kernels, &p->codes, head->op->table, head->op->kind == SXQ_MATMUL_INTEGER_SIGNED,
      p->x + first * p->codes.rows, rows, p->y + first * p->codes.columns);
  if (!done) atomic_store(&p->failed, true);
}

static OrtStatus* multiply(const matmul_kernel* kernel, OrtKernelContext* context, const sxq_codes* codes) {
  const OrtApi* api = kernel->head.api;
  const sxq_operator* op = kernel->head.op;
  sxq_tensor x;
  product p = {.kernel = kernel, .codes = *codes};
  OrtStatus* status = sxq_input(api, context, 0, &x);
  if (status) return status;
  if (x.rank == 0 || (size_t)x.shape[x.rank - 1] != p.codes.rows) {
    return sxq_error(
        api, "%s takes an input whose last axis is %zu; got %lld.", op->name, p.codes.rows,
        x.rank ? (long long)x.shape[x.rank - 1] : 0LL);
  }
  p.rows = 1;
  for (size_t axis = 0; axis + 1 < x.rank; ++axis) p.rows *= (size_t)x.shape[axis];
  x.shape[x.rank - 1] = kernel->columns;
  void* y = NULL;
  status = sxq_output(api, context, 0, x.shape, x.rank, &y);
  if (status || !y || p.rows == 0 || kernel->columns == 0) return status;
  p.x = x.data;
  p.y = y;
  p.rows_a_task = sxq_rows_a_task(codes, p.rows);
  status = sxq_parallel(api, context, task, (p.rows + p.rows_a_task - 1) / p.rows_a_task, &p);
  return status || !atomic_load(&p.failed) ? status : sxq_out_of_memory(api, op->name);
}

OrtStatus* sxq_matmul_integer_compute(void* self, OrtKernelContext* context) {
  const matmul_kernel* kernel = self;
  const sxq_kernel* head = &kernel->head;
  if (kernel->constant) return multiply(kernel, context, &kernel->codes);
  sxq_tensor packed;
  sxq_codes codes;
  OrtStatus* status = sxq_input(head->api, context, 1, &packed);
  if (!status) {
    status = sxq_check_codes(head->api, head->op->name, head->op->layout, &packed, (size_t)kernel->columns, &codes);
  }
  if (status) return status;
  status = multiply(kernel, context, &codes);
  sxq_release_codes(&codes);
  return status;
}
