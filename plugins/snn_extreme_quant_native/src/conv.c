/* <packing>Conv, <packing>ConvInteger and <packing>ConvIntegerSigned: windows of the input times the codes. */
#include <stdatomic.h>
#include <stdlib.h>

#include "convolution.h"
#include "operators.h"

enum { POSITIONS_A_BAND = 256 };

typedef struct {
  sxq_kernel head;
  sxq_geometry g;
  bool constant; /* whether the codes and scales below are set */
  uint8_t* codes;
  const float* scale;
} conv_kernel;

static bool is_integer(const sxq_operator* op) { return op->kind != SXQ_CONV; }

static OrtStatus* check_shape(const OrtApi* api, const char* name, const sxq_geometry* g, const sxq_codes* codes) {
  if (codes->rows == sxq_window(g) && codes->columns == g->outputs) return NULL;
  return sxq_error(
      api, "%s: its codes are %zu x %zu, its attributes say %zu x %zu. Export the model again.", name, codes->rows,
      codes->columns, sxq_window(g), g->outputs);
}

/* The codes of all groups, copied, from checked tensors. */
static OrtStatus* take_codes(
    const conv_kernel* kernel, const sxq_tensor* packed, const sxq_tensor* scale, uint8_t** copy) {
  const OrtApi* api = kernel->head.api;
  const sxq_operator* op = kernel->head.op;
  sxq_weights weights;
  OrtStatus* status =
      is_integer(op) ? sxq_check_codes(api, op->name, op->layout, packed, kernel->g.outputs, &weights.codes)
                     : sxq_check_weights(api, op->name, op->layout, packed, scale, &weights);
  if (status) return status;
  status = check_shape(api, op->name, &kernel->g, &weights.codes);
  if (!status) {
    *copy = sxq_codes_by_tap(&kernel->g, &weights.codes);
    if (!*copy) status = sxq_out_of_memory(api, op->name);
  }
  sxq_release_codes(&weights.codes);
  return status;
}

void sxq_conv_destroy(void* kernel) {
  free(((conv_kernel*)kernel)->codes);
  free(kernel);
}

OrtStatus* sxq_conv_create(const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  conv_kernel* made = calloc(1, sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  made->head = (sxq_kernel){api, op, sxq_kernels_here()};
  sxq_tensor packed, scale = {0};
  bool scale_found = true;
  OrtStatus* status = sxq_read_geometry(api, info, op->name, &made->g);
  if (!status) status = sxq_constant_input(api, info, 1, &made->constant, &packed);
  if (!status && !is_integer(op)) status = sxq_constant_input(api, info, 2, &scale_found, &scale);
  made->constant &= scale_found;
  if (!status && made->constant) {
    status = take_codes(made, &packed, &scale, &made->codes);
    made->scale = scale.data;
  }
  if (status) {
    sxq_conv_destroy(made);
    return status;
  }
  *kernel = made;
  return NULL;
}

typedef struct {
  sxq_convolution c;
  size_t axis, bands;
  int64_t a_band; /* outputs along the axis */
  atomic_bool failed;
} work;

static void task(void* data, size_t index) {
  work* w = data;
  sxq_band band = {.sample = index / w->bands, .axis = w->axis};
  band.first = (int64_t)(index % w->bands) * w->a_band;
  band.last = band.first + w->a_band < w->c.out[w->axis] ? band.first + w->a_band : w->c.out[w->axis];
  for (; band.group < w->c.g->groups; ++band.group) {
    sxq_outcome outcome = sxq_convolve_spikes(&w->c, &band);
    if (outcome == SXQ_OTHER_INPUTS) outcome = sxq_convolve_windows(&w->c, &band);
    if (outcome != SXQ_DONE) atomic_store(&w->failed, true);
  }
}

/* Cut the outputs along the first axis that has several. */
static void cut(work* w) {
  const int64_t* out = w->c.out;
  while (w->axis + 1 < SXQ_AXES && out[w->axis] == 1) ++w->axis;
  int64_t inner = 1;
  for (size_t axis = w->axis + 1; axis < SXQ_AXES; ++axis) inner *= out[axis];
  w->a_band = (POSITIONS_A_BAND + inner - 1) / inner;
  w->bands = (size_t)((out[w->axis] + w->a_band - 1) / w->a_band);
}

OrtStatus* sxq_conv_compute(void* self, OrtKernelContext* context) {
  const conv_kernel* kernel = self;
  const sxq_operator* op = kernel->head.op;
  const OrtApi* api = kernel->head.api;
  const sxq_geometry* g = &kernel->g;
  sxq_tensor x, packed, scale = {0};
  work w = {
      .c = {.kernels = kernel->head.kernels, .table = op->table, .g = g, .codes = kernel->codes, .layout = op->layout,
            .scale = kernel->scale, .is_signed = op->kind == SXQ_CONV_INTEGER_SIGNED, .in = {1, 1, 1}}};
  OrtStatus* status = sxq_input(api, context, 0, &x);
  if (status) return status;
  if (x.rank != g->axes + 2 || (size_t)x.shape[1] != g->channels * g->groups) {
    return sxq_error(
        api, "%s takes an input (B, %zu, ...) with %zu axes behind the channels; got %zu axes in all.", op->name,
        g->channels * g->groups, g->axes, x.rank);
  }
  for (size_t i = 0; i < g->axes; ++i) w.c.in[SXQ_AXES - g->axes + i] = x.shape[2 + i];
  if (!sxq_output_lengths(g, w.c.in, w.c.out)) {
    return sxq_error(api, "%s: its kernel is larger than the padded input.", op->name);
  }
  uint8_t* copy = NULL;
  if (!kernel->constant) {
    status = sxq_input(api, context, 1, &packed);
    if (!status && !is_integer(op)) status = sxq_input(api, context, 2, &scale);
    if (!status) status = take_codes(kernel, &packed, &scale, &copy);
    if (status) return status;
    w.c.codes = copy;
    w.c.scale = scale.data;
  }
  x.shape[1] = (int64_t)g->outputs;
  for (size_t i = 0; i < g->axes; ++i) x.shape[2 + i] = w.c.out[SXQ_AXES - g->axes + i];
  status = sxq_output(api, context, 0, x.shape, x.rank, &w.c.y);
  if (!status && w.c.y && x.shape[0] > 0) {
    w.c.x = x.data;
    cut(&w);
    status = sxq_parallel(api, context, task, (size_t)x.shape[0] * w.bands, &w);
  }
  free(copy);
  return status || !atomic_load(&w.failed) ? status : sxq_out_of_memory(api, op->name);
}
