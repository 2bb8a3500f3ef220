/* <packing>Embedding and <packing>EmbeddingInteger: rows of codes times the rows' scales or multipliers. */
#include <stdlib.h>

#include "operators.h"

typedef struct {
  sxq_kernel head;
  int64_t columns;
  sxq_fives_table* fives; /* of codes five to a byte; NULL for others */
} embedding_kernel;

void sxq_embedding_destroy(void* kernel) {
  free(((embedding_kernel*)kernel)->fives);
  free(kernel);
}

OrtStatus* sxq_embedding_create(const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  embedding_kernel* made = calloc(1, sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  made->head = (sxq_kernel){api, op, sxq_kernels_here()};
  size_t length = 1;
  OrtStatus* status = sxq_attribute_ints(api, info, "columns", &made->columns, &length);
  if (!status && (length != 1 || made->columns < 0)) {
    status = sxq_error(api, "%s needs one number of columns; export the model again.", op->name);
  }
  if (!status && op->layout->fives) {
    made->fives = malloc(sizeof *made->fives);
    if (made->fives) sxq_fill_fives(made->fives);
    else status = sxq_out_of_memory(api, op->name);
  }
  if (status) {
    sxq_embedding_destroy(made);
    return status;
  }
  *kernel = made;
  return NULL;
}

/* What a run looks up. */
typedef struct {
  const embedding_kernel* kernel;
  sxq_tensor ids, packed, factor;
  uint8_t* repacked; /* room for a row as kernels read it, where the file keeps it otherwise */
} lookup;

static OrtStatus* read_inputs(const embedding_kernel* kernel, OrtKernelContext* context, lookup* l) {
  const OrtApi* api = kernel->head.api;
  const sxq_operator* op = kernel->head.op;
  const size_t bytes = sxq_file_row_bytes(op->layout, (size_t)kernel->columns);
  OrtStatus* status = sxq_input(api, context, 0, &l->ids);
  if (!status) status = sxq_input(api, context, 1, &l->packed);
  if (!status) status = sxq_input(api, context, 2, &l->factor);
  if (status) return status;
  if (l->packed.rank != 2 || l->factor.rank != 1 || l->packed.shape[0] != l->factor.shape[0] ||
      (size_t)l->packed.shape[1] != bytes) {
    return sxq_error(
        api, "%s of %zu columns takes packed codes (V, %zu) and one factor for each of the V rows; export the model"
        " again.", op->name, (size_t)kernel->columns, bytes);
  }
  if ((l->ids.type != ORT_TYPE_INT64 && l->ids.type != ORT_TYPE_INT32) || l->ids.rank >= SXQ_MAX_RANK) {
    return sxq_error(
        api, "%s takes indices of int64 or int32 with fewer than %d axes.", op->name, (int)SXQ_MAX_RANK);
  }
  return NULL;
}

/* A row's codes as the kernels read them; NULL if a byte holds what is no code. */
static const uint8_t* codes_of_row(const lookup* l, size_t row) {
  const sxq_layout* layout = l->kernel->head.op->layout;
  const size_t columns = (size_t)l->kernel->columns;
  const uint8_t* codes = (const uint8_t*)l->packed.data + row * sxq_file_row_bytes(layout, columns);
  if (!l->repacked) return sxq_codes_valid(layout, codes, 1, columns) ? codes : NULL;
  return sxq_repack(layout, l->kernel->fives, codes, 1, columns, l->repacked) ? l->repacked : NULL;
}

/* y[i] = codes of row ids[i] times the row's factor, place by place of the output. */
static OrtStatus* look_up(const lookup* l, size_t i, void* y) {
  const sxq_kernel* head = &l->kernel->head;
  const size_t columns = (size_t)l->kernel->columns;
  const int64_t rows = l->factor.shape[0];
  const void* ids = l->ids.data;
  const int64_t row = l->ids.type == ORT_TYPE_INT64 ? ((const int64_t*)ids)[i] : ((const int32_t*)ids)[i];
  if (row < 0 || row >= rows) {
    return sxq_error(
        head->api, "%s has %lld rows; there is no row %lld.", head->op->name, (long long)rows, (long long)row);
  }
  const uint8_t* codes = codes_of_row(l, (size_t)row);
  if (!codes) {
    return sxq_error(
        head->api, "%s: row %lld holds what is no code, so the file is damaged. Export the model again.",
        head->op->name, (long long)row);
  }
  if (head->op->kind == SXQ_EMBEDDING) {
    float* out = (float*)y + i * columns;
    const float factor = ((const float*)l->factor.data)[row];
    sxq_unpack_row(head->op->layout, head->op->table, codes, 0, columns, out);
    for (size_t n = 0; n < columns; ++n) out[n] *= factor;
    return NULL;
  }
  enum { PART = 256 }; /* codes at a time; a byte begins at each part */
  const uint32_t factor = ((const uint32_t*)l->factor.data)[row];
  uint32_t* out = (uint32_t*)y + i * columns;
  float part[PART];
  for (size_t first = 0; first < columns; first += PART) {
    const size_t count = columns - first < PART ? columns - first : PART;
    sxq_unpack_row(head->op->layout, head->op->table, codes, first, count, part);
    for (size_t n = 0; n < count; ++n) out[first + n] = (uint32_t)(int32_t)part[n] * factor; /* wraps around */
  }
  return NULL;
}

OrtStatus* sxq_embedding_compute(void* self, OrtKernelContext* context) {
  const embedding_kernel* kernel = self;
  const sxq_kernel* head = &kernel->head;
  lookup l = {.kernel = kernel};
  OrtStatus* status = read_inputs(kernel, context, &l);
  if (status) return status;
  l.ids.shape[l.ids.rank] = kernel->columns;
  void* y = NULL;
  status = sxq_output(head->api, context, 0, l.ids.shape, l.ids.rank + 1, &y);
  if (status || !y) return status;
  if (sxq_is_repacked(head->op->layout)) {
    l.repacked = malloc(sxq_row_bytes(head->op->layout, (size_t)kernel->columns) + 1);
    if (!l.repacked) return sxq_out_of_memory(head->api, head->op->name);
  }
  for (size_t i = 0; !status && i < l.ids.count; ++i) status = look_up(&l, i, y);
  free(l.repacked);
  return status;
}
