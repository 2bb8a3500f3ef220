/* Runs every kernel over random shapes and damaged tensors, behind a runtime made up here.
 *
 * Compiled with the address and undefined-behaviour sanitizers by test_sanitizers.py. Tensors are allocated to the
 * byte, so that a read past one is seen; sums of layers are compared with plain loops. Usage: fuzz SEED ROUNDS.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base);

static size_t errors;

void fail(const char* name, const char* what) {
  fprintf(stderr, "%s: %s\n", name, what);
  exit(1);
}

int run(const sxq_operator* op, OrtKernelInfo* info, OrtKernelContext* context) {
  void* kernel = NULL;
  context->op = &op->base;
  if (one_in(4)) memset(info->constant, 0, sizeof info->constant);
  OrtStatus* status = op->base.create_kernel_v2(&op->base, &api, info, &kernel);
  if (!status) {
    status = op->base.kernel_compute_v2(kernel, context);
    op->base.kernel_destroy(kernel);
  }
  const int ran = !status;
  if (status) {
    ++errors;
    if (!*status->message) fail(op->name, "an error without a message");
    free(status);
  }
  return ran;
}

void finish(OrtKernelContext* context) {
  for (size_t i = 0; i < MOST; ++i) {
    drop(context->input[i]);
    free(context->output[i].data);
  }
}

/* The kinds -------------------------------------------------------------------------------------------------------- */

static void fuzz_linear(const sxq_operator* op) {
  const int64_t rows = one_in(20) ? 4100 : (int64_t)draw(one_in(4) ? 700 : 40);
  const int64_t columns = (int64_t)draw(one_in(3) ? 1200 : 70), batch = (int64_t)draw(20);
  const int64_t shape[] = {batch, rows}, scales[] = {columns};
  const int kind = (int)draw(5), damaged = one_in(4);
  OrtKernelContext context = {0};
  OrtKernelInfo info = {.grid = 1.0f, .inverse_grid = 1.0f};
  if (op->kind == SXQ_LINEAR_ROUNDED) info.steps = (float)(256 << draw(23)); /* "most", of a rounded input */
  OrtValue* x = context.input[0] = tensor(ORT_TYPE_FLOAT, 2, shape);
  OrtValue* packed = context.input[1] = packed_codes(op->layout, rows, columns);
  OrtValue* scale = context.input[2] = tensor(ORT_TYPE_FLOAT, 1, scales);
  fill(x, kind);
  if (kind == 0 && one_in(2)) {
    for (size_t i = 0; i < count_of(x); ++i) ((float*)x->data)[i] = one_in(4) ? 0.0f : 1.0f; /* dense spikes */
  }
  fill(scale, 3);
  if (damaged) damage(context.input[draw(3)]);
  info.constant[1] = packed;
  info.constant[2] = scale;
  const int ran = run(op, &info, &context);
  if (!ran && !damaged) fail(op->name, "refuses what is in order");
  if (ran && !damaged && kind < 3) {
    for (int64_t m = 0; m < batch; ++m) {
      for (int64_t n = 0; n < columns; ++n) {
        int64_t sum = 0, most = 0;
        for (int64_t k = 0; k < rows; ++k) {
          const int64_t term = (int64_t)((float*)x->data)[m * rows + k] * code_at(op->layout, packed, k, columns, n);
          sum += term;
          most += llabs(term);
        }
        const float expected = (float)sum * ((float*)scale->data)[n];
        const float found = ((float*)context.output[0].data)[m * columns + n];
        const int exact = op->layout->bits < 16 ? llabs(sum) < 1 << 24 : most < 1 << 24;
        if (exact && found != expected) fail(op->name, "a sum is wrong");
      }
    }
  }
  finish(&context);
}

static void fuzz_matmul_integer(const sxq_operator* op) {
  const int64_t rows = one_in(20) ? 4200 : (int64_t)draw(one_in(4) ? 700 : 40);
  const int64_t columns = (int64_t)draw(one_in(3) ? 1200 : 70), batch = (int64_t)draw(20), shape[] = {batch, rows};
  const int damaged = one_in(4), is_signed = op->kind == SXQ_MATMUL_INTEGER_SIGNED;
  OrtKernelContext context = {0};
  OrtKernelInfo info = {.columns = one_in(20) ? -1 : columns};
  OrtValue* x = context.input[0] = tensor(is_signed ? ORT_TYPE_INT8 : ORT_TYPE_UINT8, 2, shape);
  OrtValue* packed = context.input[1] = packed_codes(op->layout, rows, columns);
  fill(x, 0);
  if (one_in(2)) {
    const uint32_t sparse = one_in(2) ? 6 : 2;
    for (size_t i = 0; i < count_of(x); ++i) {
      ((int8_t*)x->data)[i] = (int8_t)(is_signed ? (int)draw(3) - 1 : one_in(sparse));
    }
  }
  if (damaged) damage(context.input[draw(2)]);
  info.constant[1] = packed;
  const int ran = run(op, &info, &context);
  if (!ran && !damaged && info.columns == columns) fail(op->name, "refuses what is in order");
  if (ran && !damaged) {
    for (int64_t m = 0; m < batch; ++m) {
      for (int64_t n = 0; n < columns; ++n) {
        int64_t sum = 0;
        for (int64_t k = 0; k < rows; ++k) {
          const int code = code_at(op->layout, packed, k, columns, n);
          const uint8_t* value = (uint8_t*)x->data + m * rows + k;
          sum += (is_signed ? *(int8_t*)value : *value) * (int64_t)code;
        }
        const int32_t found = ((int32_t*)context.output[0].data)[m * columns + n];
        if (found != (int32_t)(uint32_t)sum) fail(op->name, "a sum is wrong");
      }
    }
  }
  finish(&context);
}

static void fuzz_conv(const sxq_operator* op) {
  OrtKernelInfo info = {.axes = 1 + draw(3), .group = 1 + draw(3)};
  const int64_t channels = 1 + draw(3), outputs = info.group * (1 + draw(one_in(3) ? 40 : 4));
  int64_t window = channels, shape[5] = {draw(3), channels * info.group};
  info.weight_shape[0] = outputs;
  info.weight_shape[1] = channels;
  for (size_t i = 0; i < info.axes; ++i) {
    window *= info.weight_shape[2 + i] = 1 + draw(3);
    info.strides[i] = 1 + draw(3);
    info.dilations[i] = 1 + draw(2);
    info.pads[i] = draw(4);
    info.pads[info.axes + i] = draw(4);
    shape[2 + i] = draw(9);
  }
  info.columns = outputs;
  const int64_t scales[] = {outputs};
  const int type = op->kind == SXQ_CONV             ? ORT_TYPE_FLOAT
                   : op->kind == SXQ_CONV_INTEGER ? ORT_TYPE_UINT8
                                                  : ORT_TYPE_INT8;
  OrtKernelContext context = {0};
  OrtValue* x = context.input[0] = tensor(type, info.axes + 2, shape);
  info.constant[1] = context.input[1] = packed_codes(op->layout, window, outputs);
  fill(x, (int)draw(5));
  if (type != ORT_TYPE_FLOAT && one_in(2)) {
    for (size_t i = 0; i < count_of(x); ++i) ((int8_t*)x->data)[i] = (int8_t)((int)draw(2 + (type == ORT_TYPE_INT8)) - (type == ORT_TYPE_INT8));
  }
  if (type == ORT_TYPE_FLOAT) {
    info.constant[2] = context.input[2] = tensor(ORT_TYPE_FLOAT, 1, scales);
    fill(context.input[2], 3);
  }
  if (one_in(4)) damage(context.input[draw((uint32_t)op->inputs)]);
  if (one_in(10)) info.pads[0] = -1;
  if (one_in(10)) info.group = draw(3);
  if (one_in(10)) info.strides[0] = 0;
  run(op, &info, &context);
  finish(&context);
}

static void fuzz_embedding(const sxq_operator* op) {
  const int64_t rows = 1 + draw(20), columns = draw(70), scales[] = {rows}, shape[] = {draw(4), draw(4)};
  OrtKernelInfo info = {.columns = one_in(10) ? columns + 3 : columns};
  OrtKernelContext context = {0};
  OrtValue* ids = context.input[0] = tensor(one_in(2) ? ORT_TYPE_INT64 : ORT_TYPE_INT32, 2, shape);
  context.input[1] = packed_codes(op->layout, rows, columns);
  context.input[2] = tensor(op->kind == SXQ_EMBEDDING ? ORT_TYPE_FLOAT : ORT_TYPE_INT32, 1, scales);
  fill(context.input[2], 3);
  for (size_t i = 0; i < count_of(ids); ++i) {
    const int64_t outside = one_in(2) ? rows + 5 : -1 - (int64_t)draw((uint32_t)rows);
    const int64_t id = one_in(30) ? outside : (int64_t)draw((uint32_t)rows);
    if (ids->type == ORT_TYPE_INT64) ((int64_t*)ids->data)[i] = id;
    else ((int32_t*)ids->data)[i] = (int32_t)id;
  }
  if (one_in(4)) damage(context.input[draw(3)]);
  run(op, &info, &context);
  finish(&context);
}

static void fuzz_neuron(const sxq_operator* op) {
  int64_t shape[4] = {draw(4)};
  const size_t time_axes = op->spec.step ? 0 : 1, axes = draw(4);
  for (size_t i = 0; i < axes; ++i) shape[time_axes + i] = one_in(6) ? 300 : draw(5);
  OrtKernelInfo info = {.shift = one_in(20) ? 31 : 1 + draw(30)};
  const int type = op->spec.integer ? ORT_TYPE_INT32 : ORT_TYPE_FLOAT;
  OrtKernelContext context = {0};
  context.input[0] = tensor(type, time_axes + axes, shape);
  fill(context.input[0], (int)draw(5));
  for (size_t i = 1; i < op->inputs; ++i) {
    int64_t own[4];
    const size_t from = draw((uint32_t)axes + 1);
    for (size_t axis = from; axis < axes; ++axis) own[axis - from] = one_in(3) ? 1 : shape[time_axes + axis];
    if (one_in(30) && from < axes) own[0] += 1;
    context.input[i] = tensor(type, axes - from, own);
    fill(context.input[i], one_in(10) ? 4 : 3);
  }
  run(op, &info, &context);
  finish(&context);
}

static void fuzz_synchronous(const sxq_operator* op) {
  int64_t shape[4];
  const size_t axes = draw(5), longest = draw(12); /* several would not fit into memory */
  for (size_t i = 0; i < axes; ++i) shape[i] = i == longest ? 700 : draw(5);
  const int folded = op->kind == SXQ_SYNCHRONOUS_FOLDED, damaged = one_in(4);
  OrtKernelInfo info = {.steps = one_in(10) ? 300.0f : (float)(1 << draw(7)), .lowest = one_in(2) ? -8.0f : 0.0f};
  info.inverse_grid = 1.0f / info.steps;
  OrtKernelContext context = {0};
  context.input[0] = tensor(folded ? ORT_TYPE_INT32 : ORT_TYPE_FLOAT, axes, shape);
  fill(context.input[0], (int)draw(5));
  const int64_t channels = one_in(2) || !axes || !folded ? 1 : shape[axes - 1];
  for (size_t i = 1; i < op->inputs; ++i) {
    context.input[i] = tensor(ORT_TYPE_FLOAT, folded ? 1 : 0, &channels);
    fill(context.input[i], one_in(10) ? 4 : 3);
  }
  if (damaged) damage(context.input[1 + draw((uint32_t)op->inputs - 1)]);
  const int ran = run(op, &info, &context);
  const float top = info.steps + (op->signed_counts ? info.steps : 0.0f);
  if (!ran && !damaged && top < 256.0f) fail(op->name, "refuses what is in order");
  if (ran && op->kind == SXQ_SYNCHRONOUS_SPIKES) {
    const float* spikes = context.output[0].data;
    for (size_t i = 0; i < count_of(context.input[0]) * (size_t)info.steps; ++i) {
      if (spikes[i] != 0.0f && spikes[i] != 1.0f && spikes[i] != -1.0f) fail(op->name, "gives what is no spike");
    }
  } else if (ran && op->kind != SXQ_SYNCHRONOUS_RATES) {
    if (top > 255.0f) fail(op->name, "gives counts beyond a byte");
    const uint8_t* counts = context.output[0].data;
    for (size_t i = 0; i < count_of(context.input[0]); ++i) {
      if (counts[i] > top) fail(op->name, "a count is beyond the steps");
    }
  }
  finish(&context);
}

/* Sums over the first axis, held against sums taken one by one. */
static void fuzz_steps(const sxq_operator* op) {
  int64_t shape[4];
  const size_t axes = draw(5), longest = draw(8);
  for (size_t i = 0; i < axes; ++i) shape[i] = i == longest ? 5000 : draw(6);
  OrtKernelInfo info = {.zero_point = one_in(10) ? 256 : draw(128)};
  OrtKernelContext context = {0};
  context.input[0] = tensor(ORT_TYPE_FLOAT, axes, shape);
  fill(context.input[0], 2);
  const int ran = run(op, &info, &context), bytes = op->kind == SXQ_STEP_COUNTS;
  if (ran != (axes && !(bytes && info.zero_point > 255))) fail(op->name, "refuses what is in order, or takes what is not");
  const float* spikes = context.input[0]->data;
  const size_t count = ran && shape[0] ? count_of(context.input[0]) / (size_t)shape[0] : 0;
  for (size_t i = 0; i < count; ++i) {
    float sum = bytes ? (float)info.zero_point : 0.0f;
    for (size_t t = 0; t < (size_t)shape[0]; ++t) sum += spikes[t * count + i];
    if (bytes) sum = sum < 0.0f ? 0.0f : sum > 255.0f ? 255.0f : sum;
    if (sum != (bytes ? (float)((uint8_t*)context.output[0].data)[i] : ((float*)context.output[0].data)[i])) {
      fail(op->name, "gives another sum");
    }
  }
  finish(&context);
}

/* Norms, sigmoids and weighted averages of tokens. */
static void fuzz_language(const sxq_operator* op) {
  const int64_t tokens = draw(6), batch = draw(5), channels = one_in(6) ? 700 : draw(40);
  const int64_t whole[] = {tokens, batch, channels}, state[] = {1, batch, channels}, each[] = {channels};
  const int average = op->kind == SXQ_WEIGHTED_AVERAGE, damaged = one_in(4);
  OrtKernelInfo info = {0};
  OrtKernelContext context = {0};
  for (size_t i = 0; i < op->inputs; ++i) {
    const int of_channels = average ? i == 2 || i == 3 : i > 0, of_state = average && i > 3;
    context.input[i] = tensor(ORT_TYPE_FLOAT, of_channels ? 1 : 3, of_channels ? each : of_state ? state : whole);
    fill(context.input[i], one_in(10) ? 4 : 3);
  }
  if (damaged) damage(context.input[draw((uint32_t)op->inputs)]);
  if (!run(op, &info, &context) && !damaged) fail(op->name, "refuses what is in order");
  finish(&context);
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  state = strtoull(argv[1], NULL, 10) * 2 + 1;
  const OrtApiBase base = {get_api, NULL};
  fill_api();
  if (RegisterCustomOps(NULL, &base) || !registered_count) fail("RegisterCustomOps", "registered nothing");
  size_t layers = 0;
  while (((const sxq_operator*)registered[layers])->kind != SXQ_NEURON) ++layers;
  size_t fused = 0, synchronous = 0;
  while (((const sxq_operator*)registered[registered_count - 1 - fused])->kind >= SXQ_FUSED) ++fused;
  const size_t others = registered_count - fused;
  while (((const sxq_operator*)registered[others - 1 - synchronous])->kind > SXQ_NEURON) ++synchronous;
  const long rounds = strtol(argv[2], NULL, 10);
  for (long round = 0; round < rounds; ++round) {
    const size_t index = round % 2 ? draw((uint32_t)layers) : draw((uint32_t)(others - synchronous));
    const sxq_operator* op = (const sxq_operator*)registered[index];
    switch (op->kind) {
      case SXQ_CONV:
      case SXQ_CONV_INTEGER:
      case SXQ_CONV_INTEGER_SIGNED: fuzz_conv(op); break;
      case SXQ_EMBEDDING:
      case SXQ_EMBEDDING_INTEGER: fuzz_embedding(op); break;
      case SXQ_MATMUL_INTEGER:
      case SXQ_MATMUL_INTEGER_SIGNED: fuzz_matmul_integer(op); break;
      case SXQ_NEURON: fuzz_neuron(op); break;
      default: fuzz_linear(op);
    }
  }
  for (long round = 0; round < rounds / 6; ++round) {
    const sxq_operator* op = (const sxq_operator*)registered[others - 1 - draw((uint32_t)synchronous)];
    switch (op->kind) {
      case SXQ_SHIFT_NORM:
      case SXQ_SHIFT_SOFTMAX: fuzz_shift(op); break;
      case SXQ_TOKEN_NORM:
      case SXQ_EXACT_SIGMOID:
      case SXQ_WEIGHTED_AVERAGE: fuzz_language(op); break;
      case SXQ_INT_TOKEN_NORM:
      case SXQ_INT_HALVES:
      case SXQ_INT_GATED:
      case SXQ_INT_SQUARED: fuzz_integers(op); break;
      case SXQ_INT_AVERAGE: fuzz_integer_average(op); break;
      case SXQ_INT_SCALE:
      case SXQ_INT_RESIDUAL: fuzz_scale(op); break;
      case SXQ_STEP_SUMS:
      case SXQ_STEP_COUNTS: fuzz_steps(op); break;
      default: fuzz_synchronous(op);
    }
  }
  for (long round = 0; round < rounds / 2; ++round) {
    const sxq_operator* op = (const sxq_operator*)registered[others + draw((uint32_t)fused)];
    const sxq_operator* neuron = (const sxq_operator*)registered[layers + draw((uint32_t)(others - layers - synchronous))];
    if (op->kind == SXQ_ATTENTION) fuzz_attention(op);
    else if (op->kind == SXQ_SOFT_ATTENTION) fuzz_soft_attention(op);
    else if (op->kind == SXQ_WHOLE_PRODUCT) fuzz_whole_product(op, (const sxq_operator*)registered[draw((uint32_t)layers)]);
    else if (op->kind != SXQ_FUSED) fuzz_currents(op, neuron);
  }
  for (long round = 0; round < rounds / 4; ++round) {
    fuzz_fused((const sxq_operator*)registered[draw((uint32_t)layers)], (const sxq_operator*)registered[layers + draw((uint32_t)(others - layers - synchronous))]);
  }
  if (!errors || errors == (size_t)rounds) fail("fuzz", "damage is never refused, or everything is");
  printf("%ld rounds with %s, %zu refused\n", rounds, sxq_kernels_here()->name, errors);
  return 0;
}
