/* Spikes of either sign, in C. */

static size_t active_signed(
    const float* x, size_t count, float unit, size_t pitch, uint32_t* rows, uint32_t* minus_rows, size_t* minus,
    bool* others) {
  size_t found = 0, less = 0;
  bool odd = false;
  for (size_t k = 0; k < count; ++k) {
    rows[found] = minus_rows[less] = (uint32_t)(k * pitch);
    const bool set = x[k] != 0.0f, up = set & (x[k] == unit), down = set & (x[k] == -unit);
    found += up;
    less += down;
    odd |= set & !up & !down;
  }
  *others = odd;
  *minus = less;
  return found;
}
