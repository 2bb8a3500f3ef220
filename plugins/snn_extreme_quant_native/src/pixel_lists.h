/* Lists of the spikes of pixels: their making, and their joining to lists of windows. */

typedef uint32_t places_at_once __attribute__((vector_size(SXQ_PLACES_AT_ONCE * 4)));

/* Put `row` at the end of the lists of the pixels in `set`, of which the first one is `first`. */
ALWAYS_INLINE void put(const sxq_pixel_lists* lists, size_t first, uint64_t set, uint32_t row) {
  for (; set; set &= set - 1) {
    const size_t pixel = first + (size_t)__builtin_ctzll(set);
    lists->entries[pixel * lists->room + lists->count[pixel]++] = row;
  }
}

static size_t join_lists(
    const sxq_pixel_lists* lists, size_t from, const sxq_window_pixel* pixels, size_t count, uint32_t* rows) {
  uint32_t* end = rows;
  for (size_t i = 0; i < count; ++i) {
    const size_t pixel = (size_t)((ptrdiff_t)from + pixels[i].pixel);
    const uint32_t* entries = lists->entries + pixel * lists->room;
    const size_t listed = lists->count[pixel];
    for (size_t j = 0; j < listed; j += SXQ_PLACES_AT_ONCE) {
      places_at_once places;
      memcpy(&places, entries + j, sizeof places);
      places += pixels[i].row;
      memcpy(end + j, &places, sizeof places);
    }
    end += listed;
  }
  return (size_t)(end - rows);
}
