/* What integer files of language models compute with, held against their equations in numbers of 128 bits. */
#include <stdlib.h>

#include "fuzz.h"

/* Whole numbers up to `most` on either side, often its ends; or, of every so many, any bits at all. */
static void fill_whole(OrtValue* value, int64_t least, int64_t most, int wild) {
  for (size_t i = 0; i < count_of(value); ++i) {
    const uint64_t bits = (uint64_t)draw(UINT32_MAX) << 33 ^ (uint64_t)draw(UINT32_MAX) << 11 ^ draw(UINT32_MAX);
    const uint64_t span = (uint64_t)most - (uint64_t)least + 1;
    int64_t number = least + (int64_t)(bits % span);
    if (one_in(8)) number = one_in(2) ? least : most;
    if (wild) number = one_in(4) ? (one_in(2) ? INT64_MIN : INT64_MAX) >> draw(64) : (int64_t)bits;
    if (value->type == ORT_TYPE_INT64) ((int64_t*)value->data)[i] = number;
    else ((int32_t*)value->data)[i] = (int32_t)number;
  }
}

static int64_t at(const OrtValue* value, size_t i) {
  i = count_of(value) == 1 ? 0 : i;
  return value->type == ORT_TYPE_INT64 ? ((int64_t*)value->data)[i] : ((int32_t*)value->data)[i];
}

static __int128 clipped(__int128 x, int64_t least, int64_t most) {
  x = x > least ? x : least;
  return x < most ? x : most;
}

/* (x gain + offset) >> shift within limits, or with counts that are carried. */
static __int128 scaled(const OrtKernelContext* c, const OrtKernelInfo* info, size_t i, size_t channel, int residual) {
  __int128 sum = (__int128)at(c->input[0], i) * at(c->input[residual ? 2 : 1], channel);
  if (residual) sum += (__int128)((int32_t*)c->input[1]->data)[i] * at(c->input[3], channel);
  sum = (sum + at(c->input[residual ? 4 : 2], channel)) >> info->shift;
  return residual ? sum : clipped(sum, at(c->input[3], channel), at(c->input[4], channel));
}

void fuzz_scale(const sxq_operator* op) {
  const int residual = op->kind == SXQ_INT_RESIDUAL, damaged = one_in(4), wild = one_in(4);
  const int64_t columns = one_in(3) ? 1 + draw(600) : draw(20), shape[] = {draw(4), columns}, one = 1;
  OrtKernelInfo info = {.shift = draw(41)};
  const int illegal = one_in(20);
  if (illegal) info.shift = one_in(2) ? 64 : -1;
  OrtKernelContext context = {0};
  for (size_t i = 0; i < op->inputs; ++i) {
    const int of_channels = i > (residual ? 1 : 0), single = of_channels && one_in(3);
    context.input[i] = tensor(op->types[i], of_channels ? 1 : 2, of_channels ? (single ? &one : &columns) : shape);
    const int64_t most = of_channels ? (int64_t)1 << (op->types[i] == ORT_TYPE_INT64 ? 27 : 20) : INT32_MAX;
    fill_whole(context.input[i], -most, most, wild);
  }
  if (damaged) damage(context.input[draw((uint32_t)op->inputs)]);
  const int ran = run(op, &info, &context);
  if (ran ? illegal : !illegal && !damaged) fail(op->name, ran ? "takes any shift" : "refuses what is in order");
  for (size_t i = 0; ran && !damaged && !wild && i < count_of(context.input[0]); ++i) {
    const int32_t expected = (int32_t)(uint32_t)scaled(&context, &info, i, i % (size_t)columns, residual);
    /* A scale is defined where what it limits has 32 bits; gains of 27 and sums of 31 and 1 leave that. */
    const __int128 sum = (__int128)at(context.input[0], i) * at(context.input[1], i % (size_t)columns);
    const __int128 reach = ((sum < 0 ? -sum : sum) + ((int64_t)1 << 27)) >> info.shift;
    if (!residual && reach >= INT32_MAX) continue;
    if (((int32_t*)context.output[0].data)[i] != expected) fail(op->name, "gives another number");
  }
  finish(&context);
}

static void expect_norm(const sxq_operator* op, const OrtKernelInfo* info, const OrtKernelContext* c, size_t channels) {
  for (size_t row = 0; row < count_of(c->input[0]) / channels; ++row) {
    int64_t sum = 0, squares = 0;
    for (size_t i = 0; i < channels; ++i) sum += (int64_t)clipped(at(c->input[0], row * channels + i), -524287, 524287);
    const int64_t width = 2 * (int64_t)channels, above = 2 * sum + (int64_t)channels;
    const int64_t mean = above / width - (above % width < 0);
    for (size_t i = 0; i < channels; ++i) {
      const int64_t centred = (int64_t)clipped(at(c->input[0], row * channels + i), -524287, 524287) - mean;
      squares += centred * centred;
    }
    /* Factors are 16 to 31 times a power of two; the next one is taken while it is not farther from sqrt(2^48 H / squares). */
    int64_t factor = 16, step = 1;
    while (factor < (int64_t)31 << 26) {
      const __int128 twice = 2 * factor + step;
      if (twice * twice * squares > (__int128)channels << 50) break;
      factor += step;
      if (factor == 32 * step) step *= 2;
    }
    for (size_t i = 0; i < channels; ++i) {
      const int64_t centred = (int64_t)clipped(at(c->input[0], row * channels + i), -524287, 524287) - mean;
      const __int128 normed = (centred * factor + 512) >> 10;
      const __int128 y = (normed * at(c->input[1], i) + at(c->input[2], i)) >> info->shift;
      const int32_t found = ((int32_t*)c->output[0].data)[row * channels + i];
      if (found != (int32_t)clipped(y, -info->most, info->most)) fail(op->name, "gives another number");
    }
  }
}

static void fuzz_norm(const sxq_operator* op) {
  const int64_t channels = one_in(4) ? 1 + draw(4096) : draw(40), shape[] = {draw(3), channels}, one = 1;
  const int damaged = one_in(4), wild = one_in(4), wide = one_in(40);
  const int64_t shapes[] = {1, 4097};
  OrtKernelInfo info = {.shift = draw(21), .most = draw(INT32_MAX)};
  OrtKernelContext context = {0};
  context.input[0] = tensor(ORT_TYPE_INT32, 2, wide ? shapes : shape);
  for (size_t i = 1; i < 3; ++i) {
    context.input[i] = tensor(ORT_TYPE_INT64, 1, one_in(4) ? &one : wide ? shapes + 1 : &channels);
  }
  fill_whole(context.input[0], -((int64_t)1 << draw(31)), (int64_t)1 << draw(21), wild);
  fill_whole(context.input[1], -(1 << 24), 1 << 24, wild);
  fill_whole(context.input[2], -((int64_t)1 << (10 + info.shift)), (int64_t)1 << (10 + info.shift), wild);
  if (damaged) damage(context.input[draw(3)]);
  const int ran = run(op, &info, &context);
  if (!ran && !damaged && !wide) fail(op->name, "refuses what is in order");
  if (ran && !damaged && wide) fail(op->name, "takes any number of channels");
  /* What is shifted is below 2^31 where shifts are large or gains small. */
  if (ran && !damaged && !wild && channels && info.shift >= 15) expect_norm(op, &info, &context, (size_t)channels);
  finish(&context);
}

void fuzz_integers(const sxq_operator* op) {
  if (op->kind == SXQ_INT_TOKEN_NORM) {
    fuzz_norm(op);
    return;
  }
  const int64_t shape[] = {draw(4), one_in(4) ? 9000 : draw(40)};
  const int damaged = one_in(4), wild = one_in(4), gated = op->kind == SXQ_INT_GATED, illegal = one_in(20);
  OrtKernelInfo info = {.shift = gated ? 8 + draw(33) : draw(41), .most = draw(INT32_MAX)};
  if (illegal) info.most = (int64_t)INT32_MAX + 1;
  OrtKernelContext context = {0};
  for (size_t i = 0; i < op->inputs; ++i) {
    context.input[i] = tensor(ORT_TYPE_INT32, 2, shape);
    fill_whole(context.input[i], -(1 << (gated ? 22 : 15)) + 1, (1 << (gated ? 22 : 15)) - 1, wild);
  }
  if (damaged) damage(context.input[draw((uint32_t)op->inputs)]);
  const int ran = run(op, &info, &context), refused = illegal && op->kind != SXQ_INT_HALVES;
  if (ran ? refused : !refused && !(damaged && gated) && context.input[0]->rank <= SXQ_MAX_RANK) {
    fail(op->name, ran ? "takes any limit" : "refuses what is in order");
  }
  const __int128 half = ((__int128)1 << info.shift) / 2;
  for (size_t i = 0; ran && !damaged && i < count_of(context.input[0]); ++i) {
    const int64_t x = at(context.input[0], i);
    if (op->kind == SXQ_INT_HALVES) {
      const int64_t together = ((int8_t*)context.output[0].data)[i] * 256 + ((uint8_t*)context.output[1].data)[i];
      if (together != (wild ? (int16_t)x : x)) fail(op->name, "the halves are not the whole");
      continue;
    }
    const int32_t found = ((int32_t*)context.output[0].data)[i];
    const __int128 square = x > 0 ? (__int128)x * x : 0;
    const __int128 y = gated ? 0 : clipped((square + half) >> info.shift, INT64_MIN, info.most);
    if (!gated && !wild && found != (int32_t)y) fail(op->name, "gives another number");
    if (found > info.most || (gated && found < -info.most)) fail(op->name, "a number is beyond the limit");
  }
  finish(&context);
}

/* Products of 16 bits of which half are their ends. */
void fuzz_whole_product(const sxq_operator* op, const sxq_operator* layer) {
  if (layer->kind != SXQ_MATMUL_INTEGER && layer->kind != SXQ_MATMUL_INTEGER_SIGNED) return;
  if (sxq_code_bits(layer->layout) > 8) return;
  const int64_t rows = 1 + draw(one_in(4) ? 700 : 40), columns = draw(one_in(3) ? 1200 : 70), shape[] = {draw(6), rows};
  const int damaged = one_in(4), wild = one_in(4);
  const int64_t one = 1;
  OrtKernelInfo info = {.columns = columns, .layer = layer->name, .neuron = "", .shift = draw(41), .has_limits = draw(2)};
  OrtKernelContext context = {0};
  OrtValue* x = context.input[0] = tensor(ORT_TYPE_INT32, 2, shape);
  OrtValue* packed = context.input[1] = packed_codes(layer->layout, rows, columns);
  fill_whole(x, -32767, 32767, wild);
  const size_t inputs = info.has_limits ? 8 : 6;
  for (size_t i = 2; i < inputs; ++i) {
    context.input[i] = tensor(i < 4 ? ORT_TYPE_INT64 : ORT_TYPE_INT32, 1, one_in(3) ? &one : &columns);
    fill_whole(context.input[i], -((int64_t)1 << 24), (int64_t)1 << 24, wild);
  }
  if (damaged) damage(context.input[draw((uint32_t)inputs)]);
  info.constant[1] = packed;
  void* kernel = NULL;
  context.op = &op->base;
  OrtStatus* status = op->base.create_kernel_v2(&op->base, &api, &info, &kernel);
  if (!status) {
    status = op->base.kernel_compute_v2(kernel, &context);
    op->base.kernel_destroy(kernel);
  }
  if (status && !damaged) fail(op->name, "refuses what is in order");
  for (int64_t i = 0; !status && !damaged && i < shape[0] * columns; ++i) {
    const int64_t n = i % columns;
    int64_t sum = 0;
    for (int64_t k = 0; k < rows; ++k) {
      sum += (int16_t)((int32_t*)x->data)[i / columns * rows + k] * (int64_t)code_at(layer->layout, packed, k, columns, n);
    }
    sum = (int32_t)(uint32_t)sum;
    if (info.has_limits) sum = (int64_t)clipped(sum, at(context.input[6], (size_t)n), at(context.input[7], (size_t)n));
    const uint64_t product = (uint64_t)sum * (uint64_t)at(context.input[2], (size_t)n);
    const uint64_t raised = product + (uint64_t)at(context.input[3], (size_t)n) + ((uint64_t)1 << 61);
    const int32_t y = (int32_t)(uint32_t)((raised >> info.shift) - (((uint64_t)1 << 61) >> info.shift));
    const int64_t expected = (int64_t)clipped(y, at(context.input[4], (size_t)n), at(context.input[5], (size_t)n));
    if (((int32_t*)context.output[0].data)[i] != expected) fail(op->name, "gives another number");
  }
  free(status);
  finish(&context);
}

void fuzz_integer_average(const sxq_operator* op) {
  const int64_t tokens = draw(6), batch = draw(5), channels = one_in(6) ? 700 : draw(40);
  const int64_t whole[] = {tokens, batch, channels}, state[] = {1, batch, channels}, each[] = {channels};
  const int64_t most[] = {3839, 32767, 65528, 7387, ((int64_t)1 << 61) - 1, ((int64_t)1 << 47) - 1};
  const int damaged = one_in(4), wild = one_in(4);
  OrtKernelInfo info = {0};
  OrtKernelContext context = {0};
  for (size_t i = 0; i < 6; ++i) {
    context.input[i] = tensor(op->types[i], i == 2 || i == 3 ? 1 : 3, i == 2 || i == 3 ? each : i > 3 ? state : whole);
    fill_whole(context.input[i], i == 2 || i == 5 ? 0 : -most[i], most[i], wild);
  }
  if (wild && one_in(2)) { /* a sum that cannot be divided by */
    for (size_t i = 0; i < count_of(context.input[5]); ++i) ((int64_t*)context.input[5]->data)[i] = -8 - (int64_t)draw(2);
    fill_whole(context.input[0], -4000, -3839, 0);
    fill_whole(context.input[3], -4000, 0, 0);
  }
  if (damaged) damage(context.input[draw(6)]);
  if (!run(op, &info, &context) && !damaged && !wild) fail(op->name, "refuses what is in order");
  finish(&context);
}
