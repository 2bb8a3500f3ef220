/* A product and its neurons as one node give the same bytes as the two kernels one after the other. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

/* The fused operator for these neurons and this type of spikes. */
static const sxq_operator* fused_operator(const sxq_operator* neuron, int spikes) {
  for (size_t i = 0; i < registered_count; ++i) {
    const sxq_operator* op = (const sxq_operator*)registered[i];
    const bool states = op->outputs == 1 || op->spec.integer == neuron->spec.integer;
    if (op->kind == SXQ_FUSED && op->outputs == neuron->outputs && op->spikes == spikes && states) return op;
  }
  return NULL;
}

static bool same_spikes(const OrtValue* fused, const OrtValue* apart) {
  if (fused->rank != apart->rank || memcmp(fused->shape, apart->shape, fused->rank * sizeof *fused->shape)) return false;
  for (size_t i = 0; i < count_of(apart); ++i) {
    if (fused->type == apart->type) {
      if (memcmp((char*)fused->data + i * size_of(fused->type), (char*)apart->data + i * size_of(fused->type), size_of(fused->type))) return false;
    } else if ((float)((int8_t*)fused->data)[i] != ((float*)apart->data)[i]) {
      return false;
    }
  }
  return true;
}

void fuzz_fused(const sxq_operator* layer, const sxq_operator* neuron) {
  const bool sums = layer->kind == SXQ_MATMUL_INTEGER || layer->kind == SXQ_MATMUL_INTEGER_SIGNED;
  const sxq_spec* spec = &neuron->spec;
  if ((!sums && layer->kind != SXQ_LINEAR_INTEGER) || spec->integer != sums || layer->layout->bits > 4) return;
  const int64_t columns = 1 + draw(one_in(3) ? 600 : 40), inputs = one_in(20) ? 4200 : 1 + (int64_t)draw(60);
  int64_t shape[4] = {draw(one_in(4) ? 70 : 5), draw(4), 1 + draw(3), inputs};
  const size_t rank = one_in(2) ? 3 : 4;
  shape[rank - 1] = inputs;
  int64_t currents[4];
  memcpy(currents, shape, sizeof shape);
  currents[rank - 1] = columns;

  const int type = !sums ? ORT_TYPE_FLOAT : layer->kind == SXQ_MATMUL_INTEGER ? ORT_TYPE_UINT8 : ORT_TYPE_INT8;
  int spikes = spec->integer ? (spec->fire == SXQ_TERNARY ? ORT_TYPE_INT8 : ORT_TYPE_UINT8) : ORT_TYPE_FLOAT;
  if (!spec->integer && one_in(2) && !spec->graded && spec->fire != SXQ_COUNT) spikes = ORT_TYPE_INT8;
  const sxq_operator* op = fused_operator(neuron, spikes);
  OrtKernelInfo info = {
      .grid = 1.0f, .inverse_grid = 1.0f, .columns = columns, .shift = 1 + draw(30), .layer = layer->name,
      .neuron = neuron->name, .has_bias = !sums && one_in(2), .has_shape = one_in(2), .allowzero = one_in(2),
  };
  OrtKernelContext product = {0}, steps = {0}, context = {0};
  OrtValue* x = context.input[0] = product.input[0] = tensor(type, rank, shape);
  context.input[1] = product.input[1] = packed_codes(layer->layout, inputs, columns);
  if (type == ORT_TYPE_FLOAT) fill(x, one_in(4) ? 1 : one_in(2) ? 2 : 0);
  else for (size_t i = 0; i < count_of(x); ++i) ((int8_t*)x->data)[i] = (int8_t)(one_in(4) ? 1 - (int)draw(2 + (type == ORT_TYPE_INT8)) : 0);
  size_t next = 2;
  if (!sums) {
    context.input[next++] = product.input[2] = tensor(ORT_TYPE_FLOAT, 1, &columns);
    fill(product.input[2], 3);
  }
  OrtValue* bias = NULL;
  if (info.has_bias) {
    bias = context.input[next++] = tensor(ORT_TYPE_FLOAT, 1, &columns);
    fill(bias, 3);
  }
  if (info.has_shape) {
    const int64_t length = (int64_t)rank;
    OrtValue* wanted = context.input[next++] = tensor(ORT_TYPE_INT64, 1, &length);
    memcpy(wanted->data, currents, rank * sizeof *currents);
    if (one_in(3) && count_of(x)) ((int64_t*)wanted->data)[draw((uint32_t)rank)] = -1;
  }
  const size_t time_axes = spec->step ? 0 : 1;
  for (size_t i = 1; i < neuron->inputs; ++i) {
    const size_t axes = draw((uint32_t)(rank - time_axes) + 1);
    steps.input[i] = context.input[next++] = tensor(sums ? ORT_TYPE_INT32 : ORT_TYPE_FLOAT, axes, currents + rank - axes);
    fill(steps.input[i], 3);
  }
  if (op && run(layer, &info, &product)) {
    OrtValue* sums_of = &product.output[0];
    for (size_t i = 0; bias && i < count_of(sums_of); ++i) {
      ((float*)sums_of->data)[i] += ((float*)bias->data)[i % (size_t)columns];
    }
    steps.input[0] = sums_of;
    const int apart = run(neuron, &info, &steps);
    info.constant[1] = context.input[1];
    info.constant[2] = sums ? NULL : context.input[2];
    const int together = run(op, &info, &context);
    if (apart != together) fail(neuron->name, together ? "is not refused where it is fused" : "is refused where it is fused");
    for (size_t k = 0; apart && k < op->outputs; ++k) {
      if (!same_spikes(&context.output[k], &steps.output[k])) {
        fprintf(stderr, "output %zu, %s\n", k, layer->name);
        fail(neuron->name, "gives something else where it is fused");
      }
    }
    /* Damage is refused or does nothing. */
    for (size_t k = 0; k < op->outputs; ++k) {
      free(context.output[k].data);
      context.output[k].data = NULL;
    }
    damage(context.input[draw((uint32_t)next)]);
    memset(info.constant, 0, sizeof info.constant);
    run(op, &info, &context);
    steps.input[0] = NULL;
  }
  finish(&context);
  free(product.output[0].data);
  for (size_t i = 0; i < MOST; ++i) free(steps.output[i].data);
}
