/* Sums of selected rows of packed codes, without unpacking them: a positional population count.
 *
 * The sum of codes over the inputs that spiked is, for each output, the number of ones in each bit position of its
 * digit. All bit positions of a register are counted at once with carry-save adders: three words of equal weight
 * become one of the same weight (their exclusive or) and one of twice the weight (their majority). Sixteen rows go
 * through the tree of Harley and Seal at about two instructions a row; what comes out of its top, of weight 16, is
 * added to byte counters. The work is in proportion to the number of spikes, reads the packed bytes as they are in
 * the file, and is the same for every layout of 1 to 16 bit.
 *
 * Needs of the file that includes this: WIDTH (bytes of a register), `word` (a vector of uint64_t), and
 * full_add(high, low, a, b, c).
 */
#include <string.h>

typedef uint8_t bytes_of_word __attribute__((vector_size(WIDTH)));

enum {
  TREE = 16,             /* rows a round */
  MOST_ROWS = 255 * TREE /* rounds that a byte counter holds */
};

static inline word load(const uint8_t* from) {
  word value;
  memcpy(&value, from, WIDTH);
  return value;
}

static inline word every_byte(uint8_t value) {
  return (word)((bytes_of_word){0} + value);
}

/* What has been counted: planes of weight 1, 2, 4 and 8, and sixteens by bit of a byte. */
typedef struct {
  word ones, twos, fours, eights, sixteens[8];
} counters;

#define SXQ_TREE(ROW)                                    \
  do {                                                   \
    word a, b, c, d, e, f;                               \
    full_add(a, ones, ones, ROW(0), ROW(1));             \
    full_add(b, ones, ones, ROW(2), ROW(3));             \
    full_add(c, twos, twos, a, b);                       \
    full_add(a, ones, ones, ROW(4), ROW(5));             \
    full_add(b, ones, ones, ROW(6), ROW(7));             \
    full_add(d, twos, twos, a, b);                       \
    full_add(e, fours, fours, c, d);                     \
    full_add(a, ones, ones, ROW(8), ROW(9));             \
    full_add(b, ones, ones, ROW(10), ROW(11));           \
    full_add(c, twos, twos, a, b);                       \
    full_add(a, ones, ones, ROW(12), ROW(13));           \
    full_add(b, ones, ones, ROW(14), ROW(15));           \
    full_add(d, twos, twos, a, b);                       \
    full_add(f, fours, fours, c, d);                     \
    full_add(a, eights, eights, e, f);                   \
    for (int bit = 0; bit < 8; ++bit) {                  \
      sixteens[bit] = (word)((bytes_of_word)sixteens[bit] + (bytes_of_word)((a >> bit) & every_byte(1))); \
    }                                                    \
  } while (0)

/* Count the bits of `count` rows (at most MOST_ROWS); the first `safe` of them may be read WIDTH bytes wide. */
static inline counters count_bits(
    const uint8_t* column, size_t pitch, size_t width, const uint32_t* rows, size_t count, size_t safe) {
  word ones = {0}, twos = {0}, fours = {0}, eights = {0}, sixteens[8] = {{0}};
  size_t r = 0;
#define SXQ_ROW(i) load(column + (size_t)rows[r + (i)] * pitch)
  for (; r + TREE <= safe; r += TREE) SXQ_TREE(SXQ_ROW);
#undef SXQ_ROW
  for (; r < count; r += TREE) {
    /* The last rows: missing ones are zero, and none is read behind its end. */
    uint8_t copies[TREE][WIDTH];
    memset(copies, 0, sizeof copies);
    for (size_t i = 0; i < TREE && r + i < count; ++i) {
      const uint8_t* from = column + (size_t)rows[r + i] * pitch;
      if (r + i < safe) {
        memcpy(copies[i], from, WIDTH);
      } else {
        memcpy(copies[i], from, width);
      }
    }
#define SXQ_ROW(i) load(copies[i])
    SXQ_TREE(SXQ_ROW);
#undef SXQ_ROW
  }
  counters found = {ones, twos, fours, eights, {{0}}};
  for (int bit = 0; bit < 8; ++bit) found.sixteens[bit] = sixteens[bit];
  return found;
}

/* low[bit][byte] + 16 * high[bit][byte] ones at that place. */
static inline void spread(const counters* found, uint8_t low[8][WIDTH], uint8_t high[8][WIDTH]) {
  const word mask = every_byte(1);
  for (int bit = 0; bit < 8; ++bit) {
    word value = (found->ones >> bit) & mask;
    value |= ((found->twos >> bit) & mask) << 1;
    value |= ((found->fours >> bit) & mask) << 2;
    value |= ((found->eights >> bit) & mask) << 3;
    memcpy(low[bit], &value, WIDTH);
    memcpy(high[bit], &found->sixteens[bit], WIDTH);
  }
}

/* sums[n] = step * digits - offset * count, the digits from the counted bits. */
static void sums_of_1_bit(uint8_t (*low)[WIDTH], uint8_t (*high)[WIDTH], int32_t bias, int32_t* sums) {
  for (size_t byte = 0; byte < WIDTH; ++byte) {
    for (int bit = 0; bit < 8; ++bit) sums[8 * byte + bit] = 2 * (low[bit][byte] + 16 * high[bit][byte]) - bias;
  }
}

static void sums_of_2_bit(uint8_t (*low)[WIDTH], uint8_t (*high)[WIDTH], int32_t bias, int32_t* sums) {
  for (size_t byte = 0; byte < WIDTH; ++byte) {
    for (int i = 0; i < 4; ++i) {
      const int32_t even = low[2 * i][byte] + 16 * high[2 * i][byte];
      const int32_t odd = low[2 * i + 1][byte] + 16 * high[2 * i + 1][byte];
      sums[4 * byte + i] = even + 2 * odd - bias;
    }
  }
}

static void sums_of_more(uint8_t (*low)[WIDTH], uint8_t (*high)[WIDTH], int bits, int32_t bias, int32_t* sums) {
  int32_t total[WIDTH][2];
  const int per_byte = bits == 4 ? 2 : 1;
  for (size_t byte = 0; byte < WIDTH; ++byte) {
    for (int i = 0; i < per_byte; ++i) {
      int32_t digits = 0;
      for (int bit = 0; bit < 8 / per_byte; ++bit) {
        const int place = i * 4 + bit;
        digits += (low[place][byte] + 16 * high[place][byte]) << bit;
      }
      total[byte][i] = digits;
    }
  }
  if (bits == 4) {
    for (size_t n = 0; n < 2 * WIDTH; ++n) sums[n] = total[n / 2][n % 2] - bias;
  } else if (bits == 8) {
    for (size_t n = 0; n < WIDTH; ++n) sums[n] = total[n][0] - bias;
  } else {
    for (size_t n = 0; n < WIDTH / 2; ++n) sums[n] = total[2 * n][0] + 256 * total[2 * n + 1][0] - bias;
  }
}

static void block_sums(
    const sxq_codes* codes, size_t first_byte, const uint32_t* rows, size_t count, int32_t* sums) {
  const size_t pitch = sxq_row_bytes(codes->layout, codes->columns);
  const uint8_t* column = codes->packed + first_byte;
  const size_t width = pitch - first_byte < WIDTH ? pitch - first_byte : WIDTH;
  /* A row may be read past its end where other rows follow: what is read too much is not used. */
  size_t safe = count;
  while (safe && (size_t)rows[safe - 1] * pitch + first_byte + WIDTH > codes->rows * pitch) --safe;
  const counters found = count_bits(column, pitch, width, rows, count, safe);
  uint8_t low[8][WIDTH], high[8][WIDTH];
  spread(&found, low, high);
  const int32_t bias = codes->layout->offset * (int32_t)count;
  switch (codes->layout->bits) {
    case 1: sums_of_1_bit(low, high, bias, sums); break;
    case 2: sums_of_2_bit(low, high, bias, sums); break;
    default: sums_of_more(low, high, codes->layout->bits, bias, sums);
  }
}

static void row_sums(const sxq_codes* codes, const uint32_t* rows, size_t count, int32_t* sums) {
  const size_t pitch = sxq_row_bytes(codes->layout, codes->columns);
  const size_t columns_a_block = (size_t)WIDTH * 8 / (size_t)codes->layout->bits;
  for (size_t byte = 0, n = 0; byte < pitch; byte += WIDTH, n += columns_a_block) {
    size_t now = count < MOST_ROWS ? count : MOST_ROWS;
    block_sums(codes, byte, rows, now, sums + n);
    for (size_t done = now; done < count; done += now) {
      int32_t more[WIDTH * 8];
      now = count - done < MOST_ROWS ? count - done : MOST_ROWS;
      block_sums(codes, byte, rows + done, now, more);
      for (size_t i = 0; i < columns_a_block; ++i) sums[n + i] += more[i];
    }
  }
}
