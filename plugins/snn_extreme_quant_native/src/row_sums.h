/* Sums of selected rows of packed codes, without unpacking them: a positional population count.
 *
 * The sum of codes over the inputs that spiked is, for each output, the number of ones in each bit position of its
 * digit. All bit positions of a register are counted at once with carry-save adders: three words of equal weight
 * become one of the same weight (their exclusive or) and one of twice the weight (their majority). Sixteen rows go
 * through the tree of Harley and Seal at about two instructions a row; what comes out of its top, of weight 16, is
 * added to byte counters. Digits of two bits are counted as they are, in fields of two bits. The work is in proportion to the number of spikes, reads the packed bytes as they are in
 * the file, and is the same for every layout of 1 to 16 bit.
 *
 * Needs of the file that includes this: WIDTH (bytes of a register), `word` (a vector of uint64_t),
 * full_add(high, low, a, b, c), and lay_out() if it defines OWN_LAY_OUT.
 */
#include <string.h>

typedef uint8_t bytes_of_word __attribute__((vector_size(WIDTH)));

enum { TREE = 16 }; /* rows a round */
#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Rows whose sum of fields of so many bits fits the byte counters of sixteens. */
#define MOST_ROWS(field) ((size_t)TREE * (255 / ((1 << (field)) - 1)))

static inline word load(const uint8_t* from) {
  word value;
  memcpy(&value, from, WIDTH);
  return value;
}

static inline word every_byte(uint8_t value) {
  return (word)((bytes_of_word){0} + value);
}

/* What has been counted: planes of weight 1, 2, 4 and 8, and sixteens for each field of a byte. */
typedef struct {
  word ones, twos, fours, eights, sixteens[8];
} counters;

#define SXQ_TREE(ROW)                                                            \
  do {                                                                           \
    word a, b, c, d, e, f;                                                       \
    full_add(a, ones, ones, ROW(0), ROW(1));                                     \
    full_add(b, ones, ones, ROW(2), ROW(3));                                     \
    full_add(c, twos, twos, a, b);                                               \
    full_add(a, ones, ones, ROW(4), ROW(5));                                     \
    full_add(b, ones, ones, ROW(6), ROW(7));                                     \
    full_add(d, twos, twos, a, b);                                               \
    full_add(e, fours, fours, c, d);                                             \
    full_add(a, ones, ones, ROW(8), ROW(9));                                     \
    full_add(b, ones, ones, ROW(10), ROW(11));                                   \
    full_add(c, twos, twos, a, b);                                               \
    full_add(a, ones, ones, ROW(12), ROW(13));                                   \
    full_add(b, ones, ones, ROW(14), ROW(15));                                   \
    full_add(d, twos, twos, a, b);                                               \
    full_add(f, fours, fours, c, d);                                             \
    full_add(a, eights, eights, e, f);                                           \
    for (int i = 0; i < 8 / field; ++i) {                                        \
      const bytes_of_word more = (bytes_of_word)((a >> (i * field)) & mask);     \
      sixteens[i] = (word)((bytes_of_word)sixteens[i] + more);                   \
    }                                                                            \
  } while (0)

/* Count the bits of `count` rows (at most MOST_ROWS); the first `safe` of them may be read WIDTH bytes wide. */
ALWAYS_INLINE void count_bits(
    const uint8_t* column, size_t width, const uint32_t* rows, size_t count, size_t safe, int field, counters* found) {
  static const uint8_t nothing[WIDTH];
  const word mask = every_byte((uint8_t)((1 << field) - 1));
  word ones = {0}, twos = {0}, fours = {0}, eights = {0}, sixteens[8];
  for (int i = 0; i < 8 / field; ++i) sixteens[i] = (word){0};
  size_t r = 0;
#define SXQ_ROW(i) load(column + rows[r + (i)])
  for (; r + TREE <= safe; r += TREE) SXQ_TREE(SXQ_ROW);
#undef SXQ_ROW
  for (; r < count; r += TREE) {
    /* The last rows: missing ones are zero, and none is read behind its end. */
    const uint8_t* row[TREE];
    uint8_t copies[TREE][WIDTH];
    for (size_t i = 0; i < TREE; ++i) {
      row[i] = r + i < safe ? column + rows[r + i] : nothing;
      if (r + i >= safe && r + i < count) {
        memset(copies[i], 0, WIDTH);
        memcpy(copies[i], column + rows[r + i], width);
        row[i] = copies[i];
      }
    }
#define SXQ_ROW(i) load(row[i])
    SXQ_TREE(SXQ_ROW);
#undef SXQ_ROW
  }
  found->ones = ones;
  found->twos = twos;
  found->fours = fours;
  found->eights = eights;
  for (int i = 0; i < 8 / field; ++i) found->sixteens[i] = sixteens[i];
}

/* The sum of field i of each byte is low[i] + 16 * found->sixteens[i]. */
ALWAYS_INLINE void low_parts(const counters* found, int field, word low[8]) {
  const word mask = every_byte((uint8_t)((1 << field) - 1));
  for (int i = 0; i < 8 / field; ++i) {
    const int shift = i * field;
    low[i] = ((found->ones >> shift) & mask) + (((found->twos >> shift) & mask) << 1) +
             (((found->fours >> shift) & mask) << 2) + (((found->eights >> shift) & mask) << 3);
  }
}

#ifndef OWN_LAY_OUT
/* sums[n] = step * (low + 16 * high) - bias, for fields in the order of the columns: field after field of each byte. */
ALWAYS_INLINE void lay_out(
    const word* low, const word* high, int fields, size_t width, bool small, int step, int32_t bias, int32_t* sums) {
  uint8_t lows[8][WIDTH], highs[8][WIDTH];
  (void)width; /* bytes of the register that are used */
  (void)small; /* whether all sums fit a byte */
  memcpy(lows, low, sizeof *low * (size_t)fields);
  memcpy(highs, high, sizeof *high * (size_t)fields);
  for (size_t byte = 0; byte < WIDTH; ++byte) {
    for (int i = 0; i < fields; ++i) {
      sums[(size_t)fields * byte + (size_t)i] = step * (lows[i][byte] + 16 * highs[i][byte]) - bias;
    }
  }
}
#endif

/* The same for digits of several bits, which are counted bit by bit. */
static void lay_out_digits(const word* low, const word* high, int bits, int32_t bias, int32_t* sums) {
  uint8_t lows[8][WIDTH], highs[8][WIDTH];
  memcpy(lows, low, sizeof lows);
  memcpy(highs, high, sizeof highs);
  const int per_byte = bits == 4 ? 2 : 1;
  int32_t total[2 * WIDTH];
  for (size_t byte = 0; byte < WIDTH; ++byte) {
    for (int i = 0; i < per_byte; ++i) {
      int32_t digits = 0;
      for (int bit = 0; bit < 8 / per_byte; ++bit) {
        digits += (lows[i * 4 + bit][byte] + 16 * highs[i * 4 + bit][byte]) << bit;
      }
      total[(size_t)per_byte * byte + (size_t)i] = digits;
    }
  }
  if (bits < 16) {
    for (size_t n = 0; n < (size_t)per_byte * WIDTH; ++n) sums[n] = total[n] - bias;
  } else {
    for (size_t n = 0; n < WIDTH / 2; ++n) sums[n] = total[2 * n] + 256 * total[2 * n + 1] - bias;
  }
}

/* The sums of the columns that a register holds, from its first byte on. */
ALWAYS_INLINE void block_sums(
    const sxq_codes* codes, size_t first_byte, const uint32_t* rows, size_t count, int field, int32_t* sums) {
  const size_t pitch = sxq_row_bytes(codes->layout, codes->columns);
  const size_t width = pitch - first_byte < WIDTH ? pitch - first_byte : WIDTH;
  /* A row may be read past its end where other rows follow: what is read too much is not used. */
  size_t safe = count;
  while (safe && (size_t)rows[safe - 1] + first_byte + WIDTH > codes->rows * pitch) --safe;
  counters found;
  count_bits(codes->packed + first_byte, width, rows, count, safe, field, &found);
  word low[8];
  low_parts(&found, field, low);
  const int32_t bias = codes->layout->offset * (int32_t)count;
  if (codes->layout->bits > 2) {
    lay_out_digits(low, found.sixteens, codes->layout->bits, bias, sums);
  } else {
    const bool small = count * ((1u << field) - 1) <= 255;
    lay_out(low, found.sixteens, 8 / field, width, small, codes->layout->step, bias, sums);
  }
}

ALWAYS_INLINE void all_sums(
    const sxq_codes* codes, const uint32_t* rows, size_t count, int field, int32_t* sums) {
  const size_t pitch = sxq_row_bytes(codes->layout, codes->columns);
  const size_t columns_a_block = (size_t)WIDTH * 8 / (size_t)codes->layout->bits;
  for (size_t byte = 0, n = 0; byte < pitch; byte += WIDTH, n += columns_a_block) {
    size_t now = count < MOST_ROWS(field) ? count : MOST_ROWS(field);
    block_sums(codes, byte, rows, now, field, sums + n);
    for (size_t done = now; done < count; done += now) {
      int32_t more[WIDTH * 8];
      now = count - done < MOST_ROWS(field) ? count - done : MOST_ROWS(field);
      block_sums(codes, byte, rows + done, now, field, more);
      for (size_t i = 0; i < columns_a_block; ++i) sums[n + i] += more[i];
    }
  }
}

static void row_sums(const sxq_codes* codes, const uint32_t* rows, size_t count, int32_t* sums) {
  if (codes->layout->bits == 2) {
    all_sums(codes, rows, count, 2, sums);
  } else {
    all_sums(codes, rows, count, 1, sums);
  }
}
