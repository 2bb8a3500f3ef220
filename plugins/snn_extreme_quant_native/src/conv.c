/* <packing>Conv: the product of each window of the input with the codes. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "operators.h"
#include "product.h"

enum { AXES = 3, POSITIONS_A_TASK = 64 }; /* fewer axes are led by axes of length 1 */

typedef struct {
  int64_t kernel[AXES], stride[AXES], begin[AXES], end[AXES], dilation[AXES];
  size_t axes, groups, outputs, channels; /* channels-in of one group */
} geometry;

typedef struct {
  sxq_kernel head;
  geometry g;
  bool constant;
  sxq_weights weights;
  uint8_t* by_group; /* with several groups: each group's codes as a matrix */
} conv_kernel;

static OrtStatus* read_axes(
    const OrtApi* api, const OrtKernelInfo* info, const char* operator_name, const char* name, size_t axes,
    int64_t least, int64_t* to) {
  int64_t values[AXES];
  size_t length = axes;
  OrtStatus* status = sxq_attribute_ints(api, info, name, values, &length);
  if (status) return status;
  for (size_t i = 0; i < axes; ++i) {
    if (length != axes || values[i] < least || values[i] > INT32_MAX) {
      return sxq_error(api, "%s: attribute %s does not fit its %zu axes.", operator_name, name, axes);
    }
    to[AXES - axes + i] = values[i];
  }
  return NULL;
}

static OrtStatus* read_geometry(const OrtApi* api, const OrtKernelInfo* info, const char* name, geometry* g) {
  int64_t shape[2 + AXES], pads[2 * AXES], group = 0;
  size_t rank = 2 + AXES, pad_count = 2 * AXES;
  for (size_t i = 0; i < AXES; ++i) {
    g->kernel[i] = g->stride[i] = g->dilation[i] = 1;
    g->begin[i] = g->end[i] = 0;
  }
  OrtStatus* status = sxq_attribute_ints(api, info, "weight_shape", shape, &rank);
  if (!status) status = sxq_attribute_ints(api, info, "pads", pads, &pad_count);
  if (!status) status = sxq_attribute_int(api, info, "group", &group);
  if (status) return status;
  bool fits = rank >= 3 && rank <= 2 + AXES && pad_count == 2 * (rank - 2) && group > 0;
  for (size_t i = 0; fits && i < rank; ++i) fits = shape[i] > 0 && shape[i] <= INT32_MAX;
  for (size_t i = 0; fits && i < pad_count; ++i) fits = pads[i] >= 0 && pads[i] <= INT32_MAX;
  if (!fits || shape[0] % group) return sxq_error(api, "%s: its attributes do not fit each other.", name);
  g->axes = rank - 2;
  g->groups = (size_t)group;
  g->outputs = (size_t)shape[0];
  g->channels = (size_t)shape[1];
  for (size_t i = 0; i < g->axes; ++i) {
    g->kernel[AXES - g->axes + i] = shape[2 + i];
    g->begin[AXES - g->axes + i] = pads[i];
    g->end[AXES - g->axes + i] = pads[g->axes + i];
  }
  status = read_axes(api, info, name, "strides", g->axes, 1, g->stride);
  return status ? status : read_axes(api, info, name, "dilations", g->axes, 1, g->dilation);
}

static size_t window(const geometry* g) {
  return g->channels * (size_t)(g->kernel[0] * g->kernel[1] * g->kernel[2]);
}

static OrtStatus* check_shape(const OrtApi* api, const char* name, const geometry* g, const sxq_weights* weights) {
  if (weights->codes.rows == window(g) && weights->codes.columns == g->outputs) return NULL;
  return sxq_error(
      api, "%s: its codes are %zu x %zu, its attributes say %zu x %zu. Export the model again.", name,
      weights->codes.rows, weights->codes.columns, window(g), g->outputs);
}

/* Each group's codes, one after the other; NULL if memory ran out. */
static uint8_t* split_groups(const geometry* g, const sxq_codes* codes) {
  const size_t each = g->outputs / g->groups, bytes = codes->rows * sxq_row_bytes(codes->layout, each);
  uint8_t* all = malloc(bytes * g->groups + 1);
  for (size_t i = 0; all && i < g->groups; ++i) {
    sxq_take_columns(codes->layout, codes->packed, codes->rows, codes->columns, i * each, each, all + i * bytes);
  }
  return all;
}

void sxq_conv_destroy(void* kernel) {
  free(((conv_kernel*)kernel)->by_group);
  free(kernel);
}

OrtStatus* sxq_conv_create(const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  conv_kernel* made = calloc(1, sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  made->head = (sxq_kernel){api, op, sxq_kernels_here()};
  OrtStatus* status = read_geometry(api, info, op->name, &made->g);
  if (!status) status = sxq_constant_weights(api, info, op->name, op->layout, &made->constant, &made->weights);
  if (!status && made->constant) {
    status = check_shape(api, op->name, &made->g, &made->weights);
    if (!status && made->g.groups > 1) {
      made->by_group = split_groups(&made->g, &made->weights.codes);
      if (!made->by_group) status = sxq_out_of_memory(api, op->name);
    }
  }
  if (status) {
    sxq_conv_destroy(made);
    return status;
  }
  *kernel = made;
  return NULL;
}

typedef struct {
  const conv_kernel* kernel;
  sxq_weights weights;
  const uint8_t* by_group;
  const float* x;
  float* y;
  int64_t in[AXES], out[AXES];
  size_t positions, tasks_a_sample;
  atomic_bool failed;
} convolution;

/* The inputs that output position `at` sees in one group's channels, in the order of the codes' rows. */
static void gather(const convolution* c, const float* x, size_t at, float* to) {
  const geometry* g = &c->kernel->g;
  const int64_t place[AXES] = {
      (int64_t)at / (c->out[1] * c->out[2]) * g->stride[0] - g->begin[0],
      (int64_t)at / c->out[2] % c->out[1] * g->stride[1] - g->begin[1],
      (int64_t)at % c->out[2] * g->stride[2] - g->begin[2],
  };
  for (size_t channel = 0; channel < g->channels; ++channel) {
    for (int64_t a = 0; a < g->kernel[0]; ++a) {
      const int64_t i = place[0] + a * g->dilation[0];
      for (int64_t b = 0; b < g->kernel[1]; ++b) {
        const int64_t j = place[1] + b * g->dilation[1];
        const bool inside = i >= 0 && i < c->in[0] && j >= 0 && j < c->in[1];
        const float* row = x + ((int64_t)channel * c->in[0] + i) * c->in[1] * c->in[2] + j * c->in[2];
        for (int64_t d = 0; d < g->kernel[2]; ++d) {
          const int64_t k = place[2] + d * g->dilation[2];
          *to++ = inside && k >= 0 && k < c->in[2] ? row[k] : 0.0f;
        }
      }
    }
  }
}

static void task(void* data, size_t index) {
  convolution* c = data;
  const geometry* g = &c->kernel->g;
  const sxq_codes* all = &c->weights.codes;
  const size_t sample = index / c->tasks_a_sample;
  const size_t first = index % c->tasks_a_sample * POSITIONS_A_TASK;
  const size_t positions = c->positions - first < POSITIONS_A_TASK ? c->positions - first : POSITIONS_A_TASK;
  const size_t each = g->outputs / g->groups, in_size = (size_t)(c->in[0] * c->in[1] * c->in[2]);
  const size_t bytes = all->rows * sxq_row_bytes(all->layout, each);
  float* windows = malloc((all->rows + each) * POSITIONS_A_TASK * sizeof *windows);
  if (!windows) {
    atomic_store(&c->failed, true);
    return;
  }
  float* sums = windows + all->rows * POSITIONS_A_TASK;
  for (size_t group = 0; group < g->groups; ++group) {
    const float* x = c->x + (sample * g->groups + group) * g->channels * in_size;
    for (size_t p = 0; p < positions; ++p) gather(c, x, first + p, windows + p * all->rows);
    sxq_weights weights = c->weights;
    weights.scale += group * each;
    if (c->by_group) {
      weights.codes.packed = c->by_group + group * bytes;
      weights.codes.columns = each;
    }
    if (!sxq_product(
            c->kernel->head.kernels, &weights, c->kernel->head.op->table, 1.0f, 1.0f, windows, positions, sums)) {
      atomic_store(&c->failed, true);
      break;
    }
    float* y = c->y + (sample * g->outputs + group * each) * c->positions + first;
    for (size_t n = 0; n < each; ++n) {
      for (size_t p = 0; p < positions; ++p) y[n * c->positions + p] = sums[p * each + n];
    }
  }
  free(windows);
}

/* The output's lengths; false where a window is longer than the padded input. */
static bool output_lengths(const geometry* g, convolution* c) {
  for (size_t i = 0; i < AXES; ++i) {
    const int64_t reach = (g->kernel[i] - 1) * g->dilation[i] + 1;
    const int64_t room = c->in[i] + g->begin[i] + g->end[i] - reach;
    if (room < 0) return false;
    c->out[i] = room / g->stride[i] + 1;
  }
  c->positions = (size_t)(c->out[0] * c->out[1] * c->out[2]);
  return true;
}

OrtStatus* sxq_conv_compute(void* self, OrtKernelContext* context) {
  const conv_kernel* kernel = self;
  const OrtApi* api = kernel->head.api;
  const geometry* g = &kernel->g;
  const char* name = kernel->head.op->name;
  convolution c = {.kernel = kernel, .weights = kernel->weights, .by_group = kernel->by_group, .in = {1, 1, 1}};
  sxq_tensor x;
  OrtStatus* status = sxq_input(api, context, 0, &x);
  if (!status && !kernel->constant) {
    status = sxq_run_weights(api, context, name, kernel->head.op->layout, &c.weights);
    if (!status) status = check_shape(api, name, g, &c.weights);
  }
  if (status) return status;
  if (x.rank != g->axes + 2 || (size_t)x.shape[1] != g->channels * g->groups) {
    return sxq_error(
        api, "%s takes an input (B, %zu, ...) with %zu axes behind the channels; got %zu axes in all.", name,
        g->channels * g->groups, g->axes, x.rank);
  }
  for (size_t i = 0; i < g->axes; ++i) c.in[AXES - g->axes + i] = x.shape[2 + i];
  if (!output_lengths(g, &c)) return sxq_error(api, "%s: its kernel is larger than the padded input.", name);
  x.shape[1] = (int64_t)g->outputs;
  for (size_t i = 0; i < g->axes; ++i) x.shape[2 + i] = c.out[AXES - g->axes + i];
  void* y = NULL;
  status = sxq_output(api, context, 0, x.shape, x.rank, &y);
  if (status || !y || x.shape[0] == 0) return status;
  uint8_t* split = NULL;
  if (g->groups > 1 && !kernel->constant) {
    split = split_groups(g, &c.weights.codes);
    if (!split) return sxq_out_of_memory(api, name);
    c.by_group = split;
  }
  c.x = x.data;
  c.y = y;
  c.tasks_a_sample = (c.positions + POSITIONS_A_TASK - 1) / POSITIONS_A_TASK;
  status = sxq_parallel(api, context, task, (size_t)x.shape[0] * c.tasks_a_sample, &c);
  free(split);
  return status || !atomic_load(&c.failed) ? status : sxq_out_of_memory(api, name);
}
