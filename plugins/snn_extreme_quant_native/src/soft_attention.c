/* FusedSoftAttention: softmax(q k' + mask) v with real queries and keys and values that are spikes or counts, as one
 * node (docs/native.md). */
#include "soft_attention.h"

#include <stdlib.h>
#include <string.h>

/* Keys whose powers of two sum up to less than 2^32. */
enum { MOST_KEYS = 65535 };

typedef struct {
  sxq_kernel head;
  bool shift, counts;
} soft_kernel;

OrtStatus* sxq_soft_attention_create(const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  soft_kernel* made = calloc(1, sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  made->head = (sxq_kernel){api, op, sxq_kernels_here()};
  OrtStatus* status = sxq_attribute_flag(api, info, "shift", &made->shift);
  if (!status) status = sxq_attribute_flag(api, info, "counts", &made->counts);
  if (status) {
    free(made);
    return status;
  }
  *kernel = made;
  return NULL;
}

/* Queries, keys and values; those in bytes have their scale and zero behind the mask. */
static OrtStatus* read_inputs(
    const soft_kernel* kernel, OrtKernelContext* context, sxq_tensor tensor[4], sxq_soft_attention* a) {
  const OrtApi* api = kernel->head.api;
  const char* name = kernel->head.op->name;
  for (size_t i = 0; i < 4; ++i) {
    OrtStatus* status = sxq_input(api, context, i, &tensor[i]);
    if (status) return status;
    const bool bytes = kernel->counts && (i == 1 || i == 2);
    if (tensor[i].type != (bytes ? ORT_TYPE_UINT8 : ORT_TYPE_FLOAT)) {
      return sxq_error(api, "%s: input %zu has a wrong type. Run with native=False.", name, i);
    }
  }
  for (size_t i = 0; kernel->counts && i < 2; ++i) {
    sxq_attention_input* input = i ? &a->v : &a->k;
    sxq_tensor scale, zero;
    OrtStatus* status = sxq_input(api, context, 4 + 2 * i, &scale);
    if (!status) status = sxq_input(api, context, 5 + 2 * i, &zero);
    if (status) return status;
    if (scale.type != ORT_TYPE_FLOAT || scale.count != 1 || zero.type != ORT_TYPE_UINT8 || zero.count != 1) {
      return sxq_error(api, "%s takes one scale and one zero for all counts. Run with native=False.", name);
    }
    input->bytes = true;
    input->scale = *(const float*)scale.data;
    input->zero = *(const uint8_t*)zero.data;
  }
  return NULL;
}

/* The common length of an axis of these lengths, of which those of 1 are repeated; -1 if there is none. */
static int64_t broadcast(int64_t a, int64_t b) { return a == b || b == 1 ? a : a == 1 ? b : -1; }

/* How axis `back`, counted from the last one, of queries, keys and values is called in the shape of the scores. */
static int64_t length_of(const sxq_tensor* tensor, size_t back) {
  return back < tensor->rank ? tensor->shape[tensor->rank - 1 - back] : 1;
}

/* Strides of (..., S, heads, channels). */
static void fill_strides(const sxq_tensor* tensor, size_t leading, sxq_attention_input* input) {
  input->data = tensor->data;
  input->width = (size_t)length_of(tensor, 0);
  size_t stride = input->width;
  input->head = length_of(tensor, 1) == 1 ? 0 : stride;
  stride *= (size_t)length_of(tensor, 1);
  input->row = length_of(tensor, 2) == 1 ? 0 : stride;
  stride *= (size_t)length_of(tensor, 2);
  for (size_t back = 3; back < 3 + leading; ++back) {
    input->lead[leading + 2 - back] = length_of(tensor, back) == 1 ? 0 : stride;
    stride *= (size_t)length_of(tensor, back);
  }
}

/* Shapes (..., S, heads, channels) of q, k and v are broadcast as by MatMul, the mask as by Add; `shape` gets the
 * result's. */
static OrtStatus* open(
    const soft_kernel* kernel, OrtKernelContext* context, sxq_soft_attention* a, int64_t* shape, size_t* rank) {
  const OrtApi* api = kernel->head.api;
  const char* name = kernel->head.op->name;
  sxq_tensor tensor[4];
  OrtStatus* status = read_inputs(kernel, context, tensor, a);
  if (status) return status;
  const sxq_tensor *q = &tensor[0], *k = &tensor[1], *v = &tensor[2], *mask = &tensor[3];
  *rank = q->rank;
  for (size_t i = 1; i < 4; ++i) {
    if (tensor[i].rank > *rank) *rank = tensor[i].rank;
  }
  bool fits = q->rank >= 3 && k->rank >= 3 && v->rank >= 3 && length_of(q, 0) == length_of(k, 0);
  /* Axes of scores (..., heads, queries, keys). */
  const int64_t keys = broadcast(length_of(k, 2), length_of(mask, 0));
  const int64_t queries = broadcast(length_of(q, 2), length_of(mask, 1));
  fits = fits && keys >= 0 && queries >= 0 && keys == length_of(v, 2);
  for (size_t back = 2; fits && back < *rank; ++back) {
    const size_t own = back == 2 ? 1 : back;
    const int64_t with_keys = broadcast(length_of(q, own), length_of(k, own));
    const int64_t scores = with_keys < 0 ? -1 : broadcast(with_keys, length_of(mask, back));
    const int64_t all = scores < 0 ? -1 : broadcast(scores, length_of(v, own));
    fits = all >= 0;
    shape[*rank - 1 - own] = all;
  }
  if (!fits) {
    return sxq_error(
        api, "%s: queries, keys, values and mask have shapes that do not fit together. Run with native=False.", name);
  }
  if (keys > MOST_KEYS) return sxq_error(api, "%s takes up to %d keys; got %lld.", name, MOST_KEYS, (long long)keys);
  shape[*rank - 3] = queries;
  shape[*rank - 1] = length_of(v, 0);
  a->leading = *rank - 3;
  a->places = 1;
  for (size_t axis = 0; axis < a->leading; ++axis) a->places *= a->shape[axis] = (size_t)shape[axis];
  a->queries = (size_t)queries;
  a->keys = (size_t)keys;
  a->heads = (size_t)shape[*rank - 2];
  fill_strides(q, a->leading, &a->q);
  fill_strides(k, a->leading, &a->k);
  fill_strides(v, a->leading, &a->v);
  a->mask = mask->data;
  size_t stride = 1;
  for (size_t back = 0; back < *rank; ++back) {
    const size_t own = length_of(mask, back) == 1 ? 0 : stride;
    if (back == 0) a->mask_key = own;
    else if (back == 1) a->mask_query = own;
    else if (back == 2) a->mask_head = own;
    else a->mask_lead[*rank - 1 - back] = own;
    stride *= (size_t)length_of(mask, back);
  }
  return NULL;
}

OrtStatus* sxq_soft_attention_compute(void* self, OrtKernelContext* context) {
  const soft_kernel* kernel = self;
  const OrtApi* api = kernel->head.api;
  const char* name = kernel->head.op->name;
  int64_t shape[SXQ_MAX_RANK];
  size_t rank = 0;
  void* y = NULL;
  sxq_soft_attention a = {.kernels = kernel->head.kernels, .shift = kernel->shift};
  OrtStatus* status = open(kernel, context, &a, shape, &rank);
  if (!status) status = sxq_output(api, context, 0, shape, rank, &y);
  const size_t tasks = a.places * a.heads;
  if (status || !y || !tasks || !a.queries || !a.v.width) return status;
  if (!a.keys) return sxq_error(api, "%s takes at least one key; got none.", name);
  a.y = y;
  status = sxq_parallel(api, context, sxq_soft_attention_task, tasks, &a);
  return !status && atomic_load(&a.failed) ? sxq_out_of_memory(api, name) : status;
}
