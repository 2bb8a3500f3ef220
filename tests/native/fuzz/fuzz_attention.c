/* Attention: (q k) v of bytes, with the axes of all three in the same random order. */
#include <stdlib.h>

#include "fuzz.h"

enum { AXES = 4 };

/* The byte of a matrix at four places, which are those of the axes in order. */
static int at(const OrtValue* m, const int64_t* order, int64_t a, int64_t b, int64_t row, int64_t column) {
  const int64_t wanted[AXES] = {a, b, row, column};
  int64_t place[AXES], index = 0;
  for (int axis = 0; axis < AXES; ++axis) place[order[axis]] = wanted[axis];
  for (int axis = 0; axis < AXES; ++axis) index = index * m->shape[axis] + place[axis];
  return m->type == ORT_TYPE_INT8 ? ((int8_t*)m->data)[index] : ((uint8_t*)m->data)[index];
}

static OrtValue* matrices(const int64_t* order, int64_t a, int64_t b, int64_t rows, int64_t columns, int spikes) {
  const int64_t wanted[AXES] = {a, b, rows, columns};
  int64_t shape[AXES];
  for (int axis = 0; axis < AXES; ++axis) shape[order[axis]] = wanted[axis];
  OrtValue* made = tensor(one_in(2) ? ORT_TYPE_INT8 : ORT_TYPE_UINT8, AXES, shape);
  fill(made, 0);
  for (size_t i = 0; spikes && i < count_of(made); ++i) ((uint8_t*)made->data)[i] = one_in(4);
  return made;
}

void fuzz_attention(const sxq_operator* op) {
  OrtKernelInfo info = {.order = {0, 1, 2, 3}, .has_factor = one_in(2), .scores_signed = one_in(2)};
  for (int axis = AXES; axis-- > 1;) {
    const int other = (int)draw((uint32_t)axis + 1);
    const int64_t kept = info.order[axis];
    info.order[axis] = info.order[other];
    info.order[other] = kept;
  }
  const int64_t a = draw(3), b = 1 + draw(3), rows = draw(20), depth = 1 + draw(one_in(5) ? 300 : 40);
  const int64_t keys = draw(one_in(4) ? 400 : 40), width = 1 + draw(70);
  const int spikes = !one_in(3);
  OrtKernelContext context = {0};
  OrtValue* q = context.input[0] = matrices(info.order, a, b, rows, depth, spikes);
  OrtValue* k = context.input[1] = matrices(info.order, a, b, depth, keys, spikes);
  OrtValue* v = context.input[2] = matrices(info.order, a, b, keys, width, spikes);
  const int64_t one = 1;
  OrtValue* factor = context.input[3] = tensor(ORT_TYPE_FLOAT, one_in(2), &one);
  fill(factor, 3);
  const int damaged = one_in(4);
  if (damaged) damage(context.input[draw(4)]);
  const int ran = run(op, &info, &context);
  if (!ran && !damaged) fail(op->name, "refuses what is in order");
  const int64_t size = a * b * rows * width;
  for (int64_t i = 0; ran && !damaged && i < size; i += 1 + draw(50)) {
    const int64_t e = i % width, row = i / width % rows, in_b = i / width / rows % b, in_a = i / width / rows / b;
    uint32_t total = 0;
    for (int64_t j = 0; j < keys; ++j) {
      uint32_t score = 0;
      for (int64_t c = 0; c < depth; ++c) {
        score += (uint32_t)(at(q, info.order, in_a, in_b, row, c) * at(k, info.order, in_a, in_b, c, j));
      }
      const int part = info.scores_signed ? (int8_t)score : (uint8_t)score;
      total += (uint32_t)(part * at(v, info.order, in_a, in_b, j, e));
    }
    const void* y = context.output[0].data;
    const float scaled = (float)(int32_t)total * (info.has_factor ? *(float*)factor->data : 1.0f);
    const int right = op->spec.integer ? ((int32_t*)y)[i] == (int32_t)total : ((float*)y)[i] == scaled;
    if (!right) fail(op->name, "a number is wrong");
  }
  finish(&context);
}
