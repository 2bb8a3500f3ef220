/* Counts of ones in each bit position of selected rows: a positional population count with carry-save adders.
 *
 * Three words of equal weight become one of the same weight (their exclusive or) and one of twice the weight (their
 * majority). Thirty-two rows go through the tree of Harley and Seal at about two instructions a row, and what comes
 * out of its top is added to planes of higher weight as to a binary counter. A count is then spread over the planes:
 * its bit j, for every bit position at once, is plane j.
 *
 * Needs of the file that includes this: WIDTH (bytes of a register), `word` (a vector of uint64_t),
 * full_add(high, low, a, b, c), choose(mask, a, b), which takes bits of a where the mask is set and of b elsewhere,
 * load_two(a, b), which puts half a register from either place side by side, and upper_half(a), which moves it down.
 */
#include <string.h>

typedef uint8_t bytes_of_word __attribute__((vector_size(WIDTH)));

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum {
  PLANES = 12, MOST_ROWS = (1 << PLANES) - 1, /* rows that the planes can count */
  FEW_PLANES = 7, FEW_ROWS = (1 << FEW_PLANES) - 1,
};

/* Names rather than arrays from here on: compilers keep those in registers. */
typedef struct {
  word p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11;
} counters;

ALWAYS_INLINE word load(const uint8_t* from) {
  word value;
  memcpy(&value, from, WIDTH);
  return value;
}

ALWAYS_INLINE word every_byte(uint8_t value) {
  return (word)((bytes_of_word){0} + value);
}

/* Eight rows; what carries out has weight 8. The planes come in last at each weight: only that one step waits for the
 * eight rows before. */
#define SXQ_EIGHT(carry, ROW)                  \
  do {                                         \
    word a_, b_, c_, d_, e_, f_;               \
    full_add(a_, b_, ROW(0), ROW(1), ROW(2));  \
    full_add(c_, d_, ROW(3), ROW(4), ROW(5));  \
    full_add(e_, b_, b_, d_, ROW(6));          \
    full_add(f_, c.p0, b_, ROW(7), c.p0);      \
    full_add(a_, b_, a_, c_, e_);              \
    full_add(e_, c.p1, b_, f_, c.p1);          \
    full_add(carry, c.p2, a_, e_, c.p2);       \
  } while (0)

/* Add a carry to plane j, and what that carries to the next. */
#define SXQ_HALF(j, carry)                 \
  do {                                     \
    const word over_ = c.p##j & (carry);   \
    c.p##j ^= (carry);                     \
    (carry) = over_;                       \
  } while (0)

#define SXQ_FROM_FIVE(carry)      \
  do {                            \
    SXQ_HALF(5, carry);           \
    SXQ_HALF(6, carry);           \
    if (planes > FEW_PLANES) {    \
      SXQ_HALF(7, carry);         \
      SXQ_HALF(8, carry);         \
      SXQ_HALF(9, carry);         \
      SXQ_HALF(10, carry);        \
      c.p11 ^= (carry);           \
    }                             \
  } while (0)

#define SXQ_FROM_THREE(carry) \
  do {                        \
    SXQ_HALF(3, carry);       \
    SXQ_HALF(4, carry);       \
    SXQ_FROM_FIVE(carry);     \
  } while (0)

/* Add up the counts of a register's two halves; what the upper one holds afterwards means nothing. */
ALWAYS_INLINE counters both_halves(counters c, int planes) {
  word carry = {0};
#define SXQ_PLANE(j) full_add(carry, c.p##j, upper_half(c.p##j), c.p##j, carry)
  SXQ_PLANE(0);
  SXQ_PLANE(1);
  SXQ_PLANE(2);
  SXQ_PLANE(3);
  SXQ_PLANE(4);
  SXQ_PLANE(5);
  SXQ_PLANE(6);
  if (planes == FEW_PLANES) return c;
  SXQ_PLANE(7);
  SXQ_PLANE(8);
  SXQ_PLANE(9);
  SXQ_PLANE(10);
  SXQ_PLANE(11);
#undef SXQ_PLANE
  return c;
}

/* Count `count` rows, fewer than 2^planes, of which `side` are side by side in a register: one, or two of half its
 * width. The first `safe` of them may be read that wide, of the others only `width` bytes are there. */
ALWAYS_INLINE counters count_bits(
    const uint8_t* column, size_t width, const uint32_t* rows, size_t count, size_t safe, int planes, size_t side) {
  static const uint8_t nothing[WIDTH];
  counters c = {0};
  word low, next, carry;
  size_t r = 0;
#define SXQ_ROW(i)                                                                                \
  (side == 1 ? load(column + rows[r + (i)])                                                       \
             : load_two(column + rows[r + 2 * (i)], column + rows[r + 2 * (i) + 1]))
  for (; r + 32 * side <= safe; r += 8 * side) {
    word sixteen;
    SXQ_EIGHT(low, SXQ_ROW);
    r += 8 * side;
    SXQ_EIGHT(next, SXQ_ROW);
    full_add(sixteen, c.p3, c.p3, low, next);
    r += 8 * side;
    SXQ_EIGHT(low, SXQ_ROW);
    r += 8 * side;
    SXQ_EIGHT(next, SXQ_ROW);
    full_add(low, c.p3, c.p3, low, next);
    full_add(carry, c.p4, c.p4, sixteen, low);
    SXQ_FROM_FIVE(carry);
  }
  for (; r + 8 * side <= safe; r += 8 * side) {
    SXQ_EIGHT(carry, SXQ_ROW);
    SXQ_FROM_THREE(carry);
  }
#undef SXQ_ROW
  for (; r < count; r += 8 * side) {
    /* The last rows: missing ones are zero, and none is read behind its end. */
    const uint8_t* row[16];
    uint8_t copies[16][WIDTH];
    for (size_t i = 0; i < 8 * side; ++i) row[i] = r + i < safe ? column + rows[r + i] : nothing;
    if (safe < count) {
      for (size_t i = 0; i < 8 * side; ++i) {
        if (r + i < safe || r + i >= count) continue;
        memset(copies[i], 0, WIDTH);
        memcpy(copies[i], column + rows[r + i], width);
        row[i] = copies[i];
      }
    }
#define SXQ_ROW(i) (side == 1 ? load(row[i]) : load_two(row[2 * (i)], row[2 * (i) + 1]))
    SXQ_EIGHT(carry, SXQ_ROW);
    SXQ_FROM_THREE(carry);
#undef SXQ_ROW
  }
  return side == 1 ? c : both_halves(c, planes);
}

/* Fields of `size` bits of two words side by side: the even ones to `even`, the odd ones to `odd`. */
ALWAYS_INLINE void side_by_side(word a, word b, int size, uint8_t mask, word* even, word* odd) {
  const word lower = every_byte(mask);
  *even = choose(lower, a, b << size);
  *odd = choose(lower, a >> size, b);
}

/* From words a, b, c, d of fields of two bits: byte[i] = a's field i + 4 b's + 16 c's + 64 d's. */
ALWAYS_INLINE void gather_pairs(word a, word b, word c, word d, word* byte0, word* byte1, word* byte2, word* byte3) {
  word ab0, ab1, cd0, cd1;
  side_by_side(a, b, 2, 0x33, &ab0, &ab1);
  side_by_side(c, d, 2, 0x33, &cd0, &cd1);
  side_by_side(ab0, cd0, 4, 0x0f, byte0, byte2);
  side_by_side(ab1, cd1, 4, 0x0f, byte1, byte3);
}

ALWAYS_INLINE word with_twice(word a, word b) {
  return (word)((bytes_of_word)a + (bytes_of_word)b + (bytes_of_word)b);
}

/* Sums of the fields of `size` bits (1 or 2) that planes a, b, c, ... of weight 1, 2, 4, ... count, as bytes: field i
 * of each byte is in byte[i]. The highest sum must fit a byte. */
ALWAYS_INLINE void field_sums(word a, word b, word c, word d, word e, word f, word g, int size, word* byte) {
  const word h = {0};
  word a0, a1, a2, a3, b0, b1, b2, b3;
  if (size == 1) {
    side_by_side(a, b, 1, 0x55, &a0, &b0);
    side_by_side(c, d, 1, 0x55, &a1, &b1);
    side_by_side(e, f, 1, 0x55, &a2, &b2);
    side_by_side(g, h, 1, 0x55, &a3, &b3);
    gather_pairs(a0, a1, a2, a3, &byte[0], &byte[2], &byte[4], &byte[6]);
    gather_pairs(b0, b1, b2, b3, &byte[1], &byte[3], &byte[5], &byte[7]);
    return;
  }
  gather_pairs(a, c, e, g, &a0, &a1, &a2, &a3);
  gather_pairs(b, d, f, h, &b0, &b1, &b2, &b3);
  byte[0] = with_twice(a0, b0);
  byte[1] = with_twice(a1, b1);
  byte[2] = with_twice(a2, b2);
  byte[3] = with_twice(a3, b3);
}
