#include "neuron_layer.h"

#include <string.h>

OrtStatus* sxq_neuron_shift(const OrtApi* api, const OrtKernelInfo* info, const sxq_operator* op, int* shift) {
  int64_t found = 1;
  OrtStatus* status = op->spec.integer ? sxq_attribute_int(api, info, "shift", &found) : NULL;
  if (!status && (found < 1 || found > 30)) {
    status = sxq_error(api, "%s: a shift of %lld; it is 1 to 30. Export the model again.", op->name, (long long)found);
  }
  *shift = (int)found;
  return status;
}

static bool expand(const sxq_tensor* tensor, const int64_t* shape, size_t rank, sxq_expanded* out) {
  *out = (sxq_expanded){.data = tensor->data, .count = tensor->count, .rank = rank};
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

static void repeat(const char* value, size_t count, void* to) {
  uint32_t bits;
  memcpy(&bits, value, 4);
  for (size_t j = 0; j < count; ++j) memcpy((char*)to + 4 * j, &bits, 4);
}

/* Elements first .. first + count - 1 of the expanded tensor. */
static void read_expanded(const sxq_expanded* from, size_t first, size_t count, size_t size, void* to) {
  if (from->count == size) {
    memcpy(to, from->data + 4 * first, 4 * count);
    return;
  }
  if (from->count == 1) {
    repeat(from->data, count, to);
    return;
  }
  /* Run by run of the last axis, along which the elements follow each other or are all the same. */
  const size_t last = from->rank - 1;
  for (size_t i = 0, run; i < count; i += run) {
    const size_t left = from->shape[last] - (first + i) % from->shape[last];
    size_t rest = first + i, place = 0;
    run = left < count - i ? left : count - i;
    for (size_t axis = from->rank; axis-- > 0;) {
      place += rest % from->shape[axis] * from->stride[axis];
      rest /= from->shape[axis];
    }
    char* out = (char*)to + 4 * i;
    if (from->stride[last] == 1) memcpy(out, from->data + 4 * place, 4 * run);
    else repeat(from->data + 4 * place, run, out);
  }
}

OrtStatus* sxq_neuron_layer_open(
    const OrtApi* api, OrtKernelContext* context, const sxq_operator* op, const int64_t* shape, size_t rank,
    size_t first, sxq_neuron_layer* layer) {
  const sxq_spec* spec = &op->spec;
  const size_t time_axes = spec->step ? 0 : 1;
  if (rank < time_axes) return sxq_error(api, "%s takes a sequence (T, ...); got a number.", op->name);
  layer->spec = spec;
  layer->states = sxq_spec_states(spec);
  layer->parameters = (size_t)sxq_spec_parameters(spec).count;
  layer->steps = time_axes ? (size_t)shape[0] : 1;
  if (!layer->steps) return sxq_error(api, "%s takes at least one time step; got none.", op->name);
  layer->size = 1;
  for (size_t axis = time_axes; axis < rank; ++axis) layer->size *= (size_t)shape[axis];
  for (size_t k = 0; k < layer->states + layer->parameters; ++k) {
    sxq_tensor tensor;
    sxq_expanded* to = k < layer->states ? &layer->state[k] : &layer->parameter[k - layer->states];
    OrtStatus* status = sxq_input(api, context, first + k, &tensor);
    if (status) return status;
    if (tensor.type != (spec->integer ? ORT_TYPE_INT32 : ORT_TYPE_FLOAT)) {
      return sxq_error(api, "%s: its input %zu has a wrong type.", op->name, 1 + k);
    }
    if (!expand(&tensor, shape + time_axes, rank - time_axes, to)) {
      return sxq_error(
          api, "%s: its input %zu of %zu values does not broadcast to one time step of %zu neurons.", op->name, 1 + k,
          tensor.count, layer->size);
    }
  }
  for (size_t k = 0; k < op->outputs; ++k) {
    void* data = NULL;
    OrtStatus* status = sxq_output(api, context, k, shape, rank, &data);
    if (status) return status;
    if (k) layer->after[k - 1] = data;
    else layer->spikes = data;
  }
  if (!layer->spikes && layer->size && layer->steps) {
    return sxq_error(api, "%s: nothing reads its spikes; remove the node.", op->name);
  }
  return NULL;
}

void sxq_neuron_values_read(const sxq_neuron_layer* layer, size_t first, size_t count, sxq_neuron_values* values) {
  for (size_t k = 0; k < layer->states; ++k) {
    read_expanded(&layer->state[k], first, count, layer->size, values->state.real[k]);
  }
  for (size_t k = 0; k < layer->parameters; ++k) {
    const sxq_expanded* from = &layer->parameter[k];
    if (from->count != 1) read_expanded(from, first, count, layer->size, values->parameter.real[k]);
    else if (!values->filled) repeat(from->data, SXQ_BLOCK, values->parameter.real[k]);
  }
  values->filled = true;
}

void sxq_neuron_values_run(
    const sxq_neuron_layer* layer, size_t first, size_t count, size_t from, size_t steps, const void* x, size_t pitch,
    sxq_neuron_values* values) {
  const size_t at = from * layer->size + first;
  if (layer->spec->integer) {
    sxq_integer_block block = {
        .count = count, .steps = steps, .pitch = layer->size, .x_pitch = pitch, .x = x,
        .spikes = (uint8_t*)layer->spikes + at, .state = values->state.whole,
        .parameter = (const int32_t(*)[SXQ_BLOCK])values->parameter.whole, .shift = layer->shift,
    };
    for (size_t k = 0; k < layer->states; ++k) block.after[k] = layer->after[k] ? (int32_t*)layer->after[k] + at : NULL;
    layer->kernels->integer_neurons(layer->spec, &block);
    return;
  }
  sxq_neuron_block block = {
      .count = count, .steps = steps, .pitch = layer->size, .x_pitch = pitch, .x = x,
      .spikes = layer->bytes ? NULL : (float*)layer->spikes + at,
      .bytes = layer->bytes ? (int8_t*)layer->spikes + at : NULL, .state = values->state.real,
      .parameter = (const float(*)[SXQ_BLOCK])values->parameter.real,
  };
  for (size_t k = 0; k < layer->states; ++k) block.after[k] = layer->after[k] ? (float*)layer->after[k] + at : NULL;
  layer->kernels->neurons(layer->spec, &block);
}

typedef struct {
  const sxq_neuron_layer* layer;
  const char* x;
} whole;

static void task(void* data, size_t index) {
  const whole* all = data;
  const sxq_neuron_layer* layer = all->layer;
  const size_t first = index * SXQ_BLOCK, rest = layer->size - first;
  const size_t count = rest < SXQ_BLOCK ? rest : SXQ_BLOCK;
  sxq_neuron_values values;
  values.filled = false;
  sxq_neuron_values_read(layer, first, count, &values);
  sxq_neuron_values_run(layer, first, count, 0, layer->steps, all->x + 4 * first, layer->size, &values);
}

OrtStatus* sxq_neuron_layer_run(
    const OrtApi* api, const OrtKernelContext* context, const sxq_neuron_layer* layer, const void* x) {
  whole all = {layer, x};
  if (layer->size == 0 || layer->steps == 0) return NULL;
  return sxq_parallel(api, context, task, (layer->size + SXQ_BLOCK - 1) / SXQ_BLOCK, &all);
}
