/* LIF_... and StepLIF_..., IntLIF_... and StepIntLIF_...: layers of neurons without a recurrent layer. */
#include <stdlib.h>
#include <string.h>

#include "operators.h"

typedef struct {
  sxq_kernel head;
  int64_t shift; /* of fixed-point leaks */
} neuron_kernel;

OrtStatus* sxq_neuron_create(const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  neuron_kernel* made = malloc(sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  *made = (neuron_kernel){.head = {api, op, sxq_kernels_here()}};
  OrtStatus* status = op->spec.integer ? sxq_attribute_int(api, info, "shift", &made->shift) : NULL;
  if (!status && op->spec.integer && (made->shift < 1 || made->shift > 30)) {
    status = sxq_error(
        api, "%s: a shift of %lld; it is 1 to 30. Export the model again.", op->name, (long long)made->shift);
  }
  if (status) {
    free(made);
    return status;
  }
  *kernel = made;
  return NULL;
}

/* A state or a parameter, read as if expanded to one step's shape. */
typedef struct {
  const char* data; /* elements of 4 bytes, of either kind */
  size_t count;
  size_t rank;
  size_t shape[SXQ_MAX_RANK], stride[SXQ_MAX_RANK]; /* of the step; stride 0 along what is repeated */
} expanded;

static bool expand(const sxq_tensor* tensor, const int64_t* shape, size_t rank, expanded* out) {
  *out = (expanded){.data = tensor->data, .count = tensor->count, .rank = rank};
  if (tensor->rank > rank) {
    /* Only axes of length 1 may be too many, as of a parameter (1) for a step without axes. */
    for (size_t axis = 0; axis < tensor->rank; ++axis) {
      if (tensor->shape[axis] != 1) return false;
    }
    return true;
  }
  size_t stride = 1;
  for (size_t back = 0; back < rank; ++back) {
    const size_t axis = rank - 1 - back;
    out->shape[axis] = (size_t)shape[axis];
    if (back >= tensor->rank) continue;
    const int64_t length = tensor->shape[tensor->rank - 1 - back];
    if (length != shape[axis] && length != 1) return false;
    out->stride[axis] = length == 1 ? 0 : stride;
    stride *= (size_t)length;
  }
  return true;
}

/* Elements first .. first + count - 1 of the expanded tensor. */
static void read_expanded(const expanded* from, size_t first, size_t count, size_t size, void* to) {
  if (from->count == size) {
    memcpy(to, from->data + 4 * first, 4 * count);
    return;
  }
  /* Run by run of the last axis, along which the elements follow each other or are all the same. */
  const size_t last = from->count > 1 ? from->rank - 1 : 0;
  for (size_t i = 0, run; i < count; i += run) {
    size_t rest = first + i, place = 0;
    run = count - i;
    if (from->count > 1) {
      const size_t left = from->shape[last] - rest % from->shape[last];
      run = left < run ? left : run;
      for (size_t axis = from->rank; axis-- > 0;) {
        place += rest % from->shape[axis] * from->stride[axis];
        rest /= from->shape[axis];
      }
    }
    char* out = (char*)to + 4 * i;
    if (from->count > 1 && from->stride[last] == 1) {
      memcpy(out, from->data + 4 * place, 4 * run);
      continue;
    }
    uint32_t value;
    memcpy(&value, from->data + 4 * place, 4);
    for (size_t j = 0; j < run; ++j) memcpy(out + 4 * j, &value, 4);
  }
}

typedef struct {
  const neuron_kernel* kernel;
  size_t steps, size; /* neurons of a step */
  const void* x;
  void* spikes;
  void* after[SXQ_MAX_STATES];
  expanded state[SXQ_MAX_STATES], parameter[SXQ_MAX_PARAMETERS];
  size_t states, parameters;
} layer;

static void task(void* data, size_t index) {
  const layer* l = data;
  const size_t first = index * SXQ_BLOCK;
  const size_t count = l->size - first < SXQ_BLOCK ? l->size - first : SXQ_BLOCK;
  union {
    float real[SXQ_MAX_STATES + SXQ_MAX_PARAMETERS][SXQ_BLOCK];
    int32_t whole[SXQ_MAX_STATES + SXQ_MAX_PARAMETERS][SXQ_BLOCK];
  } values;
  const size_t states = l->states;
  for (size_t k = 0; k < states; ++k) read_expanded(&l->state[k], first, count, l->size, values.real[k]);
  for (size_t k = 0; k < l->parameters; ++k) {
    read_expanded(&l->parameter[k], first, count, l->size, values.real[states + k]);
  }
  const sxq_kernel* head = &l->kernel->head;
  if (head->op->spec.integer) {
    sxq_integer_block block = {
        .count = count, .steps = l->steps, .pitch = l->size, .x = (const int32_t*)l->x + first,
        .spikes = (uint8_t*)l->spikes + first, .state = values.whole,
        .parameter = (const int32_t(*)[SXQ_BLOCK])values.whole + states, .shift = (int)l->kernel->shift,
    };
    for (size_t k = 0; k < states; ++k) block.after[k] = l->after[k] ? (int32_t*)l->after[k] + first : NULL;
    head->kernels->integer_neurons(&head->op->spec, &block);
    return;
  }
  sxq_neuron_block block = {
      .count = count, .steps = l->steps, .pitch = l->size, .x = (const float*)l->x + first,
      .spikes = (float*)l->spikes + first, .state = values.real,
      .parameter = (const float(*)[SXQ_BLOCK])values.real + states,
  };
  for (size_t k = 0; k < states; ++k) block.after[k] = l->after[k] ? (float*)l->after[k] + first : NULL;
  head->kernels->neurons(&head->op->spec, &block);
}

OrtStatus* sxq_neuron_compute(void* self, OrtKernelContext* context) {
  const neuron_kernel* kernel = self;
  const OrtApi* api = kernel->head.api;
  const sxq_operator* op = kernel->head.op;
  sxq_tensor x, tensor;
  layer l = {.kernel = kernel, .states = sxq_spec_states(&op->spec)};
  l.parameters = (size_t)sxq_spec_parameters(&op->spec).count;
  OrtStatus* status = sxq_input(api, context, 0, &x);
  if (status) return status;
  const size_t time_axes = op->spec.step ? 0 : 1;
  if (x.rank < time_axes) return sxq_error(api, "%s takes a sequence (T, ...); got a number.", op->name);
  const int64_t* shape = x.shape + time_axes;
  const size_t rank = x.rank - time_axes;
  l.steps = time_axes ? (size_t)x.shape[0] : 1;
  if (!l.steps) return sxq_error(api, "%s takes at least one time step; got none.", op->name);
  l.size = 1;
  for (size_t axis = 0; axis < rank; ++axis) l.size *= (size_t)shape[axis];
  for (size_t k = 0; k < l.states + l.parameters; ++k) {
    expanded* to = k < l.states ? &l.state[k] : &l.parameter[k - l.states];
    status = sxq_input(api, context, 1 + k, &tensor);
    if (status) return status;
    if (!expand(&tensor, shape, rank, to)) {
      return sxq_error(
          api, "%s: its input %zu of %zu values does not broadcast to one time step of %zu neurons.", op->name, 1 + k,
          tensor.count, l.size);
    }
  }
  for (size_t k = 0; k < op->outputs; ++k) {
    void* data = NULL;
    status = sxq_output(api, context, k, x.shape, x.rank, &data);
    if (status) return status;
    if (k) l.after[k - 1] = data;
    else l.spikes = data;
  }
  if (!l.spikes && x.count) return sxq_error(api, "%s: nothing reads its spikes; remove the node.", op->name);
  if (x.count == 0) return NULL;
  l.x = x.data;
  return sxq_parallel(api, context, task, (l.size + SXQ_BLOCK - 1) / SXQ_BLOCK, &l);
}
