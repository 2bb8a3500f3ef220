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

/* Where a window begins: its place in the input, padding and all. */
typedef struct {
  int64_t at[SXQ_AXES];
} corner;

static corner corner_of(const sxq_convolution* c, size_t position) {
  const sxq_geometry* g = c->g;
  const int64_t at = (int64_t)position;
  return (corner){{
      at / (c->out[1] * c->out[2]) * g->stride[0] - g->begin[0],
      at / c->out[2] % c->out[1] * g->stride[1] - g->begin[1],
      at % c->out[2] * g->stride[2] - g->begin[2],
  }};
}

static int64_t pixel_of(const box* b, const corner* k) {
  return ((k->at[0] - b->low[0]) * (b->high[1] - b->low[1]) + k->at[1] - b->low[1]) * (b->high[2] - b->low[2]) +
         k->at[2] - b->low[2];
}

/* Whether no place of the window is padding. */
static bool is_inside(const sxq_convolution* c, const corner* k) {
  bool inside = true;
  for (size_t axis = 0; axis < SXQ_AXES; ++axis) {
    inside &= k->at[axis] >= 0 && k->at[axis] + sxq_reach(c->g, axis) <= c->in[axis];
  }
  return inside;
}

/* The pixels of a window, counted from its corner, without those that are padding (with them if `all`), and each one's
 * first row of codes; returns how many. */
static size_t window_pixels(const events* e, const corner* place, bool all, sxq_window_pixel* pixels) {
  const sxq_convolution* c = e->c;
  const sxq_geometry* g = c->g;
  const box* b = &e->box;
  const int64_t line = b->high[2] - b->low[2], plane = line * (b->high[1] - b->low[1]);
  const uint32_t a_tap = (uint32_t)(g->channels * e->pitch);
  uint32_t row = 0;
  size_t found = 0;
  int64_t tap[SXQ_AXES];
  for (tap[0] = 0; tap[0] < g->kernel[0]; ++tap[0]) {
    for (tap[1] = 0; tap[1] < g->kernel[1]; ++tap[1]) {
      for (tap[2] = 0; tap[2] < g->kernel[2]; ++tap[2], row += a_tap) {
        int64_t away[SXQ_AXES];
        bool inside = true;
        for (size_t axis = 0; axis < SXQ_AXES; ++axis) {
          away[axis] = tap[axis] * g->dilation[axis];
          inside &= place->at[axis] + away[axis] >= 0 && place->at[axis] + away[axis] < c->in[axis];
        }
        if (!all && !inside) continue;
        pixels[found++] = (sxq_window_pixel){(int32_t)(away[0] * plane + away[1] * line + away[2]), row};
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
  const size_t taps = sxq_taps(c->g);
  sxq_window_pixel* pixels = malloc(2 * taps * sizeof *pixels);
  const bool there = list && sums && pixels;
  if (there) window_pixels(e, &(corner){{0}}, true, pixels);
  for (size_t p = 0; there && p < count; ++p) {
    const corner place = corner_of(c, first + p);
    const bool whole = is_inside(c, &place);
    const sxq_window_pixel* seen = whole ? pixels : pixels + taps;
    const size_t inside = whole ? taps : window_pixels(e, &place, false, pixels + taps);
    const size_t from = (size_t)pixel_of(&e->box, &place);
    uint32_t* rows = list + used;
    const size_t plus = c->kernels->join_lists(&e->plus, from, seen, inside, rows);
    const size_t minus = e->is_signed ? c->kernels->join_lists(&e->minus, from, seen, inside, rows + plus) : 0;
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
    c->kernels->products(
        &weights.codes, 0, sxq_row_bytes(weights.codes.layout, weights.codes.columns), selected, waiting, &to);
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
  if (e.box.pixels > INT32_MAX) return SXQ_OTHER_INPUTS;
  e.pitch = sxq_row_bytes(c->layout, weights.codes.columns);
  sxq_outcome outcome = list_spikes(&e);
  if (outcome == SXQ_DONE) outcome = add_rows(&e);
  free(e.plus.entries);
  free(e.minus.entries);
  return outcome;
}
