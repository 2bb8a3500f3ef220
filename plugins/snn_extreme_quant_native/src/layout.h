/* How weight codes lie in bytes: snn_extreme_quant/quantizers/packing.py, in C. */
#ifndef SXQ_LAYOUT_H
#define SXQ_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Kernels read digits of 1, 2, 4, 8 or 16 bits. Codes that a file keeps otherwise are repacked when it is loaded. */
typedef struct {
  const char* prefix; /* of the operators' names */
  int bits;           /* of a digit, as kernels read it */
  int step, offset;   /* code = digit * step - offset */
  bool fives;         /* a file's byte holds five digits of base 3 */
  int cut_bits;       /* of a code that a file keeps in sections; 0 for none */
} sxq_layout;

enum { SXQ_LAYOUTS = 17 };
extern const sxq_layout sxq_layouts[SXQ_LAYOUTS];

/* Bytes that a row of N codes takes. */
size_t sxq_row_bytes(const sxq_layout* layout, size_t columns);

/* The same in a file. */
size_t sxq_file_row_bytes(const sxq_layout* layout, size_t columns);

/* Whether a file keeps the codes otherwise than kernels read them. */
bool sxq_is_repacked(const sxq_layout* layout);

/* The bits of a code, at least: of what its operators are called after. */
int sxq_code_bits(const sxq_layout* layout);

/* The five digits of a byte, two bits each, for the bytes that stand for any. */
enum { SXQ_BYTES_OF_FIVE = 243 };
typedef struct {
  uint16_t digits[SXQ_BYTES_OF_FIVE];
} sxq_fives_table;
void sxq_fill_fives(sxq_fives_table* table);

/* From K rows as a file keeps them to rows as kernels read them; false if what is stored is no code. The table is for
 * codes five to a byte; others take NULL. */
bool sxq_repack(
    const sxq_layout* layout, const sxq_fives_table* table, const uint8_t* packed, size_t rows, size_t columns,
    uint8_t* to);

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
