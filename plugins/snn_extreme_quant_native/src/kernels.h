/* The inner loops, once for each instruction set; kernels_*.c define them, dispatch.c picks. */
#ifndef SXQ_KERNELS_H
#define SXQ_KERNELS_H

#include "layout.h"
#include "spec.h"

/* Packed codes of a layer, where onnxruntime keeps them; or repacked (layout.h). */
typedef struct {
  const sxq_layout* layout;
  const uint8_t* packed;
  size_t rows, columns; /* K, N */
  size_t slack;         /* bytes behind the last row that may be read too */
  uint8_t* owned;       /* where repacked ones are; NULL for others */
  struct sxq_plane_store* store; /* where a copy for dense inputs may be made (bit_planes.h); NULL if nowhere */
} sxq_codes;

/* The inputs of one row that are not zero, each by where its row of codes begins, in rising order: first `plus` that
 * are 1, then `minus` that are -1. */
typedef struct {
  const uint32_t* rows;
  size_t plus, minus;
} sxq_selection;

/* Where the sums of row m and column n go, to [m * pitch + n]; columns count from the first one that is asked for. */
typedef struct {
  size_t pitch;
  float* y; /* y = ((float)sum * grid) * scale[n] + bias[n], each rounded; NULL if sums are asked for */
  const float* scale;
  const float* bias; /* NULL for none */
  float grid;
  int32_t* sums; /* sums += weight * sum */
  int32_t weight;
  /* What will be read next, to be brought near meanwhile. */
  const char* soon;
  size_t soon_bytes;
} sxq_target;

/* The spikes of each pixel, by where their rows of codes begin: pixel i's are count[i] from entries[i * room] on. */
typedef struct {
  uint32_t *entries, *count;
  size_t room; /* a multiple of SXQ_PLACES_AT_ONCE */
} sxq_pixel_lists;

/* A pixel of a window, counted from some pixel, and where the rows of codes begin for its place in the window. */
typedef struct {
  int32_t pixel;
  uint32_t row;
} sxq_window_pixel;

typedef struct {
  const char* name;
  size_t width; /* bytes of a register */

  /* Write k * pitch for each k with x[k] == unit and return how many; `others` says whether x holds anything else but
   * 0, and then what is written and returned means nothing. `rows` has room for SXQ_ACTIVE_ROOM more than count. */
  size_t (*active)(const float* x, size_t count, float unit, size_t pitch, uint32_t* rows, bool* others);

  /* The same for units of either sign, each in a list of its own. */
  size_t (*active_signed)(
      const float* x, size_t count, float unit, size_t pitch, uint32_t* rows, uint32_t* minus_rows, size_t* minus,
      bool* others);

  /* The same for bytes of one kind; `others` is how many are neither the unit nor 0. */
  size_t (*active_bytes)(
      const uint8_t* x, size_t count, uint8_t unit, size_t pitch, uint32_t* rows, size_t* others);

  /* Put `row` at the end of the lists of those of `count` pixels that hold the unit; returns how many hold something
   * else but 0. */
  size_t (*list_floats)(const float* x, size_t count, float unit, uint32_t row, const sxq_pixel_lists* lists);
  size_t (*list_bytes)(const uint8_t* x, size_t count, uint8_t unit, uint32_t row, const sxq_pixel_lists* lists);

  /* Join the lists of a window's pixels, counted from pixel `from`, each moved to the pixel's rows; returns how many
   * entries there are. `rows` has room for SXQ_PLACES_AT_ONCE more. */
  size_t (*join_lists)(
      const sxq_pixel_lists* lists, size_t from, const sxq_window_pixel* pixels, size_t count, uint32_t* rows);

  /* to[n * pitch + m] = from[m * columns + n] */
  void (*transpose)(const uint32_t* from, size_t rows, size_t columns, uint32_t* to, size_t pitch);

  /* The products of `count` rows of inputs with the codes in bytes `byte` to `until` of each row. The first of them is
   * a multiple of `width`, the second too or the end. */
  void (*products)(
      const sxq_codes* codes, size_t byte, size_t until, const sxq_selection* selected, size_t count,
      const sxq_target* to);

  /* y[m, n] = (sum_k x[m, k] * weight[k, n]) for n in a panel of SXQ_PANEL columns of floats */
  void (*panel_product)(const float* x, size_t rows, size_t inputs, const float* panel, float* y);

  /* All steps of a block of up to SXQ_BLOCK neurons. */
  void (*neurons)(const sxq_spec* spec, const sxq_neuron_block* block);
  void (*integer_neurons)(const sxq_spec* spec, const sxq_integer_block* block);

  /* sums = the sum of the rows that begin at these places; the length is a multiple of the 16-bit numbers in `width`. */
  void (*sum_rows)(const uint16_t* rows, const uint32_t* places, size_t count, size_t length, uint16_t* sums);
} sxq_kernels;

enum { SXQ_ACTIVE_ROOM = 16, SXQ_PANEL = 32, SXQ_PLACES_AT_ONCE = 16, SXQ_SLACK = 64 };

extern const sxq_kernels sxq_kernels_portable;
#if defined(__x86_64__)
extern const sxq_kernels sxq_kernels_avx2, sxq_kernels_avx512;
#endif

/* The best that this processor runs; the environment variable SXQ_NATIVE_ISA may ask for another. */
const sxq_kernels* sxq_kernels_here(void);

#endif
