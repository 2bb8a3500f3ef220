#include "fuzz_tensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

OrtValue* tensor(int type, size_t rank, const int64_t* shape) {
  OrtValue* made = calloc(1, sizeof *made);
  made->type = type;
  made->rank = rank;
  memcpy(made->shape, shape, rank * sizeof *shape);
  made->data = malloc(count_of(made) * size_of(type));
  return made;
}

void drop(OrtValue* value) {
  if (!value) return;
  free(value->data);
  free(value);
}

static float number(int kind) {
  switch (kind) {
    case 0: return one_in(6) ? 1.0f : 0.0f;
    case 1: return (float)draw(256);
    case 2: return (float)draw(3) - 1.0f;
    case 3: return (float)draw(2000) / 64.0f - 15.0f;
    default: {
      const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, -0.0f, 1e-40f};
      return odd[draw(6)];
    }
  }
}

void fill(OrtValue* value, int kind) {
  const size_t count = count_of(value);
  for (size_t i = 0; i < count; ++i) {
    if (value->type == ORT_TYPE_FLOAT) ((float*)value->data)[i] = number(kind);
    if (value->type == ORT_TYPE_UINT8) ((uint8_t*)value->data)[i] = (uint8_t)draw(256);
    if (value->type == ORT_TYPE_INT32) ((int32_t*)value->data)[i] = (int32_t)draw(UINT32_MAX);
    if (value->type == ORT_TYPE_INT8) ((int8_t*)value->data)[i] = (int8_t)draw(256);
  }
}

static unsigned bits_at(const uint8_t* bytes, size_t bit, size_t count) {
  unsigned found = 0;
  for (size_t i = 0; i < count; ++i, ++bit) found |= (unsigned)(bytes[bit / 8] >> (bit % 8) & 1) << i;
  return found;
}

int code_at(const sxq_layout* layout, const OrtValue* packed, int64_t k, int64_t columns, int64_t n) {
  static const int powers[] = {1, 3, 9, 27, 81};
  const uint8_t* row = (uint8_t*)packed->data + k * packed->shape[1];
  if (layout->fives) return row[n / 5] / powers[n % 5] % 3 - 1;
  const size_t column = (size_t)n;
  if (!layout->cut_bits) {
    return (int)bits_at(row, column * (size_t)layout->bits, (size_t)layout->bits) * layout->step - layout->offset;
  }
  int value = 0, place = 0;
  for (int bits = 8; bits; bits /= 2) {
    if (!(layout->cut_bits & bits)) continue;
    value |= (int)bits_at(row, column * (size_t)bits, (size_t)bits) << place;
    place += bits;
    row += (columns * bits + 7) / 8;
  }
  return value >> (place - 1) ? value - (1 << place) : value;
}

/* Make a 1 of the lowest bit of what would be a sign alone, which is no code. */
static void mend_sections(const sxq_layout* layout, OrtValue* packed, int64_t rows, int64_t columns) {
  int lowest = 8;
  while (!(layout->cut_bits & lowest)) lowest /= 2;
  for (int64_t k = 0; k < rows; ++k) {
    for (int64_t n = 0; n < columns; ++n) {
      if (code_at(layout, packed, k, columns, n) != -(1 << (layout->cut_bits - 1))) continue;
      ((uint8_t*)packed->data)[k * packed->shape[1] + n * lowest / 8] |= (uint8_t)(1 << (n * lowest % 8));
    }
  }
}

OrtValue* packed_codes(const sxq_layout* layout, int64_t rows, int64_t columns) {
  const int64_t shape[] = {rows, (int64_t)sxq_file_row_bytes(layout, (size_t)columns)};
  OrtValue* made = tensor(ORT_TYPE_UINT8, 2, shape);
  fill(made, 0);
  if (layout->cut_bits) mend_sections(layout, made, rows, columns);
  if (layout->cut_bits || layout->bits == 1) return made;
  uint8_t* byte = made->data;
  for (size_t i = 0; i < count_of(made); ++i) {
    if (layout->fives) byte[i] = (uint8_t)draw(243);
    else if (layout->bits == 2) byte[i] = (uint8_t)(draw(3) | draw(3) << 2 | draw(3) << 4 | draw(3) << 6);
    if (layout->bits == 4) byte[i] = (uint8_t)(draw(15) | draw(15) << 4);
    if (layout->bits == 8) byte[i] = (uint8_t)draw(255);
    if (layout->bits == 16 && i % 2) byte[i] = (uint8_t)draw(255);
  }
  return made;
}

/* Damage in one of many ways: another byte, another shape, another rank. */
void damage(OrtValue* value) {
  const size_t count = count_of(value);
  switch (draw(4)) {
    case 0:
      if (count && value->type == ORT_TYPE_UINT8) ((uint8_t*)value->data)[draw((uint32_t)count)] = 255;
      return;
    case 1: value->rank = value->rank ? value->rank - 1 : 0; break;
    case 2:
      if (value->rank) value->shape[draw((uint32_t)value->rank)] /= 2;
      break;
    default:
      if (value->rank < 9) value->shape[value->rank++] = 1;
  }
  free(value->data);
  value->data = calloc(count_of(value), size_of(value->type));
}
