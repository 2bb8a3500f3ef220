/* Inputs and outputs of weighted averages over tokens, of floats or whole numbers. */
#ifndef SXQ_AVERAGES_H
#define SXQ_AVERAGES_H

#include "operators.h"

typedef struct {
  const void *key, *value;          /* (L, B, d) */
  const void *decay, *bonus;        /* (d) */
  void* average;                    /* (L, B, d) */
  void *numerator, *denominator;    /* (1, B, d), changed token by token */
  size_t tokens, length, channels;  /* L, B d, d */
  void* spare;                      /* what nothing reads has its place here */
} sxq_averages;

/* Check the inputs against each other and make the outputs; the sums begin as those that come in. `sum_bytes` are those of
 * a sum; keys and averages have 4. */
OrtStatus* sxq_averages_open(
    const OrtApi* api, OrtKernelContext* context, const char* operator_name, size_t sum_bytes, sxq_averages* averages);

void sxq_averages_close(sxq_averages* averages);

#endif
