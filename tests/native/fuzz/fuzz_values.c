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

/* A tensor of one number. */
static OrtValue* number(int type) {
  OrtValue* made = tensor(type, draw(2), (int64_t[]){1});
  if (type == ORT_TYPE_UINT8) *(uint8_t*)made->data = (uint8_t)draw(256);
  else fill(made, 3);
  return made;
}

/* Values of the shape of x, or of one that is repeated to it; sometimes of more axes. */
static OrtValue* beside(int type, const int64_t shape[3]) {
  int64_t own[4] = {1 + draw(2), shape[0], shape[1], shape[2]};
  for (size_t axis = 1; axis < 3; ++axis) {
    if (one_in(4)) own[axis] = 1;
  }
  const size_t rank = one_in(8) ? 4 : 1 + draw(3);
  OrtValue* made = tensor(type, rank, own + 4 - rank);
  if (type == ORT_TYPE_FLOAT) fill(made, one_in(5) ? 4 : 2);
  else for (size_t i = 0; i < count_of(made); ++i) ((uint8_t*)made->data)[i] = (uint8_t)draw(256);
  return made;
}

/* Constants of the operations of a program; those that may be are one for each column. */
static size_t fill_program(OrtKernelInfo* info, OrtKernelContext* context, size_t next, const int64_t shape[3]) {
  const int64_t columns = shape[2];
  info->operations = draw(5);
  for (size_t i = 0; i < info->operations; ++i) {
    const int64_t operation = info->program[i] = draw(SXQ_OPERATIONS);
    const size_t constants = operation <= SXQ_DIV ? 1 : operation == SXQ_CLIP ? 2 : operation == SXQ_GELU ? 3 : 0;
    for (size_t k = 0; k < constants; ++k) {
      const size_t rank = constants == 1 ? draw(2) : 0;
      context->input[next] = tensor(ORT_TYPE_FLOAT, rank, &columns);
      fill(context->input[next++], 3);
    }
    if (operation >= SXQ_RESIDUAL && operation <= SXQ_COUNTED) {
      context->input[next++] = beside(operation == SXQ_COUNTED ? ORT_TYPE_UINT8 : ORT_TYPE_FLOAT, shape);
      if (operation == SXQ_COUNTED) {
        context->input[next++] = number(ORT_TYPE_FLOAT);
        context->input[next++] = number(ORT_TYPE_UINT8);
      }
    }
    const size_t of_columns = operation == SXQ_ROW_NORM ? 2 : operation == SXQ_CARRIED || operation == SXQ_COUNTED;
    for (size_t k = 0; k < of_columns; ++k) {
      context->input[next] = tensor(ORT_TYPE_FLOAT, of_columns == 2 ? 1 : draw(2), &columns);
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

/* The inputs of synchronous neurons behind the program. */
static size_t fill_counting(OrtKernelInfo* info, OrtKernelContext* context, size_t next, int64_t columns) {
  static const char* const names[] = {
      "SynchronousRounded", "SynchronousFolded", "SynchronousCounts", "SynchronousCounts_signed"};
  const size_t which = draw(4), numbers = which == 0 ? 0 : which == 1 ? 2 : 1, rank = draw(2);
  info->neuron = names[which];
  info->steps = (float)(1 << draw(7));
  info->top = draw(256);
  info->zero_point = draw(256);
  for (size_t k = 0; k < numbers; ++k) {
    context->input[next] = tensor(ORT_TYPE_FLOAT, rank, &columns);
    fill(context->input[next++], one_in(5) ? 4 : 3);
  }
  return next;
}

void fuzz_currents(const sxq_operator* op, const sxq_operator* neuron) {
  const int values = op->kind == SXQ_VALUES, counts = op->kind == SXQ_COUNTS;
  if (!values && !counts && (neuron->spec.integer || neuron->outputs != 1)) return;
  int64_t shape[3] = {1 + draw(40), draw(4), 1 + draw(one_in(3) ? 600 : 40)};
  OrtKernelContext context = {0};
  OrtKernelInfo info = {.neuron = neuron->name, .shift = 1};
  context.input[0] = tensor(ORT_TYPE_FLOAT, 3, shape);
  fill(context.input[0], (int)draw(5));
  size_t next = fill_program(&info, &context, 1, shape);
  if (counts) next = fill_counting(&info, &context, next, shape[2]);
  for (size_t i = 1; !values && !counts && i < neuron->inputs; ++i) {
    const size_t axes = draw(2);
    context.input[next] = tensor(ORT_TYPE_FLOAT, axes, shape + 3 - axes);
    fill(context.input[next++], 3);
  }
  const int damaged = one_in(4);
  if (damaged) damage(context.input[draw((uint32_t)next)]);
  const int ran = run(op, &info, &context);
  if (!ran && !damaged) fail(op->name, "refuses what is in order");
  const float top = strcmp(info.neuron, "SynchronousRounded") ? 255.0f : (float)info.top;
  for (size_t i = 0; ran && counts && i < count_of(&context.output[0]); ++i) {
    if (((uint8_t*)context.output[0].data)[i] > top) fail(op->name, "a count is beyond the top");
  }
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
  for (size_t axis = 0; axis < 3; axis += 2) { /* places and heads may be repeated */
    int64_t* all[] = {q, k, v};
    if (one_in(3)) all[draw(3)][axis] = 1;
  }
  const size_t less = draw(5), from = 4 - less;
  OrtKernelContext context = {0};
  OrtKernelInfo info = {.shift = draw(2), .counts = draw(2)};
  const int type = info.counts ? ORT_TYPE_UINT8 : ORT_TYPE_FLOAT;
  context.input[0] = tensor(ORT_TYPE_FLOAT, 4, q);
  context.input[1] = tensor(type, 4, k);
  context.input[2] = tensor(type, 4, v);
  context.input[3] = tensor(ORT_TYPE_FLOAT, less, mask + from);
  fill(context.input[0], one_in(5) ? 4 : 3);
  fill(context.input[3], 3);
  for (size_t i = 1; i < 3; ++i) {
    OrtValue* rows = context.input[i];
    if (!info.counts) fill(rows, one_in(5) ? 4 : 2);
    else for (size_t n = 0; n < count_of(rows); ++n) ((uint8_t*)rows->data)[n] = (uint8_t)(one_in(2) ? 16 : draw(256));
    if (info.counts) {
      context.input[2 + 2 * i] = number(ORT_TYPE_FLOAT);
      context.input[3 + 2 * i] = number(ORT_TYPE_UINT8);
    }
  }
  const int damaged = one_in(4);
  if (damaged) damage(context.input[draw(info.counts ? 8 : 4)]);
  if (!run(op, &info, &context) && !damaged) fail(op->name, "refuses what is in order");
  finish(&context);
}
