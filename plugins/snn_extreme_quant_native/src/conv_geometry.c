#include "conv_geometry.h"

static OrtStatus* read_axes(
    const OrtApi* api, const OrtKernelInfo* info, const char* operator_name, const char* name, size_t axes,
    int64_t least, int64_t* to) {
  int64_t values[SXQ_AXES];
  size_t length = axes;
  OrtStatus* status = sxq_attribute_ints(api, info, name, values, &length);
  if (status) return status;
  for (size_t i = 0; i < axes; ++i) {
    if (length != axes || values[i] < least || values[i] > INT32_MAX) {
      return sxq_error(api, "%s: attribute %s does not fit its %zu axes.", operator_name, name, axes);
    }
    to[SXQ_AXES - axes + i] = values[i];
  }
  return NULL;
}

OrtStatus* sxq_read_geometry(const OrtApi* api, const OrtKernelInfo* info, const char* name, sxq_geometry* g) {
  int64_t shape[2 + SXQ_AXES], pads[2 * SXQ_AXES], group = 0;
  size_t rank = 2 + SXQ_AXES, pad_count = 2 * SXQ_AXES;
  for (size_t i = 0; i < SXQ_AXES; ++i) {
    g->kernel[i] = g->stride[i] = g->dilation[i] = 1;
    g->begin[i] = g->end[i] = 0;
  }
  OrtStatus* status = sxq_attribute_ints(api, info, "weight_shape", shape, &rank);
  if (!status) status = sxq_attribute_ints(api, info, "pads", pads, &pad_count);
  if (!status) status = sxq_attribute_int(api, info, "group", &group);
  if (status) return status;
  bool fits = rank >= 3 && rank <= 2 + SXQ_AXES && pad_count == 2 * (rank - 2) && group > 0;
  for (size_t i = 0; fits && i < rank; ++i) fits = shape[i] > 0 && shape[i] <= INT32_MAX;
  for (size_t i = 0; fits && i < pad_count; ++i) fits = pads[i] >= 0 && pads[i] <= INT32_MAX;
  if (!fits || shape[0] % group) return sxq_error(api, "%s: its attributes do not fit each other.", name);
  g->axes = rank - 2;
  g->groups = (size_t)group;
  g->outputs = (size_t)shape[0];
  g->channels = (size_t)shape[1];
  for (size_t i = 0; i < g->axes; ++i) {
    g->kernel[SXQ_AXES - g->axes + i] = shape[2 + i];
    g->begin[SXQ_AXES - g->axes + i] = pads[i];
    g->end[SXQ_AXES - g->axes + i] = pads[g->axes + i];
  }
  status = read_axes(api, info, name, "strides", g->axes, 1, g->stride);
  return status ? status : read_axes(api, info, name, "dilations", g->axes, 1, g->dilation);
}

bool sxq_output_lengths(const sxq_geometry* g, const int64_t* in, int64_t* out) {
  for (size_t i = 0; i < SXQ_AXES; ++i) {
    const int64_t room = in[i] + g->begin[i] + g->end[i] - sxq_reach(g, i);
    if (room < 0) return false;
    out[i] = room / g->stride[i] + 1;
  }
  return true;
}
