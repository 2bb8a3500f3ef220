#include "averages.h"

#include <stdlib.h>
#include <string.h>

#include "whole.h"

/* The outputs; those that nothing reads lie in memory of our own. */
static OrtStatus* open_outputs(
    const OrtApi* api, OrtKernelContext* context, const char* name, const sxq_tensor* key, const sxq_tensor* sums,
    size_t bytes, sxq_averages* a) {
  OrtStatus* status = sxq_output(api, context, 0, key->shape, 3, &a->average);
  if (!status) status = sxq_output(api, context, 1, sums->shape, 3, &a->numerator);
  if (!status) status = sxq_output(api, context, 2, sums->shape, 3, &a->denominator);
  if (status || (a->average && a->numerator && a->denominator)) return status;
  char* spare = a->spare = malloc(2 * bytes + key->count * sizeof(int32_t) + 1);
  if (!spare) return sxq_out_of_memory(api, name);
  if (!a->numerator) a->numerator = spare;
  if (!a->denominator) a->denominator = spare + bytes;
  if (!a->average) a->average = spare + 2 * bytes;
  return NULL;
}

OrtStatus* sxq_averages_open(
    const OrtApi* api, OrtKernelContext* context, const char* operator_name, size_t sum_bytes, sxq_averages* averages) {
  sxq_tensor in[6];
  for (size_t i = 0; i < 6; ++i) {
    OrtStatus* status = sxq_input(api, context, i, &in[i]);
    if (status) return status;
  }
  const sxq_tensor *key = &in[0], *decay = &in[2], *sums = &in[4];
  const bool fits = key->rank == 3 && sxq_same_shape(key, &in[1]) && decay->rank == 1 && sxq_same_shape(decay, &in[3]) &&
                    decay->shape[0] == key->shape[2] && sxq_same_shape(sums, &in[5]) && sums->rank == 3 &&
                    sums->shape[0] == 1 && sums->shape[1] == key->shape[1] && sums->shape[2] == key->shape[2];
  if (!fits) {
    return sxq_error(
        api, "%s takes keys and values (L, B, d), factors (d) and sums (1, B, d); these do not fit each other.",
        operator_name);
  }
  const size_t bytes = sums->count * sum_bytes;
  *averages = (sxq_averages){
      .key = key->data, .value = in[1].data, .decay = decay->data, .bonus = in[3].data,
      .tokens = (size_t)key->shape[0], .length = sums->count, .channels = (size_t)key->shape[2]};
  OrtStatus* status = open_outputs(api, context, operator_name, key, sums, bytes, averages);
  if (status || !bytes) return status;
  memcpy(averages->numerator, in[4].data, bytes);
  memcpy(averages->denominator, in[5].data, bytes);
  return NULL;
}

void sxq_averages_close(sxq_averages* averages) { free(averages->spare); }
