/* Some rows of a step, at all steps, go together. Their spikes are listed; then, for a tile of columns, their currents are
 * summed into a buffer that stays in the cache, and the tile's neurons take all steps.
 */
#include <stdlib.h>
#include <string.h>

#include "bit_planes.h"
#include "fused.h"
#include "product.h"
#include "spike_lists.h"

/* Rows of inputs that go together, and entries in their lists that they may need at most. */
enum { MOST_TOGETHER = 32, MOST_ENTRIES = 1 << 18 };
/* Bytes of codes that stay in the second cache, and from which on two threads share them. */
enum { CACHE_LINE = 64, NEAR_BYTES = 768 << 10, LARGE_CODES = 256 << 10 };

static size_t pitch_of(const sxq_codes* codes) { return sxq_row_bytes(codes->layout, codes->columns); }
static size_t columns_of(const sxq_codes* codes, size_t bytes) { return bytes * 8 / (size_t)codes->layout->bits; }

/* Whether so many spikes of some rows are more than sums of selected rows are made for (bit_planes.h). */
static bool dense(const sxq_codes* codes, size_t spikes, size_t rows) {
  const sxq_bit_kernels* kernels = codes->store ? codes->store->kernels : NULL;
  if (!kernels || codes->layout->bits > 2 || rows < kernels->rows) return false;
  return (float)spikes > kernels->density[codes->layout->bits] * (float)(rows * codes->rows);
}

/* The lists of rows `row` .. of steps `step` .., step by step; false if one holds something else than spikes, or if they
 * are dense. */
static bool list(
    const sxq_fused_run* r, size_t row, size_t rows, size_t step, size_t steps, sxq_spike_lists* lists,
    sxq_selection* selected) {
  const size_t inputs = r->weights->codes.rows;
  lists->used = 0;
  for (size_t t = 0; t < steps; ++t) {
    for (size_t m = 0; m < rows; ++m) {
      const size_t at = ((step + t) * r->rows + row + m) * inputs;
      const bool listed = r->x.type == ORT_TYPE_FLOAT
                              ? sxq_list_floats(lists, (const float*)r->x.data + at, selected++)
                              : sxq_list_bytes(lists, (const uint8_t*)r->x.data + at, r->is_signed, selected++);
      if (!listed) return false;
    }
  }
  return !dense(&r->weights->codes, lists->used, rows * steps);
}

/* One tile of columns from byte `byte` on: the currents of all rows and steps, then the neurons. `currents` has room for
 * them; `values` for the blocks of the tile, kept from one part of the steps to the next. */
static void run_tile(
    const sxq_fused_run* r, size_t row, size_t rows, size_t step, size_t steps, const sxq_selection* selected, size_t byte,
    void* currents, sxq_neuron_values* values, size_t* block, bool keep) {
  const sxq_codes* codes = &r->weights->codes;
  const size_t pitch = pitch_of(codes), until = byte + r->tile < pitch ? byte + r->tile : pitch;
  const size_t first = columns_of(codes, byte), width = columns_of(codes, r->tile);
  const size_t columns = codes->columns - first < width ? codes->columns - first : width;
  sxq_target to = {.pitch = columns};
  if (r->kernel->has_scale) {
    to.y = currents;
    to.grid = r->kernel->grid;
    to.scale = r->weights->scale + first;
    to.bias = r->bias ? r->bias + first : NULL;
  } else {
    to.sums = currents;
    to.weight = 1;
    memset(currents, 0, rows * steps * columns * sizeof *to.sums);
  }
  r->layer.kernels->products(codes, byte, until, selected, rows * steps, &to);
  for (size_t m = 0; r->kernel->has_program && m < rows * steps; ++m) {
    sxq_currents_run(&r->currents, r->currents.columns == 1 ? 0 : first, columns, to.y + m * columns);
  }
  for (size_t m = 0; m < rows; ++m) {
    for (size_t n = 0; n < columns; n += SXQ_BLOCK, ++*block) {
      const size_t count = columns - n < SXQ_BLOCK ? columns - n : SXQ_BLOCK;
      const size_t neuron = (row + m) * codes->columns + first + n;
      sxq_neuron_values* own = values + (keep ? *block : 0);
      if (step == 0) sxq_neuron_values_read(&r->layer, neuron, count, own);
      const char* x = (const char*)currents + 4 * (m * columns + n);
      sxq_neuron_values_run(&r->layer, neuron, count, step, steps, x, rows * columns, own);
    }
  }
}

typedef struct {
  void* currents;
  sxq_neuron_values* values;
  size_t blocks;
} scratch;

static bool open_scratch(const sxq_fused_run* r, size_t rows, size_t steps, scratch* s) {
  const sxq_codes* codes = &r->weights->codes;
  const size_t width = columns_of(codes, r->tile), tiles = (pitch_of(codes) + r->tile - 1) / r->tile;
  s->blocks = steps < r->layer.steps ? rows * tiles * ((width + SXQ_BLOCK - 1) / SXQ_BLOCK) : 1;
  s->currents = malloc(rows * steps * width * 4 + s->blocks * sizeof *s->values);
  if (!s->currents) return false;
  s->values = (sxq_neuron_values*)((char*)s->currents + rows * steps * width * 4);
  for (size_t i = 0; i < s->blocks; ++i) s->values[i].filled = false;
  return true;
}

static bool open_lists(const sxq_fused_run* r, size_t rows, sxq_spike_lists* lists) {
  const sxq_codes* codes = &r->weights->codes;
  const size_t room = sxq_list_room(codes);
  *lists = (sxq_spike_lists){.kernels = r->layer.kernels, .codes = codes, .grid = r->kernel->grid};
  lists->rows = malloc((rows + 1) * room * sizeof *lists->rows);
  lists->minus = lists->rows ? lists->rows + rows * room : NULL;
  return lists->rows;
}

/* Rows that go together, at all steps and columns. */
static void rows_task(void* data, size_t index) {
  sxq_fused_run* r = data;
  const size_t row = index * r->rows_together, steps = r->layer.steps;
  const size_t rows = r->rows - row < r->rows_together ? r->rows - row : r->rows_together;
  sxq_selection selected[MOST_TOGETHER];
  sxq_spike_lists lists;
  scratch s = {0};
  if (!open_lists(r, rows * r->steps_together, &lists) || !open_scratch(r, rows, r->steps_together, &s)) {
    atomic_store(&r->failed, true);
    free(lists.rows);
    return;
  }
  for (size_t step = 0; step < steps; step += r->steps_together) {
    const size_t now = steps - step < r->steps_together ? steps - step : r->steps_together;
    if (!list(r, row, rows, step, now, &lists, selected)) {
      atomic_store(&r->others, true);
      break;
    }
    size_t block = 0;
    for (size_t byte = 0; byte < pitch_of(&r->weights->codes); byte += r->tile) {
      run_tile(r, row, rows, step, now, selected, byte, s.currents, s.values, &block, s.blocks > 1);
    }
  }
  free(lists.rows);
  free(s.currents);
}

/* Read bytes `byte` to `until` of all rows of codes, so that they come from memory in order. In the order in which spikes
 * select them they come several times slower, as no processor foresees it. */
static void bring_near(const sxq_codes* codes, size_t byte, size_t until) {
  const size_t pitch = pitch_of(codes), runs = until - byte < pitch ? codes->rows : 1;
  const size_t length = runs > 1 ? until - byte : codes->rows * pitch;
  uint8_t seen = 0;
  for (size_t run = 0; run < runs; ++run) {
    const uint8_t* from = codes->packed + run * pitch + byte;
    for (size_t at = 0; at < length; at += CACHE_LINE) seen ^= from[at];
  }
  __asm__ volatile("" : : "r"(seen)); /* it has been read */
}

typedef struct {
  sxq_fused_run* r;
  const sxq_selection* selected;
  size_t part, near; /* bytes of each row of codes: that a task takes, and that are brought near at once */
  bool cold;         /* whether spikes select so many that all are worth reading */
} few_rows;

/* All rows and steps, for a part of the columns. */
static void columns_task(void* data, size_t index) {
  const few_rows* few = data;
  sxq_fused_run* r = few->r;
  const sxq_codes* codes = &r->weights->codes;
  const size_t pitch = pitch_of(codes), first = index * few->part;
  const size_t until = first + few->part < pitch ? first + few->part : pitch;
  scratch s;
  size_t block = 0;
  if (!open_scratch(r, r->rows, r->layer.steps, &s)) {
    atomic_store(&r->failed, true);
    return;
  }
  for (size_t byte = first, near = first; byte < until; byte += r->tile) {
    if (few->cold && byte == near) {
      near = byte + few->near < until ? byte + few->near : until;
      bring_near(codes, byte, near);
    }
    run_tile(r, 0, r->rows, 0, r->layer.steps, few->selected, byte, s.currents, s.values, &block, false);
  }
  free(s.currents);
}

/* Few rows: their lists are made once, and threads have a part of the columns each. */
static OrtStatus* run_columns(sxq_fused_run* r, const OrtKernelContext* context) {
  const OrtApi* api = r->kernel->head.api;
  const sxq_codes* codes = &r->weights->codes;
  const size_t pitch = pitch_of(codes), tiles = (pitch + r->tile - 1) / r->tile;
  const size_t tasks = codes->rows * pitch < LARGE_CODES ? 1 : 2;
  sxq_selection selected[MOST_TOGETHER];
  sxq_spike_lists lists;
  OrtStatus* status = NULL;
  if (!open_lists(r, r->rows * r->layer.steps, &lists)) return sxq_out_of_memory(api, r->kernel->head.op->name);
  if (list(r, 0, r->rows, 0, r->layer.steps, &lists, selected)) {
    const size_t near = NEAR_BYTES / (codes->rows * r->tile);
    few_rows few = {
        .r = r, .selected = selected, .part = (tiles + tasks - 1) / tasks * r->tile,
        .near = (near ? near : 1) * r->tile, .cold = lists.used > codes->rows,
    };
    status = sxq_parallel(api, context, columns_task, (pitch + few.part - 1) / few.part, &few);
  } else {
    atomic_store(&r->others, true);
  }
  free(lists.rows);
  return status;
}

OrtStatus* sxq_fused_apart(sxq_fused_run* r, const OrtKernelContext* context) {
  const sxq_fused_kernel* kernel = r->kernel;
  const OrtApi* api = kernel->head.api;
  const sxq_codes* codes = &r->weights->codes;
  const size_t rows = r->all_rows, count = rows * codes->columns, inputs = rows * codes->rows;
  const bool widen = kernel->has_scale && r->x.type != ORT_TYPE_FLOAT;
  float* currents = malloc(4 * (count + (widen ? inputs : 0)) + 4);
  if (!currents) return sxq_out_of_memory(api, kernel->head.op->name);
  const sxq_byte_table* table = kernel->layer->table;
  bool done;
  if (kernel->has_scale) {
    const float* x = r->x.data;
    if (widen) {
      const uint8_t* bytes = r->x.data;
      for (size_t i = 0; i < inputs; ++i) {
        currents[count + i] = (float)(r->is_signed ? (int8_t)bytes[i] : (int)bytes[i]);
      }
      x = currents + count;
    }
    done = sxq_product(
        kernel->head.kernels, r->weights, table, kernel->grid, kernel->inverse_grid, x, rows, currents);
    if (done && r->bias) {
      for (size_t m = 0; m < rows; ++m) {
        for (size_t n = 0; n < codes->columns; ++n) currents[m * codes->columns + n] += r->bias[n];
      }
    }
    for (size_t m = 0; done && kernel->has_program && m < rows; ++m) {
      sxq_currents_run(&r->currents, 0, codes->columns, currents + m * codes->columns);
    }
  } else {
    done = sxq_integer_product(
        kernel->head.kernels, codes, table, r->is_signed, r->x.data, rows, (int32_t*)(void*)currents);
  }
  OrtStatus* status = done ? sxq_neuron_layer_run(api, context, &r->layer, currents)
                           : sxq_out_of_memory(api, kernel->head.op->name);
  free(currents);
  return status;
}

OrtStatus* sxq_fused_together(sxq_fused_run* r, const OrtKernelContext* context) {
  const OrtApi* api = r->kernel->head.api;
  const sxq_codes* codes = &r->weights->codes;
  const size_t steps = r->layer.steps, room = sxq_list_room(codes), width = r->kernel->head.kernels->width;
  if (!sxq_sums_fit(codes, 1.0)) return sxq_fused_apart(r, context);
  size_t together = MOST_ENTRIES / room;
  together = together < 1 ? 1 : together > MOST_TOGETHER ? MOST_TOGETHER : together;
  r->steps_together = steps < together ? steps : together;
  r->rows_together = together / r->steps_together;
  r->tile = width;
  while (columns_of(codes, r->tile) < SXQ_BLOCK) r->tile += width;
  OrtStatus* status = NULL;
  if (r->rows <= r->rows_together && r->steps_together == steps) {
    status = run_columns(r, context);
  } else {
    status = sxq_parallel(api, context, rows_task, (r->rows + r->rows_together - 1) / r->rows_together, r);
  }
  if (!status && atomic_load(&r->failed)) status = sxq_out_of_memory(api, r->kernel->head.op->name);
  return status || !atomic_load(&r->others) ? status : sxq_fused_apart(r, context);
}
