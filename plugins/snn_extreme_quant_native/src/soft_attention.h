/* softmax(q k' + mask) v: what a run of FusedSoftAttention works on. */
#ifndef SXQ_SOFT_ATTENTION_H
#define SXQ_SOFT_ATTENTION_H

#include <stdatomic.h>

#include "operators.h"

/* Queries that go together; the fraction of probabilities. */
enum { SXQ_QUERIES = 32, SXQ_PROBABILITY_BITS = 15 };

/* Queries, keys or values of (..., S, heads, channels): floats, or counts n in bytes that stand for (n - zero) * scale.
 * Strides are in elements, and 0 along what is repeated. */
typedef struct {
  const void* data;
  bool bytes;
  int32_t zero;
  float scale;
  size_t width, row, head, lead[SXQ_MAX_RANK];
} sxq_attention_input;

typedef struct {
  const sxq_kernels* kernels;
  bool shift; /* a softmax by shifts */
  sxq_attention_input q, k, v;
  const float* mask;
  float* y;
  size_t places, heads, queries, keys; /* places: of the leading axes together */
  size_t leading;                      /* axes before queries */
  size_t shape[SXQ_MAX_RANK], mask_lead[SXQ_MAX_RANK]; /* of those axes; strides of the mask along them */
  size_t mask_head, mask_query, mask_key;              /* its other strides */
  atomic_bool failed;
} sxq_soft_attention;

/* The task of head `index % heads` at place `index / heads`. */
void sxq_soft_attention_task(void* attention, size_t index);

#endif
