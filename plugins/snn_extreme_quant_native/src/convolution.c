#include "convolution.h"

#include <stdlib.h>
#include <string.h>

#include "product.h"

enum { POSITIONS_TOGETHER = 64 };

static size_t group_bytes(const sxq_geometry* g, const sxq_layout* layout) {
  return sxq_window(g) * sxq_row_bytes(layout, g->outputs / g->groups);
}

uint8_t* sxq_codes_by_tap(const sxq_geometry* g, const sxq_codes* codes) {
  const size_t each = g->outputs / g->groups, bytes = group_bytes(g, codes->layout);
  const size_t taps = sxq_taps(g), pitch = sxq_row_bytes(codes->layout, each);
  /* Registers begin where lines of the cache do, and may reach behind the last row. */
  const size_t all = (bytes * g->groups + SXQ_SLACK + 63) / 64 * 64;
  uint8_t *made = aligned_alloc(64, all), *group = malloc(bytes + 1);
  if (made && group) {
    memset(made, 0, all);
    for (size_t i = 0; i < g->groups; ++i) {
      sxq_take_columns(codes->layout, codes->packed, codes->rows, codes->columns, i * each, each, group);
      for (size_t k = 0; k < codes->rows; ++k) {
        const size_t row = k % taps * g->channels + k / taps;
        memcpy(made + i * bytes + row * pitch, group + k * pitch, pitch);
      }
    }
  } else {
    free(made);
    made = NULL;
  }
  free(group);
  return made;
}

sxq_weights sxq_weights_of_group(const sxq_convolution* c, size_t group) {
  const size_t each = c->g->outputs / c->g->groups;
  const uint8_t* packed = c->codes + group * group_bytes(c->g, c->layout);
  return (sxq_weights){
      {c->layout, packed, sxq_window(c->g), each, SXQ_SLACK, NULL, NULL}, c->scale ? c->scale + group * each : NULL};
}

size_t sxq_band_positions(const sxq_convolution* c, const sxq_band* band, size_t* first) {
  size_t inner = 1;
  for (size_t axis = band->axis + 1; axis < SXQ_AXES; ++axis) inner *= (size_t)c->out[axis];
  *first = (size_t)band->first * inner;
  return (size_t)(band->last - band->first) * inner;
}

void sxq_store_positions(
    const sxq_convolution* c, const sxq_band* band, const void* sums, size_t first, size_t count) {
  const size_t each = c->g->outputs / c->g->groups, positions = (size_t)(c->out[0] * c->out[1] * c->out[2]);
  uint32_t* y = (uint32_t*)c->y + (band->sample * c->g->outputs + band->group * each) * positions + first;
  c->kernels->transpose(sums, count, each, y, positions);
}

/* The inputs, each of `size` bytes, that output position `at` sees in one group's channels, tap by tap. */
static void gather(const sxq_convolution* c, const char* x, size_t size, size_t at, char* to) {
  const sxq_geometry* g = c->g;
  const int64_t place[SXQ_AXES] = {
      (int64_t)at / (c->out[1] * c->out[2]) * g->stride[0] - g->begin[0],
      (int64_t)at / c->out[2] % c->out[1] * g->stride[1] - g->begin[1],
      (int64_t)at % c->out[2] * g->stride[2] - g->begin[2],
  };
  const size_t plane = (size_t)(c->in[0] * c->in[1] * c->in[2]) * size;
  for (int64_t a = 0; a < g->kernel[0]; ++a) {
    const int64_t i = place[0] + a * g->dilation[0];
    for (int64_t b = 0; b < g->kernel[1]; ++b) {
      const int64_t j = place[1] + b * g->dilation[1];
      const bool inside = i >= 0 && i < c->in[0] && j >= 0 && j < c->in[1];
      for (int64_t d = 0; d < g->kernel[2]; ++d, to += g->channels * size) {
        const int64_t k = place[2] + d * g->dilation[2];
        if (!inside || k < 0 || k >= c->in[2]) {
          memset(to, 0, g->channels * size);
          continue;
        }
        const char* from = x + (size_t)((i * c->in[1] + j) * c->in[2] + k) * size;
        if (size == 1) {
          for (size_t channel = 0; channel < g->channels; ++channel) to[channel] = from[channel * plane];
        } else {
          for (size_t channel = 0; channel < g->channels; ++channel) {
            memcpy(to + channel * sizeof(float), from + channel * plane, sizeof(float));
          }
        }
      }
    }
  }
}

sxq_outcome sxq_convolve_windows(const sxq_convolution* c, const sxq_band* band) {
  const sxq_geometry* g = c->g;
  const sxq_weights weights = sxq_weights_of_group(c, band->group);
  const size_t size = c->scale ? sizeof(float) : 1, window = weights.codes.rows * size;
  const size_t plane = (size_t)(c->in[0] * c->in[1] * c->in[2]) * size, each = weights.codes.columns;
  const char* x = (const char*)c->x + (band->sample * g->groups + band->group) * g->channels * plane;
  size_t first;
  const size_t count = sxq_band_positions(c, band, &first);
  char* sums = malloc((each * sizeof(float) + window) * POSITIONS_TOGETHER);
  if (!sums) return SXQ_NO_MEMORY;
  char* windows = sums + each * sizeof(float) * POSITIONS_TOGETHER;
  bool done = true;
  for (size_t p = 0; done && p < count; p += POSITIONS_TOGETHER) {
    const size_t now = count - p < POSITIONS_TOGETHER ? count - p : POSITIONS_TOGETHER;
    for (size_t i = 0; i < now; ++i) gather(c, x, size, first + p + i, windows + i * window);
    done = c->scale ? sxq_product(
                          c->kernels, &weights, c->table, 1.0f, 1.0f, (const float*)(const void*)windows, now,
                          (float*)(void*)sums)
                    : sxq_integer_product(
                          c->kernels, &weights.codes, c->table, c->is_signed, (const uint8_t*)windows, now,
                          (int32_t*)(void*)sums);
    if (done) sxq_store_positions(c, band, sums, first + p, now);
  }
  free(sums);
  return done ? SXQ_DONE : SXQ_NO_MEMORY;
}
