/* Sums of selected rows of packed codes, without unpacking them.
 *
 * The sum of codes over the inputs that spiked is, for each output, made of the numbers of ones in the bit positions
 * of its digit, which carry_save.h counts for a register of columns at once. The work is in proportion to the number
 * of spikes, reads the packed bytes as they are in the file, and is the same for every layout of 1 to 16 bit.
 *
 * Needs, besides what carry_save.h needs: few_in_order(), many_in_order(), widen_few() and widen_many() of ordered.h or
 * ordered_x86.h.
 */

/* One sum to the target; `at` is its place. */
ALWAYS_INLINE void emit_one(int32_t sum, const sxq_target* to, size_t at, size_t n) {
  if (to->y) {
    const float y = ((float)sum * to->grid) * to->scale[n];
    to->y[at] = to->bias ? y + to->bias[n] : y;
  } else {
    to->sums[at] += to->weight * sum;
  }
}

/* PART neighbours, which are side by side from `plus` on (less those from `minus` on, if it is not NULL). */
#define SXQ_EMIT(NAME, TYPE, PART, WIDEN)                                                                   \
  typedef float NAME##_floats __attribute__((vector_size((PART) * 4)));                                     \
  typedef int32_t NAME##_ints __attribute__((vector_size((PART) * 4)));                                     \
  ALWAYS_INLINE void NAME(const TYPE* plus, const TYPE* minus, const sxq_target* to, size_t at, size_t n) { \
    NAME##_ints sum = (NAME##_ints)WIDEN(plus);                                                             \
    if (minus) sum -= (NAME##_ints)WIDEN(minus);                                                            \
    if (to->y) {                                                                                            \
      NAME##_floats scale, y = __builtin_convertvector(sum, NAME##_floats) * to->grid;                      \
      memcpy(&scale, to->scale + n, sizeof scale);                                                          \
      y *= scale;                                                                                           \
      if (to->bias) {                                                                                       \
        memcpy(&scale, to->bias + n, sizeof scale);                                                         \
        y += scale;                                                                                         \
      }                                                                                                     \
      memcpy(to->y + at, &y, sizeof y);                                                                     \
    } else {                                                                                                \
      NAME##_ints total;                                                                                    \
      memcpy(&total, to->sums + at, sizeof total);                                                          \
      total += to->weight * sum;                                                                            \
      memcpy(to->sums + at, &total, sizeof total);                                                          \
    }                                                                                                       \
  }

/* The first `columns` of a block's sums to row m of the target. They are ordered in groups: a register holds WIDTH / 16
 * groups, and the columns run over the first groups of all registers, then over their second ones. */
#define SXQ_EMIT_BLOCK(NAME, TYPE, GROUP, PART)                                                                   \
  ALWAYS_INLINE void NAME##_block(                                                                                \
      const TYPE* plus, const TYPE* minus, size_t registers, size_t columns, const sxq_target* target, size_t m,  \
      size_t first) {                                                                                             \
    const sxq_target to = *target;                                                                                \
    size_t n = first, at = m * to.pitch + first;                                                                  \
    for (size_t lane = 0; lane < WIDTH / 16; ++lane) {                                                            \
      for (size_t r = 0; r < registers; ++r) {                                                                    \
        for (size_t i = 0; i < (GROUP); i += (PART), n += (PART), at += (PART)) {                                 \
          const size_t from = (r * (WIDTH / 16) + lane) * (GROUP) + i;                                            \
          if (n + (PART) - first <= columns) {                                                                    \
            NAME(plus + from, minus ? minus + from : NULL, &to, at, n);                                           \
          } else {                                                                                                \
            for (size_t j = 0; n + j - first < columns; ++j) {                                                    \
              emit_one(plus[from + j] - (minus ? minus[from + j] : 0), &to, at + j, n + j);                       \
            }                                                                                                     \
            return;                                                                                               \
          }                                                                                                       \
        }                                                                                                         \
      }                                                                                                           \
    }                                                                                                             \
  }

SXQ_EMIT(emit_few, int8_t, FEW_PART, widen_few)
SXQ_EMIT(emit_many, int16_t, MANY_PART, widen_many)
SXQ_EMIT_BLOCK(emit_few, int8_t, 16, FEW_PART)
SXQ_EMIT_BLOCK(emit_many, int16_t, 8, MANY_PART)
#undef SXQ_EMIT_BLOCK
#undef SXQ_EMIT

typedef struct {
  const sxq_codes* codes;
  size_t byte, width; /* the block's first byte of a row, and its bytes */
} column_block;

ALWAYS_INLINE counters count_block(const column_block* block, const uint32_t* rows, size_t count, int planes) {
  const sxq_codes* codes = block->codes;
  const size_t bytes = codes->rows * sxq_row_bytes(codes->layout, codes->columns) + codes->slack;
  const uint8_t* column = codes->packed + block->byte;
  /* Two rows fill a register then; adding up its halves takes as long as a few rows. */
  const bool narrow = block->width <= WIDTH / 2 && count > 16;
  const size_t reach = narrow ? WIDTH / 2 : WIDTH;
  /* A row may be read past its end where other rows follow: what is read too much is not used. */
  size_t safe = count;
  if (block->width + codes->slack < reach) {
    while (safe && (size_t)rows[safe - 1] + block->byte + reach > bytes) --safe;
  }
  return narrow ? count_bits(column, block->width, rows, count, safe, planes, 2)
                : count_bits(column, block->width, rows, count, safe, planes, 1);
}

/* At most FEW_ROWS rows: sums of a byte. */
ALWAYS_INLINE void few_sums(
    const column_block* block, const uint32_t* rows, size_t count, int field, int8_t* sums) {
  const counters c = count_block(block, rows, count, FEW_PLANES);
  word part[8];
  field_sums(c.p0, c.p1, c.p2, c.p3, c.p4, c.p5, c.p6, field, part);
  const bytes_of_word bias = (bytes_of_word)every_byte((uint8_t)count);
  for (int i = 0; i < 8 / field; ++i) {
    const bytes_of_word sum = (bytes_of_word)part[i];
    part[i] = (word)(field == 1 ? sum + sum - bias : sum - bias); /* offset is 1; a binary digit's step is 2 */
  }
  few_in_order(part, 8 / field, sums);
}

/* At most MOST_ROWS rows: sums of 16 bit. */
ALWAYS_INLINE void many_sums(
    const column_block* block, const uint32_t* rows, size_t count, int field, int16_t* sums) {
  const counters c = count_block(block, rows, count, PLANES);
  const word none = {0};
  word low[8], high[8];
  field_sums(c.p0, c.p1, c.p2, c.p3, c.p4, c.p5, none, field, low);
  field_sums(c.p6, c.p7, c.p8, c.p9, c.p10, c.p11, none, field, high);
  many_in_order(low, high, 8 / field, field == 1, (int16_t)count, sums);
}

/* One copy of each, for digits of one and of two bits. */
#define SXQ_SUMS(FIELD)                                                                                            \
  static __attribute__((noinline)) void few_sums_##FIELD(                                                          \
      const column_block* block, const uint32_t* rows, size_t count, int8_t* sums) {                               \
    few_sums(block, rows, count, FIELD, sums);                                                                     \
  }                                                                                                                \
  static __attribute__((noinline)) void many_sums_##FIELD(                                                         \
      const column_block* block, const uint32_t* rows, size_t count, int16_t* sums) {                              \
    many_sums(block, rows, count, FIELD, sums);                                                                    \
  }
SXQ_SUMS(1)
SXQ_SUMS(2)
#undef SXQ_SUMS

/* Any number of rows, of digits of any length: in plain steps. */
static void any_sums(const column_block* block, const uint32_t* rows, size_t count, int32_t* sums) {
  const sxq_layout* layout = block->codes->layout;
  const size_t digits = WIDTH * 8 / (size_t)layout->bits;
  memset(sums, 0, digits * sizeof *sums);
  for (size_t done = 0; done < count;) {
    const size_t now = count - done < MOST_ROWS ? count - done : MOST_ROWS;
    const counters c = count_block(block, rows + done, now, PLANES);
    const word none = {0};
    word low[8], high[8];
    uint8_t lows[8][WIDTH], highs[8][WIDTH];
    field_sums(c.p0, c.p1, c.p2, c.p3, c.p4, c.p5, none, 1, low);
    field_sums(c.p6, c.p7, c.p8, c.p9, c.p10, c.p11, none, 1, high);
    memcpy(lows, low, sizeof lows);
    memcpy(highs, high, sizeof highs);
    for (size_t bit = 0; bit < WIDTH * 8; ++bit) {
      const size_t digit = bit / (size_t)layout->bits, place = bit % (size_t)layout->bits;
      sums[digit] += (lows[bit % 8][bit / 8] + 64 * highs[bit % 8][bit / 8]) * (layout->step << place);
    }
    done += now;
  }
  const int32_t bias = layout->offset * (int32_t)count;
  for (size_t n = 0; n < digits; ++n) sums[n] -= bias;
}

ALWAYS_INLINE void products_of(
    const sxq_codes* codes, size_t byte, size_t until, const sxq_selection* selected, size_t count,
    const sxq_target* to, int field) {
  const size_t pitch = sxq_row_bytes(codes->layout, codes->columns);
  const size_t block_columns = WIDTH * 8 / (size_t)codes->layout->bits;
  const size_t last = codes->columns - byte * 8 / (size_t)codes->layout->bits; /* counted from the first one here */
  const size_t steps = count * ((until - byte + WIDTH - 1) / WIDTH), soon_a_step = to->soon_bytes / (steps ? steps : 1) + 1;
  size_t prefetched = 0;
  /* Block by block of the columns, so that the part of the weights that all rows of x need stays in the cache. */
  for (size_t first = 0; byte < until; byte += WIDTH, first += block_columns) {
    const column_block block = {codes, byte, pitch - byte < WIDTH ? pitch - byte : WIDTH};
    const size_t columns = last - first < block_columns ? last - first : block_columns;
    for (size_t m = 0; m < count; ++m) {
      size_t ahead = prefetched + soon_a_step;
      ahead = ahead < to->soon_bytes ? ahead : to->soon_bytes;
      for (; prefetched < ahead; prefetched += 64) __builtin_prefetch(to->soon + prefetched, 0, 2);
      const uint32_t *plus = selected[m].rows, *minus = plus + selected[m].plus;
      const size_t most = selected[m].plus > selected[m].minus ? selected[m].plus : selected[m].minus;
      const bool is_signed = selected[m].minus != 0;
      if (field && most <= FEW_ROWS) {
        int8_t sums[WIDTH * 8], less[WIDTH * 8];
        (field == 1 ? few_sums_1 : few_sums_2)(&block, plus, selected[m].plus, sums);
        if (is_signed) (field == 1 ? few_sums_1 : few_sums_2)(&block, minus, selected[m].minus, less);
        emit_few_block(sums, is_signed ? less : NULL, (size_t)(8 / field), columns, to, m, first);
      } else if (field && most <= MOST_ROWS) {
        int16_t sums[WIDTH * 8], less[WIDTH * 8];
        (field == 1 ? many_sums_1 : many_sums_2)(&block, plus, selected[m].plus, sums);
        if (is_signed) (field == 1 ? many_sums_1 : many_sums_2)(&block, minus, selected[m].minus, less);
        emit_many_block(sums, is_signed ? less : NULL, (size_t)(16 / field), columns, to, m, first);
      } else {
        int32_t sums[WIDTH * 8], less[WIDTH * 8];
        any_sums(&block, plus, selected[m].plus, sums);
        if (is_signed) any_sums(&block, minus, selected[m].minus, less);
        for (size_t n = 0; n < columns; ++n) {
          emit_one(sums[n] - (is_signed ? less[n] : 0), to, m * to->pitch + first + n, first + n);
        }
      }
    }
  }
}

static void products(
    const sxq_codes* codes, size_t byte, size_t until, const sxq_selection* selected, size_t count,
    const sxq_target* to) {
  switch (codes->layout->bits) {
    case 1: products_of(codes, byte, until, selected, count, to, 1); break;
    case 2: products_of(codes, byte, until, selected, count, to, 2); break;
    default: products_of(codes, byte, until, selected, count, to, 0);
  }
}
