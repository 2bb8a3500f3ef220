/* How weight codes lie in bytes: snn_extreme_quant/quantizers/packing.py, in C. */
#ifndef SXQ_LAYOUT_H
#define SXQ_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
  const char* prefix; /* of the operators' names */
  int bits;           /* of a digit */
  int step, offset;   /* code = digit * step - offset */
  bool fives;         /* a file's byte holds five digits of base 3; kernels repack them as digits of two bits */
} sxq_layout;

enum { SXQ_LAYOUTS = 6 };
extern const sxq_layout sxq_layouts[SXQ_LAYOUTS];

/* Bytes that a row of N codes takes. */
size_t sxq_row_bytes(const sxq_layout* layout, size_t columns);

/* The same in a file. */
size_t sxq_file_row_bytes(const sxq_layout* layout, size_t columns);

/* The five digits of a byte, two bits each, for the bytes that stand for any. */
enum { SXQ_BYTES_OF_FIVE = 243 };
typedef struct {
  uint16_t digits[SXQ_BYTES_OF_FIVE];
} sxq_fives_table;
void sxq_fill_fives(sxq_fives_table* table);

/* From K rows of five digits a byte to rows of two bits a digit; false if a byte holds no five digits. */
bool sxq_repack_fives(
    const sxq_fives_table* table, const uint8_t* packed, size_t rows, size_t columns, uint8_t* to);

/* Copy columns first .. first + count - 1 of all rows to a matrix of their own. */
void sxq_take_columns(
    const sxq_layout* layout, const uint8_t* packed, size_t rows, size_t columns, size_t first, size_t count,
    uint8_t* taken);

/* Whether every digit of the K rows stands for a code (what fills a row's last byte is not looked at). */
bool sxq_codes_valid(const sxq_layout* layout, const uint8_t* packed, size_t rows, size_t columns);

/* The codes in each byte, as floats; layouts of 16 bit need no table. */
typedef struct {
  float codes[256][8];
} sxq_byte_table;
void sxq_fill_table(const sxq_layout* layout, sxq_byte_table* table);

/* Columns first .. first + count - 1 of one row, as floats; a byte begins at `first`. */
void sxq_unpack_row(
    const sxq_layout* layout, const sxq_byte_table* table, const uint8_t* row, size_t first, size_t count,
    float* codes);

#endif
