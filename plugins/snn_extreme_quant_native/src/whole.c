#include "whole.h"

#include <string.h>

OrtStatus* sxq_whole_shift(const OrtApi* api, const OrtKernelInfo* info, const char* operator_name, int* shift) {
  int64_t found = 0;
  OrtStatus* status = sxq_attribute_int(api, info, "shift", &found);
  if (!status && (found < 0 || found > SXQ_MOST_PLACES)) {
    status = sxq_error(
        api, "%s: a shift of %lld; it is 0 to %d. Export the model again.", operator_name, (long long)found,
        SXQ_MOST_PLACES);
  }
  *shift = (int)found;
  return status;
}

OrtStatus* sxq_whole_limit(const OrtApi* api, const OrtKernelInfo* info, const char* operator_name, int32_t* most) {
  int64_t found = 0;
  OrtStatus* status = sxq_attribute_int(api, info, "most", &found);
  if (!status && (found < 0 || found > INT32_MAX)) {
    status = sxq_error(
        api, "%s: a limit of %lld; it is 0 to %d. Export the model again.", operator_name, (long long)found, INT32_MAX);
  }
  *most = (int32_t)found;
  return status;
}

OrtStatus* sxq_whole_constants(
    const OrtApi* api, OrtKernelContext* context, const char* operator_name, size_t index, size_t channels,
    sxq_tensor* constants) {
  OrtStatus* status = sxq_input(api, context, index, constants);
  if (status || (constants->rank <= 1 && (constants->count == 1 || constants->count == channels))) return status;
  return sxq_error(
      api, "%s takes constants for each of the %zu channels, or one for all; input %zu has %zu on %zu axes.",
      operator_name, channels, index, constants->count, constants->rank);
}

bool sxq_same_shape(const sxq_tensor* a, const sxq_tensor* b) {
  return a->rank == b->rank && !memcmp(a->shape, b->shape, a->rank * sizeof *a->shape);
}
