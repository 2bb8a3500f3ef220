/* A convolution with packed codes, part by part: of spikes by their lists, of anything by unrolled windows. */
#ifndef SXQ_CONVOLUTION_H
#define SXQ_CONVOLUTION_H

#include "conv_geometry.h"
#include "weights.h"

typedef struct {
  const sxq_kernels* kernels;
  const sxq_byte_table* table;
  const sxq_geometry* g;
  /* Each group's codes as a matrix of their own: rows tap by tap, within a tap channel by channel, so that the inputs
   * of a window, gathered pixel by pixel, are in the order of the rows. NULL where they could not be made. */
  const uint8_t* codes;
  const sxq_layout* layout;
  const float* scale; /* of an operator of floats; NULL where x holds bytes and y 32-bit sums */
  bool is_signed;     /* whether bytes are */
  const void* x;
  void* y;
  int64_t in[SXQ_AXES], out[SXQ_AXES];
} sxq_convolution;

/* Outputs first .. last - 1 along the band axis of one sample and group. */
typedef struct {
  size_t sample, group, axis;
  int64_t first, last;
} sxq_band;

typedef enum { SXQ_DONE, SXQ_OTHER_INPUTS, SXQ_NO_MEMORY } sxq_outcome;

/* The codes of all groups in the order above; NULL if memory ran out. */
uint8_t* sxq_codes_by_tap(const sxq_geometry* g, const sxq_codes* codes);

/* The codes and scales of one group. */
sxq_weights sxq_weights_of_group(const sxq_convolution* c, size_t group);

/* Outputs of a band, one sample's and group's: the first one's place, and how many are side by side. */
size_t sxq_band_positions(const sxq_convolution* c, const sxq_band* band, size_t* first);

/* The band's part of the output from sums (positions, N); element and target are both 4 bytes. */
void sxq_store_positions(
    const sxq_convolution* c, const sxq_band* band, const void* sums, size_t first, size_t count);

/* By lists of spikes: SXQ_OTHER_INPUTS if the inputs are neither 0 and 1 nor 0, 1 and -1; then nothing is written. */
sxq_outcome sxq_convolve_spikes(const sxq_convolution* c, const sxq_band* band);

/* By windows, for any inputs. */
sxq_outcome sxq_convolve_windows(const sxq_convolution* c, const sxq_band* band);

#endif
