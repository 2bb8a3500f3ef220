/* Norm and softmax by shifts, attention with a softmax, and what is computed of currents before neurons. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "currents.h"
#include "fuzz.h"

void fuzz_shift(const sxq_operator* op) {
  int64_t shape[4];
  const size_t axes = draw(5);
  for (size_t i = 0; i < axes; ++i) shape[i] = i + 1 == axes && one_in(3) ? 700 : draw(5);
  if (axes && one_in(30)) shape[axes - 1] = 4097;
  OrtKernelContext context = {0};
  OrtKernelInfo info = {0};
  OrtValue* x = context.input[0] = tensor(ORT_TYPE_FLOAT, axes, shape);
  fill(x, (int)draw(5));
  const int ran = run(op, &info, &context);
  const int in_order = axes && (op->kind == SXQ_SHIFT_SOFTMAX || shape[axes - 1] <= 4096);
  if (ran != in_order) fail(op->name, ran ? "takes what it should refuse" : "refuses what is in order");
  finish(&context);
}

/* Constants of the operations of a program; those that may be are one for each column. */
static size_t fill_program(OrtKernelInfo* info, OrtKernelContext* context, size_t next, int64_t columns) {
  info->operations = draw(4);
  for (size_t i = 0; i < info->operations; ++i) {
    info->program[i] = draw(SXQ_OPERATIONS);
    const size_t constants = info->program[i] <= SXQ_DIV ? 1 : info->program[i] == SXQ_CLIP ? 2 : info->program[i] == SXQ_GELU ? 3 : 0;
    for (size_t k = 0; k < constants; ++k) {
      const size_t rank = constants == 1 ? draw(2) : 0;
      context->input[next] = tensor(ORT_TYPE_FLOAT, rank, &columns);
      fill(context->input[next++], 3);
    }
  }
  if (one_in(3)) { /* a grid */
    for (size_t i = 1; i < next; ++i) {
      drop(context->input[i]);
      context->input[i] = NULL;
    }
    const int64_t grid[] = {SXQ_DIV, SXQ_CLIP, SXQ_MUL, SXQ_ROUND, SXQ_DIV};
    memcpy(info->program, grid, sizeof grid);
    info->operations = 5;
    next = 1;
    for (size_t k = 0; k < 5; ++k) {
      context->input[next] = tensor(ORT_TYPE_FLOAT, k == 0 ? draw(2) : 0, &columns);
      fill(context->input[next], 3);
      if (k > 2) *(float*)context->input[next]->data = 4096.0f;
      ++next;
    }
  }
  return next;
}

void fuzz_currents(const sxq_operator* op, const sxq_operator* neuron) {
  const int values = op->kind == SXQ_VALUES;
  if (!values && (neuron->spec.integer || neuron->outputs != 1)) return;
  int64_t shape[3] = {1 + draw(40), draw(4), 1 + draw(one_in(3) ? 600 : 40)};
  OrtKernelContext context = {0};
  OrtKernelInfo info = {.neuron = neuron->name, .shift = 1};
  context.input[0] = tensor(ORT_TYPE_FLOAT, 3, shape);
  fill(context.input[0], (int)draw(5));
  size_t next = fill_program(&info, &context, 1, shape[2]);
  for (size_t i = 1; !values && i < neuron->inputs; ++i) {
    const size_t axes = draw(3);
    context.input[next] = tensor(ORT_TYPE_FLOAT, axes, shape + 3 - axes);
    fill(context.input[next++], 3);
  }
  const int damaged = one_in(4);
  if (damaged) damage(context.input[draw((uint32_t)next)]);
  if (!run(op, &info, &context) && !damaged) fail(op->name, "refuses what is in order");
  finish(&context);
}

void fuzz_soft_attention(const sxq_operator* op) {
  const int64_t keys = 1 + draw(90), queries = one_in(2) ? keys : 1 + draw(90);
  int64_t q[4] = {draw(3), queries, 1 + draw(3), 1 + draw(40)}, k[4], v[4];
  memcpy(k, q, sizeof q);
  k[1] = keys;
  memcpy(v, k, sizeof k);
  if (one_in(3)) v[3] = 1 + draw(40);
  int64_t mask[4] = {q[0], q[2], q[1], k[1]};
  for (size_t i = 0; i < 4; ++i) {
    if (one_in(2)) mask[i] = 1;
  }
  const size_t less = draw(5), from = 4 - less;
  OrtKernelContext context = {0};
  OrtKernelInfo info = {.shift = draw(2)};
  context.input[0] = tensor(ORT_TYPE_FLOAT, 4, q);
  context.input[1] = tensor(ORT_TYPE_FLOAT, 4, k);
  context.input[2] = tensor(ORT_TYPE_FLOAT, 4, v);
  context.input[3] = tensor(ORT_TYPE_FLOAT, less, mask + from);
  fill(context.input[0], one_in(5) ? 4 : 3);
  fill(context.input[1], one_in(5) ? 3 : 2);
  fill(context.input[2], one_in(5) ? 4 : 2);
  fill(context.input[3], 3);
  const int damaged = one_in(4);
  if (damaged) damage(context.input[draw(4)]);
  if (!run(op, &info, &context) && !damaged) fail(op->name, "refuses what is in order");
  finish(&context);
}
