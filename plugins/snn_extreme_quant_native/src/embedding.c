/* <packing>Embedding: rows of codes times the rows' scales. */
#include <stdlib.h>

#include "operators.h"

typedef struct {
  sxq_kernel head;
  int64_t columns;
} embedding_kernel;

OrtStatus* sxq_embedding_create(const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  embedding_kernel* made = calloc(1, sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  made->head = (sxq_kernel){api, op, sxq_kernels_here()};
  size_t length = 1;
  OrtStatus* status = sxq_attribute_ints(api, info, "columns", &made->columns, &length);
  if (!status && (length != 1 || made->columns < 0)) {
    status = sxq_error(api, "%s needs one number of columns; export the model again.", op->name);
  }
  if (status) {
    free(made);
    return status;
  }
  *kernel = made;
  return NULL;
}

OrtStatus* sxq_embedding_compute(void* self, OrtKernelContext* context) {
  const embedding_kernel* kernel = self;
  const OrtApi* api = kernel->head.api;
  const sxq_operator* op = kernel->head.op;
  const size_t columns = (size_t)kernel->columns, bytes = sxq_row_bytes(op->layout, columns);
  sxq_tensor ids, packed, scale;
  OrtStatus* status = sxq_input(api, context, 0, &ids);
  if (!status) status = sxq_input(api, context, 1, &packed);
  if (!status) status = sxq_input(api, context, 2, &scale);
  if (status) return status;
  if (packed.rank != 2 || scale.rank != 1 || packed.shape[0] != scale.shape[0] || (size_t)packed.shape[1] != bytes) {
    return sxq_error(
        api, "%s of %zu columns takes packed codes (V, %zu) and scales (V); export the model again.", op->name,
        columns, bytes);
  }
  if ((ids.type != ORT_TYPE_INT64 && ids.type != ORT_TYPE_INT32) || ids.rank >= SXQ_MAX_RANK) {
    return sxq_error(
        api, "%s takes indices of int64 or int32 with fewer than %d axes.", op->name, (int)SXQ_MAX_RANK);
  }
  ids.shape[ids.rank] = kernel->columns;
  void* y = NULL;
  status = sxq_output(api, context, 0, ids.shape, ids.rank + 1, &y);
  if (status || !y) return status;
  for (size_t i = 0; i < ids.count; ++i) {
    const int64_t row = ids.type == ORT_TYPE_INT64 ? ((const int64_t*)ids.data)[i] : ((const int32_t*)ids.data)[i];
    if (row < 0 || row >= scale.shape[0]) {
      return sxq_error(
          api, "%s has %lld rows; there is no row %lld.", op->name, (long long)scale.shape[0], (long long)row);
    }
    const uint8_t* codes = (const uint8_t*)packed.data + (size_t)row * bytes;
    if (!sxq_codes_valid(op->layout, codes, 1, columns)) {
      return sxq_error(
          api, "%s: row %lld holds what is no code, so the file is damaged. Export the model again.", op->name,
          (long long)row);
    }
    float* out = (float*)y + i * columns;
    sxq_unpack_row(op->layout, op->table, codes, 0, columns, out);
    const float factor = ((const float*)scale.data)[row];
    for (size_t n = 0; n < columns; ++n) out[n] *= factor;
  }
  return NULL;
}
