/* Convolutions of spikes: each pixel's spikes are listed once, each window's list is made of those of its pixels. */
#include <stdlib.h>

#include "convolution.h"
#include "product.h"

enum { TOGETHER = 64, LIST_ROOM = 30000 };

/* Inputs that a band's windows touch. */
typedef struct {
  int64_t low[SXQ_AXES], high[SXQ_AXES];
  size_t pixels;
} box;

typedef struct {
  const sxq_convolution* c;
  const sxq_band* band;
  box box;
  size_t pitch; /* of a row of codes */
  sxq_pixel_lists plus, minus;
  bool is_signed;
} events;

static box box_of(const sxq_convolution* c, const sxq_band* band) {
  const sxq_geometry* g = c->g;
  box b = {.pixels = 1};
  for (size_t axis = 0; axis < SXQ_AXES; ++axis) {
    b.high[axis] = c->in[axis];
    if (axis == band->axis) {
      const int64_t low = band->first * g->stride[axis] - g->begin[axis];
      const int64_t high = (band->last - 1) * g->stride[axis] - g->begin[axis] + sxq_reach(g, axis);
      if (low > 0) b.low[axis] = low;
      if (high < b.high[axis]) b.high[axis] = high;
    }
    b.pixels *= b.high[axis] > b.low[axis] ? (size_t)(b.high[axis] - b.low[axis]) : 0;
  }
  return b;
}

/* Pixels of the box that lie side by side in a channel. */
static size_t run_length(const events* e) {
  const box* b = &e->box;
  size_t run = 1;
  for (size_t axis = SXQ_AXES; axis-- > 0;) {
    run *= (size_t)(b->high[axis] - b->low[axis]);
    if (b->low[axis] > 0 || b->high[axis] < e->c->in[axis]) break;
  }
  return run;
}

/* List the pixels' inputs that are the unit (1, or -1 if `minus`); returns how many inputs are not 0 nor the unit. */
static size_t list_pixels(events* e, bool minus) {
  const sxq_convolution* c = e->c;
  const box* b = &e->box;
  const size_t plane = (size_t)(c->in[0] * c->in[1] * c->in[2]), size = c->scale ? sizeof(float) : 1;
  const char* x = (const char*)c->x + (e->band->sample * c->g->groups + e->band->group) * c->g->channels * plane * size;
  sxq_pixel_lists lists = minus ? e->minus : e->plus;
  const size_t run = run_length(e), along = (size_t)(b->high[2] - b->low[2]);
  for (size_t i = 0; i < b->pixels; ++i) lists.count[i] = 0;
  size_t others = 0;
  for (size_t first = 0; first < b->pixels; first += run) {
    const size_t line = first / along, lines = (size_t)(b->high[1] - b->low[1]);
    const int64_t i = b->low[0] + (int64_t)(line / lines), j = b->low[1] + (int64_t)(line % lines);
    const char* from = x + (size_t)((i * c->in[1] + j) * c->in[2] + b->low[2]) * size;
    const sxq_pixel_lists here = {lists.entries + first * lists.room, lists.count + first, lists.room};
    for (size_t channel = 0; channel < c->g->channels; ++channel, from += plane * size) {
      const uint32_t row = (uint32_t)(channel * e->pitch);
      if (c->scale) {
        others += c->kernels->list_floats((const float*)(const void*)from, run, minus ? -1.0f : 1.0f, row, &here);
      } else {
        others += c->kernels->list_bytes((const uint8_t*)from, run, minus ? 255 : 1, row, &here);
      }
    }
  }
  return others;
}

static size_t listed(const events* e, const sxq_pixel_lists* lists) {
  size_t all = 0;
  for (size_t i = 0; i < e->box.pixels; ++i) all += lists->count[i];
  return all;
}

/* Memory for lists of all pixels; false if there is none. */
static bool make_lists(const events* e, sxq_pixel_lists* lists) {
  lists->room = (e->c->g->channels + SXQ_PLACES_AT_ONCE - 1) / SXQ_PLACES_AT_ONCE * SXQ_PLACES_AT_ONCE;
  lists->entries = malloc(e->box.pixels * (lists->room + 1) * sizeof *lists->entries + 1);
  lists->count = lists->entries + e->box.pixels * lists->room;
  return lists->entries != NULL;
}

static sxq_outcome list_spikes(events* e) {
  if (!make_lists(e, &e->plus)) return SXQ_NO_MEMORY;
  const size_t others = list_pixels(e, false);
  e->is_signed = others != 0;
  if (!e->is_signed) return SXQ_DONE;
  if (!e->c->scale && !e->c->is_signed) return SXQ_OTHER_INPUTS;
  if (!make_lists(e, &e->minus)) return SXQ_NO_MEMORY;
  list_pixels(e, true);
  return listed(e, &e->minus) == others ? SXQ_DONE : SXQ_OTHER_INPUTS;
}

/* The pixels of output `at`'s window that are inside, and each one's first row of codes; returns how many. */
static size_t window_pixels(const events* e, size_t at, sxq_window_pixel* pixels) {
  const sxq_convolution* c = e->c;
  const sxq_geometry* g = c->g;
  const box* b = &e->box;
  const int64_t place[SXQ_AXES] = {
      (int64_t)at / (c->out[1] * c->out[2]) * g->stride[0] - g->begin[0],
      (int64_t)at / c->out[2] % c->out[1] * g->stride[1] - g->begin[1],
      (int64_t)at % c->out[2] * g->stride[2] - g->begin[2],
  };
  const uint32_t a_tap = (uint32_t)(g->channels * e->pitch);
  uint32_t row = 0;
  size_t found = 0;
  for (int64_t a = 0; a < g->kernel[0]; ++a) {
    const int64_t i = place[0] + a * g->dilation[0];
    for (int64_t d = 0; d < g->kernel[1]; ++d) {
      const int64_t j = place[1] + d * g->dilation[1];
      if (i < 0 || i >= c->in[0] || j < 0 || j >= c->in[1]) {
        row += a_tap * (uint32_t)g->kernel[2];
        continue;
      }
      const int64_t line = ((i - b->low[0]) * (b->high[1] - b->low[1]) + j - b->low[1]) * (b->high[2] - b->low[2]);
      for (int64_t f = 0; f < g->kernel[2]; ++f, row += a_tap) {
        const int64_t k = place[2] + f * g->dilation[2];
        if (k < 0 || k >= c->in[2]) continue;
        pixels[found++] = (sxq_window_pixel){(uint32_t)(line + k - b->low[2]), row};
      }
    }
  }
  return found;
}

/* All positions of the band from the lists. */
static sxq_outcome add_rows(const events* e) {
  const sxq_convolution* c = e->c;
  const sxq_weights weights = sxq_weights_of_group(c, e->band->group);
  const size_t each = weights.codes.columns, window = weights.codes.rows;
  const size_t one = (e->is_signed ? 2 : 1) * (window + SXQ_PLACES_AT_ONCE), room = one > LIST_ROOM ? one : LIST_ROOM;
  size_t first, used = 0, waiting = 0;
  const size_t count = sxq_band_positions(c, e->band, &first);
  sxq_selection selected[TOGETHER];
  uint32_t* list = malloc(room * sizeof *list);
  uint32_t* sums = malloc(TOGETHER * each * sizeof *sums);
  sxq_window_pixel* pixels = malloc(sxq_taps(c->g) * sizeof *pixels);
  const bool there = list && sums && pixels;
  for (size_t p = 0; there && p < count; ++p) {
    const size_t inside = window_pixels(e, first + p, pixels);
    uint32_t* rows = list + used;
    const size_t plus = c->kernels->join_lists(&e->plus, pixels, inside, rows);
    const size_t minus = e->is_signed ? c->kernels->join_lists(&e->minus, pixels, inside, rows + plus) : 0;
    selected[waiting++] = (sxq_selection){rows, plus, minus};
    used += plus + minus;
    if (waiting < TOGETHER && used + one <= room && p + 1 < count) continue;
    sxq_target to = {.pitch = each, .scale = weights.scale, .grid = 1.0f, .weight = 1};
    if (c->scale) {
      to.y = (float*)(void*)sums;
    } else {
      to.sums = (int32_t*)sums;
      for (size_t i = 0; i < waiting * each; ++i) sums[i] = 0;
    }
    c->kernels->products(&weights.codes, selected, waiting, &to);
    sxq_store_positions(c, e->band, sums, first + p + 1 - waiting, waiting);
    waiting = used = 0;
  }
  free(list);
  free(sums);
  free(pixels);
  return there ? SXQ_DONE : SXQ_NO_MEMORY;
}

sxq_outcome sxq_convolve_spikes(const sxq_convolution* c, const sxq_band* band) {
  const sxq_weights weights = sxq_weights_of_group(c, band->group);
  if (!sxq_sums_fit(&weights.codes, 1.0)) return SXQ_OTHER_INPUTS;
  events e = {.c = c, .band = band, .box = box_of(c, band)};
  if (e.box.pixels > UINT32_MAX) return SXQ_OTHER_INPUTS;
  e.pitch = sxq_row_bytes(c->layout, weights.codes.columns);
  sxq_outcome outcome = list_spikes(&e);
  if (outcome == SXQ_DONE) outcome = add_rows(&e);
  free(e.plus.entries);
  free(e.minus.entries);
  return outcome;
}
