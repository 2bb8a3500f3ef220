#include "spike_lists.h"

#include <string.h>

size_t sxq_list_room(const sxq_codes* codes) { return codes->rows + 2 * SXQ_ACTIVE_ROOM; }

bool sxq_list_floats(sxq_spike_lists* lists, const float* x, sxq_selection* selected) {
  const sxq_codes* codes = lists->codes;
  const size_t pitch = sxq_row_bytes(codes->layout, codes->columns);
  uint32_t* rows = lists->rows + lists->used;
  bool others = false;
  size_t minus = 0, plus = 0;
  /* Where one row has spikes of either sign, the next will. */
  if (!lists->is_signed) plus = lists->kernels->active(x, codes->rows, lists->grid, pitch, rows, &others);
  lists->is_signed |= others;
  if (lists->is_signed) {
    plus = lists->kernels->active_signed(x, codes->rows, lists->grid, pitch, rows, lists->minus, &minus, &others);
    if (others) return false;
    memcpy(rows + plus, lists->minus, minus * sizeof *rows);
  }
  *selected = (sxq_selection){rows, plus, minus};
  lists->used += plus + minus;
  return true;
}

bool sxq_list_bytes(sxq_spike_lists* lists, const uint8_t* x, bool is_signed, sxq_selection* selected) {
  const sxq_codes* codes = lists->codes;
  const size_t pitch = sxq_row_bytes(codes->layout, codes->columns);
  uint32_t* rows = lists->rows + lists->used;
  size_t others = 0, minus = 0, rest = 0;
  const size_t plus = lists->kernels->active_bytes(x, codes->rows, 1, pitch, rows, &others);
  if (others) {
    if (is_signed) minus = lists->kernels->active_bytes(x, codes->rows, 255, pitch, rows + plus, &rest);
    if (minus != others) return false;
  }
  *selected = (sxq_selection){rows, plus, minus};
  lists->used += plus + minus;
  return true;
}
