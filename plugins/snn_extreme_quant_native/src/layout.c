#include "layout.h"

#include <string.h>

const sxq_layout sxq_layouts[SXQ_LAYOUTS] = {
    {"Binary", 1, 2, 1, false, 0},
    {"Ternary", 2, 1, 1, false, 0},
    {"Ternary5", 2, 1, 1, true, 0},
    {"Int3", 4, 1, 7, false, 3},
    {"Int4", 4, 1, 7, false, 0},
    {"Int5", 8, 1, 127, false, 5},
    {"Int6", 8, 1, 127, false, 6},
    {"Int7", 8, 1, 127, false, 7},
    {"Int8", 8, 1, 127, false, 0},
    {"Int9", 16, 1, 32767, false, 9},
    {"Int10", 16, 1, 32767, false, 10},
    {"Int11", 16, 1, 32767, false, 11},
    {"Int12", 16, 1, 32767, false, 12},
    {"Int13", 16, 1, 32767, false, 13},
    {"Int14", 16, 1, 32767, false, 14},
    {"Int15", 16, 1, 32767, false, 15},
    {"Int16", 16, 1, 32767, false, 0},
};

size_t sxq_row_bytes(const sxq_layout* layout, size_t columns) {
  return (columns * (size_t)layout->bits + 7) / 8;
}

bool sxq_is_repacked(const sxq_layout* layout) { return layout->fives || layout->cut_bits; }

int sxq_code_bits(const sxq_layout* layout) { return layout->cut_bits ? layout->cut_bits : layout->bits; }

size_t sxq_file_row_bytes(const sxq_layout* layout, size_t columns) {
  if (layout->fives) return (columns + 4) / 5;
  if (!layout->cut_bits) return sxq_row_bytes(layout, columns);
  size_t bytes = 0;
  for (int bits = 8; bits; bits /= 2) {
    if (layout->cut_bits & bits) bytes += (columns * (size_t)bits + 7) / 8;
  }
  return bytes;
}

void sxq_fill_fives(sxq_fives_table* table) {
  for (unsigned byte = 0; byte < SXQ_BYTES_OF_FIVE; ++byte) {
    unsigned digits = 0;
    for (unsigned i = 0, rest = byte; i < 5; ++i, rest /= 3) digits |= rest % 3 << (2 * i);
    table->digits[byte] = (uint16_t)digits;
  }
}

static bool repack_fives(
    const sxq_fives_table* table, const uint8_t* packed, size_t rows, size_t columns, uint8_t* to) {
  const size_t from_bytes = (columns + 4) / 5, to_bytes = (columns + 3) / 4;
  for (size_t k = 0; k < rows; ++k, packed += from_bytes, to += to_bytes) {
    uint32_t bits = 0;
    size_t out = 0;
    unsigned waiting = 0; /* bits */
    for (size_t i = 0; i < from_bytes; ++i) {
      if (packed[i] >= SXQ_BYTES_OF_FIVE) return false;
      bits |= (uint32_t)table->digits[packed[i]] << waiting;
      for (waiting += 10; waiting >= 8 && out < to_bytes; waiting -= 8, bits >>= 8) to[out++] = (uint8_t)bits;
    }
    if (out < to_bytes) to[out] = (uint8_t)bits;
  }
  return true;
}

/* Rows of sections: the fields of a code lie in one section after the other, the lowest in the first one. */
static bool repack_sections(const sxq_layout* layout, const uint8_t* packed, size_t rows, size_t columns, uint8_t* to) {
  const size_t from_bytes = sxq_file_row_bytes(layout, columns), to_bytes = sxq_row_bytes(layout, columns);
  const unsigned sign = 1u << (layout->cut_bits - 1);
  unsigned spare = 0;
  for (size_t k = 0; k < rows; ++k, packed += from_bytes, to += to_bytes) {
    if (layout->bits < 8) memset(to, 0, to_bytes);
    for (size_t n = 0; n < columns; ++n) {
      const uint8_t* section = packed;
      unsigned value = 0, place = 0;
      for (unsigned bits = 8; bits; bits /= 2) {
        if (!((unsigned)layout->cut_bits & bits)) continue;
        const size_t bit = n * bits;
        value |= (((unsigned)section[bit / 8] >> (bit % 8)) & ((1u << bits) - 1)) << place;
        section += (columns * bits + 7) / 8;
        place += bits;
      }
      spare |= value == sign; /* the one value that is no code */
      const unsigned digit = (value ^ sign) - sign + (unsigned)layout->offset; /* the sign, carried on */
      if (layout->bits == 16) {
        to[2 * n] = (uint8_t)digit;
        to[2 * n + 1] = (uint8_t)(digit >> 8);
      } else if (layout->bits == 8) {
        to[n] = (uint8_t)digit;
      } else {
        const size_t bit = n * (size_t)layout->bits;
        to[bit / 8] = (uint8_t)(to[bit / 8] | (digit & 15u) << (bit % 8));
      }
    }
  }
  return !spare;
}

bool sxq_repack(
    const sxq_layout* layout, const sxq_fives_table* table, const uint8_t* packed, size_t rows, size_t columns,
    uint8_t* to) {
  return layout->fives ? repack_fives(table, packed, rows, columns, to)
                       : repack_sections(layout, packed, rows, columns, to);
}

static inline unsigned digit_at(const sxq_layout* layout, const uint8_t* row, size_t column) {
  size_t bit = column * (size_t)layout->bits;
  const uint8_t* byte = row + bit / 8;
  if (layout->bits == 16) return byte[0] | (unsigned)byte[1] << 8;
  return ((unsigned)*byte >> (bit % 8)) & ((1u << layout->bits) - 1);
}

void sxq_take_columns(
    const sxq_layout* layout, const uint8_t* packed, size_t rows, size_t columns, size_t first, size_t count,
    uint8_t* taken) {
  const size_t from_bytes = sxq_row_bytes(layout, columns), to_bytes = sxq_row_bytes(layout, count);
  memset(taken, 0, rows * to_bytes);
  for (size_t k = 0; k < rows; ++k) {
    uint8_t* to = taken + k * to_bytes;
    for (size_t n = 0; n < count; ++n) {
      const unsigned digit = digit_at(layout, packed + k * from_bytes, first + n);
      if (layout->bits == 16) {
        to[2 * n] = (uint8_t)digit;
        to[2 * n + 1] = (uint8_t)(digit >> 8);
      } else {
        const size_t bit = n * (size_t)layout->bits;
        to[bit / 8] = (uint8_t)(to[bit / 8] | digit << (bit % 8));
      }
    }
  }
}

bool sxq_codes_valid(const sxq_layout* layout, const uint8_t* packed, size_t rows, size_t columns) {
  const unsigned top = (unsigned)(2 * layout->offset / layout->step);
  const size_t bytes = sxq_row_bytes(layout, columns);
  if (top + 1 == 1u << layout->bits) return true;
  if (layout->bits == 2) {
    /* The one digit that is no code has both its bits set: look at whole bytes but the last of a row. */
    unsigned found = 0;
    for (size_t k = 0; k < rows; ++k, packed += bytes) {
      const size_t whole = columns / 4;
      for (size_t j = 0; j < whole; ++j) found |= packed[j] & (packed[j] >> 1) & 0x55u;
      for (size_t n = whole * 4; n < columns; ++n) found |= digit_at(layout, packed, n) == 3;
    }
    return !found;
  }
  for (size_t k = 0; k < rows; ++k) {
    for (size_t n = 0; n < columns; ++n) {
      if (digit_at(layout, packed + k * bytes, n) > top) return false;
    }
  }
  return true;
}

void sxq_fill_table(const sxq_layout* layout, sxq_byte_table* table) {
  const int per_byte = layout->bits > 8 ? 0 : 8 / layout->bits;
  for (int byte = 0; byte < 256; ++byte) {
    for (int i = 0; i < per_byte; ++i) {
      const int digit = (byte >> (i * layout->bits)) & ((1 << layout->bits) - 1);
      table->codes[byte][i] = (float)(digit * layout->step - layout->offset);
    }
  }
}

void sxq_unpack_row(
    const sxq_layout* layout, const sxq_byte_table* table, const uint8_t* row, size_t first, size_t count,
    float* codes) {
  if (layout->bits == 16) {
    row += 2 * first;
    for (size_t n = 0; n < count; ++n) codes[n] = (float)((row[2 * n] | row[2 * n + 1] << 8) - layout->offset);
    return;
  }
  const size_t per_byte = 8 / (size_t)layout->bits;
  const uint8_t* byte = row + first / per_byte;
  size_t n = 0;
  for (; n + per_byte <= count; n += per_byte) memcpy(codes + n, table->codes[*byte++], per_byte * sizeof(float));
  if (n < count) memcpy(codes + n, table->codes[*byte], (count - n) * sizeof(float));
}
